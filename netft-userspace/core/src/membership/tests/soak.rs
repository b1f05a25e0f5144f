//! Thousands of steps from a seed: cuts, losses, delays, renewals, restarts and reboots while data flows and is recorded and
//! played again, and clocks drift. Nothing is received twice, nothing from outside the window, nothing with other keys, and in
//! the end all agree.

use super::clock::Clock;
use super::world::*;
use crate::data::{DataPlane, DataRoute, HEADROOM, Message, Outer};
use crate::keys::SessionKeys;
use crate::offload::{Checksum, complement, sum};
use crate::session::LiveKeys;
use crate::types::{Nanos, NodeId, RouteState, address_bytes};
use crate::window::WINDOW;
use netft_common::wire::{Header, NO_SLOT};
use std::collections::{BTreeMap, BTreeSet};

/// Steps of one seed.
const STEPS: usize = 300;
/// Seeds; together 24 000 steps.
const SEEDS: u64 = 80;

/// A datagram of data.
#[derive(Clone)]
struct Sealed {
    to: usize,
    /// The life of the sender.
    life: [u8; 16],
    local: [u8; 16],
    remote: [u8; 16],
    bytes: Vec<u8>,
}

fn peer_of(host: usize) -> NodeId {
    NodeId::new(if host == 0 { 2 } else { 1 }).unwrap()
}

struct Soak {
    world: World,
    /// Under way, by arrival.
    queue: BTreeMap<(Nanos, u64), Sealed>,
    recorded: Vec<Sealed>,
    sent: u64,
    received: BTreeSet<u64>,
    /// The highest sequence that each daemon (of a host, the number of its start) has taken from each life of its peer.
    highest: BTreeMap<(usize, u32, [u8; 16]), u64>,
    starts: [u32; 2],
    nonce: u8,
    /// Tried with keys that both ends had.
    leaps: usize,
    forgeries: usize,
}

impl Soak {
    fn new(seed: u64) -> Self {
        let mut world = World::new(2, 2, seed);
        for host in 0..2 {
            let (first, slower_ppm) =
                (world.draw(36_000 * SECOND), u32::try_from(world.draw(50_000)).unwrap());
            world.hosts[host].clock = Clock::new(world.now, first, slower_ppm);
            let mut config = world.hosts[host].membership.config().clone();
            config.key_period_ns = (2 + seed % 7) * SECOND;
            let now = world.local(host);
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
            highest: BTreeMap::new(),
            starts: [0; 2],
            nonce: 100,
            leaps: 0,
            forgeries: 0,
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
                let now = self.world.local(host);
                self.world.hosts[host].membership.handle_route(now, slot, state);
                self.world.drain(host);
            }
        }
    }

    /// A frame from a host, which makes it with its keys, or with those of somebody else.
    fn sealed(&mut self, from: usize, with: Option<&mut DataPlane>) -> Option<Sealed> {
        let host = &mut self.world.hosts[from];
        // A route that is up, as data takes: the peer has told its slot.
        let mut known = host.routes.values().map(|route| route.config);
        let config = known.find(|config| config.remote_slot != NO_SLOT)?;
        let route = DataRoute { local: config.local, remote: config.remote, remote_slot: config.remote_slot };
        let mut bytes = vec![0; HEADROOM];
        bytes.extend((self.sent + 1).to_le_bytes());
        let plane = with.unwrap_or(&mut host.plane);
        plane.seal(peer_of(from), &route, Checksum::Complete, &mut bytes).ok()?;
        self.sent += 1;
        Some(Sealed { to: 1 - from, life: host.nonce, local: config.remote, remote: config.local, bytes })
    }

    fn send(&mut self, from: usize) {
        let Some(sealed) = self.sealed(from, None) else { return };
        self.recorded.push(sealed.clone());
        for _ in 0..1 + self.world.draw(3) / 2 {
            if self.world.draw(100) >= self.world.loss_percent {
                let at = self.world.now + self.world.draw(20 * MS);
                let tie = self.queue.len() as u64 + self.world.draw(1 << 40);
                self.queue.insert((at, tie), sealed.clone());
            }
        }
    }

    /// Whether it was taken.
    fn deliver(&mut self, sealed: &Sealed) -> bool {
        let mut bytes = sealed.bytes.clone();
        let host = &mut self.world.hosts[sealed.to];
        let opened = host.plane.open(sealed.local, sealed.remote, Outer::Checked, &mut bytes);
        let Ok(opened) = opened else { return false };
        let Message::Frame(frame, _) = opened.message else { panic!("no probe was sent") };
        let number = u64::from_le_bytes(frame.try_into().unwrap());
        assert!(number > 0 && number <= self.sent, "forged");
        assert!(self.received.insert(number), "frame {number} was received twice");
        let header: Header = bytemuck::pod_read_unaligned(&sealed.bytes[..size_of::<Header>()]);
        let live = &host.sessions[&peer_of(sealed.to)];
        let good =
            |keys: &Option<_>| keys.as_ref().is_some_and(|keys: &SessionKeys| keys.epoch == header.key_epoch);
        assert!(
            good(&live.current) || good(&live.other),
            "frame {number} has keys that nobody uses any more"
        );
        let highest = self.highest.entry((sealed.to, self.starts[sealed.to], sealed.life)).or_default();
        assert!(header.sequence + WINDOW > *highest, "frame {number} is from outside the window");
        *highest = header.sequence.max(*highest);
        true
    }

    /// A host sends so much that what it sent before is too old when it arrives at last.
    fn leap(&mut self, from: usize) {
        let (Some(old), Some(edge)) = (self.sealed(from, None), self.sealed(from, None)) else { return };
        let between = usize::try_from(WINDOW - 2).unwrap();
        self.world.hosts[from].plane.number(peer_of(from), between).unwrap();
        let Some(new) = self.sealed(from, None) else { return };
        if self.deliver(&new) {
            assert!(!self.deliver(&old), "what is as old as the window is long");
            assert!(self.deliver(&edge), "what is a little younger");
            self.leaps += 1;
        }
        self.recorded.extend([old, edge, new]);
    }

    /// Somebody knows everything but the keys.
    fn forge(&mut self, from: usize) {
        let Some(genuine) = self.sealed(from, None) else { return };
        let live = self.world.hosts[from].sessions.get(&peer_of(from)).and_then(|live| live.current);
        let Some(mut keys) = live.filter(|_| self.deliver(&genuine)) else { return };
        keys.data.send[0] ^= 1;
        keys.header.send[0] ^= 1;
        let host = &self.world.hosts[from];
        let far_ahead = host.plane.high_water() + 2 * WINDOW;
        let mut plane = DataPlane::new(7, host.membership.config().id, far_ahead, 0);
        plane.set_session(peer_of(from), &LiveKeys { current: Some(keys), other: None });
        let forged = self.sealed(from, Some(&mut plane)).unwrap();
        assert!(!self.deliver(&forged), "made with other keys");
        let next = self.sealed(from, None).unwrap();
        assert!(self.deliver(&next), "and it moves no window");
        self.forgeries += 1;
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
        match self.world.draw(18) {
            0 => {
                self.starts[host] += 1;
                self.world.restart(host);
            }
            1 if self.world.draw(4) == 0 => {
                self.nonce = self.nonce.wrapping_add(1);
                self.starts[host] += 1;
                // Boottime begins anew.
                let first = self.world.draw(60 * SECOND);
                self.world.hosts[host].clock = self.world.hosts[host].clock.again(self.world.now, first);
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
                let longest_ms = [1, 10, 20, 300, 1_500][usize::try_from(self.world.draw(5)).unwrap()];
                self.world.delay_ns = 10_000..longest_ms * MS;
            }
            4 => {
                let now = self.world.local(host);
                self.world.hosts[host].membership.renew(now, peer_of(host));
                self.world.drain(host);
            }
            5..=7 => self.replay(),
            8 => self.leap(host),
            9 => self.forge(host),
            _ => (0..6).for_each(|_| self.send(host)),
        }
    }

    fn end(&mut self, seed: u64) {
        self.world.cut.clear();
        (self.world.loss_percent, self.world.duplicate_percent) = (0, 0);
        self.world.delay_ns = 10_000..20 * MS;
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
        assert!(self.leaps > 0 && self.forgeries > 0, "seed {seed}: {} {}", self.leaps, self.forgeries);
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
