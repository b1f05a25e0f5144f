//! Replays, strangers, impostors and noise change nothing.

use super::world::*;
use crate::keys::{Keyring, Secret};
use crate::membership::HelloReject;
use crate::types::{NodeId, RouteState};
use netft_common::wire::HELLO_TAG_LEN;
use proptest::prelude::*;

/// A cluster of two that has settled.
fn settled(nodes: u16) -> World {
    let mut world = World::new(nodes, 2, 1);
    world.start_all();
    world.run(SECOND);
    world.all_up();
    world.run(2 * SECOND);
    world
}

/// All that a shell could see.
fn state(world: &World, host: usize) -> String {
    let host = &world.hosts[host];
    let (peers, routes) = (host.membership.peers(), host.membership.routes());
    format!("{:?} {peers:?} {routes:?} {:?}", host.routes, host.adapters)
}

#[test]
fn replayed_hellos_change_nothing() {
    let mut world = settled(2);
    let old = world.seen.clone();
    world.hosts.iter_mut().for_each(|host| host.events.clear());
    let before = (state(&world, 0), state(&world, 1));
    for datagram in &old {
        world.send(datagram.clone());
    }
    world.run(SECOND);
    assert_eq!(before, (state(&world, 0), state(&world, 1)));
    assert!(world.hosts[0].events.is_empty() && world.hosts[1].events.is_empty());
    assert!(world.counter(0, "hello_reject_old") > 0);
}

#[test]
fn hellos_of_an_earlier_life_replayed_to_a_silent_peer_open_no_session() {
    let mut world = settled(2);
    let old: Vec<_> = world.seen.iter().filter(|datagram| datagram.to == v4(1, 1)).cloned().collect();
    world.reboot(0, 50);
    world.hosts[1].on = false;
    world.run(SECOND);
    let sent = world.seen.len();
    for datagram in &old {
        world.send(datagram.clone());
    }
    world.run(10 * MS);
    assert!(world.hosts[0].routes.is_empty());
    assert!(world.hosts[0].membership.peers()[0].session_since_ns.is_none());
    assert!(world.counter(0, "hello_reject_unfresh") > 0);
    // Answered, but never with more than came, and not for ever.
    let (answers, bytes) = (world.seen.len() - sent, |list: &[Datagram]| -> usize {
        list.iter().map(|datagram| datagram.bytes.len()).sum()
    });
    assert!(answers <= 20, "{answers}");
    assert!(bytes(&world.seen[sent..]) <= bytes(&old));
}

#[test]
fn answers_to_what_may_be_replays_are_not_larger_and_are_bounded() {
    let mut world = World::new(2, 1, 1);
    world.hosts[0].interfaces = (1..=8).map(|network| interface(1, network)).collect();
    world.hosts[1].interfaces[0].addresses.truncate(1);
    world.interfaces(1);
    let greeting = world.seen[0].clone();
    world.run(MS);
    world.interfaces(0);
    let from = world.seen.len();
    for _ in 0..1_000 {
        let now = world.now;
        let _ = world.hosts[0].membership.handle_frame(now, greeting.to, greeting.from, &greeting.bytes);
    }
    world.drain(0);
    let answers = &world.seen[from..];
    assert!(!answers.is_empty() && answers.len() <= 16, "{}", answers.len());
    assert!(answers.iter().all(|answer| answer.bytes.len() <= greeting.bytes.len()));
    // The short form still leads to a session.
    world.run(10 * MS);
    assert_eq!(world.agreed(0, 1), Ok(1));
}

#[test]
fn a_wrong_secret_is_reported_once_and_changes_nothing() {
    let mut world = World::new(2, 2, 1);
    world.hosts[1].membership = membership(config(2, 2), b"another secret ..", 2, 2);
    world.start_all();
    world.run(10 * SECOND);
    for host in 0..2 {
        assert!(world.hosts[host].routes.is_empty());
        let told: Vec<_> = world.hosts[host].events.iter().filter(|e| e.kind() == "wrong-secret").collect();
        assert_eq!(told.len(), 1);
        assert!(told[0].to_string().contains("security.key_file"), "{}", told[0]);
        assert!(world.counter(host, "hello_reject_tag") > 10);
    }
}

#[test]
fn another_cluster_is_reported_once_and_changes_nothing() {
    let mut world = World::new(2, 2, 1);
    let mut other = config(2, 2);
    other.cluster_id = 8;
    world.hosts[1].membership = membership(other, SECRET, 2, 2);
    world.start_all();
    world.run(10 * SECOND);
    assert!(world.hosts[0].routes.is_empty());
    let told: Vec<_> = world.hosts[0].events.iter().filter(|e| e.kind() == "other-cluster").collect();
    assert_eq!(told.len(), 1);
    assert!(told[0].to_string().contains("belongs to cluster 8, this node to cluster 7"), "{}", told[0]);
}

#[test]
fn an_impostor_with_a_reachable_peers_id_is_reported_and_ignored() {
    let mut world = settled(2);
    // A clone of node 2 that was moved to another address.
    let mut clone = interface(2, 1);
    clone.addresses = vec![("10.77.1.66".parse().unwrap(), 24)];
    world.add(membership(config(2, 2), SECRET, 66, 66), 66, vec![clone]);
    let before = world.hosts[0].routes.clone();
    world.interfaces(2);
    world.run(5 * SECOND);
    assert_eq!(world.hosts[0].routes, before);
    assert_eq!(world.agreed(0, 1), Ok(2));
    let told: Vec<_> = world.hosts[0].events.iter().filter(|e| e.kind() == "duplicate-node-id").collect();
    assert_eq!(told.len(), 1, "{:?}", world.kinds(0));
    assert!(told[0].to_string().contains("10.77.1.66"), "{}", told[0]);
    assert!(world.hosts[2].routes.len() <= 1, "the impostor may believe what it likes");
}

#[test]
fn another_name_with_a_known_id_is_ignored() {
    let mut world = settled(2);
    let mut other = config(2, 2);
    other.name = "n7".to_owned();
    let mut clone = interface(2, 1);
    clone.addresses = vec![("10.77.1.67".parse().unwrap(), 24)];
    world.add(membership(other, SECRET, 67, 67), 67, vec![clone]);
    world.interfaces(2);
    world.run(SECOND);
    assert!(world.kinds(0).contains(&"duplicate-node-id"));
    assert_eq!(world.agreed(0, 1), Ok(2));
}

#[test]
fn somebody_with_our_own_id_is_reported_and_ignored() {
    let mut world = World::new(2, 1, 1);
    let mut other = config(1, 2);
    other.name = "n2".to_owned();
    other.peers.values_mut().for_each(|peer| {
        (peer.name, peer.id, peer.addresses) = ("n1".to_owned(), None, vec![v4(1, 1)]);
    });
    other.peers = [("n1".to_owned(), other.peers["n2"].clone())].into();
    world.hosts[1].membership = membership(other, SECRET, 2, 2);
    world.start_all();
    world.run(SECOND);
    for host in 0..2 {
        assert!(world.hosts[host].routes.is_empty());
        assert!(world.kinds(host).contains(&"own-id-taken"));
    }
}

#[test]
fn an_unknown_node_and_a_wrong_id_are_told_apart() {
    let mut world = World::new(2, 1, 1);
    let mut other = config(2, 2);
    other.id = NodeId::new(9).unwrap();
    world.hosts[1].membership = membership(other, SECRET, 2, 2);
    world.start_all();
    world.run(SECOND);
    assert!(world.kinds(0).contains(&"identity-mismatch"));
    assert!(world.hosts[0].routes.is_empty());
    let mut world = World::new(2, 1, 1);
    let mut alone = config(1, 2);
    alone.peers.clear();
    world.hosts[0].membership = membership(alone, SECRET, 1, 1);
    world.start_all();
    world.run(SECOND);
    let told: Vec<_> = world.hosts[0].events.iter().filter(|e| e.kind() == "unknown-node").collect();
    assert_eq!(told.len(), 1);
    assert!(told[0].to_string().contains("[peer.n2]"), "{}", told[0]);
}

#[test]
fn our_own_hello_reflected_is_counted() {
    let mut world = settled(2);
    let own = world.seen.iter().find(|datagram| datagram.from == v4(1, 1)).unwrap().clone();
    let now = world.now;
    let turned = world.hosts[0].membership.handle_frame(now, own.to, own.from, &own.bytes);
    assert_eq!(turned, Err(HelloReject::Reflected));
    let mirrored = world.hosts[0].membership.handle_frame(now, own.from, own.to, &own.bytes);
    assert_eq!(mirrored, Err(HelloReject::Tag), "addresses are signed");
    assert_eq!(world.counter(0, "hello_reject_reflected"), 1);
}

#[test]
fn an_authentic_sender_with_absurd_content_is_malformed() {
    let mut world = settled(2);
    let datagram = world.seen.iter().rev().find(|datagram| datagram.to == v6(1, 1)).unwrap().clone();
    let ring = Keyring::new(&Secret::new(SECRET).unwrap(), 7);
    let before = state(&world, 0);
    for (at, byte) in [(8 + 6, 0), (32, 0), (136, 0xff), (142, 1), (150, 9), (152, 1)] {
        let mut bytes = datagram.bytes.clone();
        bytes[at] = byte;
        let end = bytes.len() - HELLO_TAG_LEN;
        let tag = ring.hello_tag(datagram.from, datagram.to, &bytes[..end]);
        bytes[end..].copy_from_slice(&tag);
        let now = world.now;
        let _ = world.hosts[0].membership.handle_frame(now, datagram.to, datagram.from, &bytes);
        world.drain(0);
        assert_eq!(state(&world, 0), before, "byte {at}");
    }
}

#[test]
fn a_duplicate_while_down_gives_way_when_the_real_one_returns_its_fresh_answer() {
    // Who answers the challenge while nobody is reachable gets the session: that is how a reboot works.
    let mut world = settled(2);
    world.set_routes(0, RouteState::Down);
    world.reboot(1, 77);
    world.run(100 * MS);
    assert_eq!(world.agreed(0, 1), Ok(2));
    world.all_up();
    world.run(SECOND);
    assert_eq!(world.counter(0, "hello_reject_duplicate_id"), 0);
}

proptest! {
    #[test]
    fn no_bytes_crash_or_change_anything(bytes in prop::collection::vec(any::<u8>(), 0..1100)) {
        let mut world = World::new(2, 1, 1);
        world.start_all();
        let before = state(&world, 0);
        let now = world.now;
        prop_assert!(world.hosts[0].membership.handle_frame(now, v4(1, 1), v4(2, 1), &bytes).is_err());
        world.drain(0);
        prop_assert_eq!(before, state(&world, 0));
    }

    #[test]
    fn no_changed_bit_is_accepted(at in 0usize..1000, bit in 0u8..8, which in 0usize..64) {
        let mut world = settled(2);
        let list: Vec<_> = world.seen.iter().filter(|datagram| datagram.to == v6(1, 1)).cloned().collect();
        let datagram = &list[which % list.len()];
        let mut bytes = datagram.bytes.clone();
        let at = at % bytes.len();
        bytes[at] ^= 1 << bit;
        let before = state(&world, 0);
        let now = world.now;
        let outcome = world.hosts[0].membership.handle_frame(now, datagram.to, datagram.from, &bytes);
        prop_assert!(outcome.is_err());
        world.drain(0);
        prop_assert_eq!(before, state(&world, 0));
    }
}
