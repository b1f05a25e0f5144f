//! Classification of hand-made frames and the reply's bytes.

extern crate std;

use super::*;
use std::vec::Vec;

const CLUSTER: u32 = 0x0a0b_0c0d;

fn leg() -> Heartbeat {
    let mut leg: Heartbeat = Zeroable::zeroed();
    leg.header.magic = wire::MAGIC;
    leg.header.version = wire::VERSION;
    leg.header.kind = kind::REQUEST;
    leg.header.cluster_id = CLUSTER;
    leg.header.sequence = 0x0102_0304_0506_0708;
    leg
}

fn frame(ethertype: &[u8], ip: &[u8], udp_len: u16, message: &[u8]) -> Vec<u8> {
    let mut bytes = std::vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];
    bytes.extend_from_slice(ethertype);
    bytes.extend_from_slice(ip);
    bytes.extend_from_slice(&[0x0d, 0x0f, 0x0d, 0x0f]);
    bytes.extend_from_slice(&udp_len.to_be_bytes());
    bytes.extend_from_slice(&[0, 0]);
    bytes.extend_from_slice(message);
    bytes
}

fn ipv4(total_len: u16) -> [u8; 20] {
    let [high, low] = total_len.to_be_bytes();
    [0x45, 0xc0, high, low, 1, 2, 0x40, 0, 64, 17, 0, 0, 10, 77, 1, 1, 10, 77, 1, 2]
}

fn ipv6(next: u8, payload_len: u16) -> [u8; 40] {
    let mut ip = [0; 40];
    ip[0] = 0x6c;
    ip[3] = 7;
    ip[4..6].copy_from_slice(&payload_len.to_be_bytes());
    ip[6] = next;
    ip[7] = 1;
    (ip[8], ip[23], ip[24], ip[39]) = (0xfd, 1, 0xfd, 2);
    ip
}

fn plain4() -> Vec<u8> {
    frame(&[8, 0], &ipv4(116), 96, bytemuck::bytes_of(&leg()))
}

fn plain6() -> Vec<u8> {
    frame(&[0x86, 0xdd], &ipv6(17, 96), 96, bytemuck::bytes_of(&leg()))
}

fn class(bytes: &[u8]) -> Class {
    classify(bytes, CLUSTER, Versions::OURS)
}

/// RFC 1071, as plainly as can be.
fn checksum(bytes: &[u8]) -> u16 {
    let mut sum = 0u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap()
}

#[test]
fn a_leg_is_found_in_ipv4_ipv6_and_behind_one_tag() {
    let Class::Leg(found) = class(&plain4()) else { panic!() };
    assert_eq!((found.network, found.message, found.shape), (14, 42, Shape::Plain));
    let expected = Addresses::new(mapped([10, 77, 1, 1]), mapped([10, 77, 1, 2]));
    assert_eq!(found.addresses(&plain4()[..]), Some(expected));
    let Class::Leg(found) = class(&plain6()) else { panic!() };
    assert_eq!((found.network, found.message, found.family), (14, 62, Family::V6));
    let tagged = frame(&[0x81, 0, 0xa0, 9, 8, 0], &ipv4(116), 96, bytemuck::bytes_of(&leg()));
    let Class::Leg(found) = class(&tagged) else { panic!() };
    assert_eq!((found.network, found.message), (18, 46));
}

#[test]
fn every_prefix_of_a_frame_is_classified_without_harm() {
    for bytes in [plain4(), plain6()] {
        for len in 0..bytes.len() {
            let found = class(&bytes[..len]);
            assert!(matches!(found, Class::Other | Class::Malformed(_, Malformed::Truncated)), "{len}");
        }
        let mut padded = bytes.clone();
        padded.extend_from_slice(&[0xff; 6]);
        assert!(matches!(class(&padded), Class::Leg(_)), "trailing padding is tolerated");
    }
}

#[test]
fn anything_but_our_port_magic_and_cluster_is_left_alone() {
    // Offset, value: group MACs, ethertype, IP version, protocol, later fragment, ports, magic.
    for (at, value) in
        [(0, 3), (6, 3), (12, 9), (14, 0x55), (14, 0x44), (23, 6), (21, 1), (35, 0), (37, 0), (42, 0)]
    {
        let mut bytes = plain4();
        bytes[at] = value;
        assert_eq!(class(&bytes), Class::Other, "byte {at} = {value}");
    }
    let mut bytes = plain4();
    bytes[50] ^= 1;
    assert_eq!(class(&bytes), Class::OtherCluster);
    let double = frame(&[0x81, 0, 0, 9, 0x81, 0, 0, 9, 8, 0], &ipv4(116), 96, bytemuck::bytes_of(&leg()));
    assert_eq!(class(&double), Class::Other);
}

#[test]
fn versions_kinds_and_lengths_are_judged() {
    let malformed = |at: usize, value: u8| {
        let mut bytes = plain4();
        bytes[at] = value;
        match class(&bytes) {
            Class::Malformed(_, malformed) => Some(malformed),
            _ => None,
        }
    };
    assert_eq!(malformed(46, wire::VERSION + 1), Some(Malformed::Version));
    assert_eq!(malformed(47, 0), Some(Malformed::Kind));
    assert_eq!(malformed(47, 5), Some(Malformed::Kind));
    assert_eq!(malformed(39, 95), Some(Malformed::Truncated), "UDP length");
    assert_eq!(malformed(39, 97), Some(Malformed::Truncated), "UDP length");
    assert_eq!(malformed(17, 115), Some(Malformed::Truncated), "IP length");
    assert_eq!(malformed(17, 10), Some(Malformed::Truncated), "IP length below its header");
    for kind in [kind::HELLO, kind::DATA, kind::PROBE] {
        let mut bytes = plain4();
        bytes[47] = kind;
        bytes[46] = wire::VERSION + 1;
        let other = class(&bytes);
        assert_eq!(
            matches!(other, Class::Userspace(_)),
            kind == kind::HELLO,
            "only hellos of other versions"
        );
        bytes[46] = wire::VERSION;
        if kind == kind::HELLO {
            assert!(matches!(class(&bytes), Class::Userspace(found) if found.message == 42));
        } else {
            assert!(matches!(class(&bytes), Class::Data(found) if found.message == 42), "{kind}");
            // The first fragment of a larger datagram: only the kernel can put it together.
            bytes[20] |= 0x20;
            assert!(matches!(class(&bytes), Class::Userspace(found) if found.message == 42));
        }
        assert!(matches!(class(&bytes[..70]), Class::Malformed(_, Malformed::Truncated)));
    }
}

#[test]
fn fragments_options_and_extension_headers_are_odd() {
    let odd = |bytes: &[u8]| match class(bytes) {
        Class::Leg(frame) => Some((frame.shape, frame.message)),
        _ => None,
    };
    let message = leg();
    let message = bytemuck::bytes_of(&message);
    let mut first_fragment = ipv4(68);
    first_fragment[6] = 0x20;
    assert_eq!(odd(&frame(&[8, 0], &first_fragment, 96, &message[..40])), Some((Shape::Odd, 42)));
    let mut options = ipv4(120).to_vec();
    options[0] = 0x46;
    options.extend_from_slice(&[1, 1, 1, 0]);
    assert_eq!(odd(&frame(&[8, 0], &options, 96, message)), Some((Shape::Odd, 46)));
    for (next, len) in [(0u8, 0u8), (43, 2), (60, 1), (44, 0)] {
        let mut ip = ipv6(next, 96 + 8 + 8 * u16::from(len)).to_vec();
        ip.extend_from_slice(&[17, len, 0, 1, 0, 0, 0, 0]);
        ip.extend_from_slice(&std::vec![0; 8 * usize::from(len)]);
        let expected = Some((Shape::Odd, 70 + 8 * usize::from(len)));
        assert_eq!(odd(&frame(&[0x86, 0xdd], &ip, 96, message)), expected, "next header {next}");
    }
    let mut later = ipv6(44, 104).to_vec();
    later.extend_from_slice(&[17, 0, 0, 9, 0, 0, 0, 0]);
    assert_eq!(class(&frame(&[0x86, 0xdd], &later, 96, message)), Class::Other);
}

#[test]
fn a_reply_has_its_ends_swapped_and_its_checksums_right() {
    for (mut bytes, header_len) in [(plain4(), 20), (plain6(), 40)] {
        bytes.extend_from_slice(&[0xee; 4]);
        let request = bytes.clone();
        let Class::Leg(found) = class(&bytes) else { panic!() };
        let mut reply = leg();
        reply.header.kind = kind::REPLY;
        let there = found.addresses(&bytes[..]).unwrap();
        write_reply(&mut bytes[..], &found, &there, &reply).expect("fits");

        assert_eq!(bytes.len(), request.len());
        assert_eq!(&bytes[..6], &request[6..12]);
        assert_eq!(&bytes[6..12], &request[..6]);
        assert_eq!(&bytes[bytes.len() - 4..], &[0xee; 4]);
        let Class::Leg(back) = class(&bytes) else { panic!() };
        let back_addresses = back.addresses(&bytes[..]).unwrap();
        assert_eq!((back_addresses.source, back_addresses.destination), (there.destination, there.source));
        assert_eq!(bytes[..].load::<Heartbeat>(back.message), Some(reply));

        let ip = &bytes[14..14 + header_len];
        let mut pseudo = if header_len == 20 {
            assert_eq!(checksum(ip), 0);
            assert_eq!((ip[1], ip[8]), (48 << 2, 64));
            ip[12..20].to_vec()
        } else {
            assert_eq!((ip[0], ip[1], ip[7]), (0x6c, 0, 64));
            ip[8..40].to_vec()
        };
        pseudo.extend_from_slice(&[0, 17, 0, 96]);
        pseudo.extend_from_slice(&bytes[14 + header_len..14 + header_len + 96]);
        assert_eq!(checksum(&pseudo), 0);
    }
}

#[test]
fn a_checksum_of_zero_is_sent_as_ones() {
    let mut bytes = plain6();
    let Class::Leg(found) = class(&bytes) else { panic!() };
    let mut reply = leg();
    let there = found.addresses(&bytes[..]).unwrap();
    write_reply(&mut bytes[..], &found, &there, &reply).expect("fits");
    // What is missing to 0xffff goes into two free bytes: the sum becomes all ones, its complement 0.
    let missing = u16::from_le_bytes([bytes[60], bytes[61]]);
    reply.tag = u64::from(missing);
    write_reply(&mut bytes[..], &found, &there, &reply).expect("fits");
    assert_eq!(&bytes[60..62], &[0xff, 0xff]);
}
