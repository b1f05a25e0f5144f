//! Virtual time: who does what when.

use crate::case::{Case, FaultKind};
use crate::checks::{Broken, Check, Checks};
use crate::clock::Clock;
use crate::network::{Change, Networks};
use crate::node::{Node, address};
use crate::queue::{Kind, Queue, Store};
use crate::rng::Rng;
use crate::sabotage::{Sabotage, broken};
use crate::traffic::Traffic;
use crate::types::{LinkState, Nanos};
use netft_common::heartbeat::Addresses;
use netft_common::wire::{Heartbeat, kind};

const US: Nanos = 1_000;
const MS: Nanos = 1_000_000;

/// From the kernel's news about a link to the engine's socket.
pub(crate) const NEWS_NS: Nanos = 50 * US;
/// The longest that a wake is late without being a stall.
pub(crate) const LATENESS_NS: Nanos = 120 * US;
/// From an engine's wake to its last store and send.
pub(crate) const WORK_NS: Nanos = 10 * US;
/// From a leg's arrival to the departure of its reply.
pub(crate) const XDP_NS: Nanos = US;
/// The engine never sleeps longer.
const LONGEST_SLEEP_NS: Nanos = 20 * MS;
/// Legs that a frozen host's interfaces keep for it.
const WAITING: u32 = 256;
/// Wakes between two looks at the active routes when nothing changes.
const LOOK_EVERY: u64 = 64;

const NODE_BITS: u32 = 8;

/// A leg under way.
#[derive(Clone, Copy, Debug)]
struct Flight {
    from: u8,
    to: u8,
    network: u8,
    leg: Heartbeat,
}

pub(crate) struct World {
    pub at: Nanos,
    pub case: Case,
    pub nodes: Vec<Node>,
    pub networks: Networks,
    pub traffic: Traffic,
    /// Print every event.
    pub trace: bool,
    pub queue: Queue,
    flights: Store<Flight>,
    checks: Store<Check>,
    changes: Vec<Change>,
    /// By sender, receiver and network.
    addresses: Vec<Addresses>,
    frozen_until: Vec<Nanos>,
    pub rng: Rng,
    wakes: u64,
}

impl World {
    pub(crate) fn new() -> Self {
        Self {
            at: 0,
            case: crate::plan::CALM.draw(0),
            nodes: Vec::new(),
            networks: Networks::default(),
            traffic: Traffic::default(),
            trace: false,
            queue: Queue::default(),
            flights: Store::default(),
            checks: Store::default(),
            changes: Vec::new(),
            addresses: Vec::new(),
            frozen_until: Vec::new(),
            rng: Rng::new(0),
            wakes: 0,
        }
    }

    pub(crate) fn reset(&mut self, case: &Case) {
        self.case.clone_from(case);
        self.rng = Rng::new(case.seed);
        self.at = 0;
        self.networks.reset(case);
        self.queue.clear();
        self.flights.clear();
        self.checks.clear();
        self.frozen_until.clear();
        self.frozen_until.resize(case.nodes, 0);
        self.addresses.clear();
        self.nodes.clear();
        for from in 0..case.nodes {
            for to in 0..case.nodes {
                for network in 0..case.networks {
                    self.addresses.push(Addresses::new(address(from, network), address(to, network)));
                }
            }
            let offset_ns = self.rng.between(1_000, 1_000_000) * MS;
            let drift_ppm =
                self.rng.between(0, 2 * case.drift_ppm).cast_signed() - case.drift_ppm.cast_signed();
            self.nodes.push(Node::new(from, case, Clock::new(offset_ns, drift_ppm)));
        }
        for node in 0..case.nodes {
            let at = self.rng.between(0, 3 * MS);
            self.add_wake(at, node);
        }
        self.next_fault(0);
        self.reset_traffic();
    }

    pub(crate) fn run(&mut self, checks: &mut Checks) -> Result<(), Broken> {
        let end = self.case.end_ns();
        while let Some((at, kind, number)) = self.queue.next() {
            if at > end {
                self.at = end;
                break;
            }
            self.at = at;
            self.step(kind, number, checks);
            if let Some(broken) = checks.broken.take() {
                return Err(broken);
            }
        }
        Ok(())
    }

    /// Looks at something later.
    pub(crate) fn look(&mut self, at: Nanos, check: Check) {
        let number = self.checks.put(check);
        self.queue.add(at, Kind::Check, number);
    }

    // --- events ----------------------------------------------------------------------------------------------

    fn step(&mut self, kind: Kind, number: u32, checks: &mut Checks) {
        match kind {
            Kind::Leg => {
                let flight = self.flights.take(number);
                self.receive(flight, checks)
            }
            Kind::Wake | Kind::Judge | Kind::Drain => {
                let (node, token) = ((number & ((1 << NODE_BITS) - 1)) as usize, number >> NODE_BITS);
                let engine = &self.nodes[node];
                if token != engine.token {
                    return;
                }
                if self.at < engine.away_until {
                    self.queue.add(engine.away_until, kind, number);
                    return;
                }
                match kind {
                    Kind::Wake => self.wake(node, checks),
                    Kind::Judge => self.judge(node, checks),
                    _ => self.drain(node, self.at, checks),
                }
            }
            Kind::News => {
                let (node, network) = ((number & 0xff) as usize, (number >> 8 & 0xff) as usize);
                let link =
                    [LinkState::Up, LinkState::NoCarrier, LinkState::AdminDown][(number >> 16) as usize];
                self.nodes[node].news.push((network, link));
                self.rouse(node);
            }
            Kind::FaultBegins => {
                self.fault(number as usize, true, checks);
                self.next_fault(number as usize + 1);
            }
            Kind::FaultEnds => {
                self.fault(number as usize, false, checks);
            }
            Kind::Check => {
                let check = self.checks.take(number);
                checks.check(self, check)
            }
            Kind::Packet => self.packet(number as usize),
            Kind::Arrival => self.packet_arrives(number, checks),
            Kind::Recover => self.recover(number as usize),
        }
    }

    // --- engines ---------------------------------------------------------------------------------------------

    fn number_of(&self, node: usize) -> u32 {
        u32::try_from(node).unwrap_or(0) | self.nodes[node].token << NODE_BITS
    }

    fn add_wake(&mut self, at: Nanos, node: usize) {
        let number = self.number_of(node);
        self.queue.add(at, Kind::Wake, number);
    }

    /// Whatever was planned for the engine is cancelled.
    fn renew_token(&mut self, node: usize) {
        let engine = &mut self.nodes[node];
        engine.token = (engine.token + 1) & 0xf_ffff;
    }

    /// For how long the engine loses the CPU now, if it does.
    fn preemption(&mut self, node: usize) -> Option<Nanos> {
        if !self.rng.chance(self.case.preempt_per_million) {
            return None;
        }
        let span = self.rng.between(100 * US, self.case.preempt_ns.max(100 * US));
        self.nodes[node].note_stall(self.at, self.at + span);
        Some(span)
    }

    fn wake(&mut self, node: usize, checks: &mut Checks) {
        let at = self.at;
        if std::mem::take(&mut self.nodes[node].restarts) {
            self.nodes[node].start(at);
            checks.restarted(self, node);
        }
        let engine = &mut self.nodes[node];
        engine.tick(at);
        engine.read_at = at;
        checks.ticked(self, node);
        match self.preemption(node) {
            Some(span) => {
                self.nodes[node].busy = true;
                self.queue.add(at + span, Kind::Judge, self.number_of(node));
            }
            None => self.judge(node, checks),
        }
    }

    fn judge(&mut self, node: usize, checks: &mut Checks) {
        self.nodes[node].judge();
        let preemption = self.preemption(node);
        self.nodes[node].interrupted = preemption.is_some();
        match preemption {
            Some(span) => {
                self.nodes[node].busy = true;
                self.queue.add(self.at + WORK_NS + span, Kind::Drain, self.number_of(node));
            }
            None => self.drain(node, self.at + WORK_NS, checks),
        }
    }

    fn drain(&mut self, node: usize, at: Nanos, checks: &mut Checks) {
        let mut changed = false;
        while let Some(store) = self.nodes[node].detector.poll_store() {
            self.nodes[node].store(store);
            changed = true;
        }
        if changed {
            self.rouse_data(node);
        }
        let now = self.nodes[node].clock.local(at);
        while let Some(request) = self.nodes[node].detector.poll_transmit(now) {
            let watch = self.nodes[node].watch(request.slot);
            if self.trace {
                eprintln!("{at}: node {node} to {} on {}: {request:?}", watch.peer, watch.network);
            }
            checks.leg_1(self, node, watch, at);
            if let Some(leg) = self.nodes[node].request(at, request) {
                self.send(node, watch.peer, watch.network, leg, at, checks);
            }
        }
        while let Some(event) = self.nodes[node].detector.poll_event() {
            if self.trace {
                eprintln!("{at}: node {node} says {event:?}");
            }
            checks.event(self, node, event);
            changed = true;
        }
        self.wakes += 1;
        if changed || self.wakes.is_multiple_of(LOOK_EVERY) {
            checks.active(self, node);
        }
        let late_ns = self.rng.between(0, LATENESS_NS);
        self.renew_token(node);
        let engine = &mut self.nodes[node];
        engine.busy = false;
        let longest = engine.clock.local(at + LONGEST_SLEEP_NS);
        let asked = engine.clock.at(engine.detector.poll_timeout().min(longest));
        let wake_at = if engine.news.is_empty() { asked.max(at) + late_ns } else { at };
        self.add_wake(wake_at, node);
    }

    /// The engine sleeps in ppoll: news wake it.
    fn rouse(&mut self, node: usize) {
        if !self.nodes[node].busy {
            self.renew_token(node);
            self.add_wake(self.at, node);
        }
    }

    // --- legs ------------------------------------------------------------------------------------------------

    fn send(
        &mut self,
        from: usize,
        to: usize,
        network: usize,
        leg: Heartbeat,
        at: Nanos,
        checks: &mut Checks,
    ) {
        checks.leg(self, from, to, network, &leg);
        if !self.networks.leaves(from, network) {
            return;
        }
        for _ in 0..self.networks.copies(&mut self.rng) {
            let travel = self.networks.travel(&mut self.rng);
            let byte = |number: usize| u8::try_from(number).unwrap_or(u8::MAX);
            let flight = Flight { from: byte(from), to: byte(to), network: byte(network), leg };
            let number = self.flights.put(flight);
            self.queue.add(at + travel, Kind::Leg, number);
        }
    }

    fn receive(&mut self, mut flight: Flight, checks: &mut Checks) {
        let (from, to) = (usize::from(flight.from), usize::from(flight.to));
        let network = usize::from(flight.network);
        if !self.networks.arrives(to, network) {
            return;
        }
        if self.networks.is_frozen(to) {
            let node = &mut self.nodes[to];
            if node.waiting < WAITING {
                node.waiting += 1;
                let number = self.flights.put(flight);
                self.queue.add(self.frozen_until[to], Kind::Leg, number);
            }
            return;
        }
        if self.trace {
            let (kind, sequence) = (flight.leg.header.kind, flight.leg.header.sequence);
            eprintln!("{}: leg {kind} of {sequence} from {from} to {to} on {network}", self.at);
        }
        let addresses = self.addresses[(from * self.case.nodes + to) * self.case.networks + network];
        let leg = &mut flight.leg;
        let complete = leg.header.kind == kind::FINAL_REPLY;
        // XDP_TX: the reply leaves at once, by the port that the leg came in on.
        let replies = self.nodes[to].receive(self.at, &addresses, leg);
        if replies || (complete && broken(Sabotage::AnswersLeg4)) {
            self.send(to, from, network, flight.leg, self.at + XDP_NS, checks);
        }
    }

    // --- faults ----------------------------------------------------------------------------------------------

    fn next_fault(&mut self, index: usize) {
        if let Some(fault) = self.case.faults.get(index) {
            self.queue.add(fault.at_ns, Kind::FaultBegins, u32::try_from(index).unwrap_or(0));
        }
    }

    fn fault(&mut self, index: usize, begins: bool, checks: &mut Checks) {
        let fault = self.case.faults[index];
        let end = fault.at_ns + fault.span_ns;
        if self.trace {
            eprintln!("{}: {} {:?}", self.at, if begins { "begins" } else { "ends" }, fault.kind);
        }
        if begins {
            self.queue.add(end, Kind::FaultEnds, u32::try_from(index).unwrap_or(0));
        }
        let node = fault.kind.node();
        match fault.kind {
            FaultKind::Cut { network, tx, rx, .. } => self.networks.cut(node, network, tx, rx, begins),
            FaultKind::Unplug { network, admin, .. } => {
                let link = self.networks.unplug(node, network, admin, begins);
                if std::mem::replace(&mut self.nodes[node].links[network], link) != link {
                    let link_number = match link {
                        LinkState::Up => 0,
                        LinkState::NoCarrier => 1,
                        LinkState::AdminDown => 2,
                    };
                    let place = u32::try_from(node | network << 8).unwrap_or(0);
                    self.queue.add(self.at + NEWS_NS, Kind::News, place | link_number << 16);
                }
            }
            FaultKind::Freeze { .. } => {
                self.networks.freeze(node, begins);
                if begins {
                    self.frozen_until[node] = self.frozen_until[node].max(end);
                    self.away(node, end);
                } else if !self.networks.is_frozen(node) {
                    self.nodes[node].waiting = 0;
                    checks.thawed(node, self.at, fault.span_ns);
                }
            }
            FaultKind::Stall { .. } if begins => {
                self.away(node, end);
                checks.stalled(self, node, end);
            }
            FaultKind::Restart { .. } if begins => {
                self.away(node, end);
                checks.stalled(self, node, end);
                // What it was doing dies with it.
                self.nodes[node].restarts = true;
                self.nodes[node].busy = false;
                self.renew_token(node);
                self.add_wake(self.nodes[node].away_until, node);
            }
            FaultKind::Stall { .. } | FaultKind::Restart { .. } => {}
        }
        let mut changes = std::mem::take(&mut self.changes);
        self.networks.note_changes(self.at, node, |change| changes.push(change));
        for change in changes.drain(..) {
            checks.path_changed(self, change);
        }
        self.changes = changes;
    }

    fn away(&mut self, node: usize, end: Nanos) {
        let engine = &mut self.nodes[node];
        engine.note_stall(self.at, end);
        engine.away_until = engine.away_until.max(end);
    }
}
