//! The networks between the nodes: every node has one port on each.

use crate::rng::Rng;
use netft_core::types::{LinkState, Nanos};

#[derive(Clone, Copy, Debug)]
pub struct Port {
    /// What the node sends gets out.
    pub tx: bool,
    /// What is sent to the node gets in.
    pub rx: bool,
    pub link: LinkState,
}

impl Port {
    fn sends(self) -> bool {
        self.tx && self.link == LinkState::Up
    }

    fn receives(self) -> bool {
        self.rx && self.link == LinkState::Up
    }
}

pub struct Networks {
    /// By node, then by network.
    pub ports: Vec<Vec<Port>>,
    /// One-way delay, the same for all.
    pub delay_ns: Nanos,
    /// Up to this much is added to each.
    pub jitter_ns: Nanos,
    pub loss_per_million: u64,
    pub duplicates_per_million: u64,
    /// When each pair's path last changed, and whether it carries legs both ways since.
    changed: Vec<(Nanos, bool)>,
}

impl Networks {
    pub fn new(nodes: usize, networks: usize, delay_ns: Nanos, jitter_ns: Nanos) -> Self {
        let port = Port { tx: true, rx: true, link: LinkState::Up };
        Self {
            ports: vec![vec![port; networks]; nodes],
            delay_ns,
            jitter_ns,
            loss_per_million: 0,
            duplicates_per_million: 0,
            changed: vec![(0, true); nodes * nodes * networks],
        }
    }

    fn index(&self, a: usize, b: usize, network: usize) -> usize {
        let nodes = self.ports.len();
        (a * nodes + b) * self.ports[0].len() + network
    }

    pub fn leaves(&self, from: usize, network: usize) -> bool {
        self.ports[from][network].sends()
    }

    pub fn arrives(&self, to: usize, network: usize) -> bool {
        self.ports[to][network].receives()
    }

    /// One-way delay of one leg, `None` if it is lost.
    pub fn travel(&self, rng: &mut Rng) -> Option<Nanos> {
        let lost = rng.chance(self.loss_per_million);
        (!lost).then(|| self.delay_ns + rng.between(0, self.jitter_ns))
    }

    /// The longest that a heartbeat takes that isn't lost.
    pub fn longest_trip_ns(&self) -> Nanos {
        4 * (self.delay_ns + self.jitter_ns)
    }

    /// Takes note of paths that changed; calls `broken` and `mended` for each pair.
    pub fn note_changes(&mut self, at: Nanos) -> Vec<(usize, usize, usize, bool)> {
        let mut changes = Vec::new();
        let nodes = self.ports.len();
        for a in 0..nodes {
            for b in (0..nodes).filter(|b| *b != a) {
                for network in 0..self.ports[a].len() {
                    let (from, to) = (self.ports[a][network], self.ports[b][network]);
                    let whole = from.sends() && from.receives() && to.sends() && to.receives();
                    let index = self.index(a, b, network);
                    if self.changed[index].1 != whole {
                        self.changed[index] = (at, whole);
                        changes.push((a, b, network, whole));
                    }
                }
            }
        }
        changes
    }

    /// Since when the path between two nodes has been whole (`true`) or broken.
    pub fn path(&self, a: usize, b: usize, network: usize) -> (Nanos, bool) {
        self.changed[self.index(a, b, network)]
    }
}
