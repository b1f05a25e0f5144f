//! What must hold, whatever happens. The checks know the truth (which path was whole when, which engine ran when)
//! and look only at what a node shows: events, views, shared memory, legs on the wire.

mod bounds;
mod later;
mod property;

pub use property::{Broken, Property, Tally};

use crate::case::Case;
use crate::detect::{DetectorEvent, RouteRecord, RouteView};
use crate::network::Change;
use crate::node::{Watch, node_id};
use crate::types::{Nanos, NodeState, RouteReason, RouteState, Slot};
use crate::world::World;
use bounds::Bounds;
use netft_common::wire::{Heartbeat, kind};

/// Heartbeats of one route that can have legs under way at once.
const RING: usize = 128;
/// For this long after its host stood still, a round trip may be overestimated, by a few delays.
const UNSETTLED_NS: Nanos = 300_000_000;

/// A look at something after a time.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Check {
    /// The path has been broken since then: the route must be down.
    Found { node: usize, peer: usize, network: usize, since: Nanos },
    /// The path has been whole since then: the route must be up.
    Up { node: usize, peer: usize, network: usize, since: Nanos },
    /// One direction has been broken since then: `node` hears and `peer` doesn't, and both must say so.
    Named { node: usize, peer: usize, network: usize, since: Nanos },
    /// The two ends of a route have been of different opinion since then.
    Agree { up: usize, down: usize, network: usize, since: Nanos },
    /// The peer's engine last ticked then: it must be reported as stalled.
    Stalled { node: usize, peer: usize, ticked_at: Nanos },
    /// The peer's engine has been ticking again since then: it must be reported as up.
    Back { node: usize, peer: usize, since: Nanos },
}

/// What is remembered of one end of a route.
#[derive(Clone, Debug)]
struct End {
    /// Legs seen of heartbeats that this end initiated.
    sequences: [u64; RING],
    counts: [u8; RING],
    /// When the newest leg 1s left.
    left: [Nanos; 3],
    state: RouteState,
    /// Since when the other end has said otherwise; kept by the first end of the two.
    disagree_since: Option<Nanos>,
}

impl End {
    fn new() -> Self {
        Self {
            sequences: [0; RING],
            counts: [0; RING],
            left: [0; 3],
            state: RouteState::Down,
            disagree_since: None,
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Checks {
    tally: Tally,
    bounds: Bounds,
    nodes: usize,
    networks: usize,
    /// By node, peer, network.
    ends: Vec<End>,
    /// By node: when its engine last came back after longer than the engine timeout, and ticked; when its host thawed.
    revived: Vec<Nanos>,
    ticked: Vec<Nanos>,
    thawed: Vec<Nanos>,
    /// By node: how long its host stood still at most, of what was not long ago.
    frozen_ns: Vec<Nanos>,
    /// The only property that counts, if not all do.
    pub only: Option<Property>,
    pub broken: Option<Broken>,
}

fn view_of(world: &World, node: usize, peer: usize, network: usize) -> Option<RouteView> {
    let engine = &world.nodes[node];
    let slot = engine.slot(node, peer, network);
    engine.detector.views().find(|view| view.slot == slot)
}

impl Checks {
    pub(crate) fn reset(&mut self, case: &Case) {
        self.tally = Tally::default();
        self.broken = None;
        self.bounds = Bounds::new(case);
        (self.nodes, self.networks) = (case.nodes, case.networks);
        self.ends.clear();
        self.ends.resize(case.nodes * case.nodes * case.networks, End::new());
        for of_node in [&mut self.revived, &mut self.ticked, &mut self.thawed, &mut self.frozen_ns] {
            of_node.clear();
            of_node.resize(case.nodes, 0);
        }
    }

    fn index(&self, node: usize, peer: usize, network: usize) -> usize {
        (node * self.nodes + peer) * self.networks + network
    }

    /// Notes what broke, the first of what is watched.
    pub(crate) fn broken(&mut self, world: &World, property: Property, what: String) {
        if self.broken.is_none() && self.only.is_none_or(|only| only == property) {
            self.broken = Some(Broken { property, at_ns: world.at, what });
        }
    }

    /// What an overestimated round trip may add for a while after one of two hosts stood still: a few delays; or all of
    /// that absence, and twice, for an engine that has just started and had no answer since, as it can only go by the
    /// round trip that it finds in memory.
    fn unsettled_ns(&self, world: &World, node: usize, peer: usize, since: Nanos) -> Nanos {
        let thawed = self.thawed[node].max(self.thawed[peer]);
        if thawed == 0 || thawed + UNSETTLED_NS <= since {
            return 0;
        }
        let frozen_ns = self.frozen_ns[node].max(self.frozen_ns[peer]);
        let started_at = world.nodes[node].started_at;
        let young = started_at > 0 && started_at + 10 * self.bounds.delay_ns > since;
        4 * self.bounds.delay_ns + if young { 2 * frozen_ns } else { 0 }
    }

    // --- what happens ----------------------------------------------------------------------------------------

    pub(crate) fn path_changed(&mut self, world: &mut World, change: Change) {
        let Change { a: node, b: peer, network, path } = change;
        let bounds = self.bounds;
        if path.whole_since == path.since {
            let since = path.since;
            let (after, check) = if path.whole() {
                (bounds.up_ns, Check::Up { node, peer, network, since })
            } else {
                let extra_ns = self.unsettled_ns(world, node, peer, since);
                (bounds.found_ns + extra_ns, Check::Found { node, peer, network, since })
            };
            world.look(world.at + after, check);
        }
        if path.back && !path.there && !path.dead_end {
            let after = bounds.found_ns + 4 * bounds.delay_ns + 2 * bounds.slack_ns;
            let extra_ns = self.unsettled_ns(world, node, peer, path.since);
            let check = Check::Named { node, peer, network, since: path.since };
            world.look(world.at + after + extra_ns, check);
        }
    }

    pub(crate) fn stalled(&mut self, world: &mut World, peer: usize, end: Nanos) {
        let ticked_at = world.nodes[peer].ticked_at;
        let prompt_ns = self.bounds.prompt_ns;
        for node in (0..self.nodes).filter(|node| *node != peer) {
            let reported_at = ticked_at + self.bounds.engine_timeout_ns + prompt_ns;
            if reported_at < end {
                world.look(reported_at.max(world.at), Check::Stalled { node, peer, ticked_at });
                world.look(end + prompt_ns, Check::Back { node, peer, since: end });
            }
        }
    }

    pub(crate) fn thawed(&mut self, node: usize, at: Nanos, span: Nanos) {
        let long_ago = self.thawed[node] + UNSETTLED_NS < at;
        self.frozen_ns[node] = if long_ago { span } else { self.frozen_ns[node] + span };
        self.thawed[node] = at;
    }

    /// At most four legs per heartbeat, each kind from its own end.
    pub(crate) fn leg(&mut self, world: &World, from: usize, to: usize, network: usize, leg: &Heartbeat) {
        self.tally.legs += 1;
        let own = matches!(leg.header.kind, kind::REQUEST | kind::CONFIRMATION);
        let (initiator, responder) = if own { (from, to) } else { (to, from) };
        let sequence = leg.header.sequence;
        let index = self.index(initiator, responder, network);
        let end = &mut self.ends[index];
        let place = usize::try_from(sequence % RING as u64).unwrap_or(0);
        if end.sequences[place] != sequence {
            end.sequences[place] = sequence;
            end.counts[place] = 0;
        }
        end.counts[place] = end.counts[place].saturating_add(1);
        if end.counts[place] > 4 {
            let what = format!("{} legs of heartbeat {sequence} from node {initiator}", end.counts[place]);
            self.broken(world, Property::Storm, what);
        }
    }

    /// No bursts: three leg 1s of one route take at least a quarter of a delay, even when one is sent early to carry a
    /// notice or to probe the peer's engine.
    pub(crate) fn leg_1(&mut self, world: &World, node: usize, watch: Watch, at: Nanos) {
        let index = self.index(node, watch.peer, watch.network);
        let left = &mut self.ends[index].left;
        *left = [left[1], left[2], at];
        let span = left[2] - left[0];
        if left[0] > 0 && span < self.bounds.delay_ns / 4 {
            let what = format!("three leg 1s within {span} ns from node {node} to {}", watch.peer);
            self.broken(world, Property::Storm, what);
        }
    }

    /// One route is active if and only if one is up, and a transmitter that reads shared memory uses that one.
    pub(crate) fn active(&mut self, world: &World, node: usize) {
        self.tally.active += 1;
        let engine = &world.nodes[node];
        let mut up: [u64; 16] = [0; 16];
        for view in engine.detector.views().filter(|view| view.state == RouteState::Up) {
            up[usize::from(view.peer.get()) - 1] |= 1 << view.slot.index();
        }
        for peer in (0..self.nodes).filter(|peer| *peer != node) {
            let active = engine.detector.active(node_id(peer));
            let is_up = |slot: Slot| up[peer] & (1 << slot.index()) != 0;
            if active.is_some() != (up[peer] != 0) || active.is_some_and(|slot| !is_up(slot)) {
                let what = format!("node {node} to {peer}: {active:?} is active, up are {:b}", up[peer]);
                return self.broken(world, Property::Active, what);
            }
            let used = engine.transmitter_slot(peer);
            if used != active {
                let what = format!("node {node} to {peer}: transmitters use {used:?}, active is {active:?}");
                return self.broken(world, Property::Active, what);
            }
        }
    }

    pub(crate) fn ticked(&mut self, world: &World, node: usize) {
        let ticked_at = world.nodes[node].ticked_at;
        let before = std::mem::replace(&mut self.ticked[node], ticked_at);
        if ticked_at - before + self.bounds.trip_ns > self.bounds.engine_timeout_ns {
            self.revived[node] = ticked_at;
        }
    }

    pub(crate) fn event(&mut self, world: &mut World, node: usize, event: DetectorEvent) {
        match event {
            DetectorEvent::Route(record) => self.route_event(world, node, &record),
            DetectorEvent::Peer { peer, new: NodeState::EngineStalled, .. } => {
                self.stalled_event(world, node, usize::from(peer.get()) - 1)
            }
            DetectorEvent::Stall { .. } if !world.nodes[node].ever_stalled() => {
                self.broken(world, Property::Whole, format!("node {node} reports a stall and had none"))
            }
            DetectorEvent::Peer { .. } | DetectorEvent::Active { .. } | DetectorEvent::Stall { .. } => {}
        }
    }

    pub(crate) fn restarted(&mut self, world: &mut World, node: usize) {
        for peer in (0..self.nodes).filter(|peer| *peer != node) {
            for network in 0..self.networks {
                let index = self.index(node, peer, network);
                self.ends[index].state = RouteState::Down;
                self.compare(world, node, peer, network);
            }
        }
    }

    /// Begins or ends a disagreement.
    fn compare(&mut self, world: &mut World, node: usize, peer: usize, network: usize) {
        let (first, second) = (node.min(peer), node.max(peer));
        let up = |who: usize, whom: usize| self.ends[self.index(who, whom, network)].state == RouteState::Up;
        let (first_up, second_up) = (up(first, second), up(second, first));
        let index = self.index(first, second, network);
        let since = &mut self.ends[index].disagree_since;
        if first_up == second_up {
            if let Some(since) = since.take() {
                let longest = &mut self.tally.longest_disagreement_ns;
                *longest = (*longest).max(world.at - since);
            }
        } else if since.is_none() {
            *since = Some(world.at);
            self.tally.disagreed += 1;
            let (up, down) = if first_up { (first, second) } else { (second, first) };
            let check = Check::Agree { up, down, network, since: world.at };
            world.look(world.at + self.bounds.found_ns + self.bounds.up_ns, check);
        }
    }

    // --- no false accusation ---------------------------------------------------------------------------------

    fn route_event(&mut self, world: &mut World, node: usize, record: &RouteRecord) {
        let watch = world.nodes[node].watch(record.slot);
        let index = self.index(node, watch.peer, watch.network);
        let known = std::mem::replace(&mut self.ends[index].state, record.new);
        let held_back = record.reason == RouteReason::Damped;
        if known != record.old || (record.old == record.new) != (held_back && record.old == RouteState::Down)
        {
            let what = format!("node {node}: {known:?} was known, and now {record:?}");
            return self.broken(world, Property::Whole, what);
        }
        self.compare(world, node, watch.peer, watch.network);
        if held_back {
            return self.held_back(world, node, watch, record);
        }
        if record.old == RouteState::Up {
            self.accusation(world, node, watch, record);
        }
    }

    fn held_back(&mut self, world: &World, node: usize, watch: Watch, record: &RouteRecord) {
        self.tally.damped += 1;
        // As the events told so far: the views may be further.
        let other = (0..self.networks).any(|network| {
            let state = self.ends[self.index(node, watch.peer, network)].state;
            network != watch.network && state == RouteState::Up
        });
        if !other || self.bounds.damping_max_ns == 0 {
            let what = format!("node {node} holds back its last route to {}: {record:?}", watch.peer);
            self.broken(world, Property::Damping, what);
        }
    }

    fn accusation(&mut self, world: &World, node: usize, watch: Watch, record: &RouteRecord) {
        self.tally.downs += 1;
        let engine = &world.nodes[node];
        let path = world.networks.path(node, watch.peer, watch.network);
        let (since, at) = (path.whole_since, engine.clock.at(record.at_ns));
        let by_silence = matches!(
            record.reason,
            RouteReason::HeartbeatsMissed | RouteReason::RxOnly | RouteReason::TxOnly | RouteReason::PeerLeft
        );
        let proof_age_ns = record.at_ns.saturating_sub(engine.newest_proof(record.slot));
        if by_silence && !engine.interrupted && proof_age_ns <= self.bounds.detection_ns {
            let what = format!("node {node} accuses, and the stamps prove {proof_age_ns} ns ago: {record:?}");
            return self.broken(world, Property::Accused, what);
        }
        let awake = engine.awake(since, at).min(world.nodes[watch.peer].awake(since, at));
        let excusable = self.bounds.found_ns + self.bounds.delay_ns;
        if path.whole() && awake > excusable && !self.bounds.rough {
            let what =
                format!("node {node} accuses a path that has been whole for {} ns: {record:?}", at - since);
            return self.broken(world, Property::Accused, what);
        }
        let bound = self.bounds.found_ns;
        let undisturbed = engine.last_stall_end(since.saturating_sub(2 * bound), at).is_none()
            && self.unsettled_ns(world, node, watch.peer, since) == 0;
        if !path.whole() && undisturbed && !self.bounds.rough {
            self.tally.worst_found = self.tally.worst_found.max(at.saturating_sub(since) * 1000 / bound);
        }
    }

    fn stalled_event(&mut self, world: &World, node: usize, peer: usize) {
        let timeout = self.bounds.engine_timeout_ns - self.bounds.trip_ns;
        let silent = world.at - world.nodes[peer].ticked_at;
        let frozen_lately = self.thawed[peer] + self.bounds.engine_timeout_ns > world.at;
        // Nobody knows of a return that no path could tell.
        let told = (0..self.networks).any(|network| {
            let path = world.networks.path(node, peer, network);
            path.whole() && path.whole_since + self.bounds.prompt_ns < world.at
        });
        if silent < timeout
            && told
            && !frozen_lately
            && world.nodes[node].awake(self.revived[peer], world.at) > self.bounds.prompt_ns
        {
            let what = format!("node {node} calls the engine of {peer} stalled: it ticked {silent} ns ago");
            self.broken(world, Property::Engine, what);
        }
    }

    /// At the end everything has been mended: all is up, and events and views agree.
    pub(crate) fn finish(&mut self, world: &World) -> Tally {
        self.tally.simulated_ns = world.at;
        self.tally.faults = world.case.faults.len() as u64;
        let (lost, packets, replayed, copies) = world.traffic.outcome();
        (self.tally.packets, self.tally.replayed, self.tally.copies) = (packets, replayed, copies);
        if let Some(first) = lost.first() {
            self.broken(world, Property::Lost, format!("{first}, and {} others", lost.len() - 1));
        }
        for (index, node) in world.nodes.iter().enumerate() {
            let counters = node.detector.counters();
            self.tally.own_stalls += counters.stalls;
            self.tally.postponed += counters.postponed_verdicts;
            if counters.merged_events > 0 {
                let what = format!("node {index} merged events although all were taken");
                self.broken(world, Property::Whole, what);
            }
            for view in node.detector.views() {
                let watch = node.watch(view.slot);
                let told = self.ends[self.index(index, watch.peer, watch.network)].state;
                if view.state != told {
                    let what = format!("node {index}: the events say {told:?}, the view {view:?}");
                    self.broken(world, Property::Whole, what);
                }
                if view.state != RouteState::Up && !self.bounds.rough {
                    let what = format!("node {index}: all is mended, and yet {view:?}");
                    self.broken(world, Property::Whole, what);
                }
            }
        }
        self.tally
    }
}
