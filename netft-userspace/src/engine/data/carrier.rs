//! Which routes a frame takes, by the policy in force, and what is sent again when a route dies. What decides is in
//! [`netft_core::carry`]; here it reads the words that the detection thread stores.

use super::Route;
use super::outgoing::{READ, Read};
use super::worker::Worker;
use crate::engine::maps::SharedMaps;
use crate::sys;
use netft_common::map::{ActiveRoute, MAX_NODES, Standing};
use netft_core::carry::{Evidence, Keep, Outlet, Outlets, Policy, flow_of};
use netft_core::types::{Nanos, NodeId, Slot};
use std::sync::atomic::Ordering;

/// A frame isn't sent again when it is older than twice the detection time and this much: whoever waited for it has given
/// up.
const EXPIRES_NS: Nanos = 1_000_000_000;

/// What a thread knows of the ways to peers beyond the active-route words.
#[derive(Debug)]
pub(super) struct Carrier {
    keep: Keep,
    /// By peer.
    outlets: Box<[Outlets]>,
    /// A packet that is being sent again.
    packet: Box<[u8]>,
    /// Something was kept since the last stamp.
    fresh: bool,
}

/// Where a frame goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ways {
    /// Over this route,
    pub(super) first: Slot,
    /// and a copy over this one.
    pub(super) second: Option<Slot>,
}

impl Carrier {
    pub(super) fn new(keep_bytes: usize) -> Self {
        Self {
            keep: Keep::new(keep_bytes),
            outlets: vec![Outlets::default(); MAX_NODES as usize].into(),
            packet: vec![0; READ].into(),
            fresh: false,
        }
    }

    /// A route over which frames may go.
    pub(super) fn set_route(&mut self, slot: Slot, route: &Route) {
        self.outlets[usize::from(route.peer.get())].set(Outlet { slot, metric: route.metric });
    }

    /// It is gone.
    pub(super) fn remove_route(&mut self, slot: Slot) {
        self.outlets.iter_mut().for_each(|outlets| outlets.remove(slot));
    }
}

impl Worker {
    /// The ways of a frame to `peer`; `None` if there is none now.
    pub(super) fn ways(&self, peer: NodeId, frame: &[u8]) -> Option<Ways> {
        let (maps, routes) = (&*self.shared.maps, &*self.routes);
        let active = active_routes(maps, routes, peer);
        let [first, backup] = active?;
        match self.shared.board.policy() {
            Policy::Failover => first.or(backup).map(|first| Ways { first, second: None }),
            Policy::Duplicate => {
                first.or(backup).map(|first| Ways { first, second: backup.filter(|second| *second != first) })
            }
            Policy::Spread => {
                let is_usable = |slot: Slot| {
                    let leads = routes[slot.index()].as_ref().is_some_and(|route| is_alive(maps, route));
                    leads && standing(maps, slot).is_up()
                };
                let outlets = &self.carrier.outlets[usize::from(peer.get())];
                let spread = outlets.spread(flow_of(frame), is_usable);
                spread.or(first).or(backup).map(|first| Ways { first, second: None })
            }
        }
    }

    /// Keeps what was read from `netft0` and sent over one route alone, with the sequences from `sequence` on.
    pub(super) fn keep(&mut self, slot: Slot, peer: NodeId, sequence: u64, read: &[u8]) {
        let overflow = self.carrier.keep.push(slot, peer, sequence, read);
        self.carrier.fresh = true;
        if overflow > 0 {
            self.status.keep_overflow.fetch_add(overflow, Ordering::Relaxed);
        }
    }

    /// Everything that was kept has been handed to the kernel by now.
    pub(super) fn stamp_kept(&mut self) {
        if std::mem::take(&mut self.carrier.fresh) {
            self.carrier.keep.stamp(sys::boottime());
            self.status.kept_bytes.store(self.carrier.keep.bytes(), Ordering::Relaxed);
        }
    }

    /// Whether a route died that packets are kept for: what it may have lost goes before anything newer. Asked before each
    /// packet: mostly there is one such route.
    pub(super) fn is_recovery_due(&self) -> bool {
        let mut kept = (0..).map_while(|position| self.carrier.keep.route(position));
        kept.any(|slot| !standing(&self.shared.maps, slot).is_up())
    }

    /// Lets go of what routes have carried, and sends again what those that died may have lost. Call it before newer
    /// frames are sent.
    pub(super) fn recover(&mut self) {
        let mut sent = 0;
        let mut position = 0;
        while let Some(slot) = self.carrier.keep.route(position) {
            position += 1;
            sent += self.recover_route(slot);
        }
        self.carrier.keep.tidy();
        if sent > 0 {
            self.send_runs();
            self.bypass.flush();
            self.stamp_kept();
        }
    }

    /// A route is about to go, or to become another one.
    pub(super) fn recover_removed(&mut self, slot: Slot) {
        self.routes[slot.index()] = None;
        if let Some(leader) = &mut self.leader {
            leader.sizes.remove_route(slot);
            self.shared.board.size(slot).carried.store(0, Ordering::Relaxed);
        }
        self.carrier.remove_route(slot);
        if self.recover_route(slot) > 0 {
            self.send_runs();
        }
        self.expire(slot, Nanos::MAX);
    }

    /// Returns how many frames were sent again.
    fn recover_route(&mut self, slot: Slot) -> u64 {
        let mut sent = 0;
        let evidence = match &self.routes[slot.index()] {
            Some(_) => evidence(&self.shared.maps, slot),
            None => Evidence { standing: Standing::Down { covered_ns: 0 }, completed_sent_ns: 0 },
        };
        self.carrier.keep.release(slot, evidence);
        if self.carrier.keep.lost(slot, evidence).is_none() {
            return 0;
        }
        let patience_ns = self.routes[slot.index()].as_ref().map_or(0, |route| route.patience_ns);
        self.expire(slot, sys::boottime().saturating_sub(EXPIRES_NS.saturating_add(2 * patience_ns)));
        let mut packet = std::mem::take(&mut self.carrier.packet);
        while let Some(kept) = self.carrier.keep.lost(slot, evidence) {
            let read = Read { bytes: self.carrier.keep.first_bytes(slot) };
            let ways = self.ways(kept.peer, read.packet());
            let Some(Ways { first: to, .. }) =
                ways.filter(|ways| ways.first != slot || evidence.standing.is_up())
            else {
                // It waits for a route.
                break;
            };
            if self.carrier.keep.move_first(slot, to, &mut packet).is_none() {
                // Longer than anything that is read: it can't be.
                self.carrier.keep.drop_first(slot);
                continue;
            }
            self.carrier.fresh = true;
            if let Some(cut) = (Read { bytes: &packet[..kept.length] }).cut() {
                sent += cut.len() as u64;
                self.send_over(to, &cut, kept.sequence);
            }
        }
        self.carrier.packet = packet;
        self.status.replayed.fetch_add(sent, Ordering::Relaxed);
        sent
    }

    /// Gives up frames of a route that were first sent before `oldest_ns`.
    fn expire(&mut self, slot: Slot, oldest_ns: Nanos) {
        let lost = Evidence { standing: Standing::Down { covered_ns: 0 }, completed_sent_ns: 0 };
        while self.carrier.keep.lost(slot, lost).is_some_and(|kept| kept.first_sent_ns < oldest_ns) {
            self.carrier.keep.drop_first(slot);
            self.status.keep_expired.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// The active route to a peer and its backup, as far as they are there and their interfaces live; `None` if none was ever
/// active.
fn active_routes(maps: &SharedMaps, routes: &[Option<Route>], peer: NodeId) -> Option<[Option<Slot>; 2]> {
    let word = maps.active.get(usize::from(peer.get())).load(Ordering::Acquire);
    // Generation 0 = never set.
    if word == 0 {
        return None;
    }
    let ActiveRoute { slot, backup, .. } = ActiveRoute::from_word(word);
    Some([slot, backup].map(|index| {
        let slot = Slot::new(u32::from(index)).filter(|_| index != ActiveRoute::NONE)?;
        let route = routes[slot.index()].as_ref().filter(|route| route.peer == peer)?;
        is_alive(maps, route).then_some(slot)
    }))
}

fn is_alive(maps: &SharedMaps, route: &Route) -> bool {
    maps.engine_state().dead_interfaces.load(Ordering::Acquire) >> route.interface.get() & 1 == 0
}

fn standing(maps: &SharedMaps, slot: Slot) -> Standing {
    Standing::from_word(maps.states.get(slot.index()).engine_flags.load(Ordering::Acquire))
}

/// The standing is read last: a stamp that is read with "up" was made before the route could have gone down and come back.
fn evidence(maps: &SharedMaps, slot: Slot) -> Evidence {
    let completed_sent_ns = maps.states.get(slot.index()).completed_sent_ns.load(Ordering::Acquire);
    Evidence { standing: standing(maps, slot), completed_sent_ns }
}
