//! Which node should own what. Whatever this says, no VIP has two owners: it only makes proposals.

use super::entry::Maintenance;
use super::{NodeSet, Seen, Standing, State, Vip, VipId};
use crate::types::{Nanos, NodeId};
use std::collections::{BTreeMap, VecDeque};

/// So many failures of a node within [`QUARANTINE_NS`] and it gets nothing, as long as another can.
pub const QUARANTINE_FAILURES: usize = 3;
/// One hour.
pub const QUARANTINE_NS: Nanos = 3_600_000_000_000;
/// Nodes to judge among, at most.
const MAX_NODES: usize = 255;

/// What the leader knows of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeFacts {
    /// Whether its host answers, its engine ticks, and it applies the log.
    pub seen: Seen,
    /// Client networks (by number, bit 0 = network 0) on which it can serve.
    pub networks: u64,
    /// Since when all of this has been so.
    pub since_ns: Nanos,
}

/// The leader's view of the nodes, and what it remembers of them. A new leader remembers nothing.
#[derive(Debug, Default)]
pub struct Policy {
    facts: BTreeMap<NodeId, NodeFacts>,
    /// Times of failures, by node, the latest last.
    failures: BTreeMap<NodeId, VecDeque<Nanos>>,
    /// Groups (or single VIPs) whose service fails on a node, by their first VIP.
    failing: BTreeMap<VipId, NodeSet>,
}

/// What a service's check said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// The service works.
    Passes,
    /// It doesn't.
    Fails,
}

/// Why a node can't have a VIP, from what is no obstacle to what is an absolute one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fitness {
    /// It can.
    Fit,
    /// It failed too often within the last hour.
    Quarantined,
    /// The service's check fails there.
    CheckFails,
    /// Its client network is dead.
    NetworkDead,
    /// It can't at all: dead, drained, a witness, unknown.
    Unfit,
}

impl Policy {
    /// News of a node.
    pub fn handle_node(&mut self, now: Nanos, node: NodeId, seen: Seen, networks: u64) {
        let known = self.facts.get(&node).copied();
        if let Some(known) = known.filter(|known| known.seen == Seen::Up && seen == Seen::Down) {
            debug_assert!(known.since_ns <= now, "time goes on");
            let failures = self.failures.entry(node).or_default();
            failures.push_back(now);
            while failures.len() > QUARANTINE_FAILURES {
                failures.pop_front();
            }
        }
        if known.is_none_or(|known| known.seen != seen || known.networks != networks) {
            self.facts.insert(node, NodeFacts { seen, networks, since_ns: now });
        }
    }

    /// A service's check on a node, for all VIPs of this one's group.
    pub fn handle_check(&mut self, state: &State, vip: VipId, node: NodeId, check: Check) {
        let Some(first) = group_of(state, vip).next() else { return };
        let nodes = self.failing.entry(first).or_default();
        match check {
            Check::Fails => nodes.insert(node),
            Check::Passes => nodes.remove(node),
        }
    }

    /// How fit a node is to own a VIP.
    pub fn fitness(&self, now: Nanos, state: &State, node: NodeId, vip: VipId) -> Fitness {
        let standing = state.members.get(&node).map(|member| member.standing);
        let facts = self
            .facts
            .get(&node)
            .filter(|facts| facts.seen == Seen::Up && standing == Some(Standing::Active));
        let Some(facts) = facts else { return Fitness::Unfit };
        let dead = |id: VipId| {
            state.vips.get(&id).is_some_and(|vip| facts.networks >> (vip.settings.network & 63) & 1 == 0)
        };
        let first = group_of(state, vip).next();
        if group_of(state, vip).any(dead) {
            Fitness::NetworkDead
        } else if first.and_then(|first| self.failing.get(&first)).is_some_and(|nodes| nodes.contains(node)) {
            Fitness::CheckFails
        } else if self.is_quarantined(now, node) {
            Fitness::Quarantined
        } else {
            Fitness::Fit
        }
    }

    fn is_quarantined(&self, now: Nanos, node: NodeId) -> bool {
        self.failures.get(&node).is_some_and(|failures| {
            let recent = failures.iter().filter(|at_ns| now.saturating_sub(**at_ns) < QUARANTINE_NS);
            recent.count() >= QUARANTINE_FAILURES
        })
    }

    /// What should be assigned to whom. Never takes a VIP from a node to give it to one that is no fitter, except to go back to
    /// a preferred one; an owner that can't be replaced keeps it.
    pub fn plan(&self, now: Nanos, state: &State) -> Vec<(VipId, NodeId)> {
        let mut moves = Vec::new();
        if state.maintenance == Maintenance::On {
            return moves;
        }
        let mut owned: BTreeMap<NodeId, usize> = BTreeMap::new();
        for owner in state.vips.values().filter_map(|vip| vip.owner) {
            *owned.entry(owner).or_default() += 1;
        }
        for id in state.vips.keys().copied() {
            // A group is decided once, at its first VIP.
            if group_of(state, id).next() != Some(id) {
                continue;
            }
            let Some(best) = self.choose(now, state, id, &owned) else { continue };
            for vip in group_of(state, id) {
                let owner = state.vips.get(&vip).and_then(|vip| vip.owner);
                if owner != Some(best) {
                    owner.into_iter().for_each(|owner| *owned.entry(owner).or_default() -= 1);
                    *owned.entry(best).or_default() += 1;
                    moves.push((vip, best));
                }
            }
        }
        moves
    }

    fn choose(
        &self,
        now: Nanos,
        state: &State,
        id: VipId,
        owned: &BTreeMap<NodeId, usize>,
    ) -> Option<NodeId> {
        let vip = state.vips.get(&id)?;
        let preference = |node: NodeId| {
            let preferred = &vip.settings.preferred;
            preferred.iter().position(|preferred| *preferred == node).unwrap_or(preferred.len())
        };
        let rank = |node: &NodeId| {
            let load = owned.get(node).copied().unwrap_or(0);
            (self.fitness(now, state, *node, id), preference(*node), load, *node)
        };
        let best = state.members.keys().copied().take(MAX_NODES).min_by_key(rank)?;
        let best_fitness = self.fitness(now, state, best, id);
        if best_fitness == Fitness::Unfit {
            return vip.owner;
        }
        let Some(owner) = vip.owner else { return Some(best) };
        let goes_back = preference(best) < preference(owner) && self.goes_back(now, vip, best);
        if best_fitness < self.fitness(now, state, owner, id) || goes_back { Some(best) } else { Some(owner) }
    }

    fn goes_back(&self, now: Nanos, vip: &Vip, to: NodeId) -> bool {
        let fit_ns = self.facts.get(&to).map_or(0, |facts| now.saturating_sub(facts.since_ns));
        vip.settings.failback_ns.is_some_and(|failback_ns| fit_ns >= failback_ns)
    }
}

/// The VIPs that move with this one, itself among them, in order.
fn group_of(state: &State, id: VipId) -> impl Iterator<Item = VipId> {
    let group = state.vips.get(&id).and_then(|vip| vip.settings.group);
    let with = move |(other, vip): (&VipId, &Vip)| {
        (*other == id || group.is_some() && vip.settings.group == group).then_some(*other)
    };
    state.vips.iter().filter_map(with)
}
