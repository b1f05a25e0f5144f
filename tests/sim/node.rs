//! One node: the shared memory with XDP at one end and the engine's detector at the other.

use netft_common::heartbeat::{self, Addresses, Answer, Tables};
use netft_common::map::{ActiveRoute, EngineState, NodeConfig, SlotConfig, SlotState};
use netft_common::wire::{Heartbeat, NO_SLOT};
use netft_core::detect::{
    Adopted, Detector, DetectorCommand, DetectorConfig, DetectorEvent, Evidence, RequestTransmit, RouteSetup,
    SlotEvidence, StoreCommand,
};
use netft_core::types::{InterfaceNumber, LinkState, Nanos, NodeId, Slot, Timing};
use std::cell::Cell;
use std::sync::atomic::Ordering::Relaxed;

/// What a node shares with its XDP programs. It outlives the engine.
pub struct Memory {
    node: NodeConfig,
    engine: EngineState,
    configs: Vec<SlotConfig>,
    states: Vec<SlotState>,
    active: Vec<u64>,
    clock_ns: Cell<Nanos>,
}

impl Tables for Memory {
    fn node(&self) -> Option<&NodeConfig> {
        Some(&self.node)
    }
    fn engine(&self) -> Option<&EngineState> {
        Some(&self.engine)
    }
    fn config(&self, slot: u32) -> Option<&SlotConfig> {
        self.configs.get(slot as usize)
    }
    fn generation(&self, config: &SlotConfig) -> u32 {
        config.generation
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
}

/// A route as the simulation knows it.
#[derive(Clone, Copy, Debug)]
pub struct Watch {
    pub slot: Slot,
    pub peer: usize,
    pub network: usize,
}

pub struct Node {
    pub id: NodeId,
    pub memory: Memory,
    pub detector: Detector,
    pub watches: Vec<Watch>,
    config: DetectorConfig,
    timing: Timing,
    /// Local clock minus the simulation's.
    pub offset_ns: Nanos,
    /// What the kernel says of the interfaces now, and what the engine wasn't told yet.
    pub links: Vec<LinkState>,
    pub news: Vec<(usize, LinkState)>,
    /// The engine doesn't run before this.
    pub away_until: Nanos,
    /// When the engine didn't run, in the simulation's time.
    pub stalls: Vec<(Nanos, Nanos)>,
    /// The engine dies and starts again at the end of its absence.
    pub restarts: bool,
    pub ticked_at: Nanos,
    /// Wakes of an older token were cancelled.
    pub token: u64,
    pub busy: bool,
}

pub fn node_id(index: usize) -> NodeId {
    NodeId::new(u16::try_from(index + 1).unwrap()).unwrap()
}

pub fn address(node: usize, network: usize) -> [u8; 16] {
    let (node, network) = (u8::try_from(node + 1).unwrap(), u8::try_from(network + 1).unwrap());
    std::net::Ipv4Addr::new(10, 77, network, node).to_ipv6_mapped().octets()
}

/// Slot of the route from one node to another over a network.
pub fn slot_of(node: usize, peer: usize, network: usize, nodes: usize) -> Slot {
    // Different on each node, as in reality.
    let index = ((peer * 3 + network) * 7 + node) % (nodes * 21 + 7);
    Slot::new(u32::try_from(index).unwrap()).unwrap()
}

impl Node {
    pub fn new(
        index: usize,
        nodes: usize,
        networks: usize,
        config: DetectorConfig,
        timing: Timing,
        offset_ns: Nanos,
    ) -> Self {
        let id = node_id(index);
        let slots = nodes * 21 + 7;
        let mut configs = vec![SlotConfig::default(); slots];
        let mut watches = Vec::new();
        for peer in (0..nodes).filter(|peer| *peer != index) {
            for network in 0..networks {
                let slot = slot_of(index, peer, network, nodes);
                assert_eq!(configs[slot.index()].generation, 0, "slots collide");
                let key = |from: usize, to: usize| [from as u64, to as u64 + 100];
                configs[slot.index()] = SlotConfig {
                    generation: 1,
                    remote_slot: u32::from(slot_of(peer, index, network, nodes).get()),
                    peer: node_id(peer).get(),
                    interface: u16::try_from(network).unwrap(),
                    key_epoch: 7,
                    local: address(index, network),
                    remote: address(peer, network),
                    send_key: key(index, peer),
                    receive_key: key(peer, index),
                };
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
                clock_ns: Cell::new(offset_ns),
            },
            detector: Detector::new(config, id),
            watches,
            config,
            timing,
            offset_ns,
            links: vec![LinkState::Up; networks],
            news: Vec::new(),
            away_until: 0,
            stalls: Vec::new(),
            restarts: false,
            ticked_at: 0,
            token: 0,
            busy: false,
        }
    }

    pub fn clock(&self, at: Nanos) -> Nanos {
        at + self.offset_ns
    }

    /// The engine starts, or starts again: it knows only what is in memory.
    pub fn start(&mut self, at: Nanos) {
        let now = self.clock(at);
        self.detector = Detector::new(self.config, self.id);
        self.news.clear();
        for (network, link) in self.links.iter().enumerate() {
            let interface = InterfaceNumber::new(u8::try_from(network).unwrap()).unwrap();
            self.detector.handle_command(now, DetectorCommand::SetLink(interface, *link));
        }
        for watch in &self.watches {
            let state = &self.memory.states[watch.slot.index()];
            let was_up = state.engine_flags.load(Relaxed) & 1 != 0;
            self.detector.handle_command(
                now,
                DetectorCommand::SetRoute(RouteSetup {
                    slot: watch.slot,
                    peer: node_id(watch.peer),
                    interface: InterfaceNumber::new(u8::try_from(watch.network).unwrap()).unwrap(),
                    metric: 100 * u32::try_from(watch.network).unwrap(),
                    timing: self.timing,
                    first_sequence: state.next_sequence.load(Relaxed).max(1),
                    adopted: if was_up { Adopted::Up } else { Adopted::No },
                }),
            );
        }
    }

    /// The engine ran: XDP tells the peers.
    pub fn tick(&mut self, at: Nanos) {
        self.ticked_at = at;
        self.memory.engine.tick_ns.store(self.clock(at), Relaxed);
    }

    /// The verdict at `at`, by a clock that was read at `read_at`.
    pub fn judge(&mut self, read_at: Nanos) {
        let now = self.clock(read_at);
        for (network, link) in std::mem::take(&mut self.news) {
            let interface = InterfaceNumber::new(u8::try_from(network).unwrap()).unwrap();
            self.detector.handle_command(now, DetectorCommand::SetLink(interface, link));
        }
        self.detector.handle_timeout(now, &self.memory);
    }

    pub fn store(&mut self, command: StoreCommand) {
        match command {
            StoreCommand::Active(peer, word) => self.memory.active[usize::from(peer.get())] = word,
            StoreCommand::DeadInterfaces(bits) => self.memory.engine.dead_interfaces.store(bits, Relaxed),
            StoreCommand::RouteFlags(slot, flags) => {
                self.memory.states[slot.index()].engine_flags.store(flags, Relaxed);
            }
        }
    }

    /// What a transmitter would use now for a peer: the active route, or its backup when the interface is dead.
    pub fn transmitter_slot(&self, peer: usize) -> Option<Slot> {
        let word = ActiveRoute::from_word(self.memory.active[peer + 1]);
        let dead = self.memory.engine.dead_interfaces.load(Relaxed);
        [word.slot, word.backup].into_iter().find_map(|number| {
            let slot = Slot::new(u32::from(number))?;
            let interface = self.memory.configs.get(slot.index())?.interface;
            (dead & (1 << interface) == 0).then_some(slot)
        })
    }

    pub fn request(&mut self, at: Nanos, request: RequestTransmit) -> Option<Heartbeat> {
        let now = self.clock(at);
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
    pub fn receive(&mut self, at: Nanos, addresses: &Addresses, leg: &Heartbeat) -> Option<Heartbeat> {
        self.memory.clock_ns.set(self.clock(at));
        let mut leg = *leg;
        match heartbeat::answer(&self.memory, &self.memory.node, addresses, &mut leg) {
            Ok(Answer::Reply) => Some(leg),
            Ok(Answer::Complete | Answer::Unanswered) | Err(_) => None,
        }
    }

    pub fn poll_event(&mut self) -> Option<DetectorEvent> {
        self.detector.poll_event()
    }

    pub fn watch(&self, slot: Slot) -> Watch {
        *self.watches.iter().find(|watch| watch.slot == slot).expect("a slot that is watched")
    }

    /// Whether the engine missed any of `from..to`.
    pub fn last_stall_end(&self, from: Nanos, to: Nanos) -> Option<Nanos> {
        self.stalls.iter().filter(|(begin, end)| *begin < to && *end > from).map(|(_, end)| *end).max()
    }

    /// How long of `from..to` the engine could run.
    pub fn awake(&self, from: Nanos, to: Nanos) -> Nanos {
        let mut awake = to.saturating_sub(from);
        let mut covered = from;
        let mut stalls = self.stalls.clone();
        stalls.sort_unstable();
        for (begin, end) in stalls {
            let (begin, end) = (begin.max(covered), end.min(to));
            if end > begin {
                awake -= end - begin;
                covered = end;
            }
        }
        awake
    }
}
