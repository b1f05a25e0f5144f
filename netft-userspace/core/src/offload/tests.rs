//! Cut and merge against a naive reference, and against each other.

use super::*;
use proptest::prelude::*;

const MACS: [u8; 12] = [2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];
const FIN: u8 = 0x01;
const PSH: u8 = 0x08;
const ACK: u8 = 0x10;
const ECE: u8 = 0x40;
const CWR: u8 = 0x80;

/// A packet as a kernel's stack would make it.
#[derive(Clone, Debug)]
struct Made {
    family: Family,
    transport: Transport,
    vlans: usize,
    /// Words of TCP options.
    options: usize,
    flags: u8,
    id: u16,
    sequence: u32,
    port: u8,
    payload: Vec<u8>,
    segment: u16,
}

impl Made {
    fn tcp(payload: usize, segment: u16) -> Self {
        Self {
            family: Family::V4,
            transport: Transport::Tcp,
            vlans: 0,
            options: 3,
            flags: ACK,
            id: 65_533,
            sequence: u32::MAX - 2000,
            port: 1,
            payload: (0..payload).map(|i| (i * 7 + i / 251).to_le_bytes()[0]).collect(),
            segment,
        }
    }

    fn ip_at(&self) -> usize {
        14 + 4 * self.vlans
    }

    fn transport_at(&self) -> usize {
        self.ip_at() + if self.family == Family::V4 { 20 } else { 40 }
    }

    /// The packet, its checksum partial.
    fn bytes(&self) -> Vec<u8> {
        let mut bytes = MACS.to_vec();
        for tag in 0..self.vlans {
            bytes.extend([if tag == 0 { 0x88 } else { 0x81 }, if tag == 0 { 0xa8 } else { 0x00 }, 0, 7]);
        }
        let transport = self.transport_bytes();
        let length = u16::try_from(transport.len()).unwrap();
        let protocol = if self.transport == Transport::Tcp { 6 } else { 17 };
        match self.family {
            Family::V4 => {
                let [id, total] = [self.id, length + 20].map(u16::to_be_bytes);
                bytes.extend([8, 0, 0x45, 2, total[0], total[1], id[0], id[1], 0x40, 0, 63, protocol, 0, 0]);
                bytes.extend([169, 254, 1, 1, 169, 254, 1, 2]);
                let at = self.ip_at();
                let checksum = !naive_sum(&[&bytes[at..]]);
                bytes[at + 10..at + 12].copy_from_slice(&checksum.to_be_bytes());
            }
            Family::V6 => {
                let length = length.to_be_bytes();
                bytes.extend([0x86, 0xdd, 0x60, 0x2f, 0xff, 0xff, length[0], length[1], protocol, 63]);
                bytes.extend([0xfe; 16]);
                bytes.extend([0xfd; 16]);
            }
        }
        bytes.extend(transport);
        let partial = pseudo_sum(&bytes, self.family, self.ip_at(), self.transport_at());
        let at = self.transport_at() + usize::from(self.transport.checksum_offset());
        bytes[at..at + 2].copy_from_slice(&partial.to_be_bytes());
        bytes
    }

    fn transport_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0x12, 0x34, 0x56, self.port];
        match self.transport {
            Transport::Tcp => {
                bytes.extend(self.sequence.to_be_bytes());
                let words = u8::try_from(5 + self.options).unwrap();
                bytes.extend([9, 9, 9, 9, words << 4, self.flags, 0x7f, 0xff, 0, 0, 0, 0]);
                bytes.extend(std::iter::repeat_n([1, 1, 8, 10], self.options).flatten());
            }
            Transport::Udp => {
                let length = u16::try_from(8 + self.payload.len()).unwrap();
                bytes.extend(length.to_be_bytes());
                bytes.extend([0, 0]);
            }
        }
        bytes.extend(&self.payload);
        bytes
    }

    fn header(&self) -> VirtioHeader {
        let plain = VirtioHeader {
            flags: VirtioHeader::NEEDS_CHECKSUM,
            checksum_start: u16::try_from(self.transport_at()).unwrap(),
            checksum_offset: self.transport.checksum_offset(),
            ..VirtioHeader::default()
        };
        if self.payload.len() <= self.segment.into() {
            return plain;
        }
        let (header, gso_type) = match (self.transport, self.family) {
            (Transport::Tcp, Family::V4) => (20 + 4 * self.options, gso::TCP_V4),
            (Transport::Tcp, Family::V6) => (20 + 4 * self.options, gso::TCP_V6),
            (Transport::Udp, _) => (8, gso::UDP),
        };
        let header_len = u16::try_from(self.transport_at() + header).unwrap();
        VirtioHeader { gso_type, header_len, segment_len: self.segment, ..plain }
    }

    /// What must come of it: each frame made by itself.
    fn frames(&self) -> Vec<Vec<u8>> {
        let count = self.payload.len().div_ceil(self.segment.into()).max(1);
        let frame = |index: usize| {
            let from = index * usize::from(self.segment);
            let to = (from + usize::from(self.segment)).min(self.payload.len());
            let mut flags = self.flags;
            flags &= if index > 0 { !CWR } else { !0 };
            flags &= if index + 1 < count { !(FIN | PSH) } else { !0 };
            let made = Self {
                flags,
                id: self.id.wrapping_add(u16::try_from(index).unwrap()),
                sequence: self.sequence.wrapping_add(u32::try_from(from).unwrap()),
                payload: self.payload[from..to].to_vec(),
                ..self.clone()
            };
            made.bytes()
        };
        (0..count).map(frame).collect()
    }
}

/// RFC 1071 as plainly as can be.
fn naive_sum(parts: &[&[u8]]) -> u16 {
    let mut sum = 0u32;
    for pair in parts.concat().chunks(2) {
        sum += u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).unwrap()
}

fn pseudo_sum(frame: &[u8], family: Family, ip_at: usize, transport_at: usize) -> u16 {
    let (protocol, addresses) = match family {
        Family::V4 => (frame[ip_at + 9], &frame[ip_at + 12..ip_at + 20]),
        Family::V6 => (frame[ip_at + 6], &frame[ip_at + 8..ip_at + 40]),
    };
    let length = u16::try_from(frame.len() - transport_at).unwrap().to_be_bytes();
    naive_sum(&[addresses, &[0, protocol], &length])
}

/// As any receiver on a wire checks it.
fn assert_checksums_are_right(frame: &[u8]) {
    let layout = Layout::of(frame).expect("a whole frame");
    let Layout { family, ip_at, transport_at, .. } = layout;
    if family == Family::V4 {
        assert_eq!(naive_sum(&[&frame[ip_at..transport_at]]), 0xffff, "IPv4 header");
    }
    let pseudo = pseudo_sum(frame, family, ip_at, transport_at).to_be_bytes();
    assert_eq!(naive_sum(&[&pseudo, &frame[transport_at..]]), 0xffff, "transport");
    if layout.transport == Transport::Udp {
        assert_ne!(frame[transport_at + 6..transport_at + 8], [0, 0], "0 means none");
    }
}

fn cut(cut: &Cut<'_>) -> Vec<Vec<u8>> {
    let frame = |index| {
        let mut frame = vec![0xee; cut.frame_len(index)];
        cut.write(index, &mut frame);
        frame
    };
    (0..cut.len()).map(frame).collect()
}

type Written = (VirtioHeader, Vec<u8>, usize);

fn merge(merger: &mut Merger, frames: &[Vec<u8>]) -> Vec<Written> {
    let mut written = Vec::new();
    let mut bytes = 0;
    let mut emit = |packet: Packet<'_>| {
        bytes += packet.frame_bytes();
        written.push((packet.header, packet.bytes.to_vec(), packet.frames));
    };
    for frame in frames {
        merger.push(frame, Checksum::Partial, &mut emit).unwrap();
    }
    merger.flush(&mut emit);
    assert_eq!(bytes, frames.iter().map(Vec::len).sum::<usize>());
    written
}

fn made() -> impl Strategy<Value = Made> {
    let kind = (any::<bool>(), any::<bool>(), 0usize..3, 0usize..11);
    let flags = prop::sample::subsequence(vec![FIN, PSH, ECE, CWR], 0..4);
    (kind, flags, any::<u16>(), any::<u32>(), 0usize..20_000, 1u16..2000).prop_map(
        |((v6, udp, vlans, options), flags, id, sequence, length, segment)| {
            let mut made = Made::tcp(length, segment.max(u16::try_from(length / 64 + 1).unwrap()));
            made.family = if v6 { Family::V6 } else { Family::V4 };
            made.transport = if udp { Transport::Udp } else { Transport::Tcp };
            (made.vlans, made.options, made.id, made.sequence) = (vlans, options, id, sequence);
            made.flags = flags.iter().fold(ACK, |all, flag| all | flag);
            made
        },
    )
}

proptest! {
    #[test]
    fn a_cut_makes_the_frames_that_the_stack_would_have_made(made in made()) {
        let packet = made.bytes();
        let whole = Cut::new(&made.header(), &packet).unwrap();
        prop_assert_eq!(whole.checksum(), Checksum::Partial);
        let frames = cut(&whole);
        prop_assert_eq!(&frames, &made.frames());
        let completed = cut(&whole.completed());
        prop_assert_eq!(completed.len(), frames.len());
        for frame in completed {
            assert_checksums_are_right(&frame);
        }
    }

    #[test]
    fn what_was_cut_is_merged_to_the_same_bytes(mut made in made()) {
        made.flags &= !CWR;
        let packet = made.bytes();
        let frames = cut(&Cut::new(&made.header(), &packet).unwrap());
        let written = merge(&mut Merger::new(Datagrams::Merged), &frames);
        prop_assert_eq!(written, vec![(made.header(), packet, frames.len())]);
    }

    /// Whatever comes in whatever order: nothing is lost, changed, doubled or moved.
    #[test]
    fn what_was_merged_is_cut_to_the_same_frames(
        flow in prop::collection::vec((made(), prop::option::of((any::<prop::sample::Index>(), any::<prop::sample::Index>(), 0u8..8))), 1..5),
        swaps in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 0..3),
    ) {
        let mut frames = Vec::new();
        for (made, change) in flow {
            let mut of_this = made.frames();
            if let Some((frame, byte, bit)) = change {
                // Not in the lengths: what has wrong ones is no TCP or UDP frame, which `Unfit` is for.
                let frame = frame.get(&of_this).clone();
                let mut changed = frame.clone();
                changed[byte.index(frame.len())] ^= 1 << bit;
                let index = of_this.len() / 2;
                if Layout::of(&changed).is_some() {
                    of_this.insert(index, changed);
                }
            }
            frames.extend(of_this);
        }
        for (one, other) in swaps {
            let (one, other) = (one.index(frames.len()), other.index(frames.len()));
            frames.swap(one, other);
        }
        let mut again = Vec::new();
        let mut count = 0;
        for (header, packet, frames) in merge(&mut Merger::new(Datagrams::Merged), &frames) {
            count += frames;
            again.extend(cut(&Cut::new(&header, &packet).unwrap()));
        }
        prop_assert_eq!(count, frames.len());
        prop_assert_eq!(again.len(), frames.len());
        for (again, frame) in again.iter().zip(&frames) {
            prop_assert_eq!(unmarked(again), unmarked(frame));
        }
    }

    #[test]
    fn nothing_that_an_adapter_may_say_makes_a_cut_panic(
        mut made in made(),
        header in any::<[u8; 12]>(),
        mask in any::<[u8; 12]>(),
        (at, byte) in (any::<prop::sample::Index>(), any::<u8>()),
    ) {
        made.payload.truncate(3000);
        let mut packet = made.bytes();
        let at = at.index(packet.len().min(80));
        packet[at] = byte;
        let mut said: [u8; 12] = bytemuck::cast(made.header());
        said.iter_mut().zip(header).zip(mask).for_each(|((said, other), mask)| *said ^= other & mask);
        if let Ok(whole) = Cut::new(&bytemuck::cast(said), &packet) {
            let frames = cut(&whole);
            prop_assert!(frames.iter().all(|frame| frame.len() <= packet.len()));
            cut(&whole.completed());
        }
    }
}

/// Without what may become another equally right number: the checksum of IPv4 headers that were wrong before, and
/// identifications that mean nothing, as nothing may be fragmented.
fn unmarked(frame: &[u8]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    if let Some(Layout { family: Family::V4, ip_at, .. }) = Layout::of(&frame) {
        frame[ip_at + 4..ip_at + 6].fill(0);
        frame[ip_at + 10..ip_at + 12].fill(0);
    }
    frame
}

#[test]
fn differences_that_mean_something_are_never_merged_away() {
    let one = Made::tcp(1000, 500);
    let [first, second] = <[Vec<u8>; 2]>::try_from(one.frames()).unwrap();
    let packets =
        |second: &[u8]| merge(&mut Merger::new(Datagrams::Merged), &[first.clone(), second.to_vec()]).len();
    assert_eq!(packets(&second), 1);
    let changed = |change: fn(&mut Vec<u8>)| {
        let mut other = second.clone();
        change(&mut other);
        packets(&other)
    };
    let (ip, tcp) = (one.ip_at(), one.transport_at());
    assert_eq!((ip, tcp), (14, 34));
    type Change = (&'static str, fn(&mut Vec<u8>));
    let changes: [Change; 13] = [
        ("receiver's MAC", |f| f[0] ^= 2),
        ("congestion experienced", |f| f[15] ^= 1),
        ("hops left", |f| f[22] -= 1),
        ("don't fragment", |f| f[20] ^= 0x40),
        ("identification", |f| f[19] ^= 4),
        ("address", |f| f[30] ^= 1),
        ("port", |f| f[37] ^= 1),
        ("sequence", |f| f[41] ^= 1),
        ("acknowledgement", |f| f[45] ^= 1),
        ("ECE", |f| f[47] ^= ECE),
        ("CWR", |f| f[47] ^= CWR),
        ("window", |f| f[48] ^= 1),
        ("time stamp", |f| f[65] ^= 1),
    ];
    for (what, change) in changes {
        assert_eq!(changed(change), 2, "{what}");
    }
    // What pushes or ends the stream ends the packet as well.
    let mut frames = one.frames();
    frames[0][47] |= PSH;
    assert_eq!(merge(&mut Merger::new(Datagrams::Merged), &frames).len(), 2);
}

#[test]
fn datagrams_are_merged_only_if_the_kernel_takes_them() {
    let made = Made { transport: Transport::Udp, ..Made::tcp(3000, 1000) };
    let packets = |datagrams| merge(&mut Merger::new(datagrams), &made.frames()).len();
    assert_eq!(packets(Datagrams::Merged), 1);
    assert_eq!(packets(Datagrams::Single), 3);
    // At most as many as the kernel takes.
    let many = Made { transport: Transport::Udp, ..Made::tcp(200, 1) };
    let counts: Vec<_> =
        merge(&mut Merger::new(Datagrams::Merged), &many.frames()).iter().map(|packet| packet.2).collect();
    assert_eq!(counts, [64, 64, 64, 8]);
}

#[test]
fn a_packet_never_grows_beyond_what_ip_can_say() {
    let mut frames = Made::tcp(60_000, 1300).frames();
    let mut more = Made::tcp(60_000, 1300);
    more.sequence = more.sequence.wrapping_add(60_000);
    more.id = more.id.wrapping_add(47);
    // Without the short one at the end of the first.
    frames.extend(more.frames());
    let written = merge(&mut Merger::new(Datagrams::Merged), &frames);
    assert!(written.iter().all(|(_, packet, _)| packet.len() - 14 <= 65_535));
    assert_eq!(written.iter().map(|packet| packet.2).sum::<usize>(), frames.len());
}

#[test]
fn complete_checksums_pass_untouched_and_in_order() {
    let made = Made::tcp(1500, 500);
    let whole = made.bytes();
    let frames = cut(&Cut::new(&made.header(), &whole).unwrap().completed());
    let mut merger = Merger::new(Datagrams::Merged);
    let mut written = Vec::new();
    let mut emit = |packet: Packet<'_>| written.push((packet.header, packet.bytes.to_vec()));
    merger.push(&made.frames()[0], Checksum::Partial, &mut emit).unwrap();
    for frame in &frames {
        merger.push(frame, Checksum::Complete, &mut emit).unwrap();
    }
    let mut expected = vec![(Made { payload: vec![1], ..made.clone() }.header(), made.frames()[0].clone())];
    expected.extend(frames.into_iter().map(|frame| (VirtioHeader::default(), frame)));
    assert_eq!(written, expected);
}

#[test]
fn what_a_receiver_would_not_find_is_completed_before_it_leaves() {
    // An extension header of IPv6 (destination options) before TCP.
    let plain = Made { family: Family::V6, ..Made::tcp(3000, 1000) };
    let mut packet = plain.bytes();
    let at = plain.ip_at();
    packet[at + 6] = 60;
    packet.splice(at + 40..at + 40, [6, 0, 1, 4, 0, 0, 0, 0]);
    let length = u16::try_from(packet.len() - at - 40).unwrap().to_be_bytes();
    packet[at + 4..at + 6].copy_from_slice(&length);
    let header = plain.header();
    let header = VirtioHeader {
        checksum_start: header.checksum_start + 8,
        header_len: header.header_len + 8,
        ..header
    };
    let whole = Cut::new(&header, &packet).unwrap();
    assert_eq!((whole.checksum(), whole.len()), (Checksum::Complete, 3));
    for mut frame in cut(&whole) {
        // Without the extension it is an ordinary frame, with the same pseudo-header.
        frame.drain(at + 40..at + 48);
        frame[at + 6] = 6;
        let length = u16::try_from(frame.len() - at - 40).unwrap().to_be_bytes();
        frame[at + 4..at + 6].copy_from_slice(&length);
        assert_checksums_are_right(&frame);
    }
    // And one that claims to be partial, but isn't to be found, is refused.
    let mut merger = Merger::new(Datagrams::Merged);
    assert_eq!(merger.push(&packet, Checksum::Partial, |_| unreachable!()), Err(Unfit));
}
