//! Ways to break the detector on purpose, so that a test can show that the simulation notices. The switches exist only
//! in the crate `netft-sim-teeth`, which compiles these sources with `netft_sabotage`; elsewhere nothing is broken.

use crate::types::NodeId;

/// What to do wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(netft_sabotage), expect(dead_code, reason = "only tests break things"))]
pub enum Sabotage {
    /// Silence takes no route down.
    NeverAccuses,
    /// Not on nodes with an odd id.
    OneEndNeverAccuses,
    /// Detection takes twice as long as configured.
    TwicePatient,
    /// Routes go down after half the detection time.
    Impatient,
    /// The time that a heartbeat travels isn't allowed for.
    ForgetsTrip,
    /// Own stalls excuse nothing.
    IgnoresOwnStalls,
    /// Nodes with an odd id never take a route back that went down.
    OneEndStaysDown,
    /// Every fourth leg 1 repeats the sequence of the one before.
    RepeatsSequences,
    /// Leg 1s that a stall prevented are sent afterwards.
    CatchesUp,
    /// Something answers leg 4.
    AnswersLeg4,
    /// Traffic stays where it is.
    KeepsActive,
    /// No direction is named.
    NamesNothing,
    /// No notices leave.
    TellsNobody,
    /// A host that answers counts as an engine that runs.
    TrustsHosts,
    /// The last route to a peer is held back like any other.
    DampsLastRoute,
    /// A route that goes down says that it has carried everything until then.
    CoversAll,
    /// Some events are forgotten.
    LosesEvents,
}

/// Whether the detector does this wrong.
#[cfg(not(netft_sabotage))]
#[inline(always)]
pub(super) const fn broken(_how: Sabotage) -> bool {
    false
}

#[cfg(netft_sabotage)]
thread_local! {
    static BROKEN: std::cell::Cell<Option<Sabotage>> = const { std::cell::Cell::new(None) };
}

/// Breaks the detectors of this thread, or mends them.
#[cfg(netft_sabotage)]
pub fn sabotage(how: Option<Sabotage>) {
    BROKEN.set(how);
}

/// Whether the detector does this wrong.
#[cfg(netft_sabotage)]
pub(crate) fn broken(how: Sabotage) -> bool {
    BROKEN.get() == Some(how)
}

/// Whether this node takes no route down for silence.
pub(super) fn never_accuses(own_id: NodeId) -> bool {
    let odd = !own_id.get().is_multiple_of(2);
    broken(Sabotage::NeverAccuses) || (odd && broken(Sabotage::OneEndNeverAccuses))
}

/// Whether this node takes no route back, once it has sent a while.
pub(super) fn stays_down(own_id: NodeId, requests: u64) -> bool {
    let odd = !own_id.get().is_multiple_of(2);
    odd && requests > 100 && broken(Sabotage::OneEndStaysDown)
}
