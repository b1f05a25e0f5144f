//! Cluster traffic: one Ethernet frame in one datagram, sealed per peer and direction. Runs on the data thread;
//! nothing here allocates after the peers are set.

use crate::types::{Nanos, NodeId};
use netft_common::wire;

/// Bytes to leave free before a frame so that it can be sealed in place.
pub const HEADROOM: usize = size_of::<wire::Data>();

/// The keys of one peer's session, from [`crate::membership::RouteInstall`] (equal on all its routes).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DataKeys {
    /// Key epoch.
    pub key_epoch: u32,
    /// What we send.
    pub send: [u64; 2],
    /// What we receive.
    pub receive: [u64; 2],
}

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
    /// Another session's.
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

/// Seals and opens frames of all peers.
#[derive(Debug)]
pub struct DataPlane {
    cluster_id: u32,
    own: NodeId,
    high_water: u64,
}

impl DataPlane {
    /// `stored` is the high water that a previous daemon left in the map (`EngineState::persistent[0]`), 0 if none:
    /// sequences go on above it and above `now`.
    pub fn new(cluster_id: u32, own: NodeId, stored: u64, now: Nanos) -> Self {
        Self { cluster_id, own, high_water: stored.max(now) }
    }

    /// A peer's session. Idempotent: with the same keys its sequence and window stay.
    pub fn set_peer(&mut self, peer: NodeId, keys: DataKeys) {
        let _ = (peer, keys);
    }

    /// Forgets a peer's session.
    pub fn remove_peer(&mut self, peer: NodeId) {
        let _ = peer;
    }

    /// Seals in place: `datagram` is [`HEADROOM`] bytes of any content, then the frame. Afterwards it is ready for
    /// the wire. Store [`Self::high_water`] in the map afterwards (once per batch is enough, before sending it).
    pub fn seal(&mut self, peer: NodeId, route: &DataRoute, datagram: &mut [u8]) -> Result<(), NoSession> {
        let _ = (route, datagram, self.cluster_id, self.own);
        Err(NoSession(peer))
    }

    /// Opens what arrived at `local` from `remote` (`types::address_bytes`): who sent it, and the frame in it.
    pub fn open<'a>(
        &mut self,
        local: [u8; 16],
        remote: [u8; 16],
        datagram: &'a [u8],
    ) -> Result<(NodeId, &'a [u8]), DataReject> {
        let _ = (local, remote, datagram);
        Err(DataReject::Malformed)
    }

    /// No sequence above this was used yet.
    pub fn high_water(&self) -> u64 {
        self.high_water
    }
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
