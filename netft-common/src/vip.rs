//! Whom a frame speaks for, or is meant for, as far as VIPs go: what XDP and TC ask [`crate::fence`] about.
//!
//! Ethernet with at most two VLAN tags, IPv4, ARP (RFC 826), IPv6 and neighbour discovery (RFC 4861) without extension
//! headers, as Linux sends it. Only headers are looked at, so one look judges a whole super-packet.

use crate::fence::{Closed, FenceTables, Frame, check, is_judged, is_owner, mac_word};
use crate::heartbeat::Tables;
use crate::map::Counter;
use crate::packet::{Packet, mapped_words};

/// Which way a frame goes through the fence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    /// Who speaks: the source.
    Speaker,
    /// Who is meant: the destination.
    Meant,
}

/// Addresses in a frame that may be VIPs, IPv4 as `::ffff:a.b.c.d`; all zero = none. Words, as byte arrays end up misaligned
/// on eBPF's stack.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Named {
    /// Of the IP or ARP header.
    pub header: [u64; 2],
    /// What a neighbour solicitation or advertisement is about.
    pub target: [u64; 2],
}

const NOBODY: [u64; 2] = [0, 0];
const NO_VIP: u32 = u32::MAX;
const GROUP_BIT: u8 = 1;
const ETHERTYPE: usize = 12;
const ETHERNET_LEN: usize = 14;
const TAG_LEN: usize = 4;
const ETHERTYPE_IPV4: u16 = 0x0800u16.to_be();
const ETHERTYPE_ARP: u16 = 0x0806u16.to_be();
const ETHERTYPE_IPV6: u16 = 0x86ddu16.to_be();
const ETHERTYPE_VLAN: u16 = 0x8100u16.to_be();
const ETHERTYPE_SERVICE_VLAN: u16 = 0x88a8u16.to_be();
/// RFC 826: what protocol addresses are, and how long both kinds of addresses are (Ethernet 6, IPv4 4).
const ARP_OF_IPV4: u32 = u32::from_ne_bytes([0x08, 0x00, 6, 4]);
const PROTOCOL_ICMPV6: u8 = 58;
/// RFC 4861 sections 4.3 and 4.4.
const NEIGHBOUR_SOLICITATION: u8 = 135;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;

/// For whom a frame speaks: its IP source, an ARP frame's sender, and the target of a neighbour advertisement.
#[inline(always)]
pub fn speaker<P: Packet + ?Sized>(packet: &P) -> Named {
    named(packet, Side::Speaker).unwrap_or_default()
}

/// For whom a frame is meant: its IP destination, an ARP frame's target, and the target of a neighbour solicitation.
#[inline(always)]
pub fn meant<P: Packet + ?Sized>(packet: &P) -> Named {
    named(packet, Side::Meant).unwrap_or_default()
}

#[inline(always)]
fn named<P: Packet + ?Sized>(packet: &P, side: Side) -> Option<Named> {
    let mut at = ETHERNET_LEN;
    let mut ethertype: u16 = packet.load(ETHERTYPE)?;
    if is_tag(ethertype) {
        at += TAG_LEN;
        ethertype = packet.load(ETHERTYPE + TAG_LEN)?;
        if is_tag(ethertype) {
            at += TAG_LEN;
            ethertype = packet.load(ETHERTYPE + 2 * TAG_LEN)?;
        }
    }
    match ethertype {
        ETHERTYPE_IPV4 => {
            let address: u32 = packet.load(at + if side == Side::Speaker { 12 } else { 16 })?;
            Some(Named { header: mapped_words(address), target: NOBODY })
        }
        ETHERTYPE_ARP => arp(packet, at, side),
        ETHERTYPE_IPV6 => ipv6(packet, at, side),
        _ => None,
    }
}

#[inline(always)]
const fn is_tag(ethertype: u16) -> bool {
    ethertype == ETHERTYPE_VLAN || ethertype == ETHERTYPE_SERVICE_VLAN
}

/// Read word by word: what is copied from a frame in TC as a struct ends up misaligned on eBPF's stack.
#[inline(always)]
fn arp<P: Packet + ?Sized>(packet: &P, at: usize, side: Side) -> Option<Named> {
    let formats: u32 = packet.load(at + 2)?;
    if formats != ARP_OF_IPV4 {
        return None;
    }
    let address: u32 = packet.load(at + if side == Side::Speaker { 14 } else { 24 })?;
    Some(Named { header: mapped_words(address), target: NOBODY })
}

#[inline(always)]
fn ipv6<P: Packet + ?Sized>(packet: &P, at: usize, side: Side) -> Option<Named> {
    let next_header: u8 = packet.load(at + 6)?;
    let header: [u64; 2] = packet.load(at + if side == Side::Speaker { 8 } else { 24 })?;
    let about = if side == Side::Speaker { NEIGHBOUR_ADVERTISEMENT } else { NEIGHBOUR_SOLICITATION };
    let is_about = next_header == PROTOCOL_ICMPV6 && packet.load::<u8>(at + 40) == Some(about);
    let target = if is_about { packet.load(at + 48).unwrap_or(NOBODY) } else { NOBODY };
    Some(Named { header, target })
}

/// Whether a frame may leave this host. For TC at an interface's way out: `came_in_by` is the interface by which the frame
/// came in, 0 = it was made here.
///
/// # Errors
/// Why it is to be dropped.
#[inline(always)]
pub fn may_leave<P: Packet + ?Sized, T: Tables + FenceTables>(
    packet: &P,
    tables: &T,
    came_in_by: u32,
) -> Result<(), Closed> {
    if !has_vips(tables) {
        return Ok(());
    }
    let frame = if came_in_by == 0 { Frame::Local } else { Frame::Transit };
    if frame == Frame::Transit {
        return Ok(());
    }
    passes(tables, &speaker(packet), frame)
}

/// Whether a frame that has come in may go on to the kernel. For XDP: a frame to another host's MAC isn't judged, nor one to
/// a group, which on a bridge is for others as well; what the kernel says to the latter meets the fence on its way out.
///
/// # Errors
/// Why it is to be dropped.
#[inline(always)]
pub fn may_enter<P: Packet + ?Sized, T: Tables + FenceTables>(packet: &P, tables: &T) -> Result<(), Closed> {
    if !has_vips(tables) {
        return Ok(());
    }
    may_enter_here(packet, tables).or_else(|closed| match packet.load::<[u8; 6]>(0) {
        Some(mac) if mac[0] & GROUP_BIT == 0 && tables.is_own_mac(mac_word(mac)) => Err(closed),
        _ => Ok(()),
    })
}

/// The same, for whoever knows that the frame was sent to this host's own MAC.
///
/// # Errors
/// Why it is to be dropped.
#[inline(always)]
pub fn may_enter_here<P: Packet + ?Sized, T: Tables + FenceTables>(
    packet: &P,
    tables: &T,
) -> Result<(), Closed> {
    if !has_vips(tables) {
        return Ok(());
    }
    passes(tables, &meant(packet), Frame::ToOwnMac)
}

#[inline(always)]
fn has_vips<T: FenceTables>(tables: &T) -> bool {
    tables.fence().is_some_and(|fence| tables.load(&fence.addresses) != 0)
}

/// Both addresses must pass. All but the ownership is the same for both, and is looked at once: that is much for the verifier.
#[inline(always)]
fn passes<T: Tables + FenceTables>(tables: &T, named: &Named, frame: Frame) -> Result<(), Closed> {
    let (header, target) = (judged(tables, &named.header, frame), judged(tables, &named.target, frame));
    if header == NO_VIP && target == NO_VIP {
        return Ok(());
    }
    check(tables, if header == NO_VIP { target } else { header }, tables.now_ns())?;
    if target == NO_VIP { Ok(()) } else { is_owner(tables, target) }
}

/// The number of the VIP with this address, if frames of this kind are judged. (A number, as LLVM copies what isn't in an `Option`,
/// too, which the verifier doesn't like.)
#[inline(always)]
fn judged<T: FenceTables>(tables: &T, address: &[u64; 2], frame: Frame) -> u32 {
    if *address == NOBODY {
        return NO_VIP;
    }
    match tables.vip(address) {
        Some(entry) if is_judged(entry, frame) => entry.vip,
        _ => NO_VIP,
    }
}

impl From<Closed> for Counter {
    #[inline(always)]
    fn from(closed: Closed) -> Self {
        match closed {
            Closed::NotReady => Self::FenceNotReady,
            Closed::EngineStalled => Self::FenceEngineStalled,
            Closed::NoMajority => Self::FenceNoMajority,
            Closed::NotOwner => Self::FenceNotOwner,
        }
    }
}

#[cfg(test)]
mod tests;
