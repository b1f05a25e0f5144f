//! `netft status`: one page about this node.

use super::Adapter;
use crate::engine::{DataThread, PathReport, Wait, XdpMode};
use netft_core::carry::Policy;
use netft_core::membership::Phase;
use netft_core::types::{Level, LinkState, NodeState};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// Counters by name.
pub type Counters = BTreeMap<String, u64>;

/// The whole page.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The cluster.
    pub cluster: Cluster,
    /// This node.
    pub node: ThisNode,
    /// The daemon.
    pub daemon: Daemon,
    /// The wire versions that it speaks.
    pub wire: Wire,
    /// Its engine.
    pub engine: Engine,
    /// The virtual adapter.
    pub adapter: AdapterStatus,
    /// The interfaces in use.
    pub interfaces: Vec<InterfaceStatus>,
    /// Peers by state.
    pub peers: Tally,
    /// Routes by state.
    pub routes: Tally,
    /// Round trips of heartbeats over all routes since the engine's start.
    pub rtt: Rtt,
    /// Cluster traffic.
    pub data: Data,
    /// XDP's counters and the hello counters, all of them, also those at 0.
    pub counters: Counters,
}

/// The cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cluster {
    /// Name.
    pub name: String,
    /// Id.
    pub id: u32,
}

/// This node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ThisNode {
    /// Name.
    pub name: String,
    /// Id.
    pub id: u16,
    /// Site.
    pub site: Option<String>,
    /// `up`, or `leaving` during a clean stop.
    pub state: NodeState,
}

/// The daemon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Daemon {
    /// Program version.
    pub version: String,
    /// Process id.
    pub pid: u32,
    /// When it started.
    pub started: String,
    /// Seconds since.
    pub uptime_s: u64,
    /// Its configuration file.
    pub config_file: String,
    /// Security level configured.
    pub security_level: Level,
    /// Peers that protect cluster traffic otherwise, by name.
    pub other_levels: BTreeMap<String, Level>,
    /// Peers, by name, to which this node itself still sends at another level, until there are new keys.
    pub outdated_levels: BTreeMap<String, Level>,
    /// Names the cluster secret that it signs with: 16 hexadecimal digits, which don't give it away.
    pub secret: String,
    /// While the secret is being replaced.
    pub key_rotation: Option<KeyRotation>,
    /// Routes taken over from an earlier daemon at the start.
    pub adopted_routes: usize,
}

/// Wire versions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wire {
    /// The oldest that this node speaks.
    pub oldest: u8,
    /// The newest.
    pub newest: u8,
    /// Nodes of this cluster that speak none of them, heard within the last 10 s.
    pub refused: Vec<RefusedWire>,
}

/// A node with which no wire version is common.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedWire {
    /// Its name, if its id or address is a configured peer's.
    pub node: Option<String>,
    /// Where it speaks from.
    pub address: IpAddr,
    /// The oldest that it speaks.
    pub oldest: u8,
    /// The newest.
    pub newest: u8,
}

/// A replacement of the cluster secret that is under way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyRotation {
    /// Name of the node where it was started.
    pub started_by: String,
    /// How far this node is: `offered` (it accepts both secrets, and signs with the old one), `switched` (it signs with the
    /// new one).
    pub phase: Phase,
    /// Peers that must get as far first.
    pub waits_for: Vec<String>,
    /// Names the new secret.
    pub secret: String,
}

/// The detection thread.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Engine {
    /// How it waits.
    pub wait: Wait,
    /// SCHED_FIFO priority it has, 0 = ordinary scheduling.
    pub priority: u8,
    /// The one configured.
    pub priority_configured: u8,
    /// CPUs that it may run on.
    pub cpus: Vec<usize>,
    /// Its loops.
    pub loops: u64,
    /// Longest time it was late, in microseconds.
    pub loop_gap_max_us: f64,
    /// How often it was late by more than 300 µs.
    pub stalls: u64,
    /// CPU time that the hypervisor took from its CPUs since the start, in microseconds, in steps of 10 000.
    pub stolen_us: u64,
    /// How long it waited for a CPU that others used since the start, in microseconds.
    pub waited_us: u64,
    /// How often a CPU that handles legs didn't for long enough to make verdicts doubtful.
    pub receive_stalls: u64,
    /// How often a verdict was put off because of own stalls.
    pub postponed_verdicts: u64,
    /// Heartbeats that the kernel refused to send.
    pub request_send_errors: u64,
    /// What couldn't be had as configured, one sentence each.
    pub notes: Vec<String>,
}

/// `netft0`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AdapterStatus {
    /// Interface name.
    pub name: String,
    /// Addresses and MTU.
    #[serde(flatten)]
    pub adapter: Adapter,
}

/// One interface that netft uses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfaceStatus {
    /// Name.
    pub name: String,
    /// `up`, `no-carrier`, `admin-down`.
    pub link: LinkState,
    /// How XDP is attached.
    pub xdp: XdpMode,
    /// Why it is not native, or what is wrong.
    pub note: Option<String>,
    /// Addresses with prefix length.
    pub addresses: Vec<String>,
    /// Bytes.
    pub mtu: u32,
    /// Mbit/s; `None` = unknown.
    pub speed_mbps: Option<u32>,
    /// Which way cluster traffic takes here; `None` without XDP.
    pub path: Option<PathReport>,
}

/// How many are up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Up.
    pub up: usize,
    /// All.
    pub total: usize,
}

/// Round trips.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Rtt {
    /// How many.
    pub samples: u64,
    /// Half are at most this, in microseconds (upper bound of a histogram bucket).
    pub p50_us: Option<f64>,
    /// 99 of 100 are at most this.
    pub p99_us: Option<f64>,
    /// All are at most this.
    pub max_us: Option<f64>,
    /// The histogram; empty buckets left out.
    pub histogram: Vec<RttBucket>,
}

/// A bucket of the histogram.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct RttBucket {
    /// Its upper bound in microseconds.
    pub le_us: f64,
    /// Samples in it (not cumulative).
    pub count: u64,
}

impl Rtt {
    /// From buckets: (upper bound in nanoseconds, samples), in order.
    pub fn new(buckets: &[(u64, u64)]) -> Self {
        let samples: u64 = buckets.iter().map(|(_, count)| count).sum();
        let at = |per_mille: u64| {
            let rank = (samples * per_mille).div_ceil(1000);
            let mut seen = 0;
            let mut over = buckets.iter().skip_while(|(_, count)| {
                seen += count;
                seen < rank
            });
            over.next().filter(|_| samples > 0).map(|(bound, _)| super::us(*bound))
        };
        let histogram =
            buckets.iter().map(|&(bound, count)| RttBucket { le_us: super::us(bound), count }).collect();
        Self { samples, p50_us: at(500), p99_us: at(990), max_us: at(1000), histogram }
    }
}

/// Cluster traffic since the engine's start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Data {
    /// Which routes a frame takes.
    pub policy: Policy,
    /// Frames sent, one per receiving peer; copies and those sent again count as well.
    pub frames_sent: u64,
    /// Bytes of them.
    pub bytes_sent: u64,
    /// Frames received.
    pub frames_received: u64,
    /// Bytes of them.
    pub bytes_received: u64,
    /// How many of the frames sent went by AF_XDP.
    pub xdp_sent: u64,
    /// How many of the frames received came by AF_XDP.
    pub xdp_received: u64,
    /// The same per data thread: one for each queue of the interface with the most, if the machine has so many CPUs.
    pub threads: Vec<DataThread>,
    /// Memory for packets of the AF_XDP sockets, in bytes.
    pub buffer_bytes: u64,
    /// Memory taken now by packets that may have to be sent again, in bytes.
    pub kept_bytes: u64,
    /// Frames sent again because their route died.
    pub replayed: u64,
    /// Frames of which a copy went over a second route.
    pub duplicated: u64,
    /// Packets that were let go before they were known to have had a way, for want of room.
    pub keep_overflow: u64,
    /// Packets that might have been lost, and found no other route in time.
    pub keep_expired: u64,
    /// Frames dropped, by reason.
    pub drops: Counters,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_upper_bounds_of_buckets() {
        let rtt = Rtt::new(&[(1_023, 98), (2_047, 1), (65_535, 1)]);
        assert_eq!(
            (rtt.samples, rtt.p50_us, rtt.p99_us, rtt.max_us),
            (100, Some(1.023), Some(2.047), Some(65.535))
        );
        assert_eq!(Rtt::new(&[]), Rtt::default());
    }
}
