//! The networks between the nodes, and the truth about every path.

use crate::case::Case;
use crate::rng::Rng;
use crate::types::{LinkState, Nanos};

/// A node's end on one network. Faults may overlap, so each is a count.
#[derive(Clone, Copy, Debug, Default)]
struct Port {
    tx_cuts: u32,
    rx_cuts: u32,
    unplugged: u32,
    admin_down: u32,
}

impl Port {
    fn link(self) -> LinkState {
        match self {
            Self { admin_down: 1.., .. } => LinkState::AdminDown,
            Self { unplugged: 1.., .. } => LinkState::NoCarrier,
            _ => LinkState::Up,
        }
    }

    fn sends(self) -> bool {
        self.tx_cuts == 0 && self.link() == LinkState::Up
    }

    fn receives(self) -> bool {
        self.rx_cuts == 0 && self.link() == LinkState::Up
    }
}

/// What a path between two nodes can carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Path {
    /// Since when it has been like this in everything.
    pub since: Nanos,
    /// Since when it has been whole, or not.
    pub whole_since: Nanos,
    /// Legs of the first node get to the second.
    pub there: bool,
    /// Legs of the second node get to the first.
    pub back: bool,
    /// A link is down or a host stands still: this isn't the direction's fault.
    pub dead_end: bool,
}

impl Path {
    pub(crate) fn whole(self) -> bool {
        self.there && self.back
    }
}

/// A path that changed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Change {
    pub a: usize,
    pub b: usize,
    pub network: usize,
    pub path: Path,
}

#[derive(Debug, Default)]
pub(crate) struct Networks {
    nodes: usize,
    networks: usize,
    /// By node, then by network.
    ports: Vec<Port>,
    frozen: Vec<u32>,
    /// By first node, second node, network.
    paths: Vec<Path>,
    trip_ns: Nanos,
    jitter_ns: Nanos,
    loss_per_million: u64,
    duplicates_per_million: u64,
}

impl Networks {
    pub(crate) fn reset(&mut self, case: &Case) {
        (self.nodes, self.networks) = (case.nodes, case.networks);
        self.ports.clear();
        self.ports.resize(case.nodes * case.networks, Port::default());
        self.frozen.clear();
        self.frozen.resize(case.nodes, 0);
        self.paths.clear();
        let whole = Path { since: 0, whole_since: 0, there: true, back: true, dead_end: false };
        self.paths.resize(case.nodes * case.nodes * case.networks, whole);
        (self.trip_ns, self.jitter_ns) = (case.trip_ns, case.jitter_ns);
        (self.loss_per_million, self.duplicates_per_million) =
            (case.loss_per_million, case.duplicates_per_million);
    }

    pub(crate) fn cut(&mut self, node: usize, network: usize, tx: bool, rx: bool, begins: bool) {
        let port = &mut self.ports[node * self.networks + network];
        for (concerned, count) in [(tx, &mut port.tx_cuts), (rx, &mut port.rx_cuts)] {
            if concerned {
                *count = if begins { *count + 1 } else { *count - 1 };
            }
        }
    }

    /// Returns the link as it is now.
    pub(crate) fn unplug(&mut self, node: usize, network: usize, admin: bool, begins: bool) -> LinkState {
        let port = &mut self.ports[node * self.networks + network];
        let count = if admin { &mut port.admin_down } else { &mut port.unplugged };
        *count = if begins { *count + 1 } else { *count - 1 };
        port.link()
    }

    pub(crate) fn freeze(&mut self, node: usize, begins: bool) {
        let count = &mut self.frozen[node];
        *count = if begins { *count + 1 } else { *count - 1 };
    }

    pub(crate) fn is_frozen(&self, node: usize) -> bool {
        self.frozen[node] > 0
    }

    pub(crate) fn leaves(&self, from: usize, network: usize) -> bool {
        self.ports[from * self.networks + network].sends()
    }

    pub(crate) fn arrives(&self, to: usize, network: usize) -> bool {
        self.ports[to * self.networks + network].receives()
    }

    /// How many copies of a leg arrive: none, one or two.
    pub(crate) fn copies(&self, rng: &mut Rng) -> u32 {
        if rng.chance(self.loss_per_million) {
            0
        } else {
            1 + u32::from(rng.chance(self.duplicates_per_million))
        }
    }

    pub(crate) fn travel(&self, rng: &mut Rng) -> Nanos {
        self.trip_ns + if self.jitter_ns > 0 { rng.between(0, self.jitter_ns) } else { 0 }
    }

    /// Takes note of the paths of `node` that changed, and tells each once for each of its ends.
    pub(crate) fn note_changes(&mut self, at: Nanos, node: usize, mut changed: impl FnMut(Change)) {
        for peer in (0..self.nodes).filter(|peer| *peer != node) {
            for network in 0..self.networks {
                for (a, b) in [(node, peer), (peer, node)] {
                    let from = self.ports[a * self.networks + network];
                    let to = self.ports[b * self.networks + network];
                    let frozen = self.is_frozen(a) || self.is_frozen(b);
                    let link = from.link() != LinkState::Up || to.link() != LinkState::Up;
                    let index = (a * self.nodes + b) * self.networks + network;
                    let old = self.paths[index];
                    let mut path = Path {
                        since: old.since,
                        whole_since: old.whole_since,
                        there: from.sends() && to.receives() && !frozen,
                        back: to.sends() && from.receives() && !frozen,
                        dead_end: frozen || link,
                    };
                    if path != old {
                        path.since = at;
                        if path.whole() != old.whole() {
                            path.whole_since = at;
                        }
                        self.paths[index] = path;
                        changed(Change { a, b, network, path });
                    }
                }
            }
        }
    }

    /// The path between two nodes, from the first one's side.
    pub(crate) fn path(&self, a: usize, b: usize, network: usize) -> Path {
        self.paths[(a * self.nodes + b) * self.networks + network]
    }
}
