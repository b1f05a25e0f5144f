//! Claims: frames that say "this address is at this MAC" to everybody on its network.

use netft_core::types::Nanos;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// When claims are repeated, after the first: switches and hosts lose frames, and learn at different moments.
pub const REPEATS_NS: [Nanos; 4] = [1_000_000, 10_000_000, 100_000_000, 1_000_000_000];

const BROADCAST: [u8; 6] = [0xff; 6];
/// RFC 2464, section 7, of ff02::1.
const ALL_NODES_MAC: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// The frames that claim an address, in order. Both kinds of ARP, as some hosts and switches take only one of them.
pub fn frames(address: IpAddr, mac: [u8; 6]) -> Vec<Vec<u8>> {
    match address {
        IpAddr::V4(address) => vec![arp(1, address, mac), arp(2, address, mac)],
        IpAddr::V6(address) => vec![advertisement(address, mac)],
    }
}

/// RFC 826; RFC 5227, section 3, of announcements: sender and target are the address itself.
fn arp(operation: u16, address: Ipv4Addr, mac: [u8; 6]) -> Vec<u8> {
    let target = if operation == 1 { [0; 6] } else { mac };
    let mut frame = [BROADCAST, mac].concat();
    frame.extend([0x08, 0x06, 0, 1, 0x08, 0x00, 6, 4]);
    frame.extend(operation.to_be_bytes());
    frame.extend(mac);
    frame.extend(address.octets());
    frame.extend(target);
    frame.extend(address.octets());
    frame
}

/// RFC 4861, sections 4.4 and 7.2.6: unsolicited, with Override, to all nodes.
fn advertisement(address: Ipv6Addr, mac: [u8; 6]) -> Vec<u8> {
    const NEXT_HEADER: u8 = 58;
    const OVERRIDE: u8 = 0x20;
    let mut message = vec![136, 0, 0, 0, OVERRIDE, 0, 0, 0];
    message.extend(address.octets());
    message.extend([2, 1]);
    message.extend(mac);
    let length = u8::try_from(message.len()).unwrap_or(u8::MAX);
    let pseudo =
        [&address.octets()[..], &ALL_NODES.octets(), &[0, 0, 0, length, 0, 0, 0, NEXT_HEADER], &message]
            .concat();
    message[2..4].copy_from_slice(&checksum(&pseudo).to_be_bytes());
    let mut frame = [ALL_NODES_MAC, mac].concat();
    frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, length, NEXT_HEADER, 255]);
    frame.extend(address.octets());
    frame.extend(ALL_NODES.octets());
    frame.extend(message);
    frame
}

/// RFC 1071.
fn checksum(bytes: &[u8]) -> u16 {
    let word = |pair: &[u8]| u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
    let mut sum: u32 = bytes.chunks(2).map(word).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use netft_common::vip::speaker;

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 7];

    #[test]
    fn the_fence_sees_whom_a_claim_speaks_for() {
        let mapped = |address: IpAddr| netft_core::types::address_bytes(address);
        for (address, count) in [("10.0.1.100", 2), ("fd00::100", 1)] {
            let address: IpAddr = address.parse().unwrap();
            let frames = frames(address, MAC);
            assert_eq!(frames.len(), count);
            for frame in frames {
                assert_eq!(frame[6..12], MAC);
                let named = speaker(frame.as_slice());
                let header: [u8; 16] = bytemuck::cast(named.header);
                assert_eq!(header, mapped(address));
                if address.is_ipv6() {
                    assert_eq!(bytemuck::cast::<_, [u8; 16]>(named.target), mapped(address));
                }
            }
        }
    }

    #[test]
    fn an_advertisement_has_a_right_checksum() {
        let IpAddr::V6(address) = "fd00::100".parse().unwrap() else { panic!("IPv6") };
        let frame = advertisement(address, MAC);
        assert_eq!(frame.len(), 14 + 40 + 32);
        let message = &frame[54..];
        let pseudo = [&frame[22..54], &[0, 0, 0, 32, 0, 0, 0, 58], message].concat();
        assert_eq!(checksum(&pseudo), 0, "the sum over a right one is 0");
    }
}
