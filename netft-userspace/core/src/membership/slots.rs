//! Which slots are free. A freed slot rests before it means something else, so that a packet under way, or a peer
//! that hasn't heard yet, never meets another route in it.

use crate::types::{Nanos, Slot};
use netft_common::map::MAX_SLOTS;

/// How long a freed slot rests, in nanoseconds.
pub const REST_NS: Nanos = 30_000_000_000;

#[derive(Clone, Copy, Debug)]
enum State {
    Free { not_before_ns: Nanos },
    Used,
}

/// All slots of this node.
#[derive(Debug)]
pub struct Slots {
    states: Vec<State>,
}

impl Slots {
    /// All free.
    pub fn new() -> Self {
        Self { states: vec![State::Free { not_before_ns: 0 }; MAX_SLOTS as usize] }
    }

    /// The lowest that has rested; `None` if all are in use or resting.
    pub fn allocate(&mut self, now: Nanos) -> Option<Slot> {
        let rested = |state: &State| matches!(state, State::Free { not_before_ns } if *not_before_ns <= now);
        let index = self.states.iter().position(rested)?;
        let slot = Slot::new(u32::try_from(index).ok()?)?;
        self.take(slot);
        Some(slot)
    }

    /// Marks one as used that a previous daemon used.
    pub fn take(&mut self, slot: Slot) {
        self.states[slot.index()] = State::Used;
    }

    /// Gives one back.
    pub fn release(&mut self, now: Nanos, slot: Slot) {
        self.states[slot.index()] = State::Free { not_before_ns: now.saturating_add(REST_NS) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_freed_slot_rests_and_then_returns() {
        let mut slots = Slots::new();
        let first = slots.allocate(0).unwrap();
        slots.release(0, first);
        assert_ne!(slots.allocate(0), Some(first));
        assert_eq!(slots.allocate(REST_NS), Some(first));
    }

    #[test]
    fn there_are_exactly_as_many_as_the_map_has() {
        let mut slots = Slots::new();
        slots.take(Slot::new(5).unwrap());
        let all: Vec<_> = std::iter::from_fn(|| slots.allocate(0)).collect();
        assert_eq!(all.len(), MAX_SLOTS as usize - 1);
        assert!(!all.contains(&Slot::new(5).unwrap()));
    }
}
