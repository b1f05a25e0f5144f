//! One peer: whether it is there, whether its engine ticks, and which of its routes is active.

use super::route::Route;
use super::sabotage::{Sabotage, broken};
use super::{DetectorConfig, DetectorEvent};
use crate::types::{Nanos, NodeId, NodeState, Slot};
use netft_common::map::ActiveRoute;
use netft_common::wire::flags;

/// How long after asking for a sign of the engine we look for it, at least.
const PROBE_FLOOR_NS: Nanos = 200_000;

/// One peer. Its routes form a list through [`Route::next_of_peer`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer {
    pub(super) first: Option<Slot>,
    pub(super) state: NodeState,
    pub(super) active: Option<Slot>,
    backup: Option<Slot>,
    generation: u32,
    /// Whether the active word was ever stored.
    stored: bool,
    /// The newest tick known, over all routes; 0 = none yet.
    tick_ns: Nanos,
    /// Stands in for the tick as long as none was seen.
    reachable_ns: Nanos,
    /// When the fail-back hold ends or the engine's tick gets too old; `Nanos::MAX` = nothing to wait for.
    pub(super) due_ns: Nanos,
    /// When leg 1 was last sent early to ask for a sign of the engine, and when to look for the answer.
    probe_ns: Nanos,
    look_ns: Nanos,
}

/// What a look at a peer's routes leads to.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Outcome {
    /// Store this active word.
    pub(super) word: Option<u64>,
    /// Cluster traffic moved.
    pub(super) moved: Option<DetectorEvent>,
    /// The peer changed its state.
    pub(super) changed: Option<DetectorEvent>,
    /// Send leg 1 on this route, unless one left since that moment, to hear whether the engine ticks.
    pub(super) probe: Option<(Slot, Nanos)>,
}

/// What all routes of a peer say together.
struct Summary {
    best: Option<Slot>,
    backup: Option<Slot>,
    reachable: bool,
    leaving: bool,
    tick_ns: Nanos,
    /// A reply left the peer after this moment.
    heard_ns: Nanos,
    srtt_ns: Nanos,
}

/// The peer's routes, in no particular order.
pub(super) fn routes_of(
    routes: &[Option<Route>],
    first: Option<Slot>,
) -> impl Iterator<Item = &Route> + use<'_> {
    let mut next = first;
    std::iter::from_fn(move || {
        let route = routes[next?.index()].as_ref()?;
        next = route.next_of_peer;
        Some(route)
    })
}

impl Peer {
    pub(super) const fn new() -> Self {
        Self {
            first: None,
            state: NodeState::Down,
            active: None,
            backup: None,
            generation: 0,
            stored: false,
            tick_ns: 0,
            reachable_ns: 0,
            due_ns: Nanos::MAX,
            probe_ns: 0,
            look_ns: 0,
        }
    }

    /// Whether the peer said goodbye in what arrived last.
    pub(super) fn is_leaving(&self, routes: &[Option<Route>]) -> bool {
        let arrival = |route: &&Route| route.seen.arrival_ns.iter().copied().max();
        let newest = routes_of(routes, self.first).max_by_key(arrival);
        newest.is_some_and(|route| route.seen.peer_flags & u64::from(flags::LEAVING) != 0)
    }

    /// Looks at all routes of the peer: picks the active one and says what changed.
    pub(super) fn review(
        &mut self,
        now: Nanos,
        id: NodeId,
        config: &DetectorConfig,
        routes: &[Option<Route>],
    ) -> Outcome {
        let mut outcome = Outcome::default();
        self.due_ns = Nanos::MAX;
        let best = self.choose(now, config, routes);
        let summary = self.summarize(best, routes);
        if (summary.best, summary.backup) != (self.active, self.backup)
            || (!self.stored && self.first.is_some())
        {
            outcome.word = Some(self.new_word(now, &summary));
            if summary.best != self.active {
                let (old, new) = (self.active, summary.best);
                outcome.moved = Some(DetectorEvent::Active { at_ns: now, peer: id, old, new });
            }
            (self.active, self.backup) = (summary.best, summary.backup);
        }
        self.judge_engine(now, id, config, &summary, &mut outcome);
        outcome
    }

    /// Lowest metric wins, then the lower slot. A route that is up keeps the traffic until a better one has been up
    /// for the hold time.
    fn choose(&mut self, now: Nanos, config: &DetectorConfig, routes: &[Option<Route>]) -> Option<Slot> {
        if self.active.is_some() && broken(Sabotage::KeepsActive) {
            return self.active;
        }
        let up = || routes_of(routes, self.first).filter(|route| route.is_up());
        let best = up().min_by_key(|route| (route.setup.metric, route.setup.slot))?;
        let current = up().find(|route| Some(route.setup.slot) == self.active);
        match current {
            Some(current) if best.setup.metric < current.setup.metric => {
                let hold_ends_ns = best.hold_from_ns.saturating_add(config.fail_back_hold_ns);
                if now >= hold_ends_ns {
                    return Some(best.setup.slot);
                }
                self.due_ns = hold_ends_ns;
                Some(current.setup.slot)
            }
            Some(current) => Some(current.setup.slot),
            None => Some(best.setup.slot),
        }
    }

    fn summarize(&self, best: Option<Slot>, routes: &[Option<Route>]) -> Summary {
        let mut summary = Summary {
            best,
            backup: None,
            reachable: false,
            leaving: self.is_leaving(routes),
            tick_ns: 0,
            heard_ns: 0,
            srtt_ns: 0,
        };
        let interface =
            best.and_then(|slot| routes[slot.index()].as_ref()).map(|route| route.setup.interface);
        let mut backup_key = None;
        for route in routes_of(routes, self.first) {
            summary.tick_ns = summary.tick_ns.max(route.seen.peer_tick_ns);
            // Every leg says how old the tick was when it left: after the stamp that it echoes. When it arrived says
            // less: it may have waited here, while this host stood still.
            let replied_ns = route.seen.completed_sent_ns.max(route.seen.confirmed_sent_ns);
            summary.heard_ns = summary.heard_ns.max(replied_ns);
            if !route.is_up() {
                continue;
            }
            summary.reachable = true;
            if Some(route.setup.slot) == best {
                summary.srtt_ns = route.srtt_ns;
            }
            let key = Some((route.setup.metric, route.setup.slot));
            if Some(route.setup.interface) != interface && (backup_key.is_none() || key < backup_key) {
                backup_key = key;
                summary.backup = Some(route.setup.slot);
            }
        }
        summary
    }

    fn new_word(&mut self, now: Nanos, summary: &Summary) -> u64 {
        self.generation = if self.stored {
            self.generation.wrapping_add(1).max(1)
        } else {
            // Above what an engine before us has stored: 16 ms units, one more per change.
            u32::try_from((now >> 24) & u64::from(u32::MAX >> 1)).unwrap_or(0).max(1)
        };
        self.stored = true;
        let number = |slot: Option<Slot>| slot.map_or(ActiveRoute::NONE, Slot::get);
        let (slot, backup) = (number(summary.best), number(summary.backup));
        ActiveRoute { slot, backup, generation: self.generation }.to_word()
    }

    /// The engine is stalled if a reply left the peer when its tick was older than the timeout. Silence says
    /// nothing: perhaps nobody asked. So shortly before it would matter leg 1 is sent early, and the answer counts.
    fn judge_engine(
        &mut self,
        now: Nanos,
        id: NodeId,
        config: &DetectorConfig,
        summary: &Summary,
        outcome: &mut Outcome,
    ) {
        let old = self.state;
        if summary.reachable && old == NodeState::Down {
            self.reachable_ns = now;
        }
        self.tick_ns = summary.tick_ns;
        let tick_ns = if summary.tick_ns == 0 { self.reachable_ns } else { summary.tick_ns };
        let stale_ns = tick_ns.saturating_add(config.engine_timeout_ns);
        self.state = if !summary.reachable {
            NodeState::Down
        } else if summary.leaving {
            NodeState::Leaving
        } else if summary.heard_ns > stale_ns && !broken(Sabotage::TrustsHosts) {
            NodeState::EngineStalled
        } else {
            NodeState::Up
        };
        if self.state != old {
            let tick_age_ns = now.saturating_sub(tick_ns);
            outcome.changed =
                Some(DetectorEvent::Peer { at_ns: now, peer: id, old, new: self.state, tick_age_ns });
        }
        if self.state != NodeState::Up {
            return;
        }
        // The tick is known from the stamp of the leg that asked, so it may be a trip younger than we know.
        let ask_ns = stale_ns.saturating_add(summary.srtt_ns).saturating_add(1);
        if now < ask_ns {
            self.due_ns = self.due_ns.min(ask_ns);
        } else if self.probe_ns < ask_ns {
            outcome.probe = summary.best.map(|slot| (slot, ask_ns));
        } else if now < self.look_ns {
            self.due_ns = self.due_ns.min(self.look_ns);
        }
    }

    /// The probe leaves at `leaves_ns`; the answer is looked for once it must be there.
    pub(super) fn probed(&mut self, leaves_ns: Nanos, srtt_ns: Nanos) {
        self.probe_ns = leaves_ns;
        self.look_ns = leaves_ns.saturating_add((2 * srtt_ns).max(PROBE_FLOOR_NS));
        self.due_ns = self.due_ns.min(self.look_ns);
    }

    /// Age of the newest tick; `u64::MAX` if none was seen.
    pub(super) fn tick_age_ns(&self, now: Nanos) -> Nanos {
        if self.tick_ns == 0 { Nanos::MAX } else { now.saturating_sub(self.tick_ns) }
    }
}
