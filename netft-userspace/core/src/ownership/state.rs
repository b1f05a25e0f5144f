//! The replicated state: what all entries up to one index say, the same on every node.

use super::entry::Maintenance;
use super::sabotage::{Sabotage, broken};
use super::{Entry, Epoch, LogId, Member, NodeSet, VipId, VipSettings, VoterSets, Why};
use crate::types::{Nanos, NodeId, RouteClass};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Rule 5: for how long a vouch counts, by the class of the two nodes. In the log, never one node's own setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leases {
    /// Nanoseconds.
    pub same_subnet_ns: Nanos,
    /// Nanoseconds.
    pub cross_subnet_ns: Nanos,
    /// Nanoseconds.
    pub cross_site_ns: Nanos,
}

impl Default for Leases {
    /// The detection times of the default pace.
    fn default() -> Self {
        Self { same_subnet_ns: 5_000_000, cross_subnet_ns: 100_000_000, cross_site_ns: 1_000_000_000 }
    }
}

impl Leases {
    /// Of a class.
    pub fn of(&self, class: RouteClass) -> Nanos {
        match class {
            RouteClass::SameSubnet => self.same_subnet_ns,
            RouteClass::CrossSubnet => self.cross_subnet_ns,
            RouteClass::CrossSite => self.cross_site_ns,
        }
    }

    fn larger(&self, other: &Self) -> Self {
        Self {
            same_subnet_ns: self.same_subnet_ns.max(other.same_subnet_ns),
            cross_subnet_ns: self.cross_subnet_ns.max(other.cross_subnet_ns),
            cross_site_ns: self.cross_site_ns.max(other.cross_site_ns),
        }
    }
}

/// A VIP as the log knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vip {
    /// What the administrator wants.
    pub settings: VipSettings,
    /// The committed owner. Whether it has taken the VIP yet is another question.
    pub owner: Option<NodeId>,
    /// Grows with every assignment.
    pub epoch: Epoch,
    /// Why it has this owner.
    #[serde(default)]
    pub why: Why,
    /// The entry that assigned it.
    pub assigned: LogId,
    /// Rule 9: every owner whose end isn't recorded; may contain the present owner, who has nothing to fear from itself.
    pub earlier: NodeSet,
}

impl Vip {
    /// Of whom it must be known that they are silent before the owner may take it.
    pub fn to_be_silent(&self) -> NodeSet {
        match self.owner {
            Some(owner) => self.earlier.without(owner),
            None => self.earlier,
        }
    }

    fn assign(&mut self, id: LogId, from: Option<NodeId>, owner: Option<NodeId>, epoch: Epoch, why: Why) {
        if epoch != self.epoch + 1 || from != self.owner {
            return;
        }
        if broken(Sabotage::OnlyTheLastOwner) {
            self.earlier = NodeSet::EMPTY;
        }
        if let Some(from) = from {
            self.earlier.insert(from);
        }
        (self.owner, self.epoch, self.assigned, self.why) = (owner, epoch, id, why);
    }
}

/// What the log says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// The newest entry in it.
    pub applied: LogId,
    /// The nodes.
    pub members: BTreeMap<NodeId, Member>,
    /// The voters.
    pub voters: VoterSets,
    /// Leases that owners must keep now.
    pub leases: Leases,
    /// Rule 5: longer ones that somebody may still keep.
    pub leases_before: Option<Leases>,
    /// Rules 5 and 13: index of the newest change of voters or leases, until it is settled.
    pub unsettled: Option<u64>,
    /// The VIPs.
    pub vips: BTreeMap<VipId, Vip>,
    /// Index of the newest entry that took a VIP from each node.
    pub taken: BTreeMap<NodeId, u64>,
    /// Whether decisions are frozen.
    pub maintenance: Maintenance,
}

impl State {
    /// Applies the next committed entry. One that is void changes nothing but [`State::applied`] and, to be on the safe side,
    /// [`State::taken`].
    pub fn apply(&mut self, id: LogId, entry: &Entry) {
        debug_assert!(id.index == self.applied.index + 1, "entries are applied in order");
        self.applied = id;
        if let Some(from) = entry.takes_from() {
            self.taken.insert(from, id.index);
        }
        match entry {
            Entry::Blank => (),
            // Nobody owns anything yet: nothing has to be settled.
            Entry::Founded(founders) => {
                self.members = founders.iter().copied().collect();
                self.voters = VoterSets::of(self.members.keys().copied().collect());
            }
            // Its place decides leases, its store's life whether it may vote: for others it must leave and come back.
            Entry::Member(node, member) => match self.members.get_mut(node) {
                Some(known) => known.standing = member.standing,
                None => drop(self.members.insert(*node, *member)),
            },
            Entry::RemoveMember(node) => self.remove_member(*node),
            Entry::Voters(voters) => {
                self.voters = *voters;
                self.unsettled = Some(id.index);
            }
            Entry::Leases(leases) => {
                let before = self.leases_before.unwrap_or(self.leases);
                self.leases_before = Some(before.larger(&self.leases));
                self.leases = *leases;
                self.unsettled = Some(id.index);
            }
            Entry::Settled(index) if self.unsettled == Some(*index) => {
                self.unsettled = None;
                self.leases_before = None;
            }
            Entry::Settled(_) => (),
            Entry::Vip(vip, settings) => self.make(id, *vip, settings),
            Entry::RemoveVip(vip) => {
                if self.vips.get(vip).is_some_and(|vip| vip.owner.is_none() && vip.earlier.is_empty()) {
                    self.vips.remove(vip);
                }
            }
            Entry::Assign { vip, from, owner, epoch, why } => {
                if let Some(vip) = self.vips.get_mut(vip) {
                    vip.assign(id, *from, *owner, *epoch, *why);
                }
            }
            Entry::Took { vip, epoch } => {
                if let Some(vip) = self.vips.get_mut(vip).filter(|vip| vip.epoch == *epoch) {
                    vip.earlier = NodeSet::EMPTY;
                }
            }
            Entry::Maintenance(maintenance) => self.maintenance = *maintenance,
        }
    }

    fn make(&mut self, id: LogId, vip: VipId, settings: &VipSettings) {
        if let Some(known) = self.vips.get_mut(&vip) {
            if known.settings.is_same_vip(settings) {
                known.settings = settings.clone();
            }
        } else if !self.vips.values().any(|known| known.settings.clashes(settings)) {
            // Epochs go on above any that a deleted VIP of this number ever had: old messages must not fit.
            let new = Vip { settings: settings.clone(), epoch: id.index, ..Vip::default() };
            self.vips.insert(vip, new);
        }
    }

    fn remove_member(&mut self, node: NodeId) {
        if !self.voters.all().contains(node) && !self.holders().contains(node) {
            self.members.remove(&node);
        }
    }

    /// Whoever owns something, or did and isn't known to have ended.
    pub fn holders(&self) -> NodeSet {
        let mut holders = NodeSet::EMPTY;
        for vip in self.vips.values() {
            holders = holders.union(&vip.earlier);
            vip.owner.into_iter().for_each(|owner| holders.insert(owner));
        }
        holders
    }

    /// The class of two nodes: by their entries in the log, so that everybody finds the same. Nodes that aren't known are far.
    pub fn class(&self, one: NodeId, other: NodeId) -> RouteClass {
        match (self.members.get(&one), self.members.get(&other)) {
            (Some(one), Some(other)) if one.site != other.site => RouteClass::CrossSite,
            (Some(one), Some(other)) if one.subnet != other.subnet => RouteClass::CrossSubnet,
            (Some(_), Some(_)) => RouteClass::SameSubnet,
            _ => RouteClass::CrossSite,
        }
    }

    /// For how long `owner` lets a vouch of `voter` count, once it has applied this state.
    pub fn lease_ns(&self, owner: NodeId, voter: NodeId) -> Nanos {
        self.leases.of(self.class(owner, voter))
    }

    /// Rules 4 and 5: for how long a vouch of `voter` may have let `owner` go on, by anybody's clock: the longest lease that
    /// it may keep, and a quarter for clocks that run at another pace.
    pub fn silence_ns(&self, owner: NodeId, voter: NodeId) -> Nanos {
        let class = self.class(owner, voter);
        let mut lease_ns = self.leases.of(class);
        if let Some(before) = self.leases_before
            && !broken(Sabotage::ShorterLeaseAtOnce)
        {
            lease_ns = lease_ns.max(before.of(class));
        }
        let margin_ns = if broken(Sabotage::NoMargin) { 0 } else { lease_ns.div_ceil(4) };
        lease_ns + margin_ns
    }
}
