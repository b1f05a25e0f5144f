//! A model of consensus: terms, votes, a log that is appended to, truncated and committed, joint configurations. It keeps to
//! Raft (Ongaro and Ousterhout, 2014) and leaves everything to do with time to who drives it.

use crate::ownership::{Entry, LogId, NodeSet, VoterSets};
use netft_core::types::NodeId;
use std::collections::BTreeMap;

/// Entries in one message, at most.
const BATCH: usize = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Follower,
    Candidate,
    Leader,
}

#[derive(Clone, Debug)]
pub(crate) enum Rpc {
    Vote {
        term: u64,
        last: LogId,
    },
    VoteReply {
        term: u64,
        granted: bool,
    },
    /// `store`: the receiver's, by the sender's log.
    Append {
        term: u64,
        store: Option<u64>,
        before: LogId,
        entries: Vec<(LogId, Entry)>,
        commit: LogId,
    },
    AppendReply {
        term: u64,
        matches: Option<u64>,
        end: u64,
    },
}

/// What changed, for who drives it.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    /// Entries from this index on are gone.
    Truncated(u64),
    /// These were appended.
    Appended(Vec<(LogId, Entry)>),
    /// The leader's word.
    Commit { term: u64, commit: LogId },
    /// Something came from the leader of this term.
    Heard(NodeId),
    /// A follower acknowledged something.
    Acknowledged(NodeId),
    /// This node leads now.
    Elected,
    /// There is a newer term.
    NewTerm,
}

/// What survives a crash.
#[derive(Clone, Debug, Default)]
pub(crate) struct Disk {
    pub(crate) term: u64,
    pub(crate) voted: Option<NodeId>,
    pub(crate) log: Vec<(LogId, Entry)>,
    pub(crate) incarnation: u64,
}

#[derive(Clone, Debug)]
pub(crate) struct Raft {
    own: NodeId,
    pub(crate) disk: Disk,
    pub(crate) role: Role,
    pub(crate) leader: Option<NodeId>,
    pub(crate) committed: u64,
    /// Something committed was to be overwritten: consensus is broken.
    pub(crate) lost: bool,
    /// Up to where the own log may be acknowledged.
    acknowledged: u64,
    votes: NodeSet,
    next: BTreeMap<NodeId, u64>,
    matched: BTreeMap<NodeId, u64>,
    pub(crate) sends: Vec<(NodeId, Rpc)>,
    pub(crate) changes: Vec<Change>,
}

impl Raft {
    pub(crate) fn new(own: NodeId, disk: Disk) -> Self {
        Self {
            own,
            disk,
            role: Role::Follower,
            leader: None,
            committed: 0,
            acknowledged: 0,
            lost: false,
            votes: NodeSet::EMPTY,
            next: BTreeMap::new(),
            matched: BTreeMap::new(),
            sends: Vec::new(),
            changes: Vec::new(),
        }
    }

    pub(crate) fn last(&self) -> LogId {
        self.disk.log.last().map_or(LogId::default(), |(id, _)| *id)
    }

    pub(crate) fn id_at(&self, index: u64) -> Option<LogId> {
        if index == 0 {
            return Some(LogId::default());
        }
        let place = usize::try_from(index - 1).ok()?;
        self.disk.log.get(place).map(|(id, _)| *id)
    }

    pub(crate) fn entry(&self, index: u64) -> Option<&(LogId, Entry)> {
        self.disk.log.get(usize::try_from(index.checked_sub(1)?).ok()?)
    }

    /// Consensus uses a configuration from its being appended.
    pub(crate) fn voters(&self) -> VoterSets {
        let found = self.disk.log.iter().rev().find_map(|(_, entry)| match entry {
            Entry::Voters(voters) => Some(*voters),
            _ => None,
        });
        found.unwrap_or_default()
    }

    /// The incarnation of a node's store by this log.
    fn store_of(&self, node: NodeId) -> Option<u64> {
        let newest = self.disk.log.iter().rev().find_map(|(_, entry)| match entry {
            Entry::Member(of, member) if *of == node => Some(Some(member.incarnation)),
            Entry::RemoveMember(of) if *of == node => Some(None),
            _ => None,
        });
        newest.flatten()
    }

    pub(crate) fn stand(&mut self) {
        self.new_term(self.disk.term + 1);
        self.role = Role::Candidate;
        self.disk.voted = Some(self.own);
        self.votes = [self.own].into_iter().collect();
        let rpc = Rpc::Vote { term: self.disk.term, last: self.last() };
        for node in self.voters().all().without(self.own).iter() {
            self.sends.push((node, rpc.clone()));
        }
        self.count_votes();
    }

    pub(crate) fn propose(&mut self, entry: Entry) {
        if self.role != Role::Leader {
            return;
        }
        let id = LogId { term: self.disk.term, index: self.last().index + 1 };
        self.disk.log.push((id, entry.clone()));
        self.changes.push(Change::Appended(vec![(id, entry)]));
    }

    /// To everybody, at the leader's pace.
    pub(crate) fn replicate(&mut self, nodes: &[NodeId]) {
        if self.role != Role::Leader {
            return;
        }
        for &node in nodes.iter().filter(|node| **node != self.own) {
            let end = self.last().index;
            let next = (*self.next.entry(node).or_insert(end + 1)).clamp(1, end + 1);
            let Some(before) = self.id_at(next - 1) else { continue };
            let from = usize::try_from(next - 1).unwrap_or(0);
            let entries = self.disk.log[from..].iter().take(BATCH).cloned().collect();
            let commit = self.id_at(self.committed).unwrap_or_default();
            let (term, store) = (self.disk.term, self.store_of(node));
            self.sends.push((node, Rpc::Append { term, store, before, entries, commit }));
        }
    }

    /// The own log may be acknowledged up to here.
    pub(crate) fn acknowledge(&mut self, id: LogId) {
        if self.id_at(id.index) != Some(id) || id.index <= self.acknowledged {
            return;
        }
        self.acknowledged = id.index;
        match (self.role, self.leader) {
            (Role::Leader, _) => self.commit(),
            (_, Some(leader)) if id.term == self.disk.term => self.reply(leader, Some(id.index)),
            _ => (),
        }
    }

    pub(crate) fn handle(&mut self, from: NodeId, rpc: Rpc) {
        match rpc {
            Rpc::Vote { term, last } => {
                if term > self.disk.term {
                    self.new_term(term);
                }
                let free = self.disk.voted.is_none_or(|voted| voted == from);
                let granted = term == self.disk.term && free && last >= self.last();
                if granted {
                    self.disk.voted = Some(from);
                }
                self.sends.push((from, Rpc::VoteReply { term: self.disk.term, granted }));
            }
            Rpc::VoteReply { term, granted } => {
                if term > self.disk.term {
                    self.new_term(term);
                } else if granted && term == self.disk.term && self.role == Role::Candidate {
                    self.votes.insert(from);
                    self.count_votes();
                }
            }
            Rpc::Append { term, before, entries, commit, .. } => {
                self.handle_append(from, term, before, entries, commit)
            }
            Rpc::AppendReply { term, matches, end } => {
                if term > self.disk.term {
                    self.new_term(term);
                } else if term == self.disk.term && self.role == Role::Leader {
                    self.handle_reply(from, matches, end);
                }
            }
        }
    }

    fn handle_append(
        &mut self,
        from: NodeId,
        term: u64,
        before: LogId,
        entries: Vec<(LogId, Entry)>,
        commit: LogId,
    ) {
        if term < self.disk.term {
            self.reply(from, None);
            return;
        }
        if term > self.disk.term || self.role != Role::Follower {
            self.new_term(term);
        }
        self.leader = Some(from);
        self.changes.push(Change::Heard(from));
        if self.id_at(before.index) != Some(before) {
            self.reply(from, None);
            return;
        }
        let end = before.index + entries.len() as u64;
        let mut new = Vec::new();
        for (id, entry) in entries {
            if self.id_at(id.index) == Some(id) {
                continue;
            }
            if id.index <= self.last().index {
                self.lost |= id.index <= self.committed;
                self.disk.log.truncate(usize::try_from(id.index - 1).unwrap_or(0));
                self.acknowledged = self.acknowledged.min(id.index - 1);
                self.changes.push(Change::Truncated(id.index));
            }
            self.disk.log.push((id, entry.clone()));
            new.push((id, entry));
        }
        if !new.is_empty() {
            self.changes.push(Change::Appended(new));
        }
        self.changes.push(Change::Commit { term, commit });
        self.committed = self.committed.max(commit.index.min(end));
        self.reply(from, Some(end));
    }

    fn reply(&mut self, to: NodeId, matches: Option<u64>) {
        let matches = matches.map(|index| index.min(self.acknowledged));
        self.sends.push((to, Rpc::AppendReply { term: self.disk.term, matches, end: self.last().index }));
    }

    fn handle_reply(&mut self, from: NodeId, matches: Option<u64>, end: u64) {
        self.changes.push(Change::Acknowledged(from));
        match matches {
            Some(index) => {
                let matched = self.matched.entry(from).or_insert(0);
                *matched = index.max(*matched);
                let matched = *matched;
                self.next.insert(from, matched + 1);
                self.commit();
            }
            None => {
                let next = self.next.entry(from).or_insert(1);
                *next = (*next).saturating_sub(1).min(end + 1).max(1);
            }
        }
    }

    fn count_votes(&mut self) {
        if self.role == Role::Candidate && self.voters().is_majority(&self.votes) {
            (self.role, self.leader) = (Role::Leader, Some(self.own));
            self.next.clear();
            self.matched.clear();
            self.changes.push(Change::Elected);
            self.propose(Entry::Blank);
        }
    }

    fn commit(&mut self) {
        let voters = self.voters();
        self.matched.insert(self.own, self.acknowledged);
        let mut index = self.last().index;
        while index > self.committed {
            let holding =
                self.matched.iter().filter(|(_, matched)| **matched >= index).map(|(node, _)| *node);
            let holding: NodeSet = holding.collect();
            if voters.is_majority(&holding) {
                break;
            }
            index -= 1;
        }
        let Some(id) = self.id_at(index).filter(|id| id.term == self.disk.term) else { return };
        if index <= self.committed {
            return;
        }
        self.committed = index;
        self.changes.push(Change::Commit { term: self.disk.term, commit: id });
        // A joint configuration that is committed makes room for the new one.
        let joint = !voters.second.is_empty()
            && self
                .disk
                .log
                .iter()
                .rev()
                .find(|(_, entry)| matches!(entry, Entry::Voters(_)))
                .is_some_and(|(id, _)| id.index <= index);
        if joint {
            self.propose(Entry::Voters(VoterSets::of(voters.second)));
        }
    }

    fn new_term(&mut self, term: u64) {
        if term > self.disk.term {
            (self.disk.term, self.disk.voted) = (term, None);
        }
        (self.role, self.leader) = (Role::Follower, None);
        self.votes = NodeSet::EMPTY;
        self.changes.push(Change::NewTerm);
    }
}
