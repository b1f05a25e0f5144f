//! The state machine as openraft sees it: ownership's state, which the driver keeps, and its snapshots.

use crate::disk::Disk;
use crate::driver::Driver;
use crate::store::{Change, StoredSnapshot};
use crate::types::{RaftEntry, RaftLog, SnapshotMeta, StorageError, StoredNodes, Types};
use netft_core::ownership::State;
use openraft::storage::RaftStateMachine;
use openraft::{AnyError, EntryPayload, OptionalSend, RaftSnapshotBuilder, Snapshot, StorageIOError};
use std::sync::{Arc, Mutex, PoisonError};

/// What openraft asks for.
#[derive(Clone)]
pub(crate) struct Machine {
    inner: Arc<Mutex<Inner>>,
    disk: Disk,
    driver: Driver,
}

struct Inner {
    applied: Option<RaftLog>,
    nodes: StoredNodes,
    snapshot: Option<StoredSnapshot>,
    /// Snapshots made in this life: they need names.
    made: u64,
}

/// The state in a snapshot.
pub(crate) fn state_in(snapshot: &StoredSnapshot) -> Result<State, serde_json::Error> {
    serde_json::from_slice(&snapshot.data)
}

impl Machine {
    /// At the snapshot; openraft applies what follows once it knows that it is committed.
    pub(crate) fn new(snapshot: Option<StoredSnapshot>, disk: Disk, driver: Driver) -> Self {
        let applied = snapshot.as_ref().and_then(|snapshot| snapshot.meta.last_log_id);
        let nodes =
            snapshot.as_ref().map(|snapshot| snapshot.meta.last_membership.clone()).unwrap_or_default();
        Self { inner: Arc::new(Mutex::new(Inner { applied, nodes, snapshot, made: 0 })), disk, driver }
    }

    fn with<T>(&self, work: impl FnOnce(&mut Inner) -> T) -> T {
        work(&mut self.inner.lock().unwrap_or_else(PoisonError::into_inner))
    }

    async fn keep(&self, snapshot: StoredSnapshot) -> Result<(), StorageError> {
        let signature = Some(snapshot.meta.signature());
        let kept = self.disk.apply(Change::Snapshot(snapshot.clone())).await;
        kept.map_err(|error| StorageIOError::write_snapshot(signature, AnyError::new(&error)))?;
        self.with(|inner| {
            let holds = |snapshot: &StoredSnapshot| snapshot.meta.last_log_id;
            // One that was installed while this one was made holds more.
            if inner.snapshot.as_ref().and_then(holds) <= holds(&snapshot) {
                inner.snapshot = Some(snapshot);
            }
        });
        Ok(())
    }
}

impl RaftStateMachine<Types> for Machine {
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<RaftLog>, StoredNodes), StorageError> {
        Ok(self.with(|inner| (inner.applied, inner.nodes.clone())))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<()>, StorageError>
    where
        I: IntoIterator<Item = RaftEntry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<_> = entries.into_iter().collect();
        if let Some(last) = entries.last().map(|entry| entry.log_id) {
            // A leader's own entries may be committed before they are on disk here: then they aren't yet.
            let held = self.disk.holds(last.index).await;
            held.map_err(|error| StorageIOError::apply(last, AnyError::new(&error)))?;
        }
        self.driver.apply(&entries);
        self.with(|inner| {
            for entry in &entries {
                inner.applied = Some(entry.log_id);
                if let EntryPayload::Membership(nodes) = &entry.payload {
                    inner.nodes = StoredNodes::new(Some(entry.log_id), nodes.clone());
                }
            }
        });
        Ok(vec![(); entries.len()])
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        let state = self.driver.look(|ownership| ownership.state().clone());
        let meta = self.with(|inner| {
            inner.made += 1;
            let snapshot_id = format!("{}-{}", inner.applied.map_or(0, |applied| applied.index), inner.made);
            SnapshotMeta { last_log_id: inner.applied, last_membership: inner.nodes.clone(), snapshot_id }
        });
        Builder { machine: self.clone(), meta, state }
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<Vec<u8>>, StorageError> {
        Ok(Box::default())
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        data: Box<Vec<u8>>,
    ) -> Result<(), StorageError> {
        let snapshot = StoredSnapshot { meta: meta.clone(), data: *data };
        let state = state_in(&snapshot)
            .map_err(|error| StorageIOError::read_snapshot(Some(meta.signature()), AnyError::new(&error)))?;
        self.keep(snapshot).await?;
        self.with(|inner| {
            inner.applied = meta.last_log_id;
            inner.nodes = meta.last_membership.clone();
        });
        self.driver.install(state, &meta.last_membership);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot<Types>>, StorageError> {
        let snapshot = self.with(|inner| inner.snapshot.clone());
        Ok(snapshot.map(|StoredSnapshot { meta, data }| Snapshot { meta, snapshot: Box::new(data) }))
    }
}

/// The state as it was when a snapshot was asked for: what is applied meanwhile isn't in it.
pub(crate) struct Builder {
    machine: Machine,
    meta: SnapshotMeta,
    state: State,
}

impl RaftSnapshotBuilder<Types> for Builder {
    async fn build_snapshot(&mut self) -> Result<Snapshot<Types>, StorageError> {
        let data = serde_json::to_vec(&self.state)
            .map_err(|error| StorageIOError::read_state_machine(AnyError::new(&error)))?;
        let meta = self.meta.clone();
        self.machine.keep(StoredSnapshot { meta: meta.clone(), data: data.clone() }).await?;
        Ok(Snapshot { meta, snapshot: Box::new(data) })
    }
}
