//! One node: its power, its threads, and what its ownership thread does with what arrives.

use crate::fence::{FenceTables, quorum, store_voters, vouch_word};
use crate::memory::{Clock, ENGINE_TIMEOUT_NS, Memory};
use crate::ownership::policy::Policy;
use crate::ownership::{
    Command, Elections, Heed, Message, NodeSet, Ownership, Seen, Start, State, VipId, VoterSets,
    VoterStanding,
};
use crate::raft::{Change, Disk, Raft, Role, Rpc};
use crate::shell::{Shell, broken};
use netft_core::types::{Nanos, NodeId};
use std::collections::VecDeque;
use std::sync::atomic::Ordering::Relaxed;

/// A peer from which no proof came for this long is down.
const DETECTION_NS: Nanos = 6_000_000;
/// How often a leader sends to everybody.
const REPLICATE_NS: Nanos = 3_000_000;
/// How often the operator looks.
const OPERATE_NS: Nanos = 2_000_000;

/// What arrives at the ownership thread.
#[derive(Clone, Debug)]
pub(crate) enum Input {
    Rpc(NodeId, Rpc),
    Message(NodeId, Message),
    Timer,
    /// The log has been read.
    Restored,
    Move(VipId, NodeId),
    Leases(Nanos),
}

/// Whether a node's host runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Power {
    On,
    Off,
    Asleep,
}

/// What a node knows of a peer from legs.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Heard {
    /// Highest sequence accepted, by leg.
    pub(crate) highest: [u64; 3],
    /// When the newest proof of both directions came.
    pub(crate) proof_ns: Nanos,
    /// How old the peer's tick was then.
    pub(crate) tick_age_ns: Nanos,
}

pub(crate) struct Node {
    pub(crate) id: NodeId,
    pub(crate) memory: Memory,
    pub(crate) clock: Clock,
    pub(crate) power: Power,
    /// Grows with each boot: keys are made from it.
    pub(crate) boot: u32,
    pub(crate) daemon: bool,
    pub(crate) engine_frozen: u32,
    pub(crate) owner_frozen: u32,
    pub(crate) dead: u32,
    restored: bool,
    pub(crate) heard: Vec<Heard>,
    pub(crate) sequence: u64,
    pub(crate) inbox: VecDeque<Input>,
    pub(crate) stepping: bool,
    pub(crate) raft: Raft,
    pub(crate) ownership: Ownership,
    elections: Elections,
    policy: Policy,
    replicate_ns: Nanos,
    operate_ns: Nanos,
}

/// What leaves a node.
pub(crate) enum Out {
    Rpc(NodeId, Rpc),
    Message(NodeId, Message),
}

/// What the cluster's operator wants, and knows.
pub(crate) struct Operator {
    pub(crate) voters: NodeSet,
    /// The stores that nodes have now.
    pub(crate) incarnations: Vec<(NodeId, u64)>,
}

impl Node {
    pub(crate) fn new(id: NodeId, clock: Clock, disk: Disk) -> Self {
        let start = Start { own: id, incarnation: disk.incarnation, applied: 0, owned: Vec::new() };
        Self {
            id,
            memory: Memory::new(id),
            clock,
            power: Power::On,
            boot: 0,
            daemon: false,
            engine_frozen: 0,
            owner_frozen: 0,
            dead: 0,
            restored: false,
            heard: vec![Heard::default(); 16],
            sequence: 0,
            inbox: VecDeque::new(),
            stepping: false,
            raft: Raft::new(id, disk),
            ownership: Ownership::new(start),
            elections: Elections::new(0, id),
            policy: Policy::default(),
            replicate_ns: 0,
            operate_ns: 0,
        }
    }

    /// A daemon starts on what it finds: its store, and the pinned maps.
    pub(crate) fn start_daemon(&mut self, now: Nanos) {
        let owned = (0..16u16).filter_map(|vip| {
            let epoch = self.memory.owned[usize::from(vip)].load(Relaxed);
            VipId::new(vip).filter(|_| epoch != 0).map(|vip| (vip, epoch))
        });
        let start = Start {
            own: self.id,
            incarnation: self.raft.disk.incarnation,
            applied: self.memory.fence.applied.load(Relaxed),
            owned: owned.collect(),
        };
        self.daemon = true;
        self.raft = Raft::new(self.id, std::mem::take(&mut self.raft.disk));
        self.ownership = Ownership::new(start);
        self.elections = Elections::new(now, self.id);
        self.policy = Policy::default();
        self.inbox.clear();
        self.restored = false;
        // By a clock that may have begun anew.
        (self.replicate_ns, self.operate_ns) = (0, 0);
    }

    fn handle_restored(&mut self, now: Nanos) {
        self.restored = true;
        let log = self.raft.disk.log.iter().map(|(id, entry)| (*id, entry));
        self.ownership.handle_restored(now, State::default(), log);
    }

    /// One thing that the ownership thread does: a command, or else the next input. Says whether there was one.
    pub(crate) fn step(&mut self, now: Nanos, operator: &Operator, out: &mut Vec<Out>) -> bool {
        if let Some(command) = self.ownership.poll_command() {
            self.execute(now, command, out);
            self.drain(now, out);
            return true;
        }
        let Some(input) = self.inbox.pop_front() else { return false };
        match input {
            Input::Restored => self.handle_restored(now),
            Input::Rpc(from, rpc) if self.restored => self.handle_rpc(now, from, rpc),
            Input::Rpc(..) => (),
            Input::Message(from, message) => {
                if let Message::Progress { last, .. } = message {
                    self.elections.handle_last(from, last);
                }
                self.ownership.handle_message(now, from, &message);
            }
            Input::Timer => self.handle_timer(now, operator),
            Input::Move(vip, owner) => self.ownership.assign(now, vip, Some(owner)),
            Input::Leases(lease_ns) => {
                let leases = crate::ownership::Leases { same_subnet_ns: lease_ns, ..Default::default() };
                self.ownership.change_leases(leases);
            }
        }
        self.drain(now, out);
        true
    }

    fn execute(&mut self, now: Nanos, command: Command, out: &mut Vec<Out>) {
        let memory = &self.memory;
        match command {
            Command::StoreAllUnsure => {
                (1..16).filter_map(|node| memory.vouch_index(node)).for_each(|word| word.store(0, Relaxed));
            }
            Command::StoreVouch(node, index) => {
                if let Some(word) = memory.vouch_index(node.get()) {
                    word.store(vouch_word(index), Relaxed);
                }
            }
            Command::ReadStamps(nodes) => {
                let stamp = |node: NodeId| memory.vouched(node.get()).map_or(0, |word| word.load(Relaxed));
                let stamps: Vec<_> = nodes.iter().map(|node| (node, stamp(node))).collect();
                self.ownership.handle_stamps(now, &stamps);
            }
            Command::Acknowledge(id) => self.raft.acknowledge(id),
            Command::StoreVoters(words) => store_voters(&memory.fence, &words, quorum::MAJORITY),
            Command::ClearOwner(vip) => memory.owned[usize::from(vip.get())].store(0, Relaxed),
            // Its VIPs have no addresses.
            Command::Flush | Command::StoreVip(..) | Command::ForgetVip(_) => (),
            Command::StoreApplied(applied) => memory.fence.applied.store(applied, Relaxed),
            Command::SetOwner(vip, epoch) => memory.owned[usize::from(vip.get())].store(epoch, Relaxed),
            Command::Send(to, message) if to == self.id => self.inbox.push_back(Input::Message(to, message)),
            Command::Send(to, message) => out.push(Out::Message(to, message)),
            Command::Propose(entry) => self.raft.propose(entry),
        }
    }

    fn voters(&self) -> VoterSets {
        self.raft.voters()
    }

    fn may_vote(&self) -> bool {
        self.ownership.standing() != VoterStanding::Unsure && self.trusted_with_votes()
    }

    /// Rule 14. A node that hasn't applied its own membership yet looks into its log.
    fn trusted_with_votes(&self) -> bool {
        let own = self.ownership.knows_own_store(self.raft.disk.log.iter().map(|(_, entry)| entry));
        own == VoterStanding::Sure
    }

    fn handle_rpc(&mut self, now: Nanos, from: NodeId, rpc: Rpc) {
        if let Rpc::Vote { .. } = rpc {
            let voters = self.voters();
            let heed = self.elections.heed_vote_request(now, from, &voters);
            if heed == Heed::Drop || !self.may_vote() {
                return;
            }
        }
        // Rule 14: what is written into an emptied store must not count for what the old one had promised to hold.
        if let Rpc::Append { store, .. } = &rpc {
            let meant = *store == Some(self.raft.disk.incarnation);
            if !meant && !broken(Shell::AppendsToAnotherStore) {
                return;
            }
        }
        self.raft.handle(from, rpc);
    }

    fn handle_timer(&mut self, now: Nanos, operator: &Operator) {
        self.look_at_peers(now);
        let (voters, last) = (self.voters(), self.raft.last());
        if self.may_vote() && self.elections.handle_timeout(now, &voters, last) {
            self.raft.stand();
        }
        if self.ownership.poll_timeout(now) <= now {
            self.ownership.handle_timeout(now);
        }
        if self.raft.role != Role::Leader {
            return;
        }
        for (vip, owner) in self.policy.plan(now, self.ownership.state()) {
            self.ownership.assign(now, vip, Some(owner));
        }
        if now >= self.operate_ns {
            self.operate_ns = now + OPERATE_NS;
            self.operate(operator);
        }
        if now >= self.replicate_ns {
            self.replicate(now);
        }
    }

    fn replicate(&mut self, now: Nanos) {
        self.replicate_ns = now + REPLICATE_NS;
        let nodes: Vec<_> = (1..=9).filter_map(NodeId::new).filter(|node| self.heard_of(*node)).collect();
        self.raft.replicate(&nodes);
    }

    fn heard_of(&self, node: NodeId) -> bool {
        self.heard.get(usize::from(node.get())).is_some_and(|heard| heard.proof_ns > 0)
    }

    /// The detector's part: who is up, and whose engine ticks.
    fn look_at_peers(&mut self, now: Nanos) {
        for (number, heard) in self.heard.iter().enumerate() {
            let node = u16::try_from(number).ok().and_then(NodeId::new);
            let Some(node) = node.filter(|node| heard.proof_ns > 0 || *node == self.id) else { continue };
            let silent_ns = now.saturating_sub(heard.proof_ns);
            let ticks = heard.tick_age_ns.saturating_add(silent_ns) < ENGINE_TIMEOUT_NS;
            let up = node == self.id || silent_ns < DETECTION_NS && ticks;
            if node != self.id {
                self.elections.handle_peer(now, node, if up { Seen::Up } else { Seen::Down });
            }
            let alive = up && !self.ownership.sleeps(node);
            let seen = if alive { Seen::Up } else { Seen::Down };
            self.policy.handle_node(now, node, seen, u64::MAX);
        }
    }

    /// The operator takes one step towards what is wanted.
    fn operate(&mut self, operator: &Operator) {
        use crate::ownership::{Entry, Member, Standing};
        let (state, voters) = (self.ownership.state(), self.ownership.state().voters);
        let known = |node: &NodeId| state.members.get(node).map(|member| member.incarnation);
        let stale =
            |(node, incarnation): &&(NodeId, u64)| known(node).is_some_and(|known| known != *incarnation);
        let stale: NodeSet = operator.incarnations.iter().filter(stale).map(|(node, _)| *node).collect();
        let good = |node: &NodeId| known(node).is_some() && !stale.contains(*node);
        let first = voters.first;
        let add = operator.voters.minus(&first).iter().find(good).map(|node| {
            let mut next = first;
            next.insert(node);
            next
        });
        let away = first.iter().find(|node| stale.contains(*node) || !operator.voters.contains(*node));
        let next = match away {
            Some(node) if stale.contains(node) => Some(first.without(node)),
            Some(node) => add.or(Some(first.without(node))),
            None => add,
        };
        if let Some(next) = next.filter(|next| !next.is_empty() && self.ownership.may_change_voters(next)) {
            self.raft.propose(Entry::Voters(VoterSets { first, second: next }));
            return;
        }
        let gone = operator
            .incarnations
            .iter()
            .find(|(node, incarnation)| known(node) != Some(*incarnation) && !voters.all().contains(*node));
        if let Some((node, incarnation)) = gone.filter(|_| state.applied == self.raft.last()) {
            let member = Member { incarnation: *incarnation, site: 0, subnet: 0, standing: Standing::Active };
            let entry = match known(node) {
                Some(_) => Entry::RemoveMember(*node),
                None => Entry::Member(*node, member),
            };
            self.raft.propose(entry);
        }
    }

    /// Passes on what consensus did, until nothing is left.
    fn drain(&mut self, now: Nanos, out: &mut Vec<Out>) {
        let mut appended = false;
        while !self.raft.changes.is_empty() {
            for change in std::mem::take(&mut self.raft.changes) {
                match change {
                    Change::Truncated(index) => {
                        let last = self.raft.id_at(index - 1).unwrap_or_default();
                        self.ownership.handle_truncate(index, last);
                    }
                    Change::Appended(entries) => {
                        appended |= self.raft.role == Role::Leader;
                        self.ownership.handle_append(&entries);
                    }
                    Change::Commit { term, commit } => self.ownership.handle_leader_commit(now, term, commit),
                    Change::Heard(leader) => self.elections.handle_append(now, leader),
                    Change::Acknowledged(node) => self.elections.handle_acknowledge(now, node),
                    Change::Elected => self.elections.handle_elected(now),
                    Change::NewTerm => self.elections.handle_no_leader(),
                }
            }
            self.ownership.handle_leader(now, self.raft.disk.term, self.raft.leader);
            let from = self.ownership.state().applied.index + 1;
            let committed: Vec<_> =
                (from..=self.raft.committed).filter_map(|index| self.raft.entry(index)).collect();
            if !committed.is_empty() {
                let committed = committed.into_iter().map(|(id, entry)| (*id, entry));
                self.ownership.handle_committed(now, committed);
                // Followers hear of a commit at once, too.
                appended |= self.raft.role == Role::Leader;
            }
        }
        if appended {
            self.replicate(now);
        }
        out.extend(self.raft.sends.drain(..).map(|(to, rpc)| Out::Rpc(to, rpc)));
    }
}
