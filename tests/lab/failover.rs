//! Paths fail, and traffic goes on over the others.

use crate::support::{
    PATIENCE, cluster, eventually, logs, on_network, options, output_of, route_event, travels_by,
};
use netft_core::types::{RouteReason, RouteState};
use netft_userspace::listing::Event;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use xtask::cluster::{Watch, adapter, nodes, routes};
use xtask::lab::{Direction, Lab, Options};
use xtask::traffic::{Flow, FlowSpec};

/// Slow enough that word of a lost carrier, which travels with the next heartbeat, always comes before detection.
fn unhurried(nodes: u32, networks: u32) -> Options {
    let options = options(nodes, networks).set("heartbeat.same_subnet.delay=\"20ms\"").unwrap();
    options.set("heartbeat.same_subnet.threshold=20").unwrap()
}

#[test]
fn after_a_silent_cut_traffic_goes_on_over_the_other_network_and_comes_back() {
    let lab = cluster(&options(2, 2));
    let destination = IpAddr::V4(adapter(&lab, "n2").unwrap().ipv4);
    let spec = FlowSpec::kilohertz("n1", "n2", destination, Duration::from_secs(60));
    let (udp, tcp) = (Flow::udp(&lab, &spec).unwrap(), Flow::tcp(&lab, &spec).unwrap());
    let watches = [Watch::start(&lab, "n1").unwrap(), Watch::start(&lab, "n2").unwrap()];
    eventually("traffic is on net1", PATIENCE, || travels_by(&lab, "n1", "n2", 1).then_some(()));
    assert!(udp.wait_for_arrival(0, PATIENCE) && tcp.wait_for_arrival(0, PATIENCE));

    let cut = lab.cut("n1", "net1", Direction::Both).unwrap();
    for (watch, peer) in watches.iter().zip(["n2", "n1"]) {
        let event = route_event(watch, cut.before_ns, peer, 1, "down");
        assert_eq!(event.reason, "heartbeats-missed");
        let detection_ns = 5_000_000;
        assert!(event.boottime_ns >= cut.before_ns + detection_ns - 1_000_000, "no verdict before its time");
    }
    eventually("traffic moved", PATIENCE, || travels_by(&lab, "n1", "n2", 2).then_some(()));
    let moved_ns = xtask::lab::boottime_ns();
    assert!(udp.wait_for_arrival(moved_ns, PATIENCE), "the UDP flow goes on");
    assert!(tcp.wait_for_arrival(moved_ns, PATIENCE), "the TCP stream goes on");

    let heal = lab.heal("n1", "net1", Direction::Both).unwrap();
    let up = route_event(&watches[0], heal.before_ns, "n2", 1, "up");
    let back = watches[0].wait(heal.before_ns, PATIENCE, |event| event.kind == "active-route");
    let back = back.expect("traffic fails back to the better network");
    assert!(back.boottime_ns - up.boottime_ns >= 900_000_000, "after the hold of one second");
    assert!(travels_by(&lab, "n1", "n2", 1));
    let back_ns = xtask::lab::boottime_ns();
    assert!(udp.wait_for_arrival(back_ns, PATIENCE) && tcp.wait_for_arrival(back_ns, PATIENCE));
}

/// The kernel forgets where a silent neighbour is, and asks once a second; netft knows it from the peer's hello.
#[test]
fn a_route_that_is_down_keeps_its_neighbour_entry() {
    let lab = cluster(&options(2, 2));
    let entry = || {
        let known = |address: IpAddr| {
            let found = lab.exec("n1", &["ip", "neighbour", "get", &address.to_string(), "dev", "net1"]);
            found.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains("lladdr"))
        };
        on_network(1, "n2").into_iter().any(known).then_some(())
    };
    lab.cut("n1", "net1", Direction::Both).unwrap();
    for _ in 0..3 {
        output_of(&lab, "n1", &["ip", "neighbour", "flush", "dev", "net1"]);
        eventually("the entry is there again", PATIENCE, entry);
    }
    lab.heal("n1", "net1", Direction::Both).unwrap();
    crate::support::whole(&lab);
}

#[test]
fn one_way_loss_is_named_at_both_ends() {
    let lab = cluster(&options(2, 2));
    lab.cut("n1", "net1", Direction::Tx).unwrap();
    reason_becomes(&lab, "n1", "n2", 1, RouteReason::RxOnly);
    reason_becomes(&lab, "n2", "n1", 1, RouteReason::TxOnly);
    lab.heal("n1", "net1", Direction::Both).unwrap();
    crate::support::whole(&lab);
    lab.cut("n1", "net1", Direction::Rx).unwrap();
    reason_becomes(&lab, "n1", "n2", 1, RouteReason::TxOnly);
    reason_becomes(&lab, "n2", "n1", 1, RouteReason::RxOnly);
}

#[test]
fn a_pulled_cable_is_acted_on_at_once_and_told_to_the_peers() {
    let lab = cluster(&unhurried(3, 2));
    let watches: Vec<_> = nodes(&lab).iter().map(|node| Watch::start(&lab, node).unwrap()).collect();
    let pulled = lab.unplug("n1", "net1").unwrap();
    for peer in ["n2", "n3"] {
        let event = route_event(&watches[0], pulled.before_ns, peer, 1, "down");
        assert_eq!(event.reason, "carrier-lost");
    }
    for watch in &watches[1..] {
        let event = route_event(watch, pulled.before_ns, "n1", 1, "down");
        assert_eq!(event.reason, "peer-carrier-lost");
        let detection_ns = 400_000_000;
        assert!(event.boottime_ns < pulled.after_ns + detection_ns, "told, not found out");
    }
    // Nobody else's routes suffered.
    let others = routes(&lab, "n2").unwrap();
    assert!(others.iter().filter(|route| route.peer == "n3").all(|route| route.state == RouteState::Up));
    lab.plug("n1", "net1").unwrap();
    crate::support::whole(&lab);
}

/// Who asks without pause must not keep the daemon from listening to the kernel.
#[test]
fn a_plugged_cable_is_seen_while_the_daemon_is_kept_busy() {
    let lab = cluster(&options(2, 2));
    let watch = Watch::start(&lab, "n1").unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let _ = routes(&lab, "n1");
                }
            });
        }
        for _ in 0..5 {
            for link in ["no-carrier", "up"] {
                let done = if link == "up" { lab.plug("n1", "net2") } else { lab.unplug("n1", "net2") };
                let is_it = |event: &Event| event.subject == "net2" && event.new.as_deref() == Some(link);
                let seen = watch.wait(done.unwrap().before_ns, PATIENCE, is_it);
                // Threads of the scope must end before it does, whatever happens here.
                if seen.is_none() {
                    stop.store(true, Ordering::Relaxed);
                    panic!("nobody said that net2 is {link}\n{}", logs(&lab));
                }
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    crate::support::whole(&lab);
}

#[test]
fn an_interface_taken_down_is_told_as_such() {
    let lab = cluster(&unhurried(2, 2));
    let watches = [Watch::start(&lab, "n1").unwrap(), Watch::start(&lab, "n2").unwrap()];
    let before_ns = xtask::lab::boottime_ns();
    output_of(&lab, "n1", &["ip", "link", "set", "net1", "down"]);
    assert_eq!(route_event(&watches[0], before_ns, "n2", 1, "admin-down").reason, "admin-down");
    let told = watches[1]
        .wait(before_ns, PATIENCE, |event| event.kind == "route" && event.reason == "peer-admin-down");
    assert!(told.is_some(), "{:#?}", watches[1].since(before_ns));
    eventually("traffic moved", PATIENCE, || travels_by(&lab, "n2", "n1", 2).then_some(()));
    output_of(&lab, "n1", &["ip", "link", "set", "net1", "up"]);
    crate::support::whole(&lab);
}

fn reason_becomes(lab: &Lab, node: &str, peer: &str, network: u32, reason: RouteReason) {
    let remotes = on_network(network, peer);
    let mut seen = None;
    let what = format!("{node}'s route to {peer} is down: {reason:?}");
    eventually(&what, PATIENCE, || {
        let routes = routes(lab, node).ok()?;
        let route = routes.into_iter().find(|route| remotes.contains(&route.remote))?;
        if seen != Some((route.state, route.reason)) {
            seen = Some((route.state, route.reason));
            eprintln!("{node}: {seen:?}");
        }
        (route.state == RouteState::Down && route.reason == reason).then_some(())
    });
}
