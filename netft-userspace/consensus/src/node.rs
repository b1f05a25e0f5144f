//! One node of consensus: everything put together, and what others may ask of it.

use crate::clock::now_ns;
use crate::disk::{Disk, DiskCost, Keeps};
use crate::driver::{Actuator, Change, Driver, Outlets, Reign, Stand};
use crate::log::Log;
use crate::machine::{Machine, state_in};
use crate::members::{self, Place};
use crate::network::Network;
use crate::rpc::{Counters, Links, Refusals, Server, serve};
use crate::store::{Owner, Store, StoreError};
use crate::types::{Raft, log_id};
use netft_core::channel::Cluster;
use netft_core::dice::Dice;
use netft_core::keys::Keyring;
use netft_core::ownership::{
    Entry, Epoch, LogId, NodeSet, Ownership, Seen, Start, State, VipId, VoterSets, Why,
};
use netft_core::types::{Nanos, NodeId};
use openraft::error::{ClientWriteError, RaftError};
use openraft::{Config, SnapshotPolicy};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// The default of [`Settings::snapshot_entries`].
pub const SNAPSHOT_ENTRIES: u64 = 1000;
/// Proposals of ownership that are under way at one time.
const PROPOSALS: usize = 64;
/// Between two looks at the time when nothing has happened.
const LEAST_PAUSE: Duration = Duration::from_millis(1);
/// The longest entry, in bytes as it is stored: one that names every node as preferred is half of it. So many as go into one
/// message, or all VIPs in a snapshot, must not be longer than a message may be.
const MAX_ENTRY: usize = 2048;
/// Entries in one message.
const BATCH: u64 = 256;
/// How long a write waits for a majority.
const WRITE: Duration = Duration::from_secs(2);

/// What a node of consensus is started with.
#[derive(Clone, Debug)]
pub struct Settings {
    /// This node.
    pub own: NodeId,
    /// Number of the cluster.
    pub cluster_id: u32,
    /// Keys, from the cluster secret.
    pub keyring: Keyring,
    /// The folder of the store. Made if it isn't there.
    pub folder: PathBuf,
    /// The nodes that found the cluster, this one or not, equal on all of them: its first voters, at most nine. The one with the
    /// lowest id begins, once all of them can be reached.
    pub founders: BTreeMap<NodeId, Place>,
    /// The detection time, in nanoseconds: the timers of consensus follow it. See [`timers`].
    pub detection_ns: Nanos,
    /// A snapshot is made after so many entries, 5 to 2000. Voters remember 4096 assignments that aren't applied: a node that
    /// starts must never have more of them.
    pub snapshot_entries: u64,
    /// The applied index in the pinned maps, 0 if there are none.
    pub applied: u64,
    /// The owner bits in the pinned maps.
    pub owned: Vec<(VipId, Epoch)>,
}

/// Rule 12: heartbeat interval, shortest and longest election timeout in milliseconds. openraft wants them in this order, and
/// refuses votes for the longest one after the last append: it mustn't be longer than detection takes.
pub fn timers(detection_ns: Nanos) -> (u64, u64, u64) {
    let longest = (detection_ns / 1_000_000).clamp(5, 1000);
    ((longest * 3 / 5).max(3), longest - 1, longest)
}

/// What goes wrong.
#[derive(Debug, thiserror::Error)]
pub enum ConsensusError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A thread, a socket, random numbers.
    #[error("consensus can't start: {0}")]
    System(#[from] std::io::Error),
    /// Too many founders.
    #[error("{0} nodes can't found a cluster: at most 9 may vote; let others join later")]
    Founders(usize),
    /// Somebody else leads, or nobody.
    #[error("{}", leader_hint(.0))]
    NotLeader(Option<NodeId>),
    /// Nothing was decided in time.
    #[error("no majority of voters agreed within {} s: it may still happen", WRITE.as_secs())]
    NoMajority,
    /// Too long.
    #[error("an entry of {0} bytes is too long for the log: at most {MAX_ENTRY}")]
    TooLong(usize),
    /// A change of members that can't be made.
    #[error("{0}")]
    Members(String),
    /// openraft has stopped.
    #[error("consensus has stopped on this node: {0}")]
    Stopped(String),
}

fn leader_hint(leader: &Option<NodeId>) -> String {
    match leader {
        Some(leader) => format!("node {leader} leads: ask that one"),
        None => "no node leads: a majority of voters must be up".into(),
    }
}

/// What a node knows of itself.
#[derive(Clone, Debug)]
pub struct Status {
    /// The newest term.
    pub term: u64,
    /// Who leads.
    pub leader: Option<NodeId>,
    /// Who votes, by the newest membership in the log.
    pub voters: VoterSets,
    /// The end of the log.
    pub last: LogId,
    /// The newest entry that was applied.
    pub applied: LogId,
    /// Why this node stays out, in one sentence.
    pub trouble: Option<String>,
    /// What was refused.
    pub refused: Refusals,
    /// What the disk took.
    pub disk: DiskCost,
}

/// A running node. Ends when dropped, or by [`Consensus::stop`].
pub struct Consensus {
    pub(crate) own: NodeId,
    pub(crate) raft: Raft,
    pub(crate) driver: Driver,
    pub(crate) links: Links,
    /// Changes of members come one after the other.
    pub(crate) changing: tokio::sync::Mutex<()>,
    disk: Disk,
    counters: Arc<Counters>,
    addresses: Arc<RwLock<BTreeSet<IpAddr>>>,
    book: Mutex<BTreeMap<NodeId, SocketAddr>>,
    tasks: JoinSet<()>,
}

impl Consensus {
    /// Opens the store and starts; takes connections on `listener`, which the caller has bound. Must be called within a tokio
    /// runtime with timers and I/O.
    pub async fn start(
        settings: Settings,
        listener: TcpListener,
        actuator: Box<dyn Actuator>,
    ) -> Result<Self, ConsensusError> {
        Self::start_on(settings, listener, actuator, |store| store).await
    }

    async fn start_on<K: Keeps>(
        settings: Settings,
        listener: TcpListener,
        actuator: Box<dyn Actuator>,
        keep: impl FnOnce(Store) -> K,
    ) -> Result<Self, ConsensusError> {
        if settings.founders.len() > netft_common::fence::MAX_VOTERS {
            return Err(ConsensusError::Founders(settings.founders.len()));
        }
        let mut dice = Dice::new(seed()?);
        let owner = Owner { cluster: settings.cluster_id, node: settings.own };
        let (folder, incarnation) = (settings.folder.clone(), dice.number());
        // Reads and checks the whole file: not on this thread.
        let opening = tokio::task::spawn_blocking(move || Store::open(&folder, owner, incarnation)).await;
        let (store, contents) = opening.map_err(std::io::Error::other)??;
        let (messages, mut sent) = mpsc::unbounded_channel();
        let (proposals, proposed) = mpsc::unbounded_channel();
        let start = Start {
            own: settings.own,
            incarnation: contents.incarnation,
            applied: settings.applied,
            owned: settings.owned.clone(),
        };
        let driver = Driver::new(start, actuator, Outlets { messages, proposals });
        let failed = driver.clone();
        let disk = Disk::start(keep(store), move || failed.store_failed())?;
        let state = contents.snapshot.as_ref().map(state_in).transpose();
        let state = state.map_err(|error| unreadable(&settings, &error))?.unwrap_or_default();
        let nodes = contents.snapshot.as_ref().map(|snapshot| snapshot.meta.last_membership.clone());
        driver.restore(state, &nodes.unwrap_or_default(), &contents.log);

        let psk = *settings.keyring.consensus_psk();
        let cluster = Cluster { id: settings.cluster_id, psk: &psk };
        let links = Links::new(cluster, driver.clone(), dice.split());
        let log = Log::new(settings.own, &contents, disk.clone(), driver.clone());
        let machine = Machine::new(contents.snapshot, disk.clone(), driver.clone());
        let network = Network { links: links.clone(), driver: driver.clone(), disk: disk.clone() };
        let config = Arc::new(config(&settings)?);
        let raft = Raft::new(settings.own.get(), config, network, log, machine).await;
        let raft = raft.map_err(|error| ConsensusError::Stopped(error.to_string()))?;

        let (counters, addresses) = (Arc::<Counters>::default(), Arc::<RwLock<BTreeSet<IpAddr>>>::default());
        let server = Arc::new(Server {
            cluster_id: settings.cluster_id,
            psk,
            own: settings.own,
            founders: settings.founders.keys().copied().collect(),
            raft: raft.clone(),
            driver: driver.clone(),
            counters: counters.clone(),
            addresses: addresses.clone(),
            dice: Mutex::new(dice),
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(serve(server, listener));
        tasks.spawn(follow(raft.clone(), driver.clone()));
        tasks.spawn(keep_time(raft.clone(), driver.clone(), disk.clone()));
        tasks.spawn(propose(raft.clone(), proposed));
        let outgoing = links.clone();
        tasks.spawn(async move {
            while let Some((to, message)) = sent.recv().await {
                outgoing.send(to, message);
            }
        });
        if !settings.founders.is_empty() {
            let founders = settings.founders.clone();
            tasks.spawn(members::found(
                settings.own,
                contents.incarnation,
                founders,
                raft.clone(),
                links.clone(),
            ));
        }
        Ok(Self {
            own: settings.own,
            raft,
            driver,
            links,
            changing: tokio::sync::Mutex::default(),
            disk,
            counters,
            addresses,
            book: Mutex::default(),
            tasks,
        })
    }

    /// Where a peer is reached, and from which address it may connect; `None` = nowhere any more.
    pub fn set_address(&self, peer: NodeId, address: Option<SocketAddr>) {
        let mut book = self.book.lock().unwrap_or_else(PoisonError::into_inner);
        match address {
            Some(address) => drop(book.insert(peer, address)),
            None => drop(book.remove(&peer)),
        }
        let all = book.values().map(SocketAddr::ip).collect();
        *self.addresses.write().unwrap_or_else(PoisonError::into_inner) = all;
        drop(book);
        self.links.set_address(peer, address);
    }

    /// The detector's verdict: elections follow it at once.
    pub fn peer(&self, node: NodeId, seen: Seen) {
        self.driver.peer(node, seen);
        if seen == Seen::Down {
            self.links.reset(node);
        }
    }

    /// Proposes an entry, and waits until it is applied here: then a majority has it on disk.
    pub async fn write(&self, entry: Entry) -> Result<LogId, ConsensusError> {
        let len = serde_json::to_vec(&entry).map_err(std::io::Error::other)?.len();
        if len > MAX_ENTRY {
            return Err(ConsensusError::TooLong(len));
        }
        let written = timeout(WRITE, self.raft.client_write(entry)).await;
        match written.map_err(|_| ConsensusError::NoMajority)? {
            Ok(response) => Ok(log_id(&response.log_id)),
            Err(error) => Err(refused(error)),
        }
    }

    /// The leader gives a VIP to another owner; does nothing on others.
    pub fn assign(&self, vip: VipId, owner: Option<NodeId>) {
        self.assign_because(vip, owner, Why::Assigned);
    }

    /// The same, with a reason for people.
    pub fn assign_because(&self, vip: VipId, owner: Option<NodeId>, why: Why) {
        self.driver.assign(vip, owner, why);
    }

    /// Wants a VIP to go to a node: the leader assigns it, others tell the leader, who may not hear it.
    pub fn ask_to_move(&self, vip: VipId, node: NodeId) {
        self.driver.ask_to_move(vip, node);
    }

    /// Proposes an entry, if this node leads, and doesn't wait: whether it was applied shows in the state.
    pub fn propose(&self, entry: Entry) {
        self.driver.propose(entry);
    }

    /// Tells when something has changed.
    pub fn changes(&self) -> watch::Receiver<Change> {
        self.driver.changes()
    }

    /// Looks at ownership, and keeps everything else waiting meanwhile.
    pub fn look<T>(&self, look: impl FnOnce(&Ownership) -> T) -> T {
        self.driver.look(look)
    }

    /// The applied state.
    pub fn state(&self) -> State {
        self.driver.look(|ownership| ownership.state().clone())
    }

    /// Whether this node has taken the VIP.
    pub fn has_taken(&self, vip: VipId) -> bool {
        self.driver.look(|ownership| ownership.has_taken(vip))
    }

    /// How this node stands.
    pub fn status(&self) -> Status {
        let Reign { term, leader } = self.driver.reign_now();
        let (last, applied) = self.driver.look(|ownership| (ownership.last(), ownership.state().applied));
        let failure = self.disk.failure().map(ToString::to_string);
        Status {
            term,
            leader,
            voters: self.driver.voters(),
            last,
            applied,
            trouble: failure.or_else(|| self.driver.trouble()),
            refused: self.counters.read(self.driver.dropped_votes()),
            disk: self.disk.cost(),
        }
    }

    /// Stops, with everything that was acknowledged on disk.
    pub async fn stop(mut self) {
        self.tasks.abort_all();
        self.links.close();
        // It may have stopped by itself.
        let _ = self.raft.shutdown().await;
        while self.tasks.join_next().await.is_some() {}
    }

    pub(crate) fn voters(&self) -> NodeSet {
        self.driver.voters().all()
    }
}

impl Drop for Consensus {
    fn drop(&mut self) {
        self.tasks.abort_all();
        self.links.close();
    }
}

fn seed() -> Result<[u8; 32], std::io::Error> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(std::io::Error::other)?;
    Ok(seed)
}

fn unreadable(settings: &Settings, error: &serde_json::Error) -> StoreError {
    let path = settings.folder.join(crate::FILE).display().to_string();
    StoreError::Damaged { path, why: format!("its snapshot isn't understood: {error}") }
}

fn config(settings: &Settings) -> Result<Config, ConsensusError> {
    let (heartbeat_interval, election_timeout_min, election_timeout_max) = timers(settings.detection_ns);
    let entries = settings.snapshot_entries.clamp(5, 2000);
    let config = Config {
        cluster_name: settings.cluster_id.to_string(),
        heartbeat_interval,
        election_timeout_min,
        election_timeout_max,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(entries),
        // For followers that are a little behind.
        max_in_snapshot_log_to_keep: entries / 5,
        replication_lag_threshold: entries * 2,
        max_payload_entries: BATCH,
        // The detector says when: rule 11.
        enable_elect: false,
        ..Config::default()
    };
    config.validate().map_err(|error| ConsensusError::Stopped(error.to_string()))
}

pub(crate) fn refused(
    error: RaftError<u16, ClientWriteError<u16, crate::types::Recorded>>,
) -> ConsensusError {
    match error {
        RaftError::APIError(ClientWriteError::ForwardToLeader(forward)) => {
            ConsensusError::NotLeader(forward.leader_id.and_then(NodeId::new))
        }
        RaftError::APIError(ClientWriteError::ChangeMembershipError(error)) => {
            ConsensusError::Members(error.to_string())
        }
        RaftError::Fatal(error) => ConsensusError::Stopped(error.to_string()),
    }
}

/// Passes term, leader and membership on.
async fn follow(raft: Raft, driver: Driver) {
    let mut metrics = raft.server_metrics();
    loop {
        let (reign, nodes) = {
            let metrics = metrics.borrow_and_update();
            let term = metrics.vote.leader_id().term;
            let leader = metrics.current_leader.and_then(NodeId::new);
            (Reign { term, leader }, metrics.membership_config.clone())
        };
        driver.reign(reign, &nodes);
        if metrics.changed().await.is_err() {
            return;
        }
    }
}

/// Calls the driver when something is due, and stands for election when it says so.
async fn keep_time(raft: Raft, driver: Driver, disk: Disk) {
    // What is due may stay so, like an election that can't be won now: then it is looked at again a little later.
    let mut least = Duration::ZERO;
    loop {
        let pause = Duration::from_nanos(driver.due_ns().saturating_sub(now_ns())).max(least);
        if !pause.is_zero() {
            tokio::select! {
                () = sleep(pause) => {}
                () = driver.changed() => {
                    least = Duration::ZERO;
                    continue;
                }
            }
        }
        least = LEAST_PAUSE;
        driver.pace(disk.cost().recent_ns);
        if driver.timeout() == Stand::Now && raft.trigger().elect().await.is_err() {
            // openraft has stopped: nobody stands any more.
            return;
        }
    }
}

/// Proposes what ownership wants. What comes to nothing is wanted again.
async fn propose(raft: Raft, mut proposed: mpsc::UnboundedReceiver<Entry>) {
    let places = Arc::new(Semaphore::new(PROPOSALS));
    while let Some(entry) = proposed.recv().await {
        let Ok(place) = places.clone().try_acquire_owned() else { continue };
        let Ok(waiting) = raft.client_write_ff(entry).await else { continue };
        tokio::spawn(async move {
            let _ = timeout(WRITE, waiting).await;
            drop(place);
        });
    }
}

#[cfg(test)]
mod tests;
