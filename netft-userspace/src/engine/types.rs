//! What goes into the engine and what comes out of it.

use super::xsk::DatapathOptions;
use netft_common::wire::Versions;
use netft_core::detect::{DetectorConfig, DetectorEvent};
use netft_core::membership::Adapter;
use netft_core::ownership::VipId;
use netft_core::types::{Nanos, NodeId};
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

/// What [`super::Engine::start`] needs to know.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// The cluster.
    pub cluster_id: u32,
    /// Own id.
    pub node_id: NodeId,
    /// The wire versions that XDP accepts.
    pub versions: Versions,
    /// Where maps and links are pinned, usually `/sys/fs/bpf/netft/NAME`; its file system must be a bpffs (one is
    /// mounted on `/sys/fs/bpf` when it is missing there). One folder per daemon.
    pub pin_dir: PathBuf,
    /// SCHED_FIFO priority of the detection thread, 1..=99; `None` = ordinary scheduling.
    pub priority: Option<u8>,
    /// CPUs that the detection thread may run on; empty = the last one that this process may use (the first is where
    /// most systems handle interrupts).
    pub cpus: Vec<usize>,
    /// How it waits.
    pub wait: Wait,
    /// Name of the adapter, usually `netft0`.
    pub adapter_name: String,
    /// Its addresses. `mtu` is used until routes say what fits.
    pub adapter: Adapter,
    /// The detector's settings.
    pub detector: DetectorConfig,
    /// How cluster traffic travels.
    pub datapath: DatapathOptions,
    /// VIPs' addresses that an earlier daemon may have left on interfaces, and the number of each VIP: they are fenced before the
    /// programs that it left are replaced.
    pub left_addresses: Vec<(VipId, IpAddr)>,
    /// Whether XDP tells which frames it refuses, and a thread writes that to the log (tracing target `xdp`).
    pub log_packets: bool,
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

/// What became of an interface in [`super::Engine::set_interfaces`].
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct InterfaceReport {
    /// Its name.
    pub name: String,
    /// How XDP is attached.
    pub mode: XdpMode,
    /// One sentence about a fallback or an error; `None` = all as wished.
    pub note: Option<String>,
    /// XDP and every socket are there. When not, introducing the interface again may bring the rest.
    pub complete: bool,
}

/// What [`super::Engine::recv`] brings.
#[derive(Clone, Debug, PartialEq)]
pub enum EngineInput {
    /// A message of kind hello or handshake arrived, unverified.
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
    /// The same, but good news.
    Told(String),
    /// [`super::Engine::set_interfaces`] can do now what it couldn't before.
    Turn,
}

/// What [`super::Engine::stop`] leaves behind.
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
    /// How often the detector found that its own lateness made verdicts doubtful.
    pub detector_stalls: u64,
    /// How often one of the CPUs that handle legs failed to, for long enough to make verdicts doubtful.
    pub receive_stalls: u64,
    /// How often a verdict was put off because of either.
    pub postponed_verdicts: u64,
    /// Leg 1s sent.
    pub requests: u64,
    /// Round trips: upper bound of a bucket in nanoseconds, samples in it; empty buckets left out.
    pub rtt: Vec<(Nanos, u64)>,
    /// Data frames sent to peers (one per peer), also copies and those sent again.
    pub frames_sent: u64,
    /// Bytes of them, as `netft0` gave them.
    pub bytes_sent: u64,
    /// Data frames given to `netft0`.
    pub frames_received: u64,
    /// Bytes of them.
    pub bytes_received: u64,
    /// How many of the frames sent went by AF_XDP.
    pub bypass_sent: u64,
    /// How many of the frames received came by AF_XDP.
    pub bypass_received: u64,
    /// Frames sent again because their route died.
    pub replayed: u64,
    /// Frames of which a copy went over a second route.
    pub duplicated: u64,
    /// Packets that were let go before they were known to have had a way, for want of room.
    pub keep_overflow: u64,
    /// Packets that might have been lost, and found no other route in time.
    pub keep_expired: u64,
    /// Memory taken now by packets that may have to be sent again, bytes.
    pub kept_bytes: u64,
    /// What each data thread has done of that.
    pub data_threads: Vec<DataThread>,
    /// Data frames dropped, by reason; all reasons, also those at 0.
    pub drops: Vec<(&'static str, u64)>,
}

/// What one data thread has done. The first also has what the kernel's UDP sockets receive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct DataThread {
    /// Frames sent to peers.
    pub frames_sent: u64,
    /// Frames received.
    pub frames_received: u64,
    /// How many of the frames sent went by AF_XDP.
    pub xdp_sent: u64,
    /// How many of the frames received came by AF_XDP.
    pub xdp_received: u64,
}
