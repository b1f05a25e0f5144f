//! A voter's side: up to which index a node must have applied the log for this voter's vouching to count (`R`), and when
//! this voter last vouched for a node before that index grew. Rules 1, 8 and 14.

use super::sabotage::{Sabotage, broken};
use super::{Entry, LogId, NodeSet, State};
use crate::types::{Nanos, NodeId};
use netft_common::fence::UNSURE;
use std::collections::{BTreeMap, VecDeque};

/// Assignments in the log that aren't applied yet; a longer tail makes the voter unsure until it is short again.
pub(super) const MAX_TAIL: usize = 4096;

/// Whether this node may vouch and vote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VoterStanding {
    /// It doesn't know what its log held: it has just started, or something went wrong with its store.
    Unsure,
    /// Rule 14: the cluster knows it with another store, or not at all.
    WrongStore,
    /// It may.
    Sure,
}

/// An assignment that isn't applied yet, and whom it takes the VIP from.
#[derive(Clone, Copy, Debug)]
struct Taking {
    id: LogId,
    from: Option<NodeId>,
}

#[derive(Debug)]
pub(super) struct Vouching {
    own: NodeId,
    incarnation: u64,
    restored: bool,
    /// Not applied yet, in order.
    tail: VecDeque<Taking>,
    /// The newest entry in the log.
    last: LogId,
    /// The last index whose assignment didn't fit into the tail.
    overflow: u64,
    /// What the shared words hold, as far as they were ever stored.
    stored: BTreeMap<NodeId, u64>,
    /// Whose stamps may be gone.
    lost: NodeSet,
    /// By node, when this voter last vouched for it before the index that is stored now.
    readings: BTreeMap<NodeId, Nanos>,
}

impl Vouching {
    pub(super) fn new(own: NodeId, incarnation: u64) -> Self {
        Self {
            own,
            incarnation,
            restored: false,
            tail: VecDeque::new(),
            last: LogId::default(),
            overflow: 0,
            stored: BTreeMap::new(),
            lost: NodeSet::EMPTY,
            readings: BTreeMap::new(),
        }
    }

    /// Log and snapshot are restored: from now on the indices mean something.
    pub(super) fn restored(&mut self) {
        self.restored = true;
    }

    /// The store failed: nothing is known until the next [`Vouching::restored`].
    pub(super) fn unsure(&mut self) {
        self.restored = false;
    }

    /// Whether there were more assignments than are remembered.
    pub(super) fn overflowed(&self) -> bool {
        self.overflow > 0
    }

    pub(super) fn last(&self) -> LogId {
        self.last
    }

    pub(super) fn append(&mut self, id: LogId, entry: &Entry) {
        self.last = id;
        if !matches!(entry, Entry::Assign { .. }) {
            return;
        }
        if self.tail.len() >= MAX_TAIL {
            self.overflow = id.index;
            return;
        }
        self.tail.push_back(Taking { id, from: entry.takes_from() });
    }

    /// Everything from `index` on is gone from the log; `last` is its new end.
    pub(super) fn truncate(&mut self, index: u64, last: LogId) {
        self.last = last;
        while self.tail.back().is_some_and(|taking| taking.id.index >= index) {
            self.tail.pop_back();
        }
        self.overflow = if self.overflow >= index { index.saturating_sub(1) } else { self.overflow };
    }

    /// A snapshot replaces the log up to `last`.
    pub(super) fn replace(&mut self, last: LogId) {
        self.last = self.last.max(last);
        self.applied(last);
    }

    pub(super) fn applied(&mut self, id: LogId) {
        self.last = self.last.max(id);
        while self.tail.front().is_some_and(|taking| taking.id.index <= id.index) {
            self.tail.pop_front();
        }
    }

    /// Rule 14.
    pub(super) fn standing(&self, state: &State) -> VoterStanding {
        if broken(Sabotage::TrustsEmptyStores) && self.restored {
            return VoterStanding::Sure;
        }
        match state.members.get(&self.own) {
            _ if !self.restored => VoterStanding::Unsure,
            Some(member) if member.incarnation == self.incarnation => VoterStanding::Sure,
            _ => VoterStanding::WrongStore,
        }
    }

    /// The same for a node that has applied less than its log holds.
    pub(super) fn standing_with<'a>(
        &self,
        state: &State,
        log: impl IntoIterator<Item = &'a Entry>,
    ) -> VoterStanding {
        let applied = self.standing(state);
        if applied != VoterStanding::WrongStore || state.members.contains_key(&self.own) {
            return applied;
        }
        let known =
            log.into_iter().filter_map(|entry| entry.member(self.own)).map(|member| member.incarnation);
        if known.last() == Some(self.incarnation) { VoterStanding::Sure } else { VoterStanding::WrongStore }
    }

    /// `R` for a node.
    pub(super) fn index(&self, state: &State, node: NodeId) -> u64 {
        let sure = self.standing(state) == VoterStanding::Sure && self.overflow <= state.applied.index;
        if !sure {
            return UNSURE;
        }
        let applied = state.taken.get(&node).copied().unwrap_or(0);
        if broken(Sabotage::VouchesUntilCommitted) {
            return applied;
        }
        self.tail
            .iter()
            .rev()
            .find(|taking| taking.from == Some(node))
            .map_or(applied, |taking| taking.id.index)
    }

    /// The words that must change, and remembers them as stored. A reading belongs to the index that it was taken for.
    pub(super) fn changes(&mut self, state: &State, nodes: NodeSet) -> Vec<(NodeId, u64)> {
        let mut changes = Vec::new();
        for node in nodes.iter() {
            let index = self.index(state, node);
            let before = self.stored.insert(node, index);
            if before != Some(index) {
                self.readings.remove(&node);
                if before.is_none_or(|before| before == UNSURE) {
                    self.lost.insert(node);
                }
                changes.push((node, index));
            }
        }
        changes
    }

    /// What the per-CPU stamps said once a word was stored. Those from before a start may be gone: then what was vouched for was
    /// before now. A node vouches for itself without a stamp, until now.
    pub(super) fn read(&mut self, now: Nanos, node: NodeId, vouched_ns: Nanos) {
        let lost = self.lost.contains(node);
        self.lost.remove(node);
        let vouched_ns = match lost {
            true if broken(Sabotage::ForgetsReadings) => 0,
            true => now,
            false if node == self.own => now,
            false => vouched_ns.min(now),
        };
        self.readings.insert(node, vouched_ns);
    }

    /// Rules 7 and 8: how long ago this voter last began a leg to `node` that could count without the entry `id` being
    /// applied; `None` unless it holds that entry and is sure.
    pub(super) fn report(&self, now: Nanos, state: &State, node: NodeId, id: LogId) -> Option<Nanos> {
        let holds = id.index <= state.applied.index || self.tail.iter().any(|taking| taking.id == id);
        let sure = self.stored.get(&node).is_some_and(|index| *index != UNSURE);
        if !holds || !sure || self.standing(state) != VoterStanding::Sure {
            return None;
        }
        let vouched_ns = self.readings.get(&node).copied().unwrap_or(now);
        Some(now.saturating_sub(vouched_ns))
    }
}
