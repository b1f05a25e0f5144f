//! Two nodes with one IPv4 and one IPv6 route between them: what both the maps and plain memory are filled from.

use netft_common::map::{KeySet, NodeConfig, SlotConfig};
use netft_common::packet::mapped;
use netft_common::wire::Heartbeat;
use netft_common::{heartbeat, map::EngineState};
use std::sync::atomic::Ordering::Relaxed;

/// The cluster of both.
pub const CLUSTER: u32 = 0xc1a5_7e12;
/// Key epoch of all their routes.
pub const EPOCH: u32 = 77;

/// IP version of a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// Both.
pub const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

/// What a node is set up with.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Who it is.
    pub node: NodeConfig,
    /// Its routes.
    pub slots: Vec<(u32, SlotConfig)>,
    /// Its addresses.
    pub local: Vec<[u8; 16]>,
    /// The engine's last tick, boottime.
    pub tick_ns: u64,
    /// Wire flags that replies carry.
    pub flags: u64,
}

/// Address of a node (1 or 2), as in maps.
pub fn address(node: u16, family: Family) -> [u8; 16] {
    let id = node.to_le_bytes()[0];
    match family {
        Family::V4 => mapped([10, 77, 1, id]),
        Family::V6 => {
            let mut address = [0; 16];
            address[..4].copy_from_slice(&[0xfd, 0x77, 0, 1]);
            address[15] = id;
            address
        }
    }
}

/// Slot of the route on a node: different at both ends.
pub fn slot(node: u16, family: Family) -> u32 {
    u32::from(node) * 100 + if family == Family::V4 { 4 } else { 6 }
}

/// MAC of a node.
pub fn mac(node: u16) -> [u8; 6] {
    [2, 0, 0, 0, 0, node.to_le_bytes()[0]]
}

fn key(from: u16, family: Family) -> [u64; 2] {
    [0x1111_2222_3333_0000 + u64::from(from), 0x9999_aaaa_bbbb_0000 + u64::from(family == Family::V6)]
}

/// Node 1 or 2.
pub fn setup(id: u16) -> Setup {
    let peer = 3 - id;
    let config = |family| SlotConfig {
        generation: 1,
        remote_slot: slot(peer, family),
        peer,
        interface: 0,
        lives: 1,
        local: address(id, family),
        remote: address(peer, family),
        keys: [KeySet::sending(EPOCH, key(id, family), key(peer, family)), KeySet::default()],
    };
    Setup {
        node: NodeConfig { layout: 1, cluster_id: CLUSTER, node_id: id, ..NodeConfig::default() },
        slots: FAMILIES.map(|family| (slot(id, family), config(family))).to_vec(),
        local: FAMILIES.map(|family| address(id, family)).to_vec(),
        tick_ns: 0,
        flags: 0,
    }
}

impl Setup {
    /// Configuration of the route of a family.
    pub fn route(&self, family: Family) -> &SlotConfig {
        let wanted = address(self.node.node_id, family);
        &self.slots.iter().find(|(_, config)| config.local == wanted).expect("both families are set up").1
    }

    /// The route's configuration, to change.
    pub fn route_mut(&mut self, family: Family) -> &mut SlotConfig {
        let wanted = address(self.node.node_id, family);
        &mut self.slots.iter_mut().find(|(_, config)| config.local == wanted).expect("both are set up").1
    }

    /// Leg 1 of this node over a route.
    pub fn request(&self, family: Family, sequence: u64, now_ns: u64) -> Heartbeat {
        let engine = EngineState::default();
        engine.tick_ns.store(self.tick_ns, Relaxed);
        heartbeat::request(&self.node, self.route(family), &engine, sequence, now_ns, None)
            .expect("slot is known")
    }

    /// A leg of this node with some fields changed and the tag right.
    pub fn forge(&self, family: Family, leg: Heartbeat, change: impl FnOnce(&mut Heartbeat)) -> Heartbeat {
        let route = self.route(family);
        let mut leg = leg;
        change(&mut leg);
        let addresses = heartbeat::Addresses::new(route.local, route.remote);
        leg.tag = heartbeat::tag(route.keys[0].send_key, &addresses, &leg);
        leg
    }
}
