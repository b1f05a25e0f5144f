//! What comes next: a heap of plain words, and a store for what doesn't fit into one.

use crate::types::Nanos;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Things by number. Numbers are reused, so nothing is allocated once as many as ever were there have been.
#[derive(Debug)]
pub(crate) struct Store<T> {
    things: Vec<T>,
    free: Vec<u32>,
}

impl<T> Default for Store<T> {
    fn default() -> Self {
        Self { things: Vec::new(), free: Vec::new() }
    }
}

impl<T: Copy> Store<T> {
    pub(crate) fn put(&mut self, thing: T) -> u32 {
        if let Some(number) = self.free.pop() {
            self.things[number as usize] = thing;
            return number;
        }
        self.things.push(thing);
        u32::try_from(self.things.len() - 1).unwrap_or(u32::MAX)
    }

    pub(crate) fn take(&mut self, number: u32) -> T {
        self.free.push(number);
        self.things[number as usize]
    }

    /// Empty again, with its room.
    pub(crate) fn clear(&mut self) {
        self.things.clear();
        self.free.clear();
    }
}

/// What happens; the number says which.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    /// A leg arrives.
    Leg,
    /// An engine wakes; the number is its node and a token.
    Wake,
    /// An engine that was interrupted goes on judging, or sending.
    Judge,
    Drain,
    /// The kernel tells an engine about a link.
    News,
    FaultBegins,
    FaultEnds,
    Check,
    /// An application sends a packet.
    Packet,
    /// A packet arrives.
    Arrival,
    /// A data thread looks at what it keeps.
    Recover,
}

const KINDS: [Kind; 11] = [
    Kind::Leg,
    Kind::Wake,
    Kind::Judge,
    Kind::Drain,
    Kind::News,
    Kind::FaultBegins,
    Kind::FaultEnds,
    Kind::Check,
    Kind::Packet,
    Kind::Arrival,
    Kind::Recover,
];
const NUMBER_BITS: u32 = 28;

/// Events in order of time, and of their making when that is equal.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    heap: BinaryHeap<Reverse<u128>>,
    made: u32,
}

impl Queue {
    pub(crate) fn clear(&mut self) {
        self.heap.clear();
        self.made = 0;
    }

    pub(crate) fn add(&mut self, at: Nanos, kind: Kind, number: u32) {
        debug_assert!(number >> NUMBER_BITS == 0, "28 bits");
        self.made = self.made.wrapping_add(1);
        let what = (kind as u32) << NUMBER_BITS | number;
        let key = u128::from(at) << 64 | u128::from(self.made) << 32 | u128::from(what);
        self.heap.push(Reverse(key));
    }

    pub(crate) fn next(&mut self) -> Option<(Nanos, Kind, u32)> {
        let Reverse(key) = self.heap.pop()?;
        let low = u64::try_from(key & u128::from(u64::MAX)).unwrap_or(0);
        let what = u32::try_from(low & u64::from(u32::MAX)).unwrap_or(0);
        let at = Nanos::try_from(key >> 64).unwrap_or(Nanos::MAX);
        Some((at, KINDS[(what >> NUMBER_BITS) as usize], what & ((1 << NUMBER_BITS) - 1)))
    }
}
