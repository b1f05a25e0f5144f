//! Thousands of steps from a seed: cuts, losses, renewals, restarts and reboots while data flows and is recorded and played
//! again. Nothing is received twice, nothing forged, and in the end all agree.

use super::world::*;
use crate::data::{DataRoute, HEADROOM, Message, Outer};
use crate::offload::{Checksum, complement, sum};
use crate::types::{Nanos, NodeId, RouteState, address_bytes};
use netft_common::wire::NO_SLOT;
use std::collections::{BTreeMap, BTreeSet};

/// Steps of one seed.
const STEPS: usize = 300;
/// Seeds; together 24 000 steps.
const SEEDS: u64 = 80;

/// A datagram of data.
#[derive(Clone)]
struct Sealed {
    to: usize,
    local: [u8; 16],
    remote: [u8; 16],
    bytes: Vec<u8>,
}

struct Soak {
    world: World,
    /// Under way, by arrival.
    queue: BTreeMap<(Nanos, u64), Sealed>,
    recorded: Vec<Sealed>,
    sent: u64,
    received: BTreeSet<u64>,
    nonce: u8,
}

impl Soak {
    fn new(seed: u64) -> Self {
        let mut world = World::new(2, 2, seed);
        for host in 0..2 {
            let mut config = world.hosts[host].membership.config().clone();
            config.key_period_ns = (2 + seed % 7) * SECOND;
            let now = world.now;
            world.hosts[host].membership.reconfigure(now, config).unwrap();
        }
        world.delay_ns = 10_000..(1 + seed % 20) * MS;
        world.start_all();
        Self {
            world,
            queue: BTreeMap::new(),
            recorded: Vec::new(),
            sent: 0,
            received: BTreeSet::new(),
            nonce: 100,
        }
    }

    fn run(&mut self, span: Nanos) {
        let end = self.world.now + span;
        while let Some(entry) = self.queue.first_entry().filter(|entry| entry.key().0 <= end) {
            let (at, sealed) = (entry.key().0, entry.remove());
            self.world.run(at.saturating_sub(self.world.now));
            self.deliver(&sealed);
        }
        self.world.run(end.saturating_sub(self.world.now));
        self.settle_routes();
    }

    /// Detectors: a route is up if its network carries and both ends accept what the other sends.
    fn settle_routes(&mut self) {
        for host in 0..2 {
            let other = 1 - host;
            for (slot, route) in self.world.hosts[host].routes.clone() {
                // fd77:NETWORK::NODE
                let cut = self.world.cut.contains(&route.config.local[3]);
                let mirror = self.world.hosts[other].routes.values().find(|mirror| {
                    (mirror.config.local, mirror.config.remote) == (route.config.remote, route.config.local)
                });
                let accepted = mirror.zip(route.config.sending()).is_some_and(|(mirror, keys)| {
                    mirror
                        .config
                        .keys_of(keys.epoch)
                        .is_some_and(|theirs| theirs.receive_key == keys.send_key)
                });
                let state = if accepted && !cut { RouteState::Up } else { RouteState::Down };
                let now = self.world.now;
                self.world.hosts[host].membership.handle_route(now, slot, state);
                self.world.drain(host);
            }
        }
    }

    fn send(&mut self, from: usize) {
        let peer = NodeId::new(if from == 0 { 2 } else { 1 }).unwrap();
        // A route that is up, as data takes: the peer has told its slot.
        let mut known = self.world.hosts[from].routes.values().map(|route| route.config);
        let Some(config) = known.find(|config| config.remote_slot != NO_SLOT) else { return };
        let route = DataRoute { local: config.local, remote: config.remote, remote_slot: config.remote_slot };
        let mut bytes = vec![0; HEADROOM];
        bytes.extend((self.sent + 1).to_le_bytes());
        if self.world.hosts[from].plane.seal(peer, &route, Checksum::Complete, &mut bytes).is_err() {
            return;
        }
        self.sent += 1;
        let sealed = Sealed { to: 1 - from, local: config.remote, remote: config.local, bytes };
        self.recorded.push(sealed.clone());
        for _ in 0..1 + self.world.draw(3) / 2 {
            if self.world.draw(100) >= self.world.loss_percent {
                let at = self.world.now + self.world.draw(20 * MS);
                let tie = self.queue.len() as u64 + self.world.draw(1 << 40);
                self.queue.insert((at, tie), sealed.clone());
            }
        }
    }

    fn deliver(&mut self, sealed: &Sealed) {
        let mut bytes = sealed.bytes.clone();
        let opened =
            self.world.hosts[sealed.to].plane.open(sealed.local, sealed.remote, Outer::Checked, &mut bytes);
        if let Ok(opened) = opened {
            let Message::Frame(frame, _) = opened.message else { panic!("no probe was sent") };
            let number = u64::from_le_bytes(frame.try_into().unwrap());
            assert!(number > 0 && number <= self.sent, "forged");
            assert!(self.received.insert(number), "frame {number} was received twice");
        }
    }

    /// Something that was recorded at any time, as it was or changed.
    fn replay(&mut self) {
        if self.recorded.is_empty() {
            return;
        }
        for _ in 0..20 {
            let which = self.world.draw(self.recorded.len() as u64);
            let mut sealed = self.recorded[usize::try_from(which).unwrap()].clone();
            if self.world.draw(2) == 0 {
                self.deliver(&sealed);
                continue;
            }
            let bits = sealed.bytes.len() as u64 * 8;
            let bit = usize::try_from(self.world.draw(bits)).unwrap();
            // At level clear, the checksum of the datagram vouches for what is in the frame.
            let outer = Outer::Unchecked(complement(sum(&sealed.bytes)).into());
            sealed.bytes[bit / 8] ^= 1 << (bit % 8);
            let plane = &mut self.world.hosts[sealed.to].plane;
            let opened = plane.open(sealed.local, sealed.remote, outer, &mut sealed.bytes);
            assert!(opened.is_err(), "bit {bit}");
        }
    }

    fn step(&mut self) {
        let span = self.world.draw(300) * MS;
        self.run(span);
        let host = usize::try_from(self.world.draw(2)).unwrap();
        match self.world.draw(16) {
            0 => self.world.restart(host),
            1 if self.world.draw(4) == 0 => {
                self.nonce = self.nonce.wrapping_add(1);
                self.world.reboot(host, self.nonce);
            }
            2 => {
                let network = 1 + u8::try_from(self.world.draw(2)).unwrap();
                if !self.world.cut.remove(&network) {
                    self.world.cut.insert(network);
                }
            }
            3 => {
                self.world.loss_percent = self.world.draw(4) * 15;
                self.world.duplicate_percent = self.world.draw(3) * 20;
            }
            4 => {
                let (now, peer) = (self.world.now, NodeId::new(if host == 0 { 2 } else { 1 }).unwrap());
                self.world.hosts[host].membership.renew(now, peer);
                self.world.drain(host);
            }
            5..=7 => self.replay(),
            _ => (0..5).for_each(|_| self.send(host)),
        }
    }

    fn end(&mut self, seed: u64) {
        self.world.cut.clear();
        (self.world.loss_percent, self.world.duplicate_percent) = (0, 0);
        for _ in 0..200 {
            self.run(100 * MS);
        }
        assert_eq!(self.world.agreed(0, 1), Ok(2), "seed {seed}");
        // And frames get through, in both directions.
        let before = self.received.len();
        (0..5).for_each(|_| self.send(0));
        (0..5).for_each(|_| self.send(1));
        self.run(SECOND);
        assert_eq!(self.received.len() - before, 10, "seed {seed}");
        self.replay();
        assert!(self.received.len() > STEPS, "seed {seed}: {} frames", self.received.len());
    }
}

#[test]
fn whatever_happens_nothing_is_received_twice_and_all_agree_in_the_end() {
    assert_eq!(address_bytes(v6(1, 2))[3], 2, "where the network's number is");
    for seed in 0..SEEDS {
        let mut soak = Soak::new(seed);
        for _ in 0..STEPS {
            soak.step();
        }
        soak.end(seed);
    }
}
