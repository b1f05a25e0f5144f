//! Hellos, as they come from strangers and as an insider with the secret could send them.

use netft_common::hello;
use netft_common::wire::{HELLO_TAG_LEN, MAX_ENDPOINTS, Versions};
use netft_core::adapter::AdapterSeed;
use netft_core::keys::{Keyring, Secret};
use netft_core::membership::{
    HelloTransmit, Interface, Membership, MembershipCommand, MembershipConfig, PeerConfig,
};
use netft_core::types::{InterfaceNumber, Level, LinkState, NodeId, Timing};
use std::collections::BTreeMap;
use std::net::IpAddr;

const SECRET: &[u8] = b"the fuzzers' secret";
pub const CLUSTER: u32 = 7;
/// A millisecond.
pub const MS: u64 = 1_000_000;

pub fn address(node: u16) -> IpAddr {
    IpAddr::from([10, 77, 1, node.to_le_bytes()[0]])
}

pub fn secret() -> Secret {
    Secret::new(SECRET).expect("long enough")
}

/// Node 1 or 2 of two, with its interfaces known.
fn node(id: u16) -> Membership {
    let other = 3 - id;
    let timing = Timing { delay_ns: MS, threshold: 5 };
    let peer = PeerConfig {
        name: format!("n{other}"),
        id: NodeId::new(other),
        site: None,
        addresses: vec![address(other)],
    };
    let config = MembershipConfig {
        cluster_id: CLUSTER,
        id: NodeId::new(id).expect("1 to 255"),
        name: format!("n{id}"),
        site: Some("here".to_owned()),
        peers: BTreeMap::from([(peer.name.clone(), peer)]),
        networks: Vec::new(),
        same_subnet: timing,
        cross_subnet: timing,
        cross_site: timing,
        key_period_ns: 600_000 * MS,
        level: Level::Signed,
        absence_ns: 600_000 * MS,
        versions: Versions::OURS,
    };
    let byte = id.to_le_bytes()[0];
    let seed = AdapterSeed::new([2, 0, 0, 0, 0, byte], None);
    let mut node = Membership::new(config, secret(), [byte; 16], seed, [byte; 32]);
    let interfaces = (1..=2).map(|number: u8| Interface {
        number: InterfaceNumber::new(number).expect("below 64"),
        ifindex: u32::from(number),
        name: format!("net{number}"),
        mac: [2, 0, 0, 0, number, byte],
        mtu: 1500,
        speed_mbps: 10_000,
        link: LinkState::Up,
        default_route: false,
        rss: false,
        rdma: false,
        addresses: vec![
            (IpAddr::from([10, 77, number, byte]), 24),
            (IpAddr::from([0xfd77, number.into(), 0, 0, 0, 0, 0, id]), 64),
        ],
    });
    node.handle_interfaces(MS, interfaces.collect(), &BTreeMap::from([(address(other), address(id))]));
    node
}

pub fn transmits(node: &mut Membership) -> Vec<HelloTransmit> {
    std::iter::from_fn(|| node.poll_transmit()).collect()
}

/// Both nodes after their handshake, and everything that was said.
pub fn met() -> ([Membership; 2], Vec<HelloTransmit>) {
    let mut nodes = [node(1), node(2)];
    let mut said = Vec::new();
    for round in 2..12 {
        for (from, to) in [(0, 1), (1, 0)] {
            for hello in transmits(&mut nodes[from]) {
                let _ = nodes[to].handle_frame(round * MS, hello.remote, hello.local, &hello.payload);
                said.push(hello);
            }
        }
    }
    assert!(nodes.iter().all(|node| node.peers()[0].keys.is_some()));
    for node in &mut nodes {
        while node.poll_command().is_some() || node.poll_event().is_some() {}
    }
    (nodes, said)
}

pub fn corpus() -> Vec<(&'static str, Vec<u8>)> {
    let (_, said) = met();
    let names = ["greeting", "answer", "route-1", "route-2", "slots-1", "slots-2"];
    let hellos = said
        .into_iter()
        .map(|said| said.payload)
        .filter(|payload| hello::decode(payload, Versions::OURS).is_ok());
    names.into_iter().zip(hellos).collect()
}

pub fn state(node: &Membership) -> impl PartialEq + std::fmt::Debug + use<> {
    (node.peers(), node.routes(), node.networks(), node.adapter(), node.endpoints())
}

pub fn target(inputs: &[Vec<u8>]) -> impl FnMut(&[u8]) + use<> {
    let ring = Keyring::new(&secret(), CLUSTER);
    let ([mut node, _], _) = met();
    let (own, peer) = (address(1), address(2));
    let calm = state(&node);
    let stale = |bytes: &&Vec<u8>| hello::decode(bytes, Versions::OURS).is_err();
    assert_eq!(inputs.iter().find(stale), None, "the wire format has changed: write the corpus anew");
    let mut now = 100 * MS;
    move |bytes| {
        now += MS;
        node.handle_timeout(now);
        transmits(&mut node);
        // From a stranger: the corpus was signed for other addresses and nonces, and is old.
        assert!(node.handle_frame(now, own, peer, bytes).is_err());
        let answered: usize = transmits(&mut node).iter().map(|hello| hello.payload.len()).sum();
        assert!(answered <= bytes.len(), "answered {} bytes with {answered}", bytes.len());
        assert!(node.poll_command().is_none());
        while node.poll_event().is_some() {}
        assert_eq!(state(&node), calm);
        // From an insider: signed anew, it may change what it likes, within limits.
        if hello::decode(bytes, Versions::OURS).is_ok() {
            insider(&ring, now, bytes);
        }
    }
}

fn insider(ring: &Keyring, now: u64, bytes: &[u8]) {
    let ([mut node, _], _) = met();
    let (own, peer) = (address(1), address(2));
    let mut signed = bytes.to_vec();
    // A fresh sequence, so that it isn't refused for its age.
    signed[24..32].copy_from_slice(&(now * 2).to_le_bytes());
    let end = signed.len() - HELLO_TAG_LEN;
    let tag = ring.hello_tag(peer, own, &signed[..end]);
    signed[end..].copy_from_slice(&tag);
    let _ = node.handle_frame(now, own, peer, &signed);
    node.handle_timeout(now + 2_000 * MS);
    assert!(transmits(&mut node).len() <= 200);
    while let Some(event) = node.poll_event() {
        assert!(!event.to_string().contains(char::is_control));
    }
    while let Some(command) = node.poll_command() {
        if let MembershipCommand::SetRoute(route) = command {
            assert_ne!(route.config.generation, 0);
            assert_ne!(route.config.local, route.config.remote);
            assert!(route.mtu >= 1280);
        }
    }
    assert!(node.peers()[0].endpoints.len() <= MAX_ENDPOINTS);
    assert!(node.routes().len() <= 64);
}
