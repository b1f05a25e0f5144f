//! No verdict on the strength of time during which this host didn't handle what it received.
//!
//! The detection thread may run in time while another CPU, which has this route's replies in its queue, stands still:
//! its hypervisor took it, or the kernel is busy there. Then silence says nothing about the peer, so that time doesn't
//! count towards the detection time.

use crate::types::Nanos;
use netft_common::map::CPU_TICK_NS;

/// A stall that lasts longer is no stall: the CPU is gone, and with it no hope for what it had queued. Nor is any verdict
/// put off by more, whatever stalls follow one another.
const LONGEST_NS: Nanos = 250_000_000;
/// Stalls that are remembered: at usual detection times, more than fit into one.
const REMEMBERED: usize = 16;
/// When a verdict that is held is looked at again.
pub const RECHECK_NS: Nanos = 250_000;

/// From when to when something of this host stood still.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Stall {
    from_ns: Nanos,
    until_ns: Nanos,
    /// A CPU that handles legs, not only the detection thread.
    receive: bool,
}

/// What the host's own receiving was like lately.
#[derive(Debug)]
pub struct Receiving {
    /// Newest last; none overlaps another.
    stalls: Vec<Stall>,
    stalled: bool,
    count: u64,
}

impl Receiving {
    /// All is well.
    pub fn new() -> Self {
        Self { stalls: Vec::with_capacity(REMEMBERED), stalled: false, count: 0 }
    }

    /// At `now` the slowest CPU has given its last sign of life `silent_ns` ago; up to `limit_ns` more than the time
    /// between two signs is ordinary. `true` = a new stall.
    pub fn observe(&mut self, now: Nanos, silent_ns: Nanos, limit_ns: Nanos) -> bool {
        if silent_ns <= CPU_TICK_NS.saturating_add(limit_ns) || silent_ns > LONGEST_NS {
            self.stalled = false;
            return false;
        }
        self.add(Stall { from_ns: now.saturating_sub(silent_ns), until_ns: now, receive: true });
        let new = !std::mem::replace(&mut self.stalled, true);
        self.count = self.count.saturating_add(u64::from(new));
        new
    }

    /// At `now` the detection thread is `late_ns` late.
    pub fn was_late(&mut self, now: Nanos, late_ns: Nanos) {
        self.add(Stall { from_ns: now.saturating_sub(late_ns), until_ns: now, receive: false });
    }

    /// CPUs' stalls so far.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// All stalls end when they are seen, so a new one can only overlap the newest.
    fn add(&mut self, mut stall: Stall) {
        while let Some(last) = self.stalls.last().filter(|last| stall.from_ns <= last.until_ns) {
            stall.from_ns = stall.from_ns.min(last.from_ns);
            stall.receive |= last.receive;
            self.stalls.pop();
        }
        if self.stalls.len() == REMEMBERED {
            self.stalls.remove(0);
        }
        self.stalls.push(stall);
    }

    fn since(&self, since_ns: Nanos) -> impl Iterator<Item = &Stall> {
        self.stalls.iter().filter(move |stall| stall.until_ns > since_ns)
    }

    /// How much of the time from `since_ns` on CPUs, or the detection thread, stood still.
    pub fn stalled_ns(&self, since_ns: Nanos) -> Nanos {
        self.since(since_ns).map(|stall| stall.until_ns - stall.from_ns.max(since_ns)).sum()
    }

    /// Whether the verdict at `now` on a route with this detection time, whose newest evidence left at `evidence_ns`,
    /// must wait: until the detection time has passed without the stalls, and until what was sent after the
    /// last one could be back, `trip_ns` later.
    pub fn holds(&self, now: Nanos, evidence_ns: Nanos, detection_ns: Nanos, trip_ns: Nanos) -> bool {
        let Some(last) = self.stalls.last() else { return false };
        // What stalls of the detection thread alone excuse, routes know themselves.
        if !self.since(evidence_ns).any(|stall| stall.receive) {
            return false;
        }
        let stalled_ns = self.stalled_ns(evidence_ns);
        let age_ns = now.saturating_sub(evidence_ns);
        let counted_ns = age_ns.saturating_sub(stalled_ns.min(LONGEST_NS));
        let fresh = now < last.until_ns.saturating_add(trip_ns);
        counted_ns <= detection_ns || (fresh && age_ns <= detection_ns.saturating_add(LONGEST_NS))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Nanos = 1_000_000;
    const LIMIT: Nanos = MS / 2;
    const DETECTION: Nanos = 5 * MS;
    const TRIP: Nanos = MS;

    fn holds(receiving: &Receiving, now: Nanos, evidence_ns: Nanos) -> bool {
        receiving.holds(now, evidence_ns, DETECTION, TRIP)
    }

    /// A CPU gives no sign from `from_ns` to `until_ns`, seen every half millisecond.
    fn stand_still(receiving: &mut Receiving, from_ns: Nanos, until_ns: Nanos) -> usize {
        let seen = (from_ns..=until_ns).step_by(500_000);
        seen.filter(|now| receiving.observe(*now, now - from_ns, LIMIT)).count()
    }

    #[test]
    fn time_that_a_cpu_stood_still_does_not_count() {
        let mut receiving = Receiving::new();
        assert!(!holds(&receiving, 106 * MS, 100 * MS));
        assert_eq!(stand_still(&mut receiving, 101 * MS, 101 * MS + CPU_TICK_NS + LIMIT), 0, "ordinary");
        assert!(!holds(&receiving, 106 * MS, 100 * MS));
        assert_eq!(stand_still(&mut receiving, 102 * MS, 105 * MS), 1);
        assert_eq!(receiving.stalled_ns(100 * MS), 3 * MS);
        assert_eq!(receiving.stalled_ns(104 * MS), MS);
        assert!(holds(&receiving, 108 * MS, 100 * MS));
        assert!(!holds(&receiving, 108 * MS + 1, 100 * MS));
        assert_eq!(receiving.count(), 1);
    }

    #[test]
    fn what_is_sent_after_a_stall_has_its_chance() {
        let mut receiving = Receiving::new();
        stand_still(&mut receiving, 104 * MS, 110 * MS);
        assert!(holds(&receiving, 111 * MS, 100 * MS));
        assert!(!holds(&receiving, 111 * MS + 1, 100 * MS));
        // The stall began after the detection time had passed.
        assert!(holds(&receiving, 111 * MS - 1, 90 * MS));
        assert!(!holds(&receiving, 111 * MS, 90 * MS));
    }

    #[test]
    fn stalls_of_several_cpus_and_of_the_detection_thread_count_once() {
        let mut receiving = Receiving::new();
        stand_still(&mut receiving, 100 * MS, 104 * MS);
        receiving.was_late(107 * MS, 5 * MS);
        stand_still(&mut receiving, 106 * MS, 109 * MS);
        assert_eq!(receiving.stalled_ns(0), 9 * MS);
        stand_still(&mut receiving, 120 * MS, 123 * MS);
        assert_eq!(receiving.stalled_ns(0), 12 * MS);
        assert_eq!(receiving.stalled_ns(121 * MS), 2 * MS);
    }

    #[test]
    fn the_detection_threads_own_lateness_holds_nothing_here() {
        let mut receiving = Receiving::new();
        receiving.was_late(104 * MS, 4 * MS);
        assert!(!holds(&receiving, 105 * MS + 1, 100 * MS));
    }

    #[test]
    fn nothing_is_held_for_ever() {
        let mut receiving = Receiving::new();
        assert!(!receiving.observe(1_000 * MS, LONGEST_NS + 1, LIMIT), "a CPU that is gone");
        assert!(!holds(&receiving, 1_000 * MS, 990 * MS));
        let mut now = 1_000 * MS;
        while now < 2_000 * MS {
            stand_still(&mut receiving, now, now + 3 * MS);
            now += 4 * MS;
            assert_eq!(
                holds(&receiving, now - MS / 2, 1_000 * MS),
                now - MS / 2 <= 1_000 * MS + DETECTION + LONGEST_NS
            );
        }
    }
}
