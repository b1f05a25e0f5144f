//! Whole frames through the code that XDP runs.

use crate::Adversary;
use bytemuck::Zeroable;
use netft_common::fence::FenceTables;
use netft_common::heartbeat::{self, Addresses, Tables};
use netft_common::map::{EngineState, KeySet, NodeConfig, SlotConfig, SlotState};
use netft_common::receive::{Verdict, receive};
use netft_common::shared::Shared;
use netft_common::wire::{self, Header, Heartbeat, NO_SLOT, kind};
use netft_core::types::address_bytes;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};

const CLUSTER: u32 = 7;
const NOW: u64 = 1_000_000_000;
const OWN_SLOT: u32 = 3;
/// Send key and receive key of the node under test.
/// Key epoch of the route.
const EPOCH: u32 = 5;
const KEYS: ([u64; 2], [u64; 2]) = ([1, 2], [3, 4]);

/// One node in plain memory, with one route.
struct Memory {
    node: NodeConfig,
    engine: EngineState,
    config: SlotConfig,
    state: SlotState,
}

fn addresses(family: Family) -> (IpAddr, IpAddr) {
    match family {
        Family::V4 => (IpAddr::from([10, 77, 1, 1]), IpAddr::from([10, 77, 1, 2])),
        Family::V6 => {
            (IpAddr::from([0xfd77, 1, 0, 0, 0, 0, 0, 1]), IpAddr::from([0xfd77, 1, 0, 0, 0, 0, 0, 2]))
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    V4,
    V6,
}

impl Memory {
    fn new(family: Family) -> Self {
        let (peer, own) = addresses(family);
        Self {
            node: NodeConfig { layout: 1, cluster_id: CLUSTER, node_id: 2, ..NodeConfig::default() },
            engine: EngineState { tick_ns: AtomicU64::new(NOW), ..EngineState::default() },
            config: SlotConfig {
                generation: 1,
                remote_slot: 9,
                peer: 1,
                interface: 0,
                lives: 1,
                local: address_bytes(own),
                remote: address_bytes(peer),
                keys: [KeySet::sending(EPOCH, KEYS.0, KEYS.1), KeySet::default()],
            },
            state: SlotState::default(),
        }
    }

    /// Every word that a packet could change.
    fn words(&self) -> Vec<u64> {
        let engine = [&self.engine.tick_ns, &self.engine.flags, &self.engine.dead_interfaces];
        let words = self.state.words().into_iter().chain(engine);
        words.map(|word| word.load(Ordering::Relaxed)).collect()
    }
}

impl Shared for Memory {
    fn node(&self) -> Option<&NodeConfig> {
        Some(&self.node)
    }
    fn engine(&self) -> Option<&EngineState> {
        Some(&self.engine)
    }
}

impl Tables for Memory {
    fn config(&self, slot: u32) -> Option<&SlotConfig> {
        (slot == OWN_SLOT).then_some(&self.config)
    }
    fn read(&self, word: &u32) -> u32 {
        *word
    }
    fn state(&self, slot: u32) -> Option<&SlotState> {
        (slot == OWN_SLOT).then_some(&self.state)
    }
    fn is_local(&self, address: &[u8; 16]) -> bool {
        *address == self.config.local
    }
    fn now_ns(&self) -> u64 {
        NOW
    }
}

impl FenceTables for Memory {}

/// An authentic leg from the peer, as a frame.
fn leg(family: Family, kind: u8, tagged: bool) -> Vec<u8> {
    let (peer, own) = addresses(family);
    let header = Header {
        magic: wire::MAGIC,
        version: wire::VERSION,
        kind,
        flags: 0,
        cluster_id: CLUSTER,
        source: 1,
        destination: 2,
        slot: OWN_SLOT,
        key_epoch: EPOCH,
        sequence: 100,
    };
    let mut leg = Heartbeat {
        header,
        initiator_sent_ns: NOW - 1_000,
        responder_sent_ns: if kind == kind::REQUEST { 0 } else { NOW - 500 },
        tick_age_ns: 10,
        down_slot: NO_SLOT,
        ..Heartbeat::zeroed()
    };
    let travelled = Addresses::new(address_bytes(peer), address_bytes(own));
    leg.tag = heartbeat::tag(KEYS.1, &travelled, &leg);
    frame(family, tagged, bytemuck::bytes_of(&leg))
}

fn frame(family: Family, tagged: bool, message: &[u8]) -> Vec<u8> {
    let (peer, own) = addresses(family);
    let mut bytes = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];
    if tagged {
        bytes.extend([0x81, 0, 0, 42]);
    }
    let udp_len = u16::try_from(message.len() + 8).expect("short");
    match (peer, own) {
        (IpAddr::V4(peer), IpAddr::V4(own)) => {
            let [high, low] = (udp_len + 20).to_be_bytes();
            bytes.extend([8, 0, 0x45, 0xc0, high, low, 1, 2, 0x40, 0, 64, 17, 0, 0]);
            bytes.extend(peer.octets());
            bytes.extend(own.octets());
        }
        _ => {
            let [high, low] = udp_len.to_be_bytes();
            bytes.extend([0x86, 0xdd, 0x6c, 0, 0, 7, high, low, 17, 64]);
            bytes.extend(address_bytes(peer));
            bytes.extend(address_bytes(own));
        }
    }
    let [high, low] = udp_len.to_be_bytes();
    bytes.extend([0x0d, 0x0f, 0x0d, 0x0f, high, low, 0, 0]);
    bytes.extend_from_slice(message);
    bytes
}

pub fn corpus() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("request4", leg(Family::V4, kind::REQUEST, false)),
        ("request6", leg(Family::V6, kind::REQUEST, false)),
        ("reply4", leg(Family::V4, kind::REPLY, false)),
        ("confirmation6", leg(Family::V6, kind::CONFIRMATION, false)),
        ("final-reply4-vlan", leg(Family::V4, kind::FINAL_REPLY, true)),
        ("request6-vlan", leg(Family::V6, kind::REQUEST, true)),
    ]
}

/// What the tag covers, wherever it is in the frame: the message, and both addresses before it.
fn covered(input: &[u8], genuine: &[Vec<u8>]) -> bool {
    let tail = size_of::<Heartbeat>();
    genuine.iter().any(|frame| {
        let message = &frame[frame.len() - tail..];
        input.windows(tail).any(|window| window == message)
    })
}

pub fn target(inputs: &[Vec<u8>], adversary: Adversary) -> impl FnMut(&[u8]) + use<> {
    let genuine = inputs.to_vec();
    let accepts = |family, bytes: &[u8]| {
        receive(bytes.to_vec().as_mut_slice(), &Memory::new(family))
            .is_ok_and(|verdict| !matches!(verdict, Verdict::Pass(_)))
    };
    let stale = |bytes: &&Vec<u8>| !accepts(Family::V4, bytes) && !accepts(Family::V6, bytes);
    assert_eq!(inputs.iter().find(stale), None, "the wire format has changed: write the corpus anew");
    move |bytes| {
        for family in [Family::V4, Family::V6] {
            let memory = Memory::new(family);
            let before = memory.words();
            let mut packet = bytes.to_vec();
            let verdict = receive(packet.as_mut_slice(), &memory);
            assert_eq!(packet.len(), bytes.len(), "a reply is as long as what it answers");
            if !matches!(verdict, Ok(Verdict::Reply(_))) {
                assert_eq!(packet, bytes, "only a reply changes the frame");
            }
            let accepted = memory.words() != before;
            let answered = matches!(verdict, Ok(Verdict::Reply(_) | Verdict::Consume(_)));
            if (accepted || answered) && adversary == Adversary::Blind {
                assert!(covered(bytes, &genuine), "a forgery was accepted");
            }
            // The second time it is a replay.
            if accepted {
                let words = memory.words();
                let again = receive(bytes.to_vec().as_mut_slice(), &memory);
                assert!(again.is_err(), "{again:?}");
                assert_eq!(memory.words(), words);
            }
        }
    }
}
