//! How much XDP may let through to the kernel's sockets: what they have room for. The rest of a flood is dropped
//! before the kernel spends the time on it that heartbeats need.

use crate::engine::maps::SharedMaps;
use netft_common::map::{COMMON_GATE, GATES, Gate, gate_index};
use netft_core::types::{InterfaceNumber, Nanos};
use std::net::IpAddr;
use std::sync::atomic::Ordering;

/// Messages on the routes of one socket that may wait in it: what fits into its buffer.
const ROOM: u64 = 1024;
/// Hellos, and what belongs to no route, on all sockets together.
const COMMON_ROOM: u64 = 256;

/// How long gates may stay as they are while nothing comes.
const IDLE_NS: Nanos = 1_000_000_000;
/// The same when what is let through doesn't arrive, and for how long after it was last seen.
const WARY_NS: Nanos = 10_000_000;
/// See [`WARY_NS`].
const WARY_FOR_NS: Nanos = 10_000_000_000;

/// What the sockets behind one gate gave.
#[derive(Clone, Copy, Debug)]
struct Given {
    gate: u32,
    taken: u64,
    drained: bool,
}

/// The leader's looks at all sockets.
///
/// What the kernel discards on its way (a wrong checksum, a lone fragment) shuts a gate until the next look, and nobody is
/// woken for it: where room is used up by what doesn't arrive, looks follow one another fast.
#[derive(Debug)]
pub(super) struct Looks {
    given: Vec<Given>,
    wary_until_ns: Nanos,
}

impl Looks {
    /// None yet.
    pub(super) fn new() -> Self {
        Self { given: Vec::with_capacity(GATES as usize), wary_until_ns: 0 }
    }

    /// The longest time until the next look.
    pub(super) fn pause_ns(&self, now: Nanos) -> Nanos {
        if now < self.wary_until_ns { WARY_NS } else { IDLE_NS }
    }

    /// A socket, whose messages on routes come through the gate with number `gate`, gave `taken` messages, and has no
    /// more if `drained`. Sockets that share a gate have its room together.
    pub(super) fn looked(&mut self, gate: Option<u32>, taken: u64, drained: bool) {
        for gate in [Some(COMMON_GATE), gate].into_iter().flatten() {
            match self.given.iter_mut().find(|given| given.gate == gate) {
                Some(given) => {
                    given.taken += taken;
                    given.drained &= drained;
                }
                None => self.given.push(Given { gate, taken, drained }),
            }
        }
    }

    /// All sockets were looked at.
    pub(super) fn end(&mut self, now: Nanos, maps: &SharedMaps) {
        self.settle(now, |gate| maps.gates.get(gate as usize));
    }

    fn settle<'a>(&mut self, now: Nanos, gate: impl Fn(u32) -> &'a Gate) {
        for given in self.given.drain(..) {
            let room = if given.gate == COMMON_GATE { COMMON_ROOM } else { ROOM };
            let used = widen(gate(given.gate), room, given.taken, given.drained);
            if used > room / 2 && given.taken < used / 2 {
                self.wary_until_ns = now.saturating_add(WARY_FOR_NS);
            }
        }
    }
}

/// The gate for routes between `local` and peers.
pub(super) fn gate(interface: InterfaceNumber, local: IpAddr) -> u32 {
    gate_index(interface.get().into(), local.is_ipv6())
}

/// What is counted as passed but got lost on its way would shut the gate for ever: an empty socket has all its room.
/// Returns how much of it was used.
fn widen(gate: &Gate, room: u64, taken: u64, drained: bool) -> u64 {
    let limit = gate.limit.load(Ordering::Relaxed);
    let passed = gate.passed.load(Ordering::Relaxed);
    let new = match drained || limit == 0 {
        true => passed.saturating_add(room),
        false => limit.saturating_add(taken),
    };
    if new != limit {
        gate.limit.store(new, Ordering::Relaxed);
    }
    if limit == 0 { 0 } else { room.saturating_sub(limit.saturating_sub(passed)) }
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
    #[test]
    fn an_idle_socket_keeps_no_gate_open_that_it_shares_with_a_full_one() {
        let gates: [Gate; 2] = Default::default();
        let of = |number: u32| if number == COMMON_GATE { &gates[0] } else { &gates[1] };
        let mut looks = Looks::new();
        for round in 0..100 {
            looks.looked(Some(0), 32, false);
            looks.looked(Some(0), 0, true);
            looks.settle(round, of);
            let through = pass(&gates[1], 5000);
            assert_eq!(through, if round == 0 { ROOM } else { 32 }, "round {round}");
        }
    }

    #[test]
    fn where_room_is_lost_looks_follow_one_another_fast() {
        let gates: [Gate; 2] = Default::default();
        let of = |number: u32| if number == COMMON_GATE { &gates[0] } else { &gates[1] };
        let mut looks = Looks::new();
        let mut look = |now: Nanos, passed: u64, taken: u64| {
            pass(&gates[0], passed);
            looks.looked(Some(0), taken, true);
            looks.settle(now, of);
            looks.pause_ns(now)
        };
        assert_eq!(look(0, 0, 0), IDLE_NS);
        assert_eq!(look(1, 200, 200), IDLE_NS, "all of it arrives");
        assert_eq!(look(2, 100, 0), IDLE_NS, "somebody lost something");
        assert_eq!(look(3, 5000, 10), WARY_NS);
        assert_eq!(look(4, 0, 0), WARY_NS);
        assert_eq!(look(3 + WARY_FOR_NS, 0, 0), IDLE_NS);
    }
}
