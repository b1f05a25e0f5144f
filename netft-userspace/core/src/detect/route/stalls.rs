//! What an own stall means for the verdict on a route.

use super::{Excuse, POSTPONEMENTS, Route};
use crate::detect::receiving::Doubt;
use crate::detect::sabotage::{Sabotage, broken};
use crate::types::Nanos;

/// A late wake of less than this is no stall at usual delays: sleeping under SCHED_FIFO is up to 150 µs late.
const STALL_FLOOR_NS: Nanos = 300_000;

impl Route {
    /// How late the loop may be without this route's verdict being in doubt.
    pub(in crate::detect) fn stall_limit_ns(&self) -> Nanos {
        (self.delay_ns() / 2).max(STALL_FLOOR_NS).min(self.detection_ns() / 2)
    }

    /// The loop should have run at `now - late_ns`. Since then we sent no leg 1, and the peer's engine may have been
    /// away as well, so that time proves nothing: the deadline moves by it, and the route keeps the chances that it
    /// would have had. Call it with evidence just read.
    ///
    /// What bounds this: once `threshold` leg 1s of ours are missing the excuse is void, and a verdict that is due
    /// is put off at most twice. So a route that is dead is found within detection time + trip after the later of
    /// its cut and the end of our stall, and whatever stalls follow, by the third that finds the verdict due.
    pub(in crate::detect) fn excuse_stall(&mut self, now: Nanos, late_ns: Nanos) -> Excuse {
        if !self.is_watched() || late_ns <= self.stall_limit_ns() || broken(Sabotage::IgnoresOwnStalls) {
            return Excuse::NotNeeded;
        }
        let due = now > self.deadline_ns();
        if due && self.postponed >= POSTPONEMENTS {
            return Excuse::Exhausted;
        }
        self.excused_ns = self.excused_ns.saturating_add(late_ns);
        self.silent_until_ns = now;
        if !due {
            return Excuse::Extended;
        }
        self.postponed += 1;
        let without_ns =
            self.completed_ns.saturating_add(2 * self.srtt_ns).saturating_add(self.detection_ns());
        let enough_ns = now.saturating_add(self.fresh_ns()).saturating_sub(without_ns);
        self.excused_ns = self.excused_ns.max(enough_ns);
        self.hurry_request(now, now);
        Excuse::Postponed
    }

    /// When the newest evidence left.
    pub(in crate::detect) fn evidence_ns(&self) -> Nanos {
        self.evidence_ns
    }

    /// When the first leg 1 after a stall that ended at `until_ns`, at `now` in the past, left or leaves, at the latest.
    pub(in crate::detect) fn first_request_after(&mut self, now: Nanos, until_ns: Nanos) -> Nanos {
        match self.hurry_request(now, until_ns.saturating_add(1)) {
            next_ns if next_ns > self.last_request_ns => next_ns,
            last_ns => last_ns.min(until_ns.saturating_add(self.delay_ns())),
        }
    }

    /// What a stall of a CPU of ours would put in doubt.
    pub(in crate::detect) fn doubt(&self) -> Doubt {
        Doubt {
            evidence_ns: self.evidence_ns,
            detection_ns: self.detection_ns(),
            limit_ns: self.stall_limit_ns(),
        }
    }

    /// How long from now on until a heartbeat that is yet to be sent must be back.
    pub(in crate::detect) fn fresh_ns(&self) -> Nanos {
        2 * self.srtt_ns + self.delay_ns().max(STALL_FLOOR_NS)
    }
}
