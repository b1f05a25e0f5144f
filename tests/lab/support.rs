//! What several tests need.

use anyhow::{Context, Result};
use netft_core::types::RouteState;
use netft_userspace::control::Request;
use netft_userspace::listing::{Event, Routes};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};
use xtask::cluster::{Watch, active_network, address, ask, is_node, is_route, nodes, wait_until_whole};
use xtask::lab::{Lab, LabGuard, Options};

/// Options of a lab that only the caller has.
pub fn options(nodes: u32, networks: u32) -> Options {
    Options::new(&LabGuard::unique_name("test"), nodes, networks)
}

/// A lab without daemons.
pub fn bare_lab(nodes: u32, networks: u32) -> LabGuard {
    LabGuard::up(&options(nodes, networks).daemon_less()).expect("the lab comes up")
}

/// Polls `condition` until it gives something, and fails the test with `what` after `limit`.
pub fn eventually<T>(what: &str, limit: Duration, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < deadline, "not within {} s: {what}", limit.as_secs());
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Sends datagrams from one host to an address of another until one arrives or `limit` has passed: says whether frames
/// get there, and nothing about the way back.
pub fn delivers(lab: &Lab, from: &str, to: &str, address: &str, limit: Duration) -> Result<bool> {
    let address: IpAddr = address.parse().context("address")?;
    let receiver = lab.enter(to, || Ok(UdpSocket::bind(SocketAddr::new(address, 0))?))?;
    receiver.set_read_timeout(Some(Duration::from_millis(10)))?;
    let target = receiver.local_addr()?;
    let any: IpAddr = if address.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
    let sender = lab.enter(from, || Ok(UdpSocket::bind(SocketAddr::new(any, 0))?))?;
    let deadline = Instant::now() + limit;
    while Instant::now() < deadline {
        // While a path is unplugged or unresolved, the kernel may say so here: then nothing arrives either.
        let _ = sender.send_to(b"x", target);
        if receiver.recv(&mut [0; 16]).is_ok() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether frames arrive; gives them the time that a busy machine may need.
pub fn arrives(lab: &Lab, from: &str, to: &str, address: &str) -> bool {
    delivers(lab, from, to, address, Duration::from_secs(5)).expect("sockets work")
}

/// Whether nothing arrives for as long as many a frame would need.
pub fn is_silent(lab: &Lab, from: &str, to: &str, address: &str) -> bool {
    !delivers(lab, from, to, address, Duration::from_millis(150)).expect("sockets work")
}

/// A lab whose daemons have formed a cluster over every network.
pub fn cluster(options: &Options) -> LabGuard {
    let lab = LabGuard::up(options).unwrap_or_else(|error| panic!("the lab doesn't come up: {error:#}"));
    whole(&lab);
    lab
}

/// Waits until every route is up everywhere.
pub fn whole(lab: &Lab) {
    if let Err(error) = wait_until_whole(lab, PATIENCE) {
        panic!("{error:#}\n{}", logs(lab));
    }
}

/// How long anything may take that should take milliseconds: other tests use the machine, too.
pub const PATIENCE: Duration = Duration::from_secs(15);

/// The end of every daemon's log, for the message of a failing test.
pub fn logs(lab: &Lab) -> String {
    let tail = |node: &String| {
        let path = lab.folder(node).unwrap_or_default().join("netftd.log");
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        format!("--- {node} ---\n{}\n", lines[lines.len().saturating_sub(25)..].join("\n"))
    };
    nodes(lab).iter().map(tail).collect()
}

/// Both addresses of a node on a network; routes use one of them.
pub fn on_network(network: u32, node: &str) -> [IpAddr; 2] {
    address(network, node).expect("a node's name")
}

/// Waits for the event that `node`'s route to `peer` over `network` became `state`, and returns its reason.
pub fn route_event(watch: &Watch, from_ns: u64, peer: &str, network: u32, state: &str) -> Event {
    let addresses = on_network(network, peer);
    let wanted = |event: &Event| addresses.iter().any(|address| is_route(event, *address, state));
    watch.wait(from_ns, PATIENCE, wanted).unwrap_or_else(|| {
        panic!(
            "no event that a route to {peer} over net{network} is {state}; seen: {:#?}",
            watch.since(from_ns)
        )
    })
}

/// Waits for the event that `peer` became `state`.
pub fn node_event(watch: &Watch, from_ns: u64, peer: &str, state: &str) -> Event {
    let found = watch.wait(from_ns, PATIENCE, |event| is_node(event, peer, state));
    found.unwrap_or_else(|| panic!("no event that {peer} is {state}; seen: {:#?}", watch.since(from_ns)))
}

/// Every change of a route away from `up` that any daemon has in its histories since `from_ns`.
pub fn downs(lab: &Lab, from_ns: u64) -> Vec<String> {
    let mut downs = Vec::new();
    for node in nodes(lab) {
        let request = Request::Routes { history: true, only: None };
        let routes: Routes = ask(lab, &node, request).unwrap_or_else(|error| panic!("{node}: {error:#}"));
        for route in routes.routes {
            let records = route.history.iter().flatten();
            let records = records.filter(|r| r.boottime_ns >= from_ns && r.new != RouteState::Up);
            downs.extend(records.map(|r| format!("{node}: {} -> {}: {r:?}", route.local, route.remote)));
        }
    }
    downs
}

/// Whether the cluster traffic of `node` to `peer` goes over `network` now.
pub fn travels_by(lab: &Lab, node: &str, peer: &str, network: u32) -> bool {
    active_network(lab, node, peer).is_ok_and(|active| active == Some(network))
}

/// Runs a command in a host and returns its standard output; its failure fails the test.
pub fn output_of(lab: &Lab, host: &str, command: &[&str]) -> String {
    let output = lab.exec(host, command).expect("the command starts");
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?} on {host}: {}: {told}", output.status);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Everything about a host's network that a daemon could change: links with their programs, addresses, routes, rules,
/// and the neighbours that somebody put there.
pub fn network_state(lab: &Lab, host: &str) -> String {
    let links = output_of(lab, host, &["ip", "-details", "link", "show"]);
    let neighbours = output_of(lab, host, &["ip", "neigh", "show", "nud", "permanent"]);
    let rest = [
        "ip -4 address",
        "ip -6 address",
        "ip -4 route show table all",
        "ip -6 route show table all",
        "ip rule",
    ];
    let rest: Vec<String> =
        rest.iter().map(|line| output_of(lab, host, &line.split(' ').collect::<Vec<_>>())).collect();
    format!("{links}\n{neighbours}\n{}", rest.join("\n"))
}
