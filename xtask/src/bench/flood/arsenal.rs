//! What is fired: three kinds of hostile packet, many different ones of each.

use crate::hostile::{Message, Overheard, Path, flipped};
use crate::lab::Lab;
use anyhow::Result;
use netft_common::wire::{HELLO_TAG_LEN, Header, kind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Different packets of each kind.
const VARIETY: u64 = 1024;
/// Bits before this byte say whether a packet is this cluster's at all.
const OURS: usize = 12;

/// Who has to refuse the packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::bench) enum Target {
    /// XDP.
    Legs,
    /// The data thread.
    Data,
    /// The data thread hands some on to the control thread.
    Hellos,
    /// The same.
    Handshakes,
}

/// Makes the payload of the n-th packet of a kind.
type Make = fn(Target, &Message, u64) -> Vec<u8>;

/// Frames of one kind.
pub(in crate::bench) struct Ammunition {
    pub kind: &'static str,
    pub frames: Vec<Vec<u8>>,
}

impl Target {
    /// Settings of the cluster: handshakes have to be there to be overheard.
    pub fn settings(self) -> &'static [&'static str] {
        match self {
            Self::Handshakes => &["security.rekey=\"1s\""],
            Self::Legs | Self::Data | Self::Hellos => &[],
        }
    }

    /// What is to be changed and repeated, as it was overheard.
    pub fn overhear(self, lab: &Lab, receiver: &str, sender: &str, network: &str) -> Result<Vec<Message>> {
        if self == Self::Handshakes {
            return Ok(vec![Overheard::one(lab, receiver, sender, network, kind::HANDSHAKE)?]);
        }
        let overheard = Overheard::at(lab, receiver, sender, network)?;
        Ok(match self {
            Self::Legs => overheard.legs.to_vec(),
            Self::Data => vec![overheard.data],
            Self::Hellos | Self::Handshakes => vec![overheard.hello],
        })
    }

    /// Messages of somebody without the secret, each from one of so many addresses that nobody has.
    pub fn strangers(self, kind: &'static str, messages: &[Message], addresses: u16) -> Ammunition {
        let numbered = (0..u64::from(addresses)).zip(1..=addresses).zip(messages.iter().cycle());
        let made = numbered.map(|((number, host), message)| {
            let path = Path { source: stranger(message.path.source, host), ..message.spoofed() };
            path.datagram(&self.forged(message, number))
        });
        Ammunition { kind, frames: made.collect() }
    }

    /// Frames made from that.
    pub fn ammunition(self, messages: &[Message]) -> Vec<Ammunition> {
        let kinds: [(&'static str, Make); 3] = [
            ("without the secret", |target, message, number| target.forged(message, number)),
            ("replayed", |_, message, _| message.payload.clone()),
            ("with a flipped bit", |_, message, number| flipped(&message.payload, OURS, number)),
        ];
        let made = |make: Make| {
            let numbered = (0..VARIETY).zip(messages.iter().cycle());
            numbered
                .map(|(number, message)| message.spoofed().datagram(&make(self, message, number)))
                .collect()
        };
        kinds.map(|(kind, make)| Ammunition { kind, frames: made(make) }).into()
    }

    /// Everything right and new but the authenticator, which somebody without the secret has to guess.
    fn forged(self, message: &Message, number: u64) -> Vec<u8> {
        let mut payload =
            message.with_header(|header: &mut Header| header.sequence += 1_000_000_000 + number);
        let guess = (number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes();
        let at = match self {
            Self::Legs => payload.len() - guess.len(),
            Self::Data => size_of::<Header>(),
            Self::Hellos | Self::Handshakes => payload.len() - HELLO_TAG_LEN,
        };
        payload[at..at + guess.len()].copy_from_slice(&guess);
        payload
    }

    /// How the names of the counters begin that hostile ones may end in: legs never leave XDP.
    pub fn counters(self) -> &'static [&'static str] {
        match self {
            Self::Legs => &["reject_"],
            _ => &["reject_", "hello_reject_", "handshake_reject_", "data_reject_", "hello_drop_"],
        }
    }

    /// Genuine messages that may share the fate of hostile ones in `seconds`: hellos of the peer, one a second on each
    /// of two routes, with some time around the flood.
    pub fn genuine(self, seconds: u64) -> u64 {
        match self {
            Self::Legs => 0,
            Self::Data | Self::Hellos => 2 * (seconds + 5),
            // And with new keys each second some more hellos, and steps that are repeated over each route.
            Self::Handshakes => 16 * (seconds + 5),
        }
    }
}

/// An address like `like`, but of nobody.
fn stranger(like: IpAddr, host: u16) -> IpAddr {
    let [high, low] = host.to_be_bytes();
    match like {
        IpAddr::V4(v4) => {
            let [a, _, _, _] = v4.octets();
            Ipv4Addr::new(a, 99, high, low).into()
        }
        IpAddr::V6(v6) => {
            let mut segments = v6.segments();
            segments[6..].copy_from_slice(&[0xbad, host]);
            Ipv6Addr::from(segments).into()
        }
    }
}
