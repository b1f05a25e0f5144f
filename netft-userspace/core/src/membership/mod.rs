//! Peers, endpoints, networks and routes: what hellos and the kernel's interface list make of the configuration.
//! Runs on the control thread.

mod absence;
mod accept;
mod adapters;
mod adopted;
mod error;
mod event;
mod handshake;
mod listing;
mod local;
mod machine;
mod notices;
mod pairs;
mod peer;
mod reconcile;
mod rotation;
mod slots;
mod speaker;
mod versions;
mod view;

#[cfg(test)]
mod tests;

pub use error::{HelloReject, ReconfigureError};
pub use event::{AdapterYield, MembershipEvent};
pub use machine::Membership;
pub use peer::KeyFile;
pub use rotation::{Keep, Next, NotKept, Phase, RotationRefused, RotationView};
pub use versions::OtherVersions;
pub use view::{EndpointView, KeysView, NetworkView, PeerView, RouteInfo};

use crate::session::LiveKeys;
use crate::types::{InterfaceNumber, Level, LinkState, Nanos, NodeId, RouteClass, Slot, Timing};
use netft_common::map::SlotConfig;
use netft_common::wire::Versions;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// A local interface, as the shell read it from netlink.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its stable number.
    pub number: InterfaceNumber,
    /// Kernel index.
    pub ifindex: u32,
    /// Name.
    pub name: String,
    /// Hardware address.
    pub mac: [u8; 6],
    /// MTU in bytes.
    pub mtu: u32,
    /// Mbit/s, 0 = unknown.
    pub speed_mbps: u32,
    /// Link state.
    pub link: LinkState,
    /// Whether a default route leaves by it.
    pub default_route: bool,
    /// More than one receive queue.
    pub rss: bool,
    /// RDMA capable.
    pub rdma: bool,
    /// Addresses with prefix lengths; no link-local ones.
    pub addresses: Vec<(IpAddr, u8)>,
}

/// Network role, as in NetFT.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub enum Role {
    /// 0: not used.
    None,
    /// 1: cluster only.
    Cluster,
    /// 3: cluster and client.
    ClusterAndClient,
}

impl TryFrom<u8> for Role {
    type Error = String;
    fn try_from(role: u8) -> Result<Self, String> {
        match role {
            0 => Ok(Self::None),
            1 => Ok(Self::Cluster),
            3 => Ok(Self::ClusterAndClient),
            _ => Err(format!(
                "role {role} does not exist: use 0 (none), 1 (cluster) or 3 (cluster and client)"
            )),
        }
    }
}

impl From<Role> for u8 {
    fn from(role: Role) -> u8 {
        match role {
            Role::None => 0,
            Role::Cluster => 1,
            Role::ClusterAndClient => 3,
        }
    }
}

/// A configured peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerConfig {
    /// Its name: the key in the configuration.
    pub name: String,
    /// Its id, if configured; learned from its hello otherwise.
    pub id: Option<NodeId>,
    /// Its site, if configured.
    pub site: Option<String>,
    /// Where to say hello.
    pub addresses: Vec<IpAddr>,
}

/// An administrator's word about a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkOverride {
    /// The name the network gets.
    pub name: String,
    /// Subnets ("10.77.1.0/24") or interface-name globs ("eth*") that select it.
    pub matches: Vec<String>,
    /// Role, if set by hand.
    pub role: Option<Role>,
    /// Metric, if set by hand.
    pub metric: Option<u32>,
}

/// This node's `netft0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Adapter {
    /// Hardware address.
    pub mac: [u8; 6],
    /// In 169.254.0.0/16.
    pub ipv4: std::net::Ipv4Addr,
    /// In fe80::/64.
    pub ipv6: std::net::Ipv6Addr,
    /// Bytes.
    pub mtu: u16,
}

impl std::fmt::Display for Adapter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} {} MTU {}", crate::adapter::format_mac(self.mac), self.ipv4, self.ipv6, self.mtu)
    }
}

/// What the configuration file says of membership.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MembershipConfig {
    /// The cluster.
    pub cluster_id: u32,
    /// Own id.
    pub id: NodeId,
    /// Own name.
    pub name: String,
    /// Own site.
    pub site: Option<String>,
    /// Peers by name.
    pub peers: BTreeMap<String, PeerConfig>,
    /// Networks in order of the file.
    pub networks: Vec<NetworkOverride>,
    /// Pace and patience per class.
    pub same_subnet: Timing,
    /// See `same_subnet`.
    pub cross_subnet: Timing,
    /// See `same_subnet`.
    pub cross_site: Timing,
    /// How long the keys of a session are used, in nanoseconds.
    pub key_period_ns: Nanos,
    /// The level at which this node sends data.
    pub level: Level,
    /// How long a peer whose host answers while its engine doesn't tick keeps its routes, in nanoseconds.
    pub absence_ns: Nanos,
    /// The wire versions that this node speaks: [`Versions::OURS`], but for tests.
    pub versions: Versions,
}

/// A hello or a step of a handshake to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HelloTransmit {
    /// From this address (and by its interface).
    pub local: IpAddr,
    /// To this address, port 3343.
    pub remote: IpAddr,
    /// The UDP payload, tag and all.
    pub payload: Vec<u8>,
}

/// What the shell must do about routes and peers. Idempotent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MembershipCommand {
    /// Put this route into the maps and let the detector watch it.
    SetRoute(Box<RouteInstall>),
    /// Take it out.
    RemoveRoute(Slot),
    /// The keys of cluster traffic with a peer, all that are good now.
    SetSession(NodeId, Box<LiveKeys>),
    /// None are good any more.
    RemoveSession(NodeId),
    /// A peer's `netft0` is here: neighbour entries and the frame table follow.
    SetPeerAdapter(NodeId, Adapter),
    /// It is gone.
    RemovePeerAdapter(NodeId),
    /// This node's own `netft0` must have this identity and MTU.
    SetOwnAdapter(Adapter),
    /// Write this so that it is found again after any crash, then say so ([`Membership::secret_kept`]).
    KeepSecret(Keep),
}

/// A route to install.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteInstall {
    /// Its slot here.
    pub slot: Slot,
    /// What XDP needs; `generation` is right, and keys are in it as soon as there is a session.
    pub config: SlotConfig,
    /// Same subnet, cross subnet, cross site.
    pub class: RouteClass,
    /// Pace and patience.
    pub timing: Timing,
    /// The remote endpoint's hardware address, if both are on one subnet and the peer has said it.
    pub remote_mac: Option<[u8; 6]>,
    /// Name of its network.
    pub network: String,
    /// Metric of its network.
    pub metric: u32,
    /// The smaller of both interface MTUs.
    pub mtu: u32,
}
