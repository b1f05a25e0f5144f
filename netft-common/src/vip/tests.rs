//! Who is named in which frame; the rules of the fence itself have their tests there.

extern crate std;

use super::*;
use crate::packet::mapped;
use std::vec::Vec;

const VIP: [u8; 4] = [10, 77, 2, 100];
const OTHER: [u8; 4] = [10, 77, 2, 9];
const VIP6: [u8; 16] = [0xfd, 0x77, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0];
const OTHER6: [u8; 16] = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9];

fn words(address: [u8; 16]) -> [u64; 2] {
    bytemuck::cast(address)
}

fn ethernet(tags: &[[u8; 2]], ethertype: [u8; 2], rest: &[u8]) -> Vec<u8> {
    let mut frame = std::vec![2; 12];
    for tag in tags {
        frame.extend([tag[0], tag[1], 0, 7]);
    }
    frame.extend(ethertype);
    frame.extend(rest);
    frame
}

fn arp(sender: [u8; 4], target: [u8; 4]) -> Vec<u8> {
    let mut arp = std::vec![0, 1, 8, 0, 6, 4, 0, 1];
    arp.extend([2; 6]);
    arp.extend(sender);
    arp.extend([0; 6]);
    arp.extend(target);
    arp
}

fn ipv4(source: [u8; 4], destination: [u8; 4]) -> Vec<u8> {
    let mut ip = std::vec![0x46, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0];
    ip.extend(source);
    ip.extend(destination);
    ip.extend([0; 24]);
    ip
}

fn ipv6(next_header: u8, source: [u8; 16], destination: [u8; 16], rest: &[u8]) -> Vec<u8> {
    let mut ip = std::vec![0x60, 0, 0, 0, 0, 24, next_header, 255];
    ip.extend(source);
    ip.extend(destination);
    ip.extend(rest);
    ip
}

fn discovery(kind: u8, target: [u8; 16]) -> Vec<u8> {
    let mut message = std::vec![kind, 0, 0, 0, 0, 0, 0, 0];
    message.extend(target);
    message
}

const TAGS: [&[[u8; 2]]; 4] = [&[], &[[0x81, 0]], &[[0x88, 0xa8]], &[[0x88, 0xa8], [0x81, 0]]];

#[test]
fn the_source_speaks_and_the_destination_is_meant_with_and_without_tags() {
    for tags in TAGS {
        let frame = ethernet(tags, [8, 0], &ipv4(VIP, OTHER));
        assert_eq!(speaker(&frame[..]).header, words(mapped(VIP)));
        assert_eq!(meant(&frame[..]).header, words(mapped(OTHER)));
        let frame = ethernet(tags, [8, 6], &arp(VIP, OTHER));
        assert_eq!(speaker(&frame[..]).header, words(mapped(VIP)));
        assert_eq!(meant(&frame[..]).header, words(mapped(OTHER)));
        let frame = ethernet(tags, [0x86, 0xdd], &ipv6(6, VIP6, OTHER6, &[0; 24]));
        assert_eq!(speaker(&frame[..]), Named { header: words(VIP6), target: [0, 0] });
        assert_eq!(meant(&frame[..]), Named { header: words(OTHER6), target: [0, 0] });
    }
}

#[test]
fn neighbour_discovery_names_its_target_as_well() {
    for tags in TAGS {
        let advertisement = ipv6(58, OTHER6, OTHER6, &discovery(136, VIP6));
        let frame = ethernet(tags, [0x86, 0xdd], &advertisement);
        assert_eq!(speaker(&frame[..]), Named { header: words(OTHER6), target: words(VIP6) });
        assert_eq!(meant(&frame[..]).target, [0, 0], "who is told, not who is asked");
        let frame = ethernet(tags, [0x86, 0xdd], &ipv6(58, OTHER6, OTHER6, &discovery(135, VIP6)));
        assert_eq!(speaker(&frame[..]).target, [0, 0], "a client may ask");
        assert_eq!(meant(&frame[..]).target, words(VIP6));
    }
}

#[test]
fn frames_that_end_too_early_or_are_something_else_name_nobody() {
    let whole = ethernet(&[], [8, 0], &ipv4(VIP, OTHER));
    for length in 0..30 {
        assert_eq!(speaker(&whole[..length]), Named::default(), "{length} bytes");
    }
    let whole = ethernet(&[], [0x86, 0xdd], &ipv6(58, OTHER6, OTHER6, &discovery(136, VIP6)));
    assert_eq!(speaker(&whole[..77]).target, [0, 0]);
    let mut tokens = arp(VIP, OTHER);
    tokens[5] = 16;
    assert_eq!(speaker(&ethernet(&[], [8, 6], &tokens)[..]), Named::default());
    assert_eq!(speaker(&ethernet(&[], [0x88, 0xcc], &ipv4(VIP, OTHER))[..]), Named::default());
}
