//! What was sent and may yet be lost with its route: packets as `netft0` gave them, each one frame or many of one flow. A
//! packet is kept until a later heartbeat of its route has completed, and sent again over another route when its own dies,
//! with its old sequences: the receiver's window removes what had arrived.
//!
//! Why a completed heartbeat covers what was sent before it: leg 1 took the same way as the packet, after it, and three
//! more legs took it since, so the way stood until long after the packet had passed. A leg could only overtake the packet
//! in another queue of a NIC, so it must have left [`OVERTAKING_NS`] after the packet was handed to the kernel. What the
//! peer's heartbeats prove (leg 3, `confirmed_sent_ns`) is not enough: the leg 2 that it answers is sent by XDP, by a
//! queue of its own past everything that waits, and nothing went this way after it. No heartbeat says whether the
//! receiver had room for the packet.

use crate::types::{Nanos, NodeId, Slot};
use netft_common::map::{MAX_SLOTS, Standing};

/// Bytes of a block. A packet takes as many as it needs.
pub const BLOCK: usize = 2048;
/// How much later than a packet a heartbeat must have left so that it can't have overtaken the packet, in nanoseconds.
pub const OVERTAKING_NS: Nanos = 500_000;

const NONE: u32 = u32::MAX;
const UNSENT: Nanos = Nanos::MAX;

/// What is known of a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Evidence {
    /// How the detector says that it stands (`SlotState::engine_flags`).
    pub standing: Standing,
    /// Own send stamp of the newest heartbeat of ours that completed (`SlotState::completed_sent_ns`).
    pub completed_sent_ns: Nanos,
}

/// A packet that is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    /// To whom.
    pub peer: NodeId,
    /// The sequence of its first frame; the others follow.
    pub sequence: u64,
    /// Its length, bytes.
    pub length: usize,
    /// When it was first sent, boottime; `u64::MAX` = not yet.
    pub first_sent_ns: Nanos,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    kept: Kept,
    /// When it was sent over the route that it waits for.
    sent_ns: Nanos,
    /// First block of the next packet of the same route.
    next: u32,
}

/// Frames sent over one route, oldest first.
#[derive(Clone, Copy, Debug)]
struct Queue {
    first: u32,
    last: u32,
    /// The first that isn't stamped.
    unstamped: u32,
    blocks: u32,
}

impl Queue {
    const EMPTY: Self = Self { first: NONE, last: NONE, unstamped: NONE, blocks: 0 };
}

/// Frames in a fixed amount of memory, in the order in which they were sent over each route. Owned by one data thread.
#[derive(Debug)]
pub struct Keep {
    memory: Box<[u8]>,
    /// Per block the next one: of the same packet, or free.
    chain: Box<[u32]>,
    /// Per block what the packet that begins there is.
    entries: Box<[Entry]>,
    free: u32,
    free_blocks: u32,
    queues: Box<[Queue]>,
    /// Slots with a queue that may not be empty; each once.
    busy: Vec<Slot>,
}

impl Keep {
    /// With room for `bytes`, at least one block.
    pub fn new(bytes: usize) -> Self {
        let blocks = u32::try_from((bytes / BLOCK).max(1)).unwrap_or(NONE - 1);
        let nothing = Kept { peer: NodeId::LOWEST, sequence: 0, length: 0, first_sent_ns: UNSENT };
        let links = (1..blocks).chain([NONE]);
        Self {
            memory: vec![0; blocks as usize * BLOCK].into(),
            chain: links.collect(),
            entries: vec![Entry { kept: nothing, sent_ns: UNSENT, next: NONE }; blocks as usize].into(),
            free: 0,
            free_blocks: blocks,
            queues: vec![Queue::EMPTY; MAX_SLOTS as usize].into(),
            busy: Vec::with_capacity(MAX_SLOTS as usize),
        }
    }

    /// Keeps a packet that is about to be sent over a route. Returns how many packets it can't keep for want of room: older
    /// ones of the route that has the most, or this one if it is too long for all the memory.
    pub fn push(&mut self, slot: Slot, peer: NodeId, sequence: u64, packet: &[u8]) -> u64 {
        let blocks = u32::try_from(packet.len().div_ceil(BLOCK).max(1)).unwrap_or(NONE);
        if blocks as usize > self.chain.len() {
            return 1;
        }
        let mut overflow = 0;
        while self.free_blocks < blocks {
            let longest = self.busy.iter().copied().max_by_key(|slot| self.queues[slot.index()].blocks);
            let Some(longest) = longest else { return 1 };
            self.drop_first(longest);
            overflow += 1;
        }
        let first = self.free;
        let mut last = first;
        for (index, chunk) in packet.chunks(BLOCK).enumerate() {
            if index > 0 {
                last = self.chain[last as usize];
            }
            let at = last as usize * BLOCK;
            self.memory[at..at + chunk.len()].copy_from_slice(chunk);
        }
        self.free = std::mem::replace(&mut self.chain[last as usize], NONE);
        self.free_blocks -= blocks;
        let kept = Kept { peer, sequence, length: packet.len(), first_sent_ns: UNSENT };
        self.append(slot, first, kept);
        overflow
    }

    /// Everything that was pushed or moved since the last call has been handed to the kernel by `now`.
    pub fn stamp(&mut self, now: Nanos) {
        for slot in &self.busy {
            let queue = &mut self.queues[slot.index()];
            let mut at = std::mem::replace(&mut queue.unstamped, NONE);
            while at != NONE {
                let entry = &mut self.entries[at as usize];
                entry.sent_ns = now;
                entry.kept.first_sent_ns = entry.kept.first_sent_ns.min(now);
                at = entry.next;
            }
        }
    }

    /// Routes with packets that are kept, by position, in no order.
    pub fn route(&self, position: usize) -> Option<Slot> {
        self.busy.get(position).copied()
    }

    /// Forgets the routes that have no packets any more: positions change.
    pub fn tidy(&mut self) {
        let queues = &self.queues;
        self.busy.retain(|slot| queues[slot.index()].first != NONE);
    }

    /// Lets go of what a route is known to have carried.
    pub fn release(&mut self, slot: Slot, evidence: Evidence) {
        while self.first(slot).is_some_and(|entry| is_covered(entry, evidence)) {
            self.drop_first(slot);
        }
    }

    /// The oldest packet of a route that the route may have lost. Call [`Self::release`] before.
    pub fn lost(&self, slot: Slot, evidence: Evidence) -> Option<Kept> {
        self.first(slot).filter(|entry| is_lost(entry, evidence)).map(|entry| entry.kept)
    }

    /// The beginning of the oldest packet of a route, at most a block; empty if there is none.
    pub fn first_bytes(&self, slot: Slot) -> &[u8] {
        let first = self.queues[slot.index()].first as usize;
        let length = self.first(slot).map_or(0, |entry| entry.kept.length.min(BLOCK));
        self.memory.get(first * BLOCK..).and_then(|block| block.get(..length)).unwrap_or_default()
    }

    /// Copies the oldest packet of a route to the beginning of `packet`, and keeps it from now on for the route `to`, by which
    /// it is about to be sent again. `None` if there is none, or no room for it.
    pub fn move_first(&mut self, slot: Slot, to: Slot, packet: &mut [u8]) -> Option<Kept> {
        let first = self.queues[slot.index()].first;
        let kept = self.first(slot)?.kept;
        let mut block = first;
        for chunk in packet.get_mut(..kept.length)?.chunks_mut(BLOCK) {
            let at = block as usize * BLOCK;
            chunk.copy_from_slice(&self.memory[at..at + chunk.len()]);
            block = self.chain[block as usize];
        }
        self.unlink_first(slot);
        self.append(to, first, kept);
        Some(kept)
    }

    /// Lets go of the oldest packet of a route.
    pub fn drop_first(&mut self, slot: Slot) {
        let Some(first) = self.unlink_first(slot) else { return };
        let blocks = self.blocks(first);
        let mut last = first;
        for _ in 1..blocks {
            last = self.chain[last as usize];
        }
        self.chain[last as usize] = std::mem::replace(&mut self.free, first);
        self.free_blocks += blocks;
    }

    /// Lets go of everything of a route, and says how many packets that were.
    pub fn forget(&mut self, slot: Slot) -> u64 {
        let mut packets = 0;
        while self.first(slot).is_some() {
            self.drop_first(slot);
            packets += 1;
        }
        packets
    }

    /// Bytes of the memory that are taken.
    pub fn bytes(&self) -> u64 {
        (self.chain.len() as u64 - u64::from(self.free_blocks)) * BLOCK as u64
    }

    fn first(&self, slot: Slot) -> Option<&Entry> {
        let first = self.queues[slot.index()].first;
        (first != NONE).then(|| &self.entries[first as usize])
    }

    fn blocks(&self, first: u32) -> u32 {
        let length = self.entries[first as usize].kept.length;
        u32::try_from(length.div_ceil(BLOCK).max(1)).unwrap_or(NONE)
    }

    fn append(&mut self, slot: Slot, first: u32, kept: Kept) {
        let blocks = u32::try_from(kept.length.div_ceil(BLOCK).max(1)).unwrap_or(NONE);
        let queue = &mut self.queues[slot.index()];
        if queue.first == NONE {
            if !self.busy.contains(&slot) {
                self.busy.push(slot);
            }
            queue.first = first;
        } else {
            self.entries[queue.last as usize].next = first;
        }
        if queue.unstamped == NONE {
            queue.unstamped = first;
        }
        queue.last = first;
        queue.blocks += blocks;
        self.entries[first as usize] = Entry { kept, sent_ns: UNSENT, next: NONE };
    }

    /// Takes the oldest out of a queue; its blocks still belong to it.
    fn unlink_first(&mut self, slot: Slot) -> Option<u32> {
        let first = self.queues[slot.index()].first;
        if first == NONE {
            return None;
        }
        let (next, blocks) = (self.entries[first as usize].next, self.blocks(first));
        let queue = &mut self.queues[slot.index()];
        if queue.unstamped == first {
            queue.unstamped = next;
        }
        queue.first = next;
        if next == NONE {
            queue.last = NONE;
        }
        queue.blocks -= blocks;
        Some(first)
    }
}

/// Whether a heartbeat says that the way still stood after the packet. Since the route came up the last time, that is.
fn is_covered(entry: &Entry, evidence: Evidence) -> bool {
    let left_ns = entry.sent_ns.saturating_add(OVERTAKING_NS);
    match evidence.standing {
        Standing::Up { since_ns } => entry.sent_ns >= since_ns && left_ns <= evidence.completed_sent_ns,
        Standing::Down { covered_ns } => left_ns <= covered_ns,
    }
}

/// Whether the route went down since the packet was sent.
fn is_lost(entry: &Entry, evidence: Evidence) -> bool {
    match evidence.standing {
        Standing::Up { since_ns } => entry.sent_ns < since_ns,
        Standing::Down { .. } => true,
    }
}

#[cfg(test)]
mod tests;
