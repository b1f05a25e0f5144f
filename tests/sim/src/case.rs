//! One simulation, written down: everything that a run needs, so that it can be repeated and cut down.

use crate::detect::{DampingConfig, DetectorConfig};
use crate::types::{Nanos, Timing};
use netft_core::carry::Policy;
use serde::{Deserialize, Serialize};

/// Everything that decides how a run goes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Case {
    /// The plan that it was drawn from.
    pub plan: String,
    /// Of what is drawn while it runs: offsets and drift of clocks, lateness, jitter, losses.
    pub seed: u64,
    /// 2 to 9.
    pub nodes: usize,
    /// 1 to 3; every node has one interface on each.
    pub networks: usize,
    /// Of heartbeats.
    pub delay_ns: Nanos,
    /// Heartbeats that may be missed.
    pub threshold: u32,
    /// Age of a tick that makes an engine stalled.
    pub engine_timeout_ns: Nanos,
    /// `routes.flap_limit`, 0 = no damping.
    pub flap_limit: u32,
    /// `routes.flap_half_life`.
    pub flap_half_life_ns: Nanos,
    /// `routes.damping_max`.
    pub damping_max_ns: Nanos,
    /// One way, equal for all legs.
    pub trip_ns: Nanos,
    /// Added to that, drawn for each leg: more than the gap between two legs means reordering.
    pub jitter_ns: Nanos,
    /// Legs lost, of a million.
    pub loss_per_million: u64,
    /// Legs that arrive twice, of a million.
    pub duplicates_per_million: u64,
    /// How fast or slow a node's clock runs, at most, parts per million.
    pub drift_ppm: u64,
    /// Wakes in which the engine loses the CPU in the middle of its work, of a million.
    pub preempt_per_million: u64,
    /// For how long at most.
    pub preempt_ns: Nanos,
    /// Packets that each node sends in a second, 0 = no traffic.
    #[serde(default)]
    pub packets_per_s: u64,
    /// Which routes they take.
    #[serde(default)]
    pub policy: Policy,
    /// All faults are over by then.
    pub length_ns: Nanos,
    /// In order of their beginning.
    pub faults: Vec<Fault>,
}

/// Something that goes wrong for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// When it begins.
    pub at_ns: Nanos,
    /// How long it lasts.
    pub span_ns: Nanos,
    /// What.
    pub kind: FaultKind,
}

/// What goes wrong. Nodes and networks count from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FaultKind {
    /// What the node sends over the network doesn't get out (`tx`), or what is sent to it doesn't get in (`rx`).
    Cut {
        /// The node.
        node: usize,
        /// The network.
        network: usize,
        /// Outwards.
        tx: bool,
        /// Inwards.
        rx: bool,
    },
    /// The interface loses its carrier, or an administrator takes it down.
    Unplug {
        /// The node.
        node: usize,
        /// The network.
        network: usize,
        /// Which.
        admin: bool,
    },
    /// The engine doesn't run; the host's XDP answers.
    Stall {
        /// The node.
        node: usize,
    },
    /// The whole host stands still; what arrives waits in its queue.
    Freeze {
        /// The node.
        node: usize,
    },
    /// The engine dies, and a new one starts at the end.
    Restart {
        /// The node.
        node: usize,
    },
}

impl FaultKind {
    /// Where it happens.
    pub(crate) fn node(self) -> usize {
        match self {
            Self::Cut { node, .. }
            | Self::Unplug { node, .. }
            | Self::Stall { node }
            | Self::Freeze { node }
            | Self::Restart { node } => node,
        }
    }

    pub(crate) fn network(self) -> Option<usize> {
        match self {
            Self::Cut { network, .. } | Self::Unplug { network, .. } => Some(network),
            Self::Stall { .. } | Self::Freeze { .. } | Self::Restart { .. } => None,
        }
    }
}

impl Case {
    pub(crate) fn timing(&self) -> Timing {
        Timing { delay_ns: self.delay_ns, threshold: self.threshold }
    }

    pub(crate) fn damping(&self) -> DampingConfig {
        DampingConfig {
            flap_limit: self.flap_limit,
            half_life_ns: self.flap_half_life_ns,
            longest_ns: self.damping_max_ns,
        }
    }

    pub(crate) fn detector(&self) -> DetectorConfig {
        DetectorConfig {
            up_run: 3,
            fail_back_hold_ns: 50_000_000,
            engine_timeout_ns: self.engine_timeout_ns,
            damping: self.damping(),
        }
    }

    /// The longest that a heartbeat takes whose legs aren't lost.
    pub(crate) fn heartbeat_ns(&self) -> Nanos {
        4 * (self.trip_ns + self.jitter_ns)
    }

    /// When the run ends: late enough after the last fault for everything to have come back.
    pub fn end_ns(&self) -> Nanos {
        let longest = self.faults.iter().map(|fault| fault.at_ns + fault.span_ns).max().unwrap_or(0);
        let damping_ns = if self.flap_limit > 0 { self.damping_max_ns } else { 0 };
        longest.max(self.length_ns)
            + 2 * self.engine_timeout_ns
            + self.preempt_ns
            + 4 * self.timing().detection_ns()
            + 10 * self.delay_ns
            + 4 * self.heartbeat_ns()
            + damping_ns
    }

    /// Leg 1s that the whole cluster sends in a second.
    pub fn heartbeats_per_s(&self) -> u64 {
        (self.nodes * (self.nodes - 1) * self.networks) as u64 * 1_000_000_000 / self.delay_ns.max(1)
    }
}
