//! One watched route: its pace, its evidence, and when that is too old.

mod reasons;
mod stalls;

use super::damping::{DampingConfig, Flaps};
use super::pace::{early_ns, on_grid, phase_of};
use super::sabotage::{Sabotage, broken};
use super::{Adopted, Histogram, RouteRecord, RouteSetup, RouteView, SlotEvidence};
use crate::types::{LinkState, Nanos, NodeId, RouteReason, RouteState, Slot};
use netft_common::map::Standing;

/// Leg 1s that carry one notice, so that it arrives although some are lost.
const NOTICE_REPEATS: u32 = 32;
/// Verdicts on one accusation that own stalls may put off.
const POSTPONEMENTS: u8 = 2;
/// Of so many first round trips the shortest counts.
const FIRST_SAMPLES: u8 = 3;
/// Round trips above this are taken as this: the clock goes on in suspend, and a patience of hours is none.
const RTT_CAP_NS: Nanos = 1_000_000_000;

/// What an own stall did to a verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Excuse {
    /// Nothing: evidence is fresh, or the route isn't up.
    NotNeeded,
    /// The deadline moved by the time we were away; it hadn't passed.
    Extended,
    /// The verdict was due and was put off.
    Postponed,
    /// It was put off often enough: it stands.
    Exhausted,
}

/// What the far end told about a route over another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Told {
    at_ns: Nanos,
    reason: u32,
}

impl Told {
    fn from_word(word: u64) -> Self {
        Self { at_ns: word & !0xf, reason: u32::try_from(word & 0xf).unwrap_or(0) }
    }
}

/// One watched route.
#[derive(Clone, Copy, Debug)]
pub(super) struct Route {
    pub(super) setup: RouteSetup,
    /// The next in the list of the peer's routes.
    pub(super) next_of_peer: Option<Slot>,
    pub(super) state: RouteState,
    pub(super) reason: RouteReason,
    pub(super) since_ns: Nanos,
    /// From when its being up counts for failing back to it.
    pub(super) hold_from_ns: Nanos,
    /// What the kernel says of its interface.
    link: LinkState,
    /// Evidence as last read.
    pub(super) seen: SlotEvidence,

    phase_ns: Nanos,
    /// When leg 1 is due; `Nanos::MAX` while the link is dead.
    next_request_ns: Nanos,
    /// When leg 1 was last due, and when it was last handed out.
    last_request_ns: Nanos,
    last_sent_ns: Nanos,
    next_sequence: u64,
    sent: u64,
    completed: u64,

    /// Smoothed round trip; 0 = none measured.
    pub(super) srtt_ns: Nanos,
    rtt_samples: u8,
    /// Send stamp of the newest heartbeat that proved both directions (or when watching began).
    evidence_ns: Nanos,
    /// The peer's leg 1s seen when `evidence_ns` last advanced.
    peer_requests_then: u64,
    /// Send stamps of the newest heartbeat of ours that completed (or when watching began), and of the peer's.
    completed_ns: Nanos,
    confirmed_ns: Nanos,
    /// Newest stamp counted for coming up; only newer ones count.
    counted_ns: Nanos,
    run: u32,

    /// How long we sent nothing since `completed_ns`, until when, and how often that put off a verdict.
    excused_ns: Nanos,
    silent_until_ns: Nanos,
    postponed: u8,
    /// When the last verdict was made, whatever it was.
    judged_ns: Nanos,

    /// Leg 1s of other routes that still carry the notice about this one.
    notices_left: u32,

    /// Send stamp of the newest heartbeat of ours that had completed when it went down; 0 = it never was up.
    covered_ns: Nanos,

    /// How often it went down lately, and whether its history says already that it is held back for that.
    flaps: Flaps,
    hold_told: bool,
}

/// Whether a down for this reason counts as a flap. What an administrator or the peer's end did does not.
fn is_flap(reason: RouteReason) -> bool {
    matches!(
        reason,
        RouteReason::HeartbeatsMissed
            | RouteReason::RxOnly
            | RouteReason::TxOnly
            | RouteReason::CarrierLost
            | RouteReason::PeerCarrierLost
    )
}

impl Route {
    pub(super) fn new(now: Nanos, setup: RouteSetup, link: LinkState, own_id: NodeId, phases: u64) -> Self {
        let (state, reason) = match (link, setup.adopted) {
            (LinkState::NoCarrier, _) => (RouteState::Down, RouteReason::CarrierLost),
            (LinkState::AdminDown, _) => (RouteState::AdminDown, RouteReason::AdminDown),
            (LinkState::Up, Adopted::Up) => (RouteState::Up, RouteReason::Adopted),
            (LinkState::Up, Adopted::No) => (RouteState::Down, RouteReason::Starting),
        };
        let mut route = Self {
            setup,
            next_of_peer: None,
            state,
            reason,
            since_ns: now,
            // An adopted route has been up all the while: traffic goes to the best of them at once.
            hold_from_ns: if state == RouteState::Up { 0 } else { now },
            link,
            seen: SlotEvidence::default(),
            phase_ns: phase_of(setup.slot, own_id, setup.timing.delay_ns.max(1), phases),
            next_request_ns: Nanos::MAX,
            last_request_ns: 0,
            last_sent_ns: 0,
            next_sequence: setup.first_sequence.max(1),
            sent: 0,
            completed: 0,
            srtt_ns: 0,
            rtt_samples: 0,
            evidence_ns: now,
            peer_requests_then: 0,
            completed_ns: now,
            confirmed_ns: 0,
            counted_ns: now,
            run: 0,
            excused_ns: 0,
            silent_until_ns: 0,
            postponed: 0,
            judged_ns: 0,
            notices_left: 0,
            covered_ns: 0,
            flaps: Flaps::default(),
            hold_told: false,
        };
        route.schedule_request(now);
        route
    }

    fn delay_ns(&self) -> Nanos {
        self.setup.timing.delay_ns.max(1)
    }

    pub(super) fn detection_ns(&self) -> Nanos {
        self.setup.timing.detection_ns()
    }

    pub(super) fn is_up(&self) -> bool {
        self.state == RouteState::Up
    }

    /// As transmitters must know it.
    pub(super) fn standing(&self) -> Standing {
        match self.state {
            RouteState::Up => Standing::Up { since_ns: self.since_ns },
            RouteState::Down | RouteState::AdminDown => Standing::Down { covered_ns: self.covered_ns },
        }
    }

    /// Whether it would be up if it weren't damped.
    pub(super) fn is_held_back(&self) -> bool {
        self.reason == RouteReason::Damped
    }

    /// Whether its evidence is under watch: it is up, or held back.
    fn is_watched(&self) -> bool {
        self.is_up() || self.is_held_back()
    }

    pub(super) fn link_is_up(&self) -> bool {
        self.link == LinkState::Up
    }

    /// New metric, timing or interface of a watched route; what is known about it stays.
    pub(super) fn change(&mut self, now: Nanos, setup: RouteSetup, own_id: NodeId, phases: u64) {
        let timing_changed = setup.timing != self.setup.timing;
        self.next_sequence = self.next_sequence.max(setup.first_sequence);
        self.setup = setup;
        if timing_changed {
            // Evidence is as old as the old pace made it: the new patience counts from now.
            self.completed_ns = self.completed_ns.max(now);
            self.set_phases(own_id, phases);
            if self.link_is_up() {
                self.schedule_request(now);
            }
        }
    }

    // --- pace -----------------------------------------------------------------------------------------------

    /// Where on the grid this node's leg 1s leave now that it uses so many phases. Takes effect with the next one
    /// that is planned.
    pub(super) fn set_phases(&mut self, own_id: NodeId, phases: u64) {
        self.phase_ns = phase_of(self.setup.slot, own_id, self.delay_ns(), phases);
    }

    /// How early its leg 1 may leave with a wake that comes anyway.
    pub(super) fn early_ns(&self) -> Nanos {
        early_ns(self.delay_ns())
    }

    fn schedule_request(&mut self, from: Nanos) {
        self.next_request_ns = match self.link {
            LinkState::Up => on_grid(from, self.delay_ns(), self.phase_ns),
            LinkState::NoCarrier | LinkState::AdminDown => Nanos::MAX,
        };
    }

    /// Whether leg 1 is due; if so, the next one is planned. After a stall the missed ones are skipped, and the
    /// next one is at least half a delay away, so that there is never a burst.
    pub(super) fn take_request(&mut self, now: Nanos) -> bool {
        if now.saturating_add(self.early_ns()) < self.next_request_ns || !self.link_is_up() {
            return false;
        }
        self.last_request_ns = now;
        if broken(Sabotage::CatchesUp) {
            self.next_request_ns = self.next_request_ns.saturating_add(self.delay_ns());
            return true;
        }
        self.schedule_request(now.saturating_add(self.delay_ns() / 2));
        true
    }

    /// Sends leg 1 at once, or a quarter of a delay after the last one, unless one left at or after `since`; returns
    /// when it leaves or left.
    pub(super) fn hurry_request(&mut self, now: Nanos, since: Nanos) -> Nanos {
        if self.last_request_ns >= since {
            return self.last_request_ns;
        }
        if self.link_is_up() {
            let soonest_ns = self.last_request_ns.saturating_add(self.delay_ns() / 4).max(now);
            self.next_request_ns = self.next_request_ns.min(soonest_ns);
        }
        self.next_request_ns
    }

    /// The sequence of a leg 1 that leaves now.
    pub(super) fn next_sequence(&mut self, now: Nanos) -> u64 {
        self.last_sent_ns = now;
        let sequence = self.next_sequence;
        self.next_sequence = sequence.saturating_add(1);
        if broken(Sabotage::RepeatsSequences) && self.sent.is_multiple_of(4) {
            self.next_sequence = sequence;
        }
        self.sent = self.sent.saturating_add(1);
        sequence
    }

    // --- evidence -------------------------------------------------------------------------------------------

    /// Takes in what XDP stamped.
    pub(super) fn observe(&mut self, seen: SlotEvidence, rtt: &mut Histogram) {
        if seen.highest[1] > self.seen.highest[1] && seen.rtt_ns > 0 {
            rtt.record(seen.rtt_ns);
            self.smooth(self.round_trip(&seen).min(RTT_CAP_NS));
        }
        if seen.highest[3] > self.seen.highest[3] {
            self.completed = self.completed.saturating_add(1);
        }
        self.seen = seen;
        let newest = seen.completed_sent_ns.max(seen.confirmed_sent_ns);
        if newest > self.evidence_ns {
            self.evidence_ns = newest;
            self.peer_requests_then = seen.highest[0];
            self.postponed = 0;
        }
        // Only our own heartbeats bring a route up. Leg 3 proves both directions as well, but not that our kernel can
        // send: after a lost carrier it may look for the neighbour for a second, while XDP answers by itself.
        let own = seen.completed_sent_ns;
        if own > self.counted_ns {
            // Read once per delay, so one in between may have escaped us.
            let together = own - self.counted_ns <= self.detection_ns() + self.delay_ns();
            self.run = if together { self.run.saturating_add(1) } else { 1 };
            self.counted_ns = own;
        }
        self.completed_ns = self.completed_ns.max(seen.completed_sent_ns);
        self.confirmed_ns = self.confirmed_ns.max(seen.confirmed_sent_ns);
        if self.completed_ns >= self.silent_until_ns {
            self.excused_ns = 0;
        }
    }

    /// The round trip of the newest leg 2; or of the newest leg 3, which needs no engine of ours and so may be fresher,
    /// if that is shorter and not older.
    fn round_trip(&self, seen: &SlotEvidence) -> Nanos {
        let (replied_ns, confirmed_ns) = (seen.arrival_ns[1], seen.arrival_ns[2]);
        let fresh = confirmed_ns.saturating_add(self.detection_ns()) >= replied_ns;
        // The two words are read one after the other: a stamp from after the arrival belongs to the next leg.
        let of_leg_3 = confirmed_ns.checked_sub(seen.confirmed_sent_ns).filter(|rtt| fresh && *rtt > 0);
        of_leg_3.map_or(seen.rtt_ns, |rtt| rtt.min(seen.rtt_ns))
    }

    /// RFC 6298, section 2: by eighths. But a late answer (a host stood still, the first sample is one of long ago) must
    /// not make us patient with what comes after: the best of the first few counts, and later a sample counts only for
    /// so much more than what is known. A path that has become longer is believed after some samples.
    fn smooth(&mut self, sample: Nanos) {
        if self.rtt_samples < FIRST_SAMPLES {
            self.rtt_samples += 1;
            self.srtt_ns = if self.srtt_ns == 0 { sample } else { sample.min(self.srtt_ns) };
            return;
        }
        let believable = self.srtt_ns.saturating_mul(4).saturating_add(self.delay_ns());
        self.srtt_ns = self.srtt_ns - self.srtt_ns / 8 + sample.min(believable) / 8;
    }

    /// Forgets the run: only heartbeats sent after `from` can bring the route up.
    fn restart_run(&mut self, from: Nanos) {
        self.run = 0;
        self.counted_ns = self.counted_ns.max(from);
    }

    /// When patience ends by the clock: too many heartbeats that could have completed by then did not. Leg 4 is back
    /// two round trips after its leg 1 left, leg 3 one round trip after its leg 2. `excused_ns` is time in which we
    /// sent no leg 1, so that none of ours can be missing for it.
    fn patience_ns(&self, excused_ns: Nanos) -> Nanos {
        let srtt_ns = if broken(Sabotage::ForgetsTrip) { 0 } else { self.srtt_ns };
        let completed = self.completed_ns.saturating_add(2 * srtt_ns).saturating_add(excused_ns);
        let confirmed = self.confirmed_ns.saturating_add(srtt_ns);
        let detection_ns = match self.detection_ns() {
            detection_ns if broken(Sabotage::TwicePatient) => 2 * detection_ns,
            detection_ns if broken(Sabotage::Impatient) => detection_ns / 2,
            detection_ns => detection_ns,
        };
        completed.max(confirmed).saturating_add(detection_ns)
    }

    /// Until when the route counts as up without newer evidence.
    fn deadline_ns(&self) -> Nanos {
        self.patience_ns(self.excused_ns)
    }

    /// Whether too many heartbeats in a row were missed, by the clock and by count. By the clock alone somebody could
    /// be accused for heartbeats that left late or never, so half the threshold must be missing for certain. Where
    /// own stalls stretched the clock, the whole threshold missing decides. When own stalls have put off the verdict
    /// often enough, the stamps alone decide.
    pub(super) fn is_overdue(&mut self, now: Nanos) -> bool {
        self.judged_ns = now;
        if !self.is_watched() || now <= self.patience_ns(0) {
            return false;
        }
        if broken(Sabotage::IgnoresOwnStalls) || broken(Sabotage::Impatient) {
            return true;
        }
        let threshold = self.setup.timing.threshold;
        let misses = self.misses(now, self.sure_trip_ns());
        if now > self.deadline_ns() {
            misses >= (threshold / 2).max(1) || self.postponed >= POSTPONEMENTS
        } else {
            misses >= threshold
        }
    }

    /// A leg 4 that isn't back after this will not come.
    fn sure_trip_ns(&self) -> Nanos {
        let srtt_ns = if broken(Sabotage::ForgetsTrip) { 0 } else { self.srtt_ns };
        2 * srtt_ns + self.delay_ns() / 2
    }

    /// Whether enough heartbeats in a row completed for a route that isn't damped.
    pub(super) fn may_come_up(&self, now: Nanos, up_run: u32) -> bool {
        !self.is_up() && self.link_is_up() && self.run >= up_run.max(1) && now <= self.deadline_ns()
    }

    /// Whether it must complete heartbeats for longer, as it went down too often.
    pub(super) fn is_damped(&mut self, now: Nanos, damping: &DampingConfig) -> bool {
        self.flaps.is_damped(now, damping)
    }

    /// When this route must be looked at next.
    pub(super) fn due_ns(&self) -> Nanos {
        if !self.is_watched() {
            return self.next_request_ns;
        }
        // Past the deadline without a verdict, each leg 1 that turns out to be missing may bring it.
        let soonest_ns = self.deadline_ns().saturating_add(1);
        let sure_ns = self.last_sent_ns.saturating_add(self.sure_trip_ns());
        let verdict_ns = match () {
            () if soonest_ns > self.judged_ns => soonest_ns,
            () if sure_ns > self.judged_ns => sure_ns,
            () => Nanos::MAX,
        };
        self.next_request_ns.min(verdict_ns)
    }

    // --- transitions ----------------------------------------------------------------------------------------

    /// Takes the kernel's word about the interface; returns the state and reason that follow.
    pub(super) fn set_link(&mut self, now: Nanos, link: LinkState) -> (RouteState, RouteReason) {
        let was_up = self.link_is_up();
        self.link = link;
        if !(was_up && self.link_is_up()) {
            self.schedule_request(now);
            self.restart_run(now);
        }
        match link {
            LinkState::Up if was_up => (self.state, self.reason),
            LinkState::Up => (RouteState::Down, RouteReason::Starting),
            LinkState::NoCarrier => (RouteState::Down, RouteReason::CarrierLost),
            LinkState::AdminDown => (RouteState::AdminDown, RouteReason::AdminDown),
        }
    }

    /// Enters a state; the record of it if it is another one, or if damping holds it in this one.
    pub(super) fn enter(
        &mut self,
        now: Nanos,
        state: RouteState,
        reason: RouteReason,
        damping: &DampingConfig,
    ) -> Option<RouteRecord> {
        let (old, was_watched) = (self.state, self.is_watched());
        self.reason = reason;
        if was_watched && state != RouteState::Up && !self.is_held_back() {
            self.restart_run(now);
            if is_flap(reason) {
                self.flaps.note_down(now, damping);
            }
        }
        let news = old != state || (self.is_held_back() && !self.hold_told);
        if !news {
            return None;
        }
        self.hold_told = self.is_held_back();
        if old != state {
            if old == RouteState::Up {
                let covers_all = broken(Sabotage::CoversAll);
                self.covered_ns = if covers_all { now } else { self.seen.completed_sent_ns };
            }
            self.state = state;
            self.since_ns = now;
        }
        if state == RouteState::Up {
            self.hold_from_ns = now;
            self.notices_left = 0;
        }
        Some(self.record(now, old))
    }

    pub(super) fn record(&self, now: Nanos, old: RouteState) -> RouteRecord {
        let newest_arrival = self.seen.arrival_ns.iter().copied().max().unwrap_or(0);
        RouteRecord {
            at_ns: now,
            slot: self.setup.slot,
            peer: self.setup.peer,
            old,
            new: self.state,
            reason: self.reason,
            sent: self.sent,
            completed: self.completed,
            misses: self.misses(now, self.srtt_ns),
            threshold: self.setup.timing.threshold,
            evidence_age_ns: now.saturating_sub(self.evidence_ns),
            silence_ns: now.saturating_sub(newest_arrival),
            stalled_ns: 0,
        }
    }

    /// Heartbeats of ours in a row that didn't complete, without those that may still be under way for want of
    /// `trip_ns`.
    fn misses(&self, now: Nanos, trip_ns: Nanos) -> u32 {
        let newest_sent = self.next_sequence.saturating_sub(1);
        let open = newest_sent.saturating_sub(self.seen.highest[3]).min(self.sent);
        let since = now.saturating_sub(self.last_sent_ns);
        let travelling = match trip_ns.checked_sub(since) {
            Some(left) if left > 0 => 1 + (left - 1) / self.delay_ns(),
            _ => 0,
        };
        u32::try_from(open.saturating_sub(travelling)).unwrap_or(u32::MAX)
    }

    pub(super) fn view(&self, now: Nanos, damping: &DampingConfig) -> RouteView {
        RouteView {
            slot: self.setup.slot,
            peer: self.setup.peer,
            state: self.state,
            reason: self.reason,
            since_ns: self.since_ns,
            misses: self.misses(now, self.srtt_ns),
            srtt_ns: self.srtt_ns,
            sent: self.sent,
            completed: self.completed,
            heard_ns: self.seen.arrival_ns.iter().copied().max().unwrap_or(0),
            peer_tick_ns: self.seen.peer_tick_ns,
            flaps_milli: self.flaps.count(now, damping),
            damped_left_ns: self.flaps.left_ns(now, damping),
        }
    }
}
