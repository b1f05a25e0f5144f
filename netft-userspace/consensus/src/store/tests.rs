use super::*;
use crate::types::{Nodes, Recorded};
use netft_core::ownership::{Entry, VipId, VipSettings};
use openraft::{CommittedLeaderId, EntryPayload, StoredMembership};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

const INCARNATION: u64 = 77;

/// A folder in memory: what is tested here is what is read, thousands of times, not how fast a disk is.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("netft-store-{}-{}", std::process::id(), COUNT.fetch_add(1, Relaxed));
        let memory = Path::new("/dev/shm");
        let base = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
        let folder = base.join(name);
        fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }

    fn open(&self) -> Result<(Store, Contents), StoreError> {
        Store::open(&self.0, owner(), INCARNATION)
    }

    fn file(&self) -> PathBuf {
        self.0.join(FILE)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn owner() -> Owner {
    Owner { cluster: 9, node: NodeId::new(3).unwrap() }
}

fn id(term: u64, index: u64) -> RaftLog {
    RaftLog::new(CommittedLeaderId::new(term, 0), index)
}

fn entry(term: u64, index: u64) -> RaftEntry {
    let vip = VipId::new(u16::try_from(index).unwrap()).unwrap();
    let settings = VipSettings { preferred: vec![NodeId::LOWEST; 20], ..VipSettings::default() };
    let payload = match index {
        0 => {
            let nodes = BTreeMap::from([(3, Recorded::default())]);
            EntryPayload::Membership(Nodes::new(vec![BTreeSet::from([3])], nodes))
        }
        _ => EntryPayload::Normal(Entry::Vip(vip, settings)),
    };
    RaftEntry { log_id: id(term, index), payload }
}

fn changes() -> Vec<Change> {
    let meta = SnapshotMeta {
        last_log_id: Some(id(1, 12)),
        last_membership: StoredMembership::default(),
        snapshot_id: "12-1".into(),
    };
    let mut changes = vec![Change::Vote(Vote::new_committed(1, 3))];
    changes.extend((0..30).map(|index| Change::Append(vec![entry(1, index)])));
    changes.push(Change::Snapshot(StoredSnapshot { meta, data: b"{}".to_vec() }));
    changes.push(Change::Purge(id(1, 9)));
    changes.push(Change::Truncate(25, Some(id(1, 24))));
    changes.push(Change::Vote(Vote::new(2, 3)));
    changes.push(Change::Append(vec![entry(2, 25), entry(2, 26)]));
    changes
}

/// A store that was closed, and what it holds.
fn filled() -> (Folder, Contents) {
    let folder = Folder::new();
    let (mut store, fresh) = folder.open().unwrap();
    assert_eq!(fresh, Contents { incarnation: INCARNATION, ..Contents::default() });
    changes().iter().for_each(|change| store.apply(change).unwrap());
    drop(store);
    let (_, contents) = folder.open().unwrap();
    (folder, contents)
}

#[test]
fn what_was_stored_is_there_when_it_is_opened_again() {
    let (_folder, contents) = filled();
    assert_eq!(contents.incarnation, INCARNATION);
    assert_eq!(contents.vote, Some(Vote::new(2, 3)));
    assert_eq!(contents.purged, Some(id(1, 9)));
    let mut log: Vec<_> = (10..25).map(|index| entry(1, index)).collect();
    log.extend([entry(2, 25), entry(2, 26)]);
    assert_eq!(contents.log, log);
    assert_eq!(contents.snapshot.unwrap().data, b"{}");
}

#[test]
fn an_existing_store_keeps_its_incarnation() {
    let (folder, _) = filled();
    let (_, contents) = Store::open(&folder.0, owner(), INCARNATION + 1).unwrap();
    assert_eq!(contents.incarnation, INCARNATION);
}

#[test]
fn a_store_of_another_node_or_cluster_is_named() {
    let (folder, _) = filled();
    let other = Owner { node: NodeId::LOWEST, ..owner() };
    let error = Store::open(&folder.0, other, 1).unwrap_err();
    assert!(
        error.to_string().contains("belongs to node 3 of cluster 9, not to node 1 of cluster 9"),
        "{error}"
    );
}

#[test]
fn two_processes_cannot_have_one_store() {
    let (folder, _) = filled();
    let _open = folder.open().unwrap();
    assert!(matches!(folder.open(), Err(StoreError::Busy { .. })));
}

/// Where a file holds something: every byte of its head, then places everywhere that isn't empty.
fn places(bytes: &[u8]) -> Vec<usize> {
    let head = 0..320.min(bytes.len());
    let body = (320..bytes.len()).filter(|at| bytes[*at] != 0).step_by(61);
    let empty = (320..bytes.len()).step_by(40_009);
    head.chain(body).chain(empty).collect()
}

/// What a damaged file may be opened as.
fn check(folder: &Folder, bytes: &[u8], allowed: &[&Contents], what: &str) -> bool {
    fs::write(folder.file(), bytes).unwrap();
    match folder.open() {
        Ok((_, contents)) => {
            assert!(allowed.contains(&&contents), "{what}: opened as if nothing had been: {contents:?}");
            false
        }
        Err(error @ StoreError::Busy { .. }) => panic!("{what}: {error}"),
        Err(error) => {
            let text = error.to_string();
            assert!(text.contains("this node stays out") && !text.contains('\n'), "{what}: {text}");
            true
        }
    }
}

#[test]
fn a_changed_byte_anywhere_is_detected_or_changes_nothing() {
    std::panic::set_hook(Box::new(|_| ()));
    let (folder, contents) = filled();
    let bytes = fs::read(folder.file()).unwrap();
    let (mut refused, all) = (0, places(&bytes));
    for at in &all {
        let mut damaged = bytes.clone();
        damaged[*at] ^= 0x41;
        refused += usize::from(check(&folder, &damaged, &[&contents], &format!("byte {at}")));
    }
    let _ = std::panic::take_hook();
    println!("{} of {} changed bytes were refused, the others changed nothing", refused, all.len());
    assert!(refused * 4 > all.len(), "only {refused} of {} were noticed", all.len());
}

#[test]
fn a_truncated_emptied_or_overwritten_store_is_detected() {
    std::panic::set_hook(Box::new(|_| ()));
    let (folder, contents) = filled();
    let bytes = fs::read(folder.file()).unwrap();
    let len = bytes.len();
    for len in [0, 1, 63, 64, 320, 4095, 4096, 8192, len / 4, len / 2, len - 4096, len - 1] {
        assert!(check(&folder, &bytes[..len], &[], &format!("{len} bytes are left")));
    }
    for filled in [0, 0xff] {
        assert!(check(&folder, &vec![filled; len], &[], "overwritten"));
    }
    for from in (0..len).step_by(4096) {
        let mut damaged = bytes.clone();
        damaged[from..(from + 4096).min(len)].fill(0);
        check(&folder, &damaged, &[&contents], &format!("the page at {from} is empty"));
    }
    let _ = std::panic::take_hook();
}

/// A power failure while a transaction is written: any of its sectors may be on disk, or not. The commit hadn't returned.
#[test]
fn a_torn_transaction_happened_or_did_not() {
    let folder = Folder::new();
    let (mut store, _) = folder.open().unwrap();
    let mut random = 0x1234_5678_9abc_def1_u64;
    let mut before: Option<(Vec<u8>, Contents)> = None;
    for change in changes() {
        store.apply(&change).unwrap();
        // As it would be found after a crash: not closed.
        let after = fs::read(folder.file()).unwrap();
        let other = Folder::new();
        fs::write(other.file(), &after).unwrap();
        let (_, contents) = other.open().unwrap();
        if let Some((old, old_contents)) = &before {
            for round in 0..8 {
                let mut torn = after.clone();
                for (at, sector) in torn.chunks_mut(512).enumerate() {
                    random ^= random << 13;
                    random ^= random >> 7;
                    random ^= random << 17;
                    let old = old.get(at * 512..at * 512 + sector.len());
                    if let Some(old) = old.filter(|_| random.is_multiple_of(2)) {
                        sector.copy_from_slice(old);
                    }
                }
                let refused =
                    check(&other, &torn, &[old_contents, &contents], &format!("{change:?}, {round}"));
                assert!(!refused, "{change:?}, {round}: a torn transaction is no damage");
            }
        }
        before = Some((after, contents));
    }
}

fn snapshot(term: u64, index: u64) -> Change {
    let meta = SnapshotMeta {
        last_log_id: Some(id(term, index)),
        last_membership: StoredMembership::default(),
        snapshot_id: format!("{index}-1"),
    };
    Change::Snapshot(StoredSnapshot { meta, data: index.to_string().into_bytes() })
}

/// openraft says what to purge while the snapshot that it is for is still being written.
#[test]
fn nothing_is_purged_before_the_snapshot_that_holds_it_is_stored() {
    let folder = Folder::new();
    let (mut store, _) = folder.open().unwrap();
    (0..10).for_each(|index| store.apply(&Change::Append(vec![entry(1, index)])).unwrap());
    store.apply(&Change::Purge(id(3, 50))).unwrap();
    let after_a_crash = Folder::new();
    fs::copy(folder.file(), after_a_crash.file()).unwrap();
    let (_, contents) = after_a_crash.open().unwrap();
    assert_eq!((contents.log.len(), contents.purged), (10, None));

    store.apply(&snapshot(3, 50)).unwrap();
    assert_eq!(store.end(), 51);
    store.apply(&Change::Append(vec![entry(3, 51)])).unwrap();
    drop(store);
    let (store, contents) = folder.open().unwrap();
    assert_eq!((contents.log, contents.purged), (vec![entry(3, 51)], Some(id(3, 50))));
    assert_eq!(store.end(), 52);
}

/// One is being made of what is applied here while another one comes from the leader.
#[test]
fn a_snapshot_never_replaces_one_that_holds_more() {
    let folder = Folder::new();
    let (mut store, _) = folder.open().unwrap();
    (0..10).for_each(|index| store.apply(&Change::Append(vec![entry(1, index)])).unwrap());
    for change in [snapshot(3, 50), Change::Purge(id(3, 50)), snapshot(1, 9)] {
        store.apply(&change).unwrap();
    }
    drop(store);
    let (_, contents) = folder.open().unwrap();
    assert_eq!(contents.snapshot.unwrap().data, b"50");
}

#[test]
fn a_missing_entry_is_detected() {
    let (folder, _) = filled();
    let database = Database::open(folder.file()).unwrap();
    let transaction = database.begin_write().unwrap();
    transaction.open_table(LOG).unwrap().remove(26).unwrap();
    transaction.commit().unwrap();
    drop(database);
    let error = folder.open().unwrap_err();
    assert!(error.to_string().contains("entries of its log are missing"), "{error}");
}

#[test]
fn an_unfinished_new_store_is_begun_again() {
    let folder = Folder::new();
    fs::write(folder.file().with_extension("new"), b"half").unwrap();
    folder.open().unwrap();
}
