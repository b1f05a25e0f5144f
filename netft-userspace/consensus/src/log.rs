//! The log as openraft sees it: in memory to be read, on disk before it counts.

use crate::disk::Disk;
use crate::driver::Driver;
use crate::store::{Change, Contents, StoreError};
use crate::types::{RaftEntry, RaftLog, StorageError, Types, Vote, log_id_or_none};
use netft_core::types::NodeId;
use openraft::storage::{LogFlushed, RaftLogStorage};
use openraft::{AnyError, LogState, OptionalSend, RaftLogReader, StorageIOError};
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io;
use std::ops::RangeBounds;
use std::sync::{Arc, Mutex, PoisonError};

/// Bounded by snapshots: openraft purges what they hold.
#[derive(Debug, Default)]
struct Mirror {
    entries: BTreeMap<u64, RaftEntry>,
    purged: Option<RaftLog>,
    vote: Option<Vote>,
}

impl Mirror {
    fn last(&self) -> Option<RaftLog> {
        self.entries.last_key_value().map(|(_, entry)| entry.log_id).or(self.purged)
    }
}

/// The log and the vote.
#[derive(Clone)]
pub(crate) struct Log {
    mirror: Arc<Mutex<Mirror>>,
    disk: Disk,
    driver: Driver,
}

impl Log {
    pub(crate) fn new(own: NodeId, contents: &Contents, disk: Disk, driver: Driver) -> Self {
        let entries = contents.log.iter().map(|entry| (entry.log_id.index, entry.clone())).collect();
        // openraft lets a leader that comes back lead on; here it stands again, like everybody: then what it applies before it acts
        // is what was committed when it was elected.
        let led = |vote: &Vote| vote.is_committed() && vote.leader_id().voted_for() == Some(own.get());
        let vote = contents.vote.map(|vote| match led(&vote) {
            true => Vote::new(vote.leader_id().term, own.get()),
            false => vote,
        });
        let mirror = Mirror { entries, purged: contents.purged, vote };
        Self { mirror: Arc::new(Mutex::new(mirror)), disk, driver }
    }

    fn with<T>(&self, work: impl FnOnce(&mut Mirror) -> T) -> T {
        work(&mut self.mirror.lock().unwrap_or_else(PoisonError::into_inner))
    }

    async fn store(&self, change: Change) -> Result<(), StoreError> {
        let result = self.disk.apply(change).await;
        if result.is_err() {
            self.driver.store_failed();
        }
        result
    }
}

impl RaftLogReader<Types> for Log {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<RaftEntry>, StorageError> {
        Ok(self.with(|mirror| mirror.entries.range(range).map(|(_, entry)| entry.clone()).collect()))
    }
}

impl RaftLogStorage<Types> for Log {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, StorageError> {
        Ok(self.with(|mirror| LogState { last_purged_log_id: mirror.purged, last_log_id: mirror.last() }))
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), StorageError> {
        let stored = self.store(Change::Vote(*vote)).await;
        stored.map_err(|error| StorageIOError::write_vote(AnyError::new(&error)))?;
        self.with(|mirror| mirror.vote = Some(*vote));
        Ok(())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, StorageError> {
        Ok(self.with(|mirror| mirror.vote))
    }

    async fn append<I>(&mut self, entries: I, callback: LogFlushed<Types>) -> Result<(), StorageError>
    where
        I: IntoIterator<Item = RaftEntry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<_> = entries.into_iter().collect();
        self.with(|mirror| {
            mirror.entries.extend(entries.iter().map(|entry| (entry.log_id.index, entry.clone())));
        });
        // R first, whether the disk follows or not: then a loss that nobody was told of stops the vouching for nothing, which
        // is safe, and the acknowledgement has both behind it.
        self.driver.append(&entries);
        let stored = self.store(Change::Append(entries)).await;
        callback.log_io_completed(stored.map_err(io::Error::other));
        Ok(())
    }

    async fn truncate(&mut self, since: RaftLog) -> Result<(), StorageError> {
        let last = self.with(|mirror| {
            drop(mirror.entries.split_off(&since.index));
            mirror.last()
        });
        let stored = self.store(Change::Truncate(since.index, last)).await;
        stored.map_err(|error| StorageIOError::write_logs(AnyError::new(&error)))?;
        self.driver.truncate(since.index + 1, log_id_or_none(last.as_ref()));
        Ok(())
    }

    async fn purge(&mut self, upto: RaftLog) -> Result<(), StorageError> {
        self.with(|mirror| {
            mirror.entries = mirror.entries.split_off(&(upto.index + 1));
            mirror.purged = Some(upto);
        });
        // What comes back after a crash is in the snapshot as well.
        self.disk.apply_later(Change::Purge(upto));
        Ok(())
    }
}
