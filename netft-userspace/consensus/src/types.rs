//! What openraft is instantiated with, and how its words map to those of [`netft_core::ownership`].
//!
//! openraft counts log entries from 0, ownership from 1 (0 = none): an index here is one less than there.

use netft_core::ownership::{Entry, LogId, Member, NodeSet, VoterSets};
use netft_core::types::NodeId;
use openraft::{AsyncRuntime, EntryPayload, Membership, OptionalSend, RaftLogId, TokioInstant, TokioRuntime};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::future::Future;
use std::time::Duration;

/// How long a request may take. openraft would give one up after a heartbeat interval (3 ms), which is less than a disk may
/// need to store what is asked for: then no append and no vote would ever be answered in time. What goes with a peer is
/// found out by the detector, not by this.
pub(crate) const PATIENCE: Duration = Duration::from_millis(500);

/// What the membership of consensus records of a node. `None` only in openraft's own defaults.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recorded(pub Option<Member>);

openraft::declare_raft_types!(
    /// The types of consensus.
    pub Types:
        D = Entry,
        R = (),
        NodeId = u16,
        Node = Recorded,
        SnapshotData = Vec<u8>,
        AsyncRuntime = Patient,
);

pub(crate) type Raft = openraft::Raft<Types>;
pub(crate) type RaftEntry = openraft::Entry<Types>;
pub(crate) type RaftLog = openraft::LogId<u16>;
pub(crate) type Vote = openraft::Vote<u16>;
pub(crate) type Nodes = Membership<u16, Recorded>;
pub(crate) type StoredNodes = openraft::StoredMembership<u16, Recorded>;
pub(crate) type SnapshotMeta = openraft::SnapshotMeta<u16, Recorded>;
pub(crate) type StorageError = openraft::StorageError<u16>;

/// Where an entry of openraft's stands in ownership's log.
pub(crate) fn log_id(id: &RaftLog) -> LogId {
    LogId { term: id.committed_leader_id().term, index: id.index + 1 }
}

/// The same of one that may not be.
pub(crate) fn log_id_or_none(id: Option<&RaftLog>) -> LogId {
    id.map(log_id).unwrap_or_default()
}

fn set(nodes: &BTreeSet<u16>) -> NodeSet {
    nodes.iter().filter_map(|node| NodeId::new(*node)).collect()
}

/// The voters of a membership.
pub(crate) fn voters(membership: &Nodes) -> VoterSets {
    let mut sets = membership.get_joint_config().iter().map(set);
    VoterSets { first: sets.next().unwrap_or_default(), second: sets.next().unwrap_or_default() }
}

/// Every node of a membership with what is recorded of it.
pub(crate) fn members(membership: &Nodes) -> impl Iterator<Item = (NodeId, Member)> {
    membership.nodes().filter_map(|(node, recorded)| Some((NodeId::new(*node)?, recorded.0?)))
}

/// What an entry of openraft's says to ownership.
pub(crate) fn entry(raft: &RaftEntry) -> Entry {
    match &raft.payload {
        EntryPayload::Blank => Entry::Blank,
        EntryPayload::Normal(entry) => entry.clone(),
        EntryPayload::Membership(membership) if raft.get_log_id().index == 0 => {
            Entry::Founded(members(membership).collect())
        }
        EntryPayload::Membership(membership) => Entry::Voters(voters(membership)),
    }
}

/// tokio, with more patience for requests: see [`PATIENCE`].
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Patient;

impl AsyncRuntime for Patient {
    type JoinError = <TokioRuntime as AsyncRuntime>::JoinError;
    type JoinHandle<T: OptionalSend + 'static> = <TokioRuntime as AsyncRuntime>::JoinHandle<T>;
    type Sleep = <TokioRuntime as AsyncRuntime>::Sleep;
    type Instant = TokioInstant;
    type TimeoutError = <TokioRuntime as AsyncRuntime>::TimeoutError;
    type Timeout<R, T: Future<Output = R> + OptionalSend> = <TokioRuntime as AsyncRuntime>::Timeout<R, T>;
    type ThreadLocalRng = <TokioRuntime as AsyncRuntime>::ThreadLocalRng;
    type OneshotSender<T: OptionalSend> = <TokioRuntime as AsyncRuntime>::OneshotSender<T>;
    type OneshotReceiverError = <TokioRuntime as AsyncRuntime>::OneshotReceiverError;
    type OneshotReceiver<T: OptionalSend> = <TokioRuntime as AsyncRuntime>::OneshotReceiver<T>;

    fn spawn<T>(future: T) -> Self::JoinHandle<T::Output>
    where
        T: Future + OptionalSend + 'static,
        T::Output: OptionalSend + 'static,
    {
        TokioRuntime::spawn(future)
    }

    fn sleep(duration: Duration) -> Self::Sleep {
        TokioRuntime::sleep(duration)
    }

    fn sleep_until(deadline: Self::Instant) -> Self::Sleep {
        TokioRuntime::sleep_until(deadline)
    }

    fn timeout<R, F: Future<Output = R> + OptionalSend>(
        duration: Duration,
        future: F,
    ) -> Self::Timeout<R, F> {
        TokioRuntime::timeout(duration.max(PATIENCE), future)
    }

    fn timeout_at<R, F: Future<Output = R> + OptionalSend>(
        at: Self::Instant,
        future: F,
    ) -> Self::Timeout<R, F> {
        TokioRuntime::timeout_at(at, future)
    }

    fn is_panic(join_error: &Self::JoinError) -> bool {
        TokioRuntime::is_panic(join_error)
    }

    fn thread_rng() -> Self::ThreadLocalRng {
        TokioRuntime::thread_rng()
    }

    fn oneshot<T: OptionalSend>() -> (Self::OneshotSender<T>, Self::OneshotReceiver<T>) {
        TokioRuntime::oneshot()
    }
}
