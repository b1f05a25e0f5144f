//! Nodes of different releases: neighbours speak the newest version that both know, others are named and left alone.

use super::super::*;
use super::world::*;
use crate::types::NodeId;
use netft_common::wire::{Header, Versions, kind};
use std::collections::BTreeSet;

/// The release under test, N.
const OURS: Versions = Versions { oldest: 2, newest: 3 };

/// Two nodes, of these releases.
fn world(versions: [Versions; 2], seed: u64) -> World {
    let mut world = World::new(0, 2, seed);
    for (node, versions) in (1..=2u16).zip(versions) {
        let byte = u8::try_from(node).unwrap();
        let config = MembershipConfig { versions, ..config(node, 2) };
        let interfaces = (1..=2).map(|network| interface(node, network)).collect();
        world.add(membership(config, SECRET, byte, byte), byte, interfaces);
    }
    world
}

/// Another release is installed on a node, and its daemon restarts over the same maps.
fn replace(world: &mut World, host: usize, versions: Versions) {
    let mut config = world.hosts[host].membership.config().clone();
    config.versions = versions;
    world.hosts[host].membership.reconfigure(world.now, config).unwrap();
    world.restart(host);
}

/// The version of the keys that both ends send with.
fn spoken(world: &World) -> Option<u8> {
    let version = |host: usize, peer: u16| {
        let keys = world.hosts[host].sessions.get(&NodeId::new(peer).unwrap())?.current?;
        let routes = world.hosts[host].routes.values();
        assert!(
            routes.clone().all(|route| route.config.sending().map(|keys| keys.version) == Some(keys.version))
        );
        Some(keys.version)
    };
    let (one, two) = (version(0, 2), version(1, 1));
    assert_eq!(one, two);
    one
}

/// Versions of the messages of a kind that were sent since there were `from` of all.
fn sent(world: &World, from: usize, wanted: u8) -> BTreeSet<u8> {
    let headers = world.seen[from..]
        .iter()
        .map(|datagram| -> Header { bytemuck::pod_read_unaligned(&datagram.bytes[..size_of::<Header>()]) });
    headers.filter(|header| header.kind == wanted).map(|header| header.version).collect()
}

#[test]
fn neighbouring_releases_speak_the_newest_version_that_both_know() {
    let releases = [(1, 2, 2), (2, 3, 3), (3, 4, 3), (2, 2, 2), (3, 3, 3)];
    for (oldest, newest, common) in releases {
        for swapped in [false, true] {
            let theirs = Versions { oldest, newest };
            let both = if swapped { [theirs, OURS] } else { [OURS, theirs] };
            let mut world = world(both, 1);
            world.start_all();
            world.run(3 * SECOND);
            world.all_up();
            world.run(SECOND);
            assert_eq!(world.agreed(0, 1), Ok(2), "{both:?}");
            assert_eq!(spoken(&world), Some(common), "{both:?}");
            assert_eq!(sent(&world, 0, kind::HANDSHAKE), BTreeSet::from([common]), "{both:?}");
            // Once they know each other, their hellos are in it as well.
            let from = world.seen.len();
            world.run(3 * SECOND);
            assert_eq!(sent(&world, from, kind::HELLO), BTreeSet::from([common]), "{both:?}");
            for host in 0..2 {
                assert!(!world.kinds(host).contains(&"other-version"), "{both:?}");
                assert_eq!(world.hosts[host].membership.other_versions(world.now), []);
            }
        }
    }
}

#[test]
fn a_release_too_far_away_is_named_and_left_alone() {
    for (theirs, behind) in
        [(Versions { oldest: 4, newest: 5 }, "on this node"), (Versions { oldest: 1, newest: 1 }, "on n2")]
    {
        let mut world = world([OURS, theirs], 1);
        world.start_all();
        world.run(5 * SECOND);
        let other = OtherVersions { peer: Some("n2".to_owned()), from: v4(2, 1), versions: theirs };
        assert_eq!(world.hosts[0].membership.other_versions(world.now), [other]);
        let told: Vec<_> =
            world.hosts[0].events.iter().filter(|event| event.kind() == "other-version").collect();
        assert_eq!(told.len(), 1, "one event a minute");
        let told = told[0].to_string();
        assert!(
            told.contains(&format!("n2 at {} speaks wire versions {theirs}, this node 2 to 3", v4(2, 1))),
            "{told}"
        );
        assert!(told.contains(behind), "{told}");
        assert!(world.counter(0, "hello_reject_version") > 5);
        assert_eq!(sent(&world, 0, kind::HANDSHAKE), BTreeSet::new());
        assert!(world.hosts[0].routes.is_empty() && world.hosts[0].sessions.is_empty());
        // It is replaced by a neighbour.
        replace(&mut world, 1, Versions { oldest: 3, newest: 4 });
        world.run(3 * SECOND);
        assert_eq!(spoken(&world), Some(3));
        assert_eq!(world.hosts[0].membership.other_versions(world.now), []);
    }
}

#[test]
fn a_cluster_is_upgraded_node_by_node_while_it_works() {
    let [old, new] = [Versions { oldest: 1, newest: 2 }, OURS];
    for first in 0..2 {
        let mut world = world([old, old], 7);
        world.start_all();
        world.run(3 * SECOND);
        world.all_up();
        world.run(SECOND);
        assert_eq!(spoken(&world), Some(2));
        for (host, common) in [(first, 2), (1 - first, 3)] {
            let (before, from) = (world.hosts[host].routes.len(), world.seen.len());
            replace(&mut world, host, new);
            world.run(3 * SECOND);
            assert_eq!(world.agreed(0, 1), Ok(2));
            assert_eq!(spoken(&world), Some(common), "after node {} was upgraded", host + 1);
            assert_eq!(world.hosts[host].routes.len(), before, "no route was lost");
            let understood = |version: &u8| old.has(*version) || new.has(*version);
            assert!(sent(&world, from, kind::HELLO).iter().all(understood));
        }
    }
}

#[test]
fn who_lacks_the_secret_is_not_named_by_its_version() {
    let mut world = world([OURS, OURS], 1);
    world.start_all();
    world.run(SECOND);
    let hello = world.seen.iter().find(|datagram| datagram.to == v4(1, 1)).unwrap().clone();
    let rejected = world.counter(0, "hello_reject_tag");
    let mut forged = hello;
    forged.bytes[std::mem::offset_of!(Header, version)] = 9;
    forged.bytes[std::mem::offset_of!(Header, slot)..][..4]
        .copy_from_slice(&Versions { oldest: 9, newest: 9 }.to_slot().to_le_bytes());
    world.send(forged);
    world.run(10 * MS);
    assert_eq!(world.counter(0, "hello_reject_tag"), rejected + 1);
    assert_eq!(world.hosts[0].membership.other_versions(world.now), []);
    assert!(!world.kinds(0).contains(&"other-version"));
}
