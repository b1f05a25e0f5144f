//! The ways that cluster traffic takes: AF_XDP or the kernel's sockets, changed while it flows.

use crate::support::{PATIENCE, cluster, downs, eventually, logs, options, output_of, travels_by, whole};
use aya::maps::{Map, MapData, XskMap};
use netft_common::map::name;
use netft_core::types::RouteState;
use netft_userspace::control::Request;
use netft_userspace::engine::{DataWay, PathReport, XdpMode};
use netft_userspace::listing::{HistoryRecord, Reload, Route, Routes};
use std::net::IpAddr;
use std::time::Duration;
use xtask::cluster::{Watch, adapter, ask, nodes, status};
use xtask::lab::{Direction, Lab, LabGuard, Options, boottime_ns, timing_lock};
use xtask::traffic::{Flow, FlowSpec};

const NODES: [&str; 2] = ["n1", "n2"];
/// Longest time without a frame of a flow of one per millisecond that any change may cause: generous, as other tests run.
const FLOW_BREAK_NS: u64 = 250_000_000;

fn paths(lab: &Lab, node: &str) -> Vec<PathReport> {
    let status = status(lab, node).unwrap();
    status.interfaces.into_iter().map(|interface| interface.path.expect("XDP is attached")).collect()
}

/// Waits until data goes `way` on every interface of every node.
pub fn everywhere(lab: &Lab, way: DataWay) {
    let deadline = std::time::Instant::now() + PATIENCE;
    let agrees = |path: &PathReport| (path.receive, path.transmit) == (way, way);
    while !nodes(lab).iter().all(|node| paths(lab, node).iter().all(agrees)) {
        let seen: Vec<_> = nodes(lab).iter().map(|node| paths(lab, node)).collect();
        assert!(std::time::Instant::now() < deadline, "not {way:?}: {seen:#?}\n{}", logs(lab));
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Writes it into the node's file.
fn configure(lab: &Lab, node: &str, path: &str) {
    let file = lab.folder(node).unwrap().join("netft.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    let kept: Vec<&str> =
        text.lines().filter(|line| !line.starts_with("path =") && *line != "[datapath]").collect();
    std::fs::write(&file, format!("{}\n[datapath]\npath = \"{path}\"\n", kept.join("\n"))).unwrap();
}

pub fn reload_with(lab: &Lab, node: &str, path: &str) {
    configure(lab, node, path);
    let done: Reload = ask(lab, node, Request::Reload { dry_run: false }).unwrap();
    assert!(done.applied && done.changes.len() == 1, "{done:?}");
}

/// Waits until XDP is attached so on every interface of every node.
fn everywhere_attached(lab: &Lab, mode: XdpMode) {
    eventually(&format!("XDP is {mode:?} everywhere"), PATIENCE, || {
        let is_so = |node: &String| status(lab, node).unwrap().interfaces.iter().all(|i| i.xdp == mode);
        nodes(lab).iter().all(is_so).then_some(())
    });
}

/// How many of a node's routes were up at least at any time since `from_ns`, when all were.
fn fewest_up(lab: &Lab, node: &str, from_ns: u64) -> usize {
    let routes: Routes = ask(lab, node, Request::Routes { history: true, only: None }).unwrap();
    let count = routes.routes.len();
    let of = |(index, route): (usize, &Route)| {
        let records = route.history.clone().into_iter().flatten();
        records.filter(move |record| record.boottime_ns >= from_ns).map(move |record| (record, index))
    };
    let mut records: Vec<_> = routes.routes.iter().enumerate().flat_map(of).collect();
    records.sort_by_key(|(record, _)| record.boottime_ns);
    let mut up = vec![true; count];
    let after = |(record, index): (HistoryRecord, usize)| {
        up[index] = record.new == RouteState::Up;
        up.iter().filter(|up| **up).count()
    };
    records.into_iter().map(after).chain([count]).min().unwrap()
}

/// Frames that went and came by AF_XDP.
fn by_xdp(lab: &Lab, node: &str) -> (u64, u64) {
    let data = status(lab, node).unwrap().data;
    (data.xdp_sent, data.xdp_received)
}

fn start(path: &str, networks: u32) -> LabGuard {
    cluster(&queued(path, networks, 1))
}

/// Two nodes whose cables have `queues` queues.
fn queued(path: &str, networks: u32, queues: u32) -> Options {
    let mut options = options(2, networks).set(&format!("datapath.path=\"{path}\"")).unwrap();
    options.shape.queues = queues;
    options
}

#[test]
fn every_change_of_the_data_path_keeps_the_cluster_and_its_flows() {
    let _alone = timing_lock().unwrap();
    let lab = start("socket", 2);
    everywhere(&lab, DataWay::Socket);
    let destination = IpAddr::V4(adapter(&lab, "n2").unwrap().ipv4);
    let spec = FlowSpec::kilohertz("n1", "n2", destination, Duration::from_secs(60));
    let flows = [Flow::udp(&lab, &spec).unwrap(), Flow::tcp(&lab, &spec).unwrap()];
    for flow in &flows {
        assert!(flow.wait_for_arrival(0, PATIENCE));
    }
    let watches = NODES.map(|node| Watch::start(&lab, node).unwrap());
    let started_ns = boottime_ns();
    let mut generic = false;
    let ways = [
        ("xdp", DataWay::Xdp),
        ("xdp-generic", DataWay::XdpGeneric),
        ("socket", DataWay::Socket),
        ("xdp-generic", DataWay::XdpGeneric),
        ("xdp", DataWay::Xdp),
        ("socket", DataWay::Socket),
    ];
    for (path, way) in ways {
        let before = NODES.map(|node| by_xdp(&lab, node));
        let changed_ns = boottime_ns();
        // Only by these XDP is attached anew, and for that moment nobody answers heartbeats on one interface.
        let reattaches = generic != (way == DataWay::XdpGeneric);
        generic = way == DataWay::XdpGeneric;
        for node in NODES {
            reload_with(&lab, node, path);
        }
        everywhere(&lab, way);
        everywhere_attached(&lab, if generic { XdpMode::Generic } else { XdpMode::Native });
        for flow in &flows {
            assert!(flow.wait_for_arrival(boottime_ns(), PATIENCE), "{path}: the flows go on");
        }
        if way != DataWay::Socket {
            // Both nodes send (the receiver of TCP acknowledges) and receive.
            eventually(&format!("{path} is used"), PATIENCE, || {
                let grown = |(node, before): (&str, (u64, u64))| {
                    let now = by_xdp(&lab, node);
                    now.0 > before.0 + 100 && now.1 > before.1 + 100
                };
                NODES.into_iter().zip(before).all(grown).then_some(())
            });
        }
        if !reattaches {
            assert_eq!(downs(&lab, changed_ns), Vec::<String>::new(), "{path}\n{}", logs(&lab));
        }
        whole(&lab);
    }
    for (node, watch) in NODES.into_iter().zip(&watches) {
        let events = watch.since(started_ns);
        let lost: Vec<_> = events.iter().filter(|event| event.kind == "node").collect();
        assert!(lost.is_empty(), "a node was lost: {lost:#?}");
        let without =
            events.iter().filter(|event| event.kind == "active-route" && event.new.is_none()).count();
        assert_eq!(without, 0, "{node} had no active route: {events:#?}");
        assert!(fewest_up(&lab, node, started_ns) >= 1, "{node} had no route up: {events:#?}");
    }
    let [udp, tcp] = flows;
    drop(tcp);
    let outages = udp.stop().outages(FLOW_BREAK_NS);
    assert_eq!(outages, Vec::new(), "frames went over the other interface meanwhile");
    for node in NODES {
        let status = status(&lab, node).unwrap();
        assert_eq!(status.data.buffer_bytes, 0, "all packet memory is given back");
        assert_eq!(status.data.drops["xdp_stray_buffer"], 0);
    }
}

#[test]
fn everything_that_goes_over_the_adapter_goes_by_af_xdp() {
    for (path, way) in [("xdp", DataWay::Xdp), ("xdp-generic", DataWay::XdpGeneric)] {
        let lab = start(path, 1);
        everywhere(&lab, way);
        let before = by_xdp(&lab, "n1");
        let peer = adapter(&lab, "n2").unwrap();
        let v6 = format!("{}%netft0", peer.ipv6);
        for (address, overhead) in [(peer.ipv4.to_string(), 28), (v6, 48)] {
            let size = (peer.mtu - overhead).to_string();
            for size in ["0", "1", "57", size.as_str()] {
                output_of(&lab, "n1", &["ping", "-c50", "-i0.002", "-W5", "-Mdo", "-s", size, &address]);
            }
        }
        let after = by_xdp(&lab, "n1");
        assert!(after.0 >= before.0 + 400 && after.1 >= before.1 + 400, "{before:?} {after:?}");
        let report = &paths(&lab, "n1")[0];
        assert!(!report.zero_copy && report.sockets == 1 && report.buffer_bytes > 0, "{report:?}");
    }
}

#[test]
fn a_daemon_that_was_killed_gets_its_sockets_back() {
    let _alone = timing_lock().unwrap();
    let lab = cluster(&queued("xdp", 2, 2));
    everywhere(&lab, DataWay::Xdp);
    let killed = lab.kill("n2").unwrap();
    lab.start("n2").unwrap();
    everywhere(&lab, DataWay::Xdp);
    assert_eq!(downs(&lab, killed.before_ns), Vec::<String>::new());
    assert_eq!(paths(&lab, "n2").iter().map(|path| path.sockets).collect::<Vec<_>>(), [2, 2]);
    each_thread_carries(&lab);

    // And if XDP is to be attached in another way by then, that also happens one interface after the other.
    configure(&lab, "n2", "xdp-generic");
    let killed = lab.kill("n2").unwrap();
    lab.start("n2").unwrap();
    eventually("it uses AF_XDP with XDP in the stack", PATIENCE, || {
        let all = paths(&lab, "n2").iter().all(|path| path.receive == DataWay::XdpGeneric);
        all.then_some(())
    });
    whole(&lab);
    assert!(fewest_up(&lab, "n1", killed.before_ns) >= 1, "{}", logs(&lab));
}

#[test]
fn every_queue_has_a_socket_and_a_thread_that_carries_its_traffic() {
    if thread_count(2) < 2 {
        println!("one CPU: one thread has all queues, so there is nothing to see");
        return;
    }
    let lab = cluster(&queued("socket", 1, 2));
    everywhere(&lab, DataWay::Socket);
    assert_eq!(status(&lab, "n1").unwrap().data.threads.len(), 1, "sockets need one");
    for (path, way) in [("xdp", DataWay::Xdp), ("xdp-generic", DataWay::XdpGeneric)] {
        for node in NODES {
            reload_with(&lab, node, path);
        }
        everywhere(&lab, way);
        for node in NODES {
            assert_eq!(paths(&lab, node)[0].sockets, 2, "{path}");
        }
        each_thread_carries(&lab);
    }
    // Back to sockets: nothing of AF_XDP is left, and traffic flows.
    for node in NODES {
        reload_with(&lab, node, "socket");
    }
    everywhere(&lab, DataWay::Socket);
    let peer = adapter(&lab, "n2").unwrap().ipv4.to_string();
    output_of(&lab, "n1", &["ping", "-c20", "-i0.002", "-W5", &peer]);
    eventually("all packet memory is given back", PATIENCE, || {
        (status(&lab, "n1").unwrap().data.buffer_bytes == 0).then_some(())
    });
}

#[test]
fn more_queues_than_threads_are_all_served() {
    let queues = 5;
    let lab = cluster(&queued("xdp", 1, queues));
    everywhere(&lab, DataWay::Xdp);
    for node in NODES {
        let status = status(&lab, node).unwrap();
        assert_eq!(status.data.threads.len(), thread_count(queues as usize), "{node}");
        assert_eq!(paths(&lab, node)[0].sockets, queues, "{node}");
    }
    each_thread_carries(&lab);
    // Each thread gets a queue of the adapter that is made when this one is gone.
    output_of(&lab, "n1", &["ip", "link", "del", "netft0"]);
    let peer = adapter(&lab, "n2").unwrap().ipv4.to_string();
    eventually("it is there again", PATIENCE, || {
        let pinged = lab.exec("n1", &["ping", "-c1", "-W1", &peer]).unwrap();
        pinged.status.success().then_some(())
    });
    each_thread_carries(&lab);
}

#[test]
fn auto_keeps_to_sockets_where_af_xdp_would_copy_and_is_changed_live() {
    let lab = cluster(&queued("auto", 1, 2));
    let refused = |path: &PathReport| path.why.contains("AF_XDP would copy, as the driver refuses zero copy");
    eventually("veth's refusal is told", PATIENCE, || {
        NODES.iter().all(|node| paths(&lab, node).iter().all(refused)).then_some(())
    });
    everywhere(&lab, DataWay::Socket);
    assert!(!logs(&lab).contains("WARN"), "it is no warning: {}", logs(&lab));
    let before_ns = boottime_ns();
    for (path, way) in [("xdp", DataWay::Xdp), ("auto", DataWay::Socket)] {
        let (sent, received) = by_xdp(&lab, "n1");
        for node in NODES {
            reload_with(&lab, node, path);
        }
        everywhere(&lab, way);
        let peer = adapter(&lab, "n2").unwrap().ipv4.to_string();
        output_of(&lab, "n1", &["ping", "-c20", "-i0.002", "-W5", &peer]);
        let now = by_xdp(&lab, "n1");
        let used = now.0 >= sent + 20 && now.1 >= received + 20;
        assert_eq!(used, way == DataWay::Xdp, "{path}: {sent} {received} {now:?}");
    }
    assert_eq!(downs(&lab, before_ns), Vec::<String>::new());
    assert!(NODES.iter().all(|node| status(&lab, node).unwrap().data.buffer_bytes == 0), "no memory is held");
}

/// Data threads for so many queues.
fn thread_count(queues: usize) -> usize {
    queues.min(std::thread::available_parallelism().unwrap().get())
}

/// Sends datagrams of many flows, and sees that each thread of the sender sends some by AF_XDP, that all of them arrive by
/// AF_XDP, and that none falls through to the kernel. By which queues they arrive is up to the switch, which has one for
/// each pair of endpoints (`netft-userspace/tests/waste.rs` has both ends' queues joined).
fn each_thread_carries(lab: &Lab) {
    const FLOWS: u64 = 200;
    let peer = adapter(lab, "n2").unwrap().ipv4;
    let threads = |node| status(lab, node).unwrap().data.threads;
    let fallen = || status(lab, "n2").unwrap().counters["fell_through"];
    let (sent, received, fell) = (threads("n1"), by_xdp(lab, "n2").1, fallen());
    // Each socket has another port, so another flow; nobody listens, and nobody needs to.
    let flows = format!("for i in $(seq {FLOWS}); do echo flow > /dev/udp/{peer}/9; done");
    lab.exec("n1", &["bash", "-c", &flows]).unwrap();
    eventually("all of them have arrived", PATIENCE, || {
        (by_xdp(lab, "n2").1 >= received + FLOWS).then_some(())
    });
    let now = threads("n1");
    assert!(
        now.iter().zip(&sent).all(|(now, then)| now.xdp_sent > then.xdp_sent),
        "each thread sends: {sent:?} {now:?}"
    );
    assert_eq!(fallen(), fell, "every queue has its socket");
}

#[test]
fn a_frozen_peer_is_no_witness_against_a_path() {
    let lab = start("xdp", 1);
    everywhere(&lab, DataWay::Xdp);
    let frozen = lab.freeze("n2").unwrap();
    // Nobody answers probes any more: then nothing is learnt, and nothing is doubted.
    eventually("two seconds have passed", PATIENCE, || {
        let path = &paths(&lab, "n1")[0];
        assert_eq!((path.receive, path.transmit), (DataWay::Xdp, DataWay::Xdp), "{path:?}");
        (boottime_ns() > frozen.after_ns + 2_000_000_000).then_some(())
    });
    lab.thaw("n2").unwrap();
    everywhere(&lab, DataWay::Xdp);
}

#[test]
fn a_path_by_which_nothing_arrives_any_more_is_left_without_losing_traffic() {
    let _alone = timing_lock().unwrap();
    let lab = start("xdp", 1);
    everywhere(&lab, DataWay::Xdp);
    let destination = IpAddr::V4(adapter(&lab, "n1").unwrap().ipv4);
    let spec = FlowSpec::kilohertz("n2", "n1", destination, Duration::from_secs(60));
    let watch = Watch::start(&lab, "n1").unwrap();
    let flow = Flow::udp(&lab, &spec).unwrap();
    assert!(flow.wait_for_arrival(0, PATIENCE));
    // The sockets are there, but XDP doesn't find them any more.
    let pins = lab.pins("n1").unwrap().join(name::SOCKETS);
    let mut sockets = XskMap::try_from(Map::XskMap(MapData::from_pin(&pins).unwrap())).unwrap();
    (0..sockets.len()).for_each(|index| sockets.unset(index).unwrap());
    let path = eventually("the path is left", PATIENCE, || {
        let path = paths(&lab, "n1").remove(0);
        (path.receive == DataWay::Socket).then_some(path)
    });
    assert_eq!(path.transmit, DataWay::Xdp, "what it sends does arrive: {path:?}");
    let asked_ns = boottime_ns();
    assert!(flow.wait_for_arrival(asked_ns, PATIENCE));
    let log = flow.stop();
    let outages = log.outages(100_000_000);
    assert_eq!(outages, Vec::new(), "frames fell through to the socket all the time");
    let told = watch.wait(0, PATIENCE, |event| event.reason.contains("nothing arrives by AF_XDP"));
    assert!(told.is_some(), "{:#?}", watch.since(0));
}

#[test]
fn no_packet_is_lost_nor_arrives_twice_when_paths_by_af_xdp_are_cut() {
    let _alone = timing_lock().unwrap();
    let lab = start("xdp", 2);
    everywhere(&lab, DataWay::Xdp);
    let destination = IpAddr::V4(adapter(&lab, "n2").unwrap().ipv4);
    let spec = FlowSpec::kilohertz("n1", "n2", destination, Duration::from_secs(60));
    let flow = Flow::udp(&lab, &spec).unwrap();
    assert!(flow.wait_for_arrival(0, PATIENCE));
    let (before, began_ns) = (by_xdp(&lab, "n2").1, boottime_ns());
    for round in 0..10 {
        let (network, other) = if round % 2 == 0 { ("net1", 2) } else { ("net2", 1) };
        // Either end, either direction.
        let end = NODES[round / 2 % 2];
        let direction = [Direction::Both, Direction::Tx, Direction::Rx][round % 3];
        lab.cut(end, network, direction).unwrap();
        eventually("traffic is on the other network", PATIENCE, || {
            travels_by(&lab, "n1", "n2", other).then_some(())
        });
        assert!(flow.wait_for_arrival(boottime_ns(), PATIENCE));
        lab.heal(end, network, direction).unwrap();
        whole(&lab);
    }
    everywhere(&lab, DataWay::Xdp);
    let ended_ns = boottime_ns();
    assert!(flow.wait_for_arrival(ended_ns, PATIENCE));
    let report = flow.report(began_ns, ended_ns);
    assert_eq!((report.lost, report.duplicated), (0, 0), "{report:?}\n{}", logs(&lab));
    assert!(by_xdp(&lab, "n2").1 - before >= report.received, "they came by AF_XDP");
    let data = status(&lab, "n1").unwrap().data;
    assert!(data.replayed > 0 && data.keep_overflow == 0, "{data:?}");
}
