//! A cluster forms by itself: peers, networks, routes.

use crate::support::{PATIENCE, cluster, eventually, options, output_of, travels_by};
use netft_core::membership::Role;
use netft_core::types::NodeState;
use netft_userspace::control::Request;
use netft_userspace::engine::XdpMode;
use netft_userspace::listing::{NetworkState, Networks, Nodes};
use std::collections::BTreeSet;
use xtask::cluster::{ask, nodes, routes, status};
use xtask::lab::LabGuard;

#[test]
fn a_cluster_forms_from_one_address_per_peer() {
    let lab = cluster(&options(3, 2));
    let mut identities = BTreeSet::new();
    for node in nodes(&lab) {
        let listed: Nodes = ask(&lab, &node, Request::Nodes).unwrap();
        assert_eq!(listed.nodes.len(), 3);
        assert_eq!(listed.nodes[0].name, node, "the own node comes first");
        for other in listed.nodes {
            assert_eq!(other.state, NodeState::Up, "{node} sees {}", other.name);
            assert_eq!(other.id.map(|id| format!("n{id}")), Some(other.name.clone()));
            let adapter = other.adapter.expect("its adapter is known");
            assert!(adapter.ipv4.is_link_local() && adapter.ipv6.is_unicast_link_local());
            assert_eq!(adapter.mtu, 1386);
            identities.insert((other.name, adapter.mac, adapter.ipv4, adapter.ipv6));
        }
        let routes = routes(&lab, &node).unwrap();
        assert_eq!(routes.len(), 4, "one route to each peer on each network: {routes:?}");
        assert!(routes.iter().all(|route| route.local.is_ipv6()), "IPv6 where both ends have it: {routes:?}");
        let status = status(&lab, &node).unwrap();
        assert_eq!((status.peers.up, status.routes.up), (2, 4));
        assert!(status.interfaces.iter().all(|interface| interface.xdp == XdpMode::Native));
    }
    assert_eq!(identities.len(), 3, "everybody agrees on three different identities: {identities:?}");
}

#[test]
fn networks_get_names_roles_and_metrics_and_the_cluster_network_is_preferred() {
    let lab = cluster(&options(3, 2));
    for node in nodes(&lab) {
        let listed: Networks = ask(&lab, &node, Request::Networks).unwrap();
        let [first, second] = listed.networks.as_slice() else { panic!("two networks, not {listed:?}") };
        assert_eq!((first.name.as_str(), second.name.as_str()), ("Cluster Network 1", "Cluster Network 2"));
        assert_eq!(first.subnet.as_deref(), Some("10.77.1.0/24"));
        assert!(first.subnets.contains(&"fd77:1::/64".to_owned()), "{:?}", first.subnets);
        assert_eq!((first.role, second.role), (Role::Cluster, Role::ClusterAndClient));
        assert!(first.metric < second.metric, "{listed:?}");
        assert_eq!((first.state, second.state), (NetworkState::Up, NetworkState::Up));
        for peer in nodes(&lab).iter().filter(|peer| **peer != node) {
            eventually("traffic prefers the cluster network", PATIENCE, || {
                travels_by(&lab, &node, peer, 1).then_some(())
            });
        }
    }
}

#[test]
fn a_metric_set_by_hand_moves_traffic_to_that_network() {
    let setting = "network.fast={match=[\"10.77.2.0/24\"], metric=5}";
    let lab = cluster(&options(2, 2).set(setting).unwrap());
    let listed: Networks = ask(&lab, "n1", Request::Networks).unwrap();
    let fast = listed.networks.iter().find(|network| network.name == "fast").expect("it has its name");
    assert_eq!(fast.metric, 5);
    eventually("traffic prefers it", PATIENCE, || travels_by(&lab, "n1", "n2", 2).then_some(()));
}

#[test]
fn nodes_on_different_subnets_meet_across_a_router() {
    let mut options = options(2, 4);
    options.shape.routed = true;
    let lab = LabGuard::up(&options).unwrap();
    eventually("n1 and n2 see each other up", PATIENCE, || {
        let up =
            |node: &str| status(&lab, node).is_ok_and(|status| status.peers.up == 1 && status.routes.up > 0);
        (up("n1") && up("n2")).then_some(())
    });
}

#[test]
fn the_command_line_prints_only_json_on_standard_output() {
    let lab = cluster(&options(2, 1));
    for verb in ["status", "nodes", "networks", "routes", "events"] {
        let document = lab.netft_json("n1", &[verb]).unwrap_or_else(|error| panic!("{error:#}"));
        assert_eq!(document["version"], 1, "{verb}");
        let text = lab.netft("n1", &[verb]).unwrap();
        assert!(
            text.status.success() && !text.stdout.is_empty() && text.stderr.is_empty(),
            "{verb}: {text:?}"
        );
    }
    let wrong = lab.netft("n1", &["nonsense"]).unwrap();
    assert!(!wrong.status.success() && wrong.stdout.is_empty());
    // Frames of the cluster are netft's own business: nothing else was told to use the adapter.
    let routes = output_of(&lab, "n1", &["ip", "route", "show", "default"]);
    assert!(!routes.contains("netft0"), "{routes}");
}
