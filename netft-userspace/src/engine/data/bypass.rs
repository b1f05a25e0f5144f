//! The AF_XDP sockets of one data thread, and for the leader the proofs that they work.

use super::board::{Board, Ways};
use super::counters::{Loss, Status};
use super::prover::{By, Prover};
use super::{Command, Route};
use crate::engine::maps::SharedMaps;
use crate::engine::xsk::XskPort;
use crate::sys::PollFd;
use netft_common::map::{DataPath, Steering};
use netft_core::types::{InterfaceNumber, Nanos};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// How long a socket is emptied after XDP was told to give it nothing more: programs that run meanwhile may not have
/// heard of it, and frames may be on their way out.
const LINGER_NS: Nanos = 20_000_000;
/// Between looks at what the kernel dropped.
const COUNT_NS: Nanos = 500_000_000;
/// Between flushes of what the kernel wouldn't take.
const RETRY_NS: Nanos = 1_000_000;
/// An engine that hasn't ticked for so long won't answer probes either.
const STALE_TICK_NS: Nanos = 100_000_000;

/// One socket.
#[derive(Debug)]
pub(super) struct Owned {
    pub(super) interface: InterfaceNumber,
    pub(super) port: Box<XskPort>,
    /// Given up, and closed at this time.
    closes_ns: Option<Nanos>,
    /// Frames that the kernel dropped and buffers that went astray, as far as they are counted.
    counted: [u64; 2],
}

/// One interface that the leader watches.
#[derive(Debug)]
struct Proving {
    interface: InterfaceNumber,
    /// As it was when the proof began; only the steering changes.
    path: DataPath,
    prover: Prover,
    arrivals: u64,
}

/// All sockets of a thread.
#[derive(Debug)]
pub(super) struct Bypass {
    pub(super) ports: Vec<Owned>,
    proving: Vec<Proving>,
    /// When losses are counted next.
    counts_ns: Nanos,
    maps: Arc<SharedMaps>,
    board: Arc<Board>,
}

/// A probe to send.
#[derive(Clone, Copy, Debug)]
pub(super) struct Solicitation {
    /// Over a route of this interface.
    pub(super) interface: InterfaceNumber,
    pub(super) by: By,
    pub(super) number: u64,
}

impl Bypass {
    pub(super) fn new(maps: Arc<SharedMaps>, board: Arc<Board>) -> Self {
        Self { ports: Vec::new(), proving: Vec::new(), counts_ns: 0, maps, board }
    }

    /// Carries out a command that is about sockets.
    pub(super) fn take_command(&mut self, now: Nanos, command: Command) {
        match command {
            Command::AddPort(interface, port) => {
                self.ports.push(Owned { interface, port, closes_ns: None, counted: [0; 2] });
            }
            Command::RemovePorts(interface) => {
                if self.proving.iter().any(|proving| proving.interface == interface) {
                    self.proving.retain(|proving| proving.interface != interface);
                    self.board.line(interface).set_ways(Ways::default());
                }
                for owned in self.ports.iter_mut().filter(|owned| owned.interface == interface) {
                    owned.closes_ns.get_or_insert(now + LINGER_NS);
                }
            }
            Command::Prove(interface, path) => {
                let arrivals = self.board.line(interface).arrivals.load(Ordering::Relaxed);
                self.proving.retain(|proving| proving.interface != interface);
                self.proving.push(Proving { interface, path, prover: Prover::new(now), arrivals });
            }
            // The others are the worker's.
            _ => {}
        }
    }

    /// Closes what has lingered long enough; says whether there are fewer sockets now.
    pub(super) fn close_due(&mut self, now: Nanos) -> bool {
        let before = self.ports.len();
        self.ports.retain(|owned| owned.closes_ns.is_none_or(|closes_ns| now < closes_ns));
        self.ports.len() < before
    }

    /// Counts what the kernel dropped for want of room, and buffers that went astray, if it is time to.
    pub(super) fn count_losses(&mut self, now: Nanos, status: &Status) {
        if now < self.counts_ns {
            return;
        }
        self.counts_ns = now + COUNT_NS;
        for owned in &mut self.ports {
            let now = [owned.port.rings().dropped(), owned.port.frames().strays()];
            for (reason, (now, counted)) in
                [Loss::RingFull, Loss::StrayBuffer].into_iter().zip(now.into_iter().zip(&mut owned.counted))
            {
                let more = now.saturating_sub(std::mem::replace(counted, now));
                status.lose(reason, usize::try_from(more).unwrap_or(usize::MAX));
            }
        }
    }

    /// When to look again without anything having arrived.
    pub(super) fn due_ns(&self, now: Nanos) -> Option<Nanos> {
        let closing = self.ports.iter().filter_map(|owned| owned.closes_ns);
        let unsent = self.ports.iter().filter(|owned| owned.port.is_unsent()).map(|_| now + RETRY_NS);
        let proving = self.proving.iter().map(|proving| proving.prover.due_ns());
        let counting = self.ports.first().map(|_| self.counts_ns);
        closing.chain(unsent).chain(proving).chain(counting).min()
    }

    /// What to wait for.
    pub(super) fn poll_fds(&self) -> impl Iterator<Item = PollFd> {
        self.ports.iter().map(|owned| owned.port.rings().poll_in())
    }

    /// The socket by which a frame leaves an interface now, if one works.
    pub(super) fn outgoing(&mut self, interface: InterfaceNumber) -> Option<&mut XskPort> {
        if !self.board.line(interface).ways().transmit {
            return None;
        }
        self.any(interface)
    }

    /// The socket of an interface, proven or not.
    pub(super) fn any(&mut self, interface: InterfaceNumber) -> Option<&mut XskPort> {
        let mut open = self.ports.iter_mut().filter(|owned| owned.closes_ns.is_none());
        open.find(|owned| owned.interface == interface).map(|owned| &mut *owned.port)
    }

    /// Has everything queued sent.
    pub(super) fn flush(&mut self) {
        self.ports.iter_mut().for_each(|owned| owned.port.flush());
    }

    /// Draws conclusions from what arrived, and asks for a probe if one is due. Says whether the control thread should
    /// look at the board.
    pub(super) fn prove(
        &mut self,
        now: Nanos,
        is_reachable: impl Fn(InterfaceNumber) -> bool,
        mut solicit: impl FnMut(&mut Self, Solicitation),
    ) -> bool {
        let mut changed = false;
        for index in 0..self.proving.len() {
            let Proving { interface, path, prover, arrivals } = &mut self.proving[index];
            let (interface, path) = (*interface, *path);
            let line = self.board.line(interface);
            let seen = line.arrivals.load(Ordering::Relaxed);
            if seen != *arrivals {
                *arrivals = seen;
                prover.received();
            }
            let answer = line.answer.swap(0, Ordering::Relaxed);
            if answer != 0 {
                prover.answered(answer);
            }
            let due = prover.due_ns() <= now;
            let probe = if due { prover.poll(now, is_reachable(interface)) } else { None };
            let ways = Ways {
                receive: prover.receives(),
                transmit: prover.transmits(),
                refuted: prover.is_refuted(),
            };
            let old = line.ways();
            if ways != old {
                changed = true;
                line.set_ways(ways);
            }
            if ways.receive != old.receive {
                let (from, to) = match ways.receive {
                    true => (Steering::Probes, Steering::Everything),
                    false => (Steering::Everything, Steering::Probes),
                };
                self.steer(interface, path, from, to);
            }
            if let Some((by, number)) = probe {
                solicit(self, Solicitation { interface, by, number });
            }
        }
        if changed {
            self.board.changed.store(true, Ordering::Release);
        }
        changed
    }

    /// Unless the control thread has withdrawn these sockets meanwhile.
    fn steer(&self, interface: InterfaceNumber, path: DataPath, from: Steering, to: Steering) {
        let word = |steering| DataPath { steering, ..path }.to_word();
        let path = self.maps.paths.get(usize::from(interface.get()));
        let _ = path.compare_exchange(word(from), word(to), Ordering::Release, Ordering::Relaxed);
    }
}

/// Whether the peer at the end of a route would answer a probe that went by AF_XDP.
pub(super) fn would_answer(maps: &SharedMaps, slot: usize, route: &Route, now: Nanos) -> bool {
    route.headers.is_some() && is_awake(maps, slot, route, now)
}

/// Whether a peer would answer over a route: heartbeats complete over it, and its engine ticks.
pub(super) fn is_awake(maps: &SharedMaps, slot: usize, route: &Route, now: Nanos) -> bool {
    let state = maps.states.get(slot);
    let proof =
        state.completed_sent_ns.load(Ordering::Relaxed).max(state.confirmed_sent_ns.load(Ordering::Relaxed));
    let tick = state.peer_tick_ns.load(Ordering::Relaxed);
    now.saturating_sub(proof) < route.patience_ns
        && now.saturating_sub(tick) < STALE_TICK_NS.max(route.patience_ns)
}
