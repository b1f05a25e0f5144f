//! The engine: XDP programs and their maps, the detection thread, the data thread and `netft0`.
//!
//! Everything here is called from the control thread (tokio, current thread). Sockets, programs and the adapter are
//! made in the network namespace of the thread that calls [`Engine::start`].

use netft_common::map::SlotConfig;
use netft_core::detect::{DetectorConfig, DetectorEvent, RouteView};
use netft_core::membership::{Adapter, HelloTransmit, Interface, RouteInstall};
use netft_core::types::{Nanos, NodeId, Slot};
use std::net::IpAddr;
use std::path::PathBuf;

/// How the detection thread waits for its next deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Wait {
    /// Sleep, then spin for the last stretch.
    #[default]
    Sleep,
    /// Never sleep: one CPU belongs to the engine.
    Spin,
}

/// What [`Engine::start`] needs to know.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// The cluster.
    pub cluster_id: u32,
    /// Own id.
    pub node_id: NodeId,
    /// Where maps and links are pinned, usually `/sys/fs/bpf/netft/NAME`; its file system must be a bpffs (one is
    /// mounted on `/sys/fs/bpf` when it is missing there). One folder per daemon.
    pub pin_dir: PathBuf,
    /// SCHED_FIFO priority of the detection thread, 1..=99; `None` = ordinary scheduling.
    pub priority: Option<u8>,
    /// CPUs: the detection thread is pinned to the first; empty = it isn't pinned.
    pub cpus: Vec<usize>,
    /// How it waits.
    pub wait: Wait,
    /// Name of the adapter, usually `netft0`.
    pub adapter_name: String,
    /// Its addresses. `mtu` is used until routes say what fits.
    pub adapter: Adapter,
    /// The detector's settings.
    pub detector: DetectorConfig,
}

/// How an interface's packets reach the XDP program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum XdpMode {
    /// In the driver.
    Native,
    /// In the stack, before protocols.
    Generic,
    /// Not attached: see the report's note.
    None,
}

/// What became of an interface in [`Engine::set_interfaces`].
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct InterfaceReport {
    /// Its name.
    pub name: String,
    /// How XDP is attached.
    pub mode: XdpMode,
    /// One sentence about a fallback or an error; `None` = all as wished.
    pub note: Option<String>,
}

/// What [`Engine::recv`] brings.
#[derive(Clone, Debug, PartialEq)]
pub enum EngineInput {
    /// A message of kind hello arrived, unverified.
    Hello {
        /// At this address of ours.
        local: IpAddr,
        /// From this address.
        remote: IpAddr,
        /// The UDP payload.
        bytes: Vec<u8>,
    },
    /// The detector speaks.
    Detector(DetectorEvent),
    /// One sentence for the log: something of the engine doesn't work as configured.
    Note(String),
}

/// What [`Engine::stop`] leaves behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopMode {
    /// Nothing: programs, pins, `netft0` with its addresses, routes and neighbours are removed.
    Clean,
    /// All of it, for the next start.
    Keep,
}

/// The engine's own numbers, all since its start.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct EngineStats {
    /// Longest time between two loops of the detection thread beyond what it wanted to sleep, in nanoseconds.
    pub loop_gap_max_ns: Nanos,
    /// How often the detection thread found itself late by more than 300 µs.
    pub loop_stalls: u64,
    /// Loops of the detection thread.
    pub loops: u64,
    /// SCHED_FIFO priority that the detection thread has, 0 = ordinary.
    pub priority: u8,
    /// Leg 1s that the kernel refused to send.
    pub request_send_errors: u64,
    /// Round trips: upper bound of a bucket in nanoseconds, samples in it; empty buckets left out.
    pub rtt: Vec<(Nanos, u64)>,
    /// Data frames sent to peers (one per peer).
    pub frames_sent: u64,
    /// Bytes of them, as `netft0` gave them.
    pub bytes_sent: u64,
    /// Data frames given to `netft0`.
    pub frames_received: u64,
    /// Bytes of them.
    pub bytes_received: u64,
    /// Data frames dropped, by reason; all reasons, also those at 0.
    pub drops: Vec<(&'static str, u64)>,
}

/// Why the engine can't do what was asked. Every message is a sentence that says how to mend it.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// Something that the sentence explains.
    #[error("{0}")]
    Failed(String),
}

/// The running engine. Dropping it is [`StopMode::Keep`].
#[derive(Debug)]
pub struct Engine {
    options: EngineOptions,
}

impl Engine {
    /// Loads or adopts maps and programs, makes `netft0`, starts both threads. Must be called within a tokio runtime.
    pub async fn start(options: EngineOptions) -> Result<Self, EngineError> {
        Ok(Self { options })
    }

    /// Random per life of the maps: kept over a restart of the daemon.
    pub fn boot_nonce(&self) -> [u8; 16] {
        [0; 16]
    }

    /// Routes found in maps that an earlier daemon left; XDP goes on answering on them. Those that
    /// [`Engine::set_route`] doesn't confirm should be given to [`Engine::remove_route`] by and by.
    pub fn adopted_slots(&self) -> Vec<(Slot, SlotConfig)> {
        Vec::new()
    }

    /// One sentence each: what of the options couldn't be had (priority, memory lock, CPU).
    pub fn notes(&self) -> Vec<String> {
        Vec::new()
    }

    /// These are all usable interfaces now: attaches XDP, opens and closes sockets, tells the detector about links.
    /// Interfaces that vanished lose their program. Idempotent. One report for each interface.
    pub fn set_interfaces(&mut self, interfaces: &[Interface]) -> Vec<InterfaceReport> {
        let note = Some("the engine isn't written yet".to_owned());
        interfaces
            .iter()
            .map(|i| InterfaceReport { name: i.name.clone(), mode: XdpMode::None, note: note.clone() })
            .collect()
    }

    /// Puts a route into the maps and lets the detector watch it. Idempotent; a slot that was adopted and has the same
    /// peer, addresses and keys goes on without interruption.
    pub async fn set_route(&mut self, route: &RouteInstall) -> Result<(), EngineError> {
        Err(EngineError::Failed(format!("slot {}: the engine isn't written yet", route.slot.get())))
    }

    /// Takes a route out. Idempotent.
    pub async fn remove_route(&mut self, slot: Slot) {
        let _ = slot;
    }

    /// A peer's `netft0` is here: neighbour entries and the frame table follow. Idempotent.
    pub async fn set_peer_adapter(&mut self, peer: NodeId, adapter: Adapter) -> Result<(), EngineError> {
        let _ = (peer, adapter);
        Ok(())
    }

    /// It is gone. Idempotent.
    pub async fn remove_peer_adapter(&mut self, peer: NodeId) {
        let _ = peer;
    }

    /// Other addresses for the own `netft0` (a conflict was resolved).
    pub async fn set_adapter(&mut self, adapter: Adapter) -> Result<(), EngineError> {
        self.options.adapter = adapter;
        Ok(())
    }

    /// The MTU that `netft0` has now.
    pub fn adapter_mtu(&self) -> u16 {
        self.options.adapter.mtu
    }

    /// New detector settings.
    pub fn configure(&mut self, detector: DetectorConfig) {
        self.options.detector = detector;
    }

    /// Sends a hello from the socket of its local address. An address without a socket, or a refusal by the kernel, is
    /// an error that only concerns this message: hellos are repeated.
    pub fn send_hello(&mut self, hello: &HelloTransmit) -> Result<(), EngineError> {
        Err(EngineError::Failed(format!("no socket for {}", hello.local)))
    }

    /// The next input. Dropping the future loses nothing.
    pub async fn recv(&mut self) -> EngineInput {
        std::future::pending().await
    }

    /// What the engine has at once, without waiting.
    pub fn try_recv(&mut self) -> Option<EngineInput> {
        None
    }

    /// Every watched route as the detector sees it, at most some 10 ms old.
    pub fn route_views(&self) -> Vec<RouteView> {
        Vec::new()
    }

    /// XDP's packet counters, names as in `netft_common::map::Counter::NAMES`.
    pub fn counters(&self) -> Vec<(&'static str, u64)> {
        netft_common::map::Counter::NAMES.iter().map(|name| (*name, 0)).collect()
    }

    /// The engine's own numbers.
    pub fn stats(&self) -> EngineStats {
        EngineStats::default()
    }

    /// From now on every leg says that this node is leaving on purpose.
    pub fn leave(&mut self) {}

    /// Ends both threads; then cleans up as `mode` says. Errors name what is left behind.
    pub async fn stop(self, mode: StopMode) -> Result<(), EngineError> {
        let _ = mode;
        Ok(())
    }
}

pub use crate::sys::boottime as now;
