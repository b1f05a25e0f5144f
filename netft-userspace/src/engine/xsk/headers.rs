//! Ethernet, IP and UDP around a data message: made for what leaves by AF_XDP, taken off what arrives there.

use netft_common::heartbeat::Addresses;
use netft_common::packet::{Class, classify};
use netft_common::wire::{PORT, TRAFFIC_CLASS, Versions};
use netft_core::data::Outer;
use netft_core::offload::{complement, sum};
use netft_core::types::address_from_bytes;
use std::net::IpAddr;

const ETHERNET: usize = 14;
const UDP: usize = 8;
const PROTOCOL_UDP: u8 = 17;
const HOPS: u8 = 64;
/// Longest headers: Ethernet, IPv6, UDP.
pub const MAX_HEADERS: usize = ETHERNET + 40 + UDP;

/// Headers of one route, made once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Headers {
    bytes: [u8; MAX_HEADERS],
    /// Length of the IP header.
    ip: usize,
    /// Sum of the pseudo-header's addresses and protocol.
    pseudo: u64,
}

impl Headers {
    /// From `local` at `source` to `remote` at `destination`; both addresses (as in `types::address_bytes`) are of one
    /// family.
    pub fn new(source: [u8; 6], destination: [u8; 6], local: [u8; 16], remote: [u8; 16]) -> Self {
        let mut bytes = [0; MAX_HEADERS];
        bytes[..6].copy_from_slice(&destination);
        bytes[6..12].copy_from_slice(&source);
        let (ip, addresses) = match (address_from_bytes(local), address_from_bytes(remote)) {
            (IpAddr::V4(local), IpAddr::V4(remote)) => {
                bytes[12..14].copy_from_slice(&[0x08, 0x00]);
                // No identification, as nothing is ever fragmented (RFC 6864); don't fragment.
                bytes[ETHERNET..ETHERNET + 12].copy_from_slice(&[
                    0x45,
                    TRAFFIC_CLASS,
                    0,
                    0,
                    0,
                    0,
                    0x40,
                    0,
                    HOPS,
                    PROTOCOL_UDP,
                    0,
                    0,
                ]);
                bytes[ETHERNET + 12..ETHERNET + 16].copy_from_slice(&local.octets());
                bytes[ETHERNET + 16..ETHERNET + 20].copy_from_slice(&remote.octets());
                (20, ETHERNET + 12..ETHERNET + 20)
            }
            _ => {
                bytes[12..14].copy_from_slice(&[0x86, 0xdd]);
                let class = [0x60 | TRAFFIC_CLASS >> 4, TRAFFIC_CLASS << 4, 0, 0, 0, 0, PROTOCOL_UDP, HOPS];
                bytes[ETHERNET..ETHERNET + 8].copy_from_slice(&class);
                bytes[ETHERNET + 8..ETHERNET + 24].copy_from_slice(&local);
                bytes[ETHERNET + 24..ETHERNET + 40].copy_from_slice(&remote);
                (40, ETHERNET + 8..ETHERNET + 40)
            }
        };
        let pseudo = sum(&bytes[addresses]) + word(PROTOCOL_UDP.into());
        let udp = ETHERNET + ip;
        bytes[udp..udp + 2].copy_from_slice(&PORT.to_be_bytes());
        bytes[udp + 2..udp + 4].copy_from_slice(&PORT.to_be_bytes());
        Self { bytes, ip, pseudo }
    }

    /// How many bytes they take.
    #[expect(clippy::len_without_is_empty, reason = "headers always have some")]
    pub fn len(&self) -> usize {
        ETHERNET + self.ip + UDP
    }

    /// Writes them before the UDP payload, which is in `packet` from [`Self::len`] on, with lengths and checksums.
    /// `None`, and nothing written, if that is no packet: too short for headers, or longer than IP allows.
    pub fn write(&self, packet: &mut [u8]) -> Option<()> {
        let udp = ETHERNET + self.ip;
        let udp_len = u16::try_from(packet.len().checked_sub(udp)?).ok()?;
        let ip_len = u16::try_from(packet.len() - ETHERNET).ok()?;
        packet.get_mut(..self.len())?.copy_from_slice(&self.bytes[..self.len()]);
        if self.ip == 20 {
            packet[ETHERNET + 2..ETHERNET + 4].copy_from_slice(&ip_len.to_be_bytes());
            let checksum = complement(sum(&packet[ETHERNET..udp]));
            packet[ETHERNET + 10..ETHERNET + 12].copy_from_slice(&checksum.to_le_bytes());
        } else {
            packet[ETHERNET + 4..ETHERNET + 6].copy_from_slice(&udp_len.to_be_bytes());
        }
        packet[udp + 4..udp + 6].copy_from_slice(&udp_len.to_be_bytes());
        // 0 would say that there is none, which IPv6 forbids (RFC 8200, section 8.1).
        let checksum = match complement(self.pseudo + word(udp_len) + sum(&packet[udp..])) {
            0 => 0xffff,
            checksum => checksum,
        };
        packet[udp + 6..udp + 8].copy_from_slice(&checksum.to_le_bytes());
        Some(())
    }
}

/// Between whom a received data message travelled, and the message. XDP has looked at it already, but what it looked at
/// was written by strangers. The checksum is left to those who need it; a partial one comes from a local stack, and what
/// it covers never was on a wire.
pub fn open(packet: &mut [u8], cluster_id: u32) -> Option<(Addresses, Outer, &mut [u8])> {
    // Whether the version is that of the keys is seen when it is opened.
    let Class::Data(frame) = classify(packet, cluster_id, Versions::ANY) else { return None };
    let addresses = frame.addresses(packet)?;
    let udp = packet.get(frame.message - UDP..frame.message)?;
    let udp_len = u16::from_be_bytes([udp[4], udp[5]]);
    let checksum = u16::from_le_bytes([udp[6], udp[7]]);
    let of = |address: &[u8; 16]| match address_from_bytes(*address) {
        IpAddr::V4(address) => sum(&address.octets()),
        IpAddr::V6(address) => sum(&address.octets()),
    };
    let pseudo =
        of(addresses.source()) + of(addresses.destination()) + word(PROTOCOL_UDP.into()) + word(udp_len);
    let outer =
        if checksum == !complement(pseudo) { Outer::Checked } else { Outer::Unchecked(pseudo + sum(udp)) };
    let length = usize::from(udp_len).checked_sub(UDP)?;
    Some((addresses, outer, packet.get_mut(frame.message..frame.message + length)?))
}

/// A number as [`sum`] would find it on the wire.
fn word(number: u16) -> u64 {
    u16::from_le_bytes(number.to_be_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use netft_common::wire::{Header, MAGIC, VERSION, kind};
    use netft_core::types::address_bytes;

    const CLUSTER: u32 = 77;

    fn headers(v4: bool) -> (Headers, [u8; 16], [u8; 16]) {
        let address = |text: &str| address_bytes(text.parse().unwrap());
        let (local, remote) = if v4 {
            (address("10.77.1.1"), address("10.77.1.2"))
        } else {
            (address("fd77:1::1"), address("fd77:1::2"))
        };
        (Headers::new([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2], local, remote), local, remote)
    }

    fn message(rest: &[u8]) -> Vec<u8> {
        let header = Header {
            magic: MAGIC,
            version: VERSION,
            kind: kind::DATA,
            flags: 0,
            cluster_id: CLUSTER,
            source: 1,
            destination: 2,
            slot: 3,
            key_epoch: 4,
            sequence: 5,
        };
        [bytemuck::bytes_of(&header), rest].concat()
    }

    fn packet(headers: &Headers, message: &[u8]) -> Vec<u8> {
        let mut packet = vec![0xee; headers.len()];
        packet.extend_from_slice(message);
        headers.write(&mut packet).unwrap();
        packet
    }

    /// RFC 1071 as plainly as can be.
    fn plain_sum(bytes: &[u8]) -> u16 {
        let mut sum = 0u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        u16::try_from(sum).unwrap()
    }

    #[test]
    fn what_is_made_is_what_is_taken_off_and_checksums_are_right() {
        for v4 in [true, false] {
            let (headers, local, remote) = headers(v4);
            for length in [0usize, 1, 2, 3, 60, 61, 1400, 1401] {
                let rest: Vec<u8> = (0..length).map(|i| (i * 7 + 3).to_le_bytes()[0]).collect();
                let message = message(&rest);
                let mut packet = packet(&headers, &message);
                let (addresses, outer, found) = open(&mut packet, CLUSTER).unwrap();
                assert_eq!((addresses.source(), addresses.destination()), (&local, &remote));
                assert_eq!(found, message);
                let Outer::Unchecked(sum_of_headers) = outer else { panic!("nobody has checked it") };
                assert_eq!(complement(sum_of_headers + sum(found)), 0);
                // Ethernet padding is no part of it.
                let mut padded = [&packet[..], &[0; 9]].concat();
                assert_eq!(open(&mut padded, CLUSTER).unwrap().2, message);
                let ip = if v4 { 20 } else { 40 };
                let udp = &packet[14 + ip..];
                let pseudo = if v4 { &packet[26..34] } else { &packet[22..54] };
                let length = u16::try_from(udp.len()).unwrap().to_be_bytes();
                let all = [pseudo, &[0, PROTOCOL_UDP], &length, udp].concat();
                assert_eq!(plain_sum(&all), 0xffff, "UDP checksum");
                if v4 {
                    assert_eq!(plain_sum(&packet[14..34]), 0xffff, "IP checksum");
                }
            }
        }
    }

    #[test]
    fn a_partial_checksum_is_told_from_one_that_is_wrong() {
        for v4 in [true, false] {
            let (headers, ..) = headers(v4);
            let mut packet = packet(&headers, &message(b"frame"));
            let at = headers.len() - 2;
            let udp_len = u16::try_from(packet.len() - (at - 6)).unwrap();
            let partial = !complement(headers.pseudo + word(udp_len));
            packet[at..at + 2].copy_from_slice(&partial.to_le_bytes());
            assert_eq!(open(&mut packet, CLUSTER).unwrap().1, Outer::Checked);
            packet[at] ^= 1;
            let (_, outer, message) = open(&mut packet, CLUSTER).unwrap();
            let Outer::Unchecked(headers) = outer else { panic!("it is not partial") };
            assert_ne!(complement(headers + sum(message)), 0);
        }
    }

    #[test]
    fn a_checksum_of_zero_is_sent_as_ones() {
        let (headers, ..) = headers(false);
        // Two bytes that bring the sum to all ones.
        let mut packet = packet(&headers, &message(&[0, 0]));
        let at = headers.len() - 2;
        let checksum = [packet[at], packet[at + 1]];
        let end = packet.len();
        packet[end - 2..].copy_from_slice(&checksum);
        headers.write(&mut packet).unwrap();
        assert_eq!(packet[at..at + 2], [0xff, 0xff]);
    }

    #[test]
    fn lengths_that_lie_are_refused() {
        for v4 in [true, false] {
            let (headers, ..) = headers(v4);
            let mut packet = packet(&headers, &message(b"frame"));
            for length in 0..packet.len() {
                assert_eq!(open(&mut packet[..length], CLUSTER), None, "{length}");
            }
            assert_eq!(open(&mut packet, CLUSTER + 1), None);
            let mut longer = packet.clone();
            longer[headers.len() - 3] += 1;
            assert_eq!(open(&mut longer, CLUSTER), None);
        }
        let (headers, ..) = headers(true);
        assert_eq!(headers.write(&mut [0; 30]), None);
        assert_eq!(headers.write(&mut vec![0; 70_000]), None);
    }
}
