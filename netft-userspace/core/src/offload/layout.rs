//! Where the headers of a TCP or UDP frame are.

use super::{VirtioHeader, gso};

const ETHERNET: usize = 14;
const VLAN: usize = 4;
/// More tags than this nobody uses.
const MAX_VLANS: usize = 2;
const ETHERTYPE_VLAN: [[u8; 2]; 2] = [[0x81, 0x00], [0x88, 0xa8]];
const ETHERTYPE_IPV4: [u8; 2] = [0x08, 0x00];
const ETHERTYPE_IPV6: [u8; 2] = [0x86, 0xdd];
const IPV4: usize = 20;
const IPV6: usize = 40;
const UDP: usize = 8;
const PROTOCOL_TCP: u8 = 6;
const PROTOCOL_UDP: u8 = 17;

/// Version of IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// 4.
    V4,
    /// 6.
    V6,
}

/// Protocol above IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Transport {
    /// Where the checksum is in its header.
    pub const fn checksum_offset(self) -> u16 {
        match self {
            Self::Tcp => 16,
            Self::Udp => 6,
        }
    }
}

/// Offsets into a frame. Whoever has one knows that the headers are whole, that the lengths in them are the frame's, and
/// that it is no fragment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Version of IP.
    pub family: Family,
    /// What is in it.
    pub transport: Transport,
    /// Of the IP header.
    pub ip_at: usize,
    /// Of the TCP or UDP header.
    pub transport_at: usize,
    /// Of what follows it.
    pub payload_at: usize,
}

impl Layout {
    /// Of an Ethernet frame with at most two VLAN tags and TCP or UDP right behind its IP header. `None` if it is
    /// something else, a fragment, or says other lengths than it has (padding, for example).
    pub fn of(frame: &[u8]) -> Option<Self> {
        let (family, ip_at) = ip(frame)?;
        let ip = frame.get(ip_at..)?;
        let (protocol, header_len) = match family {
            Family::V4 => (*ip.get(9)?, usize::from(ip.first()? & 0xf) * 4),
            Family::V6 => (*ip.get(6)?, IPV6),
        };
        let transport = match protocol {
            PROTOCOL_TCP => Transport::Tcp,
            PROTOCOL_UDP => Transport::Udp,
            _ => return None,
        };
        Self::new(frame, family, transport, ip_at, ip_at + header_len)
    }

    /// Of a super-packet, as its header says: there may also be extension headers of IPv6 before the transport's.
    pub fn announced(header: &VirtioHeader, frame: &[u8]) -> Option<Self> {
        let (family, ip_at) = ip(frame)?;
        let transport = match (header.gso_type & !gso::ECN, family) {
            (gso::TCP_V4, Family::V4) | (gso::TCP_V6, Family::V6) => Transport::Tcp,
            (gso::UDP, _) => Transport::Udp,
            _ => return None,
        };
        Self::new(frame, family, transport, ip_at, header.checksum_start.into())
    }

    fn new(
        frame: &[u8],
        family: Family,
        transport: Transport,
        ip_at: usize,
        transport_at: usize,
    ) -> Option<Self> {
        let ip = frame.get(ip_at..transport_at)?;
        let length = frame.len() - ip_at;
        let is_right = match family {
            Family::V4 => {
                ip.len() >= IPV4
                    && ip[0] >> 4 == 4
                    && usize::from(ip[0] & 0xf) * 4 == ip.len()
                    && usize::from(be16(ip, 2)) == length
                    && be16(ip, 6) & 0x3fff == 0
            }
            Family::V6 => ip.len() >= IPV6 && ip[0] >> 4 == 6 && usize::from(be16(ip, 4)) + IPV6 == length,
        };
        let header = frame.get(transport_at..)?;
        let header_len = match transport {
            Transport::Tcp => usize::from(header.get(12)? >> 4) * 4,
            Transport::Udp => UDP,
        };
        let least = if transport == Transport::Tcp { 20 } else { UDP };
        let is_right = is_right
            && (least..=header.len()).contains(&header_len)
            && (transport == Transport::Tcp || usize::from(be16(header, 4)) == header.len());
        let payload_at = transport_at + header_len;
        is_right.then_some(Self { family, transport, ip_at, transport_at, payload_at })
    }

    /// Writes into the headers of `frame` how long it is.
    pub(super) fn set_lengths(&self, frame: &mut [u8]) {
        let Self { family, transport, ip_at, transport_at, .. } = *self;
        let length = |from: usize| u16::try_from(frame.len() - from).unwrap_or(u16::MAX).to_be_bytes();
        let (ip_len, transport_len) =
            (length(if family == Family::V4 { ip_at } else { ip_at + IPV6 }), length(transport_at));
        let at = ip_at + if family == Family::V4 { 2 } else { 4 };
        frame[at..at + 2].copy_from_slice(&ip_len);
        if transport == Transport::Udp {
            frame[transport_at + 4..transport_at + 6].copy_from_slice(&transport_len);
        }
    }

    /// Where the transport's checksum is in the frame.
    pub(super) fn checksum_at(&self) -> usize {
        self.transport_at + usize::from(self.transport.checksum_offset())
    }
}

/// Version and place of the IP header.
fn ip(frame: &[u8]) -> Option<(Family, usize)> {
    let mut at = ETHERNET;
    for _ in 0..=MAX_VLANS {
        match *frame.get(at - 2..at)?.first_chunk::<2>()? {
            ETHERTYPE_IPV4 => return Some((Family::V4, at)),
            ETHERTYPE_IPV6 => return Some((Family::V6, at)),
            tag if ETHERTYPE_VLAN.contains(&tag) => at += VLAN,
            _ => return None,
        }
    }
    None
}

/// A number in network byte order. The caller has seen that it is inside.
pub(super) fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

/// The same of 32 bits.
pub(super) fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}
