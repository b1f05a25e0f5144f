//! Which endpoints of two nodes make a route. Pure, and the same seen from both ends.

use super::peer::Endpoint;
use crate::types::RouteClass;
use std::collections::BTreeSet;

/// A route to be: positions in the own and the peer's endpoint list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pair {
    /// Own endpoint.
    pub local: usize,
    /// The peer's.
    pub remote: usize,
    /// Whether they share a subnet.
    pub class: RouteClass,
}

/// Which of the two nodes has the lower id: its order of endpoints decides, so that both ends choose alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lower {
    /// This node.
    Own,
    /// The peer.
    Peer,
}

/// One pair per (own interface, peer's interface) that share a subnet: IPv6 if both have it there, else IPv4. If not
/// a single subnet is shared, one pair per two interfaces with a common family, and `across` as their class.
pub fn pairs(own: &[Endpoint], peer: &[Endpoint], lower: Lower, across: RouteClass) -> Vec<Pair> {
    let shared = choose(own, peer, lower, RouteClass::SameSubnet, |a, b| a.subnet() == b.subnet());
    if !shared.is_empty() {
        return shared;
    }
    choose(own, peer, lower, across, |_, _| true)
}

fn choose(
    own: &[Endpoint],
    peer: &[Endpoint],
    lower: Lower,
    class: RouteClass,
    fits: impl Fn(&Endpoint, &Endpoint) -> bool,
) -> Vec<Pair> {
    let mut all: Vec<Pair> = Vec::new();
    for (local, a) in own.iter().enumerate() {
        for (remote, b) in peer.iter().enumerate() {
            if a.address.is_ipv4() == b.address.is_ipv4() && a.address != b.address && fits(a, b) {
                all.push(Pair { local, remote, class });
            }
        }
    }
    all.sort_by_key(|pair| {
        let order = match lower {
            Lower::Own => (pair.local, pair.remote),
            Lower::Peer => (pair.remote, pair.local),
        };
        (own[pair.local].address.is_ipv4(), order)
    });
    let mut taken = BTreeSet::new();
    all.retain(|pair| taken.insert((own[pair.local].interface, peer[pair.remote].interface)));
    all
}
