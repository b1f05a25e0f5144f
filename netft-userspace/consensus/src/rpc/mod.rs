//! What nodes of consensus say to each other: requests one way and replies the other, over one sealed TCP connection for each
//! direction of each pair. Everything is bounded: messages, what waits, connections, time; who doesn't know the secret costs a
//! TCP connection and one computed handshake at most, and those are rationed.

mod link;
mod server;

pub(crate) use link::{Link, LinkError, Links};
pub use server::Refusals;
pub(crate) use server::{Counters, Server, serve};

use crate::types::{SnapshotMeta, Types, Vote};
use netft_core::channel::{Channel, ChannelError, MAX_PLAIN, MAX_RECORD};
use netft_core::ownership::Message;
use netft_core::types::NodeId;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, VoteRequest, VoteResponse};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

/// The longest message, in bytes: a snapshot with all VIPs that there can be is well below.
pub(crate) const MAX_MESSAGE: usize = 8 << 20;
/// A connection must be established within this, handshake included.
const CONNECT: Duration = Duration::from_secs(1);
/// What TCP has not got across within this breaks the connection.
const STUCK: Duration = Duration::from_secs(2);

/// One way.
#[derive(Debug, Serialize, Deserialize)]
#[serde(bound = "")]
pub(crate) enum Request {
    Append(AppendEntriesRequest<Types>),
    Vote(VoteRequest<u16>),
    Snapshot {
        vote: Vote,
        meta: SnapshotMeta,
        data: String,
    },
    /// Are you part of a cluster yet? These nodes are to found it.
    Founding(Vec<NodeId>),
    /// The first on a connection: whoever can say this is who made the handshake, now. Not replied to.
    Here,
    /// Of ownership; not replied to.
    Message(Message),
}

/// And back.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Reply {
    Append(AppendEntriesResponse<u16>),
    Vote(VoteResponse<u16>),
    Snapshot(Vote),
    /// Whether the store knows a cluster, and its incarnation.
    Founding {
        founding: Founding,
        incarnation: u64,
    },
    /// It wasn't done.
    Refused(String),
}

/// What a node says of founding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Founding {
    /// Its store is new, and it would found the same cluster.
    Ready,
    /// It is part of a cluster already.
    Founded,
    /// It would found another one.
    Differs,
}

/// A numbered request or reply. 0 = nobody waits for a reply.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Numbered<T> {
    pub(crate) number: u64,
    pub(crate) body: T,
}

/// A connection with both halves, once it is sealed.
pub(crate) struct Sealed {
    pub(crate) reader: Reader,
    pub(crate) writer: Writer,
}

impl Sealed {
    pub(crate) fn new(stream: TcpStream, channel: Channel) -> Self {
        let channel = Arc::new(Mutex::new(channel));
        let (read, write) = stream.into_split();
        Self {
            reader: Reader { half: read, channel: channel.clone() },
            writer: Writer { half: write, channel },
        }
    }
}

pub(crate) struct Reader {
    half: OwnedReadHalf,
    channel: Arc<Mutex<Channel>>,
}

pub(crate) struct Writer {
    half: OwnedWriteHalf,
    channel: Arc<Mutex<Channel>>,
}

fn locked(channel: &Mutex<Channel>) -> std::sync::MutexGuard<'_, Channel> {
    channel.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Reader {
    /// The next message: a length, then that many bytes, over as many records as it takes.
    pub(crate) async fn message<T: DeserializeOwned>(&mut self) -> io::Result<T> {
        let first = self.record().await?;
        let (len, rest) = first.split_first_chunk::<4>().ok_or_else(|| invalid("a message has no length"))?;
        let len = usize::try_from(u32::from_le_bytes(*len)).unwrap_or(usize::MAX);
        if len > MAX_MESSAGE {
            return Err(invalid("a message is too long"));
        }
        let mut message = rest.to_vec();
        while message.len() < len {
            message.extend(self.record().await?);
        }
        if message.len() > len {
            return Err(invalid("a message is longer than it says"));
        }
        serde_json::from_slice(&message).map_err(|_| invalid("a message isn't understood: another version"))
    }

    async fn record(&mut self) -> io::Result<Vec<u8>> {
        let len = usize::from(self.half.read_u16_le().await?);
        let mut record = vec![0; len];
        self.half.read_exact(&mut record).await?;
        locked(&self.channel).open(&record).map_err(channel_error)
    }
}

impl Writer {
    /// The bytes of a message, sealed.
    pub(crate) async fn message<T: Serialize>(&mut self, message: &T) -> io::Result<()> {
        let json = serde_json::to_vec(message).map_err(io::Error::other)?;
        let len = u32::try_from(json.len()).ok().filter(|_| json.len() <= MAX_MESSAGE);
        let len = len.ok_or_else(|| invalid("a message is too long"))?;
        let mut plain = len.to_le_bytes().to_vec();
        plain.extend(json);
        let mut sealed = Vec::with_capacity(plain.len() + 64);
        for chunk in plain.chunks(MAX_PLAIN) {
            let record = locked(&self.channel).seal(chunk).map_err(channel_error)?;
            let len = u16::try_from(record.len()).map_err(|_| invalid("a record is too long"))?;
            sealed.extend(len.to_le_bytes());
            sealed.extend(record);
        }
        self.half.write_all(&sealed).await
    }
}

/// A message of the handshake, before anything is sealed.
async fn read_handshake(stream: &mut TcpStream, max: usize) -> io::Result<Vec<u8>> {
    let len = usize::from(stream.read_u16_le().await?);
    if len > max.min(MAX_RECORD) {
        return Err(invalid("a handshake is too long"));
    }
    let mut message = vec![0; len];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

async fn write_handshake(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let len = u16::try_from(message.len()).map_err(|_| invalid("a handshake is too long"))?;
    let mut bytes = len.to_le_bytes().to_vec();
    bytes.extend(message);
    stream.write_all(&bytes).await
}

/// Small messages at once; a dead connection is found out.
fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    socket2::SockRef::from(stream).set_tcp_user_timeout(Some(STUCK))
}

fn invalid(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

fn channel_error(error: ChannelError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
