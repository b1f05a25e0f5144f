//! Builds and reads frames, independently of the classifier that is tested.

use super::node::{Family, address, mac};
use netft_common::wire::Heartbeat;

/// A frame in parts, each of which a test may spoil.
#[derive(Clone, Debug)]
pub struct Frame {
    /// Destination and source MAC.
    pub macs: [[u8; 6]; 2],
    /// 802.1Q tag control, if tagged.
    pub vlan: Option<u16>,
    /// IP header with options or extension headers, without checksum.
    pub ip: Vec<u8>,
    /// UDP header.
    pub udp: [u8; 8],
    /// UDP payload.
    pub payload: Vec<u8>,
    /// After the IP packet.
    pub padding: Vec<u8>,
}

/// 802.1Q tag or not.
pub const TAGS: [Option<u16>; 2] = [None, Some(0xa064)];

/// `payload` from node `from` to the other one.
pub fn frame(from: u16, family: Family, payload: &[u8]) -> Frame {
    let to = 3 - from;
    let udp_len = u16::try_from(8 + payload.len()).expect("fits");
    let [high, low] = udp_len.to_be_bytes();
    let ip = match family {
        Family::V4 => {
            let [total_high, total_low] = (udp_len + 20).to_be_bytes();
            let mut ip = vec![0x45, 0, total_high, total_low, 0x12, 0x34, 0, 0, 7, 17, 0, 0];
            ip.extend_from_slice(&address(from, family)[12..]);
            ip.extend_from_slice(&address(to, family)[12..]);
            ip
        }
        Family::V6 => {
            let mut ip = vec![0x60, 5, 0x43, 0x21, high, low, 17, 7];
            ip.extend_from_slice(&address(from, family));
            ip.extend_from_slice(&address(to, family));
            ip
        }
    };
    Frame {
        macs: [mac(to), mac(from)],
        vlan: None,
        ip,
        udp: [0x0d, 0x0f, 0x0d, 0x0f, high, low, 0, 0],
        payload: payload.to_vec(),
        padding: Vec::new(),
    }
}

/// A leg from node `from` to the other one.
pub fn leg_frame(from: u16, family: Family, leg: &Heartbeat) -> Frame {
    frame(from, family, bytemuck::bytes_of(leg))
}

impl Frame {
    /// With or without an 802.1Q tag.
    pub fn tagged(mut self, vlan: Option<u16>) -> Self {
        self.vlan = vlan;
        self
    }

    /// With something changed.
    pub fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    /// As on the wire, with the IPv4 header's checksum made right.
    pub fn bytes(&self) -> Vec<u8> {
        let mut ip = self.ip.clone();
        if ip[0] >> 4 == 4 {
            ip[10..12].fill(0);
            let sum = checksum(&ip).to_be_bytes();
            ip[10..12].copy_from_slice(&sum);
        }
        let ethertype = if ip[0] >> 4 == 4 { [8, 0] } else { [0x86, 0xdd] };
        let mut bytes = [self.macs[0], self.macs[1]].concat();
        if let Some(control) = self.vlan {
            bytes.extend_from_slice(&[0x81, 0]);
            bytes.extend_from_slice(&control.to_be_bytes());
        }
        for part in [&ethertype[..], &ip, &self.udp, &self.payload, &self.padding] {
            bytes.extend_from_slice(part);
        }
        bytes
    }
}

/// RFC 1071, as plainly as can be.
pub fn checksum(bytes: &[u8]) -> u16 {
    let mut sum = 0u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).expect("folded")
}

/// What a reply must be: everything of `request` that may stay, with ends swapped and headers made anew. Returns the
/// leg in it.
pub fn check_reply(request: &Frame, family: Family, reply: &[u8]) -> Heartbeat {
    let sent = request.bytes();
    assert_eq!(reply.len(), sent.len(), "as long as the request");
    assert_eq!(&reply[..6], &request.macs[1], "destination MAC");
    assert_eq!(&reply[6..12], &request.macs[0], "source MAC");
    let at = if let Some(control) = request.vlan {
        assert_eq!(&reply[12..14], &[0x81, 0]);
        assert_eq!(&reply[14..16], &control.to_be_bytes(), "the tag is kept");
        18
    } else {
        14
    };
    let (header_len, pseudo) = match family {
        Family::V4 => {
            let ip = &reply[at..at + 20];
            assert_eq!(&reply[at - 2..at], &[8, 0]);
            assert_eq!(&ip[..4], &[0x45, 48 << 2, 0, 116], "version, CS6, length");
            assert_eq!(&ip[4..10], &[0, 0, 0x40, 0, 64, 17], "id, don't fragment, 64 hops, UDP");
            assert_eq!(checksum(ip), 0, "header checksum");
            assert_eq!((&ip[12..16], &ip[16..20]), (&request.ip[16..20], &request.ip[12..16]));
            (20, ip[12..20].to_vec())
        }
        Family::V6 => {
            let ip = &reply[at..at + 40];
            assert_eq!(&reply[at - 2..at], &[0x86, 0xdd]);
            assert_eq!(&ip[..8], &[0x6c, 0, 0, 0, 0, 96, 17, 64], "version, CS6, length, UDP, 64 hops");
            assert_eq!((&ip[8..24], &ip[24..40]), (&request.ip[24..40], &request.ip[8..24]));
            (40, ip[8..40].to_vec())
        }
    };
    let udp = &reply[at + header_len..at + header_len + 96];
    assert_eq!(&udp[..6], &[0x0d, 0x0f, 0x0d, 0x0f, 0, 96], "ports and length");
    assert_ne!(&udp[6..8], &[0, 0], "a checksum");
    assert_eq!(checksum(&[&pseudo[..], &[0, 17, 0, 96], udp].concat()), 0, "UDP checksum");
    assert_eq!(&reply[at + header_len + 96..], &request.padding[..]);
    bytemuck::pod_read_unaligned(&udp[8..])
}
