//! Makes networks and routes agree with endpoints: after every change the difference becomes commands and events.

use super::adapters::MIN_MTU;
use super::adopted::AdoptedSlot;
use super::machine::Membership;
use super::pairs::{Lower, pairs};
use super::peer::{Endpoint, Route, RouteKey};
use super::{MembershipCommand, MembershipEvent, Role, RouteInstall};
use crate::keys::lives;
use crate::networks::{self, Network};
use crate::types::{Nanos, NodeId, RouteClass, RouteState, Slot, Timing, address_bytes};
use netft_common::map::{KeySet, SlotConfig};
use netft_common::wire::{MAX_ENDPOINTS, NO_SLOT};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// Routes to one peer.
const MAX_ROUTES_PER_PEER: usize = 64;
/// How long a route whose pair has a better choice may wait for that to come up, in nanoseconds.
const RETIRE_NS: Nanos = 10_000_000_000;
/// When to look for a free slot again.
const RETRY_NS: Nanos = 5_000_000_000;

/// A route as it should be.
struct Wanted {
    interface: u16,
    remote_interface: u16,
    class: RouteClass,
    remote_mac: Option<[u8; 6]>,
    network: String,
    metric: u32,
    mtu: u32,
}

/// Whether a neighbour can have this address: it is neither zero (a device without one) nor a group's.
fn is_unicast(mac: [u8; 6]) -> bool {
    mac != [0; 6] && mac[0] & 1 == 0
}

/// Whether networks or own endpoints differ from before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Regrouped {
    Same,
    Changed,
}

impl Route {
    /// Whether its replacement is late.
    pub fn retires(&self, now: Nanos) -> bool {
        self.retire_at_ns.is_some_and(|at| at <= now)
    }
}

impl Membership {
    /// Recomputes everything from interfaces and sessions.
    pub(super) fn refresh(&mut self, now: Nanos) {
        if !self.local.known {
            return;
        }
        self.regroup(now);
        self.reconcile_all(now);
    }

    /// The same after a change of one peer: others are looked at only if it changed their networks.
    pub(super) fn refresh_peer(&mut self, now: Nanos, name: &str) {
        if !self.local.known {
            return;
        }
        match self.regroup(now) {
            Regrouped::Changed => self.reconcile_all(now),
            Regrouped::Same => {
                self.reconcile(now, name);
                self.settle_adapters(now);
            }
        }
    }

    fn reconcile_all(&mut self, now: Nanos) {
        for name in self.peers.keys().cloned().collect::<Vec<_>>() {
            self.reconcile(now, &name);
        }
        self.settle_adopted(now);
        self.settle_adapters(now);
    }

    /// Endpoints and networks.
    fn regroup(&mut self, now: Nanos) -> Regrouped {
        let all = self.local.endpoints();
        let own = self.config.id;
        let theirs = self.peers.values().filter_map(|peer| peer.session.as_ref()).flat_map(|session| {
            session.said.endpoints.iter().map(|endpoint| endpoint.attachment(session.life.id))
        });
        let attachments: Vec<_> = all.iter().map(|endpoint| endpoint.attachment(own)).chain(theirs).collect();
        let networks = networks::group(&attachments, own, &self.config.networks);
        let words = |network: &Network| format!("role {} metric {}", u8::from(network.role), network.metric);
        let named = |list: &[Network]| -> BTreeMap<String, String> {
            list.iter().map(|network| (network.name.clone(), words(network))).collect()
        };
        let (before, after) = (named(&self.networks), named(&networks));
        for name in before.keys().chain(after.keys().filter(|name| !before.contains_key(*name))) {
            let (old, new) = (before.get(name).cloned(), after.get(name).cloned());
            if old != new {
                self.events.push_back(MembershipEvent::NetworkChanged { network: name.clone(), old, new });
            }
        }
        let mut outcome = if self.networks == networks { Regrouped::Same } else { Regrouped::Changed };
        self.networks = networks;
        let mut used: Vec<Endpoint> = all
            .into_iter()
            .filter(|endpoint| self.network_of(endpoint).is_some_and(Network::is_used))
            .collect();
        for left_out in used.drain(used.len().min(MAX_ENDPOINTS)..).collect::<Vec<_>>() {
            let subject = format!("address {} on {}", left_out.address, left_out.name);
            let reason = "a node can announce 16 endpoints, this one is left out: \
                          exclude others with role = 0 for their network";
            self.tell(now, MembershipEvent::LimitReached { subject, reason });
        }
        self.endpoints = used;
        if self.speaker.set_endpoints(&self.endpoints) {
            self.hurry_all(now);
            outcome = Regrouped::Changed;
        }
        outcome
    }

    fn network_of(&self, endpoint: &Endpoint) -> Option<&Network> {
        networks::find(&self.networks, &endpoint.subnet())
    }

    pub(super) fn timing(&self, class: RouteClass) -> Timing {
        match class {
            RouteClass::SameSubnet => self.config.same_subnet,
            RouteClass::CrossSubnet => self.config.cross_subnet,
            RouteClass::CrossSite => self.config.cross_site,
        }
    }

    /// Class of a route between subnets.
    pub(super) fn across(&self, site: Option<&str>) -> RouteClass {
        match (self.config.site.as_deref(), site) {
            (Some(own), Some(theirs)) if own != theirs => RouteClass::CrossSite,
            _ => RouteClass::CrossSubnet,
        }
    }

    /// The routes that a peer should have, and the addresses it shares with us by mistake.
    fn wanted(&self, name: &str) -> Option<(BTreeMap<RouteKey, Wanted>, Vec<IpAddr>, bool)> {
        let peer = self.peers.get(name)?;
        let session = peer.session.as_ref()?;
        let ours = |address: IpAddr| self.endpoints.iter().any(|own| own.address == address);
        let (mine, theirs): (Vec<Endpoint>, Vec<Endpoint>) =
            session.said.endpoints.iter().cloned().partition(|endpoint| ours(endpoint.address));
        let theirs: Vec<Endpoint> = theirs
            .into_iter()
            .filter(|endpoint| self.network_of(endpoint).is_none_or(Network::is_used))
            .collect();
        let lower = if self.config.id < session.life.id { Lower::Own } else { Lower::Peer };
        let chosen = pairs(&self.endpoints, &theirs, lower, self.across(peer.site()));
        let too_many = chosen.len() > MAX_ROUTES_PER_PEER;
        let wanted = chosen.into_iter().take(MAX_ROUTES_PER_PEER).filter_map(|pair| {
            let (local, remote) = (&self.endpoints[pair.local], &theirs[pair.remote]);
            let network = self.network_of(local)?;
            let wanted = Wanted {
                interface: local.interface,
                remote_interface: remote.interface,
                class: pair.class,
                remote_mac: (pair.class == RouteClass::SameSubnet && is_unicast(remote.mac))
                    .then_some(remote.mac),
                network: network.name.clone(),
                metric: network.metric,
                mtu: local.mtu.min(remote.mtu).max(MIN_MTU),
            };
            Some((RouteKey { local: local.address, remote: remote.address }, wanted))
        });
        Some((wanted.collect(), mine.into_iter().map(|endpoint| endpoint.address).collect(), too_many))
    }

    /// Gives a peer the routes it should have.
    fn reconcile(&mut self, now: Nanos, name: &str) {
        let Some((wanted, conflicts, too_many)) = self.wanted(name) else { return };
        for address in conflicts {
            self.tell(now, MembershipEvent::AddressConflict { peer: name.to_owned(), address });
        }
        if too_many {
            let subject = format!("peer {name}");
            let reason = "more than 64 pairs of interfaces could be routes, the rest is left out";
            self.tell(now, MembershipEvent::LimitReached { subject, reason });
        }
        self.remove_unwanted(now, name, &wanted);
        for (key, wanted) in wanted {
            if !self.add_route(now, name, key, &wanted) {
                let subject = format!("peer {name}");
                let reason = "all 1024 slots are in use or rest, its routes have to wait: \
                              exclude networks with role = 0";
                self.tell(now, MembershipEvent::LimitReached { subject, reason });
                self.retry_at_ns = now.saturating_add(RETRY_NS);
                break;
            }
            self.shape_route(name, key, &wanted);
            self.install(name, key);
        }
        let Some(id) = self.peers.get(name).and_then(|peer| peer.session.as_ref()).map(|s| s.life.id) else {
            return;
        };
        for (slot, left) in self.adopted.take(|adopted| adopted.peer() == Some(id)) {
            self.drop_adopted(now, slot, &left, "the peer is back without this endpoint");
        }
    }

    /// Removes routes whose endpoints are gone; one that only has a better pair now stays until that is up.
    fn remove_unwanted(&mut self, now: Nanos, name: &str, wanted: &BTreeMap<RouteKey, Wanted>) {
        let Some(peer) = self.peers.get_mut(name) else { return };
        let Some(session) = peer.session.as_ref() else { return };
        let up: Vec<RouteKey> = peer
            .routes
            .iter()
            .filter(|(_, route)| route.state == RouteState::Up)
            .map(|(key, _)| *key)
            .collect();
        let mut gone = Vec::new();
        for (key, route) in peer.routes.iter_mut().filter(|(key, _)| !wanted.contains_key(key)) {
            let exists = self.endpoints.iter().any(|own| own.address == key.local)
                && session.said.endpoints.iter().any(|theirs| theirs.address == key.remote);
            let replaced = wanted.iter().any(|(other, wanted)| {
                (wanted.interface, wanted.remote_interface)
                    == (route.config.interface, route.remote_interface)
                    && !up.contains(other)
            });
            if exists && replaced && route.state == RouteState::Up && !route.retires(now) {
                route.retire_at_ns.get_or_insert(now.saturating_add(RETIRE_NS));
            } else {
                gone.push((
                    *key,
                    if exists { "another pair of endpoints took its place" } else { "an endpoint is gone" },
                ));
            }
        }
        for (key, reason) in gone {
            self.remove_route(now, name, key, reason);
        }
    }

    /// Makes sure that there is a route. `false` if no slot is free.
    fn add_route(&mut self, now: Nanos, name: &str, key: RouteKey, wanted: &Wanted) -> bool {
        let Some(peer) = self.peers.get(name) else { return true };
        let Some(session) = peer.session.as_ref() else { return true };
        if peer.routes.contains_key(&key) {
            return true;
        }
        let id = session.life.id;
        let (slot, config, state, installed) = match self.adopted.claim(id, key.local, key.remote) {
            Some((slot, adopted)) => (slot, adopted.config, adopted.state, adopted.installed),
            None => {
                let Some(slot) = self.slots.allocate(now) else { return false };
                (slot, SlotConfig::default(), RouteState::Down, None)
            }
        };
        let mut route = Route {
            slot,
            config,
            remote_interface: wanted.remote_interface,
            class: wanted.class,
            remote_mac: wanted.remote_mac,
            network: wanted.network.clone(),
            metric: wanted.metric,
            mtu: wanted.mtu,
            state,
            slot_sequence: 0,
            next_hello_ns: now,
            interval_ns: 0,
            retire_at_ns: None,
            installed,
        };
        route.config.local = address_bytes(key.local);
        route.config.remote = address_bytes(key.remote);
        route.hurry(now);
        if let Some(peer) = self.peers.get_mut(name) {
            peer.routes.insert(key, route);
        }
        self.events.push_back(MembershipEvent::RouteAdded {
            peer: name.to_owned(),
            local: key.local,
            remote: key.remote,
            network: wanted.network.clone(),
        });
        true
    }

    /// Brings a route's facts and keys up to date. Its generation changes only with its meaning.
    fn shape_route(&mut self, name: &str, key: RouteKey, wanted: &Wanted) {
        let generation = self.next_generation;
        let Some(peer) = self.peers.get_mut(name) else { return };
        let Some(session) = peer.session.as_ref() else { return };
        let Some(route) = peer.routes.get_mut(&key) else { return };
        route.remote_interface = wanted.remote_interface;
        (route.class, route.remote_mac) = (wanted.class, wanted.remote_mac);
        route.network.clone_from(&wanted.network);
        (route.metric, route.mtu, route.retire_at_ns) = (wanted.metric, wanted.mtu, None);
        route.config.interface = wanted.interface;
        let lives = lives(&self.speaker.life, &session.life);
        let meaning = SlotConfig { peer: session.life.id.get(), lives, ..route.config };
        if meaning != route.config || meaning.generation == 0 {
            let keys = [KeySet::default(); 2];
            route.config = SlotConfig { generation, remote_slot: NO_SLOT, keys, ..meaning };
            self.next_generation = generation.wrapping_add(1).max(1);
        }
        session.exchange.shape(&mut route.config);
    }

    /// Tells the shell about a route if that is news.
    pub(super) fn install(&mut self, name: &str, key: RouteKey) {
        let Some(route) = self.peers.get(name).and_then(|peer| peer.routes.get(&key)) else { return };
        let install = RouteInstall {
            slot: route.slot,
            config: route.config,
            class: route.class,
            remote_mac: route.remote_mac,
            timing: self.timing(route.class),
            network: route.network.clone(),
            metric: route.metric,
            mtu: route.mtu,
        };
        if route.installed.as_ref() == Some(&install) {
            return;
        }
        self.commands.push_back(MembershipCommand::SetRoute(Box::new(install.clone())));
        if let Some(route) = self.peers.get_mut(name).and_then(|peer| peer.routes.get_mut(&key)) {
            route.installed = Some(install);
        }
    }

    fn remove_route(&mut self, now: Nanos, name: &str, key: RouteKey, reason: &'static str) {
        let Some(route) = self.peers.get_mut(name).and_then(|peer| peer.routes.remove(&key)) else { return };
        self.slots.release(now, route.slot);
        self.commands.push_back(MembershipCommand::RemoveRoute(route.slot));
        let (local, remote) = (key.local, key.remote);
        self.events.push_back(MembershipEvent::RouteRemoved { peer: name.to_owned(), local, remote, reason });
    }

    /// Ends the session with a peer: its routes and its adapter go.
    pub(super) fn drop_session(&mut self, now: Nanos, name: &str, reason: &'static str) {
        let keys: Vec<RouteKey> =
            self.peers.get(name).map_or_else(Vec::new, |peer| peer.routes.keys().copied().collect());
        for key in keys {
            self.remove_route(now, name, key, reason);
        }
        self.remove_keys(name);
        let Some(peer) = self.peers.get_mut(name) else { return };
        peer.session = None;
        if let Some((id, _)) = peer.installed_adapter.take() {
            self.commands.push_back(MembershipCommand::RemovePeerAdapter(id));
        }
    }

    /// Adopted slots heartbeat at once, with what is known before their peer's hello.
    fn settle_adopted(&mut self, now: Nanos) {
        let by_id = |id: NodeId| self.peers.iter().find(move |(_, peer)| peer.id() == Some(id));
        let closed = self.peers.values().all(|peer| peer.id().is_some());
        let known = |adopted: &AdoptedSlot| !closed || adopted.peer().is_some_and(|id| by_id(id).is_some());
        let exists = |adopted: &AdoptedSlot| self.endpoints.iter().any(|own| own.address == adopted.local());
        let reason = |adopted: &AdoptedSlot| match () {
            () if !known(adopted) => Some("its peer is not configured any more"),
            () if !exists(adopted) => Some("an endpoint is gone"),
            () if adopted.until_ns <= now => {
                Some("its peer did not introduce itself again after the restart")
            }
            () => None,
        };
        let over: BTreeMap<Slot, &'static str> =
            self.adopted.iter().filter_map(|(slot, adopted)| Some((*slot, reason(adopted)?))).collect();
        let mut installs = Vec::new();
        for (slot, adopted) in self.adopted.iter().filter(|(slot, _)| !over.contains_key(slot)) {
            let Some(own) = self.endpoints.iter().find(|own| own.address == adopted.local()) else {
                continue;
            };
            let Some(network) = self.network_of(own) else { continue };
            let site = adopted.peer().and_then(by_id).and_then(|(_, peer)| peer.site());
            let same = own.subnet().contains(adopted.remote());
            let class = if same { RouteClass::SameSubnet } else { self.across(site) };
            let install = RouteInstall {
                slot: *slot,
                config: SlotConfig { interface: own.interface, ..adopted.config },
                class,
                remote_mac: None,
                timing: self.timing(class),
                network: network.name.clone(),
                metric: network.metric,
                mtu: own.mtu.max(MIN_MTU),
            };
            if adopted.installed.as_ref() != Some(&install) {
                installs.push(install);
            }
        }
        for (slot, adopted) in self.adopted.iter_mut() {
            if let Some(install) = installs.iter().find(|install| install.slot == *slot) {
                adopted.config = install.config;
                adopted.installed = Some(install.clone());
            }
        }
        let set = |install| MembershipCommand::SetRoute(Box::new(install));
        self.commands.extend(installs.into_iter().map(set));
        for (slot, reason) in over {
            if let Some((slot, left)) = self.adopted.take_slot(slot) {
                self.drop_adopted(now, slot, &left, reason);
            }
        }
    }

    fn drop_adopted(&mut self, now: Nanos, slot: Slot, left: &AdoptedSlot, reason: &'static str) {
        self.slots.release(now, slot);
        self.commands.push_back(MembershipCommand::RemoveRoute(slot));
        let peer = left
            .peer()
            .and_then(|id| self.name_of(id))
            .unwrap_or_else(|| format!("node {}", left.config.peer));
        let (local, remote) = (left.local(), left.remote());
        self.events.push_back(MembershipEvent::RouteRemoved { peer, local, remote, reason });
    }

    /// The configured peer with this id.
    pub(super) fn name_of(&self, id: NodeId) -> Option<String> {
        self.peers.iter().find(|(_, peer)| peer.id() == Some(id)).map(|(name, _)| name.clone())
    }
}

impl Network {
    fn is_used(&self) -> bool {
        self.role != Role::None
    }
}
