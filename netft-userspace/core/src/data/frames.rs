//! Which peer a frame from `netft0` is for.

use crate::types::NodeId;

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
