//! What a data thread counts.

use crate::engine::DataThread;
use netft_core::data::DataReject;
use std::sync::atomic::{AtomicU64, Ordering};

/// Why frames are dropped, beyond [`DataReject`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Loss {
    UnknownDestination,
    NoRoute,
    TooLong,
    BufferFull,
    Unreachable,
    AdapterRefused,
    Indivisible,
    HelloQueueFull,
    HelloTooLong,
    HelloTooMany,
    RingFull,
    StrayBuffer,
}

/// Names of all reasons: [`Loss`] in order, then [`DataReject`].
const DROP_NAMES: [&str; 12] = [
    "data_drop_unknown_destination",
    "data_drop_no_route",
    "data_drop_too_long",
    "data_drop_buffer_full",
    "data_drop_unreachable",
    "data_drop_adapter_refused",
    "data_drop_indivisible",
    "hello_drop_queue_full",
    "hello_drop_too_long",
    "hello_drop_too_many",
    "xdp_drop_ring_full",
    "xdp_stray_buffer",
];
const REASONS: usize = DROP_NAMES.len() + DataReject::COUNT;

/// One thread's counters.
#[derive(Debug)]
pub struct Status {
    /// Frames sent.
    pub frames_sent: AtomicU64,
    /// Bytes of them.
    pub bytes_sent: AtomicU64,
    /// Frames received.
    pub frames_received: AtomicU64,
    /// Bytes of them.
    pub bytes_received: AtomicU64,
    /// Those of the frames sent that went by AF_XDP.
    pub bypass_sent: AtomicU64,
    /// Those of the frames received that came by AF_XDP.
    pub bypass_received: AtomicU64,
    /// Frames sent again because their route died.
    pub replayed: AtomicU64,
    /// Frames of which a copy went over another route.
    pub duplicated: AtomicU64,
    /// Packets that were let go before they were known to have had a way, for want of room.
    pub keep_overflow: AtomicU64,
    /// Packets that might have been lost, and found no other route in time.
    pub keep_expired: AtomicU64,
    /// Memory taken by packets that may have to be sent again.
    pub kept_bytes: AtomicU64,
    drops: [AtomicU64; REASONS],
}

impl Status {
    /// Every reason with its count over all threads.
    pub fn drops<'a>(threads: impl Iterator<Item = &'a Self> + Clone) -> Vec<(&'static str, u64)> {
        let names = DROP_NAMES.into_iter().chain(DataReject::NAMES);
        let count = |index: usize| {
            threads.clone().map(|thread| thread.drops[index].load(Ordering::Relaxed)).sum::<u64>()
        };
        names.enumerate().map(|(index, name)| (name, count(index))).collect()
    }

    /// Frames alone.
    pub fn frames(&self) -> DataThread {
        let get = |word: &AtomicU64| word.load(Ordering::Relaxed);
        DataThread {
            frames_sent: get(&self.frames_sent),
            frames_received: get(&self.frames_received),
            xdp_sent: get(&self.bypass_sent),
            xdp_received: get(&self.bypass_received),
        }
    }

    pub(super) fn lose(&self, reason: Loss, frames: usize) {
        self.drops[reason as usize].fetch_add(frames as u64, Ordering::Relaxed);
    }

    pub(super) fn reject(&self, reason: DataReject) {
        self.drops[DROP_NAMES.len() + reason as usize].fetch_add(1, Ordering::Relaxed);
    }
}

impl Default for Status {
    fn default() -> Self {
        Self {
            frames_sent: AtomicU64::new(0),
            bytes_sent: AtomicU64::new(0),
            frames_received: AtomicU64::new(0),
            bytes_received: AtomicU64::new(0),
            bypass_sent: AtomicU64::new(0),
            bypass_received: AtomicU64::new(0),
            replayed: AtomicU64::new(0),
            duplicated: AtomicU64::new(0),
            keep_overflow: AtomicU64::new(0),
            keep_expired: AtomicU64::new(0),
            kept_bytes: AtomicU64::new(0),
            drops: std::array::from_fn(|_| AtomicU64::new(0)),
        }
    }
}
