//! Peers whose daemon is away: their XDP programs go on answering, so routes stay for as long as a restart or an upgrade may
//! take, but not for ever.

use super::MembershipEvent;
use super::machine::Membership;
use crate::types::{Nanos, NodeId, NodeState};

impl Membership {
    /// The detector reports what a peer looks like from `at_ns` on: every change.
    pub fn handle_peer(&mut self, at_ns: Nanos, peer: NodeId, state: NodeState) {
        if let Some(peer) = self.peers.values_mut().find(|known| known.id() == Some(peer)) {
            peer.away_since_ns = (state == NodeState::EngineStalled).then_some(at_ns);
        }
    }

    /// When the next peer has been away for too long.
    pub(super) fn absence_timeout_ns(&self) -> Nanos {
        let away = self.peers.values().filter_map(|peer| peer.away_since_ns);
        away.map(|since_ns| since_ns.saturating_add(self.config.absence_ns)).min().unwrap_or(Nanos::MAX)
    }

    /// Gives up those that have been away for too long. Whoever comes back introduces itself again.
    pub(super) fn give_up_absent(&mut self, now: Nanos) {
        let absence_ns = self.config.absence_ns;
        let over = |since_ns: Nanos| since_ns.saturating_add(absence_ns) <= now;
        let absent = self.peers.iter().filter(|(_, peer)| peer.away_since_ns.is_some_and(over));
        let absent: Vec<String> = absent.map(|(name, _)| name.clone()).collect();
        for name in absent {
            self.drop_session(now, &name, "the peer's daemon has been away for longer than engine.absence");
            if let Some(peer) = self.peers.get_mut(&name) {
                peer.away_since_ns = None;
            }
            self.events.push_back(MembershipEvent::PeerAbsent { peer: name });
        }
    }
}
