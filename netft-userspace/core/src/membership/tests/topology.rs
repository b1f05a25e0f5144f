//! Endpoints, networks and adapters that come, go and collide.

use super::world::*;
use crate::adapter::AdapterSeed;
use crate::keys::Secret;
use crate::membership::{Membership, NetworkOverride, Role};
use crate::types::{LinkState, RouteClass, RouteState, address_bytes};

#[test]
fn a_removed_endpoint_takes_its_route_and_leaves_the_other_alone() {
    let mut world = World::new(2, 2, 1);
    world.start_all();
    world.run(SECOND);
    world.all_up();
    let before = world.hosts[1].routes.clone();
    let gone = world.hosts[0].interfaces.remove(0);
    world.interfaces(0);
    world.run(10 * MS);
    assert_eq!(world.agreed(0, 1), Ok(1));
    assert!(world.hosts[1].routes.iter().all(|(slot, install)| before[slot] == *install));
    let freed: Vec<_> = before.keys().filter(|slot| !world.hosts[1].routes.contains_key(slot)).collect();
    world.hosts[0].interfaces.insert(0, gone);
    world.interfaces(0);
    world.run(10 * MS);
    assert_eq!(world.agreed(0, 1), Ok(2));
    assert!(!world.hosts[1].routes.contains_key(freed[0]), "a freed slot rests");
}

#[test]
fn a_link_that_is_down_keeps_its_route() {
    let mut world = World::new(2, 2, 1);
    world.start_all();
    world.run(SECOND);
    world.all_up();
    let before = world.hosts[1].routes.clone();
    for link in [LinkState::NoCarrier, LinkState::AdminDown] {
        world.hosts[0].interfaces[1].link = link;
        if link == LinkState::AdminDown {
            world.hosts[0].interfaces[1].addresses.truncate(1);
        }
        world.interfaces(0);
        world.run(2 * SECOND);
        assert_eq!(world.hosts[1].routes, before);
        let seen = world.hosts[1].membership.peers().remove(0).endpoints;
        assert!(seen.iter().any(|endpoint| endpoint.link == link && endpoint.interface == "net2"));
    }
}

#[test]
fn ipv6_that_comes_late_replaces_ipv4_only_once_it_is_up() {
    let mut world = World::new(2, 1, 1);
    for host in &mut world.hosts {
        host.interfaces[0].addresses.truncate(1);
    }
    world.start_all();
    world.run(SECOND);
    world.all_up();
    let old = *world.hosts[0].routes.keys().next().unwrap();
    for host in 0..2 {
        let node = u16::try_from(host + 1).unwrap();
        world.hosts[host].interfaces[0].addresses.push((v6(node, 1), 64));
        world.interfaces(host);
    }
    world.run(10 * MS);
    assert_eq!(world.hosts[0].routes.len(), 2, "the old one stays until the new one is up");
    world.all_up();
    world.run(10 * MS);
    assert_eq!(world.agreed(0, 1), Ok(1));
    assert!(!world.hosts[0].routes.contains_key(&old));
}

#[test]
fn a_replacement_that_never_comes_up_is_waited_for_in_bounds() {
    let mut world = World::new(2, 1, 1);
    for host in &mut world.hosts {
        host.interfaces[0].addresses.truncate(1);
    }
    world.start_all();
    world.run(SECOND);
    world.all_up();
    for host in 0..2 {
        let node = u16::try_from(host + 1).unwrap();
        world.hosts[host].interfaces[0].addresses.push((v6(node, 1), 64));
        world.interfaces(host);
    }
    world.run(11 * SECOND);
    assert_eq!(world.agreed(0, 1), Ok(1));
}

#[test]
fn networks_with_role_none_are_not_used_nor_announced() {
    let mut world = World::new(2, 2, 1);
    let mut config = world.hosts[0].membership.config().clone();
    config.networks = vec![NetworkOverride {
        name: "storage".to_owned(),
        matches: vec!["net2".to_owned()],
        role: Some(Role::None),
        metric: None,
    }];
    world.hosts[0].membership = membership(config.clone(), SECRET, 1, 1);
    world.start_all();
    world.run(SECOND);
    assert_eq!(world.agreed(0, 1), Ok(1));
    assert_eq!(world.hosts[1].membership.peers()[0].endpoints.len(), 2);
    // And back.
    config.networks.clear();
    let now = world.now;
    world.hosts[0].membership.reconfigure(now, config).unwrap();
    world.drain(0);
    world.run(SECOND);
    assert_eq!(world.agreed(0, 1), Ok(2));
}

#[test]
fn nodes_without_a_common_subnet_try_all_pairs_across() {
    for sites in [false, true] {
        let mut world = World::new(2, 2, 1);
        world.hosts[1].interfaces = vec![interface(2, 8), interface(2, 9)];
        for host in 0..2 {
            let mut config = world.hosts[host].membership.config().clone();
            config.peers.values_mut().for_each(|peer| {
                peer.addresses = vec![if host == 0 { v4(2, 8) } else { v4(1, 1) }];
            });
            config.site = sites.then(|| format!("site{host}"));
            let byte = u8::try_from(host + 1).unwrap();
            world.hosts[host].membership = membership(config, SECRET, byte, byte);
        }
        world.start_all();
        world.run(SECOND);
        assert_eq!(world.agreed(0, 1), Ok(4));
        let class = if sites { RouteClass::CrossSite } else { RouteClass::CrossSubnet };
        assert!(world.hosts[0].routes.values().all(|install| install.class == class));
        let timing = world.hosts[0].routes.values().next().unwrap().timing;
        assert_eq!(timing.delay_ns, if sites { 100 * MS } else { 10 * MS });
    }
}

#[test]
fn both_ends_choose_the_same_of_several_addresses() {
    let mut world = World::new(2, 1, 1);
    let add = |world: &mut World, host: usize, address: &str| {
        world.hosts[host].interfaces[0].addresses.push((address.parse().unwrap(), 24));
    };
    for host in &mut world.hosts {
        host.interfaces[0].addresses.truncate(1);
    }
    add(&mut world, 0, "10.77.1.201");
    add(&mut world, 0, "10.77.1.101");
    add(&mut world, 1, "10.77.1.202");
    world.start_all();
    world.run(SECOND);
    assert_eq!(world.agreed(0, 1), Ok(1));
    let before = world.hosts[0].routes.clone();
    // A lower address that comes later changes nothing.
    world.hosts[1].interfaces[0].addresses.insert(0, ("10.77.1.1".parse().unwrap(), 24));
    world.hosts[1].interfaces[0].addresses.insert(0, ("10.77.1.99".parse().unwrap(), 24));
    world.interfaces(1);
    world.run(SECOND);
    assert_eq!(world.hosts[0].routes, before);
}

#[test]
fn an_address_that_both_claim_is_reported_and_makes_no_route() {
    let mut world = World::new(2, 2, 1);
    for host in &mut world.hosts {
        let mut bridge = interface(1, 3);
        bridge.name = "docker0".to_owned();
        host.interfaces.push(bridge);
    }
    world.start_all();
    world.run(SECOND);
    assert_eq!(world.agreed(0, 1), Ok(2));
    assert!(world.kinds(0).contains(&"address-conflict"));
}

#[test]
fn sixteen_endpoints_are_announced_and_no_more() {
    let mut world = World::new(2, 12, 1);
    world.start_all();
    world.run(SECOND);
    assert_eq!(world.hosts[1].membership.peers()[0].endpoints.len(), 16);
    assert_eq!(world.agreed(0, 1), Ok(8));
    assert!(world.kinds(0).contains(&"limit-reached"));
}

#[test]
fn the_higher_id_gives_way_when_adapters_collide() {
    let mut world = World::new(3, 1, 1);
    for node in 1..=3 {
        // Cloned images: the same MAC everywhere.
        let seed = AdapterSeed::new([2, 7, 7, 7, 7, 7], None);
        let secret = Secret::new(SECRET).unwrap();
        let byte = u8::try_from(node).unwrap();
        world.hosts[usize::from(node) - 1].membership =
            Membership::new(config(node, 3), secret, [byte; 16], seed, [byte; 32]);
    }
    world.start_all();
    world.run(SECOND);
    let adapters: Vec<_> = world.hosts.iter().map(|host| host.membership.adapter()).collect();
    assert_eq!(adapters[0], AdapterSeed::new([2, 7, 7, 7, 7, 7], None).adapter());
    for one in 0..3 {
        for other in (0..3).filter(|other| *other != one) {
            assert!(crate::adapter::conflict(&adapters[one], &adapters[other]).is_none());
            let id = world.hosts[other].membership.config().id;
            assert_eq!(world.hosts[one].adapters.get(&id), Some(&adapters[other]));
        }
    }
    assert_eq!(world.hosts[0].own_adapter, None);
    assert_eq!(world.hosts[2].own_adapter, Some(adapters[2]));
    assert!(world.kinds(0).contains(&"adapter-conflict"));
    // A restart with what netft0 has now keeps the identity.
    let again = AdapterSeed::new([2, 7, 7, 7, 7, 7], Some(adapters[2].mac));
    assert_eq!(again.adapter().ipv4, adapters[2].ipv4);
}

#[test]
fn an_adapter_passes_from_one_peer_to_another() {
    let mut world = World::new(3, 1, 1);
    let cloned = |node: u16| {
        let byte = u8::try_from(node).unwrap();
        let seed = AdapterSeed::new([2, 7, 7, 7, 7, 7], None);
        Membership::new(config(node, 3), Secret::new(SECRET).unwrap(), [byte; 16], seed, [byte; 32])
    };
    world.hosts[1].membership = cloned(2);
    world.hosts[2].membership = cloned(3);
    // n2 comes last, with what n3 has already.
    world.hosts[1].on = false;
    for host in [0, 2] {
        world.hosts[host].on = true;
        world.interfaces(host);
    }
    world.run(SECOND);
    let before = world.hosts[2].membership.adapter();
    world.hosts[1].on = true;
    world.interfaces(1);
    world.run(SECOND);
    let [second, third] = [1, 2].map(|host| world.hosts[host].membership.adapter());
    assert_eq!(second, before);
    assert!(crate::adapter::conflict(&second, &third).is_none());
    for (host, adapter) in [(1, second), (2, third)] {
        let id = world.hosts[host].membership.config().id;
        assert_eq!(world.hosts[0].adapters.get(&id), Some(&adapter));
    }
}

#[test]
fn the_adapter_is_as_large_as_the_narrowest_route_allows() {
    let mut world = World::new(2, 2, 1);
    for host in &mut world.hosts {
        host.interfaces.iter_mut().for_each(|interface| interface.mtu = 9000);
    }
    world.start_all();
    world.run(SECOND);
    assert_eq!(world.hosts[0].own_adapter.map(|adapter| adapter.mtu), Some(9000 - 114));
    world.hosts[1].interfaces[1].mtu = 1500;
    world.interfaces(1);
    world.run(SECOND);
    assert_eq!(world.hosts[0].own_adapter.map(|adapter| adapter.mtu), Some(1386));
    assert_eq!(world.hosts[1].own_adapter.map(|adapter| adapter.mtu), Some(1386));
}

#[test]
fn a_default_route_makes_the_network_worse_for_everybody() {
    let mut world = World::new(2, 2, 1);
    world.start_all();
    world.run(SECOND);
    world.hosts[0].interfaces[0].default_route = true;
    world.interfaces(0);
    world.run(SECOND);
    for host in &world.hosts {
        let networks = host.membership.networks();
        assert_eq!((networks[0].role, networks[1].role), (Role::ClusterAndClient, Role::Cluster));
        for install in host.routes.values() {
            let first = install.config.local == address_bytes(v6(host.membership.config().id.get(), 1));
            assert_eq!(install.metric, if first { 70_400 } else { 30_400 });
        }
    }
}

#[test]
fn a_route_state_reaches_the_listing() {
    let mut world = World::new(2, 2, 1);
    world.start_all();
    world.run(SECOND);
    world.set_routes(0, RouteState::Up);
    assert!(world.hosts[0].membership.routes().iter().all(|route| route.state == RouteState::Up));
}
