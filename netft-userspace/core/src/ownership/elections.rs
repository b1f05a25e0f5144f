//! When to stand for election, and which vote requests to ignore: rule 11. Consensus by itself would wait for its own timers;
//! the detector knows earlier that a leader is gone.

use super::sabotage::{Sabotage, broken};
use super::{LogId, NodeSet, VoterSets};
use crate::types::{Nanos, NodeId};
use std::collections::BTreeMap;

/// A leader from whom nothing has come for this long is none, whatever the detector says.
pub const NO_PROGRESS_NS: Nanos = 500_000_000;
/// Candidates stand at least this much apart, so that one is elected before the next stands; more where votes take longer to be
/// stored.
pub const STAGGER_NS: Nanos = 3_000_000;
/// An election that takes longer than this isn't waited for.
const MAX_STAGGER_NS: Nanos = 100_000_000;

/// What to do with a vote request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heed {
    /// Let consensus decide.
    Consider,
    /// Drop it: whoever sent it would only depose a leader that works.
    Drop,
}

/// What the detector says of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// Its host answers and its engine ticks.
    Up,
    /// One of them doesn't.
    Down,
}

#[derive(Clone, Copy, Debug)]
struct Peer {
    seen: Seen,
    /// The end of its log; as long as that isn't known, it is taken to be as long as the own one.
    last: Option<LogId>,
    /// When it last acknowledged anything to this node as the leader.
    acknowledged_ns: Nanos,
}

/// Elections as one node sees them.
#[derive(Debug)]
pub struct Elections {
    own: NodeId,
    leader: Option<NodeId>,
    appended_ns: Nanos,
    /// When to stand next, while there is no leader.
    stand_ns: Option<Nanos>,
    stagger_ns: Nanos,
    peers: BTreeMap<NodeId, Peer>,
}

impl Elections {
    /// A node that knows of no leader yet.
    pub fn new(now: Nanos, own: NodeId) -> Self {
        Self {
            own,
            leader: None,
            appended_ns: now,
            stand_ns: None,
            stagger_ns: STAGGER_NS,
            peers: BTreeMap::new(),
        }
    }

    /// How long an election takes, as far as is known: a vote is stored before it is given.
    pub fn handle_pace(&mut self, election_ns: Nanos) {
        self.stagger_ns = election_ns.clamp(STAGGER_NS, MAX_STAGGER_NS);
    }

    /// This node has given its vote to somebody: who then leads is waited for.
    pub fn handle_granted(&mut self, now: Nanos, voters: &VoterSets, last: LogId) {
        if self.leader.is_none() {
            self.stand_again(now, voters, last);
        }
    }

    /// The detector's verdict on a peer.
    pub fn handle_peer(&mut self, now: Nanos, node: NodeId, seen: Seen) {
        self.peer(node).seen = seen;
        if self.leader == Some(node) && seen == Seen::Down {
            self.leader = None;
            self.stand_ns = None;
            self.appended_ns = now;
        }
    }

    /// How long a peer's log is.
    pub fn handle_last(&mut self, node: NodeId, last: LogId) {
        self.peer(node).last = Some(last);
    }

    /// Something came from the leader of the present term. What is still under way from one that the detector has given up
    /// doesn't bring it back.
    pub fn handle_append(&mut self, now: Nanos, leader: NodeId) {
        if self.peer(leader).seen == Seen::Down {
            return;
        }
        (self.leader, self.appended_ns, self.stand_ns) = (Some(leader), now, None);
    }

    /// This node, as the leader, was acknowledged.
    pub fn handle_acknowledge(&mut self, now: Nanos, node: NodeId) {
        self.peer(node).acknowledged_ns = now;
    }

    /// This node became the leader.
    pub fn handle_elected(&mut self, now: Nanos) {
        self.handle_append(now, self.own);
        self.peers.values_mut().for_each(|peer| peer.acknowledged_ns = now);
    }

    /// There is a newer term, with no leader known.
    pub fn handle_no_leader(&mut self) {
        if self.leader.take().is_some() {
            self.stand_ns = None;
        }
    }

    /// When [`Elections::handle_timeout`] is due, for a voter of these sets whose log ends with `last`.
    pub fn poll_timeout(&mut self, now: Nanos, voters: &VoterSets, last: LogId) -> Nanos {
        match self.leader {
            Some(leader) if leader == self.own => Nanos::MAX,
            Some(_) => self.appended_ns.saturating_add(NO_PROGRESS_NS),
            None => {
                let stand_ns = now + self.rank(voters, last) * self.stagger_ns;
                *self.stand_ns.get_or_insert(stand_ns)
            }
        }
    }

    /// Whether to stand for election now. Repeats itself, a round of everybody later, until a leader is known.
    pub fn handle_timeout(&mut self, now: Nanos, voters: &VoterSets, last: LogId) -> bool {
        if self.leader == Some(self.own) || !voters.all().contains(self.own) {
            return false;
        }
        if self.leader.is_some() && now.saturating_sub(self.appended_ns) >= NO_PROGRESS_NS {
            self.handle_no_leader();
        }
        let due = self.leader.is_none()
            && now >= self.poll_timeout(now, voters, last)
            && self.sees_majority(voters);
        if due {
            self.stand_again(now, voters, last);
        }
        due
    }

    /// What to do with a vote request: while the leader is up and at work, it is dropped; a leader drops it while a majority
    /// acknowledges it. Consensus has no pre-vote, so a node that was cut off would depose a good leader on its return.
    /// A leader that asks for votes itself leads no more.
    pub fn heed_vote_request(&mut self, now: Nanos, from: NodeId, voters: &VoterSets) -> Heed {
        if self.leader == Some(from) {
            self.handle_no_leader();
        }
        if broken(Sabotage::HeedsEveryVote) {
            return Heed::Consider;
        }
        let lately = |at_ns: Nanos| now.saturating_sub(at_ns) < NO_PROGRESS_NS;
        let keeps = match self.leader {
            Some(leader) if leader == self.own => {
                let fine = |peer: &Peer| lately(peer.acknowledged_ns) && peer.seen == Seen::Up;
                let nodes = self.peers.iter().filter(|(_, peer)| fine(peer)).map(|(node, _)| *node);
                let mut nodes: NodeSet = nodes.collect();
                nodes.insert(self.own);
                voters.is_majority(&nodes)
            }
            Some(_) => lately(self.appended_ns),
            None => false,
        };
        if keeps { Heed::Drop } else { Heed::Consider }
    }

    /// A round of everybody later.
    fn stand_again(&mut self, now: Nanos, voters: &VoterSets, last: LogId) {
        let round = voters.all().len() as u64 + 1;
        self.stand_ns = Some(now + (round + self.rank(voters, last)) * self.stagger_ns);
    }

    /// Who sees no majority can't win, and would only raise its term and depose a good leader with it later.
    fn sees_majority(&self, voters: &VoterSets) -> bool {
        let down = |node: &NodeId| self.peers.get(node).is_some_and(|peer| peer.seen == Seen::Down);
        let up: NodeSet = voters.all().iter().filter(|node| *node == self.own || !down(node)).collect();
        voters.is_majority(&up)
    }

    /// How many voters should stand before this one: who is up and has a longer log, or one as long and a lower id.
    fn rank(&self, voters: &VoterSets, last: LogId) -> u64 {
        let before = |node: &NodeId| {
            self.peers.get(node).is_some_and(|peer| {
                let theirs = peer.last.unwrap_or(last);
                peer.seen == Seen::Up && (theirs > last || theirs == last && *node < self.own)
            })
        };
        voters.all().without(self.own).iter().filter(before).count() as u64
    }

    fn peer(&mut self, node: NodeId) -> &mut Peer {
        let unknown = Peer { seen: Seen::Up, last: None, acknowledged_ns: 0 };
        self.peers.entry(node).or_insert(unknown)
    }
}
