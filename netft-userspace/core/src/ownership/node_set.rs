//! A set of nodes, in four words.

use crate::types::NodeId;
use serde::{Deserialize, Serialize};

/// Nodes, in order of their ids.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(from = "Vec<NodeId>", into = "Vec<NodeId>")]
pub struct NodeSet([u64; 4]);

impl NodeSet {
    /// Nobody.
    pub const EMPTY: Self = Self([0; 4]);

    /// Adds one.
    pub fn insert(&mut self, node: NodeId) {
        let (word, bit) = place(node);
        self.0[word] |= bit;
    }

    /// Takes one out.
    pub fn remove(&mut self, node: NodeId) {
        let (word, bit) = place(node);
        self.0[word] &= !bit;
    }

    /// Without this one.
    #[must_use]
    pub fn without(mut self, node: NodeId) -> Self {
        self.remove(node);
        self
    }

    /// Without those.
    #[must_use]
    pub fn minus(mut self, others: &Self) -> Self {
        for (word, other) in self.0.iter_mut().zip(others.0) {
            *word &= !other;
        }
        self
    }

    /// These and those.
    #[must_use]
    pub fn union(mut self, others: &Self) -> Self {
        for (word, other) in self.0.iter_mut().zip(others.0) {
            *word |= other;
        }
        self
    }

    /// Whether it is among them.
    pub fn contains(&self, node: NodeId) -> bool {
        let (word, bit) = place(node);
        self.0[word] & bit != 0
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// Whether nobody is.
    pub fn is_empty(&self) -> bool {
        self.0 == [0; 4]
    }

    /// One after the other, lowest id first.
    pub fn iter(&self) -> impl Iterator<Item = NodeId> + use<> {
        let set = *self;
        (1..=255).filter_map(NodeId::new).filter(move |node| set.contains(*node))
    }
}

impl FromIterator<NodeId> for NodeSet {
    fn from_iter<I: IntoIterator<Item = NodeId>>(nodes: I) -> Self {
        let mut set = Self::EMPTY;
        nodes.into_iter().for_each(|node| set.insert(node));
        set
    }
}

impl From<Vec<NodeId>> for NodeSet {
    fn from(nodes: Vec<NodeId>) -> Self {
        nodes.into_iter().collect()
    }
}

impl From<NodeSet> for Vec<NodeId> {
    fn from(nodes: NodeSet) -> Self {
        nodes.iter().collect()
    }
}

fn place(node: NodeId) -> (usize, u64) {
    let id = node.get();
    (usize::from(id / 64), 1 << (id % 64))
}
