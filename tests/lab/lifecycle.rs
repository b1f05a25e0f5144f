//! Daemons freeze, die, come back, stop and change their minds.

use crate::support::{
    PATIENCE, cluster, downs, eventually, network_state, node_event, on_network, options, output_of, whole,
};
use netft_core::types::RouteState;
use netft_userspace::control::Request;
use netft_userspace::listing::Reload;
use std::net::IpAddr;
use std::time::Duration;
use xtask::cluster::{Watch, adapter, ask, nodes, routes, status};
use xtask::lab::{Lab, LabGuard, boottime_ns, timing_lock};
use xtask::traffic::{Flow, FlowSpec};

#[test]
fn a_frozen_engine_keeps_its_routes_and_is_reported_by_its_peers() {
    let _alone = timing_lock().unwrap();
    let lab = cluster(&options(3, 2));
    let watches = [Watch::start(&lab, "n1").unwrap(), Watch::start(&lab, "n3").unwrap()];
    let frozen = lab.freeze("n2").unwrap();
    for watch in &watches {
        let stalled = node_event(watch, frozen.before_ns, "n2", "engine-stalled");
        assert!(stalled.boottime_ns >= frozen.before_ns + 240_000_000, "not before the engine timeout");
    }
    let thawed = lab.thaw("n2").unwrap();
    for watch in &watches {
        node_event(watch, thawed.before_ns, "n2", "up");
    }
    whole(&lab);
    assert_eq!(downs(&lab, frozen.before_ns), Vec::<String>::new(), "its host answered all the time");
}

#[test]
fn a_killed_daemon_comes_back_without_a_route_down_anywhere() {
    let _alone = timing_lock().unwrap();
    let lab = cluster(&options(3, 2));
    let destination = IpAddr::V4(adapter(&lab, "n2").unwrap().ipv4);
    let tcp =
        Flow::tcp(&lab, &FlowSpec::kilohertz("n1", "n2", destination, Duration::from_secs(60))).unwrap();
    assert!(tcp.wait_for_arrival(0, PATIENCE));
    let watch = Watch::start(&lab, "n1").unwrap();
    let device = device(&lab);
    let killed = lab.kill("n2").unwrap();
    node_event(&watch, killed.before_ns, "n2", "engine-stalled");
    assert_eq!(device, self::device(&lab), "netft0 outlives the daemon");
    let started = lab.start("n2").unwrap();
    node_event(&watch, started.before_ns, "n2", "up");
    whole(&lab);
    assert_eq!(status(&lab, "n2").unwrap().daemon.adopted_routes, 4);
    assert_eq!(device, self::device(&lab), "and is taken over by the next");
    assert!(tcp.wait_for_arrival(boottime_ns(), PATIENCE), "the TCP stream goes on");
    assert_eq!(downs(&lab, killed.before_ns), Vec::<String>::new());

    // Whatever its peers were doing in between: a second time, at once.
    let killed = lab.kill("n2").unwrap();
    lab.start("n2").unwrap();
    whole(&lab);
    assert_eq!(downs(&lab, killed.before_ns), Vec::<String>::new());
}

#[test]
fn a_daemon_that_stays_away_costs_its_node_the_routes_in_the_end() {
    let lab = cluster(&options(2, 2).set("engine.absence=\"2s\"").unwrap());
    let watch = Watch::start(&lab, "n1").unwrap();
    let destination = IpAddr::V4(adapter(&lab, "n2").unwrap().ipv4);
    let killed = lab.kill("n2").unwrap();
    let stalled = node_event(&watch, killed.before_ns, "n2", "engine-stalled");
    let absent = watch.wait(killed.before_ns, PATIENCE, |event| event.kind == "peer-absent");
    let absent = absent.expect("n1 gives n2 up");
    assert!(absent.boottime_ns >= stalled.boottime_ns + 1_900_000_000, "{absent:?}");
    node_event(&watch, killed.before_ns, "n2", "down");
    assert!(routes(&lab, "n1").unwrap().iter().all(|route| route.state == RouteState::Down));
    lab.start("n2").unwrap();
    whole(&lab);
    let udp =
        Flow::udp(&lab, &FlowSpec::kilohertz("n1", "n2", destination, Duration::from_secs(60))).unwrap();
    assert!(udp.wait_for_arrival(boottime_ns(), PATIENCE), "data resumes");
}

#[test]
fn what_a_killed_daemon_left_for_a_peer_that_is_gone_is_removed() {
    let lab = cluster(&options(2, 1));
    lab.kill("n1").unwrap();
    // As an earlier daemon with one more peer would have made it (its mark: protocol 33).
    let gone = "169.254.9.9";
    output_of(&lab, "n1", &["ip", "route", "add", gone, "dev", "netft0", "protocol", "33", "scope", "link"]);
    lab.start("n1").unwrap();
    whole(&lab);
    let peer = adapter(&lab, "n2").unwrap().ipv4.to_string();
    eventually("the route of nobody is gone", PATIENCE * 2, || {
        let routes = output_of(&lab, "n1", &["ip", "route", "show", "dev", "netft0"]);
        assert!(routes.contains(&peer), "the peer's stays: {routes}");
        (!routes.contains(gone)).then_some(())
    });
}

#[test]
fn a_clean_stop_says_goodbye_and_leaves_nothing() {
    let lab = LabGuard::up(&options(2, 2).daemon_less()).unwrap();
    let before = network_state(&lab, "n1");
    xtask::lab::build().unwrap();
    for node in nodes(&lab) {
        lab.start(&node).unwrap();
    }
    whole(&lab);
    assert_ne!(before, network_state(&lab, "n1"));
    let watch = Watch::start(&lab, "n2").unwrap();
    let stopped = lab.stop("n1").unwrap();
    let leaving = node_event(&watch, stopped.before_ns, "n1", "leaving");
    let first_down = watch.wait(stopped.before_ns, PATIENCE, |event| {
        event.kind == "route" && event.new.as_deref() == Some("down")
    });
    let first_down = first_down.expect("its routes go down in the end");
    assert_eq!(first_down.reason, "peer-left");
    assert!(leaving.sequence <= first_down.sequence, "goodbye comes first");
    let after = network_state(&lab, "n1");
    let gone: Vec<_> = before.lines().filter(|line| !after.contains(line)).collect();
    let left: Vec<_> = after.lines().filter(|line| !before.contains(line)).collect();
    assert_eq!(before, after, "everything is as it was before the start; gone: {gone:#?}, left: {left:#?}");
    assert!(!lab.pins("n1").unwrap().exists(), "no pins");
    assert!(!lab.folder("n1").unwrap().join("control.sock").exists(), "no socket");
    lab.start("n1").unwrap();
    whole(&lab);
}

#[test]
fn after_a_power_failure_a_node_joins_again() {
    let lab = cluster(&options(2, 2));
    let watch = Watch::start(&lab, "n1").unwrap();
    let off = lab.power_off("n2").unwrap();
    let down = node_event(&watch, off.before_ns, "n2", "down");
    assert!(down.boottime_ns >= off.before_ns);
    let on = lab.power_on("n2").unwrap();
    node_event(&watch, on.before_ns, "n2", "up");
    whole(&lab);
}

#[test]
fn reload_changes_timing_on_a_running_node() {
    let _alone = timing_lock().unwrap();
    let lab = cluster(&options(2, 2));
    let before_ns = boottime_ns();
    let file = lab.folder("n1").unwrap().join("netft.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    let added = "\n[heartbeat.same_subnet]\ndelay = \"3ms\"\nthreshold = 7\n";
    std::fs::write(&file, format!("{text}{added}")).unwrap();
    let dry: Reload = ask(&lab, "n1", Request::Reload { dry_run: true }).unwrap();
    assert!(!dry.applied && dry.changes.len() == 2, "{dry:?}");
    assert!(timings(&lab, "n1").iter().all(|timing| *timing == (1000, 5)), "a dry run changes nothing");
    let done: Reload = ask(&lab, "n1", Request::Reload { dry_run: false }).unwrap();
    assert!(done.applied, "{done:?}");
    assert!(timings(&lab, "n1").iter().all(|timing| *timing == (3000, 7)), "{:?}", timings(&lab, "n1"));
    assert!(timings(&lab, "n2").iter().all(|timing| *timing == (1000, 5)), "only on this node");
    // It really sends at the new pace: some 333 a second, not 1000.
    let (sent, at_ns) = (sent(&lab), boottime_ns());
    eventually("half a second has passed", PATIENCE, || (boottime_ns() > at_ns + 500_000_000).then_some(()));
    let per_second = (self::sent(&lab) - sent) * 1_000_000_000 / (boottime_ns() - at_ns);
    assert!((150..500).contains(&per_second), "{per_second} heartbeats a second");
    assert_eq!(downs(&lab, before_ns), Vec::<String>::new());
    // A mistake is refused, and what was stays.
    std::fs::write(&file, format!("{text}{added}treshold = 9\n")).unwrap();
    let refused = lab.netft("n1", &["reload"]).unwrap();
    let told = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && told.contains("treshold") && told.contains("threshold"), "{told}");
    assert!(timings(&lab, "n1").iter().all(|timing| *timing == (3000, 7)));
}

fn timings(lab: &Lab, node: &str) -> Vec<(u64, u32)> {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "whole microseconds, at most 10 s"
    )]
    let timing = |delay_us: f64, threshold| (delay_us as u64, threshold);
    routes(lab, node).unwrap().iter().map(|route| timing(route.delay_us, route.threshold)).collect()
}

/// Heartbeats that n1 sent to n2 over net1.
fn sent(lab: &Lab) -> u64 {
    let remotes = on_network(1, "n2");
    let routes = routes(lab, "n1").unwrap();
    let route = routes.iter().find(|route| remotes.contains(&route.remote)).expect("the route");
    assert_eq!(route.state, RouteState::Up);
    route.sent
}

fn device(lab: &Lab) -> String {
    let shown = output_of(lab, "n2", &["ip", "-oneline", "link", "show", "dev", "netft0"]);
    // Without its flags: it has no carrier while nobody reads it.
    let index = shown.split(':').next().unwrap_or_default().to_owned();
    let address = shown.split("link/ether ").nth(1).unwrap_or_default().to_owned();
    format!("{index} {address}")
}
