//! What a node's kernel and its daemon share, and its clock.

use crate::fence::{FenceState, FenceTables};
use netft_common::map::{EngineState, NodeConfig};
use netft_common::shared::Shared;
use netft_core::types::{Nanos, NodeId};
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

/// Words per node id.
const NODES: usize = 16;
/// Age of a tick at which an engine is taken for dead.
pub(crate) const ENGINE_TIMEOUT_NS: Nanos = 25_000_000;

/// The maps.
#[derive(Debug)]
pub(crate) struct Memory {
    node: NodeConfig,
    pub(crate) engine: EngineState,
    pub(crate) fence: FenceState,
    evidence: [AtomicU64; NODES],
    vouch_index: [AtomicU64; NODES],
    vouched: [AtomicU64; NODES],
    pub(crate) owned: [AtomicU64; NODES],
}

impl Memory {
    pub(crate) fn new(own: NodeId) -> Self {
        let memory = Self {
            node: NodeConfig { cluster_id: 1, node_id: own.get(), ..NodeConfig::default() },
            engine: EngineState::default(),
            fence: FenceState::default(),
            evidence: Default::default(),
            vouch_index: Default::default(),
            vouched: Default::default(),
            owned: Default::default(),
        };
        memory.fence.engine_timeout_ns.store(ENGINE_TIMEOUT_NS, Relaxed);
        memory
    }

    pub(crate) fn owns(&self, vip: u16) -> bool {
        self.owned[usize::from(vip)].load(Relaxed) != 0
    }
}

impl Shared for Memory {
    fn node(&self) -> Option<&NodeConfig> {
        Some(&self.node)
    }
    fn engine(&self) -> Option<&EngineState> {
        Some(&self.engine)
    }
}

impl FenceTables for Memory {
    fn fence(&self) -> Option<&FenceState> {
        Some(&self.fence)
    }
    fn evidence(&self, node: u16) -> Option<&AtomicU64> {
        self.evidence.get(usize::from(node))
    }
    fn vouch_index(&self, node: u16) -> Option<&AtomicU64> {
        self.vouch_index.get(usize::from(node))
    }
    fn vouched(&self, node: u16) -> Option<&AtomicU64> {
        self.vouched.get(usize::from(node))
    }
    fn owned(&self, vip: u32) -> Option<&AtomicU64> {
        self.owned.get(vip as usize)
    }
}

/// CLOCK_BOOTTIME: goes on in suspend, at its own pace.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    /// When it showed `beginning_ns`.
    pub(crate) booted_ns: Nanos,
    pub(crate) beginning_ns: Nanos,
    /// Parts per million.
    pub(crate) slew_ppm: i64,
}

impl Clock {
    pub(crate) fn local(&self, at_ns: Nanos) -> Nanos {
        let since_ns = at_ns.saturating_sub(self.booted_ns).cast_signed();
        self.beginning_ns.saturating_add_signed(since_ns + since_ns * self.slew_ppm / 1_000_000)
    }
}
