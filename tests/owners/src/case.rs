//! One simulation, written down: everything that a run needs, so that it can be repeated and cut down.

use netft_core::types::Nanos;
use serde::{Deserialize, Serialize};

/// Everything that decides how a run goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Case {
    /// The plan that it was drawn from.
    pub plan: String,
    /// Of what is drawn while it runs.
    pub seed: u64,
    /// 3 to 9.
    pub nodes: usize,
    /// How many of them vote at first: those with the lowest ids.
    pub voters: usize,
    /// How many VIPs there are.
    pub vips: u16,
    /// The lease at first.
    pub lease_ns: Nanos,
    /// How fast or slow clocks run, at most, parts per million.
    pub slew_ppm: u64,
    /// One way.
    pub trip_ns: Nanos,
    /// Added to that, drawn for each message and leg.
    pub jitter_ns: Nanos,
    /// Legs and messages that come up to 20 ms late, of a million.
    pub late_per_million: u64,
    /// Legs and messages that come twice.
    pub twice_per_million: u64,
    /// Steps after which a thread or a CPU stands still for up to 8 ms.
    pub preempt_per_million: u64,
    /// How long a daemon takes at most to read its log when it starts.
    pub restore_ns: Nanos,
    /// Nobody takes a node whose store was emptied out of the cluster, and in again.
    #[serde(default)]
    pub unattended: bool,
    /// In order of their beginning.
    pub faults: Vec<Fault>,
}

/// Something that goes wrong, or that somebody wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// When it begins.
    pub at_ns: Nanos,
    /// How long it lasts.
    pub span_ns: Nanos,
    /// What.
    pub kind: FaultKind,
}

/// What goes wrong. Nodes count from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FaultKind {
    /// Nothing gets from one node to another.
    Cut {
        /// From here
        from: usize,
        /// to there.
        to: usize,
    },
    /// Nothing gets from a node to any other.
    Mute {
        /// The node.
        node: usize,
    },
    /// Nothing gets to a node.
    Deaf {
        /// The node.
        node: usize,
    },
    /// Both.
    Isolate {
        /// The node.
        node: usize,
    },
    /// Its detection thread stands still.
    FreezeEngine {
        /// The node.
        node: usize,
    },
    /// Its ownership thread stands still.
    FreezeOwner {
        /// The node.
        node: usize,
    },
    /// Its daemon is killed and started again; the kernel goes on.
    Crash {
        /// The node.
        node: usize,
    },
    /// It loses its power, and is started again.
    Reboot {
        /// The node.
        node: usize,
    },
    /// The same, and its store is empty afterwards.
    Wipe {
        /// The node.
        node: usize,
    },
    /// It sleeps; its clock goes on.
    Suspend {
        /// The node.
        node: usize,
    },
    /// Somebody wants these nodes to vote (bit 0 = node 0).
    Voters {
        /// The nodes.
        nodes: u16,
    },
    /// Somebody wants another lease.
    Lease {
        /// How long.
        lease_ns: Nanos,
    },
    /// Somebody moves a VIP.
    Move {
        /// Which.
        vip: u16,
        /// To whom.
        node: usize,
    },
}

impl FaultKind {
    /// Whether the others can go on if this one never ends.
    pub(crate) fn may_last(self) -> bool {
        matches!(
            self,
            Self::Mute { .. }
                | Self::Deaf { .. }
                | Self::Isolate { .. }
                | Self::FreezeEngine { .. }
                | Self::FreezeOwner { .. }
                | Self::Crash { .. }
                | Self::Reboot { .. }
                | Self::Suspend { .. }
        )
    }
}

impl Case {
    /// As text.
    pub fn to_text(&self) -> String {
        serde_json::to_string_pretty(self).unwrap_or_default() + "\n"
    }

    /// From text.
    ///
    /// # Errors
    /// What is wrong with it, in a sentence.
    pub fn from_text(text: &str) -> Result<Self, String> {
        serde_json::from_str(text).map_err(|error| format!("that is no case of the simulation: {error}"))
    }

    /// A fault that lasts this long never ends.
    pub const FOREVER_NS: Nanos = 1_000_000_000_000;

    /// When all faults are over that ever are, and those that aren't have begun.
    pub fn quiet_ns(&self) -> Nanos {
        let over_ns = |fault: &Fault| match fault.span_ns {
            Self::FOREVER_NS.. => fault.at_ns,
            span_ns => fault.at_ns + span_ns,
        };
        self.faults.iter().map(over_ns).max().unwrap_or(0)
    }

    /// The longest lease that anybody ever wants.
    pub fn longest_lease_ns(&self) -> Nanos {
        let wanted = self.faults.iter().filter_map(|fault| match fault.kind {
            FaultKind::Lease { lease_ns } => Some(lease_ns),
            _ => None,
        });
        wanted.max().unwrap_or(0).max(self.lease_ns)
    }
}
