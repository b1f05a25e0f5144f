//! What heartbeats and the fence both need to know, and how words that others write are read and written.

use crate::map::{EngineState, NodeConfig};
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Where a node keeps it: eBPF maps, or plain memory in tests and simulations.
pub trait Shared {
    /// Who this node is; `None` or cluster id 0 = nobody yet.
    fn node(&self) -> Option<&NodeConfig>;
    /// The engine's liveness.
    fn engine(&self) -> Option<&EngineState>;
    /// Reads a word that userspace and eBPF share. (This and the next two are here because LLVM's eBPF target has
    /// the instructions but not Rust's atomic operations.)
    #[inline(always)]
    fn load(&self, word: &AtomicU64) -> u64 {
        word.load(Relaxed)
    }
    /// Writes such a word.
    #[inline(always)]
    fn store(&self, word: &AtomicU64, value: u64) {
        word.store(value, Relaxed);
    }
    /// Stores `new` if the word still is `seen`, atomically; says whether it was.
    #[cfg(target_has_atomic = "64")]
    fn compare_and_swap(&self, word: &AtomicU64, seen: u64, new: u64) -> bool {
        word.compare_exchange(seen, new, Relaxed, Relaxed).is_ok()
    }
    /// Stores `new` if the word still is `seen`, atomically; says whether it was.
    #[cfg(not(target_has_atomic = "64"))]
    fn compare_and_swap(&self, word: &AtomicU64, seen: u64, new: u64) -> bool;
}
