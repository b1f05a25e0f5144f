//! What the operator should read: every event is one sentence, and the same facts as fields.

use crate::types::NodeId;
use netft_common::wire::Versions;
use std::fmt;
use std::net::IpAddr;

/// Something changed, or something is wrong. `Display` is one sentence for the log; the accessors are the fields of
/// `events[]` (`docs/json.md`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MembershipEvent {
    /// A session with a peer began.
    PeerJoined {
        /// The peer's name.
        peer: String,
        /// Its id.
        id: NodeId,
        /// Where its hello came from.
        from: IpAddr,
    },
    /// A peer is back with a new boot nonce: it rebooted, or its daemon was stopped cleanly and started again.
    PeerRestarted {
        /// The peer's name.
        peer: String,
        /// Its id.
        id: NodeId,
        /// Where its hello came from.
        from: IpAddr,
    },
    /// The first keys of a session are in use: heartbeats and data can flow.
    SessionOpened {
        /// The peer's name.
        peer: String,
    },
    /// A peer said goodbye.
    PeerLeaving {
        /// The peer's name.
        peer: String,
    },
    /// A peer that had said goodbye stays.
    PeerReturned {
        /// The peer's name.
        peer: String,
    },
    /// A peer's daemon has been away for too long: its routes are given up.
    PeerAbsent {
        /// The peer's name.
        peer: String,
    },
    /// A peer was added to the configuration.
    PeerAdded {
        /// The peer's name.
        peer: String,
    },
    /// A peer was removed from the configuration.
    PeerRemoved {
        /// The peer's name.
        peer: String,
    },
    /// A route exists now; it is down until its heartbeats complete.
    RouteAdded {
        /// The peer's name.
        peer: String,
        /// Own endpoint.
        local: IpAddr,
        /// The peer's endpoint.
        remote: IpAddr,
        /// Name of its network.
        network: String,
    },
    /// A route is gone.
    RouteRemoved {
        /// The peer's name.
        peer: String,
        /// Own endpoint.
        local: IpAddr,
        /// The peer's endpoint.
        remote: IpAddr,
        /// Why, as a clause.
        reason: &'static str,
    },
    /// A network appeared or changed its role or metric.
    NetworkChanged {
        /// Its name.
        network: String,
        /// "role R metric M" before; `None` if it is new.
        old: Option<String>,
        /// "role R metric M" now; `None` if it is gone.
        new: Option<String>,
    },
    /// Another machine with a peer's id introduced itself while that peer is reachable; it was ignored.
    DuplicateNodeId {
        /// The id.
        id: NodeId,
        /// The peer that has the id.
        peer: String,
        /// Address of the intruder.
        from: IpAddr,
    },
    /// Another machine uses this node's own id; it was ignored.
    OwnIdTaken {
        /// Own id.
        id: NodeId,
        /// The other's name.
        name: String,
        /// The other's address.
        from: IpAddr,
    },
    /// A node that knows the secret but isn't configured here introduced itself; it was ignored.
    UnknownNode {
        /// Its name.
        name: String,
        /// Its id.
        id: NodeId,
        /// Its address.
        from: IpAddr,
    },
    /// A node's name or id contradicts the configuration; it was ignored.
    IdentityMismatch {
        /// The configured peer.
        peer: String,
        /// Its configured or learned id, if there is one.
        expected: Option<NodeId>,
        /// What the node calls itself.
        name: String,
        /// What it gives as its id.
        id: NodeId,
        /// Its address.
        from: IpAddr,
    },
    /// A configured peer's address speaks for another cluster; it was ignored.
    OtherCluster {
        /// Its address.
        from: IpAddr,
        /// Its cluster id.
        cluster_id: u32,
        /// Ours.
        own: u32,
    },
    /// A node of this cluster speaks no wire version that this one speaks; it was ignored.
    OtherVersion {
        /// Its name, if its id or its address is a configured peer's.
        peer: Option<String>,
        /// Its address.
        from: IpAddr,
        /// What it speaks.
        versions: Versions,
        /// What this node speaks.
        own: Versions,
    },
    /// A configured peer's address sent a hello whose authenticator is wrong; it was ignored.
    WrongSecret {
        /// Its address.
        from: IpAddr,
    },
    /// Two nodes have the same `netft0` identity.
    AdapterConflict {
        /// The other node.
        peer: String,
        /// What is equal: "MAC 02:…", "IPv4 …", "IPv6 …".
        what: String,
        /// Who takes another identity: the one with the higher id.
        who: AdapterYield,
    },
    /// This node's `netft0` has another identity or MTU now.
    AdapterChanged {
        /// Before: "MAC IPv4 IPv6 MTU".
        old: String,
        /// Now.
        new: String,
    },
    /// A peer announces an address that is this node's own; that endpoint was ignored.
    AddressConflict {
        /// The peer.
        peer: String,
        /// The address.
        address: IpAddr,
    },
    /// A limit was reached and something was left out.
    LimitReached {
        /// What was left out, as a subject: "peer n2", "interface eth7".
        subject: String,
        /// Which limit, as a clause.
        reason: &'static str,
    },
    /// This node has another cluster secret beside the one that it signs with.
    SecretOffered {
        /// Name of the node where the rotation was started.
        by: String,
    },
    /// This node signs with the other secret now.
    SecretSwitched,
    /// The other secret is the only one now.
    SecretReplaced,
    /// The other secret was given up.
    RotationAborted,
    /// A second rotation was started while one was under way; it was ignored.
    RotationContested {
        /// Where the one under way was started.
        by: String,
        /// Where the second was.
        other: String,
    },
    /// Slots of the previous daemon were taken over.
    RoutesAdopted {
        /// How many.
        count: usize,
    },
}

/// Who gives way in an adapter conflict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdapterYield {
    /// This node takes the next salt.
    Here,
    /// The peer does.
    There,
}

impl MembershipEvent {
    /// Kind, a stable kebab-case word.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::PeerJoined { .. } => "peer-joined",
            Self::PeerRestarted { .. } => "peer-restarted",
            Self::SessionOpened { .. } => "session-opened",
            Self::PeerLeaving { .. } => "peer-leaving",
            Self::PeerReturned { .. } => "peer-returned",
            Self::PeerAbsent { .. } => "peer-absent",
            Self::PeerAdded { .. } => "peer-added",
            Self::PeerRemoved { .. } => "peer-removed",
            Self::RouteAdded { .. } => "route-added",
            Self::RouteRemoved { .. } => "route-removed",
            Self::NetworkChanged { .. } => "network-changed",
            Self::DuplicateNodeId { .. } => "duplicate-node-id",
            Self::OwnIdTaken { .. } => "own-id-taken",
            Self::UnknownNode { .. } => "unknown-node",
            Self::IdentityMismatch { .. } => "identity-mismatch",
            Self::OtherCluster { .. } => "other-cluster",
            Self::OtherVersion { .. } => "other-version",
            Self::WrongSecret { .. } => "wrong-secret",
            Self::AdapterConflict { .. } => "adapter-conflict",
            Self::AdapterChanged { .. } => "adapter-changed",
            Self::AddressConflict { .. } => "address-conflict",
            Self::LimitReached { .. } => "limit-reached",
            Self::SecretOffered { .. } => "secret-offered",
            Self::SecretSwitched => "secret-switched",
            Self::SecretReplaced => "secret-replaced",
            Self::RotationAborted => "rotation-aborted",
            Self::RotationContested { .. } => "rotation-contested",
            Self::RoutesAdopted { .. } => "routes-adopted",
        }
    }

    /// Whom or what it is about.
    pub fn subject(&self) -> String {
        match self {
            Self::PeerJoined { peer, .. }
            | Self::PeerRestarted { peer, .. }
            | Self::SessionOpened { peer }
            | Self::PeerLeaving { peer }
            | Self::PeerReturned { peer }
            | Self::PeerAbsent { peer }
            | Self::PeerAdded { peer }
            | Self::PeerRemoved { peer }
            | Self::DuplicateNodeId { peer, .. }
            | Self::IdentityMismatch { peer, .. }
            | Self::AdapterConflict { peer, .. }
            | Self::AddressConflict { peer, .. } => peer.clone(),
            Self::RouteAdded { peer, local, remote, .. } | Self::RouteRemoved { peer, local, remote, .. } => {
                format!("{peer} {local} -> {remote}")
            }
            Self::NetworkChanged { network, .. } => network.clone(),
            Self::OwnIdTaken { name, .. } | Self::UnknownNode { name, .. } => name.clone(),
            Self::OtherVersion { peer: Some(peer), .. } => peer.clone(),
            Self::OtherVersion { from, .. }
            | Self::OtherCluster { from, .. }
            | Self::WrongSecret { from } => from.to_string(),
            Self::AdapterChanged { .. } => "netft0".to_owned(),
            Self::LimitReached { subject, .. } => subject.clone(),
            Self::SecretOffered { .. }
            | Self::SecretSwitched
            | Self::SecretReplaced
            | Self::RotationAborted
            | Self::RotationContested { .. } => "secret".to_owned(),
            Self::RoutesAdopted { .. } => "routes".to_owned(),
        }
    }

    /// What was before, if that says anything: `old` in listings.
    pub fn before(&self) -> Option<String> {
        match self {
            Self::NetworkChanged { old, .. } => old.clone(),
            Self::AdapterChanged { old, .. } => Some(old.clone()),
            Self::IdentityMismatch { peer, expected, .. } => Some(match expected {
                Some(id) => format!("{peer} id {id}"),
                None => peer.clone(),
            }),
            Self::OtherVersion { own, .. } => Some(format!("wire versions {own}")),
            Self::OtherCluster { own, .. } => Some(format!("cluster {own}")),
            _ => None,
        }
    }

    /// What is now, if that says anything: `new` in listings.
    pub fn after(&self) -> Option<String> {
        match self {
            Self::PeerJoined { id, .. } | Self::PeerRestarted { id, .. } => Some(format!("id {id}")),
            Self::RouteAdded { network, .. } => Some(network.clone()),
            Self::NetworkChanged { new, .. } => new.clone(),
            Self::AdapterChanged { new, .. } => Some(new.clone()),
            Self::IdentityMismatch { name, id, .. } => Some(format!("{name} id {id}")),
            Self::OtherVersion { versions, .. } => Some(format!("wire versions {versions}")),
            Self::OtherCluster { cluster_id, .. } => Some(format!("cluster {cluster_id}")),
            Self::RoutesAdopted { count } => Some(count.to_string()),
            _ => None,
        }
    }

    /// Why: the sentence itself, unless there is a shorter clause.
    pub fn reason(&self) -> String {
        match self {
            Self::RouteRemoved { reason, .. } | Self::LimitReached { reason, .. } => (*reason).to_owned(),
            other => other.to_string(),
        }
    }
}

impl fmt::Display for MembershipEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PeerJoined { peer, id, from } => {
                write!(f, "peer {peer} (id {id}) introduced itself from {from}")
            }
            Self::PeerRestarted { peer, id, from } => {
                write!(f, "peer {peer} (id {id}) is back from a restart at {from}: its routes start anew")
            }
            Self::SessionOpened { peer } => write!(f, "peer {peer} and this node have agreed on keys"),
            Self::PeerLeaving { peer } => write!(f, "peer {peer} says goodbye: its daemon stops cleanly"),
            Self::PeerReturned { peer } => write!(f, "peer {peer} takes its goodbye back and stays"),
            Self::PeerAbsent { peer } => write!(
                f,
                "the daemon of peer {peer} has been away for longer than engine.absence, although its host answers: its routes are \
                 given up until it is back"
            ),
            Self::PeerAdded { peer } => write!(f, "peer {peer} was added to the configuration"),
            Self::PeerRemoved { peer } => write!(f, "peer {peer} was removed from the configuration"),
            Self::RouteAdded { peer, local, remote, network } => {
                write!(f, "new route to {peer}: {local} -> {remote} on {network}")
            }
            Self::RouteRemoved { peer, local, remote, reason } => {
                write!(f, "route to {peer} removed: {local} -> {remote}: {reason}")
            }
            Self::NetworkChanged { network, old, new } => match (old, new) {
                (None, Some(new)) => write!(f, "new network {network}: {new}"),
                (Some(old), Some(new)) => write!(f, "network {network} changed from {old} to {new}"),
                (_, None) => write!(f, "network {network} is gone: no node has an interface in it"),
            },
            Self::DuplicateNodeId { id, peer, from } => write!(
                f,
                "another machine at {from} uses id {id}, which belongs to the reachable peer {peer}; it is ignored: \
                 give it an id of its own in its node.id"
            ),
            Self::OwnIdTaken { id, name, from } => write!(
                f,
                "node {name} at {from} uses this node's own id {id}; it is ignored: give one of the two another node.id"
            ),
            Self::UnknownNode { name, id, from } => write!(
                f,
                "node {name} (id {id}) at {from} knows the cluster secret but is not configured here; it is ignored: \
                 add [peer.{name}] to the configuration if it belongs to the cluster"
            ),
            Self::IdentityMismatch { peer, expected, name, id, from } => {
                write!(f, "the node at {from} calls itself {name} (id {id}), but peer {peer} is ")?;
                match expected {
                    Some(expected) => write!(f, "{peer} (id {expected})")?,
                    None => write!(f, "configured by that name")?,
                }
                write!(f, "; it is ignored: make names and ids the same in both configurations")
            }
            Self::OtherCluster { from, cluster_id, own } => write!(
                f,
                "{from} belongs to cluster {cluster_id}, this node to cluster {own}; it is ignored: \
                 make cluster.id the same on both, or remove the address from the peers"
            ),
            Self::OtherVersion { peer, from, versions, own } => {
                let who = peer.as_deref().unwrap_or("a node");
                let behind = if versions.newest < own.oldest { who } else { "this node" };
                write!(
                    f,
                    "{who} at {from} speaks wire versions {versions}, this node {own}; it is ignored: upgrade netft on \
                     {behind}, through each release between, as a release speaks its own and the one before"
                )
            }
            Self::WrongSecret { from } => write!(
                f,
                "the hello from {from} is not authentic; it is ignored: \
                 make the file security.key_file the same on both nodes"
            ),
            Self::AdapterConflict { peer, what, who } => match who {
                AdapterYield::Here => {
                    write!(
                        f,
                        "peer {peer} has the same netft0 {what}: this node takes another identity (higher id)"
                    )
                }
                AdapterYield::There => {
                    write!(
                        f,
                        "peer {peer} has the same netft0 {what}: it must take another identity (higher id)"
                    )
                }
            },
            Self::AdapterChanged { old, new } => write!(f, "netft0 changes from {old} to {new}"),
            Self::AddressConflict { peer, address } => write!(
                f,
                "peer {peer} announces {address}, which is this node's own address; that endpoint is ignored: \
                 give one of the two another address, or exclude the network with role = 0"
            ),
            Self::LimitReached { subject, reason } => write!(f, "{subject}: {reason}"),
            Self::SecretOffered { by } => write!(
                f,
                "{by} has started to replace the cluster secret: both are accepted here now, and the old one is signed with"
            ),
            Self::SecretSwitched => {
                write!(
                    f,
                    "every node has the new cluster secret: this one signs with it now, and still accepts the old one"
                )
            }
            Self::SecretReplaced => {
                write!(f, "every node signs with the new cluster secret: the old one is refused from now on")
            }
            Self::RotationAborted => {
                write!(f, "the new cluster secret was given up where it came from: the old one stays")
            }
            Self::RotationContested { by, other } => write!(
                f,
                "{other} wants to replace the cluster secret while the replacement that {by} has started is under way; it is \
                 ignored: run `netft key rotate --abort` on one of the two"
            ),
            Self::RoutesAdopted { count } => {
                write!(f, "took over {count} routes from the previous daemon without interruption")
            }
        }
    }
}
