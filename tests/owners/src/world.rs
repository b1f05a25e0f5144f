//! The simulation: events in order of time, the network between the nodes, what the kernels do with legs, and faults.

use crate::case::Case;
use crate::checks::{Broken, Checks};
use crate::fence::{note_evidence, note_vouching, vouch_index};
use crate::memory::Clock;
use crate::node::{Input, Node, Operator, Out, Power};
use crate::ownership::{Entry, Leases, LogId, Member, Standing, VipId, VipSettings, VoterSets};
use crate::raft::Disk;
use crate::rng::Rng;
use crate::shell::{Shell, broken};
use netft_core::types::{Nanos, NodeId};
use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::sync::atomic::Ordering::Relaxed;

const US: Nanos = 1_000;
const MS: Nanos = 1_000_000;
/// Heartbeats.
const DELAY_NS: Nanos = MS;
/// Ticks and timers of threads.
const TICK_NS: Nanos = MS / 2;
/// What waits is looked at this often.
const RETRY_NS: Nanos = MS / 4;

/// A heartbeat leg, as far as ownership goes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Leg {
    kind: u8,
    from: usize,
    to: usize,
    sequence: u64,
    initiator_sent_ns: Nanos,
    responder_sent_ns: Nanos,
    vouch_index: u64,
    tick_age_ns: Nanos,
    /// Boots of the sender and of the receiver that the keys were made from.
    boots: (u32, u32),
}

#[derive(Clone, Debug)]
pub(crate) enum What {
    /// A leg arrives.
    Leg(Leg),
    /// A CPU goes on with the answer to a leg: reads the vouch index and sends.
    Answer { leg: Leg, boot: u32 },
    /// Something arrives at an ownership thread.
    Input { to: usize, from: usize, boots: (u32, u32), input: Box<Input> },
    /// An ownership thread goes on.
    Step(usize),
    /// An engine ticks, and an ownership thread's timer runs.
    Tick(usize),
    /// An engine sends leg 1 to everybody.
    Heartbeat(usize),
    /// A fault begins
    Begins(usize),
    /// or ends.
    Ends(usize),
}

struct Event {
    at_ns: Nanos,
    number: u64,
    what: What,
}

impl PartialEq for Event {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}
impl Eq for Event {}
impl PartialOrd for Event {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Event {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.at_ns, self.number).cmp(&(other.at_ns, other.number))
    }
}

pub(crate) struct World {
    pub(crate) case: Case,
    pub(crate) now_ns: Nanos,
    pub(crate) nodes: Vec<Node>,
    /// How many faults keep messages from one node from another.
    pub(crate) cuts: Vec<Vec<u32>>,
    pub(crate) operator: Operator,
    pub(crate) trace: bool,
    queue: BinaryHeap<Reverse<Event>>,
    numbers: u64,
    pub(crate) rng: Rng,
    /// For how long each node has slept, for a clock that doesn't go on.
    pub(crate) slept_ns: Vec<Nanos>,
    pub(crate) asleep_since_ns: Vec<Nanos>,
    pub(crate) events: u64,
}

impl World {
    pub(crate) fn new(case: &Case) -> Self {
        let mut rng = Rng::new(case.seed);
        let ids: Vec<_> = (1..=9).filter_map(NodeId::new).take(case.nodes).collect();
        let incarnations: Vec<_> = ids.iter().map(|id| (*id, rng.next() | 1)).collect();
        let log = first_log(case, &incarnations);
        let nodes = incarnations.iter().map(|(id, incarnation)| {
            let clock = clock(&mut rng, case, 0);
            let disk = Disk { term: 1, voted: None, log: log.clone(), incarnation: *incarnation };
            Node::new(*id, clock, disk)
        });
        let nodes: Vec<_> = nodes.collect();
        let operator = Operator { voters: ids.iter().copied().take(case.voters).collect(), incarnations };
        let mut world = Self {
            case: case.clone(),
            now_ns: 0,
            cuts: vec![vec![0; case.nodes]; case.nodes],
            operator,
            trace: false,
            queue: BinaryHeap::new(),
            numbers: 0,
            rng,
            slept_ns: vec![0; case.nodes],
            asleep_since_ns: vec![0; case.nodes],
            events: 0,
            nodes,
        };
        world.begin();
        world
    }

    fn begin(&mut self) {
        for node in 0..self.nodes.len() {
            self.start(node);
            let offset_ns = self.rng.between(0, DELAY_NS);
            self.add(offset_ns, What::Tick(node));
            self.add(offset_ns + 7 * US, What::Heartbeat(node));
        }
        for fault in 0..self.case.faults.len() {
            self.add(self.case.faults[fault].at_ns, What::Begins(fault));
        }
    }

    pub(crate) fn add(&mut self, in_ns: Nanos, what: What) {
        self.numbers += 1;
        let event = Event { at_ns: self.now_ns.saturating_add(in_ns), number: self.numbers, what };
        self.queue.push(Reverse(event));
    }

    /// What a node's clock shows.
    pub(crate) fn local(&self, node: usize) -> Nanos {
        let stopped_ns = if broken(Shell::ClockStopsInSuspend) { self.slept_ns[node] } else { 0 };
        self.nodes[node].clock.local(self.now_ns - stopped_ns)
    }

    /// Runs until the checks have seen enough.
    pub(crate) fn run(&mut self, checks: &mut Checks) -> Result<(), Broken> {
        while let Some(Reverse(event)) = self.queue.pop() {
            self.now_ns = event.at_ns;
            self.events += 1;
            let changes_cuts = matches!(event.what, What::Begins(_) | What::Ends(_));
            let touched = self.happen(event.what);
            if changes_cuts {
                checks.note_cuts(self);
            }
            if let Some(node) = touched {
                checks.look(self, node)?;
            }
            if checks.enough(self)? {
                break;
            }
        }
        Ok(())
    }

    /// The node whose fences may have opened.
    fn happen(&mut self, what: What) -> Option<usize> {
        match what {
            What::Leg(leg) => {
                self.leg(leg);
                Some(leg.to)
            }
            What::Answer { leg, boot } => {
                self.answer(leg, boot);
                None
            }
            What::Input { to, from, boots, input } => {
                let current = boots == (self_boot(&self.nodes, from), self_boot(&self.nodes, to));
                let node_runs = self.nodes[to].power != Power::Off && self.nodes[to].daemon;
                if node_runs && current {
                    self.nodes[to].inbox.push_back(*input);
                    self.wake(to);
                }
                None
            }
            What::Step(node) => {
                self.step(node);
                Some(node)
            }
            What::Tick(node) => {
                self.tick(node);
                Some(node)
            }
            What::Heartbeat(node) => {
                self.heartbeat(node);
                None
            }
            What::Begins(fault) => self.fault_begins(fault),
            What::Ends(fault) => self.fault_ends(fault),
        }
    }

    pub(crate) fn wake(&mut self, node: usize) {
        if !self.nodes[node].stepping {
            self.nodes[node].stepping = true;
            let in_ns = self.pause(US, 20 * US);
            self.add(in_ns, What::Step(node));
        }
    }

    /// How long a thread or a CPU takes for the next thing.
    fn pause(&mut self, least_ns: Nanos, most_ns: Nanos) -> Nanos {
        if self.rng.chance(self.case.preempt_per_million) {
            return self.rng.between(most_ns, 8 * MS);
        }
        self.rng.between(least_ns, most_ns)
    }

    fn step(&mut self, number: usize) {
        let now = self.local(number);
        let node = &mut self.nodes[number];
        if node.power == Power::Off || !node.daemon {
            node.stepping = false;
            return;
        }
        if node.power == Power::Asleep || node.owner_frozen > 0 {
            self.add(RETRY_NS, What::Step(number));
            return;
        }
        let mut out = Vec::new();
        if node.step(now, &self.operator, &mut out) {
            let in_ns = self.pause(US, 5 * US);
            self.add(in_ns, What::Step(number));
        } else {
            node.stepping = false;
        }
        for sent in out {
            let (to, input) = match sent {
                Out::Rpc(to, rpc) => {
                    if self.trace {
                        eprintln!("{:>12} n{} to n{to}: {rpc:?}", self.now_ns, number + 1);
                    }
                    (to, Input::Rpc(self.nodes[number].id, rpc))
                }
                Out::Message(to, message) => {
                    if self.trace {
                        eprintln!("{:>12} n{} tells n{to}: {message:?}", self.now_ns, number + 1);
                    }
                    (to, Input::Message(self.nodes[number].id, message))
                }
            };
            self.send(number, usize::from(to.get()) - 1, input);
        }
    }

    fn send(&mut self, from: usize, to: usize, input: Input) {
        if to >= self.nodes.len() || self.cuts[from][to] > 0 {
            return;
        }
        let boots = (self.nodes[from].boot, self.nodes[to].boot);
        // Consensus runs over connections that keep order; a model that doesn't is only harder.
        let copies = 1 + u64::from(self.rng.chance(self.case.twice_per_million));
        for _ in 0..copies {
            let in_ns = self.trip();
            let input = Box::new(input.clone());
            self.add(in_ns, What::Input { to, from, boots, input });
        }
    }

    fn trip(&mut self) -> Nanos {
        let late_ns =
            if self.rng.chance(self.case.late_per_million) { self.rng.between(0, 20 * MS) } else { 0 };
        self.case.trip_ns + self.rng.between(0, self.case.jitter_ns) + late_ns
    }

    fn tick(&mut self, number: usize) {
        self.add(TICK_NS, What::Tick(number));
        let now = self.local(number);
        let node = &mut self.nodes[number];
        if node.power != Power::On || !node.daemon {
            return;
        }
        if node.engine_frozen == 0 {
            node.memory.engine.tick_ns.store(now, Relaxed);
        }
        if !node.inbox.iter().any(|input| matches!(input, Input::Timer)) {
            node.inbox.push_back(Input::Timer);
        }
        self.wake(number);
    }

    fn heartbeat(&mut self, number: usize) {
        self.add(DELAY_NS, What::Heartbeat(number));
        let now = self.local(number);
        let node = &mut self.nodes[number];
        if node.power != Power::On || !node.daemon || node.engine_frozen > 0 {
            return;
        }
        node.sequence += 1;
        let sequence = node.sequence;
        for to in (0..self.nodes.len()).filter(|to| *to != number) {
            let leg = Leg {
                kind: 1,
                from: number,
                to,
                sequence,
                initiator_sent_ns: now,
                responder_sent_ns: 0,
                vouch_index: 0,
                tick_age_ns: 0,
                boots: (self.nodes[number].boot, self.nodes[to].boot),
            };
            self.transmit(leg);
        }
    }

    fn transmit(&mut self, leg: Leg) {
        if self.cuts[leg.from][leg.to] > 0 {
            return;
        }
        let copies = 1 + u64::from(self.rng.chance(self.case.twice_per_million));
        for _ in 0..copies {
            let in_ns = self.trip();
            self.add(in_ns, What::Leg(leg));
        }
    }

    /// What the kernel does with a leg that arrives.
    fn leg(&mut self, leg: Leg) {
        let now = self.local(leg.to);
        match self.nodes[leg.to].power {
            Power::Off => return,
            // Some wait in the queue of its interface.
            Power::Asleep if self.rng.chance(100_000) => return self.add(RETRY_NS, What::Leg(leg)),
            Power::Asleep => return,
            Power::On => (),
        }
        if leg.boots != (self_boot(&self.nodes, leg.from), self_boot(&self.nodes, leg.to)) {
            return;
        }
        let node = &mut self.nodes[leg.to];
        let peer = self_id(leg.from);
        let heard = &mut node.heard[leg.from + 1];
        let highest = &mut heard.highest[usize::from(leg.kind) - 1];
        if leg.sequence <= *highest {
            return;
        }
        *highest = leg.sequence;
        let echoed_ns = if leg.kind == 2 { leg.initiator_sent_ns } else { leg.responder_sent_ns };
        if leg.kind > 1 {
            if echoed_ns >= heard.proof_ns {
                (heard.proof_ns, heard.tick_age_ns) = (echoed_ns, leg.tick_age_ns);
            }
            note_evidence(&node.memory, peer, leg.vouch_index, echoed_ns, now);
        }
        if leg.kind == 3 {
            return;
        }
        let mut answer = Leg { kind: leg.kind + 1, from: leg.to, to: leg.from, ..leg };
        answer.boots = (leg.boots.1, leg.boots.0);
        if leg.kind == 1 {
            answer.responder_sent_ns = now;
        }
        note_vouching(&node.memory, peer, now);
        let boot = node.boot;
        let in_ns = self.pause(100, 2 * US);
        self.add(in_ns, What::Answer { leg: answer, boot });
    }

    fn answer(&mut self, mut leg: Leg, boot: u32) {
        let now = self.local(leg.from);
        let node = &self.nodes[leg.from];
        match node.power {
            Power::Off => return,
            Power::Asleep => return self.add(RETRY_NS, What::Answer { leg, boot }),
            Power::On if node.boot != boot => return,
            Power::On => (),
        }
        let peer = self_id(leg.to);
        leg.vouch_index = vouch_index(&node.memory, peer);
        let tick_ns = node.memory.engine.tick_ns.load(Relaxed);
        leg.tick_age_ns = if tick_ns == 0 { Nanos::MAX } else { now.saturating_sub(tick_ns) };
        self.transmit(leg);
    }
}

fn self_id(node: usize) -> u16 {
    u16::try_from(node + 1).unwrap_or(0)
}

fn self_boot(nodes: &[Node], node: usize) -> u32 {
    nodes[node].boot
}

/// Another pace, and another time of day.
pub(crate) fn clock(rng: &mut Rng, case: &Case, booted_ns: Nanos) -> Clock {
    let beginning_ns = rng.between(1_000 * MS, 100_000 * MS);
    let slew_ppm = rng.between(0, 2 * case.slew_ppm).cast_signed() - case.slew_ppm.cast_signed();
    Clock { booted_ns, beginning_ns, slew_ppm }
}

/// What every log begins with.
fn first_log(case: &Case, incarnations: &[(NodeId, u64)]) -> Vec<(LogId, Entry)> {
    let member = |(node, incarnation): &(NodeId, u64)| {
        let member = Member { incarnation: *incarnation, site: 0, subnet: 0, standing: Standing::Active };
        Entry::Member(*node, member)
    };
    let mut entries: Vec<_> = incarnations.iter().map(member).collect();
    entries.push(Entry::Leases(Leases { same_subnet_ns: case.lease_ns, ..Leases::default() }));
    let voters = incarnations.iter().map(|(node, _)| *node).take(case.voters).collect();
    entries.push(Entry::Voters(VoterSets::of(voters)));
    let vips = (0..case.vips).filter_map(VipId::new);
    entries.extend(vips.map(|vip| Entry::Vip(vip, VipSettings::default())));
    (1..).zip(entries).map(|(index, entry)| (LogId { term: 1, index }, entry)).collect()
}
