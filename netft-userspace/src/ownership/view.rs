//! How ownership stands, for listings: a copy, made anew with every change.

use netft_core::ownership::{Epoch, VipAddress, Why};
use netft_core::types::{Nanos, NodeId};
use serde::{Deserialize, Serialize};

/// How a VIP stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VipState {
    /// It is configured here; the cluster hasn't agreed on it yet.
    Unknown,
    /// Nobody owns it.
    Unowned,
    /// It has an owner, who waits until every earlier one is surely silent.
    Waiting,
    /// Its owner has taken it.
    Served,
    /// This node owns it, and its fence is closed: no majority vouches.
    Fenced,
}

/// Everything.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// Who leads consensus, as far as is known here.
    pub leader: Option<NodeId>,
    /// Its term.
    pub term: u64,
    /// The voters.
    pub voters: Vec<NodeId>,
    /// The newest entry that was applied.
    pub applied: u64,
    /// Why this node doesn't take part, one sentence.
    pub trouble: Option<String>,
    /// Where configuration and cluster don't agree, a sentence each.
    pub differences: Vec<String>,
    /// By name.
    pub vips: Vec<VipView>,
}

/// One VIP.
#[derive(Clone, Debug)]
pub struct VipView {
    /// Its name.
    pub name: String,
    /// Its addresses.
    pub addresses: Vec<VipAddress>,
    /// Its owner.
    pub owner: Option<NodeId>,
    /// How often it was assigned, more or less.
    pub epoch: Epoch,
    /// How it stands.
    pub state: VipState,
    /// Since when it has this owner, boottime, as seen here; `None` = since before this daemon.
    pub since_ns: Option<Nanos>,
    /// Why it has this owner.
    pub why: Option<Why>,
}
