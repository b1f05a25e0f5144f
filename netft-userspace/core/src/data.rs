//! Cluster traffic: one Ethernet frame in one datagram, sealed per peer and direction. Runs on the data threads, which
//! share the sessions; nothing here allocates after the peers are set.
//!
//! How a message is sealed depends on the [level](crate::types::Level) that its sender told when the keys were agreed on: at
//! `clear` a SipHash tag covers addresses, header and length; at the other levels AES-256-GCM covers header and frame, which
//! is encrypted as well or not. Its nonce is the sequence and the receiver's slot, and the slot names the addresses: so the
//! same sequence over another route is another message, and over the same route the same bytes.

mod cipher;
mod frames;

use crate::offload::{Checksum, complement, sum};
use crate::session::LiveKeys;
use crate::types::{Level, Nanos, NodeId, Slot};
use crate::window::Window;
use cipher::Ciphers;
pub use frames::{FrameDestination, FrameTable};
use netft_common::map::{MAX_NODES, MAX_SLOTS};
use netft_common::wire::{self, Header, PROBE_LEN, flags, kind};
use std::sync::atomic::{AtomicU64, Ordering::Acquire, Ordering::Relaxed, Ordering::Release};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Bytes to leave free before a frame so that it can be sealed in place.
pub const HEADROOM: usize = size_of::<wire::Data>();
/// A probe as it is on the wire.
pub type ProbeDatagram = [u8; HEADROOM + PROBE_LEN];

/// Messages that are sent with the same keys before new ones are wanted: with AES-GCM and frames of 1500 bytes that leaves
/// an attacker a chance below 2^-57 (RFC 8446, section 5.5, counts 2^24.5 records of 16 KiB).
pub const RENEW_AFTER: u64 = 1 << 27;
/// Messages that are sent with them at most.
const MESSAGES_MAX: u64 = 1 << 30;

/// The route that a frame takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DataRoute {
    /// Own address (`types::address_bytes`).
    pub local: [u8; 16],
    /// The peer's.
    pub remote: [u8; 16],
    /// The peer's slot of this route, `wire::NO_SLOT` if unknown.
    pub remote_slot: u32,
}

/// What is known of the checksum of the UDP datagram around a message: at level clear, what is in a frame has no other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outer {
    /// The kernel has checked it, or nothing was on a wire where it could have changed.
    Checked,
    /// Nobody has. The sum ([`crate::offload::sum`]) of pseudo-header and UDP header.
    Unchecked(u64),
}

impl Outer {
    fn vouches(self, message: &[u8]) -> bool {
        match self {
            Self::Checked => true,
            Self::Unchecked(headers) => complement(headers + sum(message)) == 0,
        }
    }
}

/// Why a datagram was not opened. Each is counted by the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DataReject {
    /// Not a data message, or too short for one.
    #[error("the datagram is malformed")]
    Malformed,
    /// Another version.
    #[error("the datagram has another wire version")]
    Version,
    /// Another cluster's.
    #[error("the datagram belongs to another cluster")]
    OtherCluster,
    /// For another node.
    #[error("the datagram is for another node")]
    Destination,
    /// From a node without session.
    #[error("the datagram is from a node without session")]
    Source,
    /// It names no route of ours, or came by another than it names.
    #[error("the datagram did not come by the route that it names")]
    Route,
    /// Made with keys that aren't good now.
    #[error("the datagram was sealed with the keys of another session")]
    Epoch,
    /// The authenticator is wrong.
    #[error("the datagram is not authentic")]
    Tag,
    /// What is in it changed on the way: at level clear its checksum is all that says so.
    #[error("the datagram's checksum is wrong")]
    Checksum,
    /// Seen already, or too old to tell.
    #[error("the datagram is a duplicate or too old")]
    Replay,
}

impl DataReject {
    /// Number of reasons.
    pub const COUNT: usize = 10;
    /// Counter names, in order.
    pub const NAMES: [&'static str; Self::COUNT] = [
        "data_reject_malformed",
        "data_reject_version",
        "data_reject_other_cluster",
        "data_reject_destination",
        "data_reject_source",
        "data_reject_route",
        "data_reject_epoch",
        "data_reject_tag",
        "data_reject_checksum",
        "data_reject_replay",
    ];
}

/// A frame can't be sealed: there is no session with that peer, or the buffer has no room for the header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no session with node {0}")]
pub struct NoSession(pub NodeId);

/// A datagram that was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opened<'a> {
    /// Who sent it.
    pub peer: NodeId,
    /// Our slot of the route that it came by.
    pub slot: Slot,
    /// What is in it.
    pub message: Message<'a>,
}

/// What is in a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// An Ethernet frame, and the state of the checksum in it.
    Frame(&'a [u8], Checksum),
    /// A self-test.
    Probe(Probe),
}

/// A self-test of the way that data takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probe {
    /// To be answered with the same number.
    Solicit(u64),
    /// The answer.
    Answer(u64),
}

/// Seals and opens frames of all peers. One per data thread: those made by [`Self::clone`] share the numbering, and the
/// sessions that are handed from one to the other ([`Self::session`], [`Self::share`]).
///
/// A session's sequences go on when its keys are replaced, and so does the window: what was received once stays a replay.
/// A restarted daemon has new keys, so that nothing from before is received again; sequences of what it sends never repeat.
#[derive(Clone, Debug)]
pub struct DataPlane {
    cluster_id: u32,
    own: NodeId,
    high_water: Arc<AtomicU64>,
    sessions: Vec<Option<Known>>,
    /// By own slot: whom each route leads to, its own address and the peer's.
    ways: Vec<Option<Way>>,
}

/// A route, as a datagram must have come by it.
type Way = (NodeId, [u8; 16], [u8; 16]);

/// What all data threads need of one peer.
#[derive(Debug)]
pub struct Session {
    ciphers: Mutex<Arc<Ciphers>>,
    /// Counts changes of `ciphers`, so that they are looked at without the lock.
    version: AtomicU64,
    next_sequence: AtomicU64,
    /// The first sequence that was sent with the current keys.
    keyed_sequence: AtomicU64,
    window: Mutex<Window>,
}

impl Session {
    fn new(first_sequence: u64) -> Self {
        Self {
            ciphers: Mutex::default(),
            version: AtomicU64::new(0),
            next_sequence: AtomicU64::new(first_sequence),
            keyed_sequence: AtomicU64::new(first_sequence),
            window: Mutex::new(Window::new()),
        }
    }

    /// Held for some nanoseconds, never while a tag is computed.
    fn window(&self) -> MutexGuard<'_, Window> {
        self.window.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ciphers(&self) -> MutexGuard<'_, Arc<Ciphers>> {
        self.ciphers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// In force for every thread when this returns.
    fn set_keys(&self, keys: &LiveKeys) {
        let mut held = self.ciphers();
        if *held.keys() == *keys {
            return;
        }
        if held.keys().current != keys.current {
            self.keyed_sequence.store(self.next_sequence.load(Relaxed), Relaxed);
        }
        *held = Arc::new(Ciphers::new(keys));
        self.version.fetch_add(1, Release);
    }

    fn messages(&self) -> u64 {
        self.next_sequence.load(Relaxed).saturating_sub(self.keyed_sequence.load(Relaxed))
    }
}

/// A session as one thread knows it.
#[derive(Clone, Debug)]
struct Known {
    session: Arc<Session>,
    version: u64,
    ciphers: Arc<Ciphers>,
}

impl Known {
    fn new(session: Arc<Session>) -> Self {
        let version = session.version.load(Acquire);
        let ciphers = Arc::clone(&session.ciphers());
        Self { session, version, ciphers }
    }

    /// Takes new keys over if there are any: one load if not.
    fn refresh(&mut self) {
        let version = self.session.version.load(Acquire);
        if version != self.version {
            self.ciphers = Arc::clone(&self.session.ciphers());
            self.version = version;
        }
    }
}

impl DataPlane {
    /// `stored` is the high water that a previous daemon left in the map (`EngineState::persistent[0]`), 0 if none:
    /// sequences go on above it and above `now`. (No node sends a frame per nanosecond, so boottime alone outruns
    /// what a daemon that could store nothing has used.)
    pub fn new(cluster_id: u32, own: NodeId, stored: u64, now: Nanos) -> Self {
        let sessions = (0..MAX_NODES).map(|_| None).collect();
        let high_water = Arc::new(AtomicU64::new(stored.max(now)));
        Self { cluster_id, own, high_water, sessions, ways: vec![None; MAX_SLOTS as usize] }
    }

    /// A route by which datagrams may come. It stays one until its slot means another: what is under way when it ends
    /// still counts.
    pub fn set_way(&mut self, slot: Slot, peer: NodeId, route: &DataRoute) {
        self.ways[slot.index()] = Some((peer, route.local, route.remote));
    }

    /// The keys of a peer's session now. Idempotent; the sequence and the window stay. Threads that share the session
    /// already have them when this returns, for others see [`Self::share`].
    pub fn set_session(&mut self, peer: NodeId, keys: &LiveKeys) {
        let first_sequence = self.high_water().saturating_add(1);
        let known = &mut self.sessions[usize::from(peer.get())];
        known
            .get_or_insert_with(|| Known::new(Arc::new(Session::new(first_sequence))))
            .session
            .set_keys(keys);
    }

    /// A peer's session, for another thread's [`Self::share`].
    pub fn session(&self, peer: NodeId) -> Option<Arc<Session>> {
        self.sessions[usize::from(peer.get())].as_ref().map(|known| Arc::clone(&known.session))
    }

    /// Uses a session that another thread uses as well.
    pub fn share(&mut self, peer: NodeId, session: Arc<Session>) {
        self.sessions[usize::from(peer.get())] = Some(Known::new(session));
    }

    /// Ends a peer's session, for all threads that share it. The next one must have other keys.
    pub fn remove_session(&mut self, peer: NodeId) {
        if let Some(known) = self.sessions[usize::from(peer.get())].take() {
            known.session.set_keys(&LiveKeys::default());
        }
    }

    /// Peers whose keys have been sent with for so long that new ones are wanted.
    pub fn worn(&self) -> impl Iterator<Item = NodeId> + '_ {
        let worn = |known: &Known| known.session.messages() >= RENEW_AFTER;
        (0..).zip(&self.sessions).filter_map(move |(id, known)| {
            known.as_ref().filter(|known| worn(known)).and_then(|_| NodeId::new(id))
        })
    }

    fn known(&mut self, id: u16) -> Option<&Known> {
        let known = self.sessions.get_mut(usize::from(id))?.as_mut()?;
        known.refresh();
        Some(known)
    }

    /// Seals in place: `datagram` is [`HEADROOM`] bytes of any content, then the frame. Afterwards it is ready for
    /// the wire. Store [`Self::high_water`] in the map afterwards (once per batch is enough, before sending it).
    pub fn seal(
        &mut self,
        peer: NodeId,
        route: &DataRoute,
        checksum: Checksum,
        datagram: &mut [u8],
    ) -> Result<(), NoSession> {
        let sequence = self.number(peer, 1)?;
        self.seal_numbered(peer, route, sequence, checksum, datagram)
    }

    /// Reserves sequences for so many frames to a peer; returns the first.
    pub fn number(&mut self, peer: NodeId, frames: usize) -> Result<u64, NoSession> {
        let known = self
            .known(peer.get())
            .filter(|known| known.ciphers.current().is_some())
            .ok_or(NoSession(peer))?;
        // Nobody sends 2^64 frames.
        let sequence = known.session.next_sequence.fetch_add(frames as u64, Relaxed);
        self.high_water.fetch_max(sequence + frames as u64, Relaxed);
        Ok(sequence)
    }

    /// Seals a frame with a sequence that [`Self::number`] gave it: over as many routes as wanted, and again over the same
    /// one with the same content. The receiver takes one of them.
    pub fn seal_numbered(
        &mut self,
        peer: NodeId,
        route: &DataRoute,
        sequence: u64,
        checksum: Checksum,
        datagram: &mut [u8],
    ) -> Result<(), NoSession> {
        let flags = match checksum {
            Checksum::Complete => 0,
            Checksum::Partial => flags::PARTIAL_CHECKSUM,
        };
        self.seal_as(kind::DATA, flags, peer, route, sequence, datagram)
    }

    /// A sealed probe.
    pub fn probe(
        &mut self,
        peer: NodeId,
        route: &DataRoute,
        probe: Probe,
    ) -> Result<ProbeDatagram, NoSession> {
        let (flags, number) = match probe {
            Probe::Solicit(number) => (flags::SOLICIT, number),
            Probe::Answer(number) => (0, number),
        };
        let mut datagram = [0; HEADROOM + PROBE_LEN];
        datagram[HEADROOM..].copy_from_slice(&number.to_le_bytes());
        let sequence = self.number(peer, 1)?;
        self.seal_as(kind::PROBE, flags, peer, route, sequence, &mut datagram)?;
        Ok(datagram)
    }

    /// Seals a probe to be answered with `number`, as long as `datagram` is, which has room for that: whether the answer
    /// comes says whether the route carries so much.
    pub fn padded_probe(
        &mut self,
        peer: NodeId,
        route: &DataRoute,
        number: u64,
        datagram: &mut [u8],
    ) -> Result<(), NoSession> {
        let rest = datagram.get_mut(HEADROOM..).ok_or(NoSession(peer))?;
        rest.fill(0);
        *rest.first_chunk_mut().ok_or(NoSession(peer))? = number.to_le_bytes();
        let sequence = self.number(peer, 1)?;
        self.seal_as(kind::PROBE, flags::SOLICIT, peer, route, sequence, datagram)
    }

    fn seal_as(
        &mut self,
        kind: u8,
        flags: u16,
        peer: NodeId,
        route: &DataRoute,
        sequence: u64,
        datagram: &mut [u8],
    ) -> Result<(), NoSession> {
        let (cluster_id, source) = (self.cluster_id, self.own.get());
        let known = self.known(peer.get()).ok_or(NoSession(peer))?;
        let cipher = known.ciphers.current().filter(|_| known.session.messages() < MESSAGES_MAX);
        let cipher = cipher.filter(|_| datagram.len() >= HEADROOM).ok_or(NoSession(peer))?;
        let header = Header {
            magic: wire::MAGIC,
            version: cipher.version(),
            kind,
            flags,
            cluster_id,
            source,
            destination: peer.get(),
            slot: route.remote_slot,
            key_epoch: cipher.epoch(),
            sequence,
        };
        cipher.seal(&header, route, datagram).map_err(|_| NoSession(peer))?;
        Ok(())
    }

    /// Opens in place what arrived at `local` from `remote` (`types::address_bytes`). What can't be opened may be changed.
    pub fn open<'a>(
        &mut self,
        local: [u8; 16],
        remote: [u8; 16],
        outer: Outer,
        datagram: &'a mut [u8],
    ) -> Result<Opened<'a>, DataReject> {
        let head = datagram.first_chunk::<HEADROOM>().ok_or(DataReject::Malformed)?;
        let wire::Data { header, .. } = bytemuck::pod_read_unaligned(head);
        let table = [
            (header.magic == wire::MAGIC, DataReject::Malformed),
            (matches!(header.kind, kind::DATA | kind::PROBE), DataReject::Malformed),
            (header.cluster_id == self.cluster_id, DataReject::OtherCluster),
            (header.destination == self.own.get(), DataReject::Destination),
        ];
        if let Some((_, reject)) = table.into_iter().find(|(right, _)| !right) {
            return Err(reject);
        }
        let peer = NodeId::new(header.source).ok_or(DataReject::Source)?;
        let named = Slot::new(header.slot).map(|slot| (slot, self.ways[slot.index()]));
        let known = self.known(header.source).ok_or(DataReject::Source)?;
        let travelled = named.filter(|(_, way)| *way == Some((peer, local, remote)));
        let (slot, _) = travelled.ok_or(DataReject::Route)?;
        let cipher = known.ciphers.of(header.key_epoch).ok_or(DataReject::Epoch)?;
        if header.version != cipher.version() {
            return Err(DataReject::Version);
        }
        if header.kind == kind::PROBE && datagram.len() < HEADROOM + PROBE_LEN {
            return Err(DataReject::Malformed);
        }
        if !known.session.window().is_new(header.sequence) {
            return Err(DataReject::Replay);
        }
        cipher.open(&header, &local, &remote, datagram).map_err(|_| DataReject::Tag)?;
        // At the other levels the tag says more.
        if cipher.receives() == Level::Clear && !outer.vouches(datagram) {
            return Err(DataReject::Checksum);
        }
        // Another thread may have opened a copy of it meanwhile.
        if !known.session.window().accept(header.sequence) {
            return Err(DataReject::Replay);
        }
        let message = message(&header, &datagram[HEADROOM..]).ok_or(DataReject::Malformed)?;
        Ok(Opened { peer, slot, message })
    }

    /// No sequence above this was used yet.
    pub fn high_water(&self) -> u64 {
        self.high_water.load(Relaxed)
    }
}

fn message<'a>(header: &Header, rest: &'a [u8]) -> Option<Message<'a>> {
    if header.kind == kind::DATA {
        let is_partial = header.flags & flags::PARTIAL_CHECKSUM != 0;
        return Some(Message::Frame(rest, if is_partial { Checksum::Partial } else { Checksum::Complete }));
    }
    // What follows only makes it longer.
    let number = u64::from_le_bytes(*rest.first_chunk::<PROBE_LEN>()?);
    let solicits = header.flags & flags::SOLICIT != 0;
    Some(Message::Probe(if solicits { Probe::Solicit(number) } else { Probe::Answer(number) }))
}

#[cfg(test)]
mod tests;
