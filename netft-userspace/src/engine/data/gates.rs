//! How much XDP may let through to the kernel's sockets: what they have room for. The rest of a flood is dropped
//! before the kernel spends the time on it that heartbeats need.

use crate::engine::maps::SharedMaps;
use netft_common::map::{COMMON_GATE, Gate, gate_index};
use netft_core::types::InterfaceNumber;
use std::net::IpAddr;
use std::sync::atomic::Ordering;

/// Messages on the routes of one socket that may wait in it: what fits into its buffer.
const ROOM: u64 = 1024;
/// Hellos, and what belongs to no route, on all sockets together.
const COMMON_ROOM: u64 = 256;

/// What one look at all sockets brought.
#[derive(Clone, Copy, Debug)]
pub(super) struct Round {
    taken: u64,
    drained: bool,
}

impl Round {
    /// Nothing yet.
    pub(super) const fn new() -> Self {
        Self { taken: 0, drained: true }
    }

    /// A socket, whose messages on routes come through the gate with number `gate`, gave `taken` messages, and has no
    /// more if `drained`.
    pub(super) fn looked(&mut self, maps: &SharedMaps, gate: Option<u32>, taken: u64, drained: bool) {
        self.taken += taken;
        self.drained &= drained;
        if let Some(gate) = gate {
            widen(maps.gates.get(gate as usize), ROOM, taken, drained);
        }
    }

    /// All sockets were looked at.
    pub(super) fn end(self, maps: &SharedMaps) {
        widen(maps.gates.get(COMMON_GATE as usize), COMMON_ROOM, self.taken, self.drained);
    }
}

/// The gate for routes between `local` and peers.
pub(super) fn gate(interface: InterfaceNumber, local: IpAddr) -> u32 {
    gate_index(interface.get().into(), local.is_ipv6())
}

/// What is counted as passed but got lost on its way would shut the gate for ever: an empty socket has all its room.
fn widen(gate: &Gate, room: u64, taken: u64, drained: bool) {
    let limit = gate.limit.load(Ordering::Relaxed);
    let new = match drained || limit == 0 {
        true => gate.passed.load(Ordering::Relaxed).saturating_add(room),
        false => limit.saturating_add(taken),
    };
    if new != limit {
        gate.limit.store(new, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As XDP does it: how many of `count` get through.
    fn pass(gate: &Gate, count: u64) -> u64 {
        let limit = gate.limit.load(Ordering::Relaxed);
        let room = limit.saturating_sub(gate.passed.load(Ordering::Relaxed));
        let through = if limit == 0 { count } else { count.min(room) };
        gate.passed.fetch_add(through, Ordering::Relaxed);
        through
    }

    #[test]
    fn a_flood_gets_through_only_as_fast_as_it_is_taken() {
        let gate = Gate::default();
        assert_eq!(pass(&gate, 5000), 5000, "nobody has looked yet");
        widen(&gate, 100, 32, false);
        assert_eq!(pass(&gate, 1000), 100);
        for _ in 0..1000 {
            widen(&gate, 100, 32, false);
            assert_eq!(pass(&gate, 1000), 32);
        }
        widen(&gate, 100, 10, true);
        assert_eq!(pass(&gate, 1000), 100);
    }

    #[test]
    fn what_never_arrives_shuts_no_gate() {
        let gate = Gate::default();
        for _ in 0..10 {
            widen(&gate, 100, 0, true);
            assert_eq!(pass(&gate, 1000), 100);
        }
    }
}
