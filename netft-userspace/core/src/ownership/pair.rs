//! Rule 15, `quorum = "none"`: two nodes, availability before uniqueness. Ownership bypasses the log: the survivor takes the VIP
//! at the next epoch, and on contact the lower claim yields before its node sends anything else.

use super::{Epoch, VipId};
use crate::types::NodeId;
use std::collections::{BTreeMap, VecDeque};

/// Who says that it owns a VIP: the higher one keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Claim {
    /// First by epoch,
    pub epoch: Epoch,
    /// then by id.
    pub node: NodeId,
}

/// What the ownership thread must do, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PairCommand {
    /// Clear the owner bit, then take the address away: before anything else is sent.
    ClearOwner(VipId),
    /// Set the owner bit, then add the address.
    SetOwner(VipId, Epoch),
    /// Keep this claim durably and tell the peer.
    Tell(VipId, Claim),
}

impl PairCommand {
    fn vip(&self) -> VipId {
        match self {
            Self::ClearOwner(vip) | Self::SetOwner(vip, _) | Self::Tell(vip, _) => *vip,
        }
    }
}

/// One of two nodes without a quorum.
#[derive(Debug)]
pub struct Pair {
    own: NodeId,
    /// The highest claim known, of either node.
    claims: BTreeMap<VipId, Claim>,
    commands: VecDeque<PairCommand>,
}

impl Pair {
    /// A node that has just started, with the claims that its store holds. Owns nothing until it knows about its peer.
    pub fn new(own: NodeId, claims: BTreeMap<VipId, Claim>) -> Self {
        Self { own, claims, commands: VecDeque::new() }
    }

    /// The next thing to do.
    pub fn poll_command(&mut self) -> Option<PairCommand> {
        self.commands.pop_front()
    }

    /// Whether this node owns it.
    pub fn owns(&self, vip: VipId) -> bool {
        self.claims.get(&vip).is_some_and(|claim| claim.node == self.own)
    }

    /// The detector's verdict: the survivor takes everything that the other has.
    pub fn handle_peer_down(&mut self, vips: impl IntoIterator<Item = VipId>) {
        for vip in vips {
            if !self.owns(vip) {
                self.take(vip);
            }
        }
    }

    /// Contact. Both tell what they claim; nothing else may be sent before [`Pair::handle_claim`] has seen the peer's.
    pub fn handle_peer_up(&mut self) {
        self.commands.extend(self.claims.iter().map(|(vip, claim)| PairCommand::Tell(*vip, *claim)));
    }

    /// A VIP that nobody owns is taken by the node that an administrator prefers, or that was told to.
    pub fn take(&mut self, vip: VipId) {
        let epoch = self.claims.get(&vip).map_or(0, |claim| claim.epoch) + 1;
        let claim = Claim { epoch, node: self.own };
        self.claims.insert(vip, claim);
        self.commands.extend([PairCommand::SetOwner(vip, epoch), PairCommand::Tell(vip, claim)]);
    }

    /// What the peer claims: the higher claim stands, and the lower one's node yields.
    pub fn handle_claim(&mut self, vip: VipId, theirs: Claim) {
        let ours = self.claims.get(&vip).copied();
        match ours {
            Some(ours) if ours >= theirs => {
                if ours > theirs {
                    self.commands.push_back(PairCommand::Tell(vip, ours));
                }
            }
            _ => {
                self.claims.insert(vip, theirs);
                // What wasn't carried out yet doesn't hold any more.
                self.commands.retain(|command| command.vip() != vip);
                if ours.is_some_and(|ours| ours.node == self.own) && theirs.node != self.own {
                    self.commands.push_front(PairCommand::ClearOwner(vip));
                }
            }
        }
    }
}
