use super::*;
use crate::NoFence;
use crate::rpc::{LinkError, MAX_MESSAGE, Request};
use crate::store::Change;
use crate::types::{SnapshotMeta, Vote};
use netft_core::keys::Secret;
use netft_core::ownership::{Leases, Member, Standing, Vip, VipSettings};
use std::time::Instant;

#[derive(Clone, Copy, PartialEq)]
enum Mood {
    Works,
    Waits,
    Fails,
}

/// A disk whose appends can be made to wait or to fail.
struct Moody {
    store: Store,
    mood: Arc<(Mutex<Mood>, std::sync::Condvar)>,
}

impl Keeps for Moody {
    fn apply(&mut self, change: &Change) -> Result<(), StoreError> {
        if matches!(change, Change::Append(_)) {
            let (mood, changed) = &*self.mood;
            let mood = changed.wait_while(mood.lock().unwrap(), |mood| *mood == Mood::Waits).unwrap();
            if *mood == Mood::Fails {
                return Err(StoreError::Full { path: "the disk of a test".into() });
            }
        }
        self.store.apply(change)
    }
    fn end(&self) -> u64 {
        self.store.end()
    }
}

struct Cluster {
    folder: PathBuf,
    nodes: Vec<Consensus>,
    moods: Vec<Arc<(Mutex<Mood>, std::sync::Condvar)>>,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        (0..self.moods.len()).for_each(|at| self.set(at, Mood::Works));
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn id(at: usize) -> NodeId {
    NodeId::new(u16::try_from(at + 1).unwrap()).unwrap()
}

impl Cluster {
    async fn of_three(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("netft-consensus-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        let place = Place { site: 0, subnet: 0, standing: Standing::Active };
        let founders: BTreeMap<_, _> = (0..3).map(|at| (id(at), place)).collect();
        let mut cluster = Self { folder, nodes: Vec::new(), moods: Vec::new() };
        let mut addresses = Vec::new();
        for at in 0..3 {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            addresses.push(listener.local_addr().unwrap());
            let settings = Settings {
                own: id(at),
                cluster_id: 1,
                keyring: Keyring::new(&Secret::new(b"the secret of a test, long enough").unwrap(), 1),
                folder: cluster.folder.join(at.to_string()),
                founders: founders.clone(),
                detection_ns: 5_000_000,
                snapshot_entries: SNAPSHOT_ENTRIES,
                applied: 0,
                owned: Vec::new(),
            };
            let mood = Arc::new((Mutex::new(Mood::Works), std::sync::Condvar::new()));
            cluster.moods.push(mood.clone());
            let keep = |store| Moody { store, mood };
            let node = Consensus::start_on(settings, listener, Box::new(NoFence), keep).await.unwrap();
            cluster.nodes.push(node);
        }
        for (at, node) in cluster.nodes.iter().enumerate() {
            let others = addresses.iter().enumerate().filter(|(other, _)| *other != at);
            others.for_each(|(other, address)| node.set_address(id(other), Some(*address)));
        }
        cluster
    }

    fn set(&self, at: usize, mood: Mood) {
        *self.moods[at].0.lock().unwrap() = mood;
        self.moods[at].1.notify_all();
    }

    async fn leader(&self) -> usize {
        until("a leader", || {
            let leads = |at: &usize| self.nodes.iter().all(|node| node.status().leader == Some(id(*at)));
            (0..3).find(leads)
        })
        .await
    }
}

async fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + Duration::from_secs(15);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "waited in vain for {what}");
        sleep(Duration::from_millis(1)).await;
    }
}

fn entry(number: u16) -> Entry {
    Entry::Vip(VipId::new(number).unwrap(), VipSettings::default())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_sends_while_it_writes_and_nobody_applies_what_it_has_not_written() {
    let cluster = Cluster::of_three("parallel").await;
    let leader = cluster.leader().await;
    let before = cluster.nodes[leader].write(entry(1)).await.unwrap();
    until("all to apply", || cluster.nodes.iter().all(|node| node.status().applied == before).then_some(()))
        .await;
    cluster.set(leader, Mood::Waits);
    let writing = cluster.nodes[leader].write(entry(2));
    tokio::pin!(writing);
    let followers = || cluster.nodes.iter().enumerate().filter(|(at, _)| *at != leader);
    let sent = until("the followers to hold it", || {
        followers().all(|(_, node)| node.status().last > before).then_some(())
    });
    tokio::select! {
        written = &mut writing => panic!("{written:?} before it was on the leader's disk"),
        () = sent => {}
    }
    tokio::select! {
        written = &mut writing => panic!("{written:?} before it was on the leader's disk"),
        () = sleep(Duration::from_millis(150)) => {}
    }
    assert!(cluster.nodes.iter().all(|node| node.status().applied == before), "a majority didn't hold it");
    cluster.set(leader, Mood::Works);
    let written = writing.await.unwrap();
    until("all to apply", || cluster.nodes.iter().all(|node| node.status().applied >= written).then_some(()))
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_whose_disk_fails_applies_nothing_and_says_so() {
    let cluster = Cluster::of_three("failing").await;
    let leader = cluster.leader().await;
    let before = cluster.nodes[leader].write(entry(1)).await.unwrap();
    cluster.set(leader, Mood::Fails);
    let failed = cluster.nodes[leader].write(entry(2)).await;
    assert!(matches!(failed, Err(ConsensusError::Stopped(_) | ConsensusError::NoMajority)), "{failed:?}");
    let status = cluster.nodes[leader].status();
    assert_eq!(status.applied, before);
    assert!(status.trouble.unwrap().contains("the disk is full: this node stays out"));
    // What the others have of it is theirs to commit.
    let others: Vec<_> = (0..3).filter(|at| *at != leader).collect();
    others.iter().for_each(|at| cluster.nodes[*at].peer(id(leader), Seen::Down));
    let next = until("another leader", || {
        others
            .iter()
            .copied()
            .find(|at| others.iter().all(|other| cluster.nodes[*other].status().leader == Some(id(*at))))
    })
    .await;
    cluster.nodes[next].write(entry(3)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_that_is_not_understood_or_not_the_leaders_stops_nobody() {
    let cluster = Cluster::of_three("snapshot").await;
    let leader = cluster.leader().await;
    let other = (leader + 1) % 3;
    let link = cluster.nodes[leader].links.to(id(other));
    let meta = SnapshotMeta { snapshot_id: "1-1".into(), ..SnapshotMeta::default() };
    let mut state = State::default();
    state.applied.index = 7;
    let known = serde_json::to_string(&State::default()).unwrap();
    for (by, data) in [
        (id(leader), "garbage".to_owned()),
        (id(leader), serde_json::to_string(&state).unwrap()),
        (id(other), known),
    ] {
        let vote = Vote::new_committed(1000, by.get());
        let reply = link.ask(Request::Snapshot { vote, meta: meta.clone(), data }).await;
        assert!(matches!(reply, Err(LinkError::Refused(..))), "{reply:?}");
    }
    let written = cluster.nodes[leader].write(entry(1)).await.unwrap();
    until("the other to apply", || (cluster.nodes[other].status().applied >= written).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_entry_that_no_message_could_carry_is_refused() {
    let cluster = Cluster::of_three("long").await;
    let leader = cluster.leader().await;
    let preferred = vec![NodeId::LOWEST; 2000];
    let entry = Entry::Vip(VipId::new(1).unwrap(), VipSettings { preferred, ..VipSettings::default() });
    let refused = cluster.nodes[leader].write(entry).await.unwrap_err();
    assert!(refused.to_string().contains("is too long for the log: at most 2048"), "{refused}");
}

#[test]
fn a_snapshot_of_all_that_there_can_be_fits_into_a_message() {
    let everybody = || (1..=255).filter_map(NodeId::new);
    let member = Member { incarnation: u64::MAX, site: 1, subnet: 1, standing: Standing::Witness };
    // As long as an entry may be.
    let settings = VipSettings { preferred: vec![NodeId::new(255).unwrap(); 480], ..VipSettings::default() };
    let len = serde_json::to_vec(&Entry::Vip(VipId::new(1023).unwrap(), settings.clone())).unwrap().len();
    assert!((MAX_ENTRY - 100..=MAX_ENTRY).contains(&len), "{len}");
    let vip = Vip { settings, epoch: u64::MAX, earlier: everybody().collect(), ..Vip::default() };
    let state = State {
        members: everybody().map(|node| (node, member)).collect(),
        leases: Leases::default(),
        vips: (0..1024).filter_map(VipId::new).map(|number| (number, vip.clone())).collect(),
        taken: everybody().map(|node| (node, u64::MAX)).collect(),
        ..State::default()
    };
    let request = Request::Snapshot {
        vote: Vote::new_committed(u64::MAX, 255),
        meta: SnapshotMeta::default(),
        data: serde_json::to_string(&state).unwrap(),
    };
    let len = serde_json::to_vec(&request).unwrap().len();
    println!("{len} bytes of {MAX_MESSAGE}");
    assert!(len < MAX_MESSAGE, "{len} bytes of {MAX_MESSAGE}");
    let entries = usize::try_from(BATCH).unwrap() * (MAX_ENTRY + 256);
    assert!(entries < MAX_MESSAGE, "{entries} bytes of {MAX_MESSAGE}");
}
