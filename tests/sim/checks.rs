//! What must hold, whatever happens. The checks know the truth (which path was whole when, which engine ran when)
//! and look only at what a node shows: events, views, shared memory, legs on the wire.

use crate::node::node_id;
use crate::world::{Event, US, World};
use netft_common::wire::{Heartbeat, kind};
use netft_core::detect::{DetectorEvent, RouteRecord, RouteView};
use netft_core::types::{Nanos, NodeState, RouteState, Slot};
use std::collections::HashMap;

/// A look at something after a time.
#[derive(Clone, Copy, Debug)]
pub enum Check {
    /// The path has been broken since then: the route must be down.
    Found { node: usize, peer: usize, network: usize, since: Nanos },
    /// The path has been whole since then: the route must be up.
    Up { node: usize, peer: usize, network: usize, since: Nanos },
    /// The peer's engine last ticked then: it must be reported as stalled.
    Stalled { node: usize, peer: usize, ticked_at: Nanos },
    /// The peer's engine has been ticking again since then: it must be reported as up.
    Back { node: usize, peer: usize, since: Nanos },
}

/// How often each property was really looked at: a simulation that checks nothing proves nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    pub downs: u64,
    pub found: u64,
    pub up: u64,
    pub stalled: u64,
    pub back: u64,
    pub legs: u64,
    pub active: u64,
    pub own_stalls: u64,
    pub postponed: u64,
    /// The largest time from a break to its verdict by an engine that wasn't away, in thousandths of the bound.
    pub worst_found: u64,
}

#[derive(Default)]
pub struct Checks {
    pub tally: Tally,
    legs: HashMap<(usize, usize, usize, u64), u8>,
    left: HashMap<(usize, Slot), [Nanos; 3]>,
    states: HashMap<(usize, Slot), RouteState>,
    /// By node: when its engine last came back after longer than the engine timeout.
    revived: HashMap<usize, Nanos>,
    ticked: HashMap<usize, Nanos>,
}

fn view(world: &World, node: usize, peer: usize, network: usize) -> RouteView {
    let node = &world.nodes[node];
    let watch = node.watches.iter().find(|watch| (watch.peer, watch.network) == (peer, network)).unwrap();
    node.detector.views().find(|view| view.slot == watch.slot).unwrap()
}

/// Heartbeats by which a postponed verdict waits, and the looking for them.
fn fresh_ns(world: &World) -> Nanos {
    world.networks.longest_trip_ns() + world.timing.delay_ns.max(300 * US)
}

/// The longest until a mended path is up: a verdict on the past may still fall a detection time and a trip later, and
/// the run takes three heartbeats and a trip.
fn up_ns(world: &World) -> Nanos {
    world.timing.detection_ns() + 4 * world.timing.delay_ns + 2 * world.slack_ns()
}

impl Checks {
    // --- what happens ----------------------------------------------------------------------------------------

    pub fn paths_changed(&mut self, world: &mut World) {
        let at = world.at;
        for (node, peer, network, whole) in world.networks.note_changes(at) {
            let (after, check) = if whole {
                (up_ns(world), Check::Up { node, peer, network, since: at })
            } else {
                (
                    world.timing.detection_ns() + world.slack_ns(),
                    Check::Found { node, peer, network, since: at },
                )
            };
            world.agenda.add(at + after, Event::Check(check));
        }
    }

    pub fn stalled(&mut self, world: &mut World, peer: usize, end: Nanos) {
        let ticked_at = world.nodes[peer].ticked_at;
        let prompt = 2 * world.timing.delay_ns + world.slack_ns();
        for node in (0..world.nodes.len()).filter(|node| *node != peer) {
            let reported_at = ticked_at + world.config.engine_timeout_ns + prompt;
            if reported_at < end {
                world.agenda.add(reported_at, Event::Check(Check::Stalled { node, peer, ticked_at }));
                world.agenda.add(end + prompt, Event::Check(Check::Back { node, peer, since: end }));
            }
        }
    }

    /// At most four legs per heartbeat, each kind from its own end.
    pub fn leg(&mut self, from: usize, to: usize, network: usize, leg: &Heartbeat) -> Result<(), String> {
        self.tally.legs += 1;
        let initiator = if matches!(leg.header.kind, kind::REQUEST | kind::CONFIRMATION) { from } else { to };
        let count =
            self.legs.entry((initiator, from + to - initiator, network, leg.header.sequence)).or_default();
        *count += 1;
        if *count > 4 {
            return Err(format!("{count} legs of heartbeat {} from node {initiator}", leg.header.sequence));
        }
        Ok(())
    }

    /// No bursts: three leg 1s of one route take at least a quarter of a delay, even when one is sent early to carry a
    /// notice or to probe the peer's engine.
    pub fn leg_1(&mut self, world: &World, node: usize, slot: Slot) -> Result<(), String> {
        let left = self.left.entry((node, slot)).or_default();
        *left = [left[1], left[2], world.at];
        let span = left[2] - left[0];
        if left[0] > 0 && span < world.timing.delay_ns / 4 {
            return Err(format!("three leg 1s within {span} ns on {slot:?} of node {node}"));
        }
        Ok(())
    }

    /// One route is active if and only if one is up, and a transmitter that reads shared memory uses that one.
    pub fn active(&mut self, world: &World, node: usize) -> Result<(), String> {
        self.tally.active += 1;
        let engine = &world.nodes[node];
        for peer in (0..world.nodes.len()).filter(|peer| *peer != node) {
            let up = |slot: Slot| {
                let mut of_peer = engine.detector.views().filter(|view| view.peer == node_id(peer));
                of_peer.any(|view| view.slot == slot && view.state == RouteState::Up)
            };
            let mut watches = engine.watches.iter().filter(|watch| watch.peer == peer);
            let any_up = watches.any(|watch| up(watch.slot));
            let active = engine.detector.active(node_id(peer));
            if active.is_some() != any_up || active.is_some_and(|slot| !up(slot)) {
                return Err(format!("node {node} to {peer}: {active:?} is active, any up: {any_up}"));
            }
            if engine.transmitter_slot(peer) != active {
                let used = engine.transmitter_slot(peer);
                return Err(format!(
                    "node {node} to {peer}: transmitters use {used:?}, active is {active:?}"
                ));
            }
        }
        Ok(())
    }

    pub fn ticked(&mut self, world: &World, node: usize) {
        let ticked_at = world.nodes[node].ticked_at;
        let before = self.ticked.insert(node, ticked_at).unwrap_or(0);
        if ticked_at - before + world.networks.longest_trip_ns() > world.config.engine_timeout_ns {
            self.revived.insert(node, ticked_at);
        }
    }

    pub fn event(&mut self, world: &World, node: usize, event: DetectorEvent) -> Result<(), String> {
        match event {
            DetectorEvent::Route(record) => self.route_event(world, node, &record),
            DetectorEvent::Peer { peer, new: NodeState::EngineStalled, .. } => {
                self.stalled_event(world, node, usize::from(peer.get()) - 1)
            }
            DetectorEvent::Stall { .. } if world.nodes[node].stalls.is_empty() => {
                Err(format!("node {node} reports a stall and had none"))
            }
            DetectorEvent::Peer { .. } | DetectorEvent::Active { .. } | DetectorEvent::Stall { .. } => Ok(()),
        }
    }

    pub fn restarted(&mut self, node: usize) {
        self.states.retain(|(who, _), _| *who != node);
    }

    // --- no false accusation ---------------------------------------------------------------------------------

    fn route_event(&mut self, world: &World, node: usize, record: &RouteRecord) -> Result<(), String> {
        let known = self.states.insert((node, record.slot), record.new).unwrap_or(RouteState::Down);
        if known != record.old || record.old == record.new {
            return Err(format!("node {node}: {known:?} was known, and now {record:?}"));
        }
        if record.old != RouteState::Up {
            return Ok(());
        }
        self.tally.downs += 1;
        let engine = &world.nodes[node];
        let watch = engine.watch(record.slot);
        let (since, whole) = world.networks.path(node, watch.peer, watch.network);
        let at = record.at_ns - engine.offset_ns;
        let awake = engine.awake(since, at).min(world.nodes[watch.peer].awake(since, at));
        let excusable = world.timing.detection_ns() + world.slack_ns() + world.timing.delay_ns;
        if whole && awake > excusable {
            return Err(format!(
                "node {node} accuses a path that has been whole for {} ns: {record:?}",
                at - since
            ));
        }
        if !whole {
            let bound = world.timing.detection_ns() + world.slack_ns();
            if engine.last_stall_end(since.saturating_sub(2 * bound), at).is_none() {
                self.tally.worst_found = self.tally.worst_found.max(at.saturating_sub(since) * 1000 / bound);
            }
        }
        Ok(())
    }

    fn stalled_event(&mut self, world: &World, node: usize, peer: usize) -> Result<(), String> {
        let timeout = world.config.engine_timeout_ns - world.networks.longest_trip_ns();
        let silent = world.at - world.nodes[peer].ticked_at;
        let stale = 2 * world.timing.delay_ns + world.slack_ns();
        let revived = self.revived.get(&peer).copied().unwrap_or(0);
        if silent < timeout && world.nodes[node].awake(revived, world.at) > stale {
            return Err(format!("node {node} calls the engine of {peer} stalled: it ticked {silent} ns ago"));
        }
        Ok(())
    }

    // --- within its bound ------------------------------------------------------------------------------------

    pub fn check(&mut self, world: &mut World, check: Check) -> Result<(), String> {
        match check {
            Check::Found { node, peer, network, since } => {
                if world.networks.path(node, peer, network) != (since, false) {
                    return Ok(());
                }
                self.tally.found += 1;
                if view(world, node, peer, network).state != RouteState::Up {
                    return Ok(());
                }
                let bound = world.timing.detection_ns() + world.slack_ns();
                let engine = &world.nodes[node];
                let stalled = engine.last_stall_end(since.saturating_sub(2 * bound), world.at);
                let awake = engine.awake(since, world.at);
                let patience = 2 * world.timing.detection_ns() + 2 * fresh_ns(world) + 4 * world.slack_ns();
                match stalled.map(|end| end + bound + fresh_ns(world)) {
                    Some(allowed) if world.at < allowed && awake <= patience => {
                        world.agenda.add(allowed, Event::Check(check));
                        Ok(())
                    }
                    _ => Err(format!("{check:?}: still up, awake {awake} ns, stalled until {stalled:?}")),
                }
            }
            Check::Up { node, peer, network, since } => {
                if world.networks.path(node, peer, network) != (since, true)
                    || world.networks.loss_per_million > 0
                {
                    return Ok(());
                }
                let bound = up_ns(world);
                let late = [node, peer]
                    .into_iter()
                    .filter_map(|who| world.nodes[who].last_stall_end(since.saturating_sub(bound), world.at));
                if let Some(allowed) = late.map(|end| end + bound).max().filter(|allowed| world.at < *allowed)
                {
                    world.agenda.add(allowed, Event::Check(check));
                    return Ok(());
                }
                self.tally.up += 1;
                let seen = view(world, node, peer, network);
                if seen.state == RouteState::Up { Ok(()) } else { Err(format!("{check:?}: {seen:?}")) }
            }
            Check::Stalled { node, peer, ticked_at } => {
                let since = ticked_at + world.config.engine_timeout_ns;
                if world.nodes[peer].ticked_at != ticked_at {
                    return Ok(());
                }
                self.engine(world, node, peer, since, NodeState::EngineStalled, check)
            }
            Check::Back { node, peer, since } => {
                if world.nodes[peer].last_stall_end(since, world.at).is_some() {
                    return Ok(());
                }
                self.engine(world, node, peer, since, NodeState::Up, check)
            }
        }
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
    ) -> Result<(), String> {
        let prompt = 2 * world.timing.delay_ns + world.slack_ns();
        let engine = &world.nodes[node];
        if let Some(end) = engine.last_stall_end(since.saturating_sub(prompt), world.at)
            && world.at < end + prompt
        {
            world.agenda.add(end + prompt, Event::Check(check));
            return Ok(());
        }
        let looked = engine.watches.iter().filter(|watch| watch.peer == peer).any(|watch| {
            let seen = view(world, node, peer, watch.network);
            let (whole_since, whole) = world.networks.path(node, peer, watch.network);
            let from = world.at - prompt;
            whole && whole_since < from && seen.state == RouteState::Up && seen.since_ns < engine.clock(from)
        });
        if !looked || world.networks.loss_per_million > 0 {
            return Ok(());
        }
        if state == NodeState::Up {
            self.tally.back += 1
        } else {
            self.tally.stalled += 1
        }
        let (seen, tick_age_ns) = engine.detector.peer(node_id(peer));
        if seen == state {
            Ok(())
        } else {
            Err(format!("{check:?}: it shows {seen:?}, tick {tick_age_ns} ns old"))
        }
    }

    /// At the end everything has been mended: all is up, and events and views agree.
    pub fn finish(&mut self, world: &World) -> Result<(), String> {
        for (index, node) in world.nodes.iter().enumerate() {
            let counters = node.detector.counters();
            self.tally.own_stalls += counters.stalls;
            self.tally.postponed += counters.postponed_verdicts;
            if counters.merged_events > 0 {
                return Err(format!("node {index} merged events although all were taken"));
            }
            for view in node.detector.views() {
                let told = self.states.get(&(index, view.slot)).copied().unwrap_or(RouteState::Down);
                if view.state != told {
                    return Err(format!("node {index}: the events say {told:?}, the view {view:?}"));
                }
                if view.state != RouteState::Up {
                    return Err(format!("node {index}: all is mended, and yet {view:?}"));
                }
            }
        }
        Ok(())
    }
}
