//! The connecting end: one task for each peer keeps a connection up, sends requests over it and matches the replies.

use super::{CONNECT, Numbered, Reply, Request, Sealed, invalid, prepare, read_handshake, write_handshake};
use crate::driver::Driver;
use crate::types::PATIENCE;
use netft_core::channel::{Cluster, MAX_HANDSHAKE, Opening};
use netft_core::dice::Dice;
use netft_core::ownership::Message;
use netft_core::types::NodeId;
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

/// Requests that may wait for one peer, and as many messages: many VIPs that move at once must not keep consensus waiting.
const QUEUE: usize = 256;
/// Requests without a reply on one connection: openraft has one append, one snapshot and some votes under way.
const PENDING: usize = 64;
/// Between two tries to connect.
const RETRY: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(50));
/// While the other end knows this node with another store, or is refused itself.
const RETRY_REFUSED: Duration = Duration::from_millis(500);

/// Why a request has no reply.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LinkError {
    #[error("no connection to node {0}")]
    Unreachable(NodeId),
    #[error("node {0} refuses: {1}")]
    Refused(NodeId, String),
    #[error("node {0} answered something else")]
    Other(NodeId),
}

type Waiting = oneshot::Sender<Reply>;

struct Item(Request, Waiting);

/// To one peer.
#[derive(Clone)]
pub(crate) struct Link {
    peer: NodeId,
    items: mpsc::Sender<Item>,
    messages: mpsc::Sender<Message>,
    address: Arc<watch::Sender<Option<SocketAddr>>>,
    reset: Arc<watch::Sender<u64>>,
}

impl Link {
    /// A request, and its reply within [`PATIENCE`].
    pub(crate) async fn ask(&self, request: Request) -> Result<Reply, LinkError> {
        self.ask_within(PATIENCE, request).await
    }

    pub(crate) async fn ask_within(&self, limit: Duration, request: Request) -> Result<Reply, LinkError> {
        let unreachable = || LinkError::Unreachable(self.peer);
        let (waiting, reply) = oneshot::channel();
        self.items.try_send(Item(request, waiting)).map_err(|_| unreachable())?;
        match timeout(limit, reply).await {
            Ok(Ok(Reply::Refused(why))) => Err(LinkError::Refused(self.peer, why)),
            Ok(Ok(reply)) => Ok(reply),
            _ => Err(unreachable()),
        }
    }
}

/// To everybody.
#[derive(Clone)]
pub(crate) struct Links {
    shared: Arc<Shared>,
}

struct Shared {
    cluster_id: u32,
    psk: [u8; 32],
    driver: Driver,
    dice: Mutex<Dice>,
    links: Mutex<BTreeMap<NodeId, (Link, JoinHandle<()>)>>,
}

impl Drop for Shared {
    fn drop(&mut self) {
        let links = self.links.get_mut().unwrap_or_else(PoisonError::into_inner);
        links.values().for_each(|(_, task)| task.abort());
    }
}

impl Links {
    pub(crate) fn new(cluster: Cluster<'_>, driver: Driver, dice: Dice) -> Self {
        let links = Mutex::default();
        let shared =
            Shared { cluster_id: cluster.id, psk: *cluster.psk, driver, dice: Mutex::new(dice), links };
        Self { shared: Arc::new(shared) }
    }

    /// The link to a peer; its task begins with the first use. Must be called within the runtime.
    pub(crate) fn to(&self, peer: NodeId) -> Link {
        let mut links = self.shared.links.lock().unwrap_or_else(PoisonError::into_inner);
        let (link, _) = links.entry(peer).or_insert_with(|| {
            let (items, queue) = mpsc::channel(QUEUE);
            let (messages, said) = mpsc::channel(QUEUE);
            let (address, addresses) = watch::channel(None);
            let (reset, resets) = watch::channel(0);
            let dice = self.shared.dice.lock().unwrap_or_else(PoisonError::into_inner).split();
            let task = Task {
                peer,
                cluster_id: self.shared.cluster_id,
                psk: self.shared.psk,
                driver: self.shared.driver.clone(),
                dice,
                queue,
                said,
                addresses,
                resets,
                held: VecDeque::new(),
                number: 0,
            };
            let link = Link { peer, items, messages, address: Arc::new(address), reset: Arc::new(reset) };
            (link, tokio::spawn(task.run()))
        });
        link.clone()
    }

    /// Where a peer is. The connection is made at once.
    pub(crate) fn set_address(&self, peer: NodeId, address: Option<SocketAddr>) {
        self.to(peer).address.send_if_modified(|known| {
            let changed = *known != address;
            *known = address;
            changed
        });
    }

    /// Whoever waits for a reply of this peer waits no longer.
    pub(crate) fn reset(&self, peer: NodeId) {
        self.to(peer).reset.send_modify(|count| *count += 1);
    }

    /// A message, unless too many wait already: ownership repeats what matters.
    pub(crate) fn send(&self, to: NodeId, message: Message) {
        let _ = self.to(to).messages.try_send(message);
    }

    /// Ends all connections.
    pub(crate) fn close(&self) {
        let links = std::mem::take(&mut *self.shared.links.lock().unwrap_or_else(PoisonError::into_inner));
        links.values().for_each(|(_, task)| task.abort());
    }
}

struct Task {
    peer: NodeId,
    cluster_id: u32,
    psk: [u8; 32],
    driver: Driver,
    dice: Dice,
    queue: mpsc::Receiver<Item>,
    said: mpsc::Receiver<Message>,
    addresses: watch::Receiver<Option<SocketAddr>>,
    resets: watch::Receiver<u64>,
    /// Requests that wait for a connection.
    held: VecDeque<Item>,
    number: u64,
}

impl Task {
    async fn run(mut self) {
        let mut retry = RETRY.0;
        loop {
            match self.connect().await {
                Some(Ok(sealed)) => {
                    retry = RETRY.0;
                    let ended = self.talk(sealed).await;
                    tracing::debug!("connection of consensus to node {} ended: {ended}", self.peer);
                }
                Some(Err(error)) if error.kind() == io::ErrorKind::PermissionDenied => retry = RETRY_REFUSED,
                Some(Err(error)) => {
                    tracing::debug!("no connection of consensus to node {}: {error}", self.peer);
                    retry = (retry * 2).min(RETRY.1);
                }
                None => return,
            }
            if self.hold_until(retry).await.is_none() {
                return;
            }
        }
    }

    /// Connects, and holds meanwhile what is to be sent. `None` = nobody needs the link any more.
    async fn connect(&mut self) -> Option<io::Result<Sealed>> {
        let address = loop {
            if let Some(address) = *self.addresses.borrow_and_update() {
                break address;
            }
            tokio::select! {
                changed = self.addresses.changed() => changed.ok()?,
                item = self.queue.recv() => self.hold(item?),
            }
        };
        let (peer, psk) = (self.peer, self.psk);
        let cluster_id = self.cluster_id;
        let (driver, mut dice) = (self.driver.clone(), self.dice.split());
        let connecting = timeout(CONNECT, async move {
            open(address, peer, Cluster { id: cluster_id, psk: &psk }, &driver, &mut dice).await
        });
        tokio::pin!(connecting);
        loop {
            tokio::select! {
                result = &mut connecting => {
                    return Some(result.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())));
                }
                item = self.queue.recv() => self.hold(item?),
            }
        }
    }

    async fn hold_until(&mut self, time: Duration) -> Option<()> {
        let pause = sleep(time);
        tokio::pin!(pause);
        loop {
            tokio::select! {
                () = &mut pause => return Some(()),
                item = self.queue.recv() => self.hold(item?),
            }
        }
    }

    fn hold(&mut self, item: Item) {
        self.held.retain(|Item(_, waiting)| !waiting.is_closed());
        if self.held.len() < PENDING {
            self.held.push_back(item);
        }
    }

    async fn talk(&mut self, sealed: Sealed) -> io::Error {
        let Sealed { mut reader, mut writer } = sealed;
        let mut pending: BTreeMap<u64, Waiting> = BTreeMap::new();
        self.resets.mark_unchanged();
        // What was said to nobody is out of date.
        while self.said.try_recv().is_ok() {}
        // Reading a message can't be given up half-way: it has a task of its own.
        let (replies, mut replied) = mpsc::channel::<io::Result<Numbered<Reply>>>(PENDING);
        let reading = tokio::spawn(async move {
            loop {
                let reply = reader.message().await;
                let ended = reply.is_err();
                if replies.send(reply).await.is_err() || ended {
                    return;
                }
            }
        });
        let ended = loop {
            if let Some(item) = self.held.pop_front() {
                if let Err(error) = self.send(&mut writer, &mut pending, item).await {
                    break error;
                }
                continue;
            }
            tokio::select! {
                biased;
                _ = self.resets.changed() => break invalid("the peer is down"),
                _ = self.addresses.changed() => break invalid("the peer has another address"),
                reply = replied.recv() => match reply {
                    Some(Ok(reply)) => {
                        if let Some(waiting) = pending.remove(&reply.number) {
                            // Who asked may have given up.
                            let _ = waiting.send(reply.body);
                        }
                    }
                    Some(Err(error)) => break error,
                    None => break invalid("the reader has ended"),
                },
                item = self.queue.recv() => {
                    let Some(item) = item else { break invalid("nobody needs the link any more") };
                    if let Err(error) = self.send(&mut writer, &mut pending, item).await {
                        break error;
                    }
                }
                Some(message) = self.said.recv() => {
                    let said = Numbered { number: 0, body: Request::Message(message) };
                    if let Err(error) = writer.message(&said).await {
                        break error;
                    }
                }
            }
        };
        reading.abort();
        ended
    }

    async fn send(
        &mut self,
        writer: &mut super::Writer,
        pending: &mut BTreeMap<u64, Waiting>,
        item: Item,
    ) -> io::Result<()> {
        let Item(request, waiting) = item;
        pending.retain(|_, waiting| !waiting.is_closed());
        if waiting.is_closed() || pending.len() >= PENDING {
            return Ok(());
        }
        self.number += 1;
        pending.insert(self.number, waiting);
        writer.message(&Numbered { number: self.number, body: request }).await
    }
}

async fn open(
    address: SocketAddr,
    peer: NodeId,
    cluster: Cluster<'_>,
    driver: &Driver,
    dice: &mut Dice,
) -> io::Result<Sealed> {
    let mut stream = TcpStream::connect(address).await?;
    prepare(&stream)?;
    let own = driver.introduction(peer);
    let (opening, message) =
        Opening::new(cluster, own, peer, dice).map_err(|error| io::Error::other(error.to_string()))?;
    write_handshake(&mut stream, &message).await?;
    let answer = read_handshake(&mut stream, MAX_HANDSHAKE).await?;
    let (other, channel) = opening.finish(&answer).map_err(super::channel_error)?;
    if other.node != peer {
        return Err(invalid("another node answers there"));
    }
    if other.expects != 0 && other.expects != own.incarnation {
        driver.refused_by(peer);
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    if !own.fits(&other) {
        tracing::debug!("node {peer} has another store than the cluster knows");
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    driver.accepted();
    let mut sealed = Sealed::new(stream, channel);
    sealed.writer.message(&Numbered { number: 0, body: Request::Here }).await?;
    Ok(sealed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NoFence;
    use crate::driver::Outlets;
    use netft_core::ownership::{LogId, Start};
    use std::time::Instant;

    #[tokio::test]
    async fn messages_of_ownership_take_no_place_from_requests() {
        let start = Start { own: NodeId::LOWEST, incarnation: 1, applied: 0, owned: Vec::new() };
        let outlets =
            Outlets { messages: mpsc::unbounded_channel().0, proposals: mpsc::unbounded_channel().0 };
        let driver = Driver::new(start, Box::new(NoFence), outlets);
        let peer = NodeId::new(2).unwrap();
        let links = Links::new(Cluster { id: 1, psk: &[1; 32] }, driver, Dice::new([2; 32]));
        // More than may wait, all at once, as of many VIPs that move.
        (0..1000).for_each(|applied| {
            links.send(peer, Message::Progress { applied, last: LogId::default() });
        });
        let (asked, limit) = (Instant::now(), Duration::from_millis(50));
        let reply = links.to(peer).ask_within(limit, Request::Founding(Vec::new())).await;
        assert_eq!(reply.unwrap_err(), LinkError::Unreachable(peer));
        assert!(asked.elapsed() >= limit, "it waits for the connection");
    }
}
