//! Out: frames from `netft0` to peers.

use super::carrier::Ways;
use super::counters::Loss;
use super::incoming::put;
use super::sizes::longest_datagram;
use super::worker::Worker;
use crate::engine::xsk::port::{BATCH, Full};
use crate::sys::{self, socket};
use netft_common::map::MAX_NODES;
use netft_common::wire::ENCAPSULATION_BYTES;
use netft_core::data::{FrameDestination, HEADROOM};
use netft_core::offload::{Cut, MAX_PACKET, Packet, VirtioHeader};
use netft_core::too_big;
use netft_core::types::{NodeId, Slot};
use std::io::Read as _;
use std::sync::atomic::Ordering;

/// A packet as it is read from `netft0`.
pub(super) const READ: usize = HEADER + MAX_PACKET;
const HEADER: usize = size_of::<VirtioHeader>();
/// Frames that are sent between two looks at what arrives.
const TURN: usize = 256;

/// What was read from `netft0` in one call: a header that says how to divide it, and a packet.
#[derive(Clone, Copy)]
pub(super) struct Read<'a> {
    pub(super) bytes: &'a [u8],
}

impl<'a> Read<'a> {
    /// The packet; empty if there is none.
    pub(super) fn packet(self) -> &'a [u8] {
        self.bytes.get(HEADER..).unwrap_or_default()
    }

    /// Divided into frames; `None` if it can't be.
    pub(super) fn cut(self) -> Option<Cut<'a>> {
        let header = self.bytes.first_chunk::<HEADER>()?;
        Cut::new(&bytemuck::pod_read_unaligned::<VirtioHeader>(header), self.packet()).ok()
    }
}

impl Worker {
    /// Takes packets from `netft0` until there are none or it is the other direction's turn, and sends their frames.
    pub(super) fn carry_out_frames(&mut self, buffer: &mut [u8]) {
        let mut frames = 0;
        for _ in 0..socket::BATCH {
            // Nothing left; or the adapter is down (EIO), which poll reports as readable as well.
            let Ok(length) = (&*self.tap).read(buffer) else { break };
            if self.is_recovery_due() {
                self.recover();
            }
            let read = Read { bytes: &buffer[..length] };
            let Some(cut) = read.cut() else {
                self.status.lose(Loss::Indivisible, 1);
                continue;
            };
            match self.frames.destination(read.packet()) {
                FrameDestination::Peer(peer) => match self.ways(peer, read.packet()) {
                    Some(ways) => self.send(ways, peer, read, &cut),
                    None => self.status.lose(Loss::NoRoute, cut.len()),
                },
                FrameDestination::AllPeers => {
                    for id in 1..MAX_NODES {
                        if let Some(peer) = u16::try_from(id).ok().and_then(NodeId::new)
                            && let Some(ways) = self.ways(peer, read.packet())
                        {
                            self.send(ways, peer, read, &cut);
                        }
                    }
                }
                FrameDestination::Unknown => self.status.lose(Loss::UnknownDestination, cut.len()),
            }
            frames += cut.len();
            if frames >= TURN {
                break;
            }
        }
        self.send_runs();
    }

    /// Sends a packet's frames, which are of one flow, and keeps them if they may get lost with their route.
    fn send(&mut self, ways: Ways, peer: NodeId, read: Read<'_>, cut: &Cut<'_>) {
        let Ok(sequence) = self.plane.number(peer, cut.len()) else {
            self.status.lose(Loss::NoRoute, cut.len());
            return;
        };
        self.send_over(ways.first, cut, sequence);
        match ways.second {
            Some(second) => {
                self.send_over(second, cut, sequence);
                self.status.duplicated.fetch_add(cut.len() as u64, Ordering::Relaxed);
            }
            // Whatever becomes of it from here on: a dying interface refuses frames as well.
            None => self.keep(ways.first, peer, sequence, read.bytes),
        }
    }

    /// Seals each of a packet's frames, which have the sequences from `sequence` on: into a run, or into an AF_XDP socket.
    pub(super) fn send_over(&mut self, slot: Slot, cut: &Cut<'_>, sequence: u64) {
        let Some(route) = &self.routes[slot.index()] else {
            self.status.lose(Loss::NoRoute, cut.len());
            return;
        };
        // The first frame is as long as any.
        let length = HEADROOM + cut.frame_len(0);
        if length > longest_datagram(route, route.carried).min(super::BUFFER) {
            let fits = route.carried.saturating_sub(ENCAPSULATION_BYTES);
            self.status.lose(Loss::TooLong, cut.len());
            self.complain(cut.packet(), fits);
            return;
        }
        let fits =
            |capacity| route.headers.as_ref().is_some_and(|headers| headers.len() + length <= capacity);
        let by_xdp = self.bypass.outgoing(route.interface).is_some_and(|port| fits(port.rings().capacity()));
        for (index, sequence) in (0..cut.len()).zip(sequence..) {
            match by_xdp {
                true => self.enqueue_bypass(slot, cut, index, sequence),
                false => self.enqueue_run(slot, cut, index, sequence),
            }
        }
    }

    /// Tells the sender of a packet how large it may be, as a router would that can't pass it on.
    fn complain(&mut self, packet: &[u8], fits: u16) {
        let mut answer = [0; too_big::LONGEST];
        if let Some(length) = too_big::answer(packet, fits, &mut answer)
            && self.complaints.take(sys::boottime())
        {
            let header = VirtioHeader::default();
            put(&self.tap, &self.status, Packet { header, bytes: &answer[..length], frames: 0 });
        }
    }

    fn enqueue_run(&mut self, slot: Slot, cut: &Cut<'_>, index: usize, sequence: u64) {
        let length = HEADROOM + cut.frame_len(index);
        if self.runs.room(length).is_none() {
            self.send_runs();
        }
        let Self { runs, routes, plane, status, .. } = self;
        let (Some(route), Some(datagram)) = (&routes[slot.index()], runs.room(length)) else { return };
        cut.write(index, &mut datagram[HEADROOM..]);
        match plane.seal_numbered(route.peer, &route.data, sequence, cut.checksum(), datagram) {
            Ok(()) => runs.add(slot, length),
            Err(_) => status.lose(Loss::NoRoute, 1),
        }
    }

    /// Into an AF_XDP socket's memory, where it is cut and sealed.
    fn enqueue_bypass(&mut self, slot: Slot, cut: &Cut<'_>, index: usize, sequence: u64) {
        let Self { shared, status, routes, bypass, plane, .. } = self;
        let Some(route) = &routes[slot.index()] else { return };
        let (Some(headers), Some(port)) = (&route.headers, bypass.outgoing(route.interface)) else { return };
        let length = cut.frame_len(index);
        let mut sealed = true;
        let mut write = |buffer: &mut [u8]| {
            let start = headers.len();
            let packet = buffer.get_mut(..start + HEADROOM + length)?;
            cut.write(index, &mut packet[start + HEADROOM..]);
            let datagram = &mut packet[start..];
            sealed = plane.seal_numbered(route.peer, &route.data, sequence, cut.checksum(), datagram).is_ok();
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
                status.bytes_sent.fetch_add(length as u64, Ordering::Relaxed);
            }
            Ok(()) => status.lose(Loss::NoRoute, 1),
            Err(Full) => status.lose(Loss::BufferFull, 1),
        }
        if port.queued() >= BATCH {
            port.flush();
        }
    }

    /// Sends what waits for the kernel's sockets.
    pub(super) fn send_runs(&mut self) {
        if !self.runs.is_empty() {
            // Before anything leaves: a restarted daemon must not use a sequence twice.
            self.persist_sequence();
            self.runs.send(&self.routes, &self.status);
        }
    }
}
