//! Virtual time: who does what when.

use crate::checks::Checks;
use crate::faults::{Fault, Plan};
use crate::network::Networks;
use crate::node::{Node, address};
use crate::rng::Rng;
use netft_common::heartbeat::Addresses;
use netft_common::wire::Heartbeat;
use netft_core::detect::{DampingConfig, DetectorConfig};
use netft_core::types::{LinkState, Nanos, Timing};
use std::cmp::Reverse;
use std::collections::BinaryHeap;

pub const US: Nanos = 1_000;
pub const MS: Nanos = 1_000_000;

/// From the kernel's news about a link to the engine's socket.
const NEWS_NS: Nanos = 50 * US;
/// The longest that a wake is late without being a stall.
pub const LATENESS_NS: Nanos = 120 * US;
/// From an engine's wake to its last store and send.
const WORK_NS: Nanos = 10 * US;
/// From a leg's arrival to the departure of its reply.
const XDP_NS: Nanos = US;

#[derive(Clone, Copy, Debug)]
pub enum Event {
    Wake { node: usize, token: u64 },
    Judge { node: usize, read_at: Nanos },
    Drain { node: usize },
    Leg { from: usize, to: usize, network: usize, leg: Heartbeat },
    LinkNews { node: usize, network: usize, link: LinkState },
    Fault(Fault),
    Check(crate::checks::Check),
}

struct Entry {
    at: Nanos,
    order: u64,
    event: Event,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.order) == (other.at, other.order)
    }
}
impl Eq for Entry {}
impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Entry {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

/// Events to come.
#[derive(Default)]
pub struct Agenda {
    heap: BinaryHeap<Reverse<Entry>>,
    order: u64,
}

impl Agenda {
    pub fn add(&mut self, at: Nanos, event: Event) {
        self.order += 1;
        self.heap.push(Reverse(Entry { at, order: self.order, event }));
    }
}

pub struct World {
    pub at: Nanos,
    pub nodes: Vec<Node>,
    pub networks: Networks,
    pub timing: Timing,
    pub config: DetectorConfig,
    pub agenda: Agenda,
    pub rng: Rng,
    /// How often the engine is preempted in the middle of its work, and for how long at most.
    preempt_per_million: u64,
    preempt_ns: Nanos,
    /// Print every event.
    pub trace: bool,
}

impl World {
    pub fn new(plan: &Plan, seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let count = plan.nodes(&mut rng);
        let networks = plan.networks(&mut rng);
        let timing = plan.timing(&mut rng);
        let config = DetectorConfig {
            up_run: 3,
            fail_back_hold_ns: 50 * MS,
            engine_timeout_ns: plan.engine_timeout_ns,
            damping: DampingConfig { flap_limit: 0, ..DampingConfig::default() },
        };
        let offset = |rng: &mut Rng| rng.between(1_000, 1_000_000) * MS;
        let nodes: Vec<Node> = (0..count)
            .map(|index| Node::new(index, count, networks, config, timing, offset(&mut rng)))
            .collect();
        let delay_ns = rng.between(2 * US, plan.delay_ns.max(2 * US));
        let jitter_ns = rng.between(0, plan.jitter_ns);
        let mut world = Self {
            at: 0,
            nodes,
            networks: Networks::new(count, networks, delay_ns, jitter_ns),
            timing,
            config,
            agenda: Agenda::default(),
            rng,
            preempt_per_million: plan.preempt_per_million,
            preempt_ns: plan.preempt_ns,
            trace: false,
        };
        world.networks.loss_per_million = plan.loss_per_million;
        world.networks.duplicates_per_million = plan.loss_per_million;
        for node in 0..count {
            world.nodes[node].restarts = true;
            let at = world.rng.between(0, 3 * MS);
            world.agenda.add(at, Event::Wake { node, token: 0 });
        }
        plan.schedule(&mut world);
        world
    }

    /// The most that an honest verdict may be late: a wake, the work, and the heartbeat's trip as smoothed.
    pub fn slack_ns(&self) -> Nanos {
        LATENESS_NS + WORK_NS + self.networks.longest_trip_ns() + 8 * XDP_NS + NEWS_NS
    }

    pub fn run(&mut self, until: Nanos, checks: &mut Checks) -> Result<(), String> {
        while let Some(Reverse(entry)) = self.agenda.heap.pop() {
            if entry.at > until {
                return Ok(());
            }
            self.at = entry.at;
            if self.trace {
                self.trace(&entry.event);
            }
            self.step(entry.event, checks).map_err(|wrong| format!("at {} ns: {wrong}", self.at))?;
        }
        Ok(())
    }

    fn trace(&self, event: &Event) {
        match event {
            Event::Leg { from, to, network, leg } => {
                let (kind, sequence) = (leg.header.kind, leg.header.sequence);
                eprintln!("{}: leg {kind} of {sequence}, {from} to {to} on {network}", self.at);
            }
            event => eprintln!("{}: {event:?}", self.at),
        }
    }

    fn step(&mut self, event: Event, checks: &mut Checks) -> Result<(), String> {
        match event {
            Event::Wake { node, .. } | Event::Judge { node, .. } | Event::Drain { node }
                if self.at < self.nodes[node].away_until =>
            {
                self.agenda.add(self.nodes[node].away_until, event);
            }
            Event::Wake { node, token } if token == self.nodes[node].token => self.wake(node, checks),
            Event::Wake { .. } => {}
            Event::Judge { node, read_at } => {
                self.nodes[node].judge(read_at);
                self.busy_until(WORK_NS, node, Event::Drain { node });
            }
            Event::Drain { node } => self.drain(node, checks)?,
            Event::Leg { from, to, network, leg } => self.receive(from, to, network, &leg, checks)?,
            Event::LinkNews { node, network, link } => {
                self.nodes[node].news.push((network, link));
                self.rouse(node);
            }
            Event::Fault(fault) => self.fault(fault, checks),
            Event::Check(check) => checks.check(self, check)?,
        }
        Ok(())
    }

    /// Work goes on after `span`, or after a preemption.
    fn busy_until(&mut self, span: Nanos, node: usize, event: Event) {
        let mut at = self.at + span;
        if self.rng.chance(self.preempt_per_million) {
            at += self.rng.between(100 * US, self.preempt_ns.max(100 * US));
            self.nodes[node].stalls.push((self.at, at));
        }
        self.agenda.add(at, event);
    }

    fn wake(&mut self, node: usize, checks: &mut Checks) {
        let at = self.at;
        let engine = &mut self.nodes[node];
        if std::mem::take(&mut engine.restarts) {
            engine.start(at);
            checks.restarted(node);
        }
        engine.busy = true;
        engine.tick(at);
        checks.ticked(self, node);
        self.busy_until(0, node, Event::Judge { node, read_at: at });
    }

    /// The engine sleeps in ppoll: news wake it.
    fn rouse(&mut self, node: usize) {
        let engine = &mut self.nodes[node];
        if !engine.busy {
            engine.token += 1;
            let token = engine.token;
            self.agenda.add(self.at, Event::Wake { node, token });
        }
    }

    fn drain(&mut self, node: usize, checks: &mut Checks) -> Result<(), String> {
        let at = self.at;
        while let Some(store) = self.nodes[node].detector.poll_store() {
            self.nodes[node].store(store);
        }
        checks.active(self, node)?;
        while let Some(request) = self.nodes[node].detector.poll_transmit() {
            let watch = self.nodes[node].watch(request.slot);
            if self.trace {
                eprintln!("{at}: node {node} sends {request:?}");
            }
            checks.leg_1(self, node, request.slot)?;
            if let Some(leg) = self.nodes[node].request(at, request) {
                self.send(node, watch.peer, watch.network, leg, checks)?;
            }
        }
        while let Some(event) = self.nodes[node].poll_event() {
            if self.trace {
                eprintln!("{at}: node {node} says {event:?}");
            }
            checks.event(self, node, event)?;
        }
        let late_ns = self.rng.between(0, LATENESS_NS);
        let engine = &mut self.nodes[node];
        engine.busy = false;
        engine.token += 1;
        let token = engine.token;
        let asked = engine.detector.poll_timeout().saturating_sub(engine.offset_ns);
        let wake_at = if engine.news.is_empty() { asked.max(at) + late_ns } else { at };
        self.agenda.add(wake_at, Event::Wake { node, token });
        Ok(())
    }

    fn send(
        &mut self,
        from: usize,
        to: usize,
        network: usize,
        leg: Heartbeat,
        checks: &mut Checks,
    ) -> Result<(), String> {
        checks.leg(from, to, network, &leg)?;
        if !self.networks.leaves(from, network) {
            return Ok(());
        }
        let copies = 1 + u64::from(self.rng.chance(self.networks.duplicates_per_million));
        for _ in 0..copies {
            if let Some(travel) = self.networks.travel(&mut self.rng) {
                self.agenda.add(self.at + travel, Event::Leg { from, to, network, leg });
            }
        }
        Ok(())
    }

    fn receive(
        &mut self,
        from: usize,
        to: usize,
        network: usize,
        leg: &Heartbeat,
        checks: &mut Checks,
    ) -> Result<(), String> {
        if !self.networks.arrives(to, network) {
            return Ok(());
        }
        let addresses = Addresses::new(address(from, network), address(to, network));
        // XDP_TX: the reply leaves at once, by the port that the leg came in on.
        match self.nodes[to].receive(self.at, &addresses, leg) {
            Some(reply) => self.send(to, from, network, reply, checks),
            None => Ok(()),
        }
    }

    fn fault(&mut self, fault: Fault, checks: &mut Checks) {
        match fault {
            Fault::Path { node, network, tx, rx } => {
                let port = &mut self.networks.ports[node][network];
                (port.tx, port.rx) = (tx, rx);
            }
            Fault::Link { node, network, link } => {
                self.networks.ports[node][network].link = link;
                self.nodes[node].links[network] = link;
                self.agenda.add(self.at + NEWS_NS, Event::LinkNews { node, network, link });
            }
            Fault::Stall { node, span_ns } => self.stall(node, span_ns, checks),
            Fault::StallAll { span_ns } => {
                for node in 0..self.nodes.len() {
                    let extra_ns = self.rng.between(0, span_ns / 8);
                    self.stall(node, span_ns + extra_ns, checks);
                }
            }
            Fault::Restart { node, span_ns } => {
                self.stall(node, span_ns, checks);
                let engine = &mut self.nodes[node];
                // What it was doing dies with it.
                engine.restarts = true;
                engine.busy = false;
                engine.token += 1;
                let token = engine.token;
                self.agenda.heap.retain(|Reverse(entry)| {
                    !matches!(entry.event, Event::Judge { node: who, .. } | Event::Drain { node: who } if who == node)
                });
                self.agenda.add(self.nodes[node].away_until, Event::Wake { node, token });
            }
        }
        checks.paths_changed(self);
    }

    fn stall(&mut self, node: usize, span_ns: Nanos, checks: &mut Checks) {
        let end = self.at + span_ns;
        let engine = &mut self.nodes[node];
        engine.stalls.push((self.at, end));
        engine.away_until = engine.away_until.max(end);
        checks.stalled(self, node, end);
    }
}
