//! Cluster traffic: one Ethernet frame in one datagram, sealed per peer and direction. Runs on the data threads, which
//! share the sessions; nothing here allocates after the peers are set.

use crate::offload::Checksum;
use crate::session::LiveKeys;
use crate::types::{Nanos, NodeId, Slot};
use crate::window::Window;
use netft_common::map::MAX_NODES;
use netft_common::siphash::Stream;
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
    /// Made with keys that aren't good now.
    #[error("the datagram was sealed with the keys of another session")]
    Epoch,
    /// The authenticator is wrong.
    #[error("the datagram is not authentic")]
    Tag,
    /// Seen already, or too old to tell.
    #[error("the datagram is a duplicate or too old")]
    Replay,
}

impl DataReject {
    /// Number of reasons.
    pub const COUNT: usize = 8;
    /// Counter names, in order.
    pub const NAMES: [&'static str; Self::COUNT] = [
        "data_reject_malformed",
        "data_reject_version",
        "data_reject_other_cluster",
        "data_reject_destination",
        "data_reject_source",
        "data_reject_epoch",
        "data_reject_tag",
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
    /// Our slot of the route that it names; whether it is the route it came by is for the caller to see.
    pub slot: Option<Slot>,
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
}

/// What all data threads need of one peer.
#[derive(Debug)]
pub struct Session {
    keys: Mutex<Arc<LiveKeys>>,
    /// Counts changes of `keys`, so that they are looked at without the lock.
    version: AtomicU64,
    next_sequence: AtomicU64,
    /// The first sequence that was sent with the current keys.
    keyed_sequence: AtomicU64,
    window: Mutex<Window>,
}

impl Session {
    fn new(first_sequence: u64) -> Self {
        Self {
            keys: Mutex::default(),
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

    fn keys(&self) -> MutexGuard<'_, Arc<LiveKeys>> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// In force for every thread when this returns.
    fn set_keys(&self, keys: &LiveKeys) {
        let mut held = self.keys();
        if **held == *keys {
            return;
        }
        if held.current != keys.current {
            self.keyed_sequence.store(self.next_sequence.load(Relaxed), Relaxed);
        }
        *held = Arc::new(keys.clone());
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
    keys: Arc<LiveKeys>,
}

impl Known {
    fn new(session: Arc<Session>) -> Self {
        let version = session.version.load(Acquire);
        let keys = Arc::clone(&session.keys());
        Self { session, version, keys }
    }

    /// Takes new keys over if there are any: one load if not.
    fn refresh(&mut self) {
        let version = self.session.version.load(Acquire);
        if version != self.version {
            self.keys = Arc::clone(&self.session.keys());
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
        Self { cluster_id, own, high_water: Arc::new(AtomicU64::new(stored.max(now))), sessions }
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
        let known =
            self.known(peer.get()).filter(|known| known.keys.current.is_some()).ok_or(NoSession(peer))?;
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
        let keys = known.keys.current.as_ref().filter(|_| known.session.messages() < MESSAGES_MAX);
        let keys = keys.ok_or(NoSession(peer))?;
        let (head, frame) = datagram.split_first_chunk_mut::<HEADROOM>().ok_or(NoSession(peer))?;
        let header = Header {
            magic: wire::MAGIC,
            version: wire::VERSION,
            kind,
            flags,
            cluster_id,
            source,
            destination: peer.get(),
            slot: route.remote_slot,
            key_epoch: keys.epoch,
            sequence,
        };
        let tag = tag(keys.data.send, &route.local, &route.remote, &header, frame);
        head.copy_from_slice(bytemuck::bytes_of(&wire::Data { header, tag }));
        Ok(())
    }

    /// Opens what arrived at `local` from `remote` (`types::address_bytes`).
    pub fn open<'a>(
        &mut self,
        local: [u8; 16],
        remote: [u8; 16],
        datagram: &'a [u8],
    ) -> Result<Opened<'a>, DataReject> {
        let (head, frame) = datagram.split_first_chunk::<HEADROOM>().ok_or(DataReject::Malformed)?;
        let wire::Data { header, tag: theirs } = bytemuck::pod_read_unaligned(head);
        let table = [
            (header.magic == wire::MAGIC, DataReject::Malformed),
            (header.version == wire::VERSION, DataReject::Version),
            (matches!(header.kind, kind::DATA | kind::PROBE), DataReject::Malformed),
            (header.cluster_id == self.cluster_id, DataReject::OtherCluster),
            (header.destination == self.own.get(), DataReject::Destination),
        ];
        if let Some((_, reject)) = table.into_iter().find(|(right, _)| !right) {
            return Err(reject);
        }
        let peer = NodeId::new(header.source).ok_or(DataReject::Source)?;
        let known = self.known(header.source).ok_or(DataReject::Source)?;
        let (session, keys) = (&known.session, &known.keys);
        let mut live = [&keys.current, &keys.other].into_iter().flatten();
        let keys = live.find(|keys| keys.epoch == header.key_epoch).ok_or(DataReject::Epoch)?;
        let message = message(&header, frame).ok_or(DataReject::Malformed)?;
        if !session.window().is_new(header.sequence) {
            return Err(DataReject::Replay);
        }
        // One comparison of two words: there is no prefix whose length the time it takes could tell.
        if tag(keys.data.receive, &remote, &local, &header, frame) != theirs {
            return Err(DataReject::Tag);
        }
        // Another thread may have opened a copy of it meanwhile.
        if !session.window().accept(header.sequence) {
            return Err(DataReject::Replay);
        }
        Ok(Opened { peer, slot: Slot::new(header.slot), message })
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

fn tag(key: [u64; 2], source: &[u8; 16], destination: &[u8; 16], header: &Header, frame: &[u8]) -> u64 {
    Stream::new(key).write(source).write(destination).write(bytemuck::bytes_of(header)).write(frame).finish()
}

/// Where a frame from `netft0` must go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameDestination {
    /// To this peer.
    Peer(NodeId),
    /// To every peer that is reachable: multicast and broadcast.
    AllPeers,
    /// No peer has this MAC (or the frame is no frame): drop and count.
    Unknown,
}

/// MACs of the peers' `netft0`.
#[derive(Clone, Debug, Default)]
pub struct FrameTable {
    entries: Vec<([u8; 6], NodeId)>,
}

impl FrameTable {
    /// A peer's MAC; replaces the one it had.
    pub fn set(&mut self, peer: NodeId, mac: [u8; 6]) {
        self.remove(peer);
        let at = self.entries.partition_point(|entry| entry.0 < mac);
        self.entries.insert(at, (mac, peer));
    }

    /// Forgets a peer.
    pub fn remove(&mut self, peer: NodeId) {
        self.entries.retain(|entry| entry.1 != peer);
    }

    /// Where `frame`, an Ethernet frame, must go.
    pub fn destination(&self, frame: &[u8]) -> FrameDestination {
        let Some(mac) = frame.first_chunk::<6>() else { return FrameDestination::Unknown };
        if frame.len() < 14 {
            return FrameDestination::Unknown;
        }
        if mac[0] & 1 == 1 {
            return FrameDestination::AllPeers;
        }
        match self.entries.binary_search_by(|entry| entry.0.cmp(mac)) {
            Ok(at) => FrameDestination::Peer(self.entries[at].1),
            Err(_) => FrameDestination::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::{Directions, SessionKeys};

    const ROUTE: DataRoute = DataRoute { local: [1; 16], remote: [2; 16], remote_slot: 3 };

    fn node(id: u16) -> NodeId {
        NodeId::new(id).unwrap()
    }

    /// Keys of an epoch as node 1 or 2 has them.
    fn keys(end: u16, epoch: u32) -> SessionKeys {
        let (one, two) = ([1, epoch.into()], [2, epoch.into()]);
        let (send, receive) = if end == 1 { (one, two) } else { (two, one) };
        let both = Directions { send, receive };
        SessionKeys { epoch, heartbeat: both, data: both }
    }

    fn live(current: SessionKeys, other: Option<SessionKeys>) -> LiveKeys {
        LiveKeys { current: Some(current), other }
    }

    fn ends(stored: u64, now: Nanos) -> (DataPlane, DataPlane) {
        let mut a = DataPlane::new(7, node(1), stored, now);
        let mut b = DataPlane::new(7, node(2), 0, 0);
        a.set_session(node(2), &live(keys(1, 5), None));
        b.set_session(node(1), &live(keys(2, 5), None));
        (a, b)
    }

    fn sealed(plane: &mut DataPlane, frame: &[u8]) -> Vec<u8> {
        let mut datagram = vec![0; HEADROOM];
        datagram.extend_from_slice(frame);
        plane.seal(node(2), &ROUTE, Checksum::Complete, &mut datagram).unwrap();
        datagram
    }

    fn open<'a>(plane: &mut DataPlane, datagram: &'a [u8]) -> Result<Opened<'a>, DataReject> {
        plane.open(ROUTE.remote, ROUTE.local, datagram)
    }

    #[test]
    fn a_frame_arrives_once_as_it_was_sent() {
        let (mut a, mut b) = ends(0, 0);
        let datagram = sealed(&mut a, b"frame");
        let message = Message::Frame(b"frame", Checksum::Complete);
        let opened = Opened { peer: node(1), slot: Slot::new(3), message };
        assert_eq!(open(&mut b, &datagram), Ok(opened));
        assert_eq!(open(&mut b, &datagram), Err(DataReject::Replay));
    }

    #[test]
    fn the_state_of_its_checksum_comes_with_a_frame() {
        let (mut a, mut b) = ends(0, 0);
        for checksum in [Checksum::Partial, Checksum::Complete] {
            let mut datagram = [0; HEADROOM + 1];
            a.seal(node(2), &ROUTE, checksum, &mut datagram).unwrap();
            assert_eq!(open(&mut b, &datagram).unwrap().message, Message::Frame(&[0], checksum));
        }
    }

    #[test]
    fn no_changed_byte_is_accepted_and_none_closes_the_window() {
        let (mut a, mut b) = ends(0, 0);
        let datagram = sealed(&mut a, b"some frame");
        for at in 0..datagram.len() {
            for bit in 0..8 {
                let mut changed = datagram.clone();
                changed[at] ^= 1 << bit;
                assert!(open(&mut b, &changed).is_err(), "byte {at} bit {bit}");
            }
        }
        for len in 0..datagram.len() {
            assert!(open(&mut b, &datagram[..len]).is_err(), "length {len}");
        }
        assert_eq!(b.open(ROUTE.remote, [9; 16], &datagram), Err(DataReject::Tag));
        assert!(open(&mut b, &datagram).is_ok());
    }

    #[test]
    fn each_wrong_field_has_its_reason() {
        let (mut a, mut b) = ends(0, 0);
        let datagram = sealed(&mut a, b"frame");
        let reject = |change: fn(&mut Header)| {
            let mut data: wire::Data = bytemuck::pod_read_unaligned(&datagram[..HEADROOM]);
            change(&mut data.header);
            let mut changed = datagram.clone();
            changed[..HEADROOM].copy_from_slice(bytemuck::bytes_of(&data));
            open(&mut ends(0, 0).1, &changed).unwrap_err()
        };
        assert_eq!(reject(|h| h.magic = 0), DataReject::Malformed);
        assert_eq!(reject(|h| h.kind = wire::kind::HELLO), DataReject::Malformed);
        assert_eq!(reject(|h| h.version = 2), DataReject::Version);
        assert_eq!(reject(|h| h.cluster_id = 8), DataReject::OtherCluster);
        assert_eq!(reject(|h| h.destination = 3), DataReject::Destination);
        assert_eq!(reject(|h| h.source = 3), DataReject::Source);
        assert_eq!(reject(|h| h.source = 0xffff), DataReject::Source);
        assert_eq!(reject(|h| h.key_epoch = 6), DataReject::Epoch);
        assert_eq!(reject(|h| h.sequence += 1), DataReject::Tag);
        assert_eq!(open(&mut b, b""), Err(DataReject::Malformed));
    }

    #[test]
    fn probes_are_sealed_like_frames_and_told_apart() {
        let (mut a, mut b) = ends(0, 0);
        for probe in [Probe::Solicit(u64::MAX - 7), Probe::Answer(7)] {
            let datagram = a.probe(node(2), &ROUTE, probe).unwrap();
            for at in 0..datagram.len() {
                let mut changed = datagram;
                changed[at] ^= 1;
                assert!(open(&mut b, &changed).is_err(), "byte {at}");
            }
            assert!(open(&mut b, &datagram[..datagram.len() - 1]).is_err());
            assert_eq!(open(&mut b, &datagram).unwrap().message, Message::Probe(probe));
            assert_eq!(open(&mut b, &datagram), Err(DataReject::Replay));
        }
    }

    #[test]
    fn a_frame_that_is_sealed_for_another_route_as_well_is_the_same_frame() {
        let (mut a, mut b) = ends(0, 0);
        let other = DataRoute { remote: [9; 16], remote_slot: 4, ..ROUTE };
        let first = a.number(node(2), 2).unwrap();
        let mut seal = |route: &DataRoute, sequence| {
            let mut datagram = [0; HEADROOM + 1];
            a.seal_numbered(node(2), route, sequence, Checksum::Complete, &mut datagram).unwrap();
            datagram
        };
        let (one, again, two) = (seal(&ROUTE, first), seal(&other, first), seal(&ROUTE, first + 1));
        assert!(b.open(other.remote, other.local, &again).is_ok());
        assert_eq!(open(&mut b, &one), Err(DataReject::Replay));
        assert!(open(&mut b, &two).is_ok());
        assert!(open(&mut b, &sealed(&mut a, b"next")).is_ok(), "a reserved sequence is nobody else's");
        assert!(a.high_water() >= first + 2);
    }

    #[test]
    fn a_padded_probe_is_a_probe_of_any_length() {
        let (mut a, mut b) = ends(0, 0);
        for length in [PROBE_LEN, 1000] {
            let mut datagram = vec![7; HEADROOM + length];
            a.padded_probe(node(2), &ROUTE, 99, &mut datagram).unwrap();
            assert!(open(&mut b, &datagram[..datagram.len() - 1]).is_err(), "cut short");
            assert_eq!(open(&mut b, &datagram).unwrap().message, Message::Probe(Probe::Solicit(99)));
        }
        assert!(a.padded_probe(node(2), &ROUTE, 99, &mut [0; HEADROOM + 7]).is_err());
    }

    #[test]
    fn threads_share_numbering_and_window() {
        let (mut a, mut b) = ends(0, 0);
        let (mut other_a, mut other_b) = (a.clone(), b.clone());
        let first = sealed(&mut a, b"x");
        let second = sealed(&mut other_a, b"x");
        assert_ne!(first, second, "another sequence");
        assert_eq!(a.high_water(), other_a.high_water());
        assert!(open(&mut b, &first).is_ok());
        assert_eq!(open(&mut other_b, &first), Err(DataReject::Replay));
        assert!(open(&mut other_b, &second).is_ok());
        // New keys are there at once for whoever shares the session, a new session when it is shared.
        a.set_session(node(2), &live(keys(1, 6), None));
        b.set_session(node(1), &live(keys(2, 6), None));
        assert!(open(&mut other_b, &sealed(&mut other_a, b"x")).is_ok());
        a.remove_session(node(2));
        assert!(other_a.seal(node(2), &ROUTE, Checksum::Complete, &mut [0; HEADROOM]).is_err());
        a.set_session(node(2), &live(keys(1, 6), None));
        other_a.share(node(2), a.session(node(2)).unwrap());
        assert!(open(&mut other_b, &sealed(&mut other_a, b"x")).is_ok());
    }

    #[test]
    fn a_restarted_sender_goes_on_above_what_was_accepted() {
        let (mut a, mut b) = ends(0, 1_000);
        for _ in 0..5_000 {
            assert!(open(&mut b, &sealed(&mut a, b"x")).is_ok());
        }
        let (mut restarted, _) = ends(a.high_water(), 2_000);
        assert!(open(&mut b, &sealed(&mut restarted, b"x")).is_ok());
        let (mut without_map, _) = ends(0, 1_000_000);
        assert!(open(&mut b, &sealed(&mut without_map, b"x")).is_ok());
    }

    #[test]
    fn while_keys_are_replaced_nothing_is_lost_and_nothing_is_received_twice() {
        let (mut a, mut b) = ends(0, 0);
        let (early, late) = (sealed(&mut a, b"early"), sealed(&mut a, b"late"));
        assert!(open(&mut b, &early).is_ok());
        // The answering end accepts the new keys first, then the other sends with them, then it does itself.
        b.set_session(node(1), &live(keys(2, 5), Some(keys(2, 6))));
        a.set_session(node(2), &live(keys(1, 6), Some(keys(1, 5))));
        let new = sealed(&mut a, b"new");
        let back = {
            let mut datagram = vec![0; HEADROOM + 1];
            b.seal(node(1), &ROUTE, Checksum::Complete, &mut datagram).unwrap();
            datagram
        };
        assert!(open(&mut b, &new).is_ok() && open(&mut a, &back).is_ok());
        b.set_session(node(1), &live(keys(2, 6), Some(keys(2, 5))));
        assert_eq!(open(&mut b, &early), Err(DataReject::Replay));
        assert!(open(&mut b, &late).is_ok(), "it was under way");
        for datagram in [&late, &new] {
            assert_eq!(open(&mut b, datagram), Err(DataReject::Replay));
        }
        b.set_session(node(1), &live(keys(2, 6), None));
        assert_eq!(open(&mut b, &late), Err(DataReject::Epoch));
        b.remove_session(node(1));
        assert_eq!(open(&mut b, &new), Err(DataReject::Source));
    }

    #[test]
    fn keys_wear_out_and_are_fresh_again_when_replaced() {
        let (mut a, _) = ends(0, 0);
        assert_eq!(a.worn().next(), None);
        let used = |a: &DataPlane, count: u64| {
            a.session(node(2)).unwrap().next_sequence.fetch_add(count, Relaxed);
        };
        used(&a, RENEW_AFTER);
        assert_eq!(a.worn().collect::<Vec<_>>(), [node(2)]);
        sealed(&mut a, b"still");
        used(&a, MESSAGES_MAX);
        assert!(a.seal(node(2), &ROUTE, Checksum::Complete, &mut [0; HEADROOM]).is_err());
        a.set_session(node(2), &live(keys(1, 6), Some(keys(1, 5))));
        assert_eq!(a.worn().next(), None);
        sealed(&mut a, b"again");
    }

    #[test]
    fn frames_go_where_their_mac_says() {
        let mut table = FrameTable::default();
        table.set(node(2), [2, 0, 0, 0, 0, 2]);
        table.set(node(3), [2, 0, 0, 0, 0, 3]);
        let to = |table: &FrameTable, mac: [u8; 6]| table.destination(&[&mac[..], &[0; 8]].concat());
        assert_eq!(to(&table, [2, 0, 0, 0, 0, 3]), FrameDestination::Peer(node(3)));
        assert_eq!(to(&table, [0xff; 6]), FrameDestination::AllPeers);
        assert_eq!(to(&table, [0x33, 0x33, 0, 0, 0, 1]), FrameDestination::AllPeers);
        assert_eq!(to(&table, [2, 0, 0, 0, 0, 4]), FrameDestination::Unknown);
        assert_eq!(table.destination(&[0xff; 13]), FrameDestination::Unknown);
        table.set(node(3), [2, 0, 0, 0, 0, 4]);
        assert_eq!(to(&table, [2, 0, 0, 0, 0, 3]), FrameDestination::Unknown);
        table.remove(node(3));
        assert_eq!(to(&table, [2, 0, 0, 0, 0, 4]), FrameDestination::Unknown);
    }
}
