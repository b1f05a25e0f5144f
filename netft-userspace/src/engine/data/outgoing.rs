//! Out: frames from `netft0` to peers.

use super::Route;
use super::counters::Loss;
use super::worker::Worker;
use crate::engine::maps::SharedMaps;
use crate::engine::xsk::port::{BATCH, Full};
use crate::sys::socket;
use netft_common::map::{ActiveRoute, MAX_NODES};
use netft_core::data::{FrameDestination, HEADROOM};
use netft_core::offload::{Cut, MAX_PACKET, VirtioHeader};
use netft_core::types::{NodeId, Slot};
use std::io::Read;
use std::sync::atomic::Ordering;

/// A packet as it is read from `netft0`.
pub(super) const READ: usize = HEADER + MAX_PACKET;
const HEADER: usize = size_of::<VirtioHeader>();
/// Frames that are sent between two looks at what arrives.
const TURN: usize = 256;

impl Worker {
    /// Takes packets from `netft0` until there are none or it is the other direction's turn, and sends their frames.
    pub(super) fn carry_out_frames(&mut self, buffer: &mut [u8]) {
        let mut frames = 0;
        for _ in 0..socket::BATCH {
            // Nothing left; or the adapter is down (EIO), which poll reports as readable as well.
            let Ok(length) = (&*self.tap).read(buffer) else { break };
            let Some((header, packet)) = buffer[..length].split_first_chunk::<HEADER>() else { continue };
            let Ok(cut) = Cut::new(&bytemuck::pod_read_unaligned::<VirtioHeader>(header), packet) else {
                self.status.lose(Loss::Indivisible, 1);
                continue;
            };
            match self.frames.destination(packet) {
                FrameDestination::Peer(peer) => self.enqueue(peer, &cut),
                FrameDestination::AllPeers => {
                    for id in 1..MAX_NODES {
                        if let Some(peer) = u16::try_from(id).ok().and_then(NodeId::new)
                            && route_to(&self.shared.maps, &self.routes, peer).is_some()
                        {
                            self.enqueue(peer, &cut);
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

    /// Finds the route for a packet's frames, which are of one flow, and seals each: into a run, or into an AF_XDP
    /// socket.
    fn enqueue(&mut self, peer: NodeId, cut: &Cut<'_>) {
        let Some((slot, route)) = route_to(&self.shared.maps, &self.routes, peer) else {
            self.status.lose(Loss::NoRoute, cut.len());
            return;
        };
        // The first frame is as long as any.
        let length = HEADROOM + cut.frame_len(0);
        if length > super::BUFFER {
            self.status.lose(Loss::TooLong, cut.len());
            return;
        }
        let fits =
            |capacity| route.headers.as_ref().is_some_and(|headers| headers.len() + length <= capacity);
        let by_xdp = self.bypass.outgoing(route.interface).is_some_and(|port| fits(port.rings().capacity()));
        for index in 0..cut.len() {
            match by_xdp {
                true => self.enqueue_bypass(slot, cut, index),
                false => self.enqueue_run(slot, cut, index),
            }
        }
    }

    fn enqueue_run(&mut self, slot: Slot, cut: &Cut<'_>, index: usize) {
        let length = HEADROOM + cut.frame_len(index);
        if self.runs.room(length).is_none() {
            self.send_runs();
        }
        let Self { runs, routes, plane, status, .. } = self;
        let (Some(route), Some(datagram)) = (&routes[slot.index()], runs.room(length)) else { return };
        cut.write(index, &mut datagram[HEADROOM..]);
        match plane.seal(route.peer, &route.data, cut.checksum(), datagram) {
            Ok(()) => runs.add(slot, length),
            Err(_) => status.lose(Loss::NoRoute, 1),
        }
    }

    /// Into an AF_XDP socket's memory, where it is cut and sealed.
    fn enqueue_bypass(&mut self, slot: Slot, cut: &Cut<'_>, index: usize) {
        let Self { shared, status, routes, bypass, plane, .. } = self;
        let Some(route) = &routes[slot.index()] else { return };
        let (Some(headers), Some(port)) = (&route.headers, bypass.outgoing(route.interface)) else { return };
        let length = cut.frame_len(index);
        let mut sealed = true;
        let mut write = |buffer: &mut [u8]| {
            let start = headers.len();
            let packet = buffer.get_mut(..start + HEADROOM + length)?;
            cut.write(index, &mut packet[start + HEADROOM..]);
            sealed = plane.seal(route.peer, &route.data, cut.checksum(), &mut packet[start..]).is_ok();
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
    fn send_runs(&mut self) {
        if !self.runs.is_empty() {
            // Before anything leaves: a restarted daemon must not use a sequence twice.
            self.persist_sequence();
            self.runs.send(&self.routes, &self.status);
        }
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
