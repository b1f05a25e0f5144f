//! Which flow a frame belongs to: frames of one flow must not overtake each other, so they keep to one route.

const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const VLAN: u16 = 0x8100;
/// Protocols whose header begins with two ports: TCP, UDP, DCCP, SCTP, UDP-Lite.
const WITH_PORTS: [u8; 5] = [6, 17, 33, 132, 136];

/// A number for the flow of an Ethernet frame: by addresses, protocol and ports of an IP packet (a fragment has no ports:
/// without them all fragments of a packet agree), by MAC addresses and type of anything else. Whoever chooses the
/// numbers of a flow sends it from this host, so it needs no secret.
pub fn flow_of(frame: &[u8]) -> u64 {
    let mut flow = Mix(0);
    let (mut kind, mut at) = (be16(frame, 12), 14);
    if kind == VLAN {
        (kind, at) = (be16(frame, 16), 18);
    }
    let packet = frame.get(at..).unwrap_or_default();
    match kind {
        IPV4 if packet.len() >= 20 => {
            flow.bytes(&packet[12..20]);
            let whole = be16(packet, 6) & 0x3fff == 0;
            flow.transport(packet[9], packet, usize::from(packet[0] & 0xf) * 4, whole);
        }
        IPV6 if packet.len() >= 40 => {
            flow.bytes(&packet[8..40]);
            flow.transport(packet[6], packet, 40, true);
        }
        _ => flow.bytes(frame.get(..14).unwrap_or(frame)),
    }
    flow.0
}

/// What is gathered, spread over all bits (the finalizer of splitmix64, Steele et al. 2014).
struct Mix(u64);

impl Mix {
    fn bytes(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.0 = mix(self.0 ^ u64::from_le_bytes(word));
        }
    }

    fn transport(&mut self, protocol: u8, packet: &[u8], header: usize, whole: bool) {
        self.bytes(&[protocol]);
        if whole
            && WITH_PORTS.contains(&protocol)
            && let Some(ports) = packet.get(header..header + 4)
        {
            self.bytes(ports);
        }
    }
}

pub(super) fn mix(word: u64) -> u64 {
    let mut z = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn be16(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..at + 2).and_then(|two| two.try_into().ok()).map_or(0, u16::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn udp4(source_port: u16, fragment: u16, payload: u8) -> Vec<u8> {
        let mut frame = vec![2; 12];
        frame.extend([0x08, 0x00, 0x45, 0, 0, 60, payload, payload]);
        frame.extend(fragment.to_be_bytes());
        frame.extend([64, 17, 0, 0, 169, 254, 1, 1, 169, 254, 1, 2]);
        frame.extend(source_port.to_be_bytes());
        frame.extend([0, 53, payload, payload]);
        frame
    }

    #[test]
    fn packets_of_a_flow_agree_and_other_flows_differ() {
        assert_eq!(flow_of(&udp4(1000, 0, 1)), flow_of(&udp4(1000, 0, 2)));
        assert_ne!(flow_of(&udp4(1000, 0, 1)), flow_of(&udp4(1001, 0, 1)));
    }

    #[test]
    fn fragments_of_a_packet_agree_with_or_without_ports() {
        let (first, later) = (udp4(1000, 0x2000, 1), udp4(7, 0x00b9, 1));
        assert_eq!(flow_of(&first), flow_of(&later));
    }

    #[test]
    fn a_tagged_frame_is_looked_into_and_another_type_goes_by_its_addresses() {
        let plain = udp4(1000, 0, 1);
        let tagged = |plain: &[u8]| [&plain[..12], &[0x81, 0, 0, 7], &plain[12..]].concat();
        assert_eq!(flow_of(&tagged(&plain)), flow_of(&plain));
        let arp = |mac: u8| [vec![mac; 12], vec![0x08, 0x06], vec![mac; 28]].concat();
        assert_eq!(flow_of(&arp(1)), flow_of(&[arp(1), vec![9]].concat()));
        assert_ne!(flow_of(&arp(1)), flow_of(&arp(2)));
    }

    proptest! {
        #[test]
        fn anything_has_a_flow(frame in prop::collection::vec(any::<u8>(), 0..80)) {
            prop_assert_eq!(flow_of(&frame), flow_of(&frame));
        }
    }
}
