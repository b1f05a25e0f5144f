//! What waits for the shell: stores, leg 1s and events. Everything has its room from the start, so nothing
//! allocates, and nothing is lost when the shell is slow: stores and events of one subject merge.

use super::{DetectorEvent, RouteRecord, StoreCommand};
use crate::types::{Nanos, NodeId, NodeState, Slot};
use netft_common::map::{MAX_NODES, MAX_SLOTS, Standing};
use std::collections::VecDeque;

/// Events kept one by one; beyond, they merge per subject. Twice what the worst call can make: every route, and for
/// every peer its state and its active route.
const EVENTS: usize = 2 * (MAX_SLOTS as usize + 2 * MAX_NODES as usize);

/// A set of small numbers. `WORDS` × 64 is its capacity.
#[derive(Clone, Debug)]
pub(super) struct BitSet<const WORDS: usize>([u64; WORDS]);

impl<const WORDS: usize> BitSet<WORDS> {
    pub(super) const fn new() -> Self {
        Self([0; WORDS])
    }

    pub(super) fn insert(&mut self, index: usize) {
        self.0[index / 64] |= 1 << (index % 64);
    }

    /// Removes and returns the lowest.
    pub(super) fn pop(&mut self) -> Option<usize> {
        let (word, bits) = self.0.iter_mut().enumerate().find(|(_, bits)| **bits != 0)?;
        let bit = bits.trailing_zeros() as usize;
        *bits &= *bits - 1;
        Some(word * 64 + bit)
    }
}

/// All nodes.
pub(super) type NodeSet = BitSet<{ MAX_NODES as usize / 64 }>;

/// Shared-map words that changed. Only the newest value of each counts, so there is no queue to fill.
#[derive(Debug)]
pub(super) struct Stores {
    dead_interfaces: Option<u64>,
    active: Box<[u64]>,
    active_dirty: NodeSet,
    flags: Box<[u64]>,
    flags_dirty: BitSet<{ MAX_SLOTS as usize / 64 }>,
}

impl Stores {
    pub(super) fn new() -> Self {
        Self {
            // Stored at the first drain, whatever it is: an engine before us may have left bits behind.
            dead_interfaces: Some(0),
            active: vec![0; MAX_NODES as usize].into(),
            active_dirty: BitSet::new(),
            flags: vec![0; MAX_SLOTS as usize].into(),
            flags_dirty: BitSet::new(),
        }
    }

    pub(super) fn set_dead_interfaces(&mut self, bits: u64) {
        self.dead_interfaces = Some(bits);
    }

    pub(super) fn set_active(&mut self, peer: NodeId, word: u64) {
        let index = usize::from(peer.get());
        self.active[index] = word;
        self.active_dirty.insert(index);
    }

    pub(super) fn set_standing(&mut self, slot: Slot, standing: Standing) {
        self.flags[slot.index()] = standing.to_word();
        self.flags_dirty.insert(slot.index());
    }

    /// The dead NIC first (one store moves all its peers); then how routes stand, so that nobody who sees a peer moved
    /// takes the route that it left for one that is up; then single peers.
    pub(super) fn pop(&mut self) -> Option<StoreCommand> {
        if let Some(bits) = self.dead_interfaces.take() {
            return Some(StoreCommand::DeadInterfaces(bits));
        }
        if let Some(index) = self.flags_dirty.pop() {
            let slot = u32::try_from(index).ok().and_then(Slot::new)?;
            return Some(StoreCommand::RouteFlags(slot, self.flags[index]));
        }
        let index = self.active_dirty.pop()?;
        let peer = u16::try_from(index).ok().and_then(NodeId::new)?;
        Some(StoreCommand::Active(peer, self.active[index]))
    }
}

/// Routes whose leg 1 is due. Each waits at most once.
#[derive(Debug)]
pub(super) struct Requests {
    queue: VecDeque<Slot>,
    waiting: Box<[bool]>,
}

impl Requests {
    pub(super) fn new() -> Self {
        Self {
            queue: VecDeque::with_capacity(MAX_SLOTS as usize),
            waiting: vec![false; MAX_SLOTS as usize].into(),
        }
    }

    pub(super) fn push(&mut self, slot: Slot) {
        if !std::mem::replace(&mut self.waiting[slot.index()], true) {
            self.queue.push_back(slot);
        }
    }

    pub(super) fn pop(&mut self) -> Option<Slot> {
        let slot = self.queue.pop_front()?;
        self.waiting[slot.index()] = false;
        Some(slot)
    }
}

/// Events in order, merged per subject while nobody takes them.
#[derive(Debug)]
pub(super) struct Events {
    queue: VecDeque<DetectorEvent>,
    /// Whether the tables below hold anything: then order per subject demands that new events go there too.
    merging: bool,
    routes: Box<[Option<RouteRecord>]>,
    active: Box<[Option<DetectorEvent>]>,
    peers: Box<[Option<DetectorEvent>]>,
    stall: Option<(Nanos, Nanos)>,
    merged: u64,
}

impl Events {
    pub(super) fn new() -> Self {
        Self {
            queue: VecDeque::with_capacity(EVENTS),
            merging: false,
            routes: vec![None; MAX_SLOTS as usize].into(),
            active: vec![None; MAX_NODES as usize].into(),
            peers: vec![None; MAX_NODES as usize].into(),
            stall: None,
            merged: 0,
        }
    }

    /// Events that were merged into a later one.
    pub(super) fn merged(&self) -> u64 {
        self.merged
    }

    pub(super) fn push(&mut self, event: DetectorEvent) {
        if !self.merging && self.queue.len() < EVENTS {
            self.queue.push_back(event);
            return;
        }
        self.merging = true;
        let merged = match event {
            DetectorEvent::Route(record) => {
                let entry = &mut self.routes[record.slot.index()];
                let old = entry.map_or(record.old, |earlier| earlier.old);
                entry.replace(RouteRecord { old, ..record }).is_some()
            }
            DetectorEvent::Active { at_ns, peer, old, new } => {
                let entry = &mut self.active[usize::from(peer.get())];
                let old = match entry {
                    Some(DetectorEvent::Active { old: earlier, .. }) => *earlier,
                    _ => old,
                };
                entry.replace(DetectorEvent::Active { at_ns, peer, old, new }).is_some()
            }
            DetectorEvent::Peer { at_ns, peer, old, new, tick_age_ns } => {
                let entry = &mut self.peers[usize::from(peer.get())];
                let old: NodeState = match entry {
                    Some(DetectorEvent::Peer { old: earlier, .. }) => *earlier,
                    _ => old,
                };
                entry.replace(DetectorEvent::Peer { at_ns, peer, old, new, tick_age_ns }).is_some()
            }
            DetectorEvent::Stall { at_ns, gap_ns } => {
                let worst = self.stall.map_or(gap_ns, |(_, earlier)| earlier.max(gap_ns));
                self.stall.replace((at_ns, worst)).is_some()
            }
        };
        self.merged = self.merged.saturating_add(u64::from(merged));
    }

    pub(super) fn pop(&mut self) -> Option<DetectorEvent> {
        if let Some(event) = self.queue.pop_front() {
            return Some(event);
        }
        if !self.merging {
            return None;
        }
        let mut route = || self.routes.iter_mut().find_map(Option::take).map(DetectorEvent::Route);
        let event = route()
            .or_else(|| self.active.iter_mut().find_map(Option::take))
            .or_else(|| self.peers.iter_mut().find_map(Option::take))
            .or_else(|| self.stall.take().map(|(at_ns, gap_ns)| DetectorEvent::Stall { at_ns, gap_ns }));
        self.merging = event.is_some();
        event
    }
}
