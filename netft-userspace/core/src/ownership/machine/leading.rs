//! What only the leader does: asks who is silent, records ends, says that a change is settled.

use super::super::command::{Command, Message};
use super::super::{Entry, Epoch, Standing, Vip, VipId, Why};
use super::{Ownership, PROPOSAL_NS};
use crate::types::{Nanos, NodeId};

impl Ownership {
    /// Not to a node that wouldn't hear of it: nobody would serve the VIP.
    pub(super) fn move_to(&mut self, now: Nanos, vip: VipId, node: NodeId) {
        let standing = self.state.members.get(&node).map(|member| member.standing);
        if standing == Some(Standing::Active) && !self.sleeps(node) {
            self.assign_because(now, vip, Some(node), Why::Moved);
        }
    }

    /// Rule 9: the end of all earlier owners goes into the log.
    pub(super) fn record_taking(&mut self, now: Nanos, owner: Option<NodeId>, id: VipId, epoch: Epoch) {
        let Some(vip) = self.state.vips.get(&id) else { return };
        let waits = self.recording.get(&id).is_some_and(|until_ns| now < *until_ns);
        let fits = vip.owner == owner && vip.epoch == epoch && !vip.earlier.is_empty();
        if self.leads() && fits && !waits {
            self.recording.insert(id, now + PROPOSAL_NS);
            self.commands.push_back(Command::Propose(Entry::Took { vip: id, epoch }));
        }
    }

    /// Rule 8: the leader asks about whoever must be silent by the applied state.
    pub(super) fn ask(&mut self, now: Nanos) {
        let new = self.collector.update(&self.state);
        new.into_iter().for_each(|node| self.ask_about(now, node));
        self.tell_silent(now);
    }

    pub(super) fn ask_about(&mut self, now: Nanos, node: NodeId) {
        let Some((nonce, id)) = self.collector.question(node) else { return };
        for voter in self.collector.unanswered(&self.state, node).iter() {
            if voter != self.own {
                self.send(voter, Message::Ask { nonce, node, id });
            } else if let Some(age_ns) = self.vouching.report(now, &self.state, node, id) {
                self.collector.report(now, &self.state, voter, nonce, age_ns);
            }
        }
    }

    /// Tells new owners, this node among them, which earlier owners are surely silent.
    pub(super) fn tell_silent(&mut self, now: Nanos) {
        for node in self.collector.asked() {
            let Some(up_to) = self.collector.silent(now, &self.state, node) else { continue };
            let waiting = |vip: &Vip| vip.assigned.index <= up_to.index && vip.to_be_silent().contains(node);
            let vips: Vec<_> = self.state.vips.iter().filter(|(_, vip)| waiting(vip)).collect();
            let told: Vec<_> = vips.into_iter().map(|(id, vip)| (*id, vip.epoch, vip.owner)).collect();
            for (vip, epoch, owner) in told {
                match owner {
                    Some(owner) if owner != self.own => {
                        self.send(owner, Message::Silent { vip, epoch, node })
                    }
                    Some(_) => {
                        self.handovers.learn(vip, epoch, node);
                        self.try_to_take(now, vip);
                    }
                    None => self.handovers.learn(vip, epoch, node),
                }
            }
        }
    }

    /// Rules 5 and 13: once whoever owns or owned something has applied the newest change, it is settled.
    pub(super) fn settle(&mut self, now: Nanos) {
        let Some(index) = self.state.unsettled.filter(|_| now >= self.propose_ns) else { return };
        let joint = !self.state.voters.second.is_empty();
        if !joint && self.state.holders().iter().all(|node| self.progress.applied(node) >= index) {
            self.propose_ns = now + PROPOSAL_NS;
            self.commands.push_back(Command::Propose(Entry::Settled(index)));
        }
    }
}
