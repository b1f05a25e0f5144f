//! What listings show: copies, made when asked for.

use super::{Adapter, Role};
use crate::keys::Directions;
use crate::types::{Level, LinkState, Nanos, NodeId, RouteClass, RouteState, Slot};
use std::net::IpAddr;

/// A configured peer, from the start, whether or not it ever spoke.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerView {
    /// Its name.
    pub name: String,
    /// Its id, configured or learned.
    pub id: Option<NodeId>,
    /// Its site, from its hello or else from the configuration.
    pub site: Option<String>,
    /// When it introduced itself, boottime; `None` = it hasn't.
    pub session_since_ns: Option<Nanos>,
    /// The keys in use; `None` = there are none yet.
    pub keys: Option<KeysView>,
    /// Whether it said goodbye.
    pub leaving: bool,
    /// Its `netft0`.
    pub adapter: Option<Adapter>,
    /// What it announced.
    pub endpoints: Vec<EndpointView>,
}

/// The keys that a session uses now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeysView {
    /// Their epoch.
    pub epoch: u32,
    /// The wire version that they are for.
    pub version: u8,
    /// Since when, boottime.
    pub since_ns: Nanos,
    /// The level at which data is sent and received with them.
    pub level: Directions<Level>,
    /// How often they were replaced since the session began.
    pub renewals: u64,
}

/// An endpoint of a peer or of this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointView {
    /// Interface name on its node.
    pub interface: String,
    /// Hardware address.
    pub mac: [u8; 6],
    /// Address.
    pub address: IpAddr,
    /// Prefix length.
    pub prefix_len: u8,
    /// Link state as announced.
    pub link: LinkState,
    /// Interface MTU.
    pub mtu: u32,
    /// Mbit/s, 0 = unknown.
    pub speed_mbps: u32,
}

/// A network: what the interfaces of all nodes have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkView {
    /// 1, 2, … in order of the subnets.
    pub number: u32,
    /// Name.
    pub name: String,
    /// Its subnets, IPv4 first, as "10.77.1.0/24".
    pub subnets: Vec<String>,
    /// Role.
    pub role: Role,
    /// Metric; lower wins.
    pub metric: u32,
    /// Interfaces of this node in it.
    pub interfaces: Vec<String>,
    /// Link of the best of them; `None` if this node has none in it.
    pub link: Option<LinkState>,
}

/// A route as membership knows it; the detector's view has the measured part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteInfo {
    /// Its slot; `None` while the peer has not introduced itself (the pair is then a configured address and the
    /// local address that leads there).
    pub slot: Option<Slot>,
    /// The peer's name.
    pub peer: String,
    /// The peer's id, once known.
    pub id: Option<NodeId>,
    /// Name of its network.
    pub network: String,
    /// Own endpoint.
    pub local: IpAddr,
    /// The peer's endpoint.
    pub remote: IpAddr,
    /// Same subnet, cross subnet, cross site.
    pub class: RouteClass,
    /// Metric of its network.
    pub metric: u32,
    /// Smaller of both interface MTUs, 0 = unknown.
    pub mtu: u32,
    /// What the detector last reported.
    pub state: RouteState,
}
