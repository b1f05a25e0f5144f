//! One node: the shared memory with XDP at one end and the engine's detector at the other.

use crate::case::Case;
use crate::clock::Clock;
use crate::detect::{
    Adopted, Detector, DetectorCommand, DetectorConfig, Evidence, RequestTransmit, RouteSetup, SlotEvidence,
    StoreCommand,
};
use crate::types::{InterfaceNumber, LinkState, Nanos, NodeId, Slot, Timing};
use netft_common::fence::FenceTables;
use netft_common::heartbeat::{self, Addresses, Answer, Tables};
use netft_common::map::{ActiveRoute, EngineState, KeySet, NodeConfig, SlotConfig, SlotState};
use netft_common::shared::Shared;
use netft_common::wire::{Heartbeat, NO_SLOT};
use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

/// Stalls older than this are forgotten: no check looks further back.
const REMEMBERED_NS: Nanos = 5_000_000_000;

/// What a node shares with its XDP programs. It outlives the engine.
#[derive(Debug)]
pub(crate) struct Memory {
    node: NodeConfig,
    engine: EngineState,
    configs: Vec<SlotConfig>,
    pub states: Vec<SlotState>,
    pub active: Vec<u64>,
    clock_ns: Cell<Nanos>,
}

impl Shared for Memory {
    fn node(&self) -> Option<&NodeConfig> {
        Some(&self.node)
    }
    fn engine(&self) -> Option<&EngineState> {
        Some(&self.engine)
    }
    fn compare_and_swap(&self, word: &AtomicU64, seen: u64, new: u64) -> bool {
        // One thread: no need to lock the bus for each leg.
        let same = word.load(Relaxed) == seen;
        if same {
            word.store(new, Relaxed);
        }
        same
    }
}

impl Tables for Memory {
    fn config(&self, slot: u32) -> Option<&SlotConfig> {
        self.configs.get(slot as usize)
    }
    fn read(&self, word: &u32) -> u32 {
        *word
    }
    fn state(&self, slot: u32) -> Option<&SlotState> {
        self.states.get(slot as usize)
    }
    fn is_local(&self, address: &[u8; 16]) -> bool {
        self.configs.iter().any(|config| config.local == *address)
    }
    fn now_ns(&self) -> u64 {
        self.clock_ns.get()
    }
}

impl FenceTables for Memory {}

impl Evidence for Memory {
    fn read(&self, slot: Slot) -> SlotEvidence {
        let state = &self.states[slot.index()];
        SlotEvidence {
            highest: state.highest.each_ref().map(|word| word.load(Relaxed)),
            arrival_ns: state.arrival_ns.each_ref().map(|word| word.load(Relaxed)),
            completed_sent_ns: state.completed_sent_ns.load(Relaxed),
            confirmed_sent_ns: state.confirmed_sent_ns.load(Relaxed),
            rtt_ns: state.rtt_ns.load(Relaxed),
            peer_tick_ns: state.peer_tick_ns.load(Relaxed),
            told_down: state.told_down.load(Relaxed),
            peer_flags: state.peer_flags.load(Relaxed),
        }
    }

    fn told_down(&self, slot: Slot) -> u64 {
        self.states[slot.index()].told_down.load(Relaxed)
    }
}

/// A route as the simulation knows it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Watch {
    pub slot: Slot,
    pub peer: usize,
    pub network: usize,
}

pub(crate) struct Node {
    pub id: NodeId,
    pub memory: Memory,
    pub detector: Detector,
    pub watches: Vec<Watch>,
    /// By slot: its place among the watches.
    by_slot: Vec<u8>,
    networks: usize,
    config: DetectorConfig,
    timing: Timing,
    pub clock: Clock,
    /// What the kernel says of the interfaces now, and what the engine wasn't told yet.
    pub links: Vec<LinkState>,
    pub news: Vec<(usize, LinkState)>,
    /// The engine doesn't run before this.
    pub away_until: Nanos,
    /// When the engine didn't run: the newest, in order of their beginning.
    stalls: VecDeque<(Nanos, Nanos)>,
    /// A new engine starts with the next wake.
    pub restarts: bool,
    /// When the last restart ended.
    pub started_at: Nanos,
    pub ticked_at: Nanos,
    /// Wakes of an older token were cancelled.
    pub token: u32,
    /// In the middle of its work.
    pub busy: bool,
    /// Something came between its verdicts and telling them.
    pub interrupted: bool,
    /// The clock as read at the beginning of the work.
    pub read_at: Nanos,
    /// Legs that wait for a frozen host.
    pub waiting: u32,
}

pub(crate) fn node_id(index: usize) -> NodeId {
    let id = u16::try_from(index + 1).ok().and_then(NodeId::new);
    id.unwrap_or_else(|| unreachable!("at most nine nodes"))
}

fn interface(network: usize) -> InterfaceNumber {
    let number = u8::try_from(network).ok().and_then(InterfaceNumber::new);
    number.unwrap_or_else(|| unreachable!("at most three networks"))
}

pub(crate) fn address(node: usize, network: usize) -> [u8; 16] {
    let byte = |number: usize| u8::try_from(number + 1).unwrap_or(u8::MAX);
    std::net::Ipv4Addr::new(10, 77, byte(network), byte(node)).to_ipv6_mapped().octets()
}

/// Slot of the route from one node to another over a network: different on each node, as in reality.
fn slot_of(node: usize, peer: usize, network: usize, networks: usize) -> Slot {
    let slot = u32::try_from(peer * networks + network + node).ok().and_then(Slot::new);
    slot.unwrap_or_else(|| unreachable!("at most 36 slots"))
}

impl Node {
    pub(crate) fn new(index: usize, case: &Case, clock: Clock) -> Self {
        let (nodes, networks) = (case.nodes, case.networks);
        let id = node_id(index);
        let slots = nodes * networks + nodes;
        let mut configs = vec![SlotConfig::default(); slots];
        let (mut watches, mut by_slot) = (Vec::new(), vec![u8::MAX; slots]);
        for peer in (0..nodes).filter(|peer| *peer != index) {
            for network in 0..networks {
                let slot = slot_of(index, peer, network, networks);
                assert_eq!(configs[slot.index()].generation, 0, "slots collide");
                let key = |from: usize, to: usize| [from as u64, to as u64 + 100];
                configs[slot.index()] = SlotConfig {
                    generation: 1,
                    remote_slot: u32::from(slot_of(peer, index, network, networks).get()),
                    peer: node_id(peer).get(),
                    interface: interface(network).get().into(),
                    lives: 1,
                    local: address(index, network),
                    remote: address(peer, network),
                    keys: [KeySet::sending(7, key(index, peer), key(peer, index)), KeySet::default()],
                };
                by_slot[slot.index()] = u8::try_from(watches.len()).unwrap_or(u8::MAX);
                watches.push(Watch { slot, peer, network });
            }
        }
        Self {
            id,
            memory: Memory {
                node: NodeConfig { cluster_id: 5, node_id: id.get(), ..NodeConfig::default() },
                engine: EngineState::default(),
                configs,
                states: (0..slots).map(|_| SlotState::default()).collect(),
                active: vec![0; nodes + 1],
                clock_ns: Cell::new(0),
            },
            detector: Detector::new(case.detector(), id),
            watches,
            by_slot,
            networks,
            config: case.detector(),
            timing: case.timing(),
            clock,
            links: vec![LinkState::Up; networks],
            news: Vec::new(),
            away_until: 0,
            stalls: VecDeque::new(),
            restarts: true,
            started_at: 0,
            ticked_at: 0,
            token: 0,
            busy: false,
            interrupted: false,
            read_at: 0,
            waiting: 0,
        }
    }

    /// The engine starts, or starts again: it knows only what is in memory.
    pub(crate) fn start(&mut self, at: Nanos) {
        let now = self.clock.local(at);
        self.started_at = at;
        self.detector = Detector::new(self.config, self.id);
        self.news.clear();
        for (network, link) in self.links.iter().enumerate() {
            self.detector.handle_command(now, DetectorCommand::SetLink(interface(network), *link));
        }
        for watch in &self.watches {
            let state = &self.memory.states[watch.slot.index()];
            let was_up = state.engine_flags.load(Relaxed) & 1 != 0;
            self.detector.handle_command(
                now,
                DetectorCommand::SetRoute(RouteSetup {
                    slot: watch.slot,
                    peer: node_id(watch.peer),
                    interface: interface(watch.network),
                    metric: 100 * u32::try_from(watch.network).unwrap_or(0),
                    timing: self.timing,
                    first_sequence: state.next_sequence.load(Relaxed).max(1),
                    adopted: if was_up { Adopted::Up } else { Adopted::No },
                }),
            );
        }
    }

    /// The engine ran: XDP tells the peers.
    pub(crate) fn tick(&mut self, at: Nanos) {
        self.ticked_at = at;
        self.memory.engine.tick_ns.store(self.clock.local(at), Relaxed);
    }

    /// The verdict, by the clock as it was read.
    pub(crate) fn judge(&mut self) {
        let now = self.clock.local(self.read_at);
        for (network, link) in self.news.drain(..) {
            self.detector.handle_command(now, DetectorCommand::SetLink(interface(network), link));
        }
        self.detector.handle_timeout(now, &self.memory);
    }

    pub(crate) fn store(&mut self, command: StoreCommand) {
        match command {
            StoreCommand::Active(peer, word) => self.memory.active[usize::from(peer.get())] = word,
            StoreCommand::DeadInterfaces(bits) => self.memory.engine.dead_interfaces.store(bits, Relaxed),
            StoreCommand::RouteFlags(slot, flags) => {
                self.memory.states[slot.index()].engine_flags.store(flags, Relaxed);
            }
        }
    }

    /// What a transmitter would use now for a peer: the active route, or its backup when the interface is dead.
    pub(crate) fn transmitter_slot(&self, peer: usize) -> Option<Slot> {
        let word = ActiveRoute::from_word(self.memory.active[peer + 1]);
        let slots = [word.slot, word.backup].into_iter().map(|number| Slot::new(u32::from(number)));
        slots.flatten().find(|slot| self.is_alive(*slot))
    }

    /// Whether there is such a route, and its interface isn't known to be dead.
    pub(crate) fn is_alive(&self, slot: Slot) -> bool {
        let dead = self.memory.engine.dead_interfaces.load(Relaxed);
        let config = self.memory.configs.get(slot.index()).filter(|config| config.generation != 0);
        config.is_some_and(|config| dead & (1 << config.interface) == 0)
    }

    pub(crate) fn request(&mut self, at: Nanos, request: RequestTransmit) -> Option<Heartbeat> {
        let now = self.clock.local(at);
        let index = request.slot.index();
        self.memory.states[index].next_sequence.store(request.sequence + 1, Relaxed);
        let notice = request.notice.and_then(|(slot, reason)| {
            let remote = self.memory.configs[slot.index()].remote_slot;
            (remote != NO_SLOT).then_some((remote, reason))
        });
        let (node, engine) = (&self.memory.node, &self.memory.engine);
        heartbeat::request(node, &self.memory.configs[index], engine, request.sequence, now, notice)
    }

    /// XDP: a leg arrived, and may become its reply.
    pub(crate) fn receive(&mut self, at: Nanos, addresses: &Addresses, leg: &mut Heartbeat) -> bool {
        self.memory.clock_ns.set(self.clock.local(at));
        heartbeat::answer(&self.memory, &self.memory.node, addresses, leg) == Ok(Answer::Reply)
    }

    /// The newest stamp that proves both directions of a route.
    pub(crate) fn newest_proof(&self, slot: Slot) -> Nanos {
        let state = &self.memory.states[slot.index()];
        state.completed_sent_ns.load(Relaxed).max(state.confirmed_sent_ns.load(Relaxed))
    }

    pub(crate) fn watch(&self, slot: Slot) -> Watch {
        self.watches[usize::from(self.by_slot[slot.index()])]
    }

    pub(crate) fn slot(&self, index: usize, peer: usize, network: usize) -> Slot {
        slot_of(index, peer, network, self.networks)
    }

    // --- absences --------------------------------------------------------------------------------------------

    pub(crate) fn note_stall(&mut self, begin: Nanos, end: Nanos) {
        while self.stalls.front().is_some_and(|(_, end)| end + REMEMBERED_NS < begin) {
            self.stalls.pop_front();
        }
        let place = self.stalls.partition_point(|(earlier, _)| *earlier <= begin);
        self.stalls.insert(place, (begin, end));
    }

    pub(crate) fn ever_stalled(&self) -> bool {
        !self.stalls.is_empty()
    }

    /// When the engine came back that missed some of `from..to`.
    pub(crate) fn last_stall_end(&self, from: Nanos, to: Nanos) -> Option<Nanos> {
        self.stalls.iter().filter(|(begin, end)| *begin < to && *end > from).map(|(_, end)| *end).max()
    }

    /// How long of `from..to` (of the remembered part of it) the engine could run.
    pub(crate) fn awake(&self, from: Nanos, to: Nanos) -> Nanos {
        let from = from.max(to.saturating_sub(REMEMBERED_NS));
        let mut awake = to.saturating_sub(from);
        let mut covered = from;
        for (begin, end) in &self.stalls {
            let (begin, end) = ((*begin).max(covered), (*end).min(to));
            if end > begin {
                awake -= end - begin;
                covered = end;
            }
        }
        awake
    }
}
