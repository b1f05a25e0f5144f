//! The new owner's side of a handover: of whom it knows that they are silent. Rules 7, 9 and 10.

use super::{Epoch, NodeSet, Vip, VipId};
use crate::types::NodeId;
use std::collections::BTreeMap;

/// What is known for one VIP, at one epoch: what was known at another one says nothing about this.
#[derive(Debug, Default)]
struct Known {
    epoch: Epoch,
    silent: NodeSet,
}

#[derive(Debug, Default)]
pub(super) struct Handovers {
    known: BTreeMap<VipId, Known>,
}

impl Handovers {
    /// An earlier owner released directly, or the leader says that it is surely silent. Bounded: one record per VIP.
    pub(super) fn learn(&mut self, vip: VipId, epoch: Epoch, node: NodeId) {
        let known = self.known.entry(vip).or_default();
        if epoch > known.epoch {
            *known = Known { epoch, silent: NodeSet::EMPTY };
        }
        if epoch == known.epoch {
            known.silent.insert(node);
        }
    }

    /// Whose silence isn't known yet.
    pub(super) fn missing(&self, id: VipId, vip: &Vip) -> NodeSet {
        let known = self.known.get(&id).filter(|known| known.epoch == vip.epoch);
        vip.to_be_silent().minus(&known.map(|known| known.silent).unwrap_or_default())
    }

    pub(super) fn forget(&mut self, vip: VipId) {
        self.known.remove(&vip);
    }
}
