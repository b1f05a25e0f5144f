//! The end that is connected to.

use super::{CONNECT, Founding, Numbered, Reply, Request, Sealed, prepare, read_handshake, write_handshake};
use crate::clock::now_ns;
use crate::driver::{Driver, Known};
use crate::types::{Raft, log_id_or_none};
use netft_core::bucket::Bucket;
use netft_core::channel::{Answering, Channel, Cluster, Introduction, MAX_HANDSHAKE};
use netft_core::dice::Dice;
use netft_core::ownership::{Heed, State};
use netft_core::types::NodeId;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, VoteRequest};
use openraft::{Snapshot, Vote};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;

/// Handshakes at one time; more are closed.
const HANDSHAKES: usize = 16;
/// Handshakes that may be computed: so many at once, and one more in this time.
const EFFORT: (u32, u64) = (64, 10_000_000);
/// Requests of one connection that are worked on at one time; then it isn't read any further.
const WORKING: usize = 32;
/// For how long a vote request that can't be heeded yet is held, in nanoseconds, and how often it is looked at.
const HOLD_VOTE_NS: u64 = 10_000_000;
const HOLD_VOTE_PAUSE: Duration = Duration::from_millis(1);
/// Replies that may wait to be written.
const REPLIES: usize = 64;

/// Connections and requests that were refused, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Refusals {
    /// From an address that no member has.
    pub stranger: u64,
    /// Too many handshakes.
    pub busy: u64,
    /// The handshake didn't verify: another secret, cluster or version; or it took too long.
    pub handshake: u64,
    /// Rule 14: one end's store isn't the one that the other knows.
    pub store: u64,
    /// An authentic end sent what isn't understood or too long, or the connection broke within a message.
    pub message: u64,
    /// Rule 11: vote requests that would have deposed a leader that works, and those that this node may not answer.
    pub votes: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    stranger: AtomicU64,
    busy: AtomicU64,
    handshake: AtomicU64,
    store: AtomicU64,
    message: AtomicU64,
}

impl Counters {
    pub(crate) fn read(&self, votes: u64) -> Refusals {
        Refusals {
            stranger: self.stranger.load(Relaxed),
            busy: self.busy.load(Relaxed),
            handshake: self.handshake.load(Relaxed),
            store: self.store.load(Relaxed),
            message: self.message.load(Relaxed),
            votes,
        }
    }
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Relaxed);
}

/// What every connection needs.
pub(crate) struct Server {
    pub(crate) cluster_id: u32,
    pub(crate) psk: [u8; 32],
    pub(crate) own: NodeId,
    pub(crate) founders: Vec<NodeId>,
    pub(crate) raft: Raft,
    pub(crate) driver: Driver,
    pub(crate) counters: Arc<Counters>,
    /// Addresses from which members may connect.
    pub(crate) addresses: Arc<RwLock<BTreeSet<IpAddr>>>,
    pub(crate) dice: Mutex<Dice>,
}

/// Takes connections until it is aborted.
pub(crate) async fn serve(server: Arc<Server>, listener: TcpListener) {
    let mut connections = JoinSet::new();
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES));
    let mut effort = Bucket::new(now_ns(), EFFORT.0, EFFORT.1);
    // One incoming connection for each node: the newest.
    let latest: Arc<Mutex<BTreeMap<NodeId, AbortHandle>>> = Arc::default();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
        };
        let Ok((stream, from)) = accepted else {
            // Out of descriptors, say: that passes.
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        let known = server.addresses.read().unwrap_or_else(PoisonError::into_inner).contains(&from.ip());
        if !known {
            count(&server.counters.stranger);
            continue;
        }
        let permit = handshakes.clone().try_acquire_owned();
        let (Ok(permit), true) = (permit, effort.take(now_ns())) else {
            count(&server.counters.busy);
            continue;
        };
        let (server, latest) = (server.clone(), latest.clone());
        let (own_handle, handle) = tokio::sync::oneshot::channel();
        let task = connections.spawn(async move {
            let sealed = timeout(CONNECT, answer(&server, stream)).await;
            drop(permit);
            let (other, sealed) = match sealed {
                Ok(Ok(Some(agreed))) => agreed,
                Ok(Ok(None)) => return count(&server.counters.store),
                _ => return count(&server.counters.handshake),
            };
            if let Ok(own) = handle.await {
                let before = latest.lock().unwrap_or_else(PoisonError::into_inner).insert(other.node, own);
                before.inspect(AbortHandle::abort);
            }
            talk(&server, other, sealed).await;
        });
        let _ = own_handle.send(task);
    }
}

/// `None` = the stores don't fit.
async fn answer(server: &Server, mut stream: TcpStream) -> io::Result<Option<(Introduction, Sealed)>> {
    prepare(&stream)?;
    let message = read_handshake(&mut stream, MAX_HANDSHAKE).await?;
    let cluster = Cluster { id: server.cluster_id, psk: &server.psk };
    let mut dice = server.dice.lock().unwrap_or_else(PoisonError::into_inner).split();
    let answering = Answering::new(cluster, server.own, &mut dice, &message).map_err(super::channel_error)?;
    let other = answering.other;
    let own = server.driver.introduction(other.node);
    let (answer, channel): (Vec<u8>, Channel) = answering.answer(own).map_err(super::channel_error)?;
    // The other end must hear why.
    write_handshake(&mut stream, &answer).await?;
    if !own.fits(&other) {
        return Ok(None);
    }
    // Who replays a handshake that it saw comes as far as this, and mustn't end the connection of whom it pretends to be.
    let mut sealed = Sealed::new(stream, channel);
    match sealed.reader.message::<Numbered<Request>>().await?.body {
        Request::Here => Ok(Some((other, sealed))),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

async fn talk(server: &Arc<Server>, other: Introduction, sealed: Sealed) {
    let Sealed { mut reader, mut writer } = sealed;
    let (replies, mut replied) = mpsc::channel::<Numbered<Reply>>(REPLIES);
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        while let Some(reply) = replied.recv().await {
            if writer.message(&reply).await.is_err() {
                return;
            }
        }
    });
    let working = Arc::new(Semaphore::new(WORKING));
    loop {
        let request = reader.message::<Numbered<Request>>().await;
        let Numbered { number, body } = match request {
            Ok(request) => request,
            Err(error) => {
                if error.kind() == io::ErrorKind::InvalidData {
                    count(&server.counters.message);
                }
                return;
            }
        };
        if let Request::Message(message) = body {
            server.driver.message(other.node, &message);
            continue;
        }
        let Ok(permit) = working.clone().acquire_owned().await else { return };
        let (server, replies) = (server.clone(), replies.clone());
        tasks.spawn(async move {
            let reply = server.work(other, body).await;
            drop(permit);
            // The connection may have ended.
            let _ = replies.send(Numbered { number, body: reply }).await;
        });
        while tasks.try_join_next().is_some() {}
    }
}

impl Server {
    async fn work(&self, other: Introduction, request: Request) -> Reply {
        match request {
            Request::Append(append) => self.append(other.node, append).await,
            Request::Vote(vote) => self.vote(&other, vote).await,
            Request::Snapshot { vote, meta, data } => {
                if vote.leader_id().voted_for() != Some(other.node.get()) {
                    return Reply::Refused("the leader of this snapshot is somebody else".into());
                }
                // openraft stops for good when it is given one that can't be installed.
                let state = serde_json::from_str::<State>(&data).ok();
                if state.is_none_or(|state| state.applied != log_id_or_none(meta.last_log_id.as_ref())) {
                    return Reply::Refused("this snapshot isn't understood: another version".into());
                }
                let snapshot = Snapshot { meta, snapshot: Box::new(data.into_bytes()) };
                match self.raft.install_full_snapshot(vote, snapshot).await {
                    Ok(response) => Reply::Snapshot(response.vote),
                    Err(error) => Reply::Refused(error.to_string()),
                }
            }
            Request::Founding(founders) => {
                let founding = match self.raft.is_initialized().await {
                    Ok(true) => Founding::Founded,
                    Ok(false) if founders == self.founders => Founding::Ready,
                    Ok(false) => Founding::Differs,
                    Err(error) => return Reply::Refused(error.to_string()),
                };
                Reply::Founding { founding, incarnation: self.driver.introduction(other.node).incarnation }
            }
            Request::Here | Request::Message(_) => Reply::Refused("not a request".into()),
        }
    }

    async fn append(&self, from: NodeId, append: AppendEntriesRequest<crate::types::Types>) -> Reply {
        let (vote, commit) = (append.vote, append.leader_commit);
        if vote.leader_id().voted_for() != Some(from.get()) {
            return Reply::Refused("the leader of this append is somebody else".into());
        }
        match self.raft.append_entries(append).await {
            Ok(response) => {
                if !matches!(response, AppendEntriesResponse::HigherVote(_)) {
                    self.driver.heard_leader(vote.leader_id().term, from, log_id_or_none(commit.as_ref()));
                }
                Reply::Append(response)
            }
            Err(error) => Reply::Refused(error.to_string()),
        }
    }

    async fn vote(&self, other: &Introduction, request: VoteRequest<u16>) -> Reply {
        let asks: Vote<u16> = request.vote;
        if asks.leader_id().voted_for() != Some(other.node.get()) {
            return Reply::Refused("nobody asks for the votes of others".into());
        }
        let known = if other.expects == 0 { Known::No } else { Known::Yes };
        // Who asks has heard of the leader's end a little earlier than this node, or than openraft's lease ends here: that is
        // waited for, as another round of votes would take longer.
        let until_ns = now_ns() + HOLD_VOTE_NS;
        loop {
            let heed = self.driver.heeds_vote(other.node, known);
            if heed == Heed::Consider {
                match self.raft.vote(request.clone()).await {
                    Ok(response) if response.vote_granted => {
                        self.driver.granted();
                        return Reply::Vote(response);
                    }
                    Ok(response) => {
                        let leased = response.vote < asks && response.last_log_id <= request.last_log_id;
                        if !leased || now_ns() >= until_ns {
                            return Reply::Vote(response);
                        }
                    }
                    Err(error) => return Reply::Refused(error.to_string()),
                }
            } else if now_ns() >= until_ns {
                self.driver.dropped_vote();
                return Reply::Refused("dropped".into());
            }
            tokio::time::sleep(HOLD_VOTE_PAUSE).await;
        }
    }
}
