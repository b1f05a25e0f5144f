//! Packets from `netft0`, cut, and frames, merged: whatever they say of themselves, nothing is read or written beside them,
//! and no frame is lost, added, or longer than what it came from.

use netft_core::offload::{Checksum, Cut, Datagrams, Merger, VirtioHeader, gso};

const HEADER: usize = size_of::<VirtioHeader>();

/// A frame of TCP or UDP with `payload` bytes, its checksum partial (and wrong, which nobody looks at).
fn frame(v6: bool, tcp: bool, payload: u16) -> (u16, Vec<u8>) {
    let mut bytes = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];
    let transport = if tcp { 20 } else { 8 } + payload;
    let protocol = if tcp { 6 } else { 17 };
    if v6 {
        bytes.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
        bytes.extend(transport.to_be_bytes());
        bytes.extend([protocol, 64]);
        bytes.extend([0xfd; 32]);
    } else {
        bytes.extend([8, 0, 0x45, 0]);
        bytes.extend((transport + 20).to_be_bytes());
        bytes.extend([0, 9, 0x40, 0, 64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    }
    let at = u16::try_from(bytes.len()).unwrap_or(0);
    bytes.extend([0x12, 0x34, 0x56, 0x78]);
    if tcp {
        bytes.extend([0, 0, 0, 1, 0, 0, 0, 2, 0x50, 0x10, 0x7f, 0xff, 0, 0, 0, 0]);
    } else {
        bytes.extend(transport.to_be_bytes());
        bytes.extend([0, 0]);
    }
    bytes.extend((0..payload).map(|i| i.to_le_bytes()[0]));
    (at, bytes)
}

pub fn corpus() -> Vec<(&'static str, Vec<u8>)> {
    let made = |name, v6, tcp, payload: u16, segment_len| {
        let (checksum_start, bytes) = frame(v6, tcp, payload);
        let gso_type = match (segment_len, tcp, v6) {
            (0, ..) => gso::NONE,
            (_, false, _) => gso::UDP,
            (_, true, false) => gso::TCP_V4,
            (_, true, true) => gso::TCP_V6,
        };
        let header = VirtioHeader {
            flags: VirtioHeader::NEEDS_CHECKSUM,
            gso_type,
            header_len: 0,
            segment_len,
            checksum_start,
            checksum_offset: if tcp { 16 } else { 6 },
            buffers: 0,
        };
        (name, [bytemuck::bytes_of(&header), &bytes].concat())
    };
    vec![
        made("tcp4-single", false, true, 100, 0),
        made("tcp4", false, true, 1000, 300),
        made("tcp6", true, true, 1000, 100),
        made("udp4", false, false, 700, 100),
        made("udp6", true, false, 700, 300),
    ]
}

pub fn target(_inputs: &[Vec<u8>]) -> impl FnMut(&[u8]) + use<> {
    let mut merger = Merger::new(Datagrams::Merged);
    let mut frame = vec![0; 4096];
    move |bytes| {
        let Some((header, packet)) = bytes.split_first_chunk::<HEADER>() else { return };
        // As a frame of a peer that says so.
        let mut frames = 0;
        let taken = merger.push(packet, Checksum::Partial, |packet| frames += packet.frames).is_ok();
        merger.flush(|packet| frames += packet.frames);
        assert_eq!(frames, usize::from(taken), "what is taken comes out");
        let Ok(cut) = Cut::new(&bytemuck::pod_read_unaligned(header), packet) else { return };
        for cut in [cut, cut.completed()] {
            let (mut pushed, mut emitted) = (0, 0);
            for index in 0..cut.len() {
                let length = cut.frame_len(index);
                assert!(length <= packet.len(), "no frame is longer than the packet");
                cut.write(index, &mut frame[..length]);
                let partial = cut.checksum();
                // A frame that was cut is one that a receiver finds its way in.
                merger
                    .push(&frame[..length], partial, |packet| emitted += packet.frames)
                    .expect("a whole frame");
                pushed += 1;
            }
            merger.flush(|packet| emitted += packet.frames);
            assert_eq!(pushed, emitted);
        }
    }
}
