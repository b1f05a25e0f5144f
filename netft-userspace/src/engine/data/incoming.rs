//! In: what peers send to `netft0`, probes, and hellos on their way to the control thread.

use super::counters::{Loss, Status};
use super::worker::{Listening, Worker};
use super::{HelloFrame, MAX_HELLO, Socket};
use crate::engine::xsk::headers;
use crate::sys;
use crate::sys::socket::{Neighbour, send_to};
use netft_common::wire::{self, Header};
use netft_core::data::{DataPlane, DataReject, Message, Opened, Probe};
use netft_core::types::{NodeId, Slot, address_bytes};
use std::fs::File;
use std::io::Write;
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

impl Worker {
    /// Takes up to a batch of datagrams from a socket; says how many there were.
    pub(super) fn carry_in_datagrams(&mut self, index: usize) -> usize {
        let Some(leader) = &mut self.leader else {
            return 0;
        };
        let Some(Listening { socket: Socket { local, socket }, .. }) = leader.sockets.get(index) else {
            return 0;
        };
        let local = *local;
        // Errors: nothing there after all, or an ICMP error of an earlier send, which the detector knows better.
        let Ok(received) = leader.incoming.receive(socket.as_fd()) else {
            return 0;
        };
        let mut hellos = 0;
        let status = &self.status;
        for index in 0..received {
            let (remote, port, bytes) = leader.incoming.datagram(index);
            if port != wire::PORT {
                status.reject(DataReject::Source);
                continue;
            }
            let header = bytes.get(..size_of::<Header>()).map(bytemuck::pod_read_unaligned::<Header>);
            if header.is_some_and(|header| (header.magic, header.kind) == (wire::MAGIC, wire::kind::HELLO)) {
                // Anybody can send these. Strangers must neither keep the control thread busy nor use up what peers need.
                let remote_bytes = address_bytes(remote);
                let known = self.routes.iter().flatten().any(|route| route.data.remote == remote_bytes);
                let allowance = if known { &mut leader.known_hellos } else { &mut leader.strange_hellos };
                if !allowance.take(sys::boottime()) {
                    status.lose(Loss::HelloTooMany, 1);
                    continue;
                }
                match hello(local, remote, bytes).map(|hello| leader.hellos.push(hello).is_ok()) {
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
        received
    }

    /// Takes up to a batch of frames from an AF_XDP socket.
    pub(super) fn carry_in_frames(&mut self, index: usize) {
        let Self { bypass, shared, status, plane, tap, probes, .. } = self;
        let Some(owned) = bypass.ports.get_mut(index) else {
            return;
        };
        let mut authentic = 0;
        let mut frames = 0;
        owned.port.receive(|packet| {
            let Some((addresses, datagram)) = headers::open(packet, shared.cluster_id) else {
                status.reject(DataReject::Malformed);
                return;
            };
            let (local, remote) = (*addresses.destination(), *addresses.source());
            match take_in(tap, plane, status, probes, local, remote, datagram) {
                Taken::Frame => (authentic, frames) = (authentic + 1, frames + 1),
                Taken::Probe => authentic += 1,
                Taken::Nothing => {}
            }
        });
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
