//! Slots that an earlier daemon left in the pinned maps: they keep working, and wait here for their peer's hello.

use crate::types::{Nanos, NodeId, RouteState, Slot, address_from_bytes};
use netft_common::map::SlotConfig;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// How long a peer may take to introduce itself again, in nanoseconds.
const WAIT_NS: Nanos = 10_000_000_000;

/// One of them.
#[derive(Clone, Debug)]
pub struct AdoptedSlot {
    /// As the maps have it.
    pub config: SlotConfig,
    /// What the detector last said.
    pub state: RouteState,
    /// What the shell was told.
    pub installed: Option<super::RouteInstall>,
    /// When its time is over.
    pub until_ns: Nanos,
}

impl AdoptedSlot {
    /// The peer; [`Adopted::add`] has checked it.
    pub fn peer(&self) -> Option<NodeId> {
        NodeId::new(self.config.peer)
    }

    /// Own address.
    pub fn local(&self) -> IpAddr {
        address_from_bytes(self.config.local)
    }

    /// The peer's.
    pub fn remote(&self) -> IpAddr {
        address_from_bytes(self.config.remote)
    }
}

/// All of them.
#[derive(Debug, Default)]
pub struct Adopted {
    slots: BTreeMap<Slot, AdoptedSlot>,
}

impl Adopted {
    /// Takes one in. `false` for one that no daemon of ours would have left.
    pub fn add(&mut self, now: Nanos, slot: Slot, config: &SlotConfig) -> bool {
        if config.generation == 0 || NodeId::new(config.peer).is_none() {
            return false;
        }
        let adopted = AdoptedSlot {
            config: *config,
            state: RouteState::Down,
            installed: None,
            until_ns: now.saturating_add(WAIT_NS),
        };
        self.slots.insert(slot, adopted);
        true
    }

    /// Whether none is left.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// How many are left.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// When the first one's time is over.
    pub fn timeout_ns(&self) -> Nanos {
        self.slots.values().map(|slot| slot.until_ns).min().unwrap_or(Nanos::MAX)
    }

    /// Own addresses in them.
    pub fn local_addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.slots.values().map(AdoptedSlot::local)
    }

    /// What the detector says.
    pub fn set_state(&mut self, slot: Slot, state: RouteState) {
        if let Some(adopted) = self.slots.get_mut(&slot) {
            adopted.state = state;
        }
    }

    /// Takes the one of this peer and these addresses out, for a route.
    pub fn claim(&mut self, peer: NodeId, local: IpAddr, remote: IpAddr) -> Option<(Slot, AdoptedSlot)> {
        let slot = self.slots.iter().find_map(|(slot, adopted)| {
            let same = adopted.peer() == Some(peer) && adopted.local() == local && adopted.remote() == remote;
            same.then_some(*slot)
        })?;
        self.slots.remove_entry(&slot)
    }

    /// Takes out all that `over` says so.
    pub fn take(&mut self, over: impl Fn(&AdoptedSlot) -> bool) -> Vec<(Slot, AdoptedSlot)> {
        let slots: Vec<Slot> =
            self.slots.iter().filter(|(_, adopted)| over(adopted)).map(|(slot, _)| *slot).collect();
        slots.into_iter().filter_map(|slot| self.slots.remove_entry(&slot)).collect()
    }

    /// Takes out one.
    pub fn take_slot(&mut self, slot: Slot) -> Option<(Slot, AdoptedSlot)> {
        self.slots.remove_entry(&slot)
    }

    /// Whether one of `peer`'s is up with keys of other lives than `lives`.
    pub fn contradicts(&self, peer: NodeId, lives: u32) -> bool {
        self.slots.values().any(|adopted| {
            adopted.peer() == Some(peer) && adopted.state == RouteState::Up && adopted.config.lives != lives
        })
    }

    /// Each, by slot.
    pub fn iter(&self) -> impl Iterator<Item = (&Slot, &AdoptedSlot)> {
        self.slots.iter()
    }

    /// Each, to change.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (&Slot, &mut AdoptedSlot)> {
        self.slots.iter_mut()
    }
}
