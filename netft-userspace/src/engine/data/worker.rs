//! A data thread itself.

use super::bypass::{self, Bypass, Solicitation};
use super::carrier::Carrier;
use super::counters::Status;
use super::gates::{self, Looks};
use super::incoming::{Arrived, Taken};
use super::outgoing::READ;
use super::prover::By;
use super::runs::Runs;
use super::sizes::Sizes;
use super::{Command, HelloFrame, Route, Shared, Socket};
use crate::sys;
use crate::sys::socket::{BATCH, Batch, MAX_MESSAGE, Neighbour, send_to};
use netft_common::map::MAX_SLOTS;
use netft_core::bucket::Bucket;
use netft_core::data::{DataPlane, FrameTable, Probe};
use netft_core::offload::Merger;
use netft_core::types::{InterfaceNumber, Nanos, address_bytes};
use rtrb::{Consumer, Producer};
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Where descriptors stand among those polled: the request to look at commands, the thread's queue of the adapter, UDP
/// sockets, then AF_XDP sockets.
const WAKE: usize = 0;
const TAP: usize = 1;
const SOCKETS: usize = 2;

/// Everything that the thread owns.
pub(super) struct Worker {
    pub(super) tap: Arc<File>,
    pub(super) plane: DataPlane,
    pub(super) shared: Shared,
    pub(super) status: Arc<Status>,
    pub(super) frames: FrameTable,
    pub(super) routes: Box<[Option<Route>]>,
    pub(super) bypass: Bypass,
    pub(super) runs: Runs,
    pub(super) carrier: Carrier,
    /// Answers to packets that are too large.
    pub(super) complaints: Bucket,
    pub(super) merger: Merger,
    /// Probes that arrived in the batch that is being looked at.
    pub(super) probes: Vec<Arrived>,
    /// What only the leader has.
    pub(super) leader: Option<Leader>,
    commands: Consumer<Command>,
    wake: Arc<OwnedFd>,
}

/// A socket, and the gate through which messages on routes reach it; `None` = there is no route.
pub(super) struct Listening {
    pub(super) socket: Socket,
    gate: Option<u32>,
}

/// The UDP sockets, and what comes by them alone.
pub(super) struct Leader {
    pub(super) sockets: Vec<Listening>,
    pub(super) incoming: Batch,
    looks: Looks,
    pub(super) hellos: Producer<HelloFrame>,
    /// Hellos from addresses of peers that may be handed on.
    pub(super) known_hellos: Bucket,
    /// Hellos from others.
    pub(super) strange_hellos: Bucket,
    pub(super) sizes: Sizes,
}

impl Leader {
    /// Hands hellos on to `hellos`.
    pub(super) fn new(hellos: Producer<HelloFrame>) -> Self {
        Self {
            sockets: Vec::new(),
            incoming: Batch::new(MAX_MESSAGE),
            looks: Looks::new(),
            hellos,
            known_hellos: Bucket::new(sys::boottime(), 1024, 500_000),
            strange_hellos: Bucket::new(sys::boottime(), 256, 5_000_000),
            sizes: Sizes::new(),
        }
    }
}

/// What a thread is made from.
pub(super) struct Setup {
    pub(super) tap: Arc<File>,
    pub(super) plane: DataPlane,
    pub(super) shared: Shared,
    pub(super) status: Arc<Status>,
    pub(super) wake: Arc<OwnedFd>,
    pub(super) commands: Consumer<Command>,
    /// Memory for frames that may have to be sent again.
    pub(super) keep_bytes: usize,
    pub(super) leader: Option<Leader>,
}

impl Worker {
    /// Allocates all that it will ever need.
    pub(super) fn new(setup: Setup) -> Self {
        let Setup { tap, plane, shared, status, wake, commands, keep_bytes, leader } = setup;
        Self {
            tap,
            plane,
            bypass: Bypass::new(Arc::clone(&shared.maps), Arc::clone(&shared.board)),
            merger: Merger::new(shared.datagrams),
            shared,
            status,
            frames: FrameTable::default(),
            routes: (0..MAX_SLOTS).map(|_| None).collect(),
            runs: Runs::new(),
            carrier: Carrier::new(keep_bytes),
            complaints: Bucket::new(sys::boottime(), 32, 10_000_000),
            probes: Vec::with_capacity(crate::engine::xsk::port::BATCH.max(BATCH)),
            leader,
            commands,
            wake,
        }
    }

    /// Until it is asked to stop.
    pub(super) fn run(mut self) {
        let mut fds = Vec::new();
        self.watch(&mut fds);
        // The packet that is being read.
        let mut packet = vec![0u8; READ].into_boxed_slice();
        while !self.shared.board.stop.load(Ordering::Acquire) {
            let now = sys::boottime();
            let mut timeout_ns = self.bypass.due_ns(now).map(|due_ns| due_ns.saturating_sub(now));
            if let Some(leader) = &self.leader {
                let measure_ns = leader.sizes.due_ns().saturating_sub(now);
                let pause_ns = leader.looks.pause_ns(now).min(measure_ns);
                timeout_ns = Some(timeout_ns.unwrap_or(pause_ns).min(pause_ns));
            }
            if sys::poll(&mut fds, timeout_ns).is_err() {
                // Only a closed descriptor does that; they are all held open here.
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
            let mut changed = false;
            if fds[WAKE].revents != 0 {
                sys::clear(self.wake.as_fd());
                changed = self.take_commands();
                if let Some(leader) = &mut self.leader {
                    leader.sizes.look_now();
                }
            }
            // The detection thread wakes us when a route comes or goes.
            self.recover();
            let now = sys::boottime();
            changed |= self.bypass.close_due(now);
            if changed {
                self.watch(&mut fds);
                continue;
            }
            if fds[TAP].revents & libc::POLLERR != 0 {
                // Somebody removed the device. The control thread makes a new one; until then there is no use polling.
                fds[TAP].fd = -1;
                self.shared.board.adapter_lost.store(true, Ordering::Release);
                sys::wake(self.shared.control.as_fd());
            } else if fds[TAP].revents != 0 {
                self.carry_out_frames(&mut packet);
            }
            let (sockets, ports) = fds[SOCKETS..].split_at(self.sockets().len());
            for (index, fd) in sockets.iter().enumerate() {
                let taken = if fd.revents != 0 { self.carry_in_datagrams(index) } else { Taken::default() };
                if let Some(leader) = &mut self.leader {
                    let gate = leader.sockets.get(index).and_then(|listening| listening.gate);
                    leader.looks.looked(gate, taken.datagrams, taken.messages < BATCH);
                }
            }
            if let Some(leader) = &mut self.leader {
                leader.looks.end(now, &self.shared.maps);
            }
            for (index, fd) in ports.iter().enumerate() {
                if fd.revents != 0 {
                    self.carry_in_frames(index);
                }
            }
            self.bypass.count_losses(now, &self.status);
            self.prove(now);
            self.measure(now);
            self.bypass.flush();
            self.stamp_kept();
        }
    }

    fn sockets(&self) -> &[Listening] {
        self.leader.as_ref().map_or(&[], |leader| &leader.sockets)
    }

    fn watch(&self, fds: &mut Vec<sys::PollFd>) {
        fds.clear();
        fds.push(sys::poll_in(self.wake.as_fd()));
        fds.push(sys::poll_in(self.tap.as_fd()));
        fds.extend(self.sockets().iter().map(|listening| sys::poll_in(listening.socket.socket.as_fd())));
        fds.extend(self.bypass.poll_fds());
    }

    /// Whether there are other descriptors to watch.
    fn take_commands(&mut self) -> bool {
        let mut changed = false;
        while let Ok(command) = self.commands.pop() {
            match command {
                Command::AddSocket(socket) => {
                    if let Some(leader) = &mut self.leader {
                        leader.sockets.retain(|old| old.socket.local != socket.local);
                        // Routes come after their sockets, also again.
                        leader.sockets.push(Listening { socket, gate: None });
                        changed = true;
                    }
                }
                Command::RemoveSocket(local) => {
                    if let Some(leader) = &mut self.leader {
                        leader.sockets.retain(|old| old.socket.local != local);
                        changed = true;
                    }
                }
                Command::SetRoute(slot, route) => {
                    let sockets = self.leader.iter_mut().flat_map(|leader| &mut leader.sockets);
                    for listening in sockets {
                        let local = listening.socket.local;
                        if address_bytes(local) == route.data.local {
                            listening.gate = Some(gates::gate(route.interface, local));
                        }
                    }
                    let leads = |old: &Route| (old.peer, old.data.local, old.data.remote);
                    if self.routes[slot.index()].as_ref().is_some_and(|old| leads(old) != leads(&route)) {
                        self.recover_removed(slot);
                    }
                    self.runs.forget(slot);
                    self.plane.set_way(slot, route.peer, &route.data);
                    if let Some(leader) = &mut self.leader {
                        leader.sizes.set_route(sys::boottime(), slot, route.largest);
                    }
                    self.carrier.set_route(slot, &route);
                    self.routes[slot.index()] = Some(*route);
                }
                Command::RemoveRoute(slot) => self.recover_removed(slot),
                Command::SetSession(peer, session) => self.plane.share(peer, session),
                Command::SetPeer(peer, mac) => self.frames.set(peer, mac),
                Command::RemovePeer(peer) => self.frames.remove(peer),
                Command::SetAdapter(tap) => {
                    self.tap = tap;
                    changed = true;
                }
                Command::AddPort(..) | Command::RemovePorts(_) | Command::Prove(..) => {
                    self.bypass.take_command(sys::boottime(), command);
                    changed = true;
                }
            }
        }
        changed
    }

    /// The leader: is what was proven still true? Asks peers for proof.
    fn prove(&mut self, now: Nanos) {
        let Self { bypass, shared, plane, routes, .. } = self;
        let maps = &shared.maps;
        let witness = |interface: InterfaceNumber, number: u64| {
            let found = routes.iter().enumerate().filter_map(|(slot, route)| Some((slot, route.as_ref()?)));
            let fit = |(slot, route): &(usize, &Route)| {
                route.interface == interface && bypass::would_answer(maps, *slot, route, now)
            };
            // Peers take turns.
            let count = found.clone().filter(fit).count() as u64;
            let turn = usize::try_from(number.checked_rem(count)?).ok()?;
            found.filter(fit).nth(turn).map(|(_, route)| route)
        };
        let solicit = |bypass: &mut Bypass, asked: Solicitation| {
            let Some(route) = witness(asked.interface, asked.number >> 2) else {
                return;
            };
            let Ok(datagram) = plane.probe(route.peer, &route.data, Probe::Solicit(asked.number)) else {
                return;
            };
            maps.engine_state().persistent[0].fetch_max(plane.high_water(), Ordering::Release);
            match (asked.by, &route.headers, bypass.any(asked.interface)) {
                (By::Kernel, ..) => {
                    let _ = send_to(route.socket.as_fd(), &datagram, &route.remote, Neighbour::Unknown);
                }
                (By::Bypass, Some(headers), Some(port)) => {
                    // If there is no room, no answer will come, and that is what is to be known.
                    let _ = port.send(|buffer| {
                        let packet = buffer.get_mut(..headers.len() + datagram.len())?;
                        packet[headers.len()..].copy_from_slice(&datagram);
                        headers.write(packet)?;
                        Some(packet.len())
                    });
                    port.flush();
                }
                // Whatever else went out would prove nothing.
                (By::Bypass, ..) => {}
            }
        };
        if bypass.prove(now, |interface| witness(interface, 0).is_some(), solicit) {
            sys::wake(shared.control.as_fd());
        }
    }

    /// Before anything leaves: a restarted daemon must not use a sequence twice.
    pub(super) fn persist_sequence(&self) {
        self.shared.maps.engine_state().persistent[0].fetch_max(self.plane.high_water(), Ordering::Release);
    }
}
