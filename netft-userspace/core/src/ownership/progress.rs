//! How far the nodes have applied the log, as they say: rules 5 and 13 wait for it, and rule 14 looks at who doesn't move.

use crate::types::{Nanos, NodeId};
use std::collections::BTreeMap;

/// A node that hears its peers but hasn't applied an entry after this long counts as failed (rule 14).
pub(super) const APPLY_WITHIN_NS: Nanos = 50_000_000;

#[derive(Debug)]
struct Node {
    applied: u64,
    /// What it should have applied, and since when that has been so.
    behind: Option<(u64, Nanos)>,
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
        let known = self.nodes.entry(node).or_insert(Node { applied, behind: None });
        known.applied = applied;
        if known.behind.is_some_and(|(target, _)| applied >= target) {
            known.behind = None;
        }
    }

    /// `applied` is what this node, the leader, has applied.
    pub(super) fn expect(&mut self, now: Nanos, nodes: impl Iterator<Item = NodeId>, applied: u64) {
        for node in nodes {
            let known = self.nodes.entry(node).or_insert(Node { applied: 0, behind: None });
            if known.behind.is_none() && known.applied < applied {
                known.behind = Some((applied, now));
            }
        }
    }

    pub(super) fn applied(&self, node: NodeId) -> u64 {
        self.nodes.get(&node).map_or(0, |node| node.applied)
    }

    pub(super) fn sleeps(&self, now: Nanos, node: NodeId) -> bool {
        let since_ns = self.nodes.get(&node).and_then(|node| node.behind).map(|(_, since_ns)| since_ns);
        since_ns.is_some_and(|since_ns| now.saturating_sub(since_ns) > APPLY_WITHIN_NS)
    }
}
