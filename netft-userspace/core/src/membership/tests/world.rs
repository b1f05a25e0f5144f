//! Several memberships in virtual time, on networks that lose, delay and reorder, all from a seed.

use super::super::*;
use super::clock::Clock;
use crate::adapter::AdapterSeed;
use crate::data::{DataPlane, DataRoute};
use crate::keys::Secret;
use crate::session::LiveKeys;
use crate::types::{InterfaceNumber, Level, LinkState, Nanos, NodeId, RouteState, Slot, Timing};
use netft_common::map::SlotConfig;
use netft_common::wire::Versions;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

pub const MS: Nanos = 1_000_000;
pub const SECOND: Nanos = 1_000 * MS;

/// A datagram under way, or one that was seen.
#[derive(Clone, Debug)]
pub struct Datagram {
    pub from: IpAddr,
    pub to: IpAddr,
    pub bytes: Vec<u8>,
}

/// A node and what its shell would hold.
pub struct Host {
    pub clock: Clock,
    pub membership: Membership,
    pub interfaces: Vec<Interface>,
    pub routes: BTreeMap<Slot, RouteInstall>,
    pub sessions: BTreeMap<NodeId, LiveKeys>,
    pub plane: DataPlane,
    pub adapters: BTreeMap<NodeId, Adapter>,
    pub own_adapter: Option<Adapter>,
    pub events: Vec<MembershipEvent>,
    pub nonce: [u8; 16],
    pub on: bool,
    pub disk: Disk,
    /// Under way to a slow disk, and when it will be there.
    pub writing: Option<(Nanos, Keep)>,
}

/// What a host finds again after any crash.
#[derive(Clone, Debug, Default)]
pub struct Disk {
    /// `None` = [`SECRET`].
    pub secret: Option<Secret>,
    pub next: Option<Next>,
    /// The daemon is killed around the next write.
    pub crash: Option<Crash>,
    /// Writes fail.
    pub full: bool,
}

/// When the daemon is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    BeforeWriting,
    AfterWriting,
}

impl Disk {
    /// A daemon starts from it.
    fn read(&self, membership: &mut Membership) {
        if let Some(secret) = &self.secret {
            let cluster_id = membership.config().cluster_id;
            membership.speaker.keyrings.primary = crate::keys::Keyring::new(secret, cluster_id);
        }
        if let Some(next) = self.next {
            membership.resume_rotation(next);
        }
    }

    fn write(&mut self, keep: Keep) {
        match keep {
            Keep::Next(next) => self.next = Some(next),
            Keep::Only(offer) => (self.secret, self.next) = (Some(Secret::of_random(&offer.secret)), None),
            Keep::Old => self.next = None,
        }
    }
}

pub struct World {
    pub now: Nanos,
    pub hosts: Vec<Host>,
    pub loss_percent: u64,
    pub duplicate_percent: u64,
    pub delay_ns: std::ops::Range<Nanos>,
    pub seen: Vec<Datagram>,
    /// Networks that carry nothing.
    pub cut: BTreeSet<u8>,
    /// Disks take up to that long to write a secret.
    pub disk_ns: Nanos,
    queue: BTreeMap<(Nanos, u64), Datagram>,
    random: u64,
    counter: u64,
}

/// Node `i` (1-based), network `j`: as in the lab.
pub fn v4(node: u16, network: u8) -> IpAddr {
    format!("10.77.{network}.{node}").parse().unwrap()
}

pub fn v6(node: u16, network: u8) -> IpAddr {
    format!("fd77:{network}::{node}").parse().unwrap()
}

pub fn interface(node: u16, network: u8) -> Interface {
    Interface {
        number: InterfaceNumber::new(network).unwrap(),
        ifindex: u32::from(network) + 10,
        name: format!("net{network}"),
        mac: [2, 0, 0, 0, network, u8::try_from(node).unwrap()],
        mtu: 1500,
        speed_mbps: 10_000,
        link: LinkState::Up,
        default_route: false,
        rss: false,
        rdma: false,
        addresses: vec![(v4(node, network), 24), (v6(node, network), 64)],
    }
}

pub fn config(node: u16, nodes: u16) -> MembershipConfig {
    let timing = |delay_ns| Timing { delay_ns, threshold: 5 };
    let peer = |other: u16| {
        let name = format!("n{other}");
        let peer = PeerConfig {
            name: name.clone(),
            id: NodeId::new(other),
            site: None,
            addresses: vec![v4(other, 1)],
        };
        (name, peer)
    };
    MembershipConfig {
        cluster_id: 7,
        id: NodeId::new(node).unwrap(),
        name: format!("n{node}"),
        site: None,
        peers: (1..=nodes).filter(|other| *other != node).map(peer).collect(),
        networks: Vec::new(),
        same_subnet: timing(MS),
        cross_subnet: timing(10 * MS),
        cross_site: timing(100 * MS),
        key_period_ns: 600 * SECOND,
        level: Level::Signed,
        absence_ns: 600 * SECOND,
        versions: Versions::OURS,
    }
}

pub fn membership(config: MembershipConfig, secret: &[u8], nonce: u8, random: u8) -> Membership {
    let mac = [2, 9, 9, 9, 9, u8::try_from(config.id.get()).unwrap()];
    let seed = AdapterSeed::new(mac, None);
    Membership::new(config, Secret::new(secret).unwrap(), [nonce; 16], seed, [random; 32])
}

pub const SECRET: &[u8] = b"0123456789abcdef";

impl World {
    /// `nodes` nodes on `networks` networks, not started.
    pub fn new(nodes: u16, networks: u8, seed: u64) -> Self {
        let mut world = Self {
            now: 1_000 * SECOND,
            hosts: Vec::new(),
            loss_percent: 0,
            duplicate_percent: 0,
            delay_ns: 50_000..50_001,
            seen: Vec::new(),
            cut: BTreeSet::new(),
            disk_ns: 0,
            queue: BTreeMap::new(),
            random: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            counter: 0,
        };
        for node in 1..=nodes {
            let interfaces = (1..=networks).map(|network| interface(node, network)).collect();
            let byte = u8::try_from(node).unwrap();
            world.add(membership(config(node, nodes), SECRET, byte, byte), byte, interfaces);
        }
        world
    }

    pub fn add(&mut self, membership: Membership, nonce: u8, interfaces: Vec<Interface>) {
        let plane = DataPlane::new(7, membership.config().id, 0, self.now);
        self.hosts.push(Host {
            clock: Clock::default(),
            membership,
            interfaces,
            routes: BTreeMap::new(),
            sessions: BTreeMap::new(),
            plane,
            adapters: BTreeMap::new(),
            own_adapter: None,
            events: Vec::new(),
            nonce: [nonce; 16],
            on: true,
            disk: Disk::default(),
            writing: None,
        });
    }

    /// What a host's clock shows.
    pub fn local(&self, host: usize) -> Nanos {
        self.hosts[host].clock.local(self.now)
    }

    /// xorshift64*: the same for the same seed, everywhere.
    pub fn draw(&mut self, below: u64) -> u64 {
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        self.random.wrapping_mul(0x2545_f491_4f6c_dd1d) % below
    }

    pub fn start_all(&mut self) {
        for host in 0..self.hosts.len() {
            self.interfaces(host);
        }
    }

    /// Tells a host its interfaces again.
    pub fn interfaces(&mut self, host: usize) {
        let list = self.hosts[host].interfaces.clone();
        let mut sources = BTreeMap::new();
        for peer in self.hosts[host].membership.config().peers.values() {
            for remote in &peer.addresses {
                let near = |(local, len): &(IpAddr, u8)| {
                    crate::networks::Subnet::of(*local, *len).contains(*remote).then_some(*local)
                };
                let source = list.iter().flat_map(|interface| &interface.addresses).find_map(near);
                let any = list.iter().flat_map(|i| &i.addresses).map(|(a, _)| *a).find(IpAddr::is_ipv4);
                if let Some(source) = source.or(any) {
                    sources.insert(*remote, source);
                }
            }
        }
        let now = self.local(host);
        self.hosts[host].membership.handle_interfaces(now, list, &sources);
        self.drain(host);
    }

    /// A daemon's secret arrives at its disk.
    fn write(&mut self, host: usize, keep: Keep) {
        let host = &mut self.hosts[host];
        let crash = host.disk.crash.take();
        if crash != Some(Crash::BeforeWriting) && !host.disk.full {
            host.disk.write(keep);
        }
        if crash.is_some() {
            host.on = false;
        } else {
            let result = if host.disk.full { Err(NotKept) } else { Ok(()) };
            host.membership.secret_kept(host.clock.local(self.now), result);
        }
    }

    pub fn drain(&mut self, host: usize) {
        let index = host;
        while let Some(command) = self.hosts[host].membership.poll_command() {
            let host = &mut self.hosts[host];
            match command {
                MembershipCommand::SetRoute(install) => {
                    let SlotConfig { local, remote, remote_slot, .. } = install.config;
                    if let Some(peer) = NodeId::new(install.config.peer) {
                        host.plane.set_way(install.slot, peer, &DataRoute { local, remote, remote_slot });
                    }
                    host.routes.insert(install.slot, *install);
                }
                MembershipCommand::RemoveRoute(slot) => {
                    host.routes.remove(&slot).expect("removed twice");
                }
                MembershipCommand::SetSession(id, keys) => {
                    host.plane.set_session(id, &keys);
                    host.sessions.insert(id, *keys);
                }
                MembershipCommand::RemoveSession(id) => {
                    host.plane.remove_session(id);
                    host.sessions.remove(&id).expect("removed twice");
                }
                MembershipCommand::SetPeerAdapter(id, adapter) => {
                    // Neighbour entries and routes are by address: two holders would undo each other.
                    host.adapters.remove(&id);
                    let alone = |other: &Adapter| crate::adapter::conflict(other, &adapter).is_none();
                    assert!(host.adapters.values().all(alone), "an adapter is given away before it is taken");
                    host.adapters.insert(id, adapter);
                }
                MembershipCommand::RemovePeerAdapter(id) => drop(host.adapters.remove(&id)),
                MembershipCommand::SetOwnAdapter(adapter) => host.own_adapter = Some(adapter),
                MembershipCommand::KeepSecret(keep) => {
                    assert!(host.writing.is_none(), "one after the other");
                    if self.disk_ns > 0 {
                        let at_ns = self.now + self.draw(self.disk_ns);
                        self.hosts[index].writing = Some((at_ns, keep));
                    } else {
                        self.write(index, keep);
                    }
                }
            }
        }
        while let Some(event) = self.hosts[host].membership.poll_event() {
            assert!(!event.to_string().is_empty() && !event.subject().is_empty() && !event.kind().is_empty());
            self.hosts[host].events.push(event);
        }
        while let Some(transmit) = self.hosts[host].membership.poll_transmit() {
            let datagram = Datagram { from: transmit.local, to: transmit.remote, bytes: transmit.payload };
            if self.hosts[host].on {
                self.seen.push(datagram.clone());
                self.send(datagram);
            }
        }
    }

    /// Loses everything of a kind that is under way now.
    pub fn drop_kind(&mut self, kind: u8) {
        self.queue.retain(|_, datagram| datagram.bytes[5] != kind);
    }

    /// Puts copies of some datagrams on the wire.
    fn copies(&mut self, datagram: &Datagram) {
        if self.duplicate_percent > 0 && self.draw(100) < self.duplicate_percent {
            self.send(datagram.clone());
        }
    }

    /// Puts a datagram on the wire.
    pub fn send(&mut self, datagram: Datagram) {
        if self.draw(100) < self.loss_percent {
            return;
        }
        let delay = self.delay_ns.start + self.draw(self.delay_ns.end - self.delay_ns.start);
        self.counter += 1;
        self.queue.insert((self.now + delay, self.counter), datagram);
    }

    fn deliver(&mut self, datagram: Datagram) {
        let network = |address: IpAddr| match address {
            IpAddr::V4(v4) => v4.octets()[2],
            IpAddr::V6(v6) => v6.octets()[3],
        };
        if self.cut.contains(&network(datagram.from)) || self.cut.contains(&network(datagram.to)) {
            return;
        }
        self.copies(&datagram);
        for host in 0..self.hosts.len() {
            let has = |interface: &Interface| interface.addresses.iter().any(|(a, _)| *a == datagram.to);
            if self.hosts[host].on && self.hosts[host].interfaces.iter().any(has) {
                let now = self.local(host);
                let _ = self.hosts[host].membership.handle_frame(
                    now,
                    datagram.to,
                    datagram.from,
                    &datagram.bytes,
                );
                self.drain(host);
            }
        }
    }

    /// Runs until `span` has passed.
    pub fn run(&mut self, span: Nanos) {
        let end = self.now + span;
        let mut steps = 0;
        loop {
            steps += 1;
            assert!(steps < 200_000, "a timer spins or hellos answer each other for ever");
            let on = |host: &&Host| host.on;
            let timer = self
                .hosts
                .iter()
                .filter(on)
                .map(|host| host.clock.at(host.membership.poll_timeout()))
                .min()
                .unwrap_or(Nanos::MAX);
            let arrival = self.queue.keys().next().map_or(Nanos::MAX, |key| key.0);
            let due = |host: &Host| host.writing.filter(|_| host.on).map_or(Nanos::MAX, |(at_ns, _)| at_ns);
            let written = self.hosts.iter().map(due).min().unwrap_or(Nanos::MAX);
            let next = timer.min(arrival).min(written);
            if next > end {
                self.now = end;
                return;
            }
            self.now = self.now.max(next);
            if written <= next {
                let host = self.hosts.iter().position(|host| due(host) == written).unwrap();
                let (_, keep) = self.hosts[host].writing.take().unwrap();
                self.write(host, keep);
                self.drain(host);
                continue;
            }
            if arrival <= timer {
                let (_, datagram) = self.queue.pop_first().unwrap();
                self.deliver(datagram);
                continue;
            }
            for host in 0..self.hosts.len() {
                let now = self.local(host);
                if self.hosts[host].on && self.hosts[host].membership.poll_timeout() <= now {
                    self.hosts[host].membership.handle_timeout(now);
                    self.drain(host);
                }
            }
        }
    }

    /// What the detectors would say: every route of `host` is in `state`.
    pub fn set_routes(&mut self, host: usize, state: RouteState) {
        for slot in self.hosts[host].routes.keys().copied().collect::<Vec<_>>() {
            let now = self.local(host);
            self.hosts[host].membership.handle_route(now, slot, state);
            self.drain(host);
        }
    }

    /// All hosts see all their routes up.
    pub fn all_up(&mut self) {
        for host in 0..self.hosts.len() {
            self.set_routes(host, RouteState::Up);
        }
    }

    /// Why routes between two hosts don't agree, or how many do.
    pub fn agreed(&self, one: usize, other: usize) -> Result<usize, String> {
        let (a, b) = (&self.hosts[one], &self.hosts[other]);
        let id = |host: &Host| host.membership.config().id.get();
        let of = |host: &Host, peer: u16| -> Vec<RouteInstall> {
            host.routes.values().filter(|install| install.config.peer == peer).cloned().collect()
        };
        let (ours, theirs) = (of(a, id(b)), of(b, id(a)));
        for route in &ours {
            let mirror = theirs
                .iter()
                .find(|theirs| {
                    theirs.config.local == route.config.remote && theirs.config.remote == route.config.local
                })
                .ok_or_else(|| format!("{:?} has no mirror", route.slot))?;
            let right = route.config.remote_slot == u32::from(mirror.slot.get())
                && mirror.config.remote_slot == u32::from(route.slot.get())
                && route.config.generation != 0
                && route.config.lives == mirror.config.lives;
            let (Some(our), Some(their)) = (route.config.sending(), mirror.config.sending()) else {
                return Err(format!("{:?} and {:?} have no keys", route.slot, mirror.slot));
            };
            let alike = our.epoch == their.epoch
                && (our.send_key, our.receive_key) == (their.receive_key, their.send_key);
            if !right || !alike {
                return Err(format!("{:?} and {:?} disagree", route.slot, mirror.slot));
            }
        }
        let keys = |host: &Host, peer| host.sessions.get(&peer).and_then(|keys| keys.current);
        let id = |host: &Host| host.membership.config().id;
        let (our, their) = (keys(a, id(b)), keys(b, id(a)));
        let mirrored = our.zip(their).is_some_and(|(our, their)| {
            our.epoch == their.epoch
                && (our.data.send, our.data.receive) == (their.data.receive, their.data.send)
        });
        if !ours.is_empty() && !mirrored {
            return Err("data has different keys".to_owned());
        }
        if ours.len() == theirs.len() {
            Ok(ours.len())
        } else {
            Err("different numbers of routes".to_owned())
        }
    }

    /// Kinds of the events of one host.
    pub fn kinds(&self, host: usize) -> Vec<&'static str> {
        self.hosts[host].events.iter().map(MembershipEvent::kind).collect()
    }

    pub fn counter(&self, host: usize, name: &str) -> u64 {
        let counters = self.hosts[host].membership.counters();
        counters.into_iter().find(|(other, _)| *other == name).expect("a counter of that name").1
    }

    /// The daemon of `host` restarts over the same maps: same nonce, slots adopted.
    pub fn restart(&mut self, host: usize) {
        let config = self.hosts[host].membership.config().clone();
        let slots: Vec<_> = self.hosts[host]
            .routes
            .iter()
            .map(|(slot, install)| (*slot, self.as_left(host, install.config)))
            .collect();
        let nonce = self.hosts[host].nonce[0];
        let mut membership = membership(config, SECRET, nonce, 0);
        self.hosts[host].disk.read(&mut membership);
        membership.dice = crate::dice::Dice::new(self.seed());
        membership.adopt(self.local(host), &slots);
        self.hosts[host].membership = membership;
        self.hosts[host].writing = None;
        self.hosts[host].events.clear();
        self.hosts[host].adapters.clear();
        self.hosts[host].sessions.clear();
        let (id, used) = (self.hosts[host].membership.config().id, self.hosts[host].plane.high_water());
        self.hosts[host].plane = DataPlane::new(7, id, used, self.local(host));
        self.interfaces(host);
    }

    /// A seed that no membership has had.
    fn seed(&mut self) -> [u8; 32] {
        self.counter += 1;
        let mut seed = [0xa5; 32];
        seed[..8].copy_from_slice(&self.counter.to_le_bytes());
        seed
    }

    /// What the maps hold of a route: XDP has seen which keys the peer sends with, and the engine takes those for its own.
    fn as_left(&self, host: usize, mut config: SlotConfig) -> SlotConfig {
        let peer = self.hosts.iter().find(|peer| peer.membership.config().id.get() == config.peer);
        let mut mirrors = peer.into_iter().flat_map(|peer| peer.routes.values());
        let mirror = mirrors
            .find(|mirror| (mirror.config.local, mirror.config.remote) == (config.remote, config.local));
        if let Some(sending) = mirror.and_then(|mirror| mirror.config.sending()) {
            config.send_with(sending.epoch);
        }
        assert_ne!(self.hosts[host].membership.config().id.get(), config.peer);
        config
    }

    /// The machine reboots: new nonce, nothing kept.
    pub fn reboot(&mut self, host: usize, nonce: u8) {
        let config = self.hosts[host].membership.config().clone();
        let mut membership = membership(config, SECRET, nonce, nonce);
        self.hosts[host].disk.read(&mut membership);
        self.hosts[host].membership = membership;
        self.hosts[host].writing = None;
        self.hosts[host].nonce = [nonce; 16];
        self.hosts[host].routes.clear();
        self.hosts[host].adapters.clear();
        self.hosts[host].sessions.clear();
        let id = self.hosts[host].membership.config().id;
        self.hosts[host].plane = DataPlane::new(7, id, 0, self.local(host));
        self.hosts[host].events.clear();
        self.interfaces(host);
    }
}
