//! Nodes of this cluster with which no wire version is common: named, not spoken to.

use super::machine::Membership;
use super::peer::RouteKey;
use super::{HelloReject, MembershipEvent};
use crate::types::Nanos;
use netft_common::hello;
use netft_common::wire::Versions;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// How long one is listed after its last hello: hellos are repeated every second.
const LISTED_NS: Nanos = 10_000_000_000;
/// Listed at once; more than these are not.
const LIMIT: usize = 64;

/// A node that can't be spoken to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OtherVersions {
    /// Its name, if its id or its address is a configured peer's.
    pub peer: Option<String>,
    /// Where it speaks from.
    pub from: IpAddr,
    /// What it speaks.
    pub versions: Versions,
}

/// Those heard lately, by address.
#[derive(Debug, Default)]
pub struct Others {
    heard: BTreeMap<IpAddr, (Nanos, OtherVersions)>,
}

impl Others {
    fn note(&mut self, now: Nanos, other: OtherVersions) {
        self.heard.retain(|_, (at, _)| now.saturating_sub(*at) < LISTED_NS);
        if self.heard.len() < LIMIT || self.heard.contains_key(&other.from) {
            self.heard.insert(other.from, (now, other));
        }
    }

    /// It is understood now.
    pub fn forget(&mut self, from: IpAddr) {
        self.heard.remove(&from);
    }
}

impl Membership {
    /// Nodes of this cluster that speak none of this node's wire versions, heard within the last 10 seconds before `now`.
    pub fn other_versions(&self, now: Nanos) -> Vec<OtherVersions> {
        let recent = self.others.heard.values().filter(|(at, _)| now.saturating_sub(*at) < LISTED_NS);
        recent.map(|(_, other)| other.clone()).collect()
    }

    /// A hello in a version that isn't spoken here. What all versions have in common says who it is, and whether it knows the
    /// secret; strangers get no attention.
    pub(super) fn other_version(&mut self, now: Nanos, way: &RouteKey, bytes: &[u8]) -> HelloReject {
        let Some((header, signed, tag)) = hello::introduction(bytes) else { return HelloReject::Malformed };
        if let Err(reject) = self.authenticate(now, way, header.cluster_id, signed, tag) {
            return reject;
        }
        let versions = Versions::from_slot(header.slot)
            .unwrap_or(Versions { oldest: header.version, newest: header.version });
        let own = self.config.versions;
        // It hears us, and then speaks what both do.
        if header.source != self.config.id.get() && own.common(versions).is_none() {
            let from = way.remote;
            let by_id = |peer: &super::peer::Peer| peer.id().is_some_and(|id| id.get() == header.source);
            let by_address = |peer: &super::peer::Peer| peer.config.addresses.contains(&from);
            let named = self.peers.iter().find(|(_, peer)| by_id(peer));
            let named = named.or_else(|| self.peers.iter().find(|(_, peer)| by_address(peer)));
            let peer = named.map(|(name, _)| name.clone());
            self.others.note(now, OtherVersions { peer: peer.clone(), from, versions });
            self.tell(now, MembershipEvent::OtherVersion { peer, from, versions, own });
        }
        HelloReject::Version
    }
}
