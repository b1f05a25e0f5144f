//! What consensus must not forget, on disk: vote, log, snapshot and the store's own incarnation, in one redb file.
//!
//! Every change is one transaction, on disk before it returns. Each record carries a digest of its own; what was torn or
//! changed under us is refused when the store is opened, never repaired by guessing. redb goes back to the commit before the
//! last one if that was torn by a power failure, when nobody has been told of it.

use crate::types::{RaftEntry, RaftLog, SnapshotMeta, Vote};
use netft_core::types::NodeId;
use redb::{Database, Durability, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

/// Of the file, within its folder.
pub const FILE: &str = "consensus.redb";
const FORMAT: u32 = 1;
const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
const LOG: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("log");
const DIGEST: usize = 8;
/// Pages kept in memory, in bytes: the log is small and read once.
const CACHE: usize = 4 << 20;

/// Why a store can't be used. The cluster goes on without this node.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// What is there isn't what was written.
    #[error(
        "the store {path} is damaged ({why}): this node stays out; move the file away, then remove the node from the cluster and add it again"
    )]
    Damaged {
        /// The file.
        path: String,
        /// What was found.
        why: String,
    },
    /// Of another node or cluster.
    #[error(
        "the store {path} belongs to {found}, not to {own}: this node stays out; give it its own state folder"
    )]
    Foreign {
        /// The file.
        path: String,
        /// Whose it is.
        found: String,
        /// Whose it should be.
        own: String,
    },
    /// Another process has it.
    #[error("the store {path} is in use by another process: stop that one first")]
    Busy {
        /// The file.
        path: String,
    },
    /// The disk is full.
    #[error(
        "the store {path} can't be written, the disk is full: this node stays out; make room, then restart netftd"
    )]
    Full {
        /// The file.
        path: String,
    },
    /// Reading or writing failed.
    #[error("the store {path} failed ({why}): this node stays out; look after the disk, then restart netftd")]
    Failed {
        /// The file.
        path: String,
        /// What the system said.
        why: String,
    },
}

/// Whose store it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// The cluster's number.
    pub cluster: u32,
    /// The node.
    pub node: NodeId,
}

#[derive(Serialize, Deserialize)]
struct Identity {
    format: u32,
    owner: Owner,
    incarnation: u64,
}

/// A stored snapshot.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct StoredSnapshot {
    pub(crate) meta: SnapshotMeta,
    pub(crate) data: Vec<u8>,
}

/// The ends of the log: tell that nothing is missing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Ends {
    purged: Option<RaftLog>,
    last: Option<RaftLog>,
}

/// What a store held when it was opened.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Contents {
    /// Rule 14: random, one per life of the store.
    pub(crate) incarnation: u64,
    pub(crate) vote: Option<Vote>,
    pub(crate) purged: Option<RaftLog>,
    pub(crate) log: Vec<RaftEntry>,
    pub(crate) snapshot: Option<StoredSnapshot>,
}

/// One change of a store.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    Vote(Vote),
    Append(Vec<RaftEntry>),
    /// From this index on, so that the log ends with that entry.
    Truncate(u64, Option<RaftLog>),
    /// Up to this one, itself included, as far as the stored snapshot holds it; the rest goes with the snapshot that does.
    Purge(RaftLog),
    /// Of two snapshots the one that holds more stays, in whatever order they come.
    Snapshot(StoredSnapshot),
}

/// An open store.
#[derive(Debug)]
pub(crate) struct Store {
    database: Database,
    path: String,
    ends: Ends,
    /// What the stored snapshot holds.
    covered: Option<RaftLog>,
    /// Up to where the log isn't needed any more.
    purge: Option<RaftLog>,
}

impl Store {
    /// Opens the store in this folder, or makes a new one, with a new `incarnation`, if there is none.
    pub(crate) fn open(
        folder: &Path,
        owner: Owner,
        incarnation: u64,
    ) -> Result<(Self, Contents), StoreError> {
        let path = folder.join(FILE);
        let name = path.display().to_string();
        if !path.try_exists().map_err(|error| failed(&name, &error))? {
            create(folder, &path, owner, incarnation).map_err(|error| redb_error(&name, error))?;
        }
        // A damaged file may lead redb astray; nothing of it outlives the panic.
        let opened = catch_unwind(AssertUnwindSafe(|| Self::read(&path, &name, owner)));
        opened.unwrap_or_else(|_| Err(damaged(&name, "it can't be read")))
    }

    fn read(path: &Path, name: &str, owner: Owner) -> Result<(Self, Contents), StoreError> {
        let opened = Database::builder().set_cache_size(CACHE).open(path);
        let mut database = opened.map_err(|error| redb_error(name, error.into()))?;
        let whole = database.check_integrity().map_err(|error| redb_error(name, error.into()))?;
        if !whole {
            return Err(damaged(name, "its checksums don't fit"));
        }
        let (contents, ends) = load(&database, name, owner)?;
        let (covered, purge) = (covered(contents.snapshot.as_ref()), ends.purged);
        Ok((Self { database, path: name.to_owned(), ends, covered, purge }, contents))
    }

    /// Carries out a change; it is on disk afterwards. After an error nothing more may be written.
    pub(crate) fn apply(&mut self, change: &Change) -> Result<(), StoreError> {
        let mut ends = self.ends.clone();
        match change {
            Change::Snapshot(snapshot) if covered(Some(snapshot)) < self.covered => return Ok(()),
            Change::Snapshot(snapshot) => self.covered = covered(Some(snapshot)),
            Change::Purge(upto) => self.purge = self.purge.max(Some(*upto)),
            Change::Vote(_) | Change::Append(_) | Change::Truncate(..) => (),
        }
        if matches!(change, Change::Purge(_)) && self.purgeable(&ends).is_none() {
            return Ok(());
        }
        self.write(change, &mut ends).map_err(|error| redb_error(&self.path, error))?;
        self.ends = ends;
        Ok(())
    }

    /// Up to before which index everything is on disk, in the log or in the snapshot.
    pub(crate) fn end(&self) -> u64 {
        self.ends.last.max(self.covered).map_or(0, |last| last.index + 1)
    }

    /// openraft purges what a snapshot holds that it is installing at the same time: what came to the disk first, and a crash
    /// then, would leave neither.
    fn purgeable(&self, ends: &Ends) -> Option<RaftLog> {
        self.purge.min(self.covered).filter(|upto| Some(*upto) > ends.purged)
    }

    fn write(&self, change: &Change, ends: &mut Ends) -> Result<(), redb::Error> {
        let mut transaction = self.database.begin_write()?;
        transaction.set_durability(Durability::Immediate)?;
        match change {
            Change::Vote(vote) => put(&transaction, "vote", vote)?,
            Change::Snapshot(snapshot) => put(&transaction, "snapshot", snapshot)?,
            Change::Append(entries) => {
                let mut log = transaction.open_table(LOG)?;
                for entry in entries {
                    let index = entry.log_id.index;
                    log.insert(index, sealed(&index.to_le_bytes(), entry).as_slice())?;
                    ends.last = Some(entry.log_id);
                }
            }
            Change::Truncate(index, last) => {
                transaction.open_table(LOG)?.retain_in(*index.., |_, _| false)?;
                ends.last = *last;
            }
            Change::Purge(_) => (),
        }
        if let Some(upto) = self.purgeable(ends) {
            transaction.open_table(LOG)?.retain_in(..=upto.index, |_, _| false)?;
            ends.purged = Some(upto);
            ends.last = ends.last.max(Some(upto));
        }
        if *ends != self.ends {
            put(&transaction, "ends", ends)?;
        }
        transaction.commit()?;
        Ok(())
    }
}

/// The new file gets its name only once it is whole: a file of this name was whole once.
fn create(folder: &Path, path: &Path, owner: Owner, incarnation: u64) -> Result<(), redb::Error> {
    fs::create_dir_all(folder)?;
    let new: PathBuf = path.with_extension("new");
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    let database = Database::builder().set_cache_size(CACHE).create(&new)?;
    let transaction = database.begin_write()?;
    put(&transaction, "identity", &Identity { format: FORMAT, owner, incarnation })?;
    put(&transaction, "ends", &Ends::default())?;
    transaction.open_table(LOG)?;
    transaction.commit()?;
    drop(database);
    File::open(&new)?.sync_all()?;
    fs::rename(&new, path)?;
    File::open(folder)?.sync_all()?;
    Ok(())
}

fn load(database: &Database, name: &str, owner: Owner) -> Result<(Contents, Ends), StoreError> {
    let error = |error: redb::Error| redb_error(name, error);
    let read = database.begin_read().map_err(|e| error(e.into()))?;
    let meta = read.open_table(META).map_err(|e| error(e.into()))?;
    let identity: Identity =
        get(&meta, name, "identity")?.ok_or_else(|| damaged(name, "it has no identity"))?;
    if identity.format != FORMAT {
        return Err(damaged(name, &format!("its format is {}, not {FORMAT}", identity.format)));
    }
    if identity.owner != owner {
        let whose = |owner: Owner| format!("node {} of cluster {}", owner.node, owner.cluster);
        return Err(StoreError::Foreign {
            path: name.to_owned(),
            found: whose(identity.owner),
            own: whose(owner),
        });
    }
    let ends: Ends =
        get(&meta, name, "ends")?.ok_or_else(|| damaged(name, "the ends of its log are missing"))?;
    let mut log = Vec::new();
    let table = read.open_table(LOG).map_err(|e| error(e.into()))?;
    for record in table.iter().map_err(|e| error(e.into()))? {
        let (index, bytes) = record.map_err(|e| error(e.into()))?;
        let index = index.value();
        let entry: RaftEntry = opened(&index.to_le_bytes(), bytes.value())
            .filter(|entry: &RaftEntry| entry.log_id.index == index)
            .ok_or_else(|| damaged(name, &format!("entry {index} of its log doesn't verify")))?;
        log.push(entry);
    }
    let first = ends.purged.map_or(0, |purged| purged.index + 1);
    let gapless = log.iter().zip(first..).all(|(entry, index)| entry.log_id.index == index);
    let last = log.last().map(|entry| entry.log_id).or(ends.purged);
    if !gapless || last != ends.last {
        return Err(damaged(name, "entries of its log are missing"));
    }
    let snapshot: Option<StoredSnapshot> = get(&meta, name, "snapshot")?;
    if ends.purged > covered(snapshot.as_ref()) {
        return Err(damaged(name, "its snapshot is older than its log"));
    }
    let vote = get(&meta, name, "vote")?;
    let contents = Contents { incarnation: identity.incarnation, vote, purged: ends.purged, log, snapshot };
    Ok((contents, ends))
}

fn covered(snapshot: Option<&StoredSnapshot>) -> Option<RaftLog> {
    snapshot.and_then(|snapshot| snapshot.meta.last_log_id)
}

fn put<T: Serialize>(
    transaction: &WriteTransaction,
    key: &'static str,
    value: &T,
) -> Result<(), redb::Error> {
    transaction.open_table(META)?.insert(key, sealed(key.as_bytes(), value).as_slice())?;
    Ok(())
}

fn get<T: DeserializeOwned>(
    meta: &impl ReadableTable<&'static str, &'static [u8]>,
    name: &str,
    key: &'static str,
) -> Result<Option<T>, StoreError> {
    let record = meta.get(key).map_err(|error| redb_error(name, error.into()))?;
    let Some(record) = record else { return Ok(None) };
    let value = opened(key.as_bytes(), record.value());
    value.map(Some).ok_or_else(|| damaged(name, &format!("its {key} doesn't verify")))
}

fn digest(key: &[u8], json: &[u8]) -> [u8; DIGEST] {
    let digest = Sha256::new().chain_update(key).chain_update(json).finalize();
    let mut short = [0; DIGEST];
    short.copy_from_slice(&digest[..DIGEST]);
    short
}

fn sealed<T: Serialize>(key: &[u8], value: &T) -> Vec<u8> {
    let json = serde_json::to_vec(value).expect("these types have no maps with other keys than numbers");
    let mut record = digest(key, &json).to_vec();
    record.extend(json);
    record
}

fn opened<T: DeserializeOwned>(key: &[u8], record: &[u8]) -> Option<T> {
    let (sum, json) = record.split_first_chunk::<DIGEST>()?;
    if *sum != digest(key, json) {
        return None;
    }
    serde_json::from_slice(json).ok()
}

fn damaged(path: &str, why: &str) -> StoreError {
    StoreError::Damaged { path: path.to_owned(), why: why.to_owned() }
}

fn failed(path: &str, error: &io::Error) -> StoreError {
    let path = path.to_owned();
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
            StoreError::Full { path }
        }
        io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => {
            StoreError::Damaged { path, why: error.to_string() }
        }
        _ => StoreError::Failed { path, why: error.to_string() },
    }
}

fn redb_error(path: &str, error: redb::Error) -> StoreError {
    match error {
        redb::Error::Io(error) => failed(path, &error),
        redb::Error::DatabaseAlreadyOpen => StoreError::Busy { path: path.to_owned() },
        redb::Error::Corrupted(why) => damaged(path, &why),
        redb::Error::PreviousIo => failed(path, &io::Error::other("an earlier write failed")),
        error => damaged(path, &error.to_string()),
    }
}

#[cfg(test)]
mod tests;
