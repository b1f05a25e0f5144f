//! Packets between the nodes, as their data threads carry them: sealed, kept until a later heartbeat proves their way, sent
//! again when their route dies, and opened once. The cores are the real ones, also what `datapath.policy` chooses by.

use crate::case::Case;
use crate::checks::{Checks, Property};
use crate::node::{Node, address, node_id};
use crate::queue::{Kind, Store};
use crate::types::{Nanos, Slot};
use crate::world::World;
use netft_common::map::{ActiveRoute, Standing};
use netft_common::wire::NO_SLOT;
use netft_core::carry::{Evidence, Keep, Outlet, Outlets, Policy, flow_of};
use netft_core::data::{DataPlane, DataReject, DataRoute, HEADROOM, Message, Outer};
use netft_core::keys::{Directions, SessionKeys};
use netft_core::offload::Checksum;
use netft_core::session::LiveKeys;
use netft_core::types::Level;
use std::sync::atomic::Ordering::Relaxed;

/// From a store of the detection thread until the data thread looks, at most.
const ROUSED_NS: Nanos = 200_000;
/// More than is sent before the slowest detection.
const KEEP_BYTES: usize = 4 << 20;
/// An Ethernet header of no known type; the packet's number.
const PACKET: usize = 14 + 4;

/// A packet under way.
#[derive(Clone, Copy, Debug)]
struct Flight {
    from: u8,
    to: u8,
    network: u8,
    number: u32,
    datagram: [u8; HEADROOM + PACKET],
}

/// A packet that an application sent.
#[derive(Clone, Copy, Debug)]
struct Packet {
    from: usize,
    to: usize,
    sent_at: Nanos,
    arrived: bool,
    /// A copy was lost by chance, which no heartbeat tells.
    unlucky: bool,
}

#[derive(Debug)]
struct End {
    plane: DataPlane,
    keep: Keep,
    /// By peer.
    outlets: Vec<Outlets>,
}

/// What all data threads have done.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    ends: Vec<End>,
    packets: Vec<Packet>,
    flights: Store<Flight>,
    replayed: u64,
    copies: u64,
}

impl Traffic {
    fn new(case: &Case, nodes: &[Node]) -> Self {
        let end = |(index, node): (usize, &Node)| {
            let mut plane = DataPlane::new(5, node.id, 0, 0);
            let mut outlets = vec![Outlets::default(); nodes.len()];
            for watch in &node.watches {
                let signed = Directions { send: Level::Signed, receive: Level::Signed };
                let keys = SessionKeys::of_secret(b"simulated", node.id, node_id(watch.peer), signed);
                plane.set_session(node_id(watch.peer), &LiveKeys { current: Some(keys), other: None });
                let [local, remote] = [index, watch.peer].map(|node| address(node, watch.network));
                let remote_slot = NO_SLOT;
                plane.set_way(watch.slot, node_id(watch.peer), &DataRoute { local, remote, remote_slot });
                // Less than 16 apart, so that all of them carry traffic that is spread.
                let metric = u32::try_from(watch.network).unwrap_or(0);
                outlets[watch.peer].set(Outlet { slot: watch.slot, metric });
            }
            End { plane, keep: Keep::new(KEEP_BYTES), outlets }
        };
        match case.packets_per_s {
            0 => Self::default(),
            _ => Self { ends: nodes.iter().enumerate().map(end).collect(), ..Self::default() },
        }
    }

    /// The packets of which none arrived, although chance took none of their copies; how many were sent, and sent again.
    pub(crate) fn outcome(&self) -> (Vec<String>, u64, u64, u64) {
        let lost = self.packets.iter().enumerate().filter(|(_, packet)| !packet.arrived && !packet.unlucky);
        let told = lost.map(|(number, packet)| {
            format!(
                "packet {number} from {} to {}, sent at {}, is lost",
                packet.from, packet.to, packet.sent_at
            )
        });
        (told.collect(), self.packets.len() as u64, self.replayed, self.copies)
    }
}

impl World {
    pub(crate) fn reset_traffic(&mut self) {
        self.traffic = Traffic::new(&self.case, &self.nodes);
        if self.case.packets_per_s > 0 {
            for node in 0..self.nodes.len() {
                self.plan_packet(node);
            }
        }
    }

    fn plan_packet(&mut self, node: usize) {
        let mean_ns = 1_000_000_000 / self.case.packets_per_s;
        let at = self.at + self.rng.between(1, 2 * mean_ns);
        if at < self.case.length_ns {
            self.queue.add(at, Kind::Packet, u32::try_from(node).unwrap_or(0));
        }
    }

    /// Stores of a detection thread wake the data thread.
    pub(crate) fn rouse_data(&mut self, node: usize) {
        if self.case.packets_per_s > 0 {
            let at = self.at + self.rng.between(0, ROUSED_NS);
            self.queue.add(at, Kind::Recover, u32::try_from(node).unwrap_or(0));
        }
    }

    /// An application sends a packet to some peer.
    pub(crate) fn packet(&mut self, from: usize) {
        self.plan_packet(from);
        let others = self.nodes.len() - 1;
        let to = (from + 1 + self.rng.index(others)) % self.nodes.len();
        self.recover(from);
        let number = self.traffic.packets.len();
        let mut packet = [0; PACKET];
        packet[0] = u8::try_from(self.rng.between(0, 255)).unwrap_or(0);
        packet[14..].copy_from_slice(&u32::try_from(number).unwrap_or(0).to_le_bytes());
        // Without a route it isn't taken in the first place.
        let Some((first, second)) = self.ways(from, to, &packet) else { return };
        let Ok(sequence) = self.traffic.ends[from].plane.number(node_id(to), 1) else { return };
        self.traffic.packets.push(Packet { from, to, sent_at: self.at, arrived: false, unlucky: false });
        self.send_packet(from, first, sequence, &packet);
        match second {
            Some(second) => self.send_packet(from, second, sequence, &packet),
            None => {
                let now = self.nodes[from].clock.local(self.at);
                let keep = &mut self.traffic.ends[from].keep;
                assert_eq!(keep.push(first, node_id(to), sequence, &packet), 0, "the memory suffices");
                keep.stamp(now);
            }
        }
    }

    fn ways(&self, from: usize, to: usize, packet: &[u8]) -> Option<(Slot, Option<Slot>)> {
        let node = &self.nodes[from];
        let active = node.transmitter_slot(to);
        match self.case.policy {
            Policy::Failover => active.map(|first| (first, None)),
            Policy::Duplicate => {
                let backup = ActiveRoute::from_word(node.memory.active[to + 1]).backup;
                let backup = Slot::new(u32::from(backup)).filter(|slot| node.is_alive(*slot));
                active.map(|first| (first, backup.filter(|second| *second != first)))
            }
            Policy::Spread => {
                let is_usable =
                    |slot: Slot| node.is_alive(slot) && self.evidence(from, slot).standing.is_up();
                let spread = self.traffic.ends[from].outlets[to].spread(flow_of(packet), is_usable);
                spread.or(active).map(|first| (first, None))
            }
        }
    }

    fn evidence(&self, node: usize, slot: Slot) -> Evidence {
        let state = &self.nodes[node].memory.states[slot.index()];
        Evidence {
            standing: Standing::from_word(state.engine_flags.load(Relaxed)),
            completed_sent_ns: state.completed_sent_ns.load(Relaxed),
        }
    }

    /// A data thread looks at what it keeps.
    pub(crate) fn recover(&mut self, node: usize) {
        let mut packet = [0; PACKET];
        let mut position = 0;
        while let Some(slot) = self.traffic.ends[node].keep.route(position) {
            position += 1;
            let evidence = self.evidence(node, slot);
            self.traffic.ends[node].keep.release(slot, evidence);
            while let Some(kept) = self.traffic.ends[node].keep.lost(slot, evidence) {
                let to = usize::from(kept.peer.get()) - 1;
                let ways = self.ways(node, to, self.traffic.ends[node].keep.first_bytes(slot));
                let Some((new, _)) = ways.filter(|(new, _)| *new != slot || evidence.standing.is_up()) else {
                    break;
                };
                self.traffic.ends[node].keep.move_first(slot, new, &mut packet);
                self.traffic.replayed += 1;
                self.send_packet(node, new, kept.sequence, &packet);
            }
        }
        let now = self.nodes[node].clock.local(self.at);
        let keep = &mut self.traffic.ends[node].keep;
        keep.stamp(now);
        keep.tidy();
    }

    fn send_packet(&mut self, from: usize, slot: Slot, sequence: u64, packet: &[u8; PACKET]) {
        let watch = self.nodes[from].watch(slot);
        let (to, network) = (watch.peer, watch.network);
        let remote_slot = self.nodes[to].slot(to, from, network).get().into();
        let route = DataRoute { local: address(from, network), remote: address(to, network), remote_slot };
        let mut datagram = [0; HEADROOM + PACKET];
        datagram[HEADROOM..].copy_from_slice(packet);
        let plane = &mut self.traffic.ends[from].plane;
        let sealed = plane.seal_numbered(node_id(to), &route, sequence, Checksum::Complete, &mut datagram);
        assert_eq!(sealed, Ok(()), "there is a session");
        let number = number_of(packet);
        if self.trace {
            eprintln!("{}: packet {number} from {from} to {to} on {network}", self.at);
        }
        if !self.networks.leaves(from, network) {
            return;
        }
        let copies = self.networks.copies(&mut self.rng);
        self.traffic.packets[number as usize].unlucky |= copies == 0;
        for _ in 0..copies {
            let travel = self.networks.travel(&mut self.rng);
            let byte = |number: usize| u8::try_from(number).unwrap_or(u8::MAX);
            let flight = Flight { from: byte(from), to: byte(to), network: byte(network), number, datagram };
            let flight = self.traffic.flights.put(flight);
            self.queue.add(self.at + travel, Kind::Arrival, flight);
        }
    }

    /// A packet arrives, or is lost on the doorstep.
    pub(crate) fn packet_arrives(&mut self, flight: u32, checks: &mut Checks) {
        let Flight { from, to, network, number, mut datagram } = self.traffic.flights.take(flight);
        let (from, to, network) = (usize::from(from), usize::from(to), usize::from(network));
        if !self.networks.arrives(to, network) || self.networks.is_frozen(to) {
            return;
        }
        let plane = &mut self.traffic.ends[to].plane;
        match plane.open(address(to, network), address(from, network), Outer::Checked, &mut datagram) {
            Ok(opened) => {
                let whole = matches!(opened.message, Message::Frame(frame, _) if frame.len() == PACKET);
                assert!(whole && opened.peer == node_id(from), "what was sealed is what is opened");
                let packet = &mut self.traffic.packets[number as usize];
                if std::mem::replace(&mut packet.arrived, true) {
                    let what = format!("packet {number} from {from} was given to {to} twice");
                    checks.broken(self, Property::Twice, what);
                }
            }
            Err(DataReject::Replay) => self.traffic.copies += 1,
            Err(reject) => {
                checks.broken(self, Property::Lost, format!("packet {number} is refused: {reject}"));
            }
        }
    }
}

fn number_of(packet: &[u8; PACKET]) -> u32 {
    packet.last_chunk().map_or(0, |number| u32::from_le_bytes(*number))
}
