//! The log as openraft sees it: in memory to be read, on disk before it counts.
//!
//! A leader's own entries are sent to the others while they are written here: openraft is told at once that they are on disk,
//! and everything that it makes of it waits for the disk instead. What it takes for committed is neither applied
//! ([`crate::machine`]) nor told to others ([`crate::network`]) before it is on disk here. Whoever follows another leader has
//! stored a vote for it, which came behind in the queue of the disk; so did what was truncated.

use crate::disk::{Disk, MAX_UNDER_WAY};
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
use tokio::sync::Semaphore;

/// Bounded by snapshots: openraft purges what they hold.
#[derive(Debug, Default)]
struct Mirror {
    entries: BTreeMap<u64, RaftEntry>,
    purged: Option<RaftLog>,
    vote: Option<Vote>,
}

/// What an append needs to know of the log before it.
struct Place {
    /// This node leads, and made the entries itself.
    leads: bool,
    /// The entry before them is in a snapshot.
    after_snapshot: bool,
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
    own: NodeId,
    under_way: Arc<Semaphore>,
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
        let under_way = Arc::new(Semaphore::new(MAX_UNDER_WAY));
        Self { mirror: Arc::new(Mutex::new(mirror)), disk, driver, own, under_way }
    }

    fn with<T>(&self, work: impl FnOnce(&mut Mirror) -> T) -> T {
        work(&mut self.mirror.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn extend(&self, entries: &[RaftEntry]) -> Place {
        self.with(|mirror| {
            let after_snapshot = mirror.entries.is_empty();
            mirror.entries.extend(entries.iter().map(|entry| (entry.log_id.index, entry.clone())));
            let leads = mirror.vote.is_some_and(|vote| {
                let own = vote.is_committed() && vote.leader_id().voted_for() == Some(self.own.get());
                own && entries.iter().all(|entry| entry.log_id.leader_id.term == vote.leader_id().term)
            });
            Place { leads, after_snapshot }
        })
    }

    async fn write(&self, entries: Vec<RaftEntry>, place: Place) -> Result<(), StoreError> {
        let first = entries.first().map_or(0, |entry| entry.log_id.index);
        if place.after_snapshot && first > 0 {
            // It is still being installed: there must be no gap.
            self.disk.holds(first - 1).await?;
        }
        if !place.leads {
            return self.disk.apply(Change::Append(entries)).await;
        }
        let Ok(permit) = self.under_way.clone().acquire_owned().await else { return Ok(()) };
        let pending = self.disk.ask(Change::Append(entries))?;
        tokio::spawn(async move {
            // Of a failure everybody hears who waits for the entries.
            let _ = pending.done().await;
            drop(permit);
        });
        Ok(())
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
        let stored = self.disk.apply(Change::Vote(*vote)).await;
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
        let place = self.extend(&entries);
        // R first, whether the disk follows or not: then a loss that nobody was told of stops the vouching for nothing, which
        // is safe, and the acknowledgement has both behind it.
        self.driver.append(&entries);
        let stored = self.write(entries, place).await;
        callback.log_io_completed(stored.map_err(io::Error::other));
        Ok(())
    }

    async fn truncate(&mut self, since: RaftLog) -> Result<(), StorageError> {
        let last = self.with(|mirror| {
            drop(mirror.entries.split_off(&since.index));
            mirror.last()
        });
        let stored = self.disk.apply(Change::Truncate(since.index, last)).await;
        stored.map_err(|error| StorageIOError::write_logs(AnyError::new(&error)))?;
        self.driver.truncate(since.index + 1, log_id_or_none(last.as_ref()));
        Ok(())
    }

    async fn purge(&mut self, upto: RaftLog) -> Result<(), StorageError> {
        self.with(|mirror| {
            mirror.entries = mirror.entries.split_off(&(upto.index + 1));
            mirror.purged = Some(upto);
        });
        // Nobody waits for it: what comes back after a crash is in the snapshot as well.
        let asked = self.disk.ask(Change::Purge(upto));
        asked.map(drop).map_err(|error| StorageIOError::write_logs(AnyError::new(&error)).into())
    }
}
