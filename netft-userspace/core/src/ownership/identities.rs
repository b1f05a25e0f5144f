//! Which addresses are fenced by which number on this node.

use super::{Command, State, VipId, VipSettings};
use std::collections::BTreeMap;

/// VIPs whose addresses are stored, by what they are.
#[derive(Debug, Default)]
pub(super) struct Identities {
    stored: BTreeMap<VipId, VipSettings>,
}

impl Identities {
    /// What must be stored to agree with the applied state. An address is fenced by one number, so those of VIPs that are no more
    /// go first.
    pub(super) fn changes(&mut self, state: &State) -> Vec<Command> {
        let is_gone = |id: &VipId, known: &VipSettings| {
            state.vips.get(id).is_none_or(|vip| !vip.settings.is_same_vip(known))
        };
        let gone: Vec<_> =
            self.stored.iter().filter(|(id, known)| is_gone(id, known)).map(|(id, _)| *id).collect();
        gone.iter().for_each(|id| drop(self.stored.remove(id)));
        let mut commands: Vec<_> = gone.into_iter().map(Command::ForgetVip).collect();
        for (id, vip) in state.vips.iter().filter(|(_, vip)| !vip.settings.addresses.is_empty()) {
            self.stored.entry(*id).or_insert_with(|| {
                commands.push(Command::StoreVip(*id, vip.settings.clone()));
                vip.settings.clone()
            });
        }
        commands
    }
}
