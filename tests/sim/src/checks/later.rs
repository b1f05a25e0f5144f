//! What must have happened after a while.

use super::{Check, Checks, Property, view_of};
use crate::node::node_id;
use crate::types::{Nanos, NodeState, RouteReason, RouteState};
use crate::world::World;

impl Checks {
    pub(crate) fn check(&mut self, world: &mut World, check: Check) {
        match check {
            Check::Found { node, peer, network, since } => {
                let path = world.networks.path(node, peer, network);
                if path.whole_since != since || path.whole() {
                    return;
                }
                self.found(world, check, (node, peer, network), since)
            }
            Check::Up { node, peer, network, since } => {
                let path = world.networks.path(node, peer, network);
                if path.whole_since != since || !path.whole() || self.bounds.lossy {
                    return;
                }
                self.up(world, check, (node, peer, network), since)
            }
            Check::Named { node, peer, network, since } => {
                let path = world.networks.path(node, peer, network);
                let one_way = path.back && !path.there && !path.dead_end;
                if path.since != since || !one_way || self.bounds.lossy {
                    return;
                }
                self.named(world, check, (node, peer, network), since)
            }
            Check::Agree { up, down, network, since } => {
                let index = self.index(up.min(down), up.max(down), network);
                if self.ends[index].disagree_since != Some(since) || self.bounds.rough {
                    return;
                }
                // Both may have changed their minds at that very moment.
                let (up, down) = match self.ends[self.index(up, down, network)].state {
                    RouteState::Up => (up, down),
                    RouteState::Down | RouteState::AdminDown => (down, up),
                };
                self.agree(world, check, (up, down, network), since);
            }
            Check::Stalled { node, peer, ticked_at } => {
                let since = ticked_at + self.bounds.engine_timeout_ns;
                if world.nodes[peer].ticked_at != ticked_at {
                    return;
                }
                self.engine(world, node, peer, since, NodeState::EngineStalled, check)
            }
            Check::Back { node, peer, since } => {
                if world.nodes[peer].last_stall_end(since, world.at).is_some() {
                    return;
                }
                self.engine(world, node, peer, since, NodeState::Up, check)
            }
        }
    }

    fn found(
        &mut self,
        world: &mut World,
        check: Check,
        (node, peer, network): (usize, usize, usize),
        since: Nanos,
    ) {
        self.tally.found += 1;
        if view_of(world, node, peer, network).is_none_or(|view| view.state != RouteState::Up) {
            return;
        }
        let bounds = self.bounds;
        let bound = bounds.found_ns + self.unsettled_ns(world, node, peer, since);
        if world.at < since + bound {
            world.look(since + bound, check);
            return;
        }
        let engine = &world.nodes[node];
        let stalled = engine.last_stall_end(since.saturating_sub(2 * bound), world.at);
        let awake = engine.awake(since, world.at);
        let patience = 2 * bounds.detection_ns + 2 * bounds.fresh_ns + 4 * bounds.slack_ns;
        match stalled.map(|end| end + bound + bounds.fresh_ns) {
            Some(allowed) if world.at < allowed && awake <= patience => {
                world.look(allowed, check);
            }
            _ => {
                let what = format!("{check:?}: still up, awake {awake} ns, stalled until {stalled:?}");
                self.broken(world, Property::Found, what)
            }
        }
    }

    /// The newest end of a stall of either end that touches what lies `bound` before `since`.
    fn disturbed(&self, world: &World, ends: [usize; 2], since: Nanos, bound: Nanos) -> Option<Nanos> {
        let late = ends.into_iter();
        late.filter_map(|who| world.nodes[who].last_stall_end(since.saturating_sub(bound), world.at)).max()
    }

    fn up(
        &mut self,
        world: &mut World,
        check: Check,
        (node, peer, network): (usize, usize, usize),
        since: Nanos,
    ) {
        let bound = self.bounds.up_ns;
        let disturbed = self.disturbed(world, [node, peer], since, bound);
        if let Some(allowed) = disturbed.map(|end| end + bound).filter(|allowed| world.at < *allowed) {
            world.look(allowed, check);
            return;
        }
        self.tally.up += 1;
        let Some(seen) = view_of(world, node, peer, network) else { return };
        if seen.state == RouteState::Up {
            return;
        }
        let held_until = disturbed.unwrap_or(since).max(since) + bound + self.bounds.damping_max_ns;
        if seen.reason == RouteReason::Damped && world.at <= held_until {
            world
                .look((world.at + seen.damped_left_ns + 2 * self.bounds.delay_ns).min(held_until + 1), check);
            return;
        }
        self.broken(world, Property::Found, format!("{check:?}: {seen:?}"))
    }

    /// The end that hears says rx-only, the one that isn't heard from says tx-only: it can only know if the other one
    /// told it, over another route that was whole.
    fn named(
        &mut self,
        world: &mut World,
        check: Check,
        (node, peer, network): (usize, usize, usize),
        since: Nanos,
    ) {
        let bound = self.bounds.found_ns + self.bounds.up_ns;
        let from = since.saturating_sub(bound);
        if self.disturbed(world, [node, peer], since, bound).is_some() {
            return;
        }
        let told = (0..self.networks).any(|other| {
            let path = world.networks.path(node, peer, other);
            let both_up = [(node, peer), (peer, node)].into_iter().all(|(a, b)| {
                view_of(world, a, b, other).is_some_and(|view| {
                    view.state == RouteState::Up && view.since_ns < world.nodes[a].clock.local(from)
                })
            });
            other != network && path.whole() && path.whole_since < from && both_up
        });
        let reasons = [(node, peer), (peer, node)].map(|(a, b)| view_of(world, a, b, network));
        let [Some(hears), Some(deaf)] = reasons else { return };
        // Whoever had been down already for another reason keeps that.
        let began = |who: usize| world.nodes[who].clock.local(since);
        if !told || hears.since_ns < began(node) || deaf.since_ns < began(peer) {
            return;
        }
        self.tally.named += 1;
        if (hears.reason, deaf.reason) == (RouteReason::RxOnly, RouteReason::TxOnly) {
            return;
        }
        let what = format!("{check:?}: {:?} and {:?}", hears.reason, deaf.reason);
        self.broken(world, Property::Named, what)
    }

    fn agree(
        &mut self,
        world: &mut World,
        check: Check,
        (up, down, network): (usize, usize, usize),
        since: Nanos,
    ) {
        let bound = self.bounds.found_ns + self.bounds.up_ns + self.unsettled_ns(world, up, down, since);
        let path = world.networks.path(up, down, network);
        let disturbed = self.disturbed(world, [up, down], since.saturating_sub(bound), bound).unwrap_or(0);
        let mut allowed = since.max(path.since).max(disturbed) + bound + self.bounds.fresh_ns;
        let held_back =
            view_of(world, down, up, network).is_some_and(|view| view.reason == RouteReason::Damped);
        if held_back {
            allowed += self.bounds.damping_max_ns;
        }
        if world.at < allowed {
            world.look(allowed, check);
            return;
        }
        let seen = [(up, down), (down, up)].map(|(a, b)| view_of(world, a, b, network));
        self.broken(world, Property::Agree, format!("{check:?}: {seen:?}, path {path:?}"))
    }

    /// A node that could look all the while over a route that was up all the while sees the peer's engine right.
    fn engine(
        &mut self,
        world: &mut World,
        node: usize,
        peer: usize,
        since: Nanos,
        state: NodeState,
        check: Check,
    ) {
        let prompt = self.bounds.prompt_ns + self.unsettled_ns(world, node, peer, since);
        let engine = &world.nodes[node];
        if let Some(end) = engine.last_stall_end(since.saturating_sub(prompt), world.at)
            && world.at < end + prompt
        {
            world.look(end + prompt, check);
            return;
        }
        let looked = engine.watches.iter().filter(|watch| watch.peer == peer).any(|watch| {
            let Some(seen) = view_of(world, node, peer, watch.network) else { return false };
            let path = world.networks.path(node, peer, watch.network);
            let from = world.at - prompt;
            path.whole()
                && path.whole_since < from
                && seen.state == RouteState::Up
                && seen.since_ns < engine.clock.local(from)
        });
        if !looked || self.bounds.lossy {
            return;
        }
        if state == NodeState::Up {
            self.tally.back += 1;
        } else {
            self.tally.stalled += 1;
        }
        let (seen, tick_age_ns) = engine.detector.peer(node_id(peer));
        if seen == state {
            return;
        }
        self.broken(
            world,
            Property::Engine,
            format!("{check:?}: it shows {seen:?}, tick {tick_age_ns} ns old"),
        )
    }
}
