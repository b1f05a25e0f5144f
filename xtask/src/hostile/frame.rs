//! Frames as bytes, independently of netft's own classifier.

use netft_common::wire::{Header, PORT};
use std::net::IpAddr;

/// Between whom a frame travels, or claims to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Path {
    /// Destination MAC.
    pub to: [u8; 6],
    /// Source MAC.
    pub from: [u8; 6],
    /// 802.1Q tag control, if tagged.
    pub vlan: Option<u16>,
    /// Source address.
    pub source: IpAddr,
    /// Destination address, of the same family.
    pub destination: IpAddr,
}

/// A netft message in a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// How it travelled.
    pub path: Path,
    /// UDP payload.
    pub payload: Vec<u8>,
}

impl Message {
    /// The header, if the payload is long enough for one.
    pub fn header(&self) -> Option<Header> {
        self.payload.get(..size_of::<Header>()).map(bytemuck::pod_read_unaligned)
    }
}

/// The UDP datagram between two ports 3343 in `frame`, if that is what it is: unfragmented, without options.
pub fn message(frame: &[u8]) -> Option<Message> {
    let (macs, rest) = frame.split_at_checked(12)?;
    let (vlan, rest) = match rest.split_at_checked(4)? {
        ([0x81, 0, high, low], rest) => (Some(u16::from_be_bytes([*high, *low])), rest),
        _ => (None, rest),
    };
    let (ethertype, ip) = rest.split_at_checked(2)?;
    let (source, destination, udp): (IpAddr, IpAddr, &[u8]) = match ethertype {
        [8, 0] if ip.first() == Some(&0x45) && ip.get(9) == Some(&17) => {
            let address = |at: usize| Some(<[u8; 4]>::try_from(ip.get(at..at + 4)?).ok()?.into());
            (address(12)?, address(16)?, ip.get(20..)?)
        }
        [0x86, 0xdd] if ip.get(6) == Some(&17) => {
            let address = |at: usize| Some(<[u8; 16]>::try_from(ip.get(at..at + 16)?).ok()?.into());
            (address(8)?, address(24)?, ip.get(40..)?)
        }
        _ => return None,
    };
    let port = PORT.to_be_bytes();
    let (header, payload) = udp.split_at_checked(8)?;
    if header[..2] != port || header[2..4] != port {
        return None;
    }
    let length = usize::from(u16::from_be_bytes([header[4], header[5]])).checked_sub(8)?;
    let path =
        Path { to: macs[..6].try_into().ok()?, from: macs[6..].try_into().ok()?, vlan, source, destination };
    Some(Message { path, payload: payload.get(..length)?.to_vec() })
}

impl Path {
    /// A datagram with `payload` from port 3343 to port 3343, whole and with right checksums.
    pub fn datagram(&self, payload: &[u8]) -> Vec<u8> {
        self.frame(&self.udp(payload), Part::Whole)
    }

    /// The same, said to be the first fragment of a longer one.
    pub fn first_fragment(&self, payload: &[u8]) -> Vec<u8> {
        self.frame(&self.udp(payload), Part::First)
    }

    fn udp(&self, payload: &[u8]) -> Vec<u8> {
        let port = PORT.to_be_bytes();
        let length = u16::try_from(8 + payload.len()).unwrap_or(u16::MAX).to_be_bytes();
        let mut udp = [&port[..], &port, &length, &[0, 0], payload].concat();
        let [source, destination] = [self.source, self.destination].map(octets);
        let sum = checksum(&[&source[..], &destination, &[0, 17], &length, &udp].concat());
        udp[6..8].copy_from_slice(&if sum == 0 { [0xff, 0xff] } else { sum.to_be_bytes() });
        udp
    }

    fn frame(&self, udp: &[u8], part: Part) -> Vec<u8> {
        let mut frame = [self.to, self.from].concat();
        if let Some(control) = self.vlan {
            frame.extend([0x81, 0]);
            frame.extend(control.to_be_bytes());
        }
        let [source, destination] = [self.source, self.destination].map(octets);
        match self.source {
            IpAddr::V4(_) => {
                let length = u16::try_from(20 + udp.len()).unwrap_or(u16::MAX).to_be_bytes();
                let more = if part == Part::First { 0x20 } else { 0 };
                let mut ip = vec![0x45, 0xc0, length[0], length[1], 0, 7, more, 0, 64, 17, 0, 0];
                ip.extend(source);
                ip.extend(destination);
                let sum = checksum(&ip).to_be_bytes();
                ip[10..12].copy_from_slice(&sum);
                frame.extend([8, 0]);
                frame.extend(ip);
            }
            IpAddr::V6(_) => {
                // RFC 8200 section 4.5: next header UDP, offset 0, more to come.
                const FRAGMENT: [u8; 8] = [17, 0, 0, 1, 0, 0, 0, 7];
                let (next, extension) = if part == Part::First { (44, &FRAGMENT[..]) } else { (17, &[][..]) };
                let length = u16::try_from(extension.len() + udp.len()).unwrap_or(u16::MAX).to_be_bytes();
                frame.extend([0x86, 0xdd, 0x6c, 0, 0, 0, length[0], length[1], next, 64]);
                frame.extend(source);
                frame.extend(destination);
                frame.extend(extension);
            }
        }
        frame.extend_from_slice(udp);
        frame
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Whole,
    First,
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// RFC 1071.
fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)])))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_made_is_read_back() {
        for (source, destination) in [("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2")] {
            for vlan in [None, Some(5)] {
                let (source, destination) = (source.parse().unwrap(), destination.parse().unwrap());
                let path = Path { to: [2; 6], from: [4; 6], vlan, source, destination };
                let read = message(&path.datagram(b"odd length!")).unwrap();
                assert_eq!((read.path, &read.payload[..]), (path, &b"odd length!"[..]));
            }
        }
    }

    #[test]
    fn nothing_else_is_taken_for_a_message() {
        let (source, destination) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
        let path = Path { to: [2; 6], from: [4; 6], vlan: None, source, destination };
        let frame = path.datagram(b"payload");
        assert!((0..frame.len()).all(|end| message(&frame[..end]).is_none()));
        let mut other = frame.clone();
        other[23] = 6;
        assert_eq!(message(&other), None, "TCP");
    }
}
