//! One node's part in ownership: applies the log, keeps the words that the fence reads, hands over and takes over.

mod leading;

use super::collector::Collector;
use super::command::{Command, Message, Start};
use super::handover::Handovers;
use super::identities::Identities;
use super::progress::{Progress, ROUND_NS};
use super::sabotage::{Sabotage, broken};
use super::vouching::Vouching;
use super::{Entry, Epoch, Leases, LogId, NodeSet, State, VipId, VoterSets, VoterStanding, Why};
use crate::types::{Nanos, NodeId};
use netft_common::fence::{MAX_VOTERS, Voter};
use std::collections::{BTreeMap, VecDeque};

/// What isn't answered is said again after this long.
const REPEAT_NS: Nanos = ROUND_NS;
/// How often a node says how far it is.
const PROGRESS_NS: Nanos = 10_000_000;
/// A proposal that hasn't been applied after this long may have been lost.
const PROPOSAL_NS: Nanos = 20_000_000;
/// Questions that one leader can ask: the lower bits of a nonce, above which is its term.
const NONCE_BITS: u32 = 24;

/// One node's part in ownership.
#[derive(Debug)]
pub struct Ownership {
    own: NodeId,
    pub(super) state: State,
    vouching: Vouching,
    handovers: Handovers,
    collector: Collector,
    progress: Progress,
    /// Owner bits as stored.
    owned: BTreeMap<VipId, Epoch>,
    identities: Identities,
    /// Nothing is stored below this index: the maps are ahead of what has been replayed, or the end of the log isn't known.
    act_from: Option<u64>,
    /// The applied index in the maps.
    stored: u64,
    voters: Option<[u64; MAX_VOTERS]>,
    term: u64,
    leader: Option<NodeId>,
    /// Assignments of this leader that aren't applied, by VIP: until when they are waited for.
    proposed: BTreeMap<VipId, Nanos>,
    /// The same of records that a VIP was taken.
    recording: BTreeMap<VipId, Nanos>,
    /// When other proposals may be repeated.
    propose_ns: Nanos,
    repeat_ns: Nanos,
    progress_ns: Nanos,
    commands: VecDeque<Command>,
}

impl Ownership {
    /// A node that has just started and doesn't know its log yet.
    pub fn new(start: Start) -> Self {
        let mut ownership = Self {
            own: start.own,
            state: State::default(),
            vouching: Vouching::new(start.own, start.incarnation),
            handovers: Handovers::default(),
            collector: Collector::default(),
            progress: Progress::default(),
            owned: start.owned.into_iter().collect(),
            identities: Identities::default(),
            act_from: None,
            stored: start.applied,
            voters: None,
            term: 0,
            leader: None,
            proposed: BTreeMap::new(),
            recording: BTreeMap::new(),
            propose_ns: 0,
            repeat_ns: 0,
            progress_ns: 0,
            commands: VecDeque::from([Command::StoreAllUnsure]),
        };
        if broken(Sabotage::VouchesFromTheStart) {
            let nodes = (1..=255).filter_map(NodeId::new);
            ownership.commands.extend(nodes.map(|node| Command::StoreVouch(node, 0)));
        }
        ownership
    }

    /// The applied state.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// The end of the own log.
    pub fn last(&self) -> LogId {
        self.vouching.last()
    }

    /// Whether this node has taken the VIP.
    pub fn has_taken(&self, vip: VipId) -> bool {
        self.owned.contains_key(&vip)
    }

    /// Rule 14: whether this node may vote and vouch.
    pub fn standing(&self) -> VoterStanding {
        self.vouching.standing(&self.state)
    }

    /// Rule 14: whether the node should have applied the log but doesn't say so. The leader's word.
    pub fn sleeps(&self, node: NodeId) -> bool {
        self.progress.sleeps(node) && !broken(Sabotage::TrustsSleepers)
    }

    /// Rule 14, for votes, which a node may have to give before it has applied anything: what its whole log, from its
    /// snapshot on, says of its store.
    pub fn knows_own_store<'a>(&self, log: impl IntoIterator<Item = &'a Entry>) -> VoterStanding {
        self.vouching.standing_with(&self.state, log)
    }

    /// The next thing to do.
    pub fn poll_command(&mut self) -> Option<Command> {
        self.commands.pop_front()
    }

    /// When [`Ownership::handle_timeout`] is due.
    pub fn poll_timeout(&self, now: Nanos) -> Nanos {
        let ends_ns = self.collector.next_end_ns(now).unwrap_or(Nanos::MAX);
        self.repeat_ns.min(self.progress_ns).min(ends_ns)
    }

    /// Log and snapshot are restored: `snapshot` is the state that the log, without gaps, goes on from. None of it may be
    /// acknowledged before [`Command::Acknowledge`].
    pub fn handle_restored<'a>(
        &mut self,
        now: Nanos,
        snapshot: State,
        log: impl IntoIterator<Item = (LogId, &'a Entry)>,
    ) {
        self.state = snapshot;
        self.vouching.replace(self.state.applied);
        log.into_iter().for_each(|(id, entry)| self.vouching.append(id, entry));
        self.vouching.restored();
        self.store_vouches(self.everybody());
        self.commands.push_back(Command::Acknowledge(self.last()));
        self.reconcile(now);
    }

    /// The store failed: nothing is certain until [`Ownership::handle_restored`].
    pub fn handle_store_failed(&mut self) {
        self.vouching.unsure();
        self.store_vouches(self.everybody());
    }

    /// These entries are in the log now, not committed yet. They must not be acknowledged before [`Command::Acknowledge`].
    pub fn handle_append(&mut self, entries: &[(LogId, Entry)]) {
        let Some((last, _)) = entries.last() else { return };
        let mut losers = NodeSet::EMPTY;
        for (id, entry) in entries {
            self.vouching.append(*id, entry);
            entry.takes_from().into_iter().for_each(|from| losers.insert(from));
        }
        self.store_vouches(if self.vouching.overflowed() { self.everybody() } else { losers });
        self.commands.push_back(Command::Acknowledge(*last));
    }

    /// The log ends with `last` now; entries from `index` on are gone.
    pub fn handle_truncate(&mut self, index: u64, last: LogId) {
        self.vouching.truncate(index, last);
        self.store_vouches(self.everybody());
    }

    /// A snapshot replaces the state.
    pub fn handle_snapshot(&mut self, now: Nanos, snapshot: State) {
        if snapshot.applied.index <= self.state.applied.index {
            return;
        }
        self.vouching.replace(snapshot.applied);
        self.state = snapshot;
        self.store_vouches(self.everybody());
        self.reconcile(now);
    }

    /// These entries are committed, and next in order.
    pub fn handle_committed<'a>(
        &mut self,
        now: Nanos,
        entries: impl IntoIterator<Item = (LogId, &'a Entry)>,
    ) {
        let standing = self.standing();
        let mut joined = false;
        for (id, entry) in entries {
            self.state.apply(id, entry);
            self.vouching.applied(id);
            match entry {
                Entry::Assign { vip, .. } => {
                    self.proposed.remove(vip);
                    // Who takes it from here on is recorded anew.
                    self.recording.remove(vip);
                }
                Entry::Took { vip, .. } => drop(self.recording.remove(vip)),
                Entry::RemoveVip(vip) => self.handovers.forget(*vip),
                _ => (),
            }
            joined |= matches!(entry, Entry::Member(..) | Entry::Founded(..));
        }
        if joined || self.standing() != standing || self.vouching.overflowed() {
            self.store_vouches(self.everybody());
        }
        self.reconcile(now);
    }

    /// The leader of `term` says that the log is committed up to `commit`. Until the first leader that has committed
    /// something of its own term says so, this node acts on nothing that it replays: it might be long past.
    pub fn handle_leader_commit(&mut self, now: Nanos, term: u64, commit: LogId) {
        if self.act_from.is_none() && commit.term == term {
            self.act_from = Some(commit.index.max(self.stored));
            self.reconcile(now);
        }
    }

    /// Who leads now.
    pub fn handle_leader(&mut self, now: Nanos, term: u64, leader: Option<NodeId>) {
        if (term, leader) == (self.term, self.leader) {
            return;
        }
        (self.term, self.leader) = (term, leader);
        self.proposed.clear();
        self.recording.clear();
        self.collector.restart(term << NONCE_BITS);
        self.progress.clear();
        self.propose_ns = now;
        self.reconcile(now);
    }

    /// What [`Command::ReadStamps`] asked for: by node, the newest stamp of all CPUs.
    pub fn handle_stamps(&mut self, now: Nanos, stamps: &[(NodeId, Nanos)]) {
        for (node, vouched_ns) in stamps {
            self.vouching.read(now, *node, *vouched_ns);
        }
    }

    /// A peer says something.
    pub fn handle_message(&mut self, now: Nanos, from: NodeId, message: &Message) {
        match *message {
            Message::AskRelease { vip, epoch } => self.asked_for_release(from, vip, epoch),
            Message::Released { vip, epoch } => {
                self.handovers.learn(vip, epoch, from);
                self.try_to_take(now, vip);
            }
            Message::Ask { nonce, node, id } => {
                if let Some(age_ns) = self.vouching.report(now, &self.state, node, id) {
                    self.send(from, Message::Report { nonce, age_ns });
                }
            }
            Message::Report { nonce, age_ns } => {
                self.collector.report(now, &self.state, from, nonce, age_ns);
                self.tell_silent(now);
            }
            Message::Silent { vip, epoch, node } => {
                self.handovers.learn(vip, epoch, node);
                self.try_to_take(now, vip);
            }
            Message::Took { vip, epoch } => self.record_taking(now, Some(from), vip, epoch),
            Message::Move { vip, node } => self.move_to(now, vip, node),
            Message::Progress { applied, .. } => self.progress.told(from, applied),
        }
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Nanos) {
        self.tell_silent(now);
        if now >= self.progress_ns {
            self.progress_ns = now + PROGRESS_NS;
            // Of what the fence goes by: while the log is replayed, that is still what was there before.
            let progress = Message::Progress { applied: self.stored, last: self.last() };
            for node in self.everybody().without(self.own).iter() {
                self.send(node, progress.clone());
            }
        }
        if now >= self.repeat_ns {
            self.repeat_ns = now + REPEAT_NS;
            self.repeat(now);
        }
    }

    /// The leader gives a VIP to another owner, or to nobody. Does nothing if this node doesn't lead, or waits for an earlier
    /// proposal.
    pub fn assign(&mut self, now: Nanos, id: VipId, owner: Option<NodeId>) {
        self.assign_because(now, id, owner, Why::Assigned);
    }

    /// The same, with a reason for people.
    pub fn assign_because(&mut self, now: Nanos, id: VipId, owner: Option<NodeId>, why: Why) {
        let Some(vip) = self.state.vips.get(&id).filter(|_| self.leads()) else { return };
        if vip.owner == owner || self.proposed.get(&id).is_some_and(|until_ns| now < *until_ns) {
            return;
        }
        self.proposed.insert(id, now + PROPOSAL_NS);
        let entry = Entry::Assign { vip: id, from: vip.owner, owner, epoch: vip.epoch + 1, why };
        self.commands.push_back(Command::Propose(entry));
    }

    /// An administrator wants a VIP to go to a node: the leader assigns it, others tell the leader.
    pub fn ask_to_move(&mut self, now: Nanos, vip: VipId, node: NodeId) {
        match self.leader {
            Some(leader) if leader == self.own => self.move_to(now, vip, node),
            Some(leader) => self.send(leader, Message::Move { vip, node }),
            None => (),
        }
    }

    /// Rule 13: whether the voters may change to this set now. The leader asks before it proposes.
    pub fn may_change_voters(&self, next: &NodeSet) -> bool {
        let settled = self.state.unsettled.is_none() && self.last() == self.state.applied;
        let step = self.state.voters.is_one_step_to(next) && settled;
        self.leads() && (step || broken(Sabotage::ChangesAtWill) && self.state.voters.second.is_empty())
    }

    /// Rule 5: leases change through the log.
    pub fn change_leases(&mut self, leases: Leases) {
        if self.leads() {
            self.commands.push_back(Command::Propose(Entry::Leases(leases)));
        }
    }

    /// Whether what has been applied is as new as what was true when this node started.
    pub fn may_act(&self) -> bool {
        self.act_from.is_some_and(|from| self.state.applied.index >= from)
    }

    fn leads(&self) -> bool {
        self.leader == Some(self.own)
    }

    fn send(&mut self, to: NodeId, message: Message) {
        self.commands.push_back(Command::Send(to, message));
    }

    fn everybody(&self) -> NodeSet {
        self.state.members.keys().copied().collect::<NodeSet>().union(&self.state.voters.all())
    }

    /// Rule 8: first the words, then a barrier and the stamps; what acknowledges comes after.
    fn store_vouches(&mut self, nodes: NodeSet) {
        let changes = self.vouching.changes(&self.state, nodes);
        if changes.is_empty() {
            return;
        }
        let changed = changes.iter().map(|(node, _)| *node).collect();
        self.commands.extend(changes.into_iter().map(|(node, index)| Command::StoreVouch(node, index)));
        self.commands.push_back(Command::ReadStamps(changed));
    }

    /// Makes the shared words agree with the applied state: first what closes fences, then the applied index, then what opens
    /// them.
    fn reconcile(&mut self, now: Nanos) {
        if !self.may_act() {
            return;
        }
        let released = self.release();
        self.commands.extend(self.identities.changes(&self.state));
        self.store_voters();
        self.stored = self.state.applied.index;
        self.commands.push_back(Command::StoreApplied(self.stored));
        if !broken(Sabotage::ReleasesEarly) {
            self.commands.extend(released);
        }
        let vips: Vec<_> = self.state.vips.keys().copied().collect();
        vips.into_iter().for_each(|vip| self.try_to_take(now, vip));
        if self.leads() {
            self.ask(now);
        }
    }

    /// Clears every bit that the state doesn't give this node at the bit's epoch; gives what to tell the new owners afterwards.
    fn release(&mut self) -> Vec<Command> {
        let (own, state) = (self.own, &self.state);
        let keeps = |vip: &VipId, epoch: &Epoch| {
            state.vips.get(vip).is_some_and(|vip| vip.owner == Some(own) && vip.epoch == *epoch)
        };
        let lost: Vec<_> =
            self.owned.iter().filter(|(vip, epoch)| !keeps(vip, epoch)).map(|(vip, _)| *vip).collect();
        let mut told = Vec::new();
        for id in &lost {
            self.owned.remove(id);
            if let Some(vip) = self.state.vips.get(id)
                && let Some(owner) = vip.owner.filter(|owner| *owner != own)
            {
                told.push(Command::Send(owner, Message::Released { vip: *id, epoch: vip.epoch }));
            }
        }
        if broken(Sabotage::ReleasesEarly) {
            self.commands.extend(told.iter().cloned());
        }
        self.commands.extend(lost.iter().map(|vip| Command::ClearOwner(*vip)));
        if !lost.is_empty() {
            self.commands.push_back(Command::Flush);
        }
        told
    }

    fn store_voters(&mut self) {
        let mut words = [0; MAX_VOTERS];
        let VoterSets { first, second } = self.state.voters;
        for (word, node) in words.iter_mut().zip(self.state.voters.all().iter()) {
            let sets = u8::from(first.contains(node)) | u8::from(second.contains(node)) << 1;
            let lease_ns = self.state.lease_ns(self.own, node);
            *word = Voter { node: node.get(), sets, lease_ns }.to_word();
        }
        if self.voters != Some(words) {
            self.voters = Some(words);
            self.commands.push_back(Command::StoreVoters(words));
        }
    }

    /// Rule 7: takes a VIP that is this node's by the applied state, if every earlier owner is known to be silent.
    fn try_to_take(&mut self, now: Nanos, id: VipId) {
        let Some(vip) = self.state.vips.get(&id).filter(|_| self.may_act()) else { return };
        if vip.owner != Some(self.own) || self.owned.contains_key(&id) {
            return;
        }
        let ready = self.handovers.missing(id, vip).is_empty() || broken(Sabotage::TakesAtOnce);
        if !ready {
            return;
        }
        let (epoch, recorded) = (vip.epoch, vip.earlier.is_empty());
        self.owned.insert(id, epoch);
        self.commands.push_back(Command::SetOwner(id, epoch));
        if !recorded {
            self.tell_taking(now, id, epoch);
        }
    }

    fn tell_taking(&mut self, now: Nanos, vip: VipId, epoch: Epoch) {
        match self.leader {
            Some(leader) if leader == self.own => self.record_taking(now, self.leader, vip, epoch),
            Some(leader) => self.send(leader, Message::Took { vip, epoch }),
            None => (),
        }
    }

    /// Rule 7(a): only what has been applied and cleared is released; the commands before this one have stored it.
    fn asked_for_release(&mut self, from: NodeId, id: VipId, epoch: Epoch) {
        let Some(vip) = self.state.vips.get(&id).filter(|_| self.may_act()) else { return };
        if vip.epoch == epoch && vip.owner == Some(from) && !self.owned.contains_key(&id) {
            self.send(from, Message::Released { vip: id, epoch });
        }
    }

    /// Says again what hasn't had its effect yet.
    fn repeat(&mut self, now: Nanos) {
        let own = self.own;
        let vips = self.state.vips.iter().filter(|(_, vip)| !vip.earlier.is_empty());
        let open: Vec<_> = vips.map(|(id, vip)| (*id, vip.clone())).collect();
        for (id, vip) in &open {
            if vip.owner == Some(own) && self.owned.get(id) == Some(&vip.epoch) {
                self.tell_taking(now, *id, vip.epoch);
            } else if vip.owner == Some(own) {
                for node in self.handovers.missing(*id, vip).iter() {
                    self.send(node, Message::AskRelease { vip: *id, epoch: vip.epoch });
                }
            } else if vip.owner.is_none() && self.handovers.missing(*id, vip).is_empty() {
                self.record_taking(now, None, *id, vip.epoch);
            }
        }
        if !self.leads() {
            return;
        }
        self.progress.told(own, self.stored);
        self.progress.expect(self.state.members.keys().copied(), self.state.applied.index);
        for node in self.collector.asked() {
            self.ask_about(now, node);
        }
        self.settle(now);
    }
}
