//! Super-packets become frames.

use super::layout::{Family, Layout, Transport, be16, be32};
use super::{Checksum, VirtioHeader, checksum, gso};

const TCP_FLAGS: usize = 13;
const FIN_AND_PSH: u8 = 0x01 | 0x08;
const CWR: u8 = 0x80;

/// A packet can't be cut as its header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the adapter gave a packet that is none of the kinds it may give")]
pub struct CutError;

/// A packet from `netft0`, seen as the frames that it becomes: one unless it is a super-packet.
#[derive(Clone, Copy, Debug)]
pub struct Cut<'a> {
    packet: &'a [u8],
    segments: Option<Segments>,
    /// Of every frame.
    checksum: Checksum,
    /// What [`Self::write`] must complete: where a partial checksum covers from, and where it is from there.
    complete: Option<(usize, usize)>,
}

#[derive(Clone, Copy, Debug)]
struct Segments {
    layout: Layout,
    /// Payload bytes of each.
    length: usize,
}

impl<'a> Cut<'a> {
    /// Of what the adapter gave with `header`.
    pub fn new(header: &VirtioHeader, packet: &'a [u8]) -> Result<Self, CutError> {
        let is_partial = header.flags & VirtioHeader::NEEDS_CHECKSUM != 0;
        let segments = match header.gso_type {
            gso::NONE => None,
            // The kernel never gives a super-packet with a complete checksum: each frame would need another.
            _ if !is_partial || header.segment_len == 0 => return Err(CutError),
            _ => {
                let layout = Layout::announced(header, packet).ok_or(CutError)?;
                Some(Segments { layout, length: header.segment_len.into() })
            }
        };
        let place = (usize::from(header.checksum_start), usize::from(header.checksum_offset));
        // The receiver finds a partial checksum by looking at the frame as we do here; what it wouldn't find is completed.
        let is_found = Layout::of(packet)
            .is_some_and(|layout| place == (layout.transport_at, layout.transport.checksum_offset().into()));
        let checksum = if is_partial && is_found { Checksum::Partial } else { Checksum::Complete };
        let complete = (is_partial && !is_found).then_some(place);
        Ok(Self { packet, segments, checksum, complete })
    }

    /// The same, but with complete checksums in the frames, for receivers that know of no others.
    pub fn completed(self) -> Self {
        let complete = match self.checksum {
            Checksum::Complete => self.complete,
            Checksum::Partial => Layout::of(self.packet)
                .map(|layout| (layout.transport_at, layout.transport.checksum_offset().into())),
        };
        Self { checksum: Checksum::Complete, complete, ..self }
    }

    /// All of it, as the adapter gave it: its addresses are those of every frame.
    pub fn packet(&self) -> &'a [u8] {
        self.packet
    }

    /// State of the checksum in every frame.
    pub fn checksum(&self) -> Checksum {
        self.checksum
    }

    /// How many frames it becomes, at least one.
    #[expect(clippy::len_without_is_empty, reason = "there is always one")]
    pub fn len(&self) -> usize {
        self.segments.as_ref().map_or(1, |segments| {
            (self.packet.len() - segments.layout.payload_at).div_ceil(segments.length).max(1)
        })
    }

    /// Bytes of frame `index`.
    pub fn frame_len(&self, index: usize) -> usize {
        self.segments.as_ref().map_or(self.packet.len(), |segments| {
            let left =
                (self.packet.len() - segments.layout.payload_at).saturating_sub(index * segments.length);
            segments.layout.payload_at + left.min(segments.length)
        })
    }

    /// Writes frame `index` into `frame`, which has [`Self::frame_len`] bytes.
    pub fn write(&self, index: usize, frame: &mut [u8]) {
        match &self.segments {
            None => frame.copy_from_slice(self.packet),
            Some(segments) => self.write_segment(segments, index, frame),
        }
        if let Some((start, offset)) = self.complete {
            checksum::complete(frame, start, offset);
        }
    }

    fn write_segment(&self, segments: &Segments, index: usize, frame: &mut [u8]) {
        let Segments { layout, length } = segments;
        let from = index * length;
        let (headers, payload) = frame.split_at_mut(layout.payload_at);
        headers.copy_from_slice(&self.packet[..layout.payload_at]);
        payload.copy_from_slice(&self.packet[layout.payload_at + from..][..payload.len()]);
        layout.set_lengths(frame);
        if layout.family == Family::V4 {
            // As the kernel numbers them (inet_gso_segment, net/ipv4/af_inet.c).
            let id = be16(frame, layout.ip_at + 4).wrapping_add(u16::try_from(index).unwrap_or(0));
            frame[layout.ip_at + 4..layout.ip_at + 6].copy_from_slice(&id.to_be_bytes());
            checksum::set_ipv4(&mut frame[layout.ip_at..layout.transport_at]);
        }
        if layout.transport == Transport::Tcp {
            let at = layout.transport_at;
            let sequence = be32(frame, at + 4).wrapping_add(u32::try_from(from).unwrap_or(0));
            frame[at + 4..at + 8].copy_from_slice(&sequence.to_be_bytes());
            if index > 0 {
                frame[at + TCP_FLAGS] &= !CWR;
            }
            if index + 1 < self.len() {
                frame[at + TCP_FLAGS] &= !FIN_AND_PSH;
            }
        }
        let whole = self.packet.len() - layout.transport_at;
        let [whole, part] = [whole, frame.len() - layout.transport_at]
            .map(|length| u16::try_from(length).unwrap_or(u16::MAX));
        let at = layout.checksum_at();
        let partial = checksum::with_length(be16(frame, at), whole, part);
        frame[at..at + 2].copy_from_slice(&partial.to_be_bytes());
    }
}
