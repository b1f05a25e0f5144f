//! Some nodes in this process, each with its own store and port.

use netft_common::fence::MAX_VOTERS;
use netft_consensus::{Actuator, Consensus, ConsensusError, Place, Settings, StoreError};
use netft_core::keys::{Keyring, Secret};
use netft_core::ownership::{Entry, Epoch, LogId, NodeSet, Seen, Standing, VipId, VipSettings};
use netft_core::types::{Nanos, NodeId};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::time::sleep;

pub const CLUSTER: u32 = 4711;
/// Generous: the machine may be busy.
pub const SOON: Duration = Duration::from_secs(15);

pub fn node(id: u16) -> NodeId {
    NodeId::new(id).unwrap()
}

pub fn place(standing: Standing) -> Place {
    Place { site: 0, subnet: 0, standing }
}

pub fn vip(number: u16) -> VipId {
    VipId::new(number).unwrap()
}

pub fn vip_entry(number: u16) -> Entry {
    Entry::Vip(vip(number), VipSettings::default())
}

pub fn keyring(secret: &str) -> Keyring {
    Keyring::new(&Secret::new(secret.as_bytes()).unwrap(), CLUSTER)
}

/// What the commands of ownership came to.
#[derive(Clone, Debug, Default)]
pub struct Recorder(pub Arc<Mutex<Vec<String>>>);

impl Recorder {
    fn note(&self, what: String) {
        self.0.lock().unwrap().push(what);
    }
}

impl Actuator for Recorder {
    fn store_all_unsure(&mut self) {
        self.note("unsure".into());
    }
    fn store_vouch(&mut self, node: NodeId, index: u64) {
        self.note(format!("vouch {node} {index}"));
    }
    fn read_stamps(&mut self, nodes: &NodeSet) -> Vec<(NodeId, Nanos)> {
        nodes.iter().map(|node| (node, 0)).collect()
    }
    fn store_voters(&mut self, _: &[u64; MAX_VOTERS]) {
        self.note("voters".into());
    }
    fn clear_owner(&mut self, vip: VipId) {
        self.note(format!("clear {}", vip.get()));
    }
    fn flush(&mut self) {
        self.note("flush".into());
    }
    fn store_applied(&mut self, applied: u64) {
        self.note(format!("applied {applied}"));
    }
    fn set_owner(&mut self, vip: VipId, _: Epoch) {
        self.note(format!("set {}", vip.get()));
    }
}

/// A folder that goes with the test.
pub struct Folder(pub PathBuf);

impl Folder {
    pub fn new(name: &str) -> Self {
        let folder =
            PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub struct Cluster {
    pub folder: Folder,
    pub founders: BTreeMap<NodeId, Place>,
    pub addresses: BTreeMap<NodeId, SocketAddr>,
    pub nodes: BTreeMap<u16, Consensus>,
    pub recorders: BTreeMap<u16, Recorder>,
    pub secret: &'static str,
    pub snapshot_entries: u64,
}

impl Cluster {
    /// Founders 1 to `count`, not started.
    pub fn new(name: &str, count: u16) -> Self {
        Self {
            folder: Folder::new(name),
            founders: (1..=count).map(|id| (node(id), place(Standing::Active))).collect(),
            addresses: BTreeMap::new(),
            nodes: BTreeMap::new(),
            recorders: BTreeMap::new(),
            secret: "the secret of this cluster, long enough",
            snapshot_entries: netft_consensus::SNAPSHOT_ENTRIES,
        }
    }

    /// Started, and with a leader.
    pub async fn started(name: &str, count: u16) -> Self {
        let mut cluster = Self::new(name, count);
        for id in 1..=count {
            cluster.start(id).await;
        }
        cluster.leader().await;
        cluster
    }

    pub fn settings(&self, id: u16) -> Settings {
        Settings {
            own: node(id),
            cluster_id: CLUSTER,
            keyring: keyring(self.secret),
            folder: self.store(id),
            founders: self.founders.clone(),
            detection_ns: 5_000_000,
            snapshot_entries: self.snapshot_entries,
            applied: 0,
            owned: Vec::new(),
        }
    }

    pub fn store(&self, id: u16) -> PathBuf {
        self.folder.0.join(id.to_string())
    }

    pub async fn try_start(&mut self, id: u16) -> Result<(), ConsensusError> {
        let address = self.addresses.get(&node(id)).copied();
        let wanted = address.unwrap_or_else(|| "127.0.0.1:0".parse().unwrap());
        let listener = TcpListener::bind(wanted).await.unwrap();
        let recorder = Recorder::default();
        let address = listener.local_addr().unwrap();
        let started = Consensus::start(self.settings(id), listener, Box::new(recorder.clone())).await?;
        self.addresses.insert(node(id), address);
        for (peer, address) in self.addresses.iter().filter(|(peer, _)| **peer != node(id)) {
            started.set_address(*peer, Some(*address));
        }
        for other in self.nodes.values() {
            other.set_address(node(id), Some(address));
            other.peer(node(id), Seen::Up);
        }
        for absent in self.addresses.keys().filter(|peer| !self.nodes.contains_key(&peer.get())) {
            if *absent != node(id) {
                started.peer(*absent, Seen::Down);
            }
        }
        self.nodes.insert(id, started);
        self.recorders.insert(id, recorder);
        Ok(())
    }

    pub async fn start(&mut self, id: u16) {
        let until = Instant::now() + SOON;
        loop {
            match self.try_start(id).await {
                Ok(()) => return,
                // What held it before may not quite be gone.
                Err(ConsensusError::Store(StoreError::Busy { .. })) if Instant::now() < until => {
                    sleep(Duration::from_millis(5)).await;
                }
                Err(error) => panic!("node {id}: {error}"),
            }
        }
    }

    /// The node ends, and nobody is told.
    pub async fn stop_silently(&mut self, id: u16) {
        self.nodes.remove(&id).unwrap().stop().await;
    }

    /// The node ends, and the detectors of the others say so.
    pub async fn stop(&mut self, id: u16) {
        self.stop_silently(id).await;
        self.down(id);
    }

    pub fn down(&self, id: u16) {
        self.nodes.values().for_each(|other| other.peer(node(id), Seen::Down));
    }

    /// Whom a majority of what runs, itself among them, takes for the leader.
    pub async fn leader(&self) -> u16 {
        until("a leader", || self.leader_now()).await
    }

    pub fn leader_now(&self) -> Option<u16> {
        let leads = |id: &u16| {
            let own = self.nodes[id].status();
            let agree = |other: &Consensus| {
                let status = other.status();
                status.leader == Some(node(*id)) && status.term == own.term
            };
            own.leader == Some(node(*id)) && self.nodes.values().all(agree)
        };
        self.nodes.keys().copied().find(leads)
    }

    pub async fn write(&self, entry: Entry) -> LogId {
        let leader = self.leader().await;
        self.nodes[&leader].write(entry).await.unwrap()
    }

    /// Until all that run have applied it.
    pub async fn applied(&self, id: LogId) {
        until("every node to apply", || {
            self.nodes.values().all(|node| node.status().applied.index >= id.index).then_some(())
        })
        .await;
    }
}

pub async fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + SOON;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "waited in vain for {what}");
        sleep(Duration::from_millis(1)).await;
    }
}

pub fn report(what: &str, times: &mut [Duration]) {
    times.sort();
    let (median, max) = (times[times.len() / 2], times[times.len() - 1]);
    println!("{what}: median {median:.1?}, max {max:.1?} of {}", times.len());
}
