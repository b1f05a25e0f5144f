//! Why a route is down: which direction failed, what the far end told about it, and what it must be told.

use super::{NOTICE_REPEATS, Route, Told};
use crate::detect::sabotage::{Sabotage, broken};
use crate::types::{LinkState, Nanos, RouteReason, RouteState};
use netft_common::map::down_reason;

impl Route {
    /// Whether the peer's leg 1s have come in since the newest evidence. They can only do so if the peer's
    /// direction works; that no leg 3 answers our leg 2s then means that ours doesn't.
    fn hears_requests(&self, now: Nanos) -> bool {
        let recent = now.saturating_sub(self.seen.arrival_ns[0]) < (self.detection_ns() / 2).max(1);
        recent && self.seen.highest[0].saturating_sub(self.peer_requests_then) >= 2
    }

    /// What the missing evidence looks like.
    pub(in crate::detect) fn missed_reason(&self, now: Nanos) -> RouteReason {
        let told = Told::from_word(self.seen.told_down);
        if broken(Sabotage::NamesNothing) {
            RouteReason::HeartbeatsMissed
        } else if self.hears_requests(now) {
            RouteReason::RxOnly
        } else if told.reason == down_reason::RX_ONLY && told.at_ns > self.evidence_ns {
            RouteReason::TxOnly
        } else {
            RouteReason::HeartbeatsMissed
        }
    }

    /// While the route is down for want of heartbeats: the direction may show itself later. Returns the new reason
    /// if it changed. RxOnly ends when no leg 1 has come in for a detection time.
    pub(in crate::detect) fn refined_reason(&self, now: Nanos) -> Option<RouteReason> {
        let reason = match self.reason {
            RouteReason::Starting if self.sent <= u64::from(self.setup.timing.threshold) => return None,
            RouteReason::Starting => match self.missed_reason(now) {
                RouteReason::HeartbeatsMissed => RouteReason::Starting,
                reason => reason,
            },
            RouteReason::HeartbeatsMissed | RouteReason::TxOnly => self.missed_reason(now),
            RouteReason::RxOnly => {
                let silence = now.saturating_sub(self.seen.arrival_ns[0]);
                if silence <= self.detection_ns() { RouteReason::RxOnly } else { self.missed_reason(now) }
            }
            reason => reason,
        };
        (!self.is_up() && reason != self.reason).then_some(reason)
    }

    /// The state that the far end told over another route, if that is news: newer than any evidence, and than the
    /// run that counts now. Later evidence brings the route up again.
    pub(in crate::detect) fn told_state(&self) -> Option<(RouteState, RouteReason)> {
        let told = Told::from_word(self.seen.told_down);
        if told.at_ns <= self.counted_ns || told.at_ns <= self.evidence_ns || !self.link_is_up() {
            return None;
        }
        let at_peer = matches!(self.reason, RouteReason::PeerCarrierLost | RouteReason::PeerAdminDown);
        match told.reason {
            down_reason::CARRIER => Some((RouteState::Down, RouteReason::PeerCarrierLost)),
            down_reason::ADMIN => Some((RouteState::AdminDown, RouteReason::PeerAdminDown)),
            // Its interface is back, and hears us.
            down_reason::RX_ONLY if at_peer => Some((RouteState::Down, RouteReason::TxOnly)),
            _ => None,
        }
    }

    /// Takes the told state as handled: what was sent before doesn't count.
    pub(in crate::detect) fn accept_told(&mut self) {
        self.restart_run(Told::from_word(self.seen.told_down).at_ns);
    }

    /// What to tell the peer about this route, as long as it needs telling.
    pub(in crate::detect) fn notice(&self) -> Option<u32> {
        match (self.link, self.reason) {
            (LinkState::NoCarrier, _) => Some(down_reason::CARRIER),
            (LinkState::AdminDown, _) => Some(down_reason::ADMIN),
            (LinkState::Up, RouteReason::RxOnly) => Some(down_reason::RX_ONLY),
            (LinkState::Up, _) => None,
        }
    }

    pub(in crate::detect) fn notices_left(&self) -> u32 {
        if self.notice().is_some() { self.notices_left } else { 0 }
    }

    /// Starts telling the peer about this route.
    pub(in crate::detect) fn start_notices(&mut self) {
        self.notices_left = if self.notice().is_some() { NOTICE_REPEATS } else { 0 };
    }

    pub(in crate::detect) fn count_notice(&mut self) {
        self.notices_left = self.notices_left.saturating_sub(1);
    }
}
