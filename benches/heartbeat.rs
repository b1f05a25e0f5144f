//! What XDP does per packet, on the host: the tag, and a leg from frame to reply.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use netft_common::fence::FenceTables;
use netft_common::heartbeat::{self, Tables};
use netft_common::map::{EngineState, KeySet, NodeConfig, SlotConfig, SlotState};
use netft_common::receive::{Verdict, receive};
use netft_common::shared::Shared;
use netft_common::siphash::siphash;
use netft_common::wire::Heartbeat;
use std::hint::black_box;
use std::sync::atomic::Ordering::Relaxed;

const KEY: [u64; 2] = [0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908];
const ONE: [u8; 4] = [10, 77, 1, 1];
const TWO: [u8; 4] = [10, 77, 1, 2];

struct Memory {
    node: NodeConfig,
    engine: EngineState,
    config: SlotConfig,
    state: SlotState,
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
        (slot == 0).then_some(&self.config)
    }
    fn read(&self, word: &u32) -> u32 {
        *word
    }
    fn state(&self, slot: u32) -> Option<&SlotState> {
        (slot == 0).then_some(&self.state)
    }
    fn is_local(&self, _: &[u8; 16]) -> bool {
        true
    }
    fn now_ns(&self) -> u64 {
        1_000_000
    }
}

impl FenceTables for Memory {}

fn mapped(address: [u8; 4]) -> [u8; 16] {
    std::net::Ipv4Addr::from(address).to_ipv6_mapped().octets()
}

fn node(id: u16, local: [u8; 4], peer: u16, remote: [u8; 4]) -> Memory {
    Memory {
        node: NodeConfig { cluster_id: 1, node_id: id, ..NodeConfig::default() },
        engine: EngineState::default(),
        config: SlotConfig {
            generation: 1,
            peer,
            local: mapped(local),
            remote: mapped(remote),
            keys: [KeySet::sending(1, KEY, KEY), KeySet::default()],
            ..SlotConfig::default()
        },
        state: SlotState::default(),
    }
}

/// A leg from node 1 to node 2 in an IPv4 frame.
fn frame(leg: &Heartbeat) -> Vec<u8> {
    let payload = bytemuck::bytes_of(leg);
    let udp_len = u16::try_from(8 + payload.len()).expect("a leg is short");
    let mut bytes = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0];
    bytes.extend_from_slice(&[0x45, 0xc0]);
    bytes.extend_from_slice(&(udp_len + 20).to_be_bytes());
    bytes.extend_from_slice(&[0, 0, 0, 0, 64, 17, 0, 0]);
    bytes.extend_from_slice(&ONE);
    bytes.extend_from_slice(&TWO);
    bytes.extend_from_slice(&[0x0d, 0x0f, 0x0d, 0x0f]);
    bytes.extend_from_slice(&udp_len.to_be_bytes());
    bytes.extend_from_slice(&[0, 0]);
    bytes.extend_from_slice(payload);
    bytes
}

fn tag(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("siphash");
    for len in [8usize, 112, 1500] {
        let bytes = vec![7u8; len];
        group.throughput(Throughput::Bytes(len as u64));
        group.bench_function(format!("{len} bytes"), |bencher| {
            bencher.iter(|| siphash(black_box(KEY), black_box(&bytes)));
        });
    }
}

fn reply(criterion: &mut Criterion) {
    let (one, two) = (node(1, ONE, 2, TWO), node(2, TWO, 1, ONE));
    let leg = heartbeat::request(&one.node, &one.config, &one.engine, 1, 500_000, None)
        .expect("the peer's slot is known");
    let request = frame(&leg);
    let mut group = criterion.benchmark_group("leg");
    group.bench_function("classified, checked and answered", |bencher| {
        bencher.iter(|| {
            let mut bytes = [0u8; 130];
            bytes.copy_from_slice(&request);
            two.state.highest[0].store(0, Relaxed);
            let verdict = receive(black_box(&mut bytes[..]), &two);
            assert!(matches!(verdict, Ok(Verdict::Reply(_))), "{verdict:?}");
            bytes
        });
    });
    let mut other = request.clone();
    let magic = other.len() - size_of::<Heartbeat>();
    other[magic] ^= 1;
    group.bench_function("somebody else's, passed", |bencher| {
        bencher.iter(|| receive(black_box(&mut other[..]), &two));
    });
}

criterion_group!(benches, tag, reply);
criterion_main!(benches);
