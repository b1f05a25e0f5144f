//! Frames become super-packets.

use super::layout::{Family, Layout, Transport, be16, be32};
use super::{Checksum, MAX_PACKET, VirtioHeader, checksum, gso};

/// Frames of UDP in one packet: more than this the kernel takes from nobody (UDP_MAX_SEGMENTS).
const MAX_DATAGRAMS: usize = 64;
const IPV4: usize = 20;
const DONT_FRAGMENT: u8 = 0x40;
const TCP_FLAGS: usize = 13;
const FIN_AND_PSH: u8 = 0x01 | 0x08;
const ACK: u8 = 0x10;
const ECE: u8 = 0x40;

/// Whether datagrams of UDP are merged as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Datagrams {
    /// Yes; the kernel takes such packets from a TAP device since 6.2.
    Merged,
    /// No.
    Single,
}

/// A frame claims a partial checksum, but nobody can tell where.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the frame has a partial checksum but is neither TCP nor UDP")]
pub struct Unfit;

/// What is to be written into `netft0` in one call.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    /// What goes before it.
    pub header: VirtioHeader,
    /// The frame, or a super-packet.
    pub bytes: &'a [u8],
    /// How many frames are in it.
    pub frames: usize,
}

impl Packet<'_> {
    /// Bytes of all frames in it.
    pub fn frame_bytes(&self) -> usize {
        self.bytes.len() + self.frames.saturating_sub(1) * usize::from(self.header.header_len)
    }
}

/// Collects consecutive frames of one flow. Packets come out in the order of their frames, whatever flows they are of:
/// what doesn't continue the packet at hand ends it. Only frames with partial checksums are merged; those of others would
/// have to be checked first, and everything that a Linux node sends or forwards in bulk has partial ones.
///
/// Nothing is allocated after [`Self::new`]. Call [`Self::flush`] whenever no more frames are at hand.
#[derive(Debug)]
pub struct Merger {
    buffer: Box<[u8]>,
    open: Option<Open>,
    datagrams: Datagrams,
}

/// The packet at hand.
#[derive(Clone, Copy, Debug)]
struct Open {
    layout: Layout,
    length: usize,
    frames: usize,
    /// Payload of its first frame: of every one but the last.
    segment: usize,
    next_sequence: u32,
    last_id: u16,
    /// By how much identifications of IPv4 grow, once there are two.
    id_step: Option<u16>,
}

impl Merger {
    /// With nothing at hand.
    pub fn new(datagrams: Datagrams) -> Self {
        Self { buffer: vec![0; MAX_PACKET].into_boxed_slice(), open: None, datagrams }
    }

    /// Takes the next frame. What is complete by that goes to `emit`.
    pub fn push(
        &mut self,
        frame: &[u8],
        checksum: Checksum,
        mut emit: impl FnMut(Packet<'_>),
    ) -> Result<(), Unfit> {
        if checksum == Checksum::Complete {
            self.flush(&mut emit);
            emit(Packet { header: VirtioHeader::default(), bytes: frame, frames: 1 });
            return Ok(());
        }
        let layout = Layout::of(frame).ok_or(Unfit)?;
        if let Some(open) = &mut self.open {
            if open.continues(&self.buffer, frame, &layout) {
                let ended = open.append(&mut self.buffer, frame);
                if ended {
                    self.flush(&mut emit);
                }
                return Ok(());
            }
            self.flush(&mut emit);
        }
        if self.may_begin(frame, &layout) {
            self.buffer[..frame.len()].copy_from_slice(frame);
            self.open = Some(Open::new(frame, layout));
        } else {
            emit(Packet { header: partial(&layout), bytes: frame, frames: 1 });
        }
        Ok(())
    }

    /// Gives out what is at hand.
    pub fn flush(&mut self, mut emit: impl FnMut(Packet<'_>)) {
        if let Some(open) = self.open.take() {
            let bytes = &mut self.buffer[..open.length];
            let header = open.finish(bytes);
            emit(Packet { header, bytes, frames: open.frames });
        }
    }

    /// Whether another frame might continue this one.
    fn may_begin(&self, frame: &[u8], layout: &Layout) -> bool {
        // Options of IPv4 are rare, and the kernel doesn't merge them either.
        let plain = layout.family == Family::V6 || layout.transport_at - layout.ip_at == IPV4;
        let is_open = match layout.transport {
            Transport::Tcp => matches!(frame[layout.transport_at + TCP_FLAGS] & !ECE, ACK),
            Transport::Udp => self.datagrams == Datagrams::Merged,
        };
        plain && is_open && frame.len() > layout.payload_at
    }
}

impl Open {
    fn new(frame: &[u8], layout: Layout) -> Self {
        let segment = frame.len() - layout.payload_at;
        let next_sequence = match layout.transport {
            Transport::Tcp => after(be32(frame, layout.transport_at + 4), segment),
            Transport::Udp => 0,
        };
        let last_id = be16(frame, layout.ip_at + 4);
        Self { layout, length: frame.len(), frames: 1, segment, next_sequence, last_id, id_step: None }
    }

    /// Whether `frame` is what the sender's TCP would have put behind this packet. Everything that a cut copies must be
    /// equal, so that nothing is lost by merging.
    fn continues(&self, buffer: &[u8], frame: &[u8], layout: &Layout) -> bool {
        let Self { layout: own, .. } = self;
        let payload = frame.len() - layout.payload_at;
        let same = |from: usize, to: usize| buffer[from..to] == frame[from..to];
        let (ip, at) = (own.ip_at, own.transport_at);
        layout == own
            && (1..=self.segment).contains(&payload)
            && self.length + payload - ip <= usize::from(u16::MAX)
            && same(0, ip)
            && match own.family {
                // All but length, identification and checksum.
                Family::V4 => {
                    same(ip, ip + 2) && same(ip + 6, ip + 10) && same(ip + 12, at) && self.follows_id(frame)
                }
                Family::V6 => same(ip, ip + 4) && same(ip + 6, at),
            }
            && same(at, at + 4)
            && be16(frame, own.checksum_at()) == self.checksum_for(buffer, payload)
            && match own.transport {
                // All but sequence, FIN, PSH and checksum. CWR, in one of both, makes a difference.
                Transport::Tcp => {
                    be32(frame, at + 4) == self.next_sequence
                        && same(at + 8, at + TCP_FLAGS)
                        && (buffer[at + TCP_FLAGS] ^ frame[at + TCP_FLAGS]) & !FIN_AND_PSH == 0
                        && same(at + 14, at + 16)
                        && same(at + 18, own.payload_at)
                }
                Transport::Udp => self.frames < MAX_DATAGRAMS,
            }
    }

    /// The partial checksum of a frame of this flow with so much payload.
    fn checksum_for(&self, buffer: &[u8], payload: usize) -> u16 {
        let header = self.layout.payload_at - self.layout.transport_at;
        let [first, this] =
            [self.segment, payload].map(|payload| u16::try_from(header + payload).unwrap_or(u16::MAX));
        checksum::with_length(be16(buffer, self.layout.checksum_at()), first, this)
    }

    /// Identifications grow by one, or, where they mean nothing, stay (RFC 6864, section 4.1).
    fn follows_id(&self, frame: &[u8]) -> bool {
        let step = be16(frame, self.layout.ip_at + 4).wrapping_sub(self.last_id);
        let is_atomic = frame[self.layout.ip_at + 6] & DONT_FRAGMENT != 0;
        (step == 1 || step == 0 && is_atomic) && self.id_step.is_none_or(|known| known == step)
    }

    /// Says whether the packet is complete by that.
    fn append(&mut self, buffer: &mut [u8], frame: &[u8]) -> bool {
        let Layout { ip_at, transport_at, payload_at, transport, .. } = self.layout;
        let payload = &frame[payload_at..];
        buffer[self.length..self.length + payload.len()].copy_from_slice(payload);
        self.length += payload.len();
        self.frames += 1;
        self.next_sequence = after(self.next_sequence, payload.len());
        let id = be16(frame, ip_at + 4);
        self.id_step = Some(id.wrapping_sub(self.last_id));
        self.last_id = id;
        let last = match transport {
            Transport::Tcp => frame[transport_at + TCP_FLAGS] & FIN_AND_PSH,
            Transport::Udp => 0,
        };
        if last != 0 {
            buffer[transport_at + TCP_FLAGS] |= last;
        }
        last != 0 || payload.len() < self.segment
    }

    /// Makes its headers right, and the one before it.
    fn finish(&self, bytes: &mut [u8]) -> VirtioHeader {
        let layout = &self.layout;
        let header = partial(layout);
        if self.frames == 1 {
            return header;
        }
        let [first, whole] = [layout.payload_at + self.segment, bytes.len()]
            .map(|end| u16::try_from(end - layout.transport_at).unwrap_or(u16::MAX));
        layout.set_lengths(bytes);
        if layout.family == Family::V4 {
            checksum::set_ipv4(&mut bytes[layout.ip_at..layout.transport_at]);
        }
        let at = layout.checksum_at();
        let sum = checksum::with_length(be16(bytes, at), first, whole);
        bytes[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        let gso_type = match (layout.transport, layout.family) {
            (Transport::Tcp, Family::V4) => gso::TCP_V4,
            (Transport::Tcp, Family::V6) => gso::TCP_V6,
            (Transport::Udp, _) => gso::UDP,
        };
        let [header_len, segment_len] =
            [layout.payload_at, self.segment].map(|length| u16::try_from(length).unwrap_or(u16::MAX));
        VirtioHeader { gso_type, header_len, segment_len, ..header }
    }
}

/// Of a frame with a partial checksum.
fn partial(layout: &Layout) -> VirtioHeader {
    VirtioHeader {
        flags: VirtioHeader::NEEDS_CHECKSUM,
        checksum_start: u16::try_from(layout.transport_at).unwrap_or(u16::MAX),
        checksum_offset: layout.transport.checksum_offset(),
        ..VirtioHeader::default()
    }
}

fn after(sequence: u32, bytes: usize) -> u32 {
    sequence.wrapping_add(u32::try_from(bytes).unwrap_or(0))
}
