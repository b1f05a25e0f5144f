//! The leader's side of a handover: asks voters when they last vouched for an earlier owner, and finds out from when on that
//! owner can't hold a valid lease any more. Rules 7 to 9.

use super::sabotage::{Sabotage, broken};
use super::{LogId, NodeSet, State};
use crate::types::{Nanos, NodeId};
use std::collections::BTreeMap;

/// What is being asked about one earlier owner.
#[derive(Debug)]
struct Question {
    nonce: u64,
    /// The newest assignment that it must have lost: holding this entry is holding all of them.
    id: LogId,
    /// By voter, from when on its vouching has ended.
    ends_ns: BTreeMap<NodeId, Nanos>,
}

#[derive(Debug, Default)]
pub(super) struct Collector {
    questions: BTreeMap<NodeId, Question>,
    nonce: u64,
}

impl Collector {
    /// Rule 8: a new leader asks anew. `seed` makes its nonces differ from everybody else's.
    pub(super) fn restart(&mut self, seed: u64) {
        self.questions.clear();
        self.nonce = seed;
    }

    /// Asks about every owner whose end isn't recorded, as of the applied state: that is what makes it "after the commit". Gives
    /// the questions that are new.
    pub(super) fn update(&mut self, state: &State) -> Vec<NodeId> {
        let mut wanted: BTreeMap<NodeId, LogId> = BTreeMap::new();
        for vip in state.vips.values() {
            for node in vip.to_be_silent().iter() {
                let id = wanted.entry(node).or_default();
                *id = (*id).max(vip.assigned);
            }
        }
        self.questions.retain(|node, _| wanted.contains_key(node));
        let mut new = Vec::new();
        for (node, id) in wanted {
            if self.questions.get(&node).is_none_or(|question| question.id < id) {
                self.nonce += 1;
                let question = Question { nonce: self.nonce, id, ends_ns: BTreeMap::new() };
                self.questions.insert(node, question);
                new.push(node);
            }
        }
        new
    }

    /// Nonce and entry to ask with.
    pub(super) fn question(&self, node: NodeId) -> Option<(u64, LogId)> {
        self.questions.get(&node).map(|question| (question.nonce, question.id))
    }

    /// Everybody who is asked about.
    pub(super) fn asked(&self) -> Vec<NodeId> {
        self.questions.keys().copied().collect()
    }

    /// Voters that haven't answered yet.
    pub(super) fn unanswered(&self, state: &State, node: NodeId) -> NodeSet {
        let answered = self.questions.get(&node).map(|question| question.ends_ns.keys().copied().collect());
        state.voters.all().minus(&answered.unwrap_or_default())
    }

    /// A voter's answer: it last vouched `age_ns` before it said so, and it said so before now.
    pub(super) fn report(&mut self, now: Nanos, state: &State, voter: NodeId, nonce: u64, age_ns: Nanos) {
        let Some((node, question)) = self.questions.iter_mut().find(|(_, question)| question.nonce == nonce)
        else {
            return;
        };
        let silence_ns = if broken(Sabotage::NoLease) { 0 } else { state.silence_ns(*node, voter) };
        let ends_ns = now.saturating_add(silence_ns.saturating_sub(age_ns));
        let known_ns = question.ends_ns.entry(voter).or_insert(ends_ns);
        *known_ns = ends_ns.min(*known_ns);
    }

    /// Up to which assignment a node is surely silent by now: a majority of voters has ended.
    pub(super) fn silent(&self, now: Nanos, state: &State, node: NodeId) -> Option<LogId> {
        let question = self.questions.get(&node)?;
        let ended = question.ends_ns.iter().filter(|(_, ends_ns)| **ends_ns <= now).map(|(voter, _)| *voter);
        let ended: NodeSet = ended.collect();
        let enough = state.voters.is_majority(&ended) || broken(Sabotage::OneReport) && !ended.is_empty();
        enough.then_some(question.id)
    }

    /// When the next of them ends, for a timer.
    pub(super) fn next_end_ns(&self, now: Nanos) -> Option<Nanos> {
        let ends = self.questions.values().flat_map(|question| question.ends_ns.values().copied());
        ends.filter(|ends_ns| *ends_ns > now).min()
    }
}
