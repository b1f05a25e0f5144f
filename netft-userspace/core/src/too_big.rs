//! The answer to a packet from `netft0` that is too large for every route to its peer: what a router on the way would say
//! (RFC 792, "fragmentation needed", with the MTU of RFC 1191; RFC 4443, section 3.2, "packet too big").

use crate::offload::{complement, sum};
use std::net::Ipv6Addr;

/// Longest answer, as an Ethernet frame.
pub const LONGEST: usize = 14 + 40 + 8 + QUOTED;
/// Bytes of the packet that are quoted: its headers, and what tells its flow.
const QUOTED: usize = 128;

const IPV4: [u8; 2] = [0x08, 0x00];
const IPV6: [u8; 2] = [0x86, 0xdd];

/// Writes the frame that tells the sender of `frame`, an Ethernet frame, that its IP packets must not be longer than `mtu`
/// bytes; returns its length. `None` if it must not be answered: it isn't IP, it is an ICMP error itself, its source or
/// destination is no single host, or it is a later fragment (RFC 1122, section 3.2.2; RFC 4443, section 2.4).
pub fn answer(frame: &[u8], mtu: u16, out: &mut [u8; LONGEST]) -> Option<usize> {
    let (kind, packet) = (frame.get(12..14)?, frame.get(14..)?);
    if frame[0] & 1 == 1 {
        return None;
    }
    let length = if kind == IPV4 { answer_v4(packet, mtu, out)? } else { answer_v6(kind, packet, mtu, out)? };
    // Back to where it came from.
    out[..6].copy_from_slice(&frame[6..12]);
    out[6..12].copy_from_slice(&frame[..6]);
    out[12..14].copy_from_slice(kind);
    Some(length)
}

fn answer_v4(packet: &[u8], mtu: u16, out: &mut [u8; LONGEST]) -> Option<usize> {
    const ICMP: u8 = 1;
    let header = packet.get(..20)?;
    let fragment = u16::from_be_bytes([header[6], header[7]]) & 0x1fff;
    let (source, destination) = (header[12], header[16]);
    let is_error = header[9] == ICMP && !matches!(packet.get(usize::from(header[0] & 0xf) * 4)?, 0 | 8);
    if header[0] >> 4 != 4 || fragment != 0 || is_error || source >= 224 || destination >= 224 || source == 0
    {
        return None;
    }
    let quoted = &packet[..packet.len().min(QUOTED)];
    let total = 20 + 8 + quoted.len();
    let answer = &mut out[14..14 + total];
    answer[..20].copy_from_slice(&[0x45, 0xc0, 0, 0, 0, 0, 0, 0, 64, ICMP, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    answer[2..4].copy_from_slice(&u16::try_from(total).ok()?.to_be_bytes());
    answer[12..16].copy_from_slice(&header[16..20]);
    answer[16..20].copy_from_slice(&header[12..16]);
    let checksum = complement(sum(&answer[..20])).to_le_bytes();
    answer[10..12].copy_from_slice(&checksum);
    let icmp = &mut answer[20..];
    icmp[..8].copy_from_slice(&[3, 4, 0, 0, 0, 0, 0, 0]);
    icmp[6..8].copy_from_slice(&mtu.to_be_bytes());
    icmp[8..].copy_from_slice(quoted);
    let checksum = complement(sum(icmp)).to_le_bytes();
    icmp[2..4].copy_from_slice(&checksum);
    Some(14 + total)
}

fn answer_v6(kind: &[u8], packet: &[u8], mtu: u16, out: &mut [u8; LONGEST]) -> Option<usize> {
    const ICMP: u8 = 58;
    let header = packet.get(..40)?;
    let source = Ipv6Addr::from(<[u8; 16]>::try_from(&header[8..24]).ok()?);
    let is_error = header[6] == ICMP && *packet.get(40)? < 128;
    if kind != IPV6 || header[0] >> 4 != 6 || is_error || source.is_multicast() || source.is_unspecified() {
        return None;
    }
    let quoted = &packet[..packet.len().min(QUOTED)];
    let length = 8 + quoted.len();
    let answer = &mut out[14..14 + 40 + length];
    answer[..8].copy_from_slice(&[0x60, 0, 0, 0, 0, 0, ICMP, 64]);
    answer[4..6].copy_from_slice(&u16::try_from(length).ok()?.to_be_bytes());
    answer[8..24].copy_from_slice(&header[24..40]);
    answer[24..40].copy_from_slice(&header[8..24]);
    // The pseudo-header: both addresses, the length, the protocol (RFC 8200, section 8.1).
    let mut pseudo = [0; 40];
    pseudo[..32].copy_from_slice(&answer[8..40]);
    pseudo[32..36].copy_from_slice(&u32::try_from(length).ok()?.to_be_bytes());
    pseudo[39] = ICMP;
    let icmp = &mut answer[40..];
    icmp[..8].copy_from_slice(&[2, 0, 0, 0, 0, 0, 0, 0]);
    icmp[4..8].copy_from_slice(&u32::from(mtu).to_be_bytes());
    icmp[8..].copy_from_slice(quoted);
    let checksum = complement(sum(&pseudo) + sum(icmp)).to_le_bytes();
    icmp[2..4].copy_from_slice(&checksum);
    Some(14 + 40 + length)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame_v4(protocol: u8, rest: &[u8]) -> Vec<u8> {
        let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0];
        frame.extend([0x45, 0, 5, 0xdc, 1, 2, 0x40, 0, 64, protocol, 0, 0, 169, 254, 1, 1, 169, 254, 1, 2]);
        frame.extend(rest);
        frame
    }

    fn frame_v6(next: u8, rest: &[u8]) -> Vec<u8> {
        let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x86, 0xdd];
        frame.extend([0x60, 0, 0, 0, 5, 0xdc, next, 64]);
        let host = |last: u8| [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last];
        frame.extend([host(1), host(2)].concat());
        frame.extend(rest);
        frame
    }

    fn answered(frame: &[u8]) -> Option<Vec<u8>> {
        let mut out = [0xee; LONGEST];
        answer(frame, 1334, &mut out).map(|length| out[..length].to_vec())
    }

    #[test]
    fn the_sender_of_ipv4_is_told_how_much_fits() {
        let frame = frame_v4(17, &[7; 600]);
        let out = answered(&frame).unwrap();
        assert_eq!(out[..14], [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0]);
        assert_eq!(usize::from(u16::from_be_bytes([out[16], out[17]])), out.len() - 14);
        assert_eq!(out[26..34], [169, 254, 1, 2, 169, 254, 1, 1]);
        assert_eq!((out[23], out[34], out[35], u16::from_be_bytes([out[40], out[41]])), (1, 3, 4, 1334));
        assert_eq!((complement(sum(&out[14..34])), complement(sum(&out[34..]))), (0, 0));
        assert_eq!(out[42..], frame[14..14 + QUOTED]);
    }

    #[test]
    fn the_sender_of_ipv6_is_told_how_much_fits() {
        let frame = frame_v6(6, &[7; 601]);
        let out = answered(&frame).unwrap();
        assert_eq!(out[12..14], [0x86, 0xdd]);
        assert_eq!(usize::from(u16::from_be_bytes([out[18], out[19]])), out.len() - 54);
        assert_eq!((out[20], out[54], out[55]), (58, 2, 0));
        assert_eq!(out[58..62], 1334u32.to_be_bytes());
        let mut pseudo = out[22..54].to_vec();
        pseudo.extend([0, 0, 0, 8 + u8::try_from(QUOTED).unwrap(), 0, 0, 0, 58]);
        assert_eq!(complement(sum(&pseudo) + sum(&out[54..])), 0);
        assert_eq!(out[62..], frame[14..14 + QUOTED]);
    }

    #[test]
    fn errors_fragments_groups_and_strangers_are_not_answered() {
        assert!(answered(&frame_v4(1, &[8, 0, 0, 0])).is_some(), "an echo request is");
        assert_eq!(answered(&frame_v4(1, &[3, 4, 0, 0])), None);
        assert_eq!(answered(&frame_v6(58, &[1, 0, 0, 0])), None);
        assert!(answered(&frame_v6(58, &[128, 0, 0, 0])).is_some());
        let mut fragment = frame_v4(17, &[7; 600]);
        fragment[21] = 1;
        assert_eq!(answered(&fragment), None);
        let mut group = frame_v4(17, &[7; 600]);
        group[0] |= 1;
        assert_eq!(answered(&group), None);
        let mut arp = frame_v4(17, &[7; 600]);
        arp[13] = 6;
        assert_eq!(answered(&arp), None);
    }

    proptest! {
        #[test]
        fn no_bytes_crash_it(mut frame in prop::collection::vec(any::<u8>(), 0..200), v6: bool) {
            if frame.len() > 14 {
                let kind = if v6 { IPV6 } else { IPV4 };
                frame[12..14].copy_from_slice(&kind);
                frame[14] = if v6 { 0x60 } else { 0x45 };
            }
            let _ = answered(&frame);
        }
    }
}
