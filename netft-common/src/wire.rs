//! What crosses the network: UDP port 3343 in both directions, little-endian fields (`docs/wire-format.md`).
//!
//! Every message starts with a [`Header`]. Heartbeat legs have one fixed size so that no reply is larger than
//! what it answers. The structures are `#[repr(C)]` without padding, and their sizes are asserted at compile time.

use bytemuck::{Pod, Zeroable};

/// The UDP port of every netft message, at both ends.
pub const PORT: u16 = 3343;
/// First four bytes of every message: `NTFT` read as a little-endian word.
pub const MAGIC: u32 = u32::from_le_bytes(*b"NTFT");
/// The newest wire version that this build speaks.
pub const VERSION: u8 = 2;
/// The oldest one: that of the release before.
pub const OLDEST_VERSION: u8 = 1;
/// The first version that knows of a second cluster secret: [`Hello::other_secret`], and step 3 of a [`Handshake`].
pub const SECRETS_VERSION: u8 = 2;

/// The wire versions that a node speaks. Two nodes use the newest that both do; each session's keys belong to one.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Versions {
    /// The first.
    pub oldest: u8,
    /// The last.
    pub newest: u8,
}

impl Versions {
    /// Those of this build.
    pub const OURS: Self = Self { oldest: OLDEST_VERSION, newest: VERSION };
    /// Whatever there may be: for those who look at messages that somebody else has judged.
    pub const ANY: Self = Self { oldest: 0, newest: u8::MAX };
    /// What makes the slot field of a hello nobody's slot.
    const NO_SLOT: u32 = 0xffff_0000;

    /// Whether `version` is among them.
    #[inline(always)]
    pub const fn has(self, version: u8) -> bool {
        self.oldest <= version && version <= self.newest
    }

    /// The newest that both speak.
    pub const fn common(self, other: Self) -> Option<u8> {
        let newest = if self.newest < other.newest { self.newest } else { other.newest };
        if self.has(newest) && other.has(newest) { Some(newest) } else { None }
    }

    /// As hellos carry them in [`Header::slot`], which they need for nothing else.
    pub const fn to_slot(self) -> u32 {
        Self::NO_SLOT | (self.newest as u32) << 8 | self.oldest as u32
    }

    /// The inverse; `None` if it isn't that.
    pub const fn from_slot(slot: u32) -> Option<Self> {
        let [oldest, newest, high, higher] = slot.to_le_bytes();
        if high == 0xff && higher == 0xff && oldest != 0 && oldest <= newest {
            Some(Self { oldest, newest })
        } else {
            None
        }
    }
}

impl core::fmt::Display for Versions {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let Self { oldest, newest } = self;
        if oldest == newest { write!(f, "{oldest}") } else { write!(f, "{oldest} to {newest}") }
    }
}

impl Default for Versions {
    fn default() -> Self {
        Self::OURS
    }
}
/// Traffic class of everything netft sends: DSCP CS6 (48), as the IPv4 TOS / IPv6 traffic class byte.
pub const TRAFFIC_CLASS: u8 = 48 << 2;

/// Message kinds, the `kind` byte of [`Header`].
pub mod kind {
    /// Leg 1 of a heartbeat: request, paced by the initiator's engine.
    pub const REQUEST: u8 = 1;
    /// Leg 2: reply, from the responder's XDP program.
    pub const REPLY: u8 = 2;
    /// Leg 3: confirmation, from the initiator's XDP program.
    pub const CONFIRMATION: u8 = 3;
    /// Leg 4: final reply, from the responder's XDP program. Nothing answers it.
    pub const FINAL_REPLY: u8 = 4;
    /// An introduction, handled in userspace only.
    pub const HELLO: u8 = 16;
    /// A step of the handshake that makes a session's keys, handled in userspace only.
    pub const HANDSHAKE: u8 = 17;
    /// One Ethernet frame of cluster traffic.
    pub const DATA: u8 = 32;
    /// A self-test of the way that data takes: a [`super::Data`] with 8 bytes in place of the frame.
    pub const PROBE: u8 = 40;
}

/// Header flag bits.
pub mod flags {
    /// The sender's engine is leaving: a clean stop is under way, what follows is no failure.
    pub const LEAVING: u16 = 1 << 0;
    /// In a hello: it carries no endpoints, only identity and challenge. It answers a hello that may be a replay
    /// and must not be answered with more bytes than it had.
    pub const CHALLENGE_ONLY: u16 = 1 << 1;
    /// In a hello: the sender lacks something (a session, or our slot of this route) and asks for a hello in return.
    /// In a probe: asks for a probe with the same 8 bytes in return.
    pub const SOLICIT: u16 = 1 << 2;
    /// In data: the frame is TCP or UDP, right behind IPv4 or IPv6, whole, and its checksum field has the sum of the
    /// pseudo-header alone.
    pub const PARTIAL_CHECKSUM: u16 = 1 << 3;
    /// In a hello: the sender wants new keys and isn't the one of the two that starts handshakes.
    pub const RENEW: u16 = 1 << 6;
    /// In a hello: the sender can't write another cluster secret down.
    pub const FIXED_SECRET: u16 = 1 << 7;
}

/// The first 32 bytes of every message.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Header {
    /// [`MAGIC`].
    pub magic: u32,
    /// In which version the rest is written.
    pub version: u8,
    /// One of [`kind`].
    pub kind: u8,
    /// Bits of [`flags`].
    pub flags: u16,
    /// The cluster this message belongs to.
    pub cluster_id: u32,
    /// Node id of the sender, 1..=255.
    pub source: u16,
    /// Node id of the receiver, 1..=255; 0 in a hello to a configured address whose id is not known yet.
    pub destination: u16,
    /// The receiver's slot of this route; in hellos the sender's [`Versions::to_slot`], in handshakes [`NO_SLOT`].
    pub slot: u32,
    /// Which keys of the session the tag was made with. In a hello: which ones the sender sends with, 0 = none.
    pub key_epoch: u32,
    /// Sequence number: one per heartbeat, equal in its four legs; per pair of lives for data; boottime for hellos
    /// and handshakes.
    pub sequence: u64,
}

/// "No slot" in [`Header::slot`] and [`Heartbeat::down_slot`].
pub const NO_SLOT: u32 = u32::MAX;

/// One heartbeat leg: 88 bytes of UDP payload. The tag covers both IP addresses (IPv4 as `::ffff:a.b.c.d`), then
/// everything before the tag.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Heartbeat {
    /// Kinds 1 to 4.
    pub header: Header,
    /// Boottime of the initiator, in its own clock, when it sent leg 1, in nanoseconds; legs 2 to 4 echo it.
    pub initiator_sent_ns: u64,
    /// Boottime of the responder, in its own clock, when it sent leg 2; legs 3 and 4 echo it; 0 in leg 1.
    pub responder_sent_ns: u64,
    /// How long before this leg left the sender's engine last ticked, in nanoseconds; `u64::MAX` = never.
    pub tick_age_ns: u64,
    /// Legs 2 and 3: one more than the log index up to which the receiver must have applied for this leg to count as
    /// vouching for it; 0 = it vouches for nobody. 0 in legs 1 and 4.
    pub vouch_index: u64,
    /// A slot of the *receiver* whose route's far end has lost its carrier or was taken down, else [`NO_SLOT`].
    /// Only leg 1 carries it; it is how a node tells its peers over a route that still works.
    pub down_slot: u32,
    /// Why, one of the [`crate::map::down_reason`] values; 0 with [`NO_SLOT`].
    pub down_reason: u32,
    /// 0; padding that later versions may use.
    pub reserved: u64,
    /// SipHash-2-4 with the direction's key.
    pub tag: u64,
}

/// Longest node, site and interface names on the wire, in bytes.
pub const NAME_LEN: usize = 32;
/// Longest interface name (kernel IFNAMSIZ, `include/uapi/linux/if.h`).
pub const IFNAME_LEN: usize = 16;
/// Endpoints one node may announce.
pub const MAX_ENDPOINTS: usize = 16;

/// A hello: who the sender is and every endpoint it has. Followed by `endpoint_count` [`HelloEndpoint`]s and a
/// 32-byte HMAC-SHA256 (key: HKDF of the cluster secret, purpose "hello") over both IP addresses and all before it.
///
/// Freshness: a hello may change state only if `echo` is the challenge that the receiver last sent to this peer.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Hello {
    /// Kind [`kind::HELLO`]; the sequence is the sender's boottime in nanoseconds and only grows.
    pub header: Header,
    /// Random per life of the sender's maps: handshakes are bound to both nodes' nonces.
    pub boot_nonce: [u8; 16],
    /// Random, renewed by the sender; the receiver echoes it.
    pub challenge: u64,
    /// The newest challenge received from the receiver, 0 if none.
    pub echo: u64,
    /// The sender's slot for the route this hello travels, [`NO_SLOT`] if it has none yet.
    pub sender_slot: u32,
    /// What the sender believes the receiver's slot for this route is, [`NO_SLOT`] if unknown.
    pub receiver_slot: u32,
    /// Node name, UTF-8, zero-padded.
    pub name: [u8; NAME_LEN],
    /// Site name, UTF-8, zero-padded; all zero = none.
    pub site: [u8; NAME_LEN],
    /// MAC of the sender's `netft0`.
    pub adapter_mac: [u8; 6],
    /// MTU of the sender's `netft0`.
    pub adapter_mtu: u16,
    /// IPv4 link-local address of the sender's `netft0`.
    pub adapter_ipv4: [u8; 4],
    /// How many [`HelloEndpoint`]s follow, at most [`MAX_ENDPOINTS`].
    pub endpoint_count: u16,
    /// 0.
    pub reserved: u16,
    /// IPv6 link-local address of the sender's `netft0`.
    pub adapter_ipv6: [u8; 16],
    /// Since [`SECRETS_VERSION`]; before, a hello ends here and reads as 0. While there are two cluster secrets: proves that the sender
    /// has the other one, not that with which it signs; 0 if not.
    pub other_secret: u64,
}

/// One endpoint in a [`Hello`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct HelloEndpoint {
    /// The address, IPv4 as `::ffff:a.b.c.d`.
    pub address: [u8; 16],
    /// Prefix length within the address family: 0..=32 or 0..=128.
    pub prefix_len: u8,
    /// Bits of [`endpoint_flags`].
    pub flags: u8,
    /// Number of the interface, unique on its node; ties v4 and v6 of one NIC together.
    pub interface: u16,
    /// Hardware address.
    pub mac: [u8; 6],
    /// Interface MTU in bytes.
    pub mtu: u16,
    /// Link speed in Mbit/s, 0 = unknown.
    pub speed_mbps: u32,
    /// Interface name, zero-padded.
    pub name: [u8; IFNAME_LEN],
}

/// Bits of [`HelloEndpoint::flags`].
pub mod endpoint_flags {
    /// The interface has its carrier.
    pub const CARRIER: u8 = 1 << 0;
    /// The interface is administratively up.
    pub const ADMIN_UP: u8 = 1 << 1;
    /// A default route leaves by this interface.
    pub const DEFAULT_ROUTE: u8 = 1 << 2;
    /// RDMA capable.
    pub const RDMA: u8 = 1 << 3;
    /// More than one receive queue.
    pub const RSS: u8 = 1 << 4;
}

/// Length of the authenticator of hellos and handshakes in bytes.
pub const HELLO_TAG_LEN: usize = 32;

/// Length of what handshakes carry in secret: the sender's security level (0 clear, 1 signed, 2 encrypted), then zeros.
pub const SECRET_LEN: usize = 8;
/// Length of either message of the Noise pattern NNpsk0: an ephemeral key, [`SECRET_LEN`] bytes, and their tag.
pub const NOISE_LEN: usize = 32 + SECRET_LEN + 16;

/// One step of a handshake, followed by an authenticator as a hello's. Both steps have the same length.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Handshake {
    /// Kind [`kind::HANDSHAKE`]; the sequence is the sender's boottime in nanoseconds and only grows, with that of hellos.
    pub header: Header,
    /// The sender's, as in its hellos.
    pub boot_nonce: [u8; 16],
    /// Chosen at random by who starts, equal in both steps and in repetitions; in step 3 the sequence.
    pub number: u64,
    /// 1 = from the node with the lower id, 2 = the answer, 3 = the next cluster secret, within a session.
    pub step: u32,
    /// 0.
    pub reserved: u32,
    /// The Noise message; in step 3 what is offered, sealed with the session's keys.
    pub noise: [u8; NOISE_LEN],
}

/// A data message: this, then one Ethernet frame as `netft0` sent it; or a probe: this, then [`PROBE_LEN`] bytes.
///
/// The tag is before what it covers, so that both are made in place; how, depends on the level that the sender has told for
/// these keys (`docs/wire-format.md`).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Data {
    /// Kind [`kind::DATA`] or [`kind::PROBE`]; the sequence feeds the receiver's anti-replay window.
    pub header: Header,
    /// Authenticator.
    pub tag: [u8; DATA_TAG_LEN],
}

/// Length of a data message's authenticator in bytes.
pub const DATA_TAG_LEN: usize = 16;

/// Bytes after the [`Data`] of a probe: chosen by who solicits it, returned by who answers.
pub const PROBE_LEN: usize = 8;

/// Bytes that carrying a frame adds to its inner IP packet on the wire, at most: outer IPv6 40, UDP 8, [`Data`] 48, and
/// the inner Ethernet header with one VLAN tag 18.
pub const ENCAPSULATION_BYTES: u16 = 40 + 8 + 48 + 18;

const _: () = {
    assert!(size_of::<Header>() == 32);
    assert!(size_of::<Heartbeat>() == 88);
    assert!(size_of::<Hello>() == 176);
    assert!(size_of::<HelloEndpoint>() == 48);
    assert!(size_of::<Handshake>() == 120);
    assert!(size_of::<Data>() == 48);
};

#[cfg(test)]
mod tests;
