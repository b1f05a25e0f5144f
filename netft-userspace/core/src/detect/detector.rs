//! The detector itself.

use super::{
    Adopted, DetectorCommand, DetectorConfig, DetectorEvent, Evidence, Histogram, RequestTransmit,
    RouteRecord, RouteSetup, RouteView, StoreCommand,
};
use crate::types::{Nanos, NodeId, RouteReason, RouteState, Slot};
use netft_common::map::{ActiveRoute, MAX_NODES, MAX_SLOTS};
use std::collections::VecDeque;

/// Counted exactly since [`Detector::new`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DetectorCounters {
    /// Times the detector's own loop was late by more than the gate allows.
    pub stalls: u64,
    /// Verdicts put off because of that.
    pub postponed_verdicts: u64,
    /// The longest that the loop was late, nanoseconds.
    pub worst_stall_ns: Nanos,
    /// Leg 1s handed out.
    pub requests: u64,
    /// Events merged into a later one of the same subject because nobody took them.
    pub merged_events: u64,
}

/// One watched route.
#[derive(Clone, Copy, Debug)]
struct Route {
    setup: RouteSetup,
    state: RouteState,
    reason: RouteReason,
    since_ns: Nanos,
    next_request_ns: Nanos,
    next_sequence: u64,
    evidence_ns: Nanos,
    run: u32,
    srtt_ns: Nanos,
    sent: u64,
    completed: u64,
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
    active: Box<[Option<(Slot, u32)>]>,
    transmits: VecDeque<RequestTransmit>,
    events: VecDeque<DetectorEvent>,
    stores: VecDeque<StoreCommand>,
    counters: DetectorCounters,
    rtt: Histogram,
}

impl Detector {
    /// A detector that watches nothing yet, on node `own_id`.
    pub fn new(config: DetectorConfig, own_id: NodeId) -> Self {
        Self {
            config,
            own_id,
            routes: vec![None; MAX_SLOTS as usize].into(),
            active: vec![None; MAX_NODES as usize].into(),
            transmits: VecDeque::with_capacity(MAX_SLOTS as usize),
            events: VecDeque::with_capacity(4 * MAX_SLOTS as usize),
            stores: VecDeque::with_capacity(4 * MAX_SLOTS as usize),
            counters: DetectorCounters::default(),
            rtt: Histogram::new(),
        }
    }

    /// Takes a command of the control thread, or of the kernel's link events. All are idempotent.
    pub fn handle_command(&mut self, now: Nanos, command: DetectorCommand) {
        match command {
            DetectorCommand::SetRoute(setup) => {
                let up = setup.adopted == Adopted::Up;
                self.routes[setup.slot.index()].get_or_insert(Route {
                    setup,
                    state: if up { RouteState::Up } else { RouteState::Down },
                    reason: if up { RouteReason::Adopted } else { RouteReason::Starting },
                    since_ns: now,
                    next_request_ns: now + setup.timing.delay_ns,
                    next_sequence: setup.first_sequence,
                    evidence_ns: now,
                    run: 0,
                    srtt_ns: 0,
                    sent: 0,
                    completed: 0,
                });
                if let Some(route) = &mut self.routes[setup.slot.index()] {
                    route.setup = setup;
                }
                self.select(now, setup.peer);
            }
            DetectorCommand::RemoveRoute(slot) => {
                if let Some(route) = self.routes[slot.index()].take() {
                    self.select(now, route.setup.peer);
                }
            }
            DetectorCommand::Configure(config) => self.config = config,
            DetectorCommand::SetLink(..) => {}
        }
    }

    /// Judges and paces. Call it at [`poll_timeout`](Self::poll_timeout), or earlier.
    pub fn handle_timeout(&mut self, now: Nanos, evidence: &impl Evidence) {
        for index in 0..self.routes.len() {
            let Some(route) = &mut self.routes[index] else { continue };
            let seen = evidence.read(route.setup.slot);
            let newest = seen.completed_sent_ns.max(seen.confirmed_sent_ns);
            if newest > route.evidence_ns {
                route.evidence_ns = newest;
                route.run += 1;
                route.completed += 1;
                route.srtt_ns = seen.rtt_ns;
                self.rtt.record(seen.rtt_ns);
            }
            let patience = route.setup.timing.detection_ns() + route.srtt_ns;
            let age = now.saturating_sub(route.evidence_ns);
            let old = route.state;
            if old == RouteState::Up && age > patience {
                (route.state, route.reason) = (RouteState::Down, RouteReason::HeartbeatsMissed);
            } else if old != RouteState::Up && age <= patience && route.run >= self.config.up_run {
                (route.state, route.reason) = (RouteState::Up, RouteReason::HeartbeatsComplete);
            }
            if now >= route.next_request_ns {
                let slot = route.setup.slot;
                self.transmits.push_back(RequestTransmit {
                    slot,
                    sequence: route.next_sequence,
                    notice: None,
                });
                route.next_sequence += 1;
                route.sent += 1;
                route.next_request_ns = now + route.setup.timing.delay_ns;
            }
            if route.state != old {
                route.since_ns = now;
                route.run = 0;
                self.events.push_back(DetectorEvent::Route(RouteRecord {
                    at_ns: now,
                    slot: route.setup.slot,
                    peer: route.setup.peer,
                    old,
                    new: route.state,
                    reason: route.reason,
                    sent: route.sent,
                    completed: route.completed,
                    misses: 0,
                    threshold: route.setup.timing.threshold,
                    evidence_age_ns: age,
                    silence_ns: age,
                }));
                let peer = route.setup.peer;
                self.select(now, peer);
            }
        }
    }

    fn select(&mut self, now: Nanos, peer: NodeId) {
        let best = self.routes.iter().flatten().filter(|r| r.setup.peer == peer && r.state == RouteState::Up);
        let best = best.min_by_key(|r| (r.setup.metric, r.setup.slot)).map(|r| r.setup.slot);
        let active = &mut self.active[usize::from(peer.get())];
        let old = active.map(|(slot, _)| slot);
        if old != best {
            let generation = active.map_or(1, |(_, generation)| generation.wrapping_add(1)).max(1);
            *active = best.map(|slot| (slot, generation));
            let slot = best.map_or(ActiveRoute::NONE, Slot::get);
            let word = ActiveRoute { slot, backup: ActiveRoute::NONE, generation }.to_word();
            self.stores.push_back(StoreCommand::Active(peer, word));
            self.events.push_back(DetectorEvent::Active { at_ns: now, peer, old, new: best });
        }
    }

    /// The next store into a shared map. Do these first.
    pub fn poll_store(&mut self) -> Option<StoreCommand> {
        self.stores.pop_front()
    }

    /// The next leg 1 to send.
    pub fn poll_transmit(&mut self) -> Option<RequestTransmit> {
        let transmit = self.transmits.pop_front();
        self.counters.requests += u64::from(transmit.is_some());
        transmit
    }

    /// The next event for the control thread. When it can't take more, leave them here: they are merged per
    /// subject once the queue is full, and the last state of each is never lost.
    pub fn poll_event(&mut self) -> Option<DetectorEvent> {
        self.events.pop_front()
    }

    /// When to call [`handle_timeout`](Self::handle_timeout) next; `u64::MAX` when there is nothing to watch.
    pub fn poll_timeout(&self) -> Nanos {
        self.routes.iter().flatten().map(|route| route.next_request_ns).min().unwrap_or(Nanos::MAX)
    }

    /// All watched routes, by slot.
    pub fn views(&self) -> impl Iterator<Item = RouteView> {
        self.routes.iter().flatten().map(|route| RouteView {
            slot: route.setup.slot,
            peer: route.setup.peer,
            state: route.state,
            reason: route.reason,
            since_ns: route.since_ns,
            misses: 0,
            srtt_ns: route.srtt_ns,
            sent: route.sent,
            completed: route.completed,
        })
    }

    /// What was counted.
    pub fn counters(&self) -> DetectorCounters {
        self.counters
    }

    /// Round trips of all routes, nanoseconds.
    pub fn rtt_histogram(&self) -> &Histogram {
        &self.rtt
    }

    /// The node that this detector runs on.
    pub fn own_id(&self) -> NodeId {
        self.own_id
    }
}
