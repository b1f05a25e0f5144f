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
/// Ticks come late by less than this without anything having stood still, however fast heartbeats are.
const FLOOR_NS: Nanos = 300_000;
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

impl Stall {
    /// Whether it was long enough to put a route in doubt that bears `limit_ns`.
    fn exceeds(&self, limit_ns: Nanos) -> bool {
        let ordinary_ns =
            if self.receive { CPU_TICK_NS.saturating_add(limit_ns.max(FLOOR_NS)) } else { limit_ns };
        self.until_ns - self.from_ns > ordinary_ns
    }
}

/// What a verdict is made from.
#[derive(Clone, Copy, Debug)]
pub struct Doubt {
    /// When the newest evidence of the route left.
    pub evidence_ns: Nanos,
    /// The route's detection time.
    pub detection_ns: Nanos,
    /// How late things may be without its verdict being in doubt.
    pub limit_ns: Nanos,
}

/// Of how long each CPU has been silent, the longest time that means anything: a CPU that is gone must not hide what
/// happens to the others.
pub fn longest_silence_ns(silences: impl Iterator<Item = Nanos>) -> Nanos {
    silences.filter(|silent_ns| *silent_ns <= LONGEST_NS).max().unwrap_or(0)
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
        let stall = Stall { from_ns: now.saturating_sub(silent_ns), until_ns: now, receive: true };
        if !stall.exceeds(limit_ns) || silent_ns > LONGEST_NS {
            self.stalled = false;
            return false;
        }
        self.add(stall);
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

    fn since(&self, since_ns: Nanos) -> impl DoubleEndedIterator<Item = &Stall> {
        self.stalls.iter().filter(move |stall| stall.until_ns > since_ns)
    }

    /// How much of the time from `since_ns` on CPUs, or the detection thread, stood still.
    pub fn stalled_ns(&self, since_ns: Nanos) -> Nanos {
        self.since(since_ns).map(|stall| stall.until_ns - stall.from_ns.max(since_ns)).sum()
    }

    /// The end of the newest stall of a CPU that puts a verdict in doubt, as far as it was seen: while it goes on, the last
    /// call of [`Self::observe`]. `None` = there is no doubt. (What stalls of the detection thread alone excuse, routes
    /// know themselves.)
    pub fn doubt_until_ns(&self, doubt: &Doubt) -> Option<Nanos> {
        let concerns = |stall: &&Stall| stall.receive && stall.exceeds(doubt.limit_ns);
        self.since(doubt.evidence_ns).rfind(concerns).map(|stall| stall.until_ns)
    }

    /// Whether the verdict at `now`, which a stall puts in doubt, must wait: until the detection time has passed without the
    /// stalls, and until `fresh_until_ns`, when what was sent after the last one should be back.
    pub fn holds(&self, now: Nanos, doubt: &Doubt, fresh_until_ns: Nanos) -> bool {
        let age_ns = now.saturating_sub(doubt.evidence_ns);
        let counted_ns = age_ns.saturating_sub(self.stalled_ns(doubt.evidence_ns).min(LONGEST_NS));
        let longest_ns = doubt.detection_ns.saturating_add(LONGEST_NS);
        counted_ns <= doubt.detection_ns || (now < fresh_until_ns && age_ns <= longest_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Nanos = 1_000_000;
    const LIMIT: Nanos = MS / 2;
    const DETECTION: Nanos = 5 * MS;
    const TRIP: Nanos = MS;

    fn doubt(evidence_ns: Nanos) -> Doubt {
        Doubt { evidence_ns, detection_ns: DETECTION, limit_ns: LIMIT }
    }

    /// A heartbeat leaves as soon as a stall is over.
    fn holds(receiving: &Receiving, now: Nanos, evidence_ns: Nanos) -> bool {
        let doubt = doubt(evidence_ns);
        let until_ns = receiving.doubt_until_ns(&doubt);
        until_ns.is_some_and(|until_ns| receiving.holds(now, &doubt, until_ns + TRIP))
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
    fn a_slow_route_does_not_wait_for_stalls_that_it_bears() {
        let mut receiving = Receiving::new();
        stand_still(&mut receiving, 100 * MS, 103 * MS);
        receiving.observe(104 * MS, 0, LIMIT);
        let slow = Doubt { limit_ns: 5 * MS, ..doubt(90 * MS) };
        assert_eq!(receiving.doubt_until_ns(&slow), None);
        assert_eq!(receiving.doubt_until_ns(&doubt(90 * MS)), Some(103 * MS));
        stand_still(&mut receiving, 110 * MS, 117 * MS);
        assert_eq!(receiving.doubt_until_ns(&slow), Some(117 * MS));
        receiving.observe(118 * MS, 0, LIMIT);
        stand_still(&mut receiving, 120 * MS, 123 * MS);
        receiving.observe(124 * MS, 0, LIMIT);
        assert_eq!(receiving.doubt_until_ns(&slow), Some(117 * MS), "not put off by what came after");
        assert_eq!(receiving.doubt_until_ns(&Doubt { evidence_ns: 117 * MS, ..slow }), None);
    }

    #[test]
    fn ticks_may_be_late_by_the_floor_however_fast_heartbeats_are() {
        let mut receiving = Receiving::new();
        assert!(!receiving.observe(100 * MS, CPU_TICK_NS + FLOOR_NS, 10_000));
        assert!(receiving.observe(101 * MS, CPU_TICK_NS + FLOOR_NS + 1, 10_000));
    }

    #[test]
    fn a_cpu_that_is_gone_hides_no_stall_of_another() {
        assert_eq!(longest_silence_ns([MS, 7 * MS, LONGEST_NS + 1].into_iter()), 7 * MS);
        assert_eq!(longest_silence_ns([LONGEST_NS + 1].into_iter()), 0);
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
