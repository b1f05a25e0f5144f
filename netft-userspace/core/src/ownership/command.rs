//! What goes into a node's part in ownership, and what comes out.

use super::{Entry, Epoch, LogId, NodeSet, VipId, VipSettings};
use crate::types::{Nanos, NodeId};
use netft_common::fence::MAX_VOTERS;
use serde::{Deserialize, Serialize};

/// What a node finds when it starts.
#[derive(Clone, Debug)]
pub struct Start {
    /// This node.
    pub own: NodeId,
    /// Rule 14: its store's.
    pub incarnation: u64,
    /// The applied index in the pinned maps: what a daemon before this one had stored, 0 if there was none.
    pub applied: u64,
    /// The owner bits in the pinned maps.
    pub owned: Vec<(VipId, Epoch)>,
}

/// What the ownership thread must do. **In this order, one after the other**: most of the rules are about what comes before what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Let no leg vouch for anybody, until told otherwise node by node.
    StoreAllUnsure,
    /// Store what must be applied to be vouched for.
    StoreVouch(NodeId, u64),
    /// After a full memory barrier, read when any CPU last vouched for these nodes, and pass it to
    /// [`super::Ownership::handle_stamps`] before the next command.
    ReadStamps(NodeSet),
    /// The log up to here may be acknowledged, as far as vouching is concerned (once it is durable, too).
    Acknowledge(LogId),
    /// The voters as the fence counts them.
    StoreVoters([u64; MAX_VOTERS]),
    /// These are the VIP's addresses: they are fenced by its number from now on. Comes before its owner bit is set.
    StoreVip(VipId, VipSettings),
    /// The VIP is no more, and nobody owned it: its addresses are nobody's.
    ForgetVip(VipId),
    /// Clear the owner bit. Then take the address away.
    ClearOwner(VipId),
    /// Wait until no CPU is in a fence program that began before, and what left TC has left its queue, as far as can be known.
    Flush,
    /// Store the applied index.
    StoreApplied(u64),
    /// Set the owner bit; then add the address and send claims.
    SetOwner(VipId, Epoch),
    /// Tell a node.
    Send(NodeId, Message),
    /// This node leads: propose it.
    Propose(Entry),
}

/// What nodes tell each other, on the authenticated connections of consensus.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Message {
    /// New owner to earlier owner: say when you have released the VIP.
    AskRelease {
        /// Which.
        vip: VipId,
        /// At which the sender owns it.
        epoch: Epoch,
    },
    /// Earlier owner to new owner: I have applied that you own it, cleared my owner bit and flushed.
    Released {
        /// Which.
        vip: VipId,
        /// At which the receiver owns it.
        epoch: Epoch,
    },
    /// Leader to voter: when did you last vouch for this node without knowing of the entry?
    Ask {
        /// Names the question.
        nonce: u64,
        /// The earlier owner.
        node: NodeId,
        /// The entry that the voter must hold.
        id: LogId,
    },
    /// Voter to leader.
    Report {
        /// Of the question.
        nonce: u64,
        /// How long ago, in nanoseconds.
        age_ns: Nanos,
    },
    /// Leader to new owner: this earlier owner is surely silent.
    Silent {
        /// Which.
        vip: VipId,
        /// At which the receiver owns it.
        epoch: Epoch,
        /// The earlier owner.
        node: NodeId,
    },
    /// New owner to leader: I took it; record the end of all earlier owners.
    Took {
        /// Which.
        vip: VipId,
        /// At which.
        epoch: Epoch,
    },
    /// Anybody to the leader: an administrator wants the VIP there.
    Move {
        /// Which.
        vip: VipId,
        /// To whom.
        node: NodeId,
    },
    /// To everybody, now and then.
    Progress {
        /// What the sender's fence goes by.
        applied: u64,
        /// The end of its log.
        last: LogId,
    },
}
