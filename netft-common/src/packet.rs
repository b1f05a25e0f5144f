//! The one packet classifier: decides in eBPF and in userspace what a received Ethernet frame is, and turns an
//! accepted heartbeat leg into its reply in place. `docs/wire-format.md` has the same rules for people.
//!
//! A frame is netft's when it is Ethernet (with at most one 802.1Q tag), IPv4 or IPv6, UDP from port 3343 to port
//! 3343, and starts with the magic and the own cluster's id. Nothing else is judged, so that another cluster's
//! traffic (a guest's, say) passes untouched.

use crate::heartbeat::Addresses;
use crate::wire::{self, Header, Heartbeat, Versions, kind};
use bytemuck::{Pod, Zeroable};

/// What the classifier reads from. The one primitive is a bounds-checked load.
pub trait Packet {
    /// The value at `offset`, `None` if the frame ends before it does.
    fn load<T: Pod>(&self, offset: usize) -> Option<T>;
}

/// A frame that can be turned into a reply in place.
pub trait PacketMut: Packet {
    /// Replaces the value at `offset`; `None` if the frame ends before it does, and then nothing has changed.
    fn store<T: Pod>(&mut self, offset: usize, value: T) -> Option<()>;
}

impl Packet for [u8] {
    fn load<T: Pod>(&self, offset: usize) -> Option<T> {
        let end = offset.checked_add(size_of::<T>())?;
        Some(bytemuck::pod_read_unaligned(self.get(offset..end)?))
    }
}

impl PacketMut for [u8] {
    fn store<T: Pod>(&mut self, offset: usize, value: T) -> Option<()> {
        let end = offset.checked_add(size_of::<T>())?;
        self.get_mut(offset..end)?.copy_from_slice(bytemuck::bytes_of(&value));
        Some(())
    }
}

impl<P: Packet + ?Sized> Packet for &mut P {
    #[inline(always)]
    fn load<T: Pod>(&self, offset: usize) -> Option<T> {
        (**self).load(offset)
    }
}

impl<P: PacketMut + ?Sized> PacketMut for &mut P {
    #[inline(always)]
    fn store<T: Pod>(&mut self, offset: usize, value: T) -> Option<()> {
        (**self).store(offset, value)
    }
}

/// Ethernet II header.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Ethernet {
    destination: [u8; 6],
    source: [u8; 6],
    ethertype: [u8; 2],
}

/// What follows ethertype 0x8100: IEEE 802.1Q tag control, then the inner ethertype.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct VlanTag {
    control: [u8; 2],
    ethertype: [u8; 2],
}

/// RFC 791 section 3.1, without options.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Ipv4 {
    version_and_words: u8,
    traffic_class: u8,
    total_len: [u8; 2],
    identification: [u8; 2],
    fragment: [u8; 2],
    time_to_live: u8,
    protocol: u8,
    checksum: u16,
    source: [u8; 4],
    destination: [u8; 4],
}

/// RFC 8200 section 3.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Ipv6 {
    version_class_flow: [u8; 4],
    payload_len: [u8; 2],
    next_header: u8,
    hop_limit: u8,
    source: [u8; 16],
    destination: [u8; 16],
}

/// First eight bytes of an IPv6 extension header (RFC 8200 sections 4.2 to 4.6).
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Extension {
    next_header: u8,
    len: u8,
    fragment: [u8; 2],
    rest: [u8; 4],
}

/// RFC 768.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Udp {
    source: [u8; 2],
    destination: [u8; 2],
    len: [u8; 2],
    checksum: u16,
}

/// The part of [`Header`] whose place every wire version keeps.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Prefix {
    magic: u32,
    version: u8,
    kind: u8,
    flags: u16,
    cluster_id: u32,
}

const ETHERTYPE_IPV4: [u8; 2] = 0x0800u16.to_be_bytes();
const ETHERTYPE_IPV6: [u8; 2] = 0x86ddu16.to_be_bytes();
const ETHERTYPE_VLAN: [u8; 2] = 0x8100u16.to_be_bytes();
const GROUP_BIT: u8 = 1;
const PROTOCOL_UDP: u8 = 17;
const PORT: [u8; 2] = wire::PORT.to_be_bytes();
const IPV4_PLAIN: u8 = 0x45;
const IPV4_MORE_FRAGMENTS: u16 = 0x2000;
const IPV4_FRAGMENT_OFFSET: u16 = 0x1fff;
const IPV6_FRAGMENT_OFFSET: u16 = 0xfff8;
const IPV6_FRAGMENT_HEADER: u8 = 44;
/// TTL or hop limit of replies.
const HOPS: u8 = 64;
const UDP_LEN: usize = size_of::<Udp>();
#[expect(clippy::cast_possible_truncation, reason = "96")]
const LEG_UDP_LEN: u16 = (UDP_LEN + size_of::<Heartbeat>()) as u16;

const IPV4_ADDRESSES: usize = 12;
const IPV6_ADDRESSES: usize = 8;
const LEG_LEN: [u8; 2] = LEG_UDP_LEN.to_be_bytes();
const LEG_IPV4_LEN: [u8; 2] = (LEG_UDP_LEN + 20).to_be_bytes();
/// A reply's IPv4 header up to the addresses: CS6, don't fragment, 64 hops, UDP, checksum 0.
const IPV4_WORDS: [u32; 3] = [
    u32::from_le_bytes([IPV4_PLAIN, wire::TRAFFIC_CLASS, LEG_IPV4_LEN[0], LEG_IPV4_LEN[1]]),
    u32::from_le_bytes([0, 0, 0x40, 0]),
    u32::from_le_bytes([HOPS, PROTOCOL_UDP, 0, 0]),
];
/// A reply's IPv6 header up to the addresses: CS6, no flow label, UDP, 64 hops.
const IPV6_WORD: u64 = u64::from_le_bytes([
    0x60 | wire::TRAFFIC_CLASS >> 4,
    wire::TRAFFIC_CLASS << 4,
    0,
    0,
    LEG_LEN[0],
    LEG_LEN[1],
    PROTOCOL_UDP,
    HOPS,
]);
/// A reply's UDP header, checksum 0.
const UDP_WORDS: [u32; 2] = [
    u32::from_le_bytes([PORT[0], PORT[1], PORT[0], PORT[1]]),
    u32::from_le_bytes([LEG_LEN[0], LEG_LEN[1], 0, 0]),
];

/// IP version of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// Whether the frame has the plain shape that legs are sent in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Header and payload, nothing between and nothing split off.
    Plain,
    /// A first fragment, or IPv4 options, or an IPv6 extension header.
    Odd,
}

/// A netft message in a frame, and where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// IP version.
    pub family: Family,
    /// Plain or not.
    pub shape: Shape,
    /// Offset of the IP header: 14, or 18 with a tag.
    pub network: usize,
    /// Offset of the netft message.
    pub message: usize,
}

impl Frame {
    /// Between whom the message travels; `None` only if `packet` isn't the one that was classified.
    #[inline(always)]
    pub fn addresses<P: Packet + ?Sized>(&self, packet: &P) -> Option<Addresses> {
        Some(match self.family {
            Family::V4 => {
                let [source, destination] = packet.load::<[u32; 2]>(self.network + IPV4_ADDRESSES)?;
                Addresses { source: mapped_words(source), destination: mapped_words(destination) }
            }
            Family::V6 => {
                let [a, b, c, d] = packet.load::<[u64; 4]>(self.network + IPV6_ADDRESSES)?;
                Addresses { source: [a, b], destination: [c, d] }
            }
        })
    }
}

/// Why a message of our own cluster isn't even looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// A wire version that we don't speak.
    Version,
    /// A kind that we don't know.
    Kind,
    /// Shorter than its kind says, or a length field that lies.
    Truncated,
}

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Not netft's.
    Other,
    /// netft's, of another cluster.
    OtherCluster,
    /// netft's, handled by userspace and received by its UDP socket: a hello, a handshake, or data in an [`Shape::Odd`] frame.
    Userspace(Frame),
    /// Data or a probe in a plain frame, of which the message's header is known to be there.
    Data(Frame),
    /// A heartbeat leg. Of an [`Shape::Odd`] frame only the message's header is known to be there.
    Leg(Frame),
    /// netft's, and wrong. Counts only if it was sent to an address of ours.
    Malformed(Frame, Malformed),
}

/// Decides what a frame is. Changes nothing and looks nothing up.
#[inline(always)]
pub fn classify<P: Packet + ?Sized>(packet: &P, cluster_id: u32, versions: Versions) -> Class {
    match locate(packet) {
        Some((frame, lengths)) => judge(packet, frame, lengths, cluster_id, versions),
        None => Class::Other,
    }
}

/// What the length fields say.
#[derive(Clone, Copy)]
struct Lengths {
    /// Bytes of UDP header and payload by the IP header.
    by_ip: usize,
    /// The same by the UDP header.
    by_udp: usize,
}

/// Finds the UDP payload of a frame between two ports 3343; `None` for anything else.
#[inline(always)]
fn locate<P: Packet + ?Sized>(packet: &P) -> Option<(Frame, Lengths)> {
    let ethernet: Ethernet = packet.load(0)?;
    // Nothing sent to a group, or from one, is ever taken: a reply would go to many.
    if (ethernet.destination[0] | ethernet.source[0]) & GROUP_BIT != 0 {
        return None;
    }
    match ethernet.ethertype {
        ETHERTYPE_VLAN => {
            let tag: VlanTag = packet.load(size_of::<Ethernet>())?;
            network(packet, tag.ethertype, const { size_of::<Ethernet>() + size_of::<VlanTag>() })
        }
        ethertype => network(packet, ethertype, size_of::<Ethernet>()),
    }
}

#[inline(always)]
fn network<P: Packet + ?Sized>(packet: &P, ethertype: [u8; 2], at: usize) -> Option<(Frame, Lengths)> {
    match ethertype {
        ETHERTYPE_IPV4 => ipv4(packet, at),
        ETHERTYPE_IPV6 => ipv6(packet, at),
        _ => None,
    }
}

#[inline(always)]
fn ipv4<P: Packet + ?Sized>(packet: &P, at: usize) -> Option<(Frame, Lengths)> {
    let ip: Ipv4 = packet.load(at)?;
    let fragment = u16::from_be_bytes(ip.fragment);
    // A later fragment has no UDP header.
    if ip.protocol != PROTOCOL_UDP || fragment & IPV4_FRAGMENT_OFFSET != 0 {
        return None;
    }
    let (shape, header_len) = if ip.version_and_words == IPV4_PLAIN {
        let whole = fragment & IPV4_MORE_FRAGMENTS == 0;
        (if whole { Shape::Plain } else { Shape::Odd }, size_of::<Ipv4>())
    } else if ip.version_and_words & 0xf0 == 0x40 && ip.version_and_words & 0x0f > 5 {
        (Shape::Odd, usize::from(ip.version_and_words & 0x0f) * 4)
    } else {
        return None;
    };
    let by_ip = usize::from(u16::from_be_bytes(ip.total_len)).wrapping_sub(header_len);
    udp(packet, Family::V4, shape, at, header_len, by_ip)
}

#[inline(always)]
fn ipv6<P: Packet + ?Sized>(packet: &P, at: usize) -> Option<(Frame, Lengths)> {
    let ip: Ipv6 = packet.load(at)?;
    if ip.version_class_flow[0] & 0xf0 != 0x60 {
        return None;
    }
    let payload_len = usize::from(u16::from_be_bytes(ip.payload_len));
    let extension_len = match ip.next_header {
        PROTOCOL_UDP => 0,
        // Hop-by-hop options, routing, destination options, fragment: looked through once, only to reject.
        0 | 43 | 60 | IPV6_FRAGMENT_HEADER => {
            let extension: Extension = packet.load(at.wrapping_add(size_of::<Ipv6>()))?;
            if extension.next_header != PROTOCOL_UDP {
                return None;
            }
            if ip.next_header == IPV6_FRAGMENT_HEADER {
                if u16::from_be_bytes(extension.fragment) & IPV6_FRAGMENT_OFFSET != 0 {
                    return None;
                }
                8
            } else {
                usize::from(extension.len) * 8 + 8
            }
        }
        _ => return None,
    };
    let shape = if extension_len == 0 { Shape::Plain } else { Shape::Odd };
    let by_ip = payload_len.wrapping_sub(extension_len);
    udp(packet, Family::V6, shape, at, size_of::<Ipv6>() + extension_len, by_ip)
}

#[inline(always)]
fn udp<P: Packet + ?Sized>(
    packet: &P,
    family: Family,
    shape: Shape,
    network: usize,
    header_len: usize,
    by_ip: usize,
) -> Option<(Frame, Lengths)> {
    let at = network + header_len;
    let udp: Udp = packet.load(at)?;
    if udp.source != PORT || udp.destination != PORT {
        return None;
    }
    let by_udp = usize::from(u16::from_be_bytes(udp.len));
    let frame = Frame { family, shape, network, message: at + UDP_LEN };
    Some((frame, Lengths { by_ip, by_udp }))
}

#[inline(always)]
fn judge<P: Packet + ?Sized>(
    packet: &P,
    frame: Frame,
    lengths: Lengths,
    cluster_id: u32,
    versions: Versions,
) -> Class {
    let Some(prefix) = packet.load::<Prefix>(frame.message) else { return Class::Other };
    if prefix.magic != wire::MAGIC {
        return Class::Other;
    }
    if prefix.cluster_id != cluster_id {
        return Class::OtherCluster;
    }
    // Of hellos, userspace finds out whose they are, and says what to do.
    if !versions.has(prefix.version) && prefix.kind != kind::HELLO {
        return Class::Malformed(frame, Malformed::Version);
    }
    let is_leg = match prefix.kind {
        kind::REQUEST..=kind::FINAL_REPLY => true,
        kind::HELLO | kind::HANDSHAKE | kind::DATA | kind::PROBE => false,
        _ => return Class::Malformed(frame, Malformed::Kind),
    };
    if packet.load::<Header>(frame.message).is_none() || lengths.by_udp < UDP_LEN + size_of::<Header>() {
        return Class::Malformed(frame, Malformed::Truncated);
    }
    if !is_leg {
        return match (prefix.kind, frame.shape) {
            (kind::DATA | kind::PROBE, Shape::Plain) => Class::Data(frame),
            _ => Class::Userspace(frame),
        };
    }
    // A fragment's lengths speak of the whole datagram; it is rejected for its shape once its slot is known.
    if frame.shape == Shape::Plain {
        // Both lengths are exact. What follows in the frame is Ethernet padding, which nobody may rely on.
        let exact = lengths.by_udp == usize::from(LEG_UDP_LEN) && lengths.by_ip == usize::from(LEG_UDP_LEN);
        if !exact || packet.load::<Heartbeat>(frame.message).is_none() {
            return Class::Malformed(frame, Malformed::Truncated);
        }
    }
    Class::Leg(frame)
}

/// Turns the frame of an accepted leg, which came from and to `request`, into the reply: the leg replaced, ends swapped, headers made anew with CS6
/// and 64 hops so that nothing of the request's is reflected but its addresses and its VLAN tag. `None` (and then
/// no reply) only if the frame isn't the one that was classified.
#[inline(always)]
pub fn write_reply<P: PacketMut + ?Sized>(
    packet: &mut P,
    frame: &Frame,
    request: &Addresses,
    leg: &Heartbeat,
) -> Option<()> {
    let [to, to2, to3, from, from2, from3] = packet.load::<[u16; 6]>(0)?;
    packet.store(frame.message, *leg)?;
    // Headers are put together from words, which stay in registers; addresses of IPv4 are the last word's half.
    let (sum, len) = match frame.family {
        Family::V4 => {
            let addresses = [ipv4_word(&request.destination), ipv4_word(&request.source)];
            let words = [IPV4_WORDS[0], IPV4_WORDS[1], IPV4_WORDS[2], addresses[0], addresses[1]];
            let checksum = u32::from(fold(sum_words(&words)));
            packet.store(frame.network, words[0])?;
            packet.store(frame.network + 4, words[1])?;
            packet.store(frame.network + 8, words[2] | checksum << 16)?;
            packet.store(frame.network + IPV4_ADDRESSES, addresses[0])?;
            packet.store(frame.network + IPV4_ADDRESSES + 4, addresses[1])?;
            (sum_words(&addresses), size_of::<Ipv4>())
        }
        Family::V6 => {
            let [[a, b], [c, d]] = [request.destination, request.source];
            packet.store(frame.network, IPV6_WORD)?;
            packet.store(frame.network + IPV6_ADDRESSES, a)?;
            packet.store(frame.network + IPV6_ADDRESSES + 8, b)?;
            packet.store(frame.network + IPV6_ADDRESSES + 16, c)?;
            packet.store(frame.network + IPV6_ADDRESSES + 24, d)?;
            (sum_halves(a) + sum_halves(b) + sum_halves(c) + sum_halves(d), size_of::<Ipv6>())
        }
    };
    // The pseudo-header (RFC 768, RFC 8200 section 8.1) is addresses, protocol, UDP length.
    let pseudo = sum + u64::from(u16::from(PROTOCOL_UDP).to_be()) + u64::from(LEG_UDP_LEN.to_be());
    let leg_words: [u64; 11] = bytemuck::cast(*leg);
    let mut sum = pseudo + sum_words(&UDP_WORDS);
    for word in leg_words {
        sum += sum_halves(word);
    }
    // 0 would say "no checksum", which IPv6 forbids.
    let checksum = match fold(sum) {
        0 => 0xffff,
        checksum => u32::from(checksum),
    };
    packet.store(frame.network + len, UDP_WORDS[0])?;
    packet.store(frame.network + len + 4, UDP_WORDS[1] | checksum << 16)?;
    packet.store(0, [from, from2, from3, to, to2, to3])
}

/// An IPv4 address as `::ffff:a.b.c.d`.
#[inline(always)]
pub const fn mapped([a, b, c, d]: [u8; 4]) -> [u8; 16] {
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d]
}

/// An IPv4 address as loaded, as the words of `::ffff:a.b.c.d`.
#[inline(always)]
pub(crate) const fn mapped_words(address: u32) -> [u64; 2] {
    [0, (address as u64) << 32 | 0xffff_0000]
}

/// The inverse.
#[inline(always)]
const fn ipv4_word(words: &[u64; 2]) -> u32 {
    (words[1] >> 32) as u32
}

#[inline(always)]
const fn sum_halves(word: u64) -> u64 {
    (word & 0xffff_ffff) + (word >> 32)
}

/// Sum of words in memory order: RFC 1071 section 2(B), the sum is the same in either byte order but for a swap.
#[inline(always)]
fn sum_words<const N: usize>(words: &[u32; N]) -> u64 {
    let mut sum = 0;
    for &word in words {
        sum += u64::from(word);
    }
    sum
}

/// The complement of a sum of words folded to 16 bits, in memory order.
#[inline(always)]
const fn fold(sum: u64) -> u16 {
    // Some tens of 32-bit words at most come in, so this leaves nothing above 16 bits.
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    #[expect(clippy::cast_possible_truncation, reason = "folded to 16 bits")]
    let folded = sum as u16;
    !folded
}

const _: () = {
    assert!(size_of::<Ethernet>() == 14);
    assert!(size_of::<Ipv4>() == 20);
    assert!(size_of::<Ipv6>() == 40);
    assert!(size_of::<Udp>() == 8);
    assert!(cfg!(target_endian = "little"), "messages are read in place, so hosts must be little-endian");
};

#[cfg(test)]
mod tests;
