//! Routes of the engine: into the maps for XDP, to the detection thread and to the data thread.

use super::neighbours::{self, Neighbour};
use super::xsk::Headers;
use super::{Engine, EngineError, EngineInput, data, detection, now};
use crate::sys::socket::SocketAddress;
use netft_common::map::SlotConfig;
use netft_common::wire::{ENCAPSULATION_BYTES, PORT};
use netft_core::data::DataRoute;
use netft_core::detect::{Adopted, RouteSetup};
use netft_core::membership::RouteInstall;
use netft_core::types::{InterfaceNumber, LinkState, Nanos, NodeId, Slot, address_from_bytes};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// First sequence of a route that has none yet: 100 per millisecond of boottime, above whatever an earlier use of the
/// same addresses has sent at the fastest pace (20 per millisecond), so that the peer never takes it for a replay.
const NS_PER_SEQUENCE: u64 = 10_000;
/// Programs that run on other CPUs have left a slot this long after it was freed; they take microseconds.
const GRACE: Duration = Duration::from_millis(1);
/// How long a peer at least counts as reachable after the last sign of it, when it is to witness that a path works.
const WITNESS_NS: Nanos = 300_000_000;
/// Smallest MTU that `netft0` gets: below, IPv6 ends (RFC 8200, section 5).
const SMALLEST_MTU: u16 = 1280;

impl Engine {
    /// Puts a route into the maps and lets the detector watch it. Idempotent; a slot that was adopted and has the same
    /// peer, in the same life, and the same addresses goes on without interruption, also with other keys.
    ///
    /// # Errors
    /// [`EngineError::NoSocket`] while no interface has the local address: the route is installed once one has.
    pub async fn set_route(&mut self, route: &RouteInstall) -> Result<(), EngineError> {
        let slot = route.slot;
        let maps = Arc::clone(&self.loaded.shared);
        let old = maps.slots.load(slot.index());
        if !same_meaning(&old, &route.config) {
            if self.routes.remove(&slot).is_some() {
                self.detection.send(detection::Command::RemoveRoute(slot));
                self.data.remove_route(slot);
            }
            self.adopted.remove(&slot);
            if old.generation != 0 {
                maps.slots.store(slot.index(), &SlotConfig::default());
                tokio::time::sleep(GRACE).await;
            }
            maps.reset_state(slot.index());
        } else if old.keys != route.config.keys {
            maps.slots.store_keys(slot.index(), &route.config.keys);
        }
        if (SlotConfig { keys: route.config.keys, ..old }) != route.config {
            maps.slots.store(slot.index(), &route.config);
        }
        self.routes.insert(slot, route.clone());
        let installed = self.install(slot);
        self.update_mtu();
        installed
    }

    /// Takes a route out. Idempotent.
    pub async fn remove_route(&mut self, slot: Slot) {
        self.adopted.remove(&slot);
        self.detection.send(detection::Command::RemoveRoute(slot));
        self.data.remove_route(slot);
        self.loaded.shared.slots.store(slot.index(), &SlotConfig::default());
        self.routes.remove(&slot);
        self.sizes.remove(&slot);
        self.sockets.bury();
        self.update_mtu();
    }

    /// Hands routes again whose local address got other sockets.
    pub(super) fn reinstall(&mut self, locals: &[IpAddr]) {
        let concerned = |route: &&RouteInstall| locals.contains(&address_from_bytes(route.config.local));
        let slots: Vec<Slot> = self.routes.values().filter(concerned).map(|route| route.slot).collect();
        for slot in slots {
            if let Err(error) = self.install(slot) {
                self.note(error.to_string());
            }
        }
    }

    /// Tells both threads about a route.
    fn install(&mut self, slot: Slot) -> Result<(), EngineError> {
        let Some(route) = self.routes.get(&slot) else {
            return Ok(());
        };
        let local = address_from_bytes(route.config.local);
        let endpoint = self.sockets.get(local).ok_or(EngineError::NoSocket(local))?.clone();
        let (Some(peer), Some(interface)) = (NodeId::new(route.config.peer), interface_number(&route.config))
        else {
            return Err(EngineError::NoSocket(local));
        };
        let remote = SocketAddress::new(address_from_bytes(route.config.remote), PORT);
        let state = self.loaded.shared.states.get(slot.index());
        let was_up = state.engine_flags.load(Ordering::Acquire) & 1 == 1;
        let adopted = if self.adopted.remove(&slot) && was_up { Adopted::Up } else { Adopted::No };
        let first_sequence = match state.next_sequence.load(Ordering::Acquire) {
            0 => now() / NS_PER_SEQUENCE,
            next => next,
        };
        let setup = RouteSetup {
            slot,
            peer,
            interface,
            metric: self.rank(route),
            timing: route.timing,
            first_sequence,
            adopted,
        };
        let data_route = data::Route {
            peer,
            interface,
            metric: self.rank(route),
            largest: claimed(route),
            carried: self.carried(route),
            data: DataRoute {
                local: route.config.local,
                remote: route.config.remote,
                remote_slot: route.config.remote_slot,
            },
            socket: endpoint.data,
            remote,
            headers: self
                .macs
                .get(&interface)
                .zip(route.remote_mac.filter(is_unicast))
                .map(|(own, theirs)| Headers::new(*own, theirs, route.config.local, route.config.remote)),
            patience_ns: route.timing.delay_ns.saturating_mul(route.timing.threshold.into()).max(WITNESS_NS),
        };
        let path = detection::Path { config: route.config, socket: endpoint.heartbeat, remote };
        self.data.set_route(slot, data_route);
        self.detection.send(detection::Command::SetRoute(setup, path));
        Ok(())
    }

    /// Sees to it that the kernel knows where the peers behind routes that are down can be reached, so that they come
    /// back as soon as their paths do. Returns whether there are any: then this is wanted again, a few times a second.
    pub fn keep_neighbours(&mut self) -> bool {
        let mut any = false;
        for route in self.routes.values() {
            let Some(mac) = route.remote_mac else { continue };
            let link = interface_number(&route.config).and_then(|number| self.interfaces.get(&number));
            let state = self.loaded.shared.states.get(route.slot.index());
            if let Some(&(ifindex, LinkState::Up)) = link
                && state.engine_flags.load(Ordering::Acquire) & 1 == 0
            {
                any = true;
                let address = address_from_bytes(route.config.remote);
                // If it is refused, the kernel asks the link, as ever.
                let _ = neighbours::ensure(&mut self.netlink, &Neighbour { ifindex, address, mac });
            }
        }
        any
    }

    /// What fits through every route as its interfaces claim, so that any of them can take over, and is fit for the
    /// adapters of all peers. Where a claim turns out to be wrong, the route ranks behind others; the claim counts
    /// nonetheless, unless a peer has no route that holds what it claims.
    pub(super) fn wanted_mtu(&self) -> u16 {
        let largest = u16::try_from(data::MAX_FRAME - 18).unwrap_or(u16::MAX);
        let Some(claimed) = self.routes.values().map(claimed).min() else {
            return self.options.adapter.mtu;
        };
        let mut best: BTreeMap<u16, u16> = BTreeMap::new();
        for route in self.routes.values() {
            let carried = self.carried(route);
            best.entry(route.config.peer).and_modify(|most| *most = carried.max(*most)).or_insert(carried);
        }
        let fits = best.into_values().fold(claimed, u16::min).saturating_sub(ENCAPSULATION_BYTES);
        let theirs = self.peer_mtus.values().copied().min().unwrap_or(largest);
        fits.min(theirs).clamp(SMALLEST_MTU, largest)
    }

    /// Bytes of an IP packet that a route carries, as far as is known.
    fn carried(&self, route: &RouteInstall) -> u16 {
        let found = self.data.board.size(route.slot).carried.load(Ordering::Relaxed);
        let claimed = claimed(route);
        u16::try_from(found).ok().filter(|found| *found != 0).map_or(claimed, |found| found.min(claimed))
    }

    /// The metric by which routes are chosen: those that don't carry full frames come after all others.
    fn rank(&self, route: &RouteInstall) -> u32 {
        const NARROW: u32 = 1 << 31;
        let full = self.adapter.identity().mtu.saturating_add(ENCAPSULATION_BYTES);
        match self.carried(route) < full.min(claimed(route)) {
            true => route.metric.saturating_add(NARROW),
            false => route.metric,
        }
    }

    /// What a route was found to carry, in bytes of an IP packet; `None` if nobody has looked yet.
    pub fn route_mtu(&self, slot: Slot) -> Option<u32> {
        let found = self.data.board.size(slot).carried.load(Ordering::Relaxed);
        u32::try_from(found).ok().filter(|found| *found != 0 && self.routes.contains_key(&slot))
    }

    /// Some routes carry something else than was known: they may rank differently, and the adapter follows.
    pub(super) fn take_sizes(&mut self) {
        self.update_mtu();
        let routes: Vec<RouteInstall> = self.routes.values().cloned().collect();
        for route in routes {
            let now = (self.rank(&route), self.carried(&route));
            if self.sizes.get(&route.slot) == Some(&now) {
                continue;
            }
            let before = self.sizes.insert(route.slot, now).map_or(claimed(&route), |(_, carried)| carried);
            if let Err(error) = self.install(route.slot) {
                self.note(error.to_string());
            }
            if before != now.1 {
                self.tell_size(&route, now.1);
            }
        }
    }

    fn tell_size(&mut self, route: &RouteInstall, carried: u16) {
        let (local, remote) =
            (address_from_bytes(route.config.local), address_from_bytes(route.config.remote));
        let input = match claimed(route) {
            claimed if carried < claimed => EngineInput::Note(format!(
                "the route {local} -> {remote} carries packets of {carried} bytes only, although its interfaces have an MTU of \
                 {claimed}: it is used last; give what lies between the same MTU"
            )),
            _ => EngineInput::Told(format!(
                "the route {local} -> {remote} carries packets of {carried} bytes again"
            )),
        };
        self.pending.push_back(input);
    }

    fn update_mtu(&mut self) {
        let mtu = self.wanted_mtu();
        if let Err(error) = self.adapter.set_mtu(mtu) {
            self.note(error.to_string());
        }
    }
}

/// Whether evidence of one is evidence of the other: same peer in the same life, same addresses.
fn same_meaning(old: &SlotConfig, new: &SlotConfig) -> bool {
    old.generation != 0
        && (old.peer, old.lives, old.local, old.remote) == (new.peer, new.lives, new.local, new.remote)
}

/// Bytes of an IP packet that both interfaces of a route claim to carry.
fn claimed(route: &RouteInstall) -> u16 {
    u16::try_from(route.mtu).unwrap_or(u16::MAX)
}

fn is_unicast(mac: &[u8; 6]) -> bool {
    *mac != [0; 6] && mac[0] & 1 == 0
}

fn interface_number(config: &SlotConfig) -> Option<InterfaceNumber> {
    u8::try_from(config.interface).ok().and_then(InterfaceNumber::new)
}
