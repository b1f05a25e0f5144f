//! The words that the fence goes by, for the ownership thread: it carries out [`netft_core::ownership::Command`]s here, one
//! after the other, in their order.

use super::super::maps::{MapsError, open_array};
use crate::mmap::Mapped;
use crate::sys;
use aya::maps::{HashMap, Map, MapData};
use netft_common::fence::{
    self, Closed, FenceState, FenceTables, MAX_VIPS, MAX_VOTERS, VipEntry, name, store_voters, vouch_word,
    vouched_index,
};
use netft_common::map::{self, EngineState, MAX_CPUS, MAX_NODES, NodeConfig};
use netft_common::shared::Shared;
use netft_core::ownership::{Epoch, NodeSet, VipId};
use netft_core::types::{Nanos, NodeId, address_bytes};
use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::SeqCst;

/// The fence's words, mapped. For one thread: the ownership thread writes all of them.
pub struct FenceWords {
    node: NodeConfig,
    engine: Mapped<EngineState>,
    state: Mapped<FenceState>,
    owned: Mapped<AtomicU64>,
    evidence: Mapped<AtomicU64>,
    vouch_index: Mapped<AtomicU64>,
    vouched: Mapped<AtomicU64>,
    vips: HashMap<MapData, [u64; 2], u64>,
    cpus: u32,
}

impl std::fmt::Debug for FenceWords {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FenceWords").field("state", self.state.get(0)).finish_non_exhaustive()
    }
}

impl FenceWords {
    /// Opens the maps that an engine has pinned.
    ///
    /// # Errors
    /// They aren't there, or can't be mapped.
    pub fn open(pin_dir: &Path) -> Result<Self, MapsError> {
        let vips = MapData::from_pin(pin_dir.join(name::VIPS)).map_err(|_| MapsError::Object(name::VIPS))?;
        let node: Mapped<NodeConfig> = open_array(pin_dir, map::name::NODE, 1)?;
        Ok(Self {
            node: node.load(0),
            engine: open_array(pin_dir, map::name::ENGINE, 1)?,
            state: open_array(pin_dir, name::FENCE, 1)?,
            owned: open_array(pin_dir, name::OWNED, MAX_VIPS)?,
            evidence: open_array(pin_dir, name::EVIDENCE, MAX_NODES)?,
            vouch_index: open_array(pin_dir, name::VOUCH_INDEX, MAX_NODES)?,
            vouched: open_array(pin_dir, name::VOUCHED, MAX_CPUS * MAX_NODES)?,
            vips: HashMap::try_from(Map::HashMap(vips)).map_err(|_| MapsError::Object(name::VIPS))?,
            cpus: u32::try_from(sys::possible_cpus()).unwrap_or(MAX_CPUS).min(MAX_CPUS),
        })
    }

    /// The applied index as it is stored: that of an earlier daemon, after a start.
    pub fn applied(&self) -> u64 {
        self.state.get(0).applied.load(SeqCst)
    }

    /// The owner bits that are set.
    pub fn owned(&self) -> Vec<(VipId, Epoch)> {
        let of = |vip: u16| {
            let epoch = self.owned.get(vip.into()).load(SeqCst);
            Some((VipId::new(vip)?, epoch)).filter(|_| epoch != 0)
        };
        (0..u16::try_from(self.owned.len()).unwrap_or(u16::MAX)).filter_map(of).collect()
    }

    /// `StoreAllUnsure`.
    pub fn store_all_unsure(&self) {
        (0..self.vouch_index.len()).for_each(|node| self.vouch_index.get(node).store(0, SeqCst));
    }

    /// `StoreVouch`.
    pub fn store_vouch(&self, node: NodeId, index: u64) {
        if let Some(word) = self.vouch_index(node.get()) {
            word.store(vouch_word(index), SeqCst);
        }
    }

    /// `ReadStamps`: for each node when any CPU last began to vouch for it, boottime, 0 = never.
    pub fn read_stamps(&self, nodes: &NodeSet) -> Vec<(NodeId, Nanos)> {
        // Rule 8: XDP notes before it reads the index, by an exchange; we have stored the index before we read the notes.
        std::sync::atomic::fence(SeqCst);
        let of_cpu = |cpu: u32, node: NodeId| {
            let index = vouched_index(cpu, node.get()).and_then(|index| usize::try_from(index).ok());
            index.map_or(0, |index| self.vouched.get(index).load(SeqCst))
        };
        let newest = |node: NodeId| (0..self.cpus).map(|cpu| of_cpu(cpu, node)).max().unwrap_or(0);
        nodes.iter().map(|node| (node, newest(node))).collect()
    }

    /// `StoreVoters`, and how many must vouch ([`fence::quorum`]).
    pub fn store_voters(&self, voters: &[u64; MAX_VOTERS], quorum: u64) {
        store_voters(self.state.get(0), voters, quorum);
    }

    /// `ClearOwner`.
    pub fn clear_owner(&self, vip: VipId) {
        self.store_owner(vip, 0);
    }

    /// `SetOwner`.
    pub fn set_owner(&self, vip: VipId, epoch: Epoch) {
        self.store_owner(vip, epoch);
    }

    /// `StoreApplied`.
    pub fn store_applied(&self, applied: u64) {
        self.state.get(0).applied.store(applied, SeqCst);
    }

    /// `Flush`: when this returns, no fence program runs any more that could have seen what was stored before the call. What has
    /// passed one may still wait in a queue of the interface. Takes 5 to 15 ms: it waits until every CPU has been at rest.
    ///
    /// # Errors
    /// The kernel has no such call (before 4.3).
    pub fn flush(&self) -> io::Result<()> {
        sys::wait_for_all_cpus()
    }

    /// Says that an address is a VIP's, and whether it is on an interface here ([`fence::vip_flags`]): its traffic is fenced
    /// from now on. Before the address is added to an interface.
    ///
    /// # Errors
    /// There are too many.
    pub fn set_address(&mut self, address: IpAddr, entry: VipEntry) -> io::Result<()> {
        let key = key(address);
        let is_new = self.vips.get(&key, 0).is_err();
        if is_new {
            self.state.get(0).addresses.fetch_add(1, SeqCst);
        }
        let inserted = self.vips.insert(key, entry.to_word(), 0).map_err(io::Error::other);
        if is_new && inserted.is_err() {
            self.state.get(0).addresses.fetch_sub(1, SeqCst);
        }
        inserted
    }

    /// Whether an address is a VIP's.
    pub fn has_address(&self, address: IpAddr) -> bool {
        self.vips.get(&key(address), 0).is_ok()
    }

    /// The address is no VIP's any more. After it was taken off every interface. Idempotent.
    ///
    /// # Errors
    /// As the kernel put it.
    pub fn remove_address(&mut self, address: IpAddr) -> io::Result<()> {
        let key = key(address);
        if self.vips.get(&key, 0).is_ok() {
            self.vips.remove(&key).map_err(io::Error::other)?;
            self.state.get(0).addresses.fetch_sub(1, SeqCst);
        }
        Ok(())
    }

    /// Whether the fence of a VIP is open now: what XDP and TC would say.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self, vip: VipId) -> Result<(), Closed> {
        fence::check(self, u32::from(vip.get()), sys::boottime())
    }

    fn store_owner(&self, vip: VipId, epoch: Epoch) {
        if let Some(word) = FenceTables::owned(self, u32::from(vip.get())) {
            word.store(epoch, SeqCst);
        }
    }
}

fn key(address: IpAddr) -> [u64; 2] {
    bytemuck::cast(address_bytes(address))
}

fn word(words: &Mapped<AtomicU64>, index: usize) -> Option<&AtomicU64> {
    (index < words.len()).then(|| words.get(index))
}

impl Shared for FenceWords {
    fn node(&self) -> Option<&NodeConfig> {
        Some(&self.node)
    }
    fn engine(&self) -> Option<&EngineState> {
        Some(self.engine.get(0))
    }
}

impl FenceTables for FenceWords {
    fn fence(&self) -> Option<&FenceState> {
        Some(self.state.get(0))
    }
    fn evidence(&self, node: u16) -> Option<&AtomicU64> {
        word(&self.evidence, node.into())
    }
    fn vouch_index(&self, node: u16) -> Option<&AtomicU64> {
        word(&self.vouch_index, node.into())
    }
    fn owned(&self, vip: u32) -> Option<&AtomicU64> {
        word(&self.owned, usize::try_from(vip).ok()?)
    }
}
