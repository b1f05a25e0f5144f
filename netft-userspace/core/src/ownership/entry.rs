//! What the replicated log holds.

use super::{Epoch, Leases, NodeSet};
use crate::types::NodeId;
use netft_common::fence::{MAX_VIPS, MAX_VOTERS};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// Where an entry stands in the log. Of two logs, the one with the higher last id is ahead.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LogId {
    /// The leader's term that made it.
    pub term: u64,
    /// From 1 upwards, without gaps.
    pub index: u64,
}

impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.term, self.index)
    }
}

/// Number of a VIP, below [`MAX_VIPS`]: the index of its owner bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u16", into = "u16")]
pub struct VipId(u16);

impl VipId {
    /// `None` unless below [`MAX_VIPS`].
    pub fn new(number: u16) -> Option<Self> {
        (u32::from(number) < MAX_VIPS).then_some(Self(number))
    }

    /// The number.
    pub fn get(self) -> u16 {
        self.0
    }
}

impl TryFrom<u16> for VipId {
    type Error = String;
    fn try_from(number: u16) -> Result<Self, String> {
        Self::new(number)
            .ok_or_else(|| format!("VIP number {number} is out of range: use 0 to {}", MAX_VIPS - 1))
    }
}

impl From<VipId> for u16 {
    fn from(id: VipId) -> u16 {
        id.0
    }
}

/// Of a node in the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Rule 14: random, one per life of the node's store. Never 0.
    pub incarnation: u64,
    /// Number of its site: nodes of two sites have cross-site leases.
    pub site: u16,
    /// Number of its subnet within the site: nodes of two subnets have cross-subnet leases.
    pub subnet: u16,
    /// Whether it may own VIPs.
    pub standing: Standing,
}

/// Whether a node may own VIPs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Standing {
    /// It may.
    Active,
    /// An administrator drained it.
    Drained,
    /// A witness: it votes and vouches, and never owns anything.
    Witness,
}

/// The voters; two sets while the configuration is joint, each of which must agree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VoterSets {
    /// The voters; while joint, the old ones.
    pub first: NodeSet,
    /// While joint, the new ones; else empty.
    pub second: NodeSet,
}

impl VoterSets {
    /// One set.
    pub fn of(first: NodeSet) -> Self {
        Self { first, second: NodeSet::EMPTY }
    }

    /// Everybody who is in one of both.
    pub fn all(&self) -> NodeSet {
        self.first.union(&self.second)
    }

    /// Whether these are a majority of each set.
    pub fn is_majority(&self, nodes: &NodeSet) -> bool {
        let of = |set: &NodeSet| set.iter().filter(|node| nodes.contains(*node)).count() * 2 > set.len();
        of(&self.first) && (self.second.is_empty() || of(&self.second))
    }

    /// Rule 13: whether `next` differs from this one, which must not be joint, by at most one voter, and is allowed at all.
    pub fn is_one_step_to(&self, next: &NodeSet) -> bool {
        let changed = self.first.minus(next).union(&next.minus(&self.first));
        self.second.is_empty()
            && changed.len() == 1
            && !next.is_empty()
            && self.first.union(next).len() <= MAX_VOTERS
    }
}

/// An address of a VIP, with the length of its subnet's prefix: "10.0.1.100/24".
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct VipAddress {
    /// The address.
    pub address: IpAddr,
    /// At most 32 or 128.
    pub prefix_len: u8,
}

impl fmt::Display for VipAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix_len)
    }
}

impl FromStr for VipAddress {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("\"{text}\" is not an address with a prefix length: write one like \"10.0.1.100/24\"");
        let (address, prefix_len) = text.split_once('/').ok_or_else(wrong)?;
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let longest = if address.is_ipv4() { 32 } else { 128 };
        let prefix_len = prefix_len.parse().ok().filter(|length| (1..=longest).contains(length));
        Ok(Self { address: address.to_canonical(), prefix_len: prefix_len.ok_or_else(wrong)? })
    }
}

impl TryFrom<String> for VipAddress {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<VipAddress> for String {
    fn from(address: VipAddress) -> Self {
        address.to_string()
    }
}

/// What an administrator wants of a VIP. Name and addresses are what it *is*: they never change.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VipSettings {
    /// Its name.
    #[serde(default)]
    pub name: String,
    /// Its addresses. No two VIPs have one in common.
    #[serde(default)]
    pub addresses: Vec<VipAddress>,
    /// VIPs of a group move together.
    pub group: Option<u16>,
    /// Name of the network on whose interfaces it is; `None` = the one with its subnet.
    #[serde(default)]
    pub network_name: Option<String>,
    /// Number of its client network, 0..64.
    pub network: u8,
    /// The best first.
    pub preferred: Vec<NodeId>,
    /// For how long a more preferred node must have been fit before the VIP goes back to it, in nanoseconds; `None` = never.
    pub failback_ns: Option<u64>,
}

impl VipSettings {
    /// Whether both are about the same VIP.
    pub fn is_same_vip(&self, other: &Self) -> bool {
        self.name == other.name && self.addresses == other.addresses
    }

    /// Whether there can't be both.
    pub fn clashes(&self, other: &Self) -> bool {
        let mut addresses = self.addresses.iter().map(|own| own.address);
        !self.name.is_empty() && self.name == other.name
            || addresses.any(|own| other.addresses.iter().any(|other| other.address == own))
    }
}

/// One entry of the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Entry {
    /// Nothing: a new leader's first.
    Blank,
    /// The first entry of a log: these nodes found the cluster, all of them voters.
    Founded(Vec<(NodeId, Member)>),
    /// A node joins, or changes.
    Member(NodeId, Member),
    /// A node goes. Void while it votes or owns.
    RemoveMember(NodeId),
    /// The voters change (consensus uses them from their being appended, the fence from their being applied).
    Voters(VoterSets),
    /// Leases change.
    Leases(Leases),
    /// Rules 5 and 13: whoever owns or owned something has applied the change at this index.
    Settled(u64),
    /// A VIP is made, or its settings change. Void if it would change what the VIP is, or if another one has its name or an
    /// address of it: an address must be fenced by one number at a time.
    Vip(VipId, VipSettings),
    /// A VIP is deleted. Void while somebody owns it or an earlier owner's end isn't recorded.
    RemoveVip(VipId),
    /// Revokes a VIP from its owner and names the new one. Void unless `epoch` is one more than the VIP's and `from` is its
    /// owner: so whoever sees the entry knows whom it takes the VIP from, applied or not.
    Assign {
        /// Which.
        vip: VipId,
        /// Its owner until then.
        from: Option<NodeId>,
        /// The new one; `None` = nobody.
        owner: Option<NodeId>,
        /// The new epoch.
        epoch: Epoch,
        /// Why.
        #[serde(default)]
        why: Why,
    },
    /// Rule 9: every earlier owner's end is recorded, as seen at this epoch.
    Took {
        /// Which.
        vip: VipId,
        /// At which it was taken.
        epoch: Epoch,
    },
    /// Maintenance: decisions are frozen.
    Maintenance(Maintenance),
}

/// Why a VIP was given to its owner: for people, nothing follows from it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Why {
    /// Nobody owned it.
    #[default]
    Assigned,
    /// The owner couldn't be reached.
    OwnerDown,
    /// Its host answered, its engine didn't tick.
    OwnerStalled,
    /// It stopped cleanly.
    OwnerLeft,
    /// It didn't apply what was decided.
    OwnerAsleep,
    /// It had no interface that was up in the VIP's subnet.
    OwnerNetworkDown,
    /// Another node is preferred, and has been fit for long enough.
    Preferred,
    /// An administrator said so.
    Moved,
    /// An administrator removes it.
    Removed,
}

/// Whether decisions are frozen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Maintenance {
    /// They aren't.
    #[default]
    Off,
    /// They are: nothing moves by itself.
    On,
}

impl Entry {
    /// The member that the entry makes of a node, should it be committed and not void.
    pub fn member(&self, node: NodeId) -> Option<Member> {
        match self {
            Self::Member(joined, member) if *joined == node => Some(*member),
            Self::Founded(founders) => {
                founders.iter().find(|(founder, _)| *founder == node).map(|(_, member)| *member)
            }
            _ => None,
        }
    }

    /// Whom the entry takes a VIP from, should it be committed and not void.
    pub fn takes_from(&self) -> Option<NodeId> {
        match self {
            Self::Assign { from, .. } => *from,
            _ => None,
        }
    }
}
