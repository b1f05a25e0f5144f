//! The words that every module shares (`docs/words.md`).

use netft_common::map::MAX_SLOTS;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::IpAddr;

/// Nanoseconds of CLOCK_BOOTTIME, or a span of them.
pub type Nanos = u64;

/// A node's id, 1..=255.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u16", into = "u16")]
pub struct NodeId(u16);

impl NodeId {
    /// Node 1.
    pub const LOWEST: Self = Self(1);

    /// `None` unless 1..=255.
    pub fn new(id: u16) -> Option<Self> {
        (1..=255).contains(&id).then_some(Self(id))
    }

    /// The number.
    pub fn get(self) -> u16 {
        self.0
    }
}

impl TryFrom<u16> for NodeId {
    type Error = String;
    fn try_from(id: u16) -> Result<Self, String> {
        Self::new(id).ok_or_else(|| format!("node id {id} is out of range: use 1 to 255"))
    }
}

impl From<NodeId> for u16 {
    fn from(id: NodeId) -> u16 {
        id.0
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Index of a route on this node, below [`MAX_SLOTS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Slot(u16);

impl Slot {
    /// `None` unless below [`MAX_SLOTS`].
    pub fn new(index: u32) -> Option<Self> {
        (index < MAX_SLOTS).then(|| u16::try_from(index).ok().map(Self)).flatten()
    }

    /// As an array index.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }

    /// As it stands in the active-route word.
    pub fn get(self) -> u16 {
        self.0
    }
}

/// Number of an interface on its own node, 0..64: its bit in the dead-interfaces word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct InterfaceNumber(u8);

impl InterfaceNumber {
    /// Interfaces one node can use.
    pub const LIMIT: u8 = 64;

    /// `None` unless below [`Self::LIMIT`].
    pub fn new(number: u8) -> Option<Self> {
        (number < Self::LIMIT).then_some(Self(number))
    }

    /// The number.
    pub fn get(self) -> u8 {
        self.0
    }
}

/// What the kernel says of an interface's link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LinkState {
    /// Administratively up, with carrier.
    Up,
    /// Administratively up, no carrier.
    NoCarrier,
    /// Taken down by an administrator, or gone.
    AdminDown,
}

/// State of a route, as listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RouteState {
    /// Heartbeats complete.
    Up,
    /// They don't.
    Down,
    /// An administrator took one of its interfaces down.
    AdminDown,
}

/// Why a route changed its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RouteReason {
    /// Known, but no heartbeat has completed yet.
    Starting,
    /// Enough heartbeats in a row completed.
    HeartbeatsComplete,
    /// Too many heartbeats in a row were missed; nothing arrives from the peer.
    HeartbeatsMissed,
    /// Missed; the peer's legs arrive, ours don't get there.
    RxOnly,
    /// Missed; our legs get there (the peer answers on another route that they do), nothing comes back.
    TxOnly,
    /// The local interface lost its carrier.
    CarrierLost,
    /// The local interface was taken down.
    AdminDown,
    /// The peer said that its interface lost the carrier.
    PeerCarrierLost,
    /// The peer said that its interface was taken down.
    PeerAdminDown,
    /// The peer said goodbye.
    PeerLeft,
    /// The daemon restarted and took the route over as it was.
    Adopted,
    /// The route no longer exists (an endpoint vanished).
    Removed,
    /// Heartbeats complete again, but it went down too often lately and must prove itself for longer.
    Damped,
}

/// Which thresholds apply to a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RouteClass {
    /// Both endpoints in one subnet.
    SameSubnet,
    /// A router between, same site.
    CrossSubnet,
    /// Different sites.
    CrossSite,
}

/// How cluster traffic is protected. Heartbeats, hellos and handshakes always are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// Only headers are authenticated: who is on the path can read and change what is in a frame.
    Clear,
    /// Nobody can change a frame.
    #[default]
    Signed,
    /// Nobody can read one either.
    Encrypted,
}

impl Level {
    /// As a handshake says it.
    pub fn to_wire(self) -> u8 {
        match self {
            Self::Clear => 0,
            Self::Signed => 1,
            Self::Encrypted => 2,
        }
    }

    /// `None` for one that doesn't exist.
    pub fn from_wire(level: u8) -> Option<Self> {
        [Self::Clear, Self::Signed, Self::Encrypted].into_iter().find(|known| known.to_wire() == level)
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Clear => "clear",
            Self::Signed => "signed",
            Self::Encrypted => "encrypted",
        })
    }
}

/// Pace and patience of heartbeats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timing {
    /// Interval between heartbeats in nanoseconds, 50 µs to 10 s.
    pub delay_ns: Nanos,
    /// How many in a row may be missed, 2 to 1000.
    pub threshold: u32,
}

impl Timing {
    /// Detection time: delay × threshold.
    pub fn detection_ns(self) -> Nanos {
        self.delay_ns.saturating_mul(u64::from(self.threshold))
    }
}

/// What a peer looks like from here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NodeState {
    /// A route is up and the peer's engine ticks.
    Up,
    /// Its host answers, its engine doesn't tick.
    EngineStalled,
    /// It said goodbye.
    Leaving,
    /// No route is up.
    Down,
}

/// An address as 16 bytes, IPv4 as `::ffff:a.b.c.d`: the form on the wire and in maps.
pub fn address_bytes(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// The inverse of [`address_bytes`].
pub fn address_from_bytes(bytes: [u8; 16]) -> IpAddr {
    IpAddr::from(bytes).to_canonical()
}
