//! What goes into the [`Detector`](super::Detector) and what comes out of it.

use super::DampingConfig;
use crate::types::{
    InterfaceNumber, LinkState, Nanos, NodeId, NodeState, RouteReason, RouteState, Slot, Timing,
};

/// What XDP saw on one slot, read from the shared map in one go (`netft_common::map::SlotState`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SlotEvidence {
    /// Highest accepted sequence of legs 1 to 4.
    pub highest: [u64; 4],
    /// Arrival stamp of the newest accepted leg 1 to 4.
    pub arrival_ns: [Nanos; 4],
    /// Own send stamp that the newest leg 4 echoed.
    pub completed_sent_ns: Nanos,
    /// Own send stamp that the newest leg 3 echoed.
    pub confirmed_sent_ns: Nanos,
    /// Round trip of the newest leg 2.
    pub rtt_ns: Nanos,
    /// Newest moment at which the peer's engine is known to have ticked.
    pub peer_tick_ns: Nanos,
    /// When (low 4 bits cleared) the peer told that the far end is down, reason in the low 4 bits.
    pub told_down: u64,
    /// Flags of the newest accepted leg.
    pub peer_flags: u64,
}

/// Where the detector reads evidence: the memory-mapped array, or the simulator's.
pub trait Evidence {
    /// The current words of `slot`.
    fn read(&self, slot: Slot) -> SlotEvidence;

    /// How long ago, at `now`, each CPU of this host that handles legs has at least shown that it handles what it receives,
    /// in nanoseconds: they do so every [`netft_common::map::CPU_TICK_NS`]. 0 if nobody knows.
    fn receive_silent_ns(&self, _now: Nanos) -> Nanos {
        0
    }

    /// Only [`SlotEvidence::told_down`] of `slot`: one word, read often.
    fn told_down(&self, slot: Slot) -> u64 {
        self.read(slot).told_down
    }
}

/// A route to watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteSetup {
    /// Its slot.
    pub slot: Slot,
    /// Its peer.
    pub peer: NodeId,
    /// The local interface it leaves by.
    pub interface: InterfaceNumber,
    /// Its network's metric; lower wins.
    pub metric: u32,
    /// Pace and patience.
    pub timing: Timing,
    /// Sequence of the first leg 1.
    pub first_sequence: u64,
    /// Whether it was up under the previous engine.
    pub adopted: Adopted,
}

/// How a route starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Adopted {
    /// New: down until enough heartbeats completed.
    No,
    /// Taken over from pinned maps in which it was up: starts up, and is judged from now on.
    Up,
}

/// Settings that are not per route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DetectorConfig {
    /// Complete heartbeats in a row before a route comes up (default 3).
    pub up_run: u32,
    /// How long a better route must be up before traffic fails back to it, in nanoseconds (default 1 s).
    pub fail_back_hold_ns: Nanos,
    /// Age of a peer's tick at which its engine counts as stalled, in nanoseconds (default 250 ms).
    pub engine_timeout_ns: Nanos,
    /// When a route that keeps going down must prove itself for longer.
    pub damping: DampingConfig,
}

/// What the control thread asks of the detector. All idempotent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DetectorCommand {
    /// Watch a route, or change the metric, timing or interface of one that is watched.
    SetRoute(RouteSetup),
    /// Forget a route.
    RemoveRoute(Slot),
    /// New settings.
    Configure(DetectorConfig),
    /// The kernel says this of a local interface.
    SetLink(InterfaceNumber, LinkState),
}

/// A leg 1 to send now. The shell stamps it with the clock just before it leaves, and reports nothing back:
/// the echo brings the stamp.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestTransmit {
    /// Over this route.
    pub slot: Slot,
    /// With this sequence.
    pub sequence: u64,
    /// Tell the peer that this other route to it is down at our end, and why (`map::down_reason`).
    pub notice: Option<(Slot, u32)>,
}

/// What happened. The shell forwards events to the control thread, which logs, keeps and shows them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum DetectorEvent {
    /// A route changed its state, or is held back in it by damping (then `old` and `new` are equal).
    Route(RouteRecord),
    /// Cluster traffic to a peer moved (`None` = no route).
    Active {
        /// When, boottime.
        at_ns: Nanos,
        /// The peer.
        peer: NodeId,
        /// From this slot.
        old: Option<Slot>,
        /// To this slot.
        new: Option<Slot>,
    },
    /// A peer changed its state.
    Peer {
        /// When, boottime.
        at_ns: Nanos,
        /// The peer.
        peer: NodeId,
        /// From.
        old: NodeState,
        /// To.
        new: NodeState,
        /// Age of its newest tick, nanoseconds.
        tick_age_ns: Nanos,
    },
    /// The detector's own loop was late by more than the gate allows: verdicts that were due were postponed. At most
    /// ten of these a second; [`DetectorCounters`](super::DetectorCounters) counts all.
    Stall {
        /// When it noticed, boottime.
        at_ns: Nanos,
        /// By how much the loop was late, nanoseconds: the worst since the last such event.
        gap_ns: Nanos,
    },
}

/// One entry of a route's history.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RouteRecord {
    /// When the verdict was made, boottime.
    pub at_ns: Nanos,
    /// The route.
    pub slot: Slot,
    /// Its peer.
    pub peer: NodeId,
    /// From.
    pub old: RouteState,
    /// To.
    pub new: RouteState,
    /// Why.
    pub reason: RouteReason,
    /// Leg 1s sent so far.
    pub sent: u64,
    /// Heartbeats completed so far.
    pub completed: u64,
    /// Missed in a row at the verdict.
    pub misses: u32,
    /// Allowed.
    pub threshold: u32,
    /// Time since the newest proof of both directions was sent, nanoseconds.
    pub evidence_age_ns: Nanos,
    /// Time since anything arrived on this route, nanoseconds.
    pub silence_ns: Nanos,
    /// How much of the time since then one of this host's CPUs, or the detection thread, stood still, nanoseconds.
    pub stalled_ns: Nanos,
}

/// What the shell must store: both are one 8-byte store into a shared map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreCommand {
    /// The active-route word of a peer (`map::ActiveRoute::to_word`).
    Active(NodeId, u64),
    /// The dead-interfaces word.
    DeadInterfaces(u64),
    /// `SlotState::engine_flags` of a slot (`map::Standing::to_word`).
    RouteFlags(Slot, u64),
}

/// A route as listings show it; copied out by the shell for `netft routes`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RouteView {
    /// The route.
    pub slot: Slot,
    /// Its peer.
    pub peer: NodeId,
    /// State now.
    pub state: RouteState,
    /// Why it is in it.
    pub reason: RouteReason,
    /// Since when, boottime.
    pub since_ns: Nanos,
    /// Missed in a row now.
    pub misses: u32,
    /// Smoothed round trip, nanoseconds; 0 = none yet.
    pub srtt_ns: Nanos,
    /// Leg 1s sent.
    pub sent: u64,
    /// Heartbeats completed.
    pub completed: u64,
    /// When anything last arrived from the peer's host, boottime; 0 = never. The host answers without its engine.
    pub heard_ns: Nanos,
    /// When the peer's engine is last known to have ticked, as told over this route, boottime; 0 = never.
    pub peer_tick_ns: Nanos,
    /// How often it went down lately, in thousandths, older ones counting less.
    pub flaps_milli: u64,
    /// How long its heartbeats must still complete before it comes up, as it went down too often; 0 = it isn't damped.
    pub damped_left_ns: Nanos,
}
