//! The data thread itself.

use super::counters::{Loss, Status};
use super::{BUFFER, Command, HelloFrame, MAX_FRAME, MAX_HELLO, Route, Setup, Socket};
use crate::engine::maps::SharedMaps;
use crate::sys;
use crate::sys::socket::{BATCH, Batch, send_batch};
use netft_common::map::{ActiveRoute, MAX_NODES, MAX_SLOTS};
use netft_common::wire::{self, Header};
use netft_core::bucket::Bucket;
use netft_core::data::{DataPlane, DataReject, FrameDestination, FrameTable, HEADROOM};
use netft_core::types::{NodeId, Slot, address_bytes};
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

/// Everything that the thread owns.
pub(super) struct Worker {
    tap: Arc<File>,
    maps: Arc<SharedMaps>,
    plane: DataPlane,
    frames: FrameTable,
    routes: Box<[Option<Route>]>,
    sockets: Vec<Socket>,
    commands: Consumer<Command>,
    hellos: Producer<HelloFrame>,
    status: Arc<Status>,
    wake: Arc<OwnedFd>,
    control: Arc<OwnedFd>,
    outgoing: Outgoing,
    incoming: Batch,
    /// Hellos from addresses of peers that may be handed on.
    known_hellos: Bucket,
    /// Hellos from others.
    strange_hellos: Bucket,
}

impl Worker {
    /// Allocates all that it will ever need.
    pub(super) fn new(
        setup: Setup,
        status: Arc<Status>,
        wake: Arc<OwnedFd>,
        commands: Consumer<Command>,
        hellos: Producer<HelloFrame>,
    ) -> Self {
        Self {
            tap: setup.tap,
            maps: setup.maps,
            plane: setup.plane,
            frames: FrameTable::default(),
            routes: (0..MAX_SLOTS).map(|_| None).collect(),
            sockets: Vec::new(),
            commands,
            hellos,
            status,
            wake,
            control: setup.control,
            outgoing: Outgoing::new(),
            incoming: Batch::new(BUFFER),
            known_hellos: Bucket::new(sys::boottime(), 1024, 500_000),
            strange_hellos: Bucket::new(sys::boottime(), 256, 5_000_000),
        }
    }

    /// Until it is asked to stop.
    pub(super) fn run(mut self) {
        let mut fds = Vec::new();
        self.watch(&mut fds);
        // The frame that is being read; one more buffer than the batch has, so that a full batch can go first.
        let mut frame = vec![0u8; MAX_FRAME].into_boxed_slice();
        while !self.status.stop.load(Ordering::Acquire) {
            if sys::poll(&mut fds, None).is_err() {
                // Only a closed descriptor does that; they are all held open here.
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
            if fds[0].revents != 0 {
                sys::clear(self.wake.as_fd());
                if self.take_commands() {
                    self.watch(&mut fds);
                    continue;
                }
            }
            if fds[1].revents & libc::POLLERR != 0 {
                // Somebody removed the device. The control thread makes a new one; until then there is no use polling.
                fds[1].fd = -1;
                self.status.adapter_lost.store(true, Ordering::Release);
                sys::wake(self.control.as_fd());
            } else if fds[1].revents != 0 {
                self.carry_out_frames(&mut frame);
            }
            for (index, fd) in fds[2..].iter().enumerate() {
                if fd.revents != 0 {
                    self.carry_in_datagrams(index);
                }
            }
        }
    }

    fn watch(&self, fds: &mut Vec<sys::PollFd>) {
        fds.clear();
        fds.push(sys::poll_in(self.wake.as_fd()));
        fds.push(sys::poll_in(self.tap.as_fd()));
        fds.extend(self.sockets.iter().map(|socket| sys::poll_in(socket.socket.as_fd())));
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
                Command::SetRoute(slot, route) => self.routes[slot.index()] = Some(route),
                Command::RemoveRoute(slot) => self.remove_route(slot),
                Command::SetKeys(peer, keys) => self.plane.set_peer(peer, keys),
                Command::SetPeer(peer, mac) => self.frames.set(peer, mac),
                Command::RemovePeer(peer) => self.frames.remove(peer),
                Command::SetAdapter(tap) => {
                    self.tap = tap;
                    changed = true;
                }
            }
        }
        changed
    }

    fn remove_route(&mut self, slot: Slot) {
        if let Some(route) = self.routes[slot.index()].take()
            && !self.routes.iter().flatten().any(|other| other.peer == route.peer)
        {
            self.plane.remove_peer(route.peer);
        }
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
                            && self.route(peer).is_some()
                        {
                            self.enqueue(peer, frame);
                        }
                    }
                }
                FrameDestination::Unknown => self.status.lose(Loss::UnknownDestination, 1),
            }
        }
        self.flush();
    }

    fn active_word(&self, peer: NodeId) -> u64 {
        self.maps.active.get(usize::from(peer.get())).load(Ordering::Acquire)
    }

    /// The route that a frame to `peer` takes now: the active one, or the backup if the active one's interface is dead.
    fn route(&self, peer: NodeId) -> Option<(Slot, &Route)> {
        let word = self.active_word(peer);
        // Generation 0 = never set.
        if word == 0 {
            return None;
        }
        let active = ActiveRoute::from_word(word);
        let dead = self.maps.engine_state().dead_interfaces.load(Ordering::Acquire);
        let find = |index: u16| {
            let slot = Slot::new(u32::from(index)).filter(|_| index != ActiveRoute::NONE)?;
            self.routes[slot.index()].as_ref().filter(|route| route.peer == peer).map(|route| (slot, route))
        };
        let alive = |route: &Route| dead >> route.interface.get() & 1 == 0;
        match find(active.slot) {
            Some(found) if alive(found.1) => Some(found),
            _ => find(active.backup).filter(|found| alive(found.1)),
        }
    }

    /// Seals `frame` for `peer` into the batch.
    fn enqueue(&mut self, peer: NodeId, frame: &[u8]) {
        if self.outgoing.is_full() {
            self.flush();
        }
        let Some((slot, data)) = self.route(peer).map(|(slot, route)| (slot, route.data)) else {
            self.status.lose(Loss::NoRoute, 1);
            return;
        };
        let length = HEADROOM + frame.len();
        let buffer = &mut self.outgoing.buffers[self.outgoing.entries.len()][..length];
        buffer[HEADROOM..].copy_from_slice(frame);
        match self.plane.seal(peer, &data, buffer) {
            Ok(()) => self.outgoing.entries.push((slot, length)),
            Err(_) => self.status.lose(Loss::NoRoute, 1),
        }
    }

    /// Sends the batch: one call for each run of datagrams over the same route.
    fn flush(&mut self) {
        if self.outgoing.entries.is_empty() {
            return;
        }
        // Before anything leaves: a restarted daemon must not use a sequence twice.
        self.maps.engine_state().persistent[0].store(self.plane.high_water(), Ordering::Release);
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
            self.status.frames_sent.fetch_add(sent as u64, Ordering::Relaxed);
            self.status.bytes_sent.fetch_add(bytes as u64, Ordering::Relaxed);
            next += sent;
            if sent == 0 {
                // The first one was refused: it is dropped, the others are tried.
                self.status.lose(error.map_or(Loss::Unreachable, |error| refusal(&error)), 1);
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
        for index in 0..received {
            let (remote, port, bytes) = self.incoming.datagram(index);
            if port != wire::PORT {
                self.status.reject(DataReject::Source);
                continue;
            }
            let header = bytes.get(..size_of::<Header>()).map(bytemuck::pod_read_unaligned::<Header>);
            if header.is_some_and(|header| (header.magic, header.kind) == (wire::MAGIC, wire::kind::HELLO)) {
                // Anybody can send these. Strangers must neither keep the control thread busy nor use up what peers need.
                let remote_bytes = address_bytes(remote);
                let known = self.routes.iter().flatten().any(|route| route.data.remote == remote_bytes);
                let allowance = if known { &mut self.known_hellos } else { &mut self.strange_hellos };
                if !allowance.take(sys::boottime()) {
                    self.status.lose(Loss::HelloTooMany, 1);
                    continue;
                }
                match hello(local, remote, bytes).map(|hello| self.hellos.push(hello).is_ok()) {
                    Some(true) => hellos += 1,
                    Some(false) => self.status.lose(Loss::HelloQueueFull, 1),
                    None => self.status.lose(Loss::HelloTooLong, 1),
                }
                continue;
            }
            match self.plane.open(address_bytes(local), address_bytes(remote), bytes) {
                Ok((_, frame)) => match (&*self.tap).write(frame) {
                    Ok(length) => {
                        self.status.frames_received.fetch_add(1, Ordering::Relaxed);
                        self.status.bytes_received.fetch_add(length as u64, Ordering::Relaxed);
                    }
                    Err(_) => self.status.lose(Loss::AdapterRefused, 1),
                },
                Err(reject) => self.status.reject(reject),
            }
        }
        if hellos > 0 {
            sys::wake(self.control.as_fd());
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
