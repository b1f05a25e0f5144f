//! What happens to consensus, passed on to ownership and elections, and what they want done: in one order, under one lock.

use crate::clock::now_ns;
use crate::types::{Nodes, RaftEntry, StoredNodes, entry, log_id, members, voters};
use netft_common::fence::MAX_VOTERS;
use netft_core::channel::Introduction;
use netft_core::ownership::{
    Command, Elections, Entry, Epoch, Heed, LogId, Message, NodeSet, Ownership, Seen, Start, State, VipId,
    VipSettings, VoterSets, VoterStanding, Why,
};
use netft_core::types::{Nanos, NodeId};
use openraft::EntryPayload;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{Notify, mpsc, watch};

/// After a start a node doesn't stand for this long, or until it has heard of a leader: one that works is heard of within it. Without, a node that comes back would
/// depose it.
const SETTLING_NS: Nanos = 250_000_000;

/// A candidate stores its vote, voters theirs, and the new leader that it leads before others hear of it; with a third as much
/// again.
const COMMITS_OF_AN_ELECTION: u64 = 4;

/// Carries out the commands of ownership that concern the maps and the addresses, each before it returns. See
/// [`Command`] for what each of them must do.
pub trait Actuator: Send + 'static {
    /// [`Command::StoreAllUnsure`].
    fn store_all_unsure(&mut self);
    /// [`Command::StoreVouch`].
    fn store_vouch(&mut self, node: NodeId, index: u64);
    /// [`Command::ReadStamps`]: by node, the newest stamp of all CPUs.
    fn read_stamps(&mut self, nodes: &NodeSet) -> Vec<(NodeId, Nanos)>;
    /// [`Command::StoreVoters`].
    fn store_voters(&mut self, words: &[u64; MAX_VOTERS]);
    /// [`Command::StoreVip`].
    fn store_vip(&mut self, _vip: VipId, _settings: &VipSettings) {}
    /// [`Command::ForgetVip`].
    fn forget_vip(&mut self, _vip: VipId) {}
    /// [`Command::ClearOwner`].
    fn clear_owner(&mut self, vip: VipId);
    /// [`Command::Flush`].
    fn flush(&mut self);
    /// [`Command::StoreApplied`].
    fn store_applied(&mut self, applied: u64);
    /// [`Command::SetOwner`].
    fn set_owner(&mut self, vip: VipId, epoch: Epoch);
}

/// For a witness, which owns nothing, and wherever there is no fence.
#[derive(Debug, Default)]
pub struct NoFence;

impl Actuator for NoFence {
    fn store_all_unsure(&mut self) {}
    fn store_vouch(&mut self, _: NodeId, _: u64) {}
    fn read_stamps(&mut self, nodes: &NodeSet) -> Vec<(NodeId, Nanos)> {
        nodes.iter().map(|node| (node, 0)).collect()
    }
    fn store_voters(&mut self, _: &[u64; MAX_VOTERS]) {}
    fn clear_owner(&mut self, _: VipId) {}
    fn flush(&mut self) {}
    fn store_applied(&mut self, _: u64) {}
    fn set_owner(&mut self, _: VipId, _: Epoch) {}
}

/// Where what ownership says goes to.
#[derive(Debug)]
pub(crate) struct Outlets {
    pub(crate) messages: mpsc::UnboundedSender<(NodeId, Message)>,
    pub(crate) proposals: mpsc::UnboundedSender<Entry>,
}

/// How this node stands in the newest term that it knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reign {
    pub(crate) term: u64,
    pub(crate) leader: Option<NodeId>,
}

/// What whoever looks after a node wants to hear of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// The newest term.
    pub term: u64,
    /// Who leads in it.
    pub leader: Option<NodeId>,
    /// The newest entry that was applied.
    pub applied: LogId,
    /// How often this node has taken or released a VIP.
    pub handovers: u64,
}

/// One lock around the state machines, and who is woken when they want something later.
#[derive(Clone)]
pub(crate) struct Driver {
    inner: Arc<Mutex<Inner>>,
    changed: Arc<Notify>,
}

struct Inner {
    own: NodeId,
    incarnation: u64,
    ownership: Ownership,
    elections: Elections,
    actuator: Box<dyn Actuator>,
    outlets: Outlets,
    /// The nodes and voters by the newest membership in the log, committed or not.
    recorded: BTreeMap<NodeId, u64>,
    voters: VoterSets,
    reign: Reign,
    /// The newest entry that was applied.
    committed: LogId,
    /// Up to where R follows the log.
    acknowledged: LogId,
    restored: bool,
    /// When this node may stand.
    settled_ns: Nanos,
    /// What a peer said against this node's store.
    trouble: Option<String>,
    dropped_votes: u64,
    handovers: u64,
    changes: watch::Sender<Change>,
}

impl Driver {
    pub(crate) fn new(start: Start, actuator: Box<dyn Actuator>, outlets: Outlets) -> Self {
        let (now, own, incarnation) = (now_ns(), start.own, start.incarnation);
        let inner = Inner {
            own,
            incarnation,
            ownership: Ownership::new(start),
            elections: Elections::new(now, own),
            actuator,
            outlets,
            recorded: BTreeMap::new(),
            voters: VoterSets::default(),
            reign: Reign::default(),
            committed: LogId::default(),
            acknowledged: LogId::default(),
            restored: false,
            settled_ns: now + SETTLING_NS,
            trouble: None,
            dropped_votes: 0,
            handovers: 0,
            changes: watch::Sender::default(),
        };
        let driver = Self { inner: Arc::new(Mutex::new(inner)), changed: Arc::default() };
        driver.with(|_, _| ());
        driver
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Whoever panicked within has left commands undone, which are carried out next.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something at the present time, then everything that follows from it, and wakes who waits for the time.
    fn with<T>(&self, work: impl FnOnce(&mut Inner, Nanos) -> T) -> T {
        let result = self.quietly(work);
        self.changed.notify_one();
        result
    }

    fn quietly<T>(&self, work: impl FnOnce(&mut Inner, Nanos) -> T) -> T {
        let mut inner = self.lock();
        let result = work(&mut inner, now_ns());
        inner.drain();
        inner.tell_changes();
        result
    }

    /// Woken by every input.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// What the store held. Everything of it may be acknowledged when this returns.
    pub(crate) fn restore(&self, snapshot: State, nodes: &StoredNodes, log: &[RaftEntry]) {
        self.with(|inner, now| {
            inner.learn_nodes(nodes.membership());
            let applied = snapshot.applied;
            inner.committed = applied;
            let entries: Vec<_> = log.iter().map(|raft| (log_id(&raft.log_id), entry(raft))).collect();
            let unapplied = entries.iter().filter(|(id, _)| id.index > applied.index);
            inner.ownership.handle_restored(now, snapshot, unapplied.map(|(id, entry)| (*id, entry)));
            log.iter().for_each(|raft| inner.learn_from(raft));
            inner.restored = true;
        });
    }

    /// R stands for these entries when this returns: rule 8.
    pub(crate) fn append(&self, log: &[RaftEntry]) {
        let entries: Vec<_> = log.iter().map(|raft| (log_id(&raft.log_id), entry(raft))).collect();
        self.with(|inner, _| {
            inner.ownership.handle_append(&entries);
            log.iter().for_each(|raft| inner.learn_from(raft));
        });
        let acknowledged = self.lock().acknowledged;
        debug_assert!(
            entries.last().is_none_or(|(id, _)| *id <= acknowledged),
            "R comes before the acknowledgement"
        );
    }

    pub(crate) fn truncate(&self, index: u64, last: LogId) {
        self.with(|inner, _| inner.ownership.handle_truncate(index, last));
    }

    pub(crate) fn apply(&self, log: &[RaftEntry]) {
        self.with(|inner, now| {
            let mut known = inner.ownership.state().voters;
            let entries: Vec<_> = log.iter().map(|raft| (log_id(&raft.log_id), entry(raft))).collect();
            // A membership that only has other learners changes nothing for fences: nothing has to be settled.
            let entries = entries.into_iter().map(|(id, entry)| match entry {
                Entry::Voters(voters) if voters == known => (id, Entry::Blank),
                Entry::Voters(voters) => {
                    known = voters;
                    (id, entry)
                }
                entry => (id, entry),
            });
            let entries: Vec<_> = entries.collect();
            inner.ownership.handle_committed(now, entries.iter().map(|(id, entry)| (*id, entry)));
            inner.committed = entries.last().map_or(inner.committed, |(id, _)| *id);
            inner.tell_own_commit(now);
        });
    }

    pub(crate) fn install(&self, snapshot: State, nodes: &StoredNodes) {
        self.with(|inner, now| {
            inner.learn_nodes(nodes.membership());
            inner.committed = inner.committed.max(snapshot.applied);
            inner.ownership.handle_snapshot(now, snapshot);
        });
    }

    pub(crate) fn store_failed(&self) {
        self.with(|inner, _| {
            inner.restored = false;
            inner.ownership.handle_store_failed();
        });
    }

    /// A leader's append was accepted; it says that the log is committed up to `commit`.
    pub(crate) fn heard_leader(&self, term: u64, leader: NodeId, commit: LogId) {
        self.with(|inner, now| {
            // It was at work on this for long, and there is a new leader.
            if term < inner.reign.term {
                return;
            }
            inner.settled_ns = inner.settled_ns.min(now);
            inner.elections.handle_append(now, leader);
            inner.ownership.handle_leader_commit(now, term, commit);
        });
    }

    /// This node leads, and a peer answered.
    pub(crate) fn acknowledged_by(&self, node: NodeId) {
        self.with(|inner, now| inner.elections.handle_acknowledge(now, node));
    }

    /// What openraft says of term, leader and membership.
    pub(crate) fn reign(&self, reign: Reign, nodes: &StoredNodes) {
        self.with(|inner, now| {
            inner.learn_nodes(nodes.membership());
            if reign == inner.reign {
                return;
            }
            let newer = reign.term > inner.reign.term;
            inner.reign = reign;
            match reign.leader {
                Some(leader) if leader == inner.own => inner.elections.handle_elected(now),
                None if newer => inner.elections.handle_no_leader(),
                _ => {}
            }
            inner.ownership.handle_leader(now, reign.term, reign.leader);
            inner.tell_own_commit(now);
        });
    }

    pub(crate) fn peer(&self, node: NodeId, seen: Seen) {
        self.with(|inner, now| inner.elections.handle_peer(now, node, seen));
    }

    pub(crate) fn message(&self, from: NodeId, message: &Message) {
        self.with(|inner, now| {
            if let Message::Progress { last, .. } = message {
                inner.elections.handle_last(from, *last);
            }
            inner.ownership.handle_message(now, from, message);
        });
    }

    pub(crate) fn assign(&self, vip: VipId, owner: Option<NodeId>, why: Why) {
        self.with(|inner, now| inner.ownership.assign_because(now, vip, owner, why));
    }

    pub(crate) fn ask_to_move(&self, vip: VipId, node: NodeId) {
        self.with(|inner, now| inner.ownership.ask_to_move(now, vip, node));
    }

    /// What ownership doesn't want by itself, and the leader does.
    pub(crate) fn propose(&self, entry: Entry) {
        drop(self.lock().outlets.proposals.send(entry));
    }

    pub(crate) fn changes(&self) -> watch::Receiver<Change> {
        self.lock().changes.subscribe()
    }

    /// What may be said in an introduction to this node.
    pub(crate) fn introduction(&self, to: NodeId) -> Introduction {
        let inner = self.lock();
        let expects = inner.recorded.get(&to).copied().unwrap_or(0);
        Introduction { node: inner.own, incarnation: inner.incarnation, expects }
    }

    /// A peer, or this node itself, knows this node with another store.
    pub(crate) fn refused_by(&self, peer: NodeId) {
        let mut inner = self.lock();
        if inner.trouble.is_none() {
            let trouble = format!(
                "node {peer} knows this node with another store than it has now: it stays out of consensus until it is removed from the cluster and added again"
            );
            tracing::error!("{trouble}");
            inner.trouble = Some(trouble);
        }
    }

    pub(crate) fn trouble(&self) -> Option<String> {
        self.lock().trouble.clone()
    }

    /// The other end knows no other store of this node's.
    pub(crate) fn accepted(&self) {
        self.lock().trouble = None;
    }

    /// Rules 11 and 14: whether a vote request may be considered. `known` is whether who asks knows this node with the store
    /// that it has now.
    pub(crate) fn heeds_vote(&self, from: NodeId, known: Known) -> Heed {
        self.with(|inner, now| {
            let voters = inner.voters;
            let heed = inner.elections.heed_vote_request(now, from, &voters);
            if inner.may_vote(known) { heed } else { Heed::Drop }
        })
    }

    pub(crate) fn dropped_vote(&self) {
        self.lock().dropped_votes += 1;
    }

    /// The vote was given.
    pub(crate) fn granted(&self) {
        self.with(|inner, now| {
            let (voters, last) = (inner.voters, inner.ownership.last());
            inner.elections.handle_granted(now, &voters, last);
        });
    }

    /// How long a change takes to be on disk.
    pub(crate) fn pace(&self, commit_ns: Nanos) {
        self.lock().elections.handle_pace(commit_ns.saturating_mul(COMMITS_OF_AN_ELECTION));
    }

    /// When [`Driver::timeout`] is due.
    pub(crate) fn due_ns(&self) -> Nanos {
        let mut inner = self.lock();
        let (now, voters, last) = (now_ns(), inner.voters, inner.ownership.last());
        let elections_ns = inner.elections.poll_timeout(now, &voters, last);
        let elections_ns = elections_ns.max(inner.settled_ns);
        inner.ownership.poll_timeout(now).min(elections_ns)
    }

    /// Whether to stand for election now.
    pub(crate) fn timeout(&self) -> Stand {
        self.quietly(|inner, now| {
            if inner.ownership.poll_timeout(now) <= now {
                inner.ownership.handle_timeout(now);
            }
            let (voters, last) = (inner.voters, inner.ownership.last());
            let settled = now >= inner.settled_ns;
            let stands =
                settled && inner.may_vote(Known::No) && inner.elections.handle_timeout(now, &voters, last);
            if stands { Stand::Now } else { Stand::Not }
        })
    }

    /// Looks at the state.
    pub(crate) fn look<T>(&self, look: impl FnOnce(&Ownership) -> T) -> T {
        look(&self.lock().ownership)
    }

    pub(crate) fn reign_now(&self) -> Reign {
        self.lock().reign
    }

    pub(crate) fn voters(&self) -> VoterSets {
        self.lock().voters
    }

    pub(crate) fn dropped_votes(&self) -> u64 {
        self.lock().dropped_votes
    }
}

/// Whether to stand for election.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stand {
    Now,
    Not,
}

/// Whether somebody knows this node, with the store that it has now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Known {
    Yes,
    No,
}

impl Inner {
    fn learn_nodes(&mut self, nodes: &Nodes) {
        if nodes.get_joint_config().is_empty() {
            return;
        }
        self.recorded = members(nodes).map(|(node, member)| (node, member.incarnation)).collect();
        self.voters = voters(nodes);
    }

    fn learn_from(&mut self, raft: &RaftEntry) {
        if let EntryPayload::Membership(nodes) = &raft.payload {
            self.learn_nodes(nodes);
        }
    }

    /// Rule 14. A node that is in no log yet goes by what the log of who asks says of it: such a request comes with proof.
    fn may_vote(&self, known: Known) -> bool {
        let own = self.recorded.get(&self.own).copied();
        self.restored
            && self.ownership.standing() != VoterStanding::Unsure
            && match own {
                Some(incarnation) => incarnation == self.incarnation,
                None => known == Known::Yes,
            }
    }

    /// A leader is its own witness that something of its term is committed.
    fn tell_own_commit(&mut self, now: Nanos) {
        let Reign { term, leader } = self.reign;
        if leader == Some(self.own) && self.committed.term == term {
            self.ownership.handle_leader_commit(now, term, self.committed);
        }
    }

    fn tell_changes(&mut self) {
        let Reign { term, leader } = self.reign;
        let applied = self.ownership.state().applied;
        let change = Change { term, leader, applied, handovers: self.handovers };
        self.changes.send_if_modified(|known| std::mem::replace(known, change) != change);
    }

    fn drain(&mut self) {
        while let Some(command) = self.ownership.poll_command() {
            self.execute(command);
        }
    }

    fn execute(&mut self, command: Command) {
        if matches!(command, Command::ClearOwner(_) | Command::SetOwner(..)) {
            self.handovers += 1;
        }
        match command {
            Command::StoreAllUnsure => self.actuator.store_all_unsure(),
            Command::StoreVouch(node, index) => self.actuator.store_vouch(node, index),
            Command::ReadStamps(nodes) => {
                let stamps = self.actuator.read_stamps(&nodes);
                self.ownership.handle_stamps(now_ns(), &stamps);
            }
            Command::Acknowledge(id) => self.acknowledged = id,
            Command::StoreVoters(words) => self.actuator.store_voters(&words),
            Command::StoreVip(vip, settings) => self.actuator.store_vip(vip, &settings),
            Command::ForgetVip(vip) => self.actuator.forget_vip(vip),
            Command::ClearOwner(vip) => self.actuator.clear_owner(vip),
            Command::Flush => self.actuator.flush(),
            Command::StoreApplied(applied) => self.actuator.store_applied(applied),
            Command::SetOwner(vip, epoch) => self.actuator.set_owner(vip, epoch),
            // Both ends are there for as long as the node runs.
            Command::Send(to, message) => drop(self.outlets.messages.send((to, message))),
            Command::Propose(entry) => drop(self.outlets.proposals.send(entry)),
        }
    }
}
