//! In: what peers send to `netft0`, probes, and hellos and handshake steps on their way to the control thread.

use super::counters::{Loss, Status};
use super::worker::{Listening, Worker};
use super::{HelloFrame, MAX_HELLO, Socket, sizes};
use crate::engine::xsk::headers;
use crate::sys;
use crate::sys::socket::{Neighbour, send_to};
use netft_common::wire::{self, Header};
use netft_core::data::{DataPlane, DataReject, Message, Opened, Outer, Probe};
use netft_core::offload::{Merger, Packet};
use netft_core::types::{NodeId, Slot, address_bytes};
use std::fs::File;
use std::io::{IoSlice, Write};
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::sync::atomic::Ordering;

/// A probe that arrived.
pub(super) struct Arrived {
    local: [u8; 16],
    remote: [u8; 16],
    peer: NodeId,
    slot: Slot,
    probe: Probe,
}

/// What was taken from a socket.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Taken {
    /// Messages, each of one datagram or several.
    pub(super) messages: usize,
    /// Datagrams.
    pub(super) datagrams: u64,
}

impl Worker {
    /// Takes up to a batch of messages from a socket.
    pub(super) fn carry_in_datagrams(&mut self, index: usize) -> Taken {
        let Self { leader, routes, shared, status, plane, tap, probes, merger, .. } = self;
        let Some(leader) = leader else {
            return Taken::default();
        };
        let Some(Listening { socket: Socket { local, socket }, .. }) = leader.sockets.get(index) else {
            return Taken::default();
        };
        let local = *local;
        // Errors: nothing there after all, or an ICMP error of an earlier send, which the detector knows better.
        let Ok(messages) = leader.incoming.receive(socket.as_fd()) else {
            return Taken::default();
        };
        let mut taken = Taken { messages, datagrams: 0 };
        let mut intake = Intake { tap, plane, status, probes, merger };
        let mut hellos = 0;
        for index in 0..messages {
            let message = leader.incoming.message(index);
            let (remote, port) = (message.remote, message.port);
            for datagram in message.datagrams() {
                taken.datagrams += 1;
                if port != wire::PORT {
                    status.reject(DataReject::Source);
                    continue;
                }
                if !is_hello(datagram) {
                    intake.take_in(address_bytes(local), address_bytes(remote), Outer::Checked, datagram);
                    continue;
                }
                // Anybody can send these. Strangers must neither keep the control thread busy nor use up what peers need.
                let remote_bytes = address_bytes(remote);
                let known = routes.iter().flatten().any(|route| route.data.remote == remote_bytes);
                let allowance = if known { &mut leader.known_hellos } else { &mut leader.strange_hellos };
                if !allowance.take(sys::boottime()) {
                    status.lose(Loss::HelloTooMany, 1);
                    continue;
                }
                match hello(local, remote, datagram).map(|hello| leader.hellos.push(hello).is_ok()) {
                    Some(true) => hellos += 1,
                    Some(false) => status.lose(Loss::HelloQueueFull, 1),
                    None => status.lose(Loss::HelloTooLong, 1),
                }
            }
        }
        intake.finish();
        if hellos > 0 {
            sys::wake(shared.control.as_fd());
        }
        self.answer_probes();
        taken
    }

    /// Takes up to a batch of frames from an AF_XDP socket.
    pub(super) fn carry_in_frames(&mut self, index: usize) {
        let Self { bypass, shared, status, plane, tap, probes, merger, .. } = self;
        let Some(owned) = bypass.ports.get_mut(index) else {
            return;
        };
        let mut authentic = 0;
        let mut frames = 0;
        let mut intake = Intake { tap, plane, status, probes, merger };
        owned.port.receive(|packet| {
            let Some((addresses, outer, datagram)) = headers::open(packet, shared.cluster_id) else {
                status.reject(DataReject::Malformed);
                return;
            };
            match intake.take_in(*addresses.destination(), *addresses.source(), outer, datagram) {
                Found::Frame => (authentic, frames) = (authentic + 1, frames + 1),
                Found::Probe => authentic += 1,
                Found::Nothing => {}
            }
        });
        intake.finish();
        status.bypass_received.fetch_add(frames, Ordering::Relaxed);
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
                Probe::Answer(number) if sizes::is_about(number) => {
                    self.shared.board.size(arrived.slot).answer.store(number, Ordering::Relaxed);
                }
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
}

/// What a datagram turned out to be.
enum Found {
    Frame,
    Probe,
    Nothing,
}

/// Where datagrams go, while a batch of them is looked at.
struct Intake<'a> {
    tap: &'a File,
    plane: &'a mut DataPlane,
    status: &'a Status,
    probes: &'a mut Vec<Arrived>,
    merger: &'a mut Merger,
}

impl Intake<'_> {
    /// Opens a datagram: a frame goes to `netft0`, a probe to those to be answered.
    fn take_in(&mut self, local: [u8; 16], remote: [u8; 16], outer: Outer, datagram: &mut [u8]) -> Found {
        let Self { tap, plane, status, probes, merger } = self;
        match plane.open(local, remote, outer, datagram) {
            Ok(Opened { message: Message::Frame(frame, checksum), .. }) => {
                if merger.push(frame, checksum, |packet| put(tap, status, packet)).is_err() {
                    status.reject(DataReject::Malformed);
                }
                Found::Frame
            }
            Ok(Opened { message: Message::Probe(probe), peer, slot }) => {
                if probes.len() < probes.capacity() {
                    probes.push(Arrived { local, remote, peer, slot, probe });
                }
                Found::Probe
            }
            Err(reject) => {
                status.reject(reject);
                Found::Nothing
            }
        }
    }

    /// No more datagrams are at hand.
    fn finish(self) {
        let Self { tap, status, merger, .. } = self;
        merger.flush(|packet| put(tap, status, packet));
    }
}

/// Writes a packet into `netft0`.
pub(super) fn put(mut tap: &File, status: &Status, packet: Packet<'_>) {
    let parts = [bytemuck::bytes_of(&packet.header), packet.bytes].map(IoSlice::new);
    match tap.write_vectored(&parts) {
        // All or nothing: there are no parts of packets.
        Ok(1..) => {
            status.frames_received.fetch_add(packet.frames as u64, Ordering::Relaxed);
            status.bytes_received.fetch_add(packet.frame_bytes() as u64, Ordering::Relaxed);
        }
        _ => status.lose(Loss::AdapterRefused, packet.frames),
    }
}

/// A hello, or a step of a handshake: for the control thread.
fn is_hello(datagram: &[u8]) -> bool {
    let header = datagram.get(..size_of::<Header>()).map(bytemuck::pod_read_unaligned::<Header>);
    header.is_some_and(|header| {
        header.magic == wire::MAGIC && matches!(header.kind, wire::kind::HELLO | wire::kind::HANDSHAKE)
    })
}

fn hello(local: IpAddr, remote: IpAddr, payload: &[u8]) -> Option<HelloFrame> {
    let mut hello = HelloFrame { local, remote, length: payload.len(), bytes: [0; MAX_HELLO] };
    hello.bytes.get_mut(..payload.len())?.copy_from_slice(payload);
    Some(hello)
}
