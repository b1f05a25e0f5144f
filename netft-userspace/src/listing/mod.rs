//! What `netft` shows, as JSON: a contract (`docs/json.md`). The daemon makes these, the command line prints them.
//!
//! Every document has a `version`, which grows only when a field changes its meaning or goes away; new fields may
//! come at any time. Units are in the names.

mod status;
#[cfg(test)]
mod tests;
mod time;

pub use status::{
    AdapterStatus, Cluster, Counters, Daemon, Data, Engine, InterfaceStatus, KeyRotation, RefusedWire, Rtt,
    RttBucket, Status, Tally, ThisNode, Wire,
};
pub use time::{Clock, format_time, parse_time, unix_now_ns};

use crate::config::Change;
use crate::engine::PathReport;
use crate::ownership::VipState;
use netft_core::membership::{self, Role};
use netft_core::ownership::Why;
use netft_core::types::{Level, LinkState, Nanos, NodeState, RouteClass, RouteReason, RouteState};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Version of every document here.
pub const VERSION: u32 = 1;

/// The reply to a request: its document, with the version in front.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Versioned<T> {
    /// [`VERSION`].
    pub version: u32,
    /// The document.
    #[serde(flatten)]
    pub document: T,
}

impl<T> Versioned<T> {
    /// `document` as this build writes it.
    pub fn new(document: T) -> Self {
        Self { version: VERSION, document }
    }
}

/// `netft nodes`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Nodes {
    /// This node first, then every configured peer by name.
    pub nodes: Vec<Node>,
}

/// A machine in the cluster.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Node {
    /// Name.
    pub name: String,
    /// Id; `None` until configured or learned.
    pub id: Option<u16>,
    /// Site.
    pub site: Option<String>,
    /// State, as seen from here.
    pub state: NodeState,
    /// Whether it is the node that answers.
    pub local: bool,
    /// Its `netft0`; `None` until it introduced itself.
    pub adapter: Option<Adapter>,
    /// When its state last changed; `None` = not since the daemon started.
    pub last_change: Option<String>,
    /// Time since anything of its host arrived over any route, in microseconds: the kernel answers without the engine.
    /// `None` for this node, and if nothing ever has.
    pub silence_us: Option<f64>,
    /// Age of its engine's newest tick, in microseconds; `None` for this node, and if none was ever seen.
    pub tick_age_us: Option<f64>,
    /// The keys that it shares with this node now; `None` for this node, and as long as there are none.
    pub session: Option<Session>,
    /// What it announced, or the own ones.
    pub endpoints: Vec<Endpoint>,
}

/// The keys that two nodes share now.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Session {
    /// Their name on the wire, eight hexadecimal digits.
    pub epoch: String,
    /// The wire version that they are for: the newest that both nodes speak.
    pub wire_version: u8,
    /// Since when they are in use.
    pub since: String,
    /// How this node protects cluster traffic to the other.
    pub sends: Level,
    /// How the other does.
    pub receives: Level,
    /// How often keys were replaced since both nodes met.
    pub renewals: u64,
}

/// A `netft0`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Adapter {
    /// Hardware address.
    pub mac: String,
    /// In 169.254.0.0/16.
    pub ipv4: Ipv4Addr,
    /// In fe80::/64.
    pub ipv6: Ipv6Addr,
    /// Bytes.
    pub mtu: u16,
}

impl From<membership::Adapter> for Adapter {
    fn from(adapter: membership::Adapter) -> Self {
        let mac = netft_core::adapter::format_mac(adapter.mac);
        Self { mac, ipv4: adapter.ipv4, ipv6: adapter.ipv6, mtu: adapter.mtu }
    }
}

/// One address on one interface of a node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Endpoint {
    /// Interface name on its node.
    pub interface: String,
    /// Address with prefix length.
    pub address: String,
    /// Hardware address.
    pub mac: String,
    /// Link of the interface: `up`, `no-carrier`, `admin-down`.
    pub link: LinkState,
    /// Bytes.
    pub mtu: u32,
    /// Mbit/s; `None` = unknown.
    pub speed_mbps: Option<u32>,
}

/// `netft networks`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Networks {
    /// By number.
    pub networks: Vec<Network>,
}

/// The interfaces of all nodes that share a subnet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Network {
    /// Name.
    pub name: String,
    /// The IPv4 subnet if there is one, else the first.
    pub subnet: Option<String>,
    /// All subnets, IPv4 first.
    pub subnets: Vec<String>,
    /// 0 none, 1 cluster only, 3 cluster and client.
    pub role: Role,
    /// Lower wins.
    pub metric: u32,
    /// State, as seen from here.
    pub state: NetworkState,
    /// Interfaces of this node in it.
    pub interfaces: Vec<String>,
    /// Which way cluster traffic takes on them.
    pub paths: Vec<PathReport>,
    /// Routes over it that are up.
    pub routes_up: usize,
    /// Routes over it.
    pub routes: usize,
}

/// State of a network as seen from one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NetworkState {
    /// Every route over it is up (or there is none to be).
    Up,
    /// Some routes over it are up.
    Partial,
    /// No route over it is up, or its link is gone.
    Down,
}

/// `netft routes`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Routes {
    /// By peer, network and addresses.
    pub routes: Vec<Route>,
}

/// One pair of endpoints.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Route {
    /// The peer's name.
    pub peer: String,
    /// The network's name.
    pub network: String,
    /// Own address.
    pub local: IpAddr,
    /// The peer's address.
    pub remote: IpAddr,
    /// State.
    pub state: RouteState,
    /// Whether it carries cluster traffic to the peer now.
    pub active: bool,
    /// Smoothed round trip in microseconds; `None` = none yet.
    pub rtt_us: Option<f64>,
    /// Bytes; `None` = unknown.
    pub mtu: Option<u32>,
    /// Heartbeats missed in a row now.
    pub misses: u32,
    /// When the state last changed; `None` = never.
    pub last_change: Option<String>,
    /// Why the state is what it is.
    pub reason: RouteReason,
    /// Same subnet, cross subnet, cross site.
    pub class: RouteClass,
    /// Metric of its network.
    pub metric: u32,
    /// Interval between heartbeats in microseconds.
    pub delay_us: f64,
    /// How many may be missed in a row.
    pub threshold: u32,
    /// Heartbeats sent.
    pub sent: u64,
    /// Heartbeats completed.
    pub completed: u64,
    /// Time since anything arrived on it, in microseconds; `None` = nothing has.
    pub silence_us: Option<f64>,
    /// How often it went down lately, older downs counting less.
    pub flaps: f64,
    /// How long its heartbeats must still complete before it comes up, in milliseconds, as it went down too often;
    /// `None` = it isn't damped.
    pub damped_left_ms: Option<f64>,
    /// Index of the route on this node; `None` until the peer introduced itself.
    pub slot: Option<u16>,
    /// Newest last; only if asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub history: Option<Vec<HistoryRecord>>,
}

/// One change of a route's state.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HistoryRecord {
    /// When.
    pub time: String,
    /// The same by CLOCK_BOOTTIME of this node.
    pub boottime_ns: Nanos,
    /// From.
    pub old: RouteState,
    /// To.
    pub new: RouteState,
    /// Why.
    pub reason: RouteReason,
    /// Heartbeats sent until then.
    pub sent: u64,
    /// Heartbeats completed until then.
    pub completed: u64,
    /// Missed in a row.
    pub misses: u32,
    /// Allowed.
    pub threshold: u32,
    /// Time since the newest heartbeat that completed was sent, in microseconds; `None` = none has.
    pub evidence_age_us: Option<f64>,
    /// Time since anything arrived, in microseconds; `None` = nothing has.
    pub silence_us: Option<f64>,
}

/// `netft vips`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Vips {
    /// By name: those of the cluster, and those that are only configured here.
    pub vips: Vec<Vip>,
    /// Name of the node that leads; `None` = none that is known here.
    pub leader: Option<String>,
    /// Why nothing is decided, or this node takes no part; one sentence.
    pub trouble: Option<String>,
    /// Where this node's configuration and the cluster don't agree, a sentence each.
    pub differences: Vec<String>,
}

/// A virtual IP address.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Vip {
    /// Its name.
    pub name: String,
    /// With prefix length.
    pub addresses: Vec<String>,
    /// Name of its owner, as this node knows; `None` = nobody owns it.
    pub owner: Option<String>,
    /// Whether the node that answers owns it.
    pub local: bool,
    /// Grows with every assignment.
    pub epoch: u64,
    /// How it stands.
    pub state: VipState,
    /// Since when it has this owner; `None` = since before netftd was started here.
    pub since: Option<String>,
    /// Why it has this owner.
    pub why: Option<Why>,
}

/// What was done.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Changed {
    /// One sentence.
    pub done: String,
}

/// `netft events`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Events {
    /// Oldest first.
    pub events: Vec<Event>,
}

/// Something that changed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Counts the daemon's events from 1: a gap means that some are forgotten.
    pub sequence: u64,
    /// When, RFC 3339 in UTC with microseconds.
    pub time: String,
    /// The same by CLOCK_BOOTTIME of this node.
    pub boottime_ns: Nanos,
    /// What sort of thing; a stable word.
    pub kind: String,
    /// What it is about.
    pub subject: String,
    /// State before, if it has one.
    pub old: Option<String>,
    /// State now, if it has one.
    pub new: Option<String>,
    /// Why: a word for states, a sentence else.
    pub reason: String,
    /// Numbers that show it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub evidence: BTreeMap<String, f64>,
}

/// `netft config show`: what is in effect.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ConfigShow {
    /// The file.
    pub file: String,
    /// Dotted key to value; `null` = not set.
    pub config: BTreeMap<String, serde_json::Value>,
}

/// `netft reload`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reload {
    /// The file.
    pub file: String,
    /// Whether the changes were made, or only listed.
    pub applied: bool,
    /// What differs.
    pub changes: Vec<Change>,
}

/// `netft key rotate`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyRotate {
    /// The file of the secret.
    pub file: String,
    /// Names the secret that is wanted.
    pub secret: String,
    /// What is under way; `None` after it was aborted, and when it is over.
    pub rotation: Option<KeyRotation>,
}

/// A refusal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Failure {
    /// One sentence or several, one a line.
    pub error: String,
}

/// Microseconds with three digits: more would be noise.
pub fn us(ns: Nanos) -> f64 {
    #[expect(
        clippy::cast_precision_loss,
        reason = "2^53 ns are 104 days, beyond that a microsecond doesn't matter"
    )]
    let ns = ns as f64;
    ns / 1000.0
}
