//! Out: frames from `netft0` to peers.

use super::counters::Loss;
use super::worker::Worker;
use super::{BUFFER, Route};
use crate::engine::maps::SharedMaps;
use crate::engine::xsk::port::Full;
use crate::sys::socket::{BATCH, send_batch};
use netft_common::map::{ActiveRoute, MAX_NODES};
use netft_core::data::{FrameDestination, HEADROOM};
use netft_core::types::{NodeId, Slot};
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::sync::atomic::Ordering;

/// Sealed datagrams that wait for their batch.
pub(super) struct Outgoing {
    buffers: Vec<Box<[u8]>>,
    entries: Vec<(Slot, usize)>,
}

impl Outgoing {
    pub(super) fn new() -> Self {
        Self {
            buffers: (0..BATCH).map(|_| vec![0; BUFFER].into_boxed_slice()).collect(),
            entries: Vec::with_capacity(BATCH),
        }
    }

    fn is_full(&self) -> bool {
        self.entries.len() == BATCH
    }
}

impl Worker {
    /// Takes up to a batch of frames from `netft0`, and sends them.
    pub(super) fn carry_out_frames(&mut self, frame: &mut [u8]) {
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
                FrameDestination::Unknown => self.status.lose(Loss::UnknownDestination, 1),
            }
        }
        self.flush();
    }

    /// Seals `frame` for `peer`, into the batch or into an AF_XDP socket.
    fn enqueue(&mut self, peer: NodeId, frame: &[u8]) {
        let Self { shared, status, routes, bypass, plane, .. } = self;
        let Some((slot, route)) = route_to(&shared.maps, routes, peer) else {
            status.lose(Loss::NoRoute, 1);
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
                    status.frames_sent.fetch_add(1, Ordering::Relaxed);
                    status.bypass_sent.fetch_add(1, Ordering::Relaxed);
                    status.bytes_sent.fetch_add(frame.len() as u64, Ordering::Relaxed);
                }
                Ok(()) => status.lose(Loss::NoRoute, 1),
                Err(Full) => status.lose(Loss::BufferFull, 1),
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
            Err(_) => self.status.lose(Loss::NoRoute, 1),
        }
    }

    /// Sends the batch: one call for each run of datagrams over the same route.
    fn flush(&mut self) {
        let status = &self.status;
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

/// What a refused send is counted as.
fn refusal(error: &io::Error) -> Loss {
    match error.raw_os_error() {
        Some(libc::EMSGSIZE) => Loss::TooLong,
        Some(libc::EAGAIN | libc::ENOBUFS | libc::ENOMEM) => Loss::BufferFull,
        _ => Loss::Unreachable,
    }
}
