//! Sessions begin, survive restarts and pass to the next life.

use super::world::*;
use crate::membership::MembershipEvent;
use crate::types::{RouteState, address_bytes};
use netft_common::map::SlotConfig;
use std::collections::BTreeMap;

#[test]
fn two_nodes_agree_on_all_routes_and_keys_within_three_round_trips() {
    let mut world = World::new(2, 2, 1);
    world.start_all();
    // One-way delay is 50 µs: greeting, fresh hello, step 1, step 2, and the hello that says that the keys are in use.
    world.run(5 * 50_000 + 1_000);
    assert_eq!(world.agreed(0, 1), Ok(2));
    for install in world.hosts[0].routes.values() {
        assert!(install.config.local[0] == 0xfd, "IPv6 is preferred");
    }
    assert_eq!(world.hosts[0].adapters.len(), 1);
    assert_eq!(world.hosts[0].adapters.values().next(), Some(&world.hosts[1].membership.adapter()));
}

#[test]
fn one_side_that_starts_later_is_met_at_once() {
    let mut world = World::new(2, 2, 1);
    world.interfaces(0);
    world.run(30 * SECOND);
    world.interfaces(1);
    world.run(6 * 50_000 + 1_000);
    assert_eq!(world.agreed(0, 1), Ok(2));
}

#[test]
fn different_numbers_of_endpoints_do_not_hinder() {
    for (small, large) in [(0, 1), (1, 0)] {
        let mut world = World::new(2, 2, 1);
        world.hosts[small].interfaces.truncate(1);
        let extra = (5..12).map(|network| interface(u16::try_from(large + 1).unwrap(), network));
        world.hosts[large].interfaces.extend(extra);
        world.start_all();
        world.run(4 * 100_000);
        assert_eq!(world.agreed(0, 1), Ok(1));
    }
}

#[test]
fn three_nodes_converge_despite_loss_and_reordering() {
    for seed in 0..30 {
        let mut world = World::new(3, 3, seed);
        world.loss_percent = 40;
        world.delay_ns = 10_000..20 * MS;
        world.start_all();
        world.run(20 * SECOND);
        for (one, other) in [(0, 1), (0, 2), (1, 2)] {
            assert_eq!(world.agreed(one, other), Ok(3), "seed {seed} {one} {other}");
        }
        // Nothing moves any more.
        let routes: Vec<_> = world.hosts.iter().map(|host| host.routes.clone()).collect();
        let events: Vec<_> = world.hosts.iter().map(|host| host.events.len()).collect();
        world.all_up();
        world.run(30 * SECOND);
        assert_eq!(routes, world.hosts.iter().map(|host| host.routes.clone()).collect::<Vec<_>>());
        assert_eq!(events, world.hosts.iter().map(|host| host.events.len()).collect::<Vec<_>>());
    }
}

#[test]
fn an_idle_cluster_says_one_hello_per_route_and_second() {
    let mut world = World::new(2, 2, 1);
    world.start_all();
    world.run(SECOND);
    world.all_up();
    world.run(5 * SECOND);
    let before = world.seen.len();
    world.run(10 * SECOND);
    assert_eq!(world.seen.len() - before, 2 * 2 * 10);
}

#[test]
fn a_restarted_daemon_keeps_its_slots_gets_new_keys_and_nobody_notices() {
    let mut world = World::new(3, 2, 1);
    world.start_all();
    world.run(SECOND);
    world.all_up();
    let before: Vec<_> = world.hosts.iter().map(|host| host.routes.clone()).collect();
    world.hosts.iter_mut().for_each(|host| host.events.clear());
    world.restart(0);
    // Before any hello: the detector has every route.
    let shape = |routes: &BTreeMap<_, crate::membership::RouteInstall>| {
        routes.iter().map(|(slot, install)| (*slot, install.config)).collect::<Vec<_>>()
    };
    assert_eq!(shape(&world.hosts[0].routes), shape(&before[0]));
    assert!(world.kinds(0).contains(&"routes-adopted"));
    world.set_routes(0, RouteState::Up);
    world.run(30 * SECOND);
    for (host, before) in world.hosts.iter().zip(&before) {
        for (slot, install) in &host.routes {
            let (now, then) = (install.config, before[slot].config);
            assert_eq!(SlotConfig { keys: then.keys, ..now }, then, "nothing but keys has changed");
            let restarted = [host.membership.config().id.get(), now.peer].contains(&1);
            assert_eq!(now.sending() != then.sending(), restarted, "new keys with the restarted one alone");
        }
    }
    for (one, other) in [(0, 1), (0, 2), (1, 2)] {
        assert_eq!(world.agreed(one, other), Ok(2));
    }
    assert_eq!(world.hosts[0].adapters.len(), 2);
    assert!(world.hosts[1].events.is_empty(), "{:?}", world.hosts[1].events);
}

#[test]
fn a_restarted_daemon_finds_its_peers_over_adopted_routes() {
    let mut world = World::new(2, 2, 1);
    world.start_all();
    world.run(SECOND);
    world.all_up();
    // The configured address is on network 1.
    world.cut.insert(1);
    world.restart(0);
    world.set_routes(0, RouteState::Up);
    world.run(10 * MS);
    assert!(world.kinds(0).contains(&"peer-joined"));
    assert_eq!(world.agreed(0, 1), Ok(2));
}

#[test]
fn adopted_slots_without_their_peer_go_after_a_while() {
    let mut world = World::new(2, 2, 1);
    world.start_all();
    world.run(SECOND);
    world.hosts[1].on = false;
    world.restart(0);
    world.run(9 * SECOND);
    assert_eq!(world.hosts[0].routes.len(), 2);
    assert_eq!(world.hosts[0].membership.routes().len(), 3, "two adopted ones and the configured address");
    world.run(2 * SECOND);
    assert!(world.hosts[0].routes.is_empty());
}

#[test]
fn adopted_slots_of_a_peer_that_rebooted_meanwhile_get_new_keys() {
    let mut world = World::new(2, 2, 1);
    world.start_all();
    world.run(SECOND);
    let before = world.hosts[0].routes.clone();
    world.hosts[0].on = false;
    world.reboot(1, 99);
    world.run(SECOND);
    world.hosts[0].on = true;
    world.restart(0);
    world.run(SECOND);
    assert_eq!(world.agreed(0, 1), Ok(2));
    for (slot, install) in &world.hosts[0].routes {
        assert_eq!(install.config.local, before[slot].config.local, "slots stay");
        assert_ne!(install.config.generation, before[slot].config.generation);
        assert_ne!(install.config.sending(), before[slot].config.sending());
    }
}

#[test]
fn adopted_slots_of_a_removed_endpoint_or_peer_go_at_once() {
    let mut world = World::new(3, 2, 1);
    world.start_all();
    world.run(SECOND);
    let slots: Vec<_> = world.hosts[0].routes.iter().map(|(slot, install)| (*slot, install.config)).collect();
    let mut config = world.hosts[0].membership.config().clone();
    config.peers.remove("n3");
    let mut fresh = membership(config, SECRET, 1, 77);
    fresh.adopt(world.now, &slots);
    world.hosts[0].membership = fresh;
    world.hosts[0].interfaces.remove(1);
    world.interfaces(0);
    assert_eq!(world.hosts[0].routes.len(), 1);
}

#[test]
fn a_rebooted_peer_is_back_as_soon_as_its_routes_are_down() {
    let mut world = World::new(2, 2, 1);
    world.start_all();
    world.run(SECOND);
    world.all_up();
    let before = world.hosts[0].routes.clone();
    world.reboot(1, 99);
    // It speaks before the detector has noticed: that is no duplicate yet.
    world.run(3 * MS);
    assert!(world.counter(0, "hello_reject_duplicate_id") > 0);
    world.set_routes(0, RouteState::Down);
    world.run(MS);
    assert_eq!(world.agreed(0, 1), Ok(2));
    assert!(world.kinds(0).contains(&"peer-restarted"));
    assert!(!world.kinds(0).contains(&"duplicate-node-id"));
    for (slot, install) in &world.hosts[0].routes {
        let old = &before[slot];
        assert_eq!((install.config.local, install.config.remote), (old.config.local, old.config.remote));
        assert_ne!(install.config.generation, old.config.generation);
        assert_ne!(install.config.sending(), old.config.sending());
    }
}

#[test]
fn a_clean_stop_is_told_and_the_next_start_is_no_duplicate() {
    let mut world = World::new(2, 2, 1);
    world.start_all();
    world.run(SECOND);
    world.all_up();
    let now = world.now;
    world.hosts[1].membership.leave(now);
    world.drain(1);
    world.run(MS);
    assert!(world.hosts[0].membership.peers()[0].leaving);
    assert!(world.kinds(0).contains(&"peer-leaving"));
    // It is back before the detector saw anything.
    world.reboot(1, 99);
    world.run(10 * MS);
    assert_eq!(world.agreed(0, 1), Ok(2));
    assert!(!world.hosts[0].membership.peers()[0].leaving);
    assert!(!world.kinds(0).contains(&"duplicate-node-id"));
}

#[test]
fn ids_can_be_learned_and_change_with_a_reinstallation() {
    let mut world = World::new(2, 1, 1);
    let mut config = world.hosts[0].membership.config().clone();
    config.peers.values_mut().for_each(|peer| peer.id = None);
    world.hosts[0].membership = membership(config, SECRET, 1, 1);
    world.start_all();
    world.run(10 * MS);
    assert_eq!(world.agreed(0, 1), Ok(1));
    let mut config = super::world::config(9, 2);
    config.name = "n2".to_owned();
    config.peers.remove("n2");
    world.hosts[1].membership = membership(config, SECRET, 55, 55);
    world.hosts[1].routes.clear();
    world.interfaces(1);
    world.run(10 * MS);
    assert_eq!(world.agreed(0, 1), Ok(1));
    assert_eq!(world.hosts[0].membership.peers()[0].id.map(|id| id.get()), Some(9));
    assert_eq!(world.hosts[0].adapters.keys().map(|id| id.get()).collect::<Vec<_>>(), [9]);
}

#[test]
fn peers_can_be_added_and_removed_while_running() {
    let mut world = World::new(3, 2, 1);
    let full = world.hosts[0].membership.config().clone();
    let mut without = full.clone();
    without.peers.remove("n3");
    let now = world.now;
    world.hosts[0].membership.reconfigure(now, without.clone()).unwrap();
    world.drain(0);
    world.start_all();
    world.run(SECOND);
    assert!(world.agreed(0, 2).is_ok_and(|routes| routes == 0));
    assert!(world.kinds(0).contains(&"unknown-node"));
    let now = world.now;
    world.hosts[0].membership.reconfigure(now, full).unwrap();
    world.interfaces(0);
    world.run(SECOND);
    assert_eq!(world.agreed(0, 2), Ok(2));
    let now = world.now;
    world.hosts[0].membership.reconfigure(now, without).unwrap();
    world.drain(0);
    assert_eq!(world.hosts[0].routes.len(), 2);
    assert_eq!(world.hosts[0].adapters.len(), 1);
    assert_eq!(world.agreed(0, 1), Ok(2));
}

#[test]
fn what_cannot_change_is_refused_with_a_sentence() {
    let mut world = World::new(2, 1, 1);
    let mut config = world.hosts[0].membership.config().clone();
    config.cluster_id = 8;
    let error = world.hosts[0].membership.reconfigure(0, config.clone()).unwrap_err();
    assert!(error.to_string().contains("cluster.id can't change from 7 to 8"), "{error}");
    (config.cluster_id, config.id) = (7, crate::types::NodeId::new(3).unwrap());
    assert!(world.hosts[0].membership.reconfigure(0, config).is_err());
}

#[test]
fn a_changed_timing_reaches_every_route() {
    let mut world = World::new(2, 2, 1);
    world.start_all();
    world.run(SECOND);
    let mut config = world.hosts[0].membership.config().clone();
    config.same_subnet.delay_ns = 200_000;
    let before = world.hosts[0].routes.clone();
    let now = world.now;
    world.hosts[0].membership.reconfigure(now, config).unwrap();
    world.drain(0);
    for (slot, install) in &world.hosts[0].routes {
        assert_eq!(install.timing.delay_ns, 200_000);
        assert_eq!(install.config, before[slot].config);
    }
}

#[test]
fn everything_configured_is_listed_from_the_start() {
    let mut world = World::new(3, 2, 1);
    world.interfaces(0);
    let routes = world.hosts[0].membership.routes();
    assert_eq!(routes.iter().map(|route| route.peer.as_str()).collect::<Vec<_>>(), ["n2", "n3"]);
    assert!(routes.iter().all(|route| route.state == RouteState::Down && route.slot.is_none()));
    assert_eq!(routes[0].network, "Cluster Network 1");
    assert_eq!(world.hosts[0].membership.peers().len(), 2);
    assert_eq!(world.hosts[0].membership.networks().len(), 2);
    world.start_all();
    world.run(SECOND);
    let routes = world.hosts[0].membership.routes();
    assert_eq!(routes.len(), 4);
    let slot = routes[3].slot.unwrap();
    assert_eq!(world.hosts[0].membership.route(slot).as_ref(), Some(&routes[3]));
    assert_eq!(world.hosts[0].routes[&slot].config.remote, address_bytes(routes[3].remote));
    assert!(matches!(world.hosts[0].events[0], MembershipEvent::NetworkChanged { .. }));
}
