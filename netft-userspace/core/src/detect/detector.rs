//! The detector: joins routes, peers, links and the clock.

use super::deadlines::Deadlines;
use super::outbox::{Events, NodeSet, Requests, Stores};
use super::pace::phases_for;
use super::peer::{Peer, routes_of};
use super::receiving::{RECHECK_NS, Receiving};
use super::route::{Excuse, Route};
use super::sabotage::{Sabotage, broken, never_accuses, stays_down};
use super::{
    DetectorCommand, DetectorConfig, DetectorEvent, Evidence, Histogram, RequestTransmit, RouteRecord,
    RouteSetup, RouteView, StoreCommand,
};
use crate::types::{InterfaceNumber, LinkState, Nanos, NodeId, NodeState, RouteReason, RouteState, Slot};
use netft_common::map::{MAX_NODES, MAX_SLOTS};

/// Stalls are reported at most this often, the worst of them; all are counted.
const STALL_REPORT_NS: Nanos = 100_000_000;

/// Counted exactly since [`Detector::new`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DetectorCounters {
    /// Times the detector's own loop was late by more than the gate allows.
    pub stalls: u64,
    /// Times one of the host's CPUs failed to handle what it received for longer than that.
    pub receive_stalls: u64,
    /// How often a verdict was put off because of either.
    pub postponed_verdicts: u64,
    /// The longest that the loop was late, nanoseconds.
    pub worst_stall_ns: Nanos,
    /// Leg 1s handed out.
    pub requests: u64,
    /// Events merged into a later one of the same subject because nobody took them.
    pub merged_events: u64,
}

/// Judges routes, paces leg 1, selects active routes. Owned by the detection thread.
///
/// After every `handle_*` call the shell drains: first [`poll_store`](Self::poll_store) (traffic moves before
/// anything else), then [`poll_transmit`](Self::poll_transmit), then [`poll_event`](Self::poll_event); then it sleeps
/// until [`poll_timeout`](Self::poll_timeout) and calls [`handle_timeout`](Self::handle_timeout). Nothing here
/// allocates after [`new`](Self::new).
pub struct Detector {
    config: DetectorConfig,
    own_id: NodeId,
    routes: Box<[Option<Route>]>,
    /// Per slot when its route must be looked at.
    due: Deadlines,
    /// Slots from here on have never been used.
    slots_end: usize,
    /// How many there are, and on how many phases of the delay their leg 1s leave.
    watched: usize,
    phases: u64,
    peers: Box<[Peer]>,
    /// Per peer when it must be looked at, whatever its routes do.
    peers_due: Deadlines,
    /// Peers of which a route was looked at: what arrived may be about another one.
    visited: NodeSet,
    /// Peers with a change that selection must see.
    touched: NodeSet,
    links: [LinkState; InterfaceNumber::LIMIT as usize],
    dead_interfaces: u64,
    stores: Stores,
    requests: Requests,
    events: Events,
    counters: DetectorCounters,
    rtt: Histogram,
    /// The newest `now` that came in.
    now_ns: Nanos,
    /// What `poll_timeout` says.
    asked_ns: Nanos,
    /// Lateness that a command found before `handle_timeout` could.
    late_ns: Nanos,
    /// The tightest limit of any route.
    stall_limit_ns: Nanos,
    /// What is due within this is served by the wake before.
    early_ns: Nanos,
    stall_reported_ns: Option<Nanos>,
    /// The worst stall not yet reported.
    stall_pending_ns: Nanos,
    receiving: Receiving,
}

impl Detector {
    /// A detector that watches nothing yet, on node `own_id`.
    pub fn new(config: DetectorConfig, own_id: NodeId) -> Self {
        Self {
            config,
            own_id,
            routes: vec![None; MAX_SLOTS as usize].into(),
            due: Deadlines::new(MAX_SLOTS as usize),
            slots_end: 0,
            watched: 0,
            phases: 1,
            peers: vec![Peer::new(); MAX_NODES as usize].into(),
            peers_due: Deadlines::new(MAX_NODES as usize),
            visited: NodeSet::new(),
            touched: NodeSet::new(),
            links: [LinkState::Up; InterfaceNumber::LIMIT as usize],
            dead_interfaces: 0,
            stores: Stores::new(),
            requests: Requests::new(),
            events: Events::new(),
            counters: DetectorCounters::default(),
            rtt: Histogram::new(),
            now_ns: 0,
            asked_ns: Nanos::MAX,
            late_ns: 0,
            stall_limit_ns: Nanos::MAX,
            early_ns: 0,
            stall_reported_ns: None,
            stall_pending_ns: 0,
            receiving: Receiving::new(),
        }
    }

    /// Takes a command of the control thread, or of the kernel's link events. All are idempotent.
    pub fn handle_command(&mut self, now: Nanos, command: DetectorCommand) {
        self.now_ns = self.now_ns.max(now);
        // The command may move the wake that we are late for.
        self.late_ns = self.late_ns.max(now.saturating_sub(self.asked_ns));
        match command {
            DetectorCommand::SetRoute(setup) => self.set_route(now, setup),
            DetectorCommand::RemoveRoute(slot) => self.remove_route(now, slot),
            DetectorCommand::Configure(config) => {
                self.config = config;
                (1..self.peers.len()).for_each(|peer| self.touched.insert(peer));
            }
            DetectorCommand::SetLink(interface, link) => self.set_link(now, interface, link),
        }
        self.review_touched(now);
        self.plan();
    }

    /// Judges and paces. Call it at [`poll_timeout`](Self::poll_timeout), or earlier; `now` is the clock just
    /// before the call.
    pub fn handle_timeout(&mut self, now: Nanos, evidence: &impl Evidence) {
        self.now_ns = self.now_ns.max(now);
        let late_ns = now.saturating_sub(self.asked_ns).max(self.late_ns);
        self.late_ns = 0;
        if late_ns > self.stall_limit_ns {
            self.note_stall(now, late_ns, evidence);
        }
        let silent_ns = evidence.receive_silent_ns(now);
        if self.receiving.observe(now, silent_ns, self.stall_limit_ns) {
            self.counters.receive_stalls = self.receiving.count();
        }
        self.report_stall(now);
        let mut from = 0;
        while let Some(index) = self.due.next_due(from, now.saturating_add(self.early_ns)) {
            self.tend(now, index, evidence);
            from = index + 1;
        }
        while let Some(peer) = self.visited.pop() {
            self.hear_news(now, peer, evidence);
        }
        let mut from = 1;
        while let Some(index) = self.peers_due.next_due(from, now) {
            self.read_peer(index, evidence);
            self.touched.insert(index);
            from = index + 1;
        }
        self.review_touched(now);
        self.plan();
    }

    /// The next store into a shared map. Do these first.
    pub fn poll_store(&mut self) -> Option<StoreCommand> {
        self.stores.pop()
    }

    /// The next leg 1 to send at once; `now` is the clock just before the call. Leg 1s that leave late, as something
    /// came between, count as a stall like a late wake.
    pub fn poll_transmit(&mut self, now: Nanos) -> Option<RequestTransmit> {
        let late_ns = now.saturating_sub(self.now_ns);
        if late_ns > self.stall_limit_ns {
            self.late_ns = self.late_ns.max(late_ns);
        }
        loop {
            let slot = self.requests.pop()?;
            let Some(route) = self.routes[slot.index()].as_mut().filter(|route| route.link_is_up()) else {
                continue;
            };
            let sequence = route.next_sequence(now);
            let (peer, counts) = (route.setup.peer, route.is_up());
            self.counters.requests = self.counters.requests.saturating_add(1);
            return Some(RequestTransmit { slot, sequence, notice: self.take_notice(slot, peer, counts) });
        }
    }

    /// The next event for the control thread. When it can't take more, leave them here: they are merged per
    /// subject once the queue is full, and the last state of each is never lost.
    pub fn poll_event(&mut self) -> Option<DetectorEvent> {
        self.events.pop()
    }

    /// When to call [`handle_timeout`](Self::handle_timeout) next; `u64::MAX` when there is nothing to watch.
    pub fn poll_timeout(&self) -> Nanos {
        self.asked_ns
    }

    /// All watched routes, by slot, as of the last call.
    pub fn views(&self) -> impl Iterator<Item = RouteView> {
        self.routes[..self.slots_end]
            .iter()
            .flatten()
            .map(|route| route.view(self.now_ns, &self.config.damping))
    }

    /// What a peer looks like from here, and the age of its newest tick in nanoseconds (`u64::MAX` = none seen).
    pub fn peer(&self, peer: NodeId) -> (NodeState, Nanos) {
        let peer = &self.peers[usize::from(peer.get())];
        (peer.state, peer.tick_age_ns(self.now_ns))
    }

    /// The route that carries cluster traffic to a peer.
    pub fn active(&self, peer: NodeId) -> Option<Slot> {
        self.peers[usize::from(peer.get())].active
    }

    /// What was counted.
    pub fn counters(&self) -> DetectorCounters {
        DetectorCounters { merged_events: self.events.merged(), ..self.counters }
    }

    /// Round trips of all routes, nanoseconds.
    pub fn rtt_histogram(&self) -> &Histogram {
        &self.rtt
    }

    /// The node that this detector runs on.
    pub fn own_id(&self) -> NodeId {
        self.own_id
    }

    // --- commands -------------------------------------------------------------------------------------------

    fn set_route(&mut self, now: Nanos, setup: RouteSetup) {
        let index = setup.slot.index();
        if self.routes[index].as_ref().is_some_and(|route| route.setup.peer != setup.peer) {
            self.remove_route(now, setup.slot);
        }
        let link = self.links[usize::from(setup.interface.get())];
        let Some(route) = &mut self.routes[index] else {
            self.add_route(now, setup, link);
            return;
        };
        let moved = route.setup.interface != setup.interface;
        route.change(now, setup, self.own_id, self.phases);
        if moved {
            let (state, reason) = route.set_link(now, link);
            self.enter(now, index, state, reason);
        }
        self.touch(index);
        self.note_timings();
    }

    fn add_route(&mut self, now: Nanos, setup: RouteSetup, link: LinkState) {
        let index = setup.slot.index();
        self.watched += 1;
        self.spread();
        let mut route = Route::new(now, setup, link, self.own_id, self.phases);
        let peer = &mut self.peers[usize::from(setup.peer.get())];
        route.next_of_peer = peer.first.replace(setup.slot);
        if route.state != RouteState::Down {
            // The control thread takes every new route for down.
            let first = route.record(now, RouteState::Down);
            self.events.push(DetectorEvent::Route(first));
        }
        self.stores.set_standing(setup.slot, route.standing());
        self.routes[index] = Some(route);
        self.slots_end = self.slots_end.max(index + 1);
        self.touch(index);
        self.note_timings();
    }

    fn remove_route(&mut self, now: Nanos, slot: Slot) {
        let index = slot.index();
        if self.routes[index].is_none() {
            return;
        }
        self.enter(now, index, RouteState::Down, RouteReason::Removed);
        self.touch(index);
        let Some(route) = self.routes[index].take() else { return };
        let peer = &mut self.peers[usize::from(route.setup.peer.get())];
        let mut link = &mut peer.first;
        while let Some(at) = *link {
            if at == slot {
                *link = route.next_of_peer;
                break;
            }
            let Some(next) = &mut self.routes[at.index()] else { break };
            link = &mut next.next_of_peer;
        }
        self.due.set(index, Nanos::MAX);
        self.watched -= 1;
        self.spread();
        self.note_timings();
    }

    /// Few routes leave together, many are spread over the delay.
    fn spread(&mut self) {
        let phases = phases_for(self.watched);
        if phases != self.phases {
            self.phases = phases;
            self.routes.iter_mut().flatten().for_each(|route| route.set_phases(self.own_id, phases));
        }
    }

    fn set_link(&mut self, now: Nanos, interface: InterfaceNumber, link: LinkState) {
        let number = usize::from(interface.get());
        if self.links[number] == link {
            return;
        }
        self.links[number] = link;
        let bit = 1u64 << number;
        let dead = match link {
            LinkState::Up => self.dead_interfaces & !bit,
            LinkState::NoCarrier | LinkState::AdminDown => self.dead_interfaces | bit,
        };
        if dead != self.dead_interfaces {
            self.dead_interfaces = dead;
            self.stores.set_dead_interfaces(dead);
        }
        for index in 0..self.slots_end {
            let Some(route) = &mut self.routes[index] else { continue };
            if route.setup.interface == interface {
                let (state, reason) = route.set_link(now, link);
                self.enter(now, index, state, reason);
                self.touch(index);
            }
        }
        // After all of them, so that no notice waits for a route that is dead as well.
        for index in 0..self.slots_end {
            if self.routes[index].as_ref().is_some_and(|route| route.setup.interface == interface) {
                self.start_notices(now, index);
            }
        }
    }

    // --- stalls ---------------------------------------------------------------------------------------------

    fn note_stall(&mut self, now: Nanos, late_ns: Nanos, evidence: &impl Evidence) {
        self.counters.stalls = self.counters.stalls.saturating_add(1);
        self.counters.worst_stall_ns = self.counters.worst_stall_ns.max(late_ns);
        self.stall_pending_ns = self.stall_pending_ns.max(late_ns);
        self.receiving.was_late(now, late_ns);
        for index in 0..self.slots_end {
            let Some(route) = &mut self.routes[index] else { continue };
            route.observe(evidence.read(route.setup.slot), &mut self.rtt);
            if route.excuse_stall(now, late_ns) == Excuse::Postponed {
                self.counters.postponed_verdicts = self.counters.postponed_verdicts.saturating_add(1);
            }
            self.due.set(index, self.due.get(index).min(route.due_ns()));
        }
    }

    fn report_stall(&mut self, now: Nanos) {
        let recent = self.stall_reported_ns.is_some_and(|at_ns| now.saturating_sub(at_ns) < STALL_REPORT_NS);
        if self.stall_pending_ns > 0 && !recent {
            self.events.push(DetectorEvent::Stall { at_ns: now, gap_ns: self.stall_pending_ns });
            self.stall_reported_ns = Some(now);
            self.stall_pending_ns = 0;
        }
    }

    /// The tightest of what depends on the routes' timings.
    fn note_timings(&mut self) {
        let routes = || self.routes[..self.slots_end].iter().flatten();
        self.stall_limit_ns = routes().map(Route::stall_limit_ns).min().unwrap_or(Nanos::MAX);
        self.early_ns = routes().map(Route::early_ns).min().unwrap_or(0);
    }

    // --- routes ---------------------------------------------------------------------------------------------

    /// Reads, judges and paces one route.
    fn tend(&mut self, now: Nanos, index: usize, evidence: &impl Evidence) {
        let Some(route) = &mut self.routes[index] else { return };
        let peer = usize::from(route.setup.peer.get());
        route.observe(evidence.read(route.setup.slot), &mut self.rtt);
        if route.take_request(now) {
            self.requests.push(route.setup.slot);
        }
        self.judge(now, index, evidence);
        self.visited.insert(peer);
        self.touched.insert(peer);
    }

    /// What arrived on one route of a peer may be about another one.
    fn hear_news(&mut self, now: Nanos, peer: usize, evidence: &impl Evidence) {
        let mut next = self.peers[peer].first;
        while let Some(slot) = next {
            let Some(route) = &mut self.routes[slot.index()] else { break };
            next = route.next_of_peer;
            if evidence.told_down(slot) != route.seen.told_down {
                route.observe(evidence.read(slot), &mut self.rtt);
                self.judge(now, slot.index(), evidence);
            }
        }
    }

    /// The verdict on one route, by evidence just read.
    fn judge(&mut self, now: Nanos, index: usize, evidence: &impl Evidence) {
        let Some(route) = &mut self.routes[index] else { return };
        if let Some((state, reason)) = route.told_state() {
            route.accept_told();
            self.enter(now, index, state, reason);
        } else if route.is_overdue(now) && !never_accuses(self.own_id) {
            // Once more, in case something came in while we were on the way here.
            route.observe(evidence.read(route.setup.slot), &mut self.rtt);
            if route.is_overdue(now) {
                if is_held(&self.receiving, now, route) {
                    self.counters.postponed_verdicts = self.counters.postponed_verdicts.saturating_add(1);
                    self.due.set(index, route.due_ns().min(now.saturating_add(RECHECK_NS)));
                    return;
                }
                let leaving = self.peers[usize::from(route.setup.peer.get())].is_leaving(&self.routes);
                let Some(route) = &self.routes[index] else { return };
                let reason = if leaving { RouteReason::PeerLeft } else { route.missed_reason(now) };
                self.enter(now, index, RouteState::Down, reason);
                self.start_notices(now, index);
            }
        } else if route.may_come_up(now, self.config.up_run)
            && !stays_down(self.own_id, self.counters.requests)
        {
            self.come_up(now, index);
        } else if let Some(reason) = route.refined_reason(now) {
            route.reason = reason;
            self.start_notices(now, index);
        }
        self.set_due(index);
    }

    /// Up, unless the route is damped and the peer can be reached without it.
    fn come_up(&mut self, now: Nanos, index: usize) {
        let Some(route) = &mut self.routes[index] else { return };
        if route.is_damped(now, &self.config.damping) {
            let first = self.peers[usize::from(route.setup.peer.get())].first;
            let others = routes_of(&self.routes, first).any(Route::is_up);
            if others || broken(Sabotage::DampsLastRoute) {
                self.enter(now, index, RouteState::Down, RouteReason::Damped);
                return;
            }
        }
        self.enter(now, index, RouteState::Up, RouteReason::HeartbeatsComplete);
    }

    /// A peer that lost its last route gets back those that only damping holds back.
    fn release(&mut self, now: Nanos, peer: usize) {
        let first = self.peers[peer].first;
        if routes_of(&self.routes, first).any(Route::is_up) || broken(Sabotage::DampsLastRoute) {
            return;
        }
        let mut next = first;
        while let Some(route) = next.and_then(|slot| self.routes[slot.index()].as_ref()) {
            next = route.next_of_peer;
            if route.is_held_back() && route.may_come_up(now, self.config.up_run) {
                let index = route.setup.slot.index();
                self.enter(now, index, RouteState::Up, RouteReason::HeartbeatsComplete);
            }
        }
    }

    fn enter(&mut self, now: Nanos, index: usize, state: RouteState, reason: RouteReason) {
        let Some(route) = &mut self.routes[index] else { return };
        let stalled_ns = self.receiving.stalled_ns(route.evidence_ns());
        if let Some(record) = route.enter(now, state, reason, &self.config.damping) {
            let record = RouteRecord { stalled_ns, ..record };
            self.stores.set_standing(record.slot, route.standing());
            if !broken(Sabotage::LosesEvents) || record.completed.is_multiple_of(2) {
                self.events.push(DetectorEvent::Route(record));
            }
            self.touch(index);
        }
    }

    /// Starts telling the peer about a route, the first time at once.
    fn start_notices(&mut self, now: Nanos, index: usize) {
        let Some(route) = &mut self.routes[index] else { return };
        route.start_notices();
        if route.notices_left() == 0 {
            return;
        }
        let first = self.peers[usize::from(route.setup.peer.get())].first;
        let up = routes_of(&self.routes, first).filter(|route| route.is_up() && route.link_is_up());
        let best =
            up.min_by_key(|route| (route.setup.metric, route.setup.slot)).map(|route| route.setup.slot);
        if let Some(slot) = best {
            self.hurry(now, slot, now);
        }
    }

    fn hurry(&mut self, now: Nanos, slot: Slot, since: Nanos) -> Nanos {
        let leaves_ns =
            self.routes[slot.index()].as_mut().map_or(now, |route| route.hurry_request(now, since));
        self.set_due(slot.index());
        leaves_ns
    }

    /// What a leg 1 on `carrier` tells the peer: of its dead routes the one told least often. Only routes that are
    /// up count as having told.
    fn take_notice(&mut self, carrier: Slot, peer: NodeId, counts: bool) -> Option<(Slot, u32)> {
        if broken(Sabotage::TellsNobody) {
            return None;
        }
        let first = self.peers[usize::from(peer.get())].first;
        let about = routes_of(&self.routes, first)
            .filter(|route| route.setup.slot != carrier && route.notices_left() > 0)
            .max_by_key(|route| route.notices_left())?
            .setup
            .slot;
        let route = self.routes[about.index()].as_mut()?;
        if counts {
            route.count_notice();
        }
        route.notice().map(|reason| (about, reason))
    }

    // --- peers ----------------------------------------------------------------------------------------------

    fn touch(&mut self, index: usize) {
        if let Some(route) = &self.routes[index] {
            self.touched.insert(usize::from(route.setup.peer.get()));
        }
        self.set_due(index);
    }

    fn set_due(&mut self, index: usize) {
        self.due.set(index, self.routes[index].as_ref().map_or(Nanos::MAX, Route::due_ns));
    }

    fn read_peer(&mut self, index: usize, evidence: &impl Evidence) {
        let mut next = self.peers[index].first;
        while let Some(route) = next.and_then(|slot| self.routes[slot.index()].as_mut()) {
            route.observe(evidence.read(route.setup.slot), &mut self.rtt);
            next = route.next_of_peer;
        }
    }

    fn review_touched(&mut self, now: Nanos) {
        while let Some(index) = self.touched.pop() {
            let Some(id) = u16::try_from(index).ok().and_then(NodeId::new) else { continue };
            self.release(now, index);
            let outcome = self.peers[index].review(now, id, &self.config, &self.routes);
            if let Some(word) = outcome.word {
                self.stores.set_active(id, word);
            }
            outcome.moved.into_iter().chain(outcome.changed).for_each(|event| self.events.push(event));
            if let Some((slot, since_ns)) = outcome.probe {
                let leaves_ns = self.hurry(now, slot, since_ns);
                let srtt_ns = self.routes[slot.index()].as_ref().map_or(0, |route| route.srtt_ns);
                self.peers[index].probed(leaves_ns, srtt_ns);
            }
            self.peers_due.set(index, self.peers[index].due_ns);
        }
    }

    fn plan(&mut self) {
        self.asked_ns = self.due.earliest().min(self.peers_due.earliest());
    }
}

/// Whether the verdict at `now` must wait for a CPU of ours. Once that runs again, a leg 1 leaves that settles it.
fn is_held(receiving: &Receiving, now: Nanos, route: &mut Route) -> bool {
    let doubt = route.doubt();
    let Some(until_ns) = receiving.doubt_until_ns(&doubt) else { return false };
    let leaves_ns = if until_ns < now { route.first_request_after(now, until_ns) } else { now };
    receiving.holds(now, &doubt, leaves_ns.saturating_add(route.fresh_ns()))
}
