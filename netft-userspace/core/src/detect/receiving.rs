//! No verdict while this host doesn't handle what it receives.
//!
//! The detection thread may run in time while another CPU, which has this route's replies in its queue, stands still:
//! its hypervisor took it, or the kernel is busy there. Then silence says nothing about the peer.

use crate::types::{Nanos, Slot};
use netft_common::map::MAX_SLOTS;

/// A stall that lasts longer is no stall: the CPU is gone, and with it no hope for what it had queued.
const LONGEST_NS: Nanos = 250_000_000;
/// Stalls that may hold one accusation.
const MOST: u8 = 2;
/// When a verdict that is held is looked at again.
pub const RECHECK_NS: Nanos = 250_000;

/// Which stalls held the verdict on a route since its last evidence.
#[derive(Clone, Copy, Debug, Default)]
struct Held {
    evidence_ns: Nanos,
    stall: u64,
    count: u8,
}

/// What the host's own receiving is like.
#[derive(Debug)]
pub struct Receiving {
    stalled: bool,
    /// When the last stall was last seen.
    last_ns: Option<Nanos>,
    stalls: u64,
    held: Box<[Held]>,
}

impl Receiving {
    /// All is well.
    pub fn new() -> Self {
        let held = vec![Held::default(); MAX_SLOTS as usize].into();
        Self { stalled: false, last_ns: None, stalls: 0, held }
    }

    /// At `now` the slowest CPU has been standing still for `stalled_ns`; up to `limit_ns` is ordinary. `true` = a new
    /// stall.
    pub fn observe(&mut self, now: Nanos, stalled_ns: Nanos, limit_ns: Nanos) -> bool {
        if stalled_ns <= limit_ns || stalled_ns > LONGEST_NS {
            self.stalled = false;
            return false;
        }
        let new = !std::mem::replace(&mut self.stalled, true);
        self.last_ns = Some(now);
        self.stalls = self.stalls.saturating_add(u64::from(new));
        new
    }

    /// Stalls so far.
    pub fn stalls(&self) -> u64 {
        self.stalls
    }

    /// Whether the verdict on `slot`, whose newest evidence is of `evidence_ns`, must wait: until `patience_ns` after a
    /// stall, so that heartbeats sent after it have their chance, and for two stalls at most.
    pub fn holds(&mut self, now: Nanos, slot: Slot, evidence_ns: Nanos, patience_ns: Nanos) -> bool {
        if self.last_ns.is_none_or(|last_ns| now >= last_ns.saturating_add(patience_ns)) {
            return false;
        }
        let held = &mut self.held[slot.index()];
        if held.evidence_ns != evidence_ns {
            *held = Held { evidence_ns, ..Held::default() };
        }
        if held.count > 0 && held.stall == self.stalls {
            return true;
        }
        if held.count >= MOST {
            return false;
        }
        (held.stall, held.count) = (self.stalls, held.count + 1);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Nanos = 500_000;
    const PATIENCE: Nanos = 5_000_000;

    fn slot() -> Slot {
        Slot::new(3).unwrap()
    }

    #[test]
    fn a_stall_holds_until_new_heartbeats_had_their_chance() {
        let mut receiving = Receiving::new();
        assert!(!receiving.holds(1_000_000, slot(), 7, PATIENCE));
        assert!(!receiving.observe(1_000_000, LIMIT, LIMIT), "that much is ordinary");
        assert!(receiving.observe(2_000_000, LIMIT + 1, LIMIT));
        assert!(!receiving.observe(3_000_000, LIMIT + 1_000_001, LIMIT), "the same one");
        assert!(receiving.holds(3_000_000, slot(), 7, PATIENCE));
        assert!(!receiving.observe(3_200_000, 0, LIMIT));
        assert!(receiving.holds(7_999_999, slot(), 7, PATIENCE));
        assert!(!receiving.holds(8_000_000, slot(), 7, PATIENCE));
        assert_eq!(receiving.stalls(), 1);
    }

    #[test]
    fn two_stalls_hold_an_accusation_and_no_third() {
        let mut receiving = Receiving::new();
        let mut now = 0;
        let mut stall = |receiving: &mut Receiving| {
            now += 10_000_000;
            receiving.observe(now, 0, LIMIT);
            receiving.observe(now, 2 * LIMIT, LIMIT);
            now
        };
        for expected in [true, true, false] {
            let now = stall(&mut receiving);
            assert_eq!(receiving.holds(now, slot(), 7, PATIENCE), expected);
            assert_eq!(
                receiving.holds(now + 1, slot(), 7, PATIENCE),
                expected,
                "asked again within the stall"
            );
        }
        let now = stall(&mut receiving);
        assert!(receiving.holds(now, slot(), 8, PATIENCE), "new evidence, another accusation");
    }

    #[test]
    fn a_cpu_that_is_gone_holds_nothing() {
        let mut receiving = Receiving::new();
        receiving.observe(1_000_000_000, LONGEST_NS + 1, LIMIT);
        assert!(!receiving.holds(1_000_000_000, slot(), 7, PATIENCE));
    }
}
