//! When leg 1 leaves: on a grid of its delay, so that one wake paces many routes.

use crate::types::{Nanos, NodeId, Slot};

/// Leg 1s that leave in one wake, about: beyond, the routes share more wakes, so that no wake makes a burst.
const ROUTES_PER_WAKE: usize = 8;
/// Wakes per delay, at most.
const PHASES: u64 = 16;
/// No two phases are closer than this.
const PHASE_FLOOR_NS: Nanos = 50_000;
/// A route that is due within this part of its delay is served by the wake before. Half of what lies between two phases,
/// so that phases don't merge.
const EARLY: u64 = 32;

/// How many phases of the delay a node uses that has so many routes.
pub(super) fn phases_for(routes: usize) -> u64 {
    (routes.div_ceil(ROUTES_PER_WAKE) as u64).next_power_of_two().min(PHASES)
}

/// How early leg 1 may leave.
pub(super) fn early_ns(delay: Nanos) -> Nanos {
    delay / EARLY
}

/// Smallest `phase + k × delay` that is at least `from`.
pub(super) fn on_grid(from: Nanos, delay: Nanos, phase: Nanos) -> Nanos {
    let over = from.saturating_sub(phase) % delay;
    let base = from.max(phase);
    if over == 0 { base } else { base.saturating_add(delay - over) }
}

/// Multiples of the golden ratio fill an interval evenly however many there are; this is the fraction in 32 bits.
fn turn(number: u64) -> u64 {
    number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32
}

/// Where in the delay a slot's leg 1 leaves: one of `phases`, from a beginning that differs by node, so that the two
/// ends of a route don't send at the same time.
pub(super) fn phase_of(slot: Slot, own_id: NodeId, delay: Nanos, phases: u64) -> Nanos {
    let phases = phases.clamp(1, (delay / PHASE_FLOOR_NS).max(1));
    let beginning = (u128::from(delay) * u128::from(turn(u64::from(own_id.get())))) >> 32;
    let step = (turn(u64::from(slot.get())) * phases) >> 32;
    (Nanos::try_from(beginning).unwrap_or(0) + delay / phases * step) % delay
}
