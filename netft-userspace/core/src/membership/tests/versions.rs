//! Nodes of different releases: neighbours speak the newest version that both know, others are named and left alone.

use super::super::*;
use super::rotation::{all_have, back, on_disk, rotate, run, started, waits_for};
use super::world::*;
use crate::types::NodeId;
use netft_common::hello;
use netft_common::wire::{Handshake, Header, Versions, kind};
use std::collections::BTreeSet;

/// The release under test, N.
const OURS: Versions = Versions { oldest: 2, newest: 3 };

/// The release before this build's.
const BEFORE: Versions = Versions { oldest: 1, newest: 1 };

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

#[test]
fn the_release_before_reads_what_this_one_sends_to_it() {
    for both in [[BEFORE, Versions::OURS], [Versions::OURS, BEFORE]] {
        let mut world = world(both, 1);
        world.start_all();
        world.run(3 * SECOND);
        world.all_up();
        world.run(3 * SECOND);
        assert_eq!((world.agreed(0, 1), spoken(&world)), (Ok(2), Some(1)));
        let hellos = world.seen.iter().filter(|datagram| datagram.bytes[5] == kind::HELLO);
        for datagram in hellos {
            let view = hello::decode(&datagram.bytes, BEFORE).unwrap();
            assert_eq!(datagram.bytes.len(), 168 + 48 * view.endpoints().count() + 32);
        }
    }
}

/// The third node of three is another release from now on, on the disk that it has.
fn reinstall(world: &mut World, versions: Versions) {
    world.hosts[2].on = true;
    replace(world, 2, versions);
    world.set_routes(2, crate::types::RouteState::Up);
}

#[test]
fn a_node_of_the_release_before_is_named_and_no_secret_is_replaced() {
    let mut world = started(3, 1);
    reinstall(&mut world, BEFORE);
    world.run(3 * SECOND);
    let refused = rotate(&mut world, 0).unwrap_err();
    assert_eq!(refused, RotationRefused::Outdated { nodes: "n3".to_owned() });
    assert!(refused.to_string().contains("n3"), "{refused}");
    assert!(world.hosts.iter().all(|host| host.membership.rotation().is_none() && host.disk.next.is_none()));
    reinstall(&mut world, Versions::OURS);
    world.run(3 * SECOND);
    let secret = rotate(&mut world, 0).unwrap();
    run(&mut world, 15 * SECOND);
    assert!(all_have(&world, secret));
}

#[test]
fn a_rotation_waits_for_a_node_that_comes_back_as_the_release_before_and_speaks_with_it() {
    // It was down before anybody switched; or it lost its disk after that.
    for switched in [false, true] {
        let mut world = started(3, 1);
        world.hosts[2].on = switched;
        let secret = rotate(&mut world, 0).unwrap();
        while switched && world.hosts[0].membership.secret() != secret {
            world.run(MS / 100);
        }
        world.hosts[2].disk = Disk::default();
        reinstall(&mut world, BEFORE);
        world.run(10 * MS);
        let from = world.seen.len();
        world.run(5 * SECOND);
        assert_eq!(waits_for(&world, 0), ["n3"], "switched: {switched}");
        assert_eq!((world.agreed(0, 2), world.agreed(1, 2)), (Ok(2), Ok(2)), "switched: {switched}");
        let its = [v4(3, 1), v4(3, 2), v6(3, 1), v6(3, 2)];
        let step = std::mem::offset_of!(Handshake, step);
        let is_offer = |said: &Datagram| {
            (said.bytes[5], said.bytes[step]) == (kind::HANDSHAKE, 3) && its.contains(&said.to)
        };
        assert!(!world.seen[from..].iter().any(is_offer), "nothing is offered to it");
        reinstall(&mut world, Versions::OURS);
        world.run(15 * SECOND);
        assert!(all_have(&world, secret), "switched: {switched}");
    }
}

#[test]
fn a_greeting_that_can_not_prove_a_secret_takes_none_back() {
    for at in (0..60).step_by(4) {
        for restarted in 0..3 {
            let mut world = started(3, at);
            // Every phase lasts for some time.
            world.disk_ns = 400 * MS;
            let secret = rotate(&mut world, 0).unwrap();
            while world.hosts[0].disk.next.is_none() {
                run(&mut world, MS);
            }
            let mut ended = false;
            for step in 0..800 {
                if step == at * 5 {
                    back(&mut world, restarted);
                }
                run(&mut world, 10 * MS);
                // `done` is true of everybody.
                ended |= world.hosts[0].membership.rotation().is_none()
                    && world.hosts[0].membership.secret() == secret;
                assert!(
                    !ended || world.hosts.iter().all(|host| on_disk(host) == [secret]),
                    "{at}: n{}",
                    restarted + 1
                );
                assert!((0..3).all(|host| !world.kinds(host).contains(&"rotation-aborted")), "{at}");
            }
            assert!(ended && all_have(&world, secret), "{at}: n{}", restarted + 1);
        }
    }
}
