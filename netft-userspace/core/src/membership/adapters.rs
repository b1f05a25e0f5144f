//! Whose `netft0` is whose: own MTU, conflicts, and which peers' adapters the shell may know.

use super::machine::Membership;
use super::{Adapter, AdapterYield, MembershipCommand, MembershipEvent};
use crate::adapter::{self, AdapterSeed};
use crate::types::{Nanos, NodeId};
use netft_common::wire::ENCAPSULATION_BYTES;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, Ipv6Addr};

/// IPv6 needs this much (RFC 8200, section 5).
pub const MIN_MTU: u32 = 1280;

impl Membership {
    /// Own MTU and identity, and those of the peers.
    pub(super) fn settle_adapters(&mut self, now: Nanos) {
        let before = self.speaker.adapter;
        let routes = self.peers.values().flat_map(|peer| peer.routes.values());
        if let Some(mtu) = routes.map(|route| route.mtu).min() {
            let inner = mtu.saturating_sub(u32::from(ENCAPSULATION_BYTES)).max(MIN_MTU);
            self.seed.mtu = u16::try_from(inner).unwrap_or(u16::MAX);
        }
        let theirs: BTreeMap<NodeId, (String, Adapter)> = self
            .peers
            .iter()
            .filter_map(|(name, peer)| {
                peer.session.as_ref().map(|session| (session.life.id, (name.clone(), session.said.adapter)))
            })
            .collect();
        self.give_way(&theirs);
        let adapter = self.seed.adapter();
        for (id, (peer, theirs)) in &theirs {
            let who = if *id < self.config.id { AdapterYield::Here } else { AdapterYield::There };
            if let Some(what) = adapter::conflict(&before, theirs) {
                self.tell(now, MembershipEvent::AdapterConflict { peer: peer.clone(), what, who });
            }
        }
        if adapter != before {
            self.speaker.adapter = adapter;
            self.commands.push_back(MembershipCommand::SetOwnAdapter(adapter));
            let (old, new) = (before.to_string(), adapter.to_string());
            self.events.push_back(MembershipEvent::AdapterChanged { old, new });
            self.hurry_all(now);
        }
        self.settle_peer_adapters(adapter, &theirs);
    }

    /// Takes the next free identity if a peer with a lower id has this one.
    fn give_way(&mut self, theirs: &BTreeMap<NodeId, (String, Adapter)>) {
        let own = self.seed.adapter();
        let mut lower = theirs.range(..self.config.id);
        if lower.all(|(_, (_, adapter))| adapter::conflict(&own, adapter).is_none()) {
            return;
        }
        let free = |seed: &AdapterSeed| {
            let candidate = seed.adapter();
            theirs.values().all(|(_, adapter)| adapter::conflict(&candidate, adapter).is_none())
        };
        let next = (1..=adapter::MAX_SALT)
            .map(|step| AdapterSeed { salt: self.seed.salt.wrapping_add(step), ..self.seed })
            .find(free);
        self.seed = next.unwrap_or(self.seed);
    }

    /// A peer's adapter is known to the shell while nobody before it in line has the same identity.
    fn settle_peer_adapters(&mut self, own: Adapter, theirs: &BTreeMap<NodeId, (String, Adapter)>) {
        let (mut taken, mut set) = (Taken::default(), Vec::new());
        taken.add(&own);
        for (id, (name, adapter)) in theirs {
            let wanted = taken.add(adapter).then_some((*id, *adapter));
            let Some(peer) = self.peers.get_mut(name) else { continue };
            if peer.installed_adapter == wanted {
                continue;
            }
            peer.installed_adapter = wanted;
            match wanted {
                Some((id, adapter)) => set.push(MembershipCommand::SetPeerAdapter(id, adapter)),
                None => self.commands.push_back(MembershipCommand::RemovePeerAdapter(*id)),
            }
        }
        // Removals go first: an address may pass from one peer to another.
        self.commands.extend(set);
    }
}

/// Identities that somebody has.
#[derive(Default)]
struct Taken {
    macs: BTreeSet<[u8; 6]>,
    ipv4: BTreeSet<Ipv4Addr>,
    ipv6: BTreeSet<Ipv6Addr>,
}

impl Taken {
    /// `true` if all three of it were free.
    fn add(&mut self, adapter: &Adapter) -> bool {
        let new =
            [self.macs.insert(adapter.mac), self.ipv4.insert(adapter.ipv4), self.ipv6.insert(adapter.ipv6)];
        new == [true; 3]
    }
}
