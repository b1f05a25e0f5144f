//! A data thread itself.

use super::bypass::{self, Bypass, Solicitation};
use super::counters::{Loss, Status};
use super::prover::By;
use super::{BUFFER, Command, HelloFrame, MAX_FRAME, MAX_HELLO, Route, Shared, Socket};
use crate::engine::maps::SharedMaps;
use crate::engine::xsk::headers;
use crate::engine::xsk::port::Full;
use crate::sys;
use crate::sys::socket::{BATCH, Batch, Neighbour, send_batch, send_to};
use netft_common::map::{ActiveRoute, MAX_NODES, MAX_SLOTS};
use netft_common::wire::{self, Header};
use netft_core::bucket::Bucket;
use netft_core::data::{
    DataPlane, DataReject, FrameDestination, FrameTable, HEADROOM, Message, Opened, Probe,
};
use netft_core::types::{InterfaceNumber, Nanos, NodeId, Slot, address_bytes};
use rtrb::{Consumer, Producer};
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Sealed datagrams that wait for their batch.
struct Outgoing {
    buffers: Vec<Box<[u8]>>,
    entries: Vec<(Slot, usize)>,
}

impl Outgoing {
    fn new() -> Self {
        Self {
            buffers: (0..BATCH).map(|_| vec![0; BUFFER].into_boxed_slice()).collect(),
            entries: Vec::with_capacity(BATCH),
        }
    }

    fn is_full(&self) -> bool {
        self.entries.len() == BATCH
    }
}

/// Where descriptors stand among those polled: the request to look at commands, the adapter, UDP sockets, then AF_XDP
/// sockets.
const WAKE: usize = 0;
const TAP: usize = 1;
const SOCKETS: usize = 2;

/// Everything that the thread owns.
pub(super) struct Worker {
    tap: Arc<File>,
    plane: DataPlane,
    shared: Shared,
    frames: FrameTable,
    routes: Box<[Option<Route>]>,
    sockets: Vec<Socket>,
    bypass: Bypass,
    commands: Consumer<Command>,
    hellos: Producer<HelloFrame>,
    wake: Arc<OwnedFd>,
    outgoing: Outgoing,
    incoming: Batch,
    /// Hellos from addresses of peers that may be handed on.
    known_hellos: Bucket,
    /// Hellos from others.
    strange_hellos: Bucket,
    /// Probes that arrived in the batch that is being looked at.
    probes: Vec<Arrived>,
}

/// A probe that arrived.
struct Arrived {
    local: [u8; 16],
    remote: [u8; 16],
    peer: NodeId,
    slot: Slot,
    probe: Probe,
}

impl Worker {
    /// Allocates all that it will ever need.
    pub(super) fn new(
        tap: Arc<File>,
        plane: DataPlane,
        shared: Shared,
        wake: Arc<OwnedFd>,
        commands: Consumer<Command>,
        hellos: Producer<HelloFrame>,
    ) -> Self {
        Self {
            tap,
            plane,
            bypass: Bypass::new(Arc::clone(&shared.maps), Arc::clone(&shared.board)),
            shared,
            frames: FrameTable::default(),
            routes: (0..MAX_SLOTS).map(|_| None).collect(),
            sockets: Vec::new(),
            commands,
            hellos,
            wake,
            outgoing: Outgoing::new(),
            incoming: Batch::new(BUFFER),
            known_hellos: Bucket::new(sys::boottime(), 1024, 500_000),
            strange_hellos: Bucket::new(sys::boottime(), 256, 5_000_000),
            probes: Vec::with_capacity(crate::engine::xsk::port::BATCH.max(BATCH)),
        }
    }

    /// Until it is asked to stop.
    pub(super) fn run(mut self) {
        let mut fds = Vec::new();
        self.watch(&mut fds);
        // The frame that is being read; one more buffer than the batch has, so that a full batch can go first.
        let mut frame = vec![0u8; MAX_FRAME].into_boxed_slice();
        while !self.shared.status.stop.load(Ordering::Acquire) {
            let now = sys::boottime();
            let timeout_ns = self.bypass.due_ns(now).map(|due_ns| due_ns.saturating_sub(now));
            if sys::poll(&mut fds, timeout_ns).is_err() {
                // Only a closed descriptor does that; they are all held open here.
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
            let mut changed = false;
            if fds[WAKE].revents != 0 {
                sys::clear(self.wake.as_fd());
                changed = self.take_commands();
            }
            let now = sys::boottime();
            changed |= self.bypass.close_due(now);
            if changed {
                self.watch(&mut fds);
                continue;
            }
            if fds[TAP].revents & libc::POLLERR != 0 {
                // Somebody removed the device. The control thread makes a new one; until then there is no use polling.
                fds[TAP].fd = -1;
                self.shared.status.adapter_lost.store(true, Ordering::Release);
                sys::wake(self.shared.control.as_fd());
            } else if fds[TAP].revents != 0 {
                self.carry_out_frames(&mut frame);
            }
            let (sockets, ports) = fds[SOCKETS..].split_at(self.sockets.len());
            for (index, fd) in sockets.iter().enumerate() {
                if fd.revents != 0 {
                    self.carry_in_datagrams(index);
                }
            }
            for (index, fd) in ports.iter().enumerate() {
                if fd.revents != 0 {
                    self.carry_in_frames(index);
                }
            }
            self.prove(now);
            self.bypass.flush();
        }
    }

    fn watch(&self, fds: &mut Vec<sys::PollFd>) {
        fds.clear();
        fds.push(sys::poll_in(self.wake.as_fd()));
        fds.push(sys::poll_in(self.tap.as_fd()));
        fds.extend(self.sockets.iter().map(|socket| sys::poll_in(socket.socket.as_fd())));
        fds.extend(self.bypass.poll_fds());
    }

    /// Whether there are other descriptors to watch.
    fn take_commands(&mut self) -> bool {
        let mut changed = false;
        while let Ok(command) = self.commands.pop() {
            match command {
                Command::AddSocket(socket) => {
                    self.sockets.retain(|old| old.local != socket.local);
                    self.sockets.push(socket);
                    changed = true;
                }
                Command::RemoveSocket(local) => {
                    self.sockets.retain(|old| old.local != local);
                    changed = true;
                }
                Command::SetRoute(slot, route) => self.routes[slot.index()] = Some(*route),
                Command::RemoveRoute(slot) => self.routes[slot.index()] = None,
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

    /// Takes up to a batch of frames from `netft0`, and sends them.
    fn carry_out_frames(&mut self, frame: &mut [u8]) {
        for _ in 0..BATCH {
            let length = match (&*self.tap).read(frame) {
                Ok(length) => length,
                // Nothing left; or the adapter is down (EIO), which poll reports as readable as well.
                Err(_) => break,
            };
            let frame = &frame[..length];
            match self.frames.destination(frame) {
                FrameDestination::Peer(peer) => self.enqueue(peer, frame),
                FrameDestination::AllPeers => {
                    for id in 1..MAX_NODES {
                        if let Some(peer) = u16::try_from(id).ok().and_then(NodeId::new)
                            && route_to(&self.shared.maps, &self.routes, peer).is_some()
                        {
                            self.enqueue(peer, frame);
                        }
                    }
                }
                FrameDestination::Unknown => self.shared.status.lose(Loss::UnknownDestination, 1),
            }
        }
        self.flush();
    }

    /// Seals `frame` for `peer`, into the batch or into an AF_XDP socket.
    fn enqueue(&mut self, peer: NodeId, frame: &[u8]) {
        let Self { shared, routes, bypass, plane, .. } = self;
        let Some((slot, route)) = route_to(&shared.maps, routes, peer) else {
            shared.status.lose(Loss::NoRoute, 1);
            return;
        };
        if let Some(headers) = &route.headers
            && let Some(port) = bypass.outgoing(route.interface)
            && port.rings().capacity() >= headers.len() + HEADROOM + frame.len()
        {
            let mut sealed = true;
            let mut write = |buffer: &mut [u8]| {
                let start = headers.len();
                let packet = buffer.get_mut(..start + HEADROOM + frame.len())?;
                packet[start + HEADROOM..].copy_from_slice(frame);
                sealed = plane.seal(peer, &route.data, &mut packet[start..]).is_ok();
                // Before it can leave: a restarted daemon must not use a sequence twice.
                shared.maps.engine_state().persistent[0].fetch_max(plane.high_water(), Ordering::Release);
                headers.write(packet)?;
                Some(packet.len()).filter(|_| sealed)
            };
            let mut result = port.send(&mut write);
            if result == Err(Full) {
                port.flush();
                result = port.send(&mut write);
            }
            match result {
                Ok(()) if sealed => {
                    shared.status.frames_sent.fetch_add(1, Ordering::Relaxed);
                    shared.status.bypass_sent.fetch_add(1, Ordering::Relaxed);
                    shared.status.bytes_sent.fetch_add(frame.len() as u64, Ordering::Relaxed);
                }
                Ok(()) => shared.status.lose(Loss::NoRoute, 1),
                Err(Full) => shared.status.lose(Loss::BufferFull, 1),
            }
            return;
        }
        let data = route.data;
        if self.outgoing.is_full() {
            self.flush();
        }
        let length = HEADROOM + frame.len();
        let buffer = &mut self.outgoing.buffers[self.outgoing.entries.len()][..length];
        buffer[HEADROOM..].copy_from_slice(frame);
        match self.plane.seal(peer, &data, buffer) {
            Ok(()) => self.outgoing.entries.push((slot, length)),
            Err(_) => self.shared.status.lose(Loss::NoRoute, 1),
        }
    }

    /// Sends the batch: one call for each run of datagrams over the same route.
    fn flush(&mut self) {
        let status = &self.shared.status;
        if self.outgoing.entries.is_empty() {
            return;
        }
        // Before anything leaves: a restarted daemon must not use a sequence twice.
        self.persist_sequence();
        let entries = &self.outgoing.entries;
        let mut next = 0;
        while let Some(&(slot, _)) = entries.get(next) {
            let Some(route) = &self.routes[slot.index()] else {
                next += 1;
                continue;
            };
            let run = entries[next..].iter().take_while(|entry| entry.0 == slot);
            let datagrams = run
                .zip(&self.outgoing.buffers[next..])
                .map(|((_, length), buffer)| (&buffer[..*length], &route.remote));
            let (sent, error) = send_batch(route.socket.as_fd(), datagrams);
            let bytes: usize = entries[next..next + sent].iter().map(|entry| entry.1 - HEADROOM).sum();
            status.frames_sent.fetch_add(sent as u64, Ordering::Relaxed);
            status.bytes_sent.fetch_add(bytes as u64, Ordering::Relaxed);
            next += sent;
            if sent == 0 {
                // The first one was refused: it is dropped, the others are tried.
                status.lose(error.map_or(Loss::Unreachable, |error| refusal(&error)), 1);
                next += 1;
            }
        }
        self.outgoing.entries.clear();
    }

    /// Takes up to a batch of datagrams from a socket.
    fn carry_in_datagrams(&mut self, index: usize) {
        let Some(Socket { local, socket }) = self.sockets.get(index) else {
            return;
        };
        let local = *local;
        // Errors: nothing there after all, or an ICMP error of an earlier send, which the detector knows better.
        let Ok(received) = self.incoming.receive(socket.as_fd()) else {
            return;
        };
        let mut hellos = 0;
        let status = &self.shared.status;
        for index in 0..received {
            let (remote, port, bytes) = self.incoming.datagram(index);
            if port != wire::PORT {
                status.reject(DataReject::Source);
                continue;
            }
            let header = bytes.get(..size_of::<Header>()).map(bytemuck::pod_read_unaligned::<Header>);
            if header.is_some_and(|header| (header.magic, header.kind) == (wire::MAGIC, wire::kind::HELLO)) {
                // Anybody can send these. Strangers must neither keep the control thread busy nor use up what peers need.
                let remote_bytes = address_bytes(remote);
                let known = self.routes.iter().flatten().any(|route| route.data.remote == remote_bytes);
                let allowance = if known { &mut self.known_hellos } else { &mut self.strange_hellos };
                if !allowance.take(sys::boottime()) {
                    status.lose(Loss::HelloTooMany, 1);
                    continue;
                }
                match hello(local, remote, bytes).map(|hello| self.hellos.push(hello).is_ok()) {
                    Some(true) => hellos += 1,
                    Some(false) => status.lose(Loss::HelloQueueFull, 1),
                    None => status.lose(Loss::HelloTooLong, 1),
                }
                continue;
            }
            let (local, remote) = (address_bytes(local), address_bytes(remote));
            take_in(&self.tap, &mut self.plane, status, &mut self.probes, local, remote, bytes);
        }
        if hellos > 0 {
            sys::wake(self.shared.control.as_fd());
        }
        self.answer_probes();
    }

    /// Takes up to a batch of frames from an AF_XDP socket.
    fn carry_in_frames(&mut self, index: usize) {
        let Self { bypass, shared, plane, tap, probes, .. } = self;
        let Some(owned) = bypass.ports.get_mut(index) else {
            return;
        };
        let mut authentic = 0;
        let mut frames = 0;
        owned.port.receive(|packet| {
            let Some((addresses, datagram)) = headers::open(packet, shared.cluster_id) else {
                shared.status.reject(DataReject::Malformed);
                return;
            };
            let (local, remote) = (*addresses.destination(), *addresses.source());
            match take_in(tap, plane, &shared.status, probes, local, remote, datagram) {
                Taken::Frame => (authentic, frames) = (authentic + 1, frames + 1),
                Taken::Probe => authentic += 1,
                Taken::Nothing => {}
            }
        });
        shared.status.bypass_received.fetch_add(frames, Ordering::Relaxed);
        shared.board.line(owned.interface).arrivals.fetch_add(authentic, Ordering::Relaxed);
        self.answer_probes();
    }

    /// Sends what solicited probes ask for, always by the kernel: what comes back then says something about one end only.
    fn answer_probes(&mut self) {
        while let Some(arrived) = self.probes.pop() {
            let Some(route) = &self.routes[arrived.slot.index()] else {
                continue;
            };
            let travelled = (arrived.peer, arrived.local, arrived.remote);
            if travelled != (route.peer, route.data.local, route.data.remote) {
                continue;
            }
            match arrived.probe {
                Probe::Answer(number) => {
                    self.shared.board.line(route.interface).answer.store(number, Ordering::Relaxed);
                }
                Probe::Solicit(number) => {
                    let answer = self.plane.probe(route.peer, &route.data, Probe::Answer(number));
                    self.persist_sequence();
                    if let Ok(datagram) = answer {
                        // One that is lost is asked for again.
                        let _ = send_to(route.socket.as_fd(), &datagram, &route.remote, Neighbour::Unknown);
                    }
                }
            }
        }
    }

    /// The leader: is what was proven still true? Asks peers for proof.
    fn prove(&mut self, now: Nanos) {
        if self.bypass.due_ns(now).is_some_and(|due_ns| due_ns <= now) {
            self.bypass.count_losses(&self.shared.status);
        }
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
                _ => {
                    let _ = send_to(route.socket.as_fd(), &datagram, &route.remote, Neighbour::Unknown);
                }
            }
        };
        if bypass.prove(now, |interface| witness(interface, 0).is_some(), solicit) {
            sys::wake(shared.control.as_fd());
        }
    }

    /// Before anything leaves: a restarted daemon must not use a sequence twice.
    fn persist_sequence(&self) {
        self.shared.maps.engine_state().persistent[0].fetch_max(self.plane.high_water(), Ordering::Release);
    }
}

/// The route that a frame to `peer` takes now: the active one, or the backup if the active one's interface is dead.
fn route_to<'a>(maps: &SharedMaps, routes: &'a [Option<Route>], peer: NodeId) -> Option<(Slot, &'a Route)> {
    let word = maps.active.get(usize::from(peer.get())).load(Ordering::Acquire);
    // Generation 0 = never set.
    if word == 0 {
        return None;
    }
    let active = ActiveRoute::from_word(word);
    let dead = maps.engine_state().dead_interfaces.load(Ordering::Acquire);
    let find = |index: u16| {
        let slot = Slot::new(u32::from(index)).filter(|_| index != ActiveRoute::NONE)?;
        routes[slot.index()].as_ref().filter(|route| route.peer == peer).map(|route| (slot, route))
    };
    let alive = |route: &Route| dead >> route.interface.get() & 1 == 0;
    match find(active.slot) {
        Some(found) if alive(found.1) => Some(found),
        _ => find(active.backup).filter(|found| alive(found.1)),
    }
}

/// What a datagram turned out to be.
enum Taken {
    Frame,
    Probe,
    Nothing,
}

/// Opens a datagram: a frame goes to `netft0`, a probe to those to be answered.
fn take_in(
    tap: &File,
    plane: &mut DataPlane,
    status: &Status,
    probes: &mut Vec<Arrived>,
    local: [u8; 16],
    remote: [u8; 16],
    datagram: &[u8],
) -> Taken {
    match plane.open(local, remote, datagram) {
        Ok(Opened { message: Message::Frame(frame), .. }) => {
            match (&mut &*tap).write(frame) {
                Ok(length) => {
                    status.frames_received.fetch_add(1, Ordering::Relaxed);
                    status.bytes_received.fetch_add(length as u64, Ordering::Relaxed);
                }
                Err(_) => status.lose(Loss::AdapterRefused, 1),
            }
            Taken::Frame
        }
        Ok(Opened { message: Message::Probe(probe), peer, slot }) => {
            if let Some(slot) = slot.filter(|_| probes.len() < probes.capacity()) {
                probes.push(Arrived { local, remote, peer, slot, probe });
            }
            Taken::Probe
        }
        Err(reject) => {
            status.reject(reject);
            Taken::Nothing
        }
    }
}

fn hello(local: IpAddr, remote: IpAddr, payload: &[u8]) -> Option<HelloFrame> {
    let mut hello = HelloFrame { local, remote, length: payload.len(), bytes: [0; MAX_HELLO] };
    hello.bytes.get_mut(..payload.len())?.copy_from_slice(payload);
    Some(hello)
}

/// What a refused send is counted as.
fn refusal(error: &io::Error) -> Loss {
    match error.raw_os_error() {
        Some(libc::EMSGSIZE) => Loss::TooLong,
        Some(libc::EAGAIN | libc::ENOBUFS | libc::ENOMEM) => Loss::BufferFull,
        _ => Loss::Unreachable,
    }
}
