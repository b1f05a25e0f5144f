//! How far the nodes have applied the log, as they say: rules 5 and 13 wait for it, and rule 14 looks at who doesn't move and who
//! says nothing. The leader counts in rounds of its own, so that for how long it stood still itself is nobody's silence.

use super::sabotage::{Sabotage, broken};
use crate::types::{Nanos, NodeId};
use std::collections::BTreeMap;

/// How long a round of the leader is, at least.
pub(super) const ROUND_NS: Nanos = 2_000_000;
/// A node that hears its peers but hasn't applied an entry after 50 ms counts as failed (rule 14),
const APPLY_WITHIN_ROUNDS: u32 = 25;
/// and so does one that hasn't said how far it is for 250 ms: as long as an engine may stand still.
const SAY_WITHIN_ROUNDS: u32 = 125;

/// What a node should have applied, and for how many rounds it should have.
#[derive(Debug)]
struct Behind {
    target: u64,
    rounds: u32,
}

#[derive(Debug, Default)]
struct Node {
    applied: u64,
    silent_rounds: u32,
    behind: Option<Behind>,
}

#[derive(Debug, Default)]
pub(super) struct Progress {
    nodes: BTreeMap<NodeId, Node>,
}

impl Progress {
    pub(super) fn clear(&mut self) {
        self.nodes.clear();
    }

    /// A node says how far it is.
    pub(super) fn told(&mut self, node: NodeId, applied: u64) {
        let known = self.nodes.entry(node).or_default();
        (known.applied, known.silent_rounds) = (applied, 0);
        if known.behind.as_ref().is_some_and(|behind| applied >= behind.target) {
            known.behind = None;
        }
    }

    /// A round of the leader, which has applied the log up to `applied`.
    pub(super) fn expect(&mut self, nodes: impl Iterator<Item = NodeId>, applied: u64) {
        for node in nodes {
            let known = self.nodes.entry(node).or_default();
            known.silent_rounds = known.silent_rounds.saturating_add(1);
            match &mut known.behind {
                Some(behind) => behind.rounds = behind.rounds.saturating_add(1),
                None if known.applied < applied => {
                    known.behind = Some(Behind { target: applied, rounds: 0 });
                }
                None => (),
            }
        }
    }

    pub(super) fn applied(&self, node: NodeId) -> u64 {
        self.nodes.get(&node).map_or(0, |node| node.applied)
    }

    pub(super) fn sleeps(&self, node: NodeId) -> bool {
        self.nodes.get(&node).is_some_and(|node| {
            let behind = node.behind.as_ref().is_some_and(|behind| behind.rounds > APPLY_WITHIN_ROUNDS);
            behind || node.silent_rounds > SAY_WITHIN_ROUNDS && !broken(Sabotage::TrustsSilence)
        })
    }
}
