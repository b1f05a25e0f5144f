//! What this node holds of one peer: endpoints, session, routes, and how often it may be spoken to.

use super::{Adapter, EndpointView, Interface, PeerConfig, RouteInstall};
use crate::bucket::Bucket;
use crate::keys::{Keyring, Life, SecretId};
use crate::networks::{Attachment, Subnet};
use crate::session::{Exchange, LiveKeys};
use crate::types::{
    LinkState, Nanos, NodeId, RouteClass, RouteState, Slot, address_bytes, address_from_bytes,
};
use netft_common::hello::{field, link_flags, text};
use netft_common::map::SlotConfig;
use netft_common::wire::{HelloEndpoint, NO_SLOT, Versions, endpoint_flags};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// An endpoint of this node or of a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Number of its interface on its node.
    pub interface: u16,
    /// Interface name.
    pub name: String,
    /// Hardware address.
    pub mac: [u8; 6],
    /// Address.
    pub address: IpAddr,
    /// Prefix length.
    pub prefix_len: u8,
    /// Interface MTU.
    pub mtu: u32,
    /// Mbit/s, 0 = unknown.
    pub speed_mbps: u32,
    /// Link.
    pub link: LinkState,
    /// A default route leaves by it.
    pub default_route: bool,
    /// RDMA capable.
    pub rdma: bool,
    /// More than one receive queue.
    pub rss: bool,
}

impl Endpoint {
    /// The addresses of a local interface that netft can use.
    pub fn of_interface(interface: &Interface) -> impl Iterator<Item = Self> + '_ {
        interface.addresses.iter().filter(|(address, _)| usable(*address)).map(|&(address, prefix_len)| {
            Self {
                interface: u16::from(interface.number.get()),
                name: interface.name.clone(),
                mac: interface.mac,
                address,
                prefix_len,
                mtu: interface.mtu,
                speed_mbps: interface.speed_mbps,
                link: interface.link,
                default_route: interface.default_route,
                rdma: interface.rdma,
                rss: interface.rss,
            }
        })
    }

    /// From a hello; `None` if the address can't be an endpoint.
    pub fn from_wire(wire: &HelloEndpoint) -> Option<Self> {
        let address = address_from_bytes(wire.address);
        let link = match link_flags(wire) {
            (true, true) => LinkState::Up,
            (false, true) => LinkState::NoCarrier,
            (_, false) => LinkState::AdminDown,
        };
        let flag = |bit| wire.flags & bit != 0;
        usable(address).then(|| Self {
            interface: wire.interface,
            name: text(&wire.name).unwrap_or_default().to_owned(),
            mac: wire.mac,
            address,
            prefix_len: wire.prefix_len,
            mtu: u32::from(wire.mtu),
            speed_mbps: wire.speed_mbps,
            link,
            default_route: flag(endpoint_flags::DEFAULT_ROUTE),
            rdma: flag(endpoint_flags::RDMA),
            rss: flag(endpoint_flags::RSS),
        })
    }

    /// For a hello.
    pub fn to_wire(&self) -> HelloEndpoint {
        let flag = |on: bool, bit| if on { bit } else { 0 };
        HelloEndpoint {
            address: address_bytes(self.address),
            prefix_len: self.prefix_len,
            flags: flag(self.link == LinkState::Up, endpoint_flags::CARRIER)
                | flag(self.link != LinkState::AdminDown, endpoint_flags::ADMIN_UP)
                | flag(self.default_route, endpoint_flags::DEFAULT_ROUTE)
                | flag(self.rdma, endpoint_flags::RDMA)
                | flag(self.rss, endpoint_flags::RSS),
            interface: self.interface,
            mac: self.mac,
            mtu: u16::try_from(self.mtu).unwrap_or(u16::MAX),
            speed_mbps: self.speed_mbps,
            name: field(&self.name),
        }
    }

    /// Its subnet.
    pub fn subnet(&self) -> Subnet {
        Subnet::of(self.address, self.prefix_len)
    }

    /// As the grouping into networks takes it.
    pub fn attachment(&self, node: NodeId) -> Attachment {
        Attachment {
            node,
            interface: u32::from(self.interface),
            name: self.name.clone(),
            subnet: self.subnet(),
            speed_mbps: self.speed_mbps,
            default_route: self.default_route,
            rdma: self.rdma,
            rss: self.rss,
            link: self.link,
        }
    }

    /// For listings.
    pub fn view(&self) -> EndpointView {
        EndpointView {
            interface: self.name.clone(),
            mac: self.mac,
            address: self.address,
            prefix_len: self.prefix_len,
            link: self.link,
            mtu: self.mtu,
            speed_mbps: self.speed_mbps,
        }
    }
}

/// Whether an address can be an endpoint: unicast, and meaningful beyond its own link and host.
fn usable(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            !(v4.is_unspecified()
                || v4.is_loopback()
                || v4.is_multicast()
                || v4.is_broadcast()
                || v4.is_link_local())
        }
        IpAddr::V6(v6) => {
            !(v6.is_unspecified() || v6.is_loopback() || v6.is_multicast() || v6.is_unicast_link_local())
        }
    }
}

/// What a hello says of its sender, apart from the handshake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announcement {
    /// Its site.
    pub site: Option<String>,
    /// Its `netft0`.
    pub adapter: Adapter,
    /// Its endpoints, in its order.
    pub endpoints: Vec<Endpoint>,
}

/// What a hello says of cluster secrets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told {
    /// What it is signed with.
    pub signs: SecretId,
    /// Proves another one, 0 = there is none. `None` = it can't say, in a version older than both speak.
    pub proof: Option<u64>,
    /// Whether its sender can write another one down.
    pub key_file: KeyFile,
    /// The hello's sequence.
    pub sequence: u64,
}

/// Whether a node can write another secret down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyFile {
    /// It can.
    Writable,
    /// It can't.
    Fixed,
}

/// What is shared with one life of a peer. It begins with a fresh hello; keys follow.
#[derive(Debug)]
pub struct Session {
    /// The peer's id and boot nonce.
    pub life: Life,
    /// Since when.
    pub since_ns: Nanos,
    /// Handshakes and keys.
    pub exchange: Exchange,
    /// The keys of data that the shell has.
    pub installed: LiveKeys,
    /// Where its newest hello came from.
    pub heard: RouteKey,
    /// The wire versions that it speaks.
    pub versions: Versions,
    /// Highest hello sequence accepted.
    pub newest_sequence: u64,
    /// Sequence of the newest fresh hello, and when it came.
    pub fresh: (u64, Nanos),
    /// The peer's newest challenge, which our hellos echo.
    pub echo: u64,
    /// It said goodbye.
    pub leaving: bool,
    /// What its newest hello said of cluster secrets.
    pub told: Told,
    /// Sequence of the newest offer of another secret.
    pub offer_sequence: u64,
    /// What it said of itself.
    pub said: Announcement,
}

impl Session {
    /// Whether the peer has that secret, and finds it again after a restart. Nobody can say so for it who hasn't.
    pub fn has(&self, ring: &Keyring) -> bool {
        let told = &self.told;
        let proven = |proof| ring.proven(&self.life, told.sequence, proof);
        told.signs == ring.id() || told.proof.is_some_and(proven)
    }

    /// Whether the peer has said that it doesn't have that secret. It may have said neither.
    pub fn lacks(&self, ring: &Keyring) -> bool {
        self.told.proof.is_some() && !self.has(ring)
    }

    /// When a handshake or the keys need attention. Who says goodbye needs no new keys.
    pub fn timeout_ns(&self) -> Nanos {
        if self.leaving { Nanos::MAX } else { self.exchange.timeout_ns() }
    }
}

/// Own and peer's address: what a route is, whatever slot it has. Also its place in listings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RouteKey {
    /// Own endpoint.
    pub local: IpAddr,
    /// The peer's.
    pub remote: IpAddr,
}

/// A route of a session, or one that an earlier daemon left.
#[derive(Clone, Debug)]
pub struct Route {
    /// Its slot here.
    pub slot: Slot,
    /// What XDP knows of it.
    pub config: SlotConfig,
    /// The peer's interface, with the own one (`config.interface`) the reason why there is this route.
    pub remote_interface: u16,
    /// Class.
    pub class: RouteClass,
    /// The remote endpoint's hardware address, on the same subnet.
    pub remote_mac: Option<[u8; 6]>,
    /// Name of its network.
    pub network: String,
    /// Metric of its network.
    pub metric: u32,
    /// Smaller of both interface MTUs.
    pub mtu: u32,
    /// What the detector last said.
    pub state: RouteState,
    /// Sequence of the newest hello that told the peer's slot.
    pub slot_sequence: u64,
    /// When the next hello goes out on it.
    pub next_hello_ns: Nanos,
    /// The interval that follows.
    pub interval_ns: Nanos,
    /// Another pair took its place; it goes when that one is up, or at this time.
    pub retire_at_ns: Option<Nanos>,
    /// What the shell was told last.
    pub installed: Option<RouteInstall>,
}

/// First and longest interval between hellos on a route whose slot at the peer isn't known yet.
const ROUTE_FIRST_NS: Nanos = 50_000_000;
/// Slow refresh, and the longest interval to peers that don't answer.
pub const REFRESH_NS: Nanos = 1_000_000_000;
/// Interval of hellos to configured addresses at first.
pub const GREETING_NS: Nanos = 250_000_000;
/// How many go out at that pace.
const GREETINGS: u32 = 40;

/// How often hellos are repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// To refresh what is known.
    Calm,
    /// The peer must hear something that it may not have heard yet.
    Hurried,
}

impl Route {
    /// Start of the short intervals: something on it has to be told or learned.
    pub fn hurry(&mut self, now: Nanos) {
        self.next_hello_ns = now;
        self.interval_ns = ROUTE_FIRST_NS;
    }

    /// A hello went out.
    pub fn hello_sent(&mut self, now: Nanos, pace: Pace) {
        let hurries = self.config.remote_slot == NO_SLOT || pace == Pace::Hurried;
        let interval = if hurries { self.interval_ns } else { REFRESH_NS };
        self.next_hello_ns = now.saturating_add(interval);
        self.interval_ns = self.interval_ns.saturating_mul(2).min(REFRESH_NS);
    }
}

/// Answers to hellos: 16 at once, then 40 a second.
const fn answers(now: Nanos) -> Bucket {
    Bucket::new(now, 16, 25_000_000)
}

/// One configured peer.
#[derive(Debug)]
pub struct Peer {
    /// As configured.
    pub config: PeerConfig,
    /// What a fresh hello must echo.
    pub challenge: u64,
    /// Since its first good hello.
    pub session: Option<Session>,
    /// The wire versions that the newest hello outside a session said: what it is answered in.
    pub versions: Option<Versions>,
    /// Since when its host has answered without its engine; `None` = its engine ticks, or nothing is known.
    pub away_since_ns: Option<Nanos>,
    /// Another life that claims to be this peer while this one is reachable, and since when.
    pub suspect: Option<(Life, Nanos)>,
    /// By addresses.
    pub routes: BTreeMap<RouteKey, Route>,
    /// Limits answers to what may be replays.
    pub answers: Bucket,
    /// Limits answers to what is none: replays can't starve the handshake.
    pub replies: Bucket,
    /// When configured addresses are greeted next.
    pub greet_at_ns: Nanos,
    /// How often they were.
    pub greetings: u32,
    /// The adapter that the shell has.
    pub installed_adapter: Option<(NodeId, Adapter)>,
}

impl Peer {
    /// Unknown yet.
    pub fn new(now: Nanos, config: PeerConfig, challenge: u64) -> Self {
        Self {
            config,
            challenge,
            session: None,
            versions: None,
            away_since_ns: None,
            suspect: None,
            routes: BTreeMap::new(),
            answers: answers(now),
            replies: answers(now),
            greet_at_ns: now,
            greetings: 0,
            installed_adapter: None,
        }
    }

    /// Its id, configured or learned.
    pub fn id(&self) -> Option<NodeId> {
        self.session.as_ref().map(|session| session.life.id).or(self.config.id)
    }

    /// Its site: what it says counts more than what is configured.
    pub fn site(&self) -> Option<&str> {
        let said = self.session.as_ref().and_then(|session| session.said.site.as_deref());
        said.or(self.config.site.as_deref())
    }

    /// How often hellos to it are repeated.
    pub fn pace(&self) -> Pace {
        let telling = self.session.as_ref().is_some_and(|session| session.exchange.is_telling());
        if telling { Pace::Hurried } else { Pace::Calm }
    }

    /// Every way to it: its routes, and where it was heard.
    pub fn ways(&self) -> BTreeSet<RouteKey> {
        self.routes.keys().copied().chain(self.session.as_ref().map(|session| session.heard)).collect()
    }

    /// Whether a route to it is up.
    pub fn reachable(&self) -> bool {
        self.routes.values().any(|route| route.state == RouteState::Up)
    }

    /// When the next hello to it is due.
    pub fn timeout_ns(&self) -> Nanos {
        let routes = self
            .routes
            .values()
            .map(|route| route.next_hello_ns.min(route.retire_at_ns.unwrap_or(Nanos::MAX)));
        let greeting = if self.reachable() { Nanos::MAX } else { self.greet_at_ns };
        let keys = self.session.as_ref().map_or(Nanos::MAX, Session::timeout_ns);
        routes.min().unwrap_or(Nanos::MAX).min(greeting).min(keys)
    }

    /// Configured addresses were greeted.
    pub fn greeted(&mut self, now: Nanos) {
        self.greetings = self.greetings.saturating_add(1);
        let often = self.session.is_none() && self.greetings < GREETINGS;
        self.greet_at_ns = now.saturating_add(if often { GREETING_NS } else { REFRESH_NS });
    }
}
