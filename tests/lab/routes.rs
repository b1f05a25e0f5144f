//! What routes carry: all that is sent, whichever of them dies, by every policy; and how large packets fit through.

use crate::support::{
    PATIENCE, cluster, eventually, logs, on_network, options, output_of, travels_by, whole,
};
use netft_userspace::control::Request;
use netft_userspace::listing::Reload;
use netft_userspace::listing::Route;
use std::net::{IpAddr, UdpSocket};
use std::process::Command;
use std::time::Duration;
use xtask::cluster::{adapter, ask, nodes, routes, status};
use xtask::lab::{Direction, Lab, LabGuard};
use xtask::traffic::{Flow, FlowSpec};

/// Sizes are looked at every 5 s, and searching takes 2 s.
const MEASURED: Duration = Duration::from_secs(30);

fn flow(lab: &Lab) -> Flow {
    let destination = IpAddr::V4(adapter(lab, "n2").unwrap().ipv4);
    let flow =
        Flow::udp(lab, &FlowSpec::kilohertz("n1", "n2", destination, Duration::from_secs(60))).unwrap();
    assert!(flow.wait_for_arrival(0, PATIENCE));
    flow
}

#[test]
fn no_packet_is_lost_nor_arrives_twice_when_its_route_dies_or_the_policy_changes() {
    let lab = cluster(&options(2, 2));
    let flow = flow(&lab);
    let began_ns = xtask::lab::boottime_ns();
    for policy in ["duplicate", "spread", "failover"] {
        let file = lab.folder("n1").unwrap().join("netft.toml");
        let text = std::fs::read_to_string(&file).unwrap();
        let kept: Vec<&str> =
            text.lines().filter(|line| !line.starts_with("policy =") && *line != "[datapath]").collect();
        std::fs::write(&file, format!("{}\n[datapath]\npolicy = \"{policy}\"\n", kept.join("\n"))).unwrap();
        let done: Reload = ask(&lab, "n1", Request::Reload { dry_run: false }).unwrap();
        assert_eq!(done.changes.len(), 1, "{done:?}");
        for network in 1..=2 {
            let name = format!("net{network}");
            lab.cut("n1", &name, Direction::Both).unwrap();
            eventually("traffic is on the other network", PATIENCE, || {
                travels_by(&lab, "n1", "n2", 3 - network).then_some(())
            });
            std::thread::sleep(Duration::from_millis(20));
            lab.heal("n1", &name, Direction::Both).unwrap();
            whole(&lab);
        }
    }
    let ended_ns = xtask::lab::boottime_ns();
    std::thread::sleep(Duration::from_millis(100));
    let report = flow.report(began_ns, ended_ns);
    assert_eq!((report.lost, report.duplicated), (0, 0), "{report:?}\n{}", logs(&lab));
    let data = status(&lab, "n1").unwrap().data;
    assert!(data.replayed > 0 && data.duplicated > 0, "{data:?}");
    assert_eq!((data.keep_overflow, data.keep_expired), (0, 0), "{data:?}");
}

#[test]
fn spread_flows_take_both_of_two_equal_networks() {
    let lab = cluster(&options(2, 2).set("datapath.policy=\"spread\"").unwrap());
    let sent = |network: u32| -> u64 {
        let file = format!("/sys/class/net/net{network}/statistics/tx_bytes");
        output_of(&lab, "n1", &["cat", &file]).trim().parse().unwrap()
    };
    let before = [sent(1), sent(2)];
    let to = adapter(&lab, "n2").unwrap().ipv4;
    let (flows, each, bytes) = (64, 50, 1000);
    for _ in 0..flows {
        let socket = lab.enter("n1", || Ok(UdpSocket::bind("0.0.0.0:0")?)).unwrap();
        for _ in 0..each {
            socket.send_to(&vec![7; bytes], (to, 9)).unwrap();
        }
    }
    let all = u64::try_from(flows * each * bytes).unwrap();
    eventually("both networks carry a good share", PATIENCE, || {
        let carried = [sent(1) - before[0], sent(2) - before[1]];
        carried.iter().all(|carried| *carried > all / 5).then_some(())
    });
}

/// The routes between both nodes over a network, as each sees it.
fn both_ends(lab: &Lab, network: u32) -> Vec<Route> {
    let of = |node: String| {
        let own = on_network(network, &node);
        let known = routes(lab, &node).unwrap().into_iter();
        known.filter(|route| own.contains(&route.local)).collect::<Vec<_>>()
    };
    nodes(lab).into_iter().flat_map(of).collect()
}

fn set_port_mtu(lab: &Lab, port: &str, mtu: u32) {
    let told = lab
        .enter_switch(|| {
            let command = format!("ip link set dev {port} mtu {mtu}");
            Ok(Command::new("sh").args(["-c", &command]).status()?)
        })
        .unwrap();
    assert!(told.success());
}

#[test]
fn a_route_that_swallows_long_frames_is_used_last_and_the_sender_is_told() {
    let lab = cluster(&options(2, 2));
    let carries = |network: u32, range: std::ops::RangeInclusive<u32>| {
        eventually(&format!("net{network} carries {range:?}"), MEASURED, || {
            let ends = both_ends(&lab, network);
            let fit = |route: &Route| route.mtu.is_some_and(|mtu| range.contains(&mtu));
            (ends.len() == 2 && ends.iter().all(fit)).then_some(())
        });
    };
    let full = adapter(&lab, "n1").unwrap().mtu;
    let peer = adapter(&lab, "n2").unwrap().ipv4.to_string();
    let ping = |size: u16| {
        let size = (size - 28).to_string();
        let command = ["ping", "-c2", "-i0.2", "-W2", "-Mdo", "-s", &size, &peer];
        let output = lab.exec("n1", &command).unwrap();
        (
            output.status.success(),
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr),
        )
    };
    carries(1, 1500..=1500);
    assert!(ping(full).0);
    // The interfaces know nothing of it, and short frames get through.
    set_port_mtu(&lab, "n1-net1", 1400);
    carries(1, 1390..=1404);
    eventually("traffic avoids net1", PATIENCE, || travels_by(&lab, "n1", "n2", 2).then_some(()));
    assert!(ping(full).0, "over net2");
    assert_eq!(adapter(&lab, "n1").unwrap().mtu, full, "one narrow route shortens nothing");

    // Nothing else is left: now who sends too much is told.
    lab.cut("n1", "net2", Direction::Both).unwrap();
    eventually("traffic is on net1", PATIENCE, || travels_by(&lab, "n1", "n2", 1).then_some(()));
    let (arrived, told) = ping(full);
    assert!(!arrived && told.contains("mtu"), "{told}");
    assert!(ping(1250).0);
    lab.heal("n1", "net2", Direction::Both).unwrap();
    whole(&lab);

    // Both are narrow: the adapter follows, and again when they are mended.
    set_port_mtu(&lab, "n1-net2", 1450);
    carries(2, 1440..=1454);
    eventually("the adapter is as large as the better route", PATIENCE, || {
        (1320..=1340).contains(&adapter(&lab, "n1").unwrap().mtu).then_some(())
    });
    set_port_mtu(&lab, "n1-net1", 1500);
    set_port_mtu(&lab, "n1-net2", 1500);
    carries(1, 1500..=1500);
    carries(2, 1500..=1500);
    eventually("the adapter is as it was", PATIENCE, || {
        (adapter(&lab, "n1").unwrap().mtu == full).then_some(())
    });
}

/// Sets the MTU of one end of a host's cable to a network: the host's, or the switch's.
fn set_cable_mtu(lab: &Lab, host: &str, network: &str, mtu: u32) {
    output_of(lab, host, &["ip", "link", "set", network, "mtu", &mtu.to_string()]);
    set_port_mtu(lab, &format!("{host}-{network}"), mtu);
}

#[test]
fn the_adapter_carries_jumbo_frames_when_all_interfaces_do_and_no_others_when_one_does_not() {
    // What a frame of the adapter is longer by on the way.
    const ADDED: u16 = 114;
    let lab = LabGuard::up(&options(3, 2).daemon_less()).unwrap();
    xtask::lab::build().unwrap();
    // Virtual cables with XDP in their drivers carry 3506 bytes: without the switch's, cuts are of one direction, and the nodes'
    // is in the stack.
    let switch = lab.pins("n1").unwrap().with_file_name("switch");
    for pin in std::fs::read_dir(switch).unwrap().map(|pin| pin.unwrap().path()) {
        if pin.to_str().unwrap().ends_with("-xdp") {
            std::fs::remove_file(pin).unwrap();
        }
    }
    for network in ["net1", "net2"] {
        ["n1", "n2", "n3"].iter().for_each(|host| set_cable_mtu(&lab, host, network, 9000));
        set_port_mtu(&lab, network, 9000);
    }
    set_cable_mtu(&lab, "client", "net2", 9000);
    for node in nodes(&lab) {
        lab.start(&node).unwrap();
    }
    whole(&lab);
    let everywhere = |mtu: u16| {
        eventually(&format!("every netft0 has MTU {mtu}"), MEASURED, || {
            nodes(&lab).iter().all(|node| adapter(&lab, node).unwrap().mtu == mtu).then_some(())
        });
    };
    let ping = |from: &str, to: &str, size: u16| {
        let (size, peer) = ((size - 28).to_string(), adapter(&lab, to).unwrap().ipv4.to_string());
        let output = lab.exec(from, &["ping", "-c3", "-i0.1", "-W2", "-Mdo", "-s", &size, &peer]).unwrap();
        output.status.success()
    };
    let (jumbo, ordinary) = (9000 - ADDED, 1500 - ADDED);
    everywhere(jumbo);
    let flow = flow(&lab);
    let began_ns = xtask::lab::boottime_ns();
    for _ in 0..2 {
        // Over either network, between any two.
        for silent in ["net2", "net1"] {
            lab.cut("n1", silent, Direction::Rx).unwrap();
            eventually("traffic is on the other network", PATIENCE, || {
                travels_by(&lab, "n1", "n2", if silent == "net1" { 2 } else { 1 }).then_some(())
            });
            assert!(ping("n1", "n2", jumbo) && ping("n3", "n1", jumbo), "{silent} is cut");
            lab.heal("n1", silent, Direction::Rx).unwrap();
            whole(&lab);
        }
        assert!(ping("n2", "n3", jumbo));
        set_cable_mtu(&lab, "n3", "net2", 1500);
        everywhere(ordinary);
        assert!(ping("n1", "n2", ordinary) && ping("n3", "n1", ordinary));
        assert!(!ping("n1", "n2", ordinary + 1), "the sender's kernel knows");
        set_cable_mtu(&lab, "n3", "net2", 9000);
        everywhere(jumbo);
    }
    let ended_ns = xtask::lab::boottime_ns();
    assert!(flow.wait_for_arrival(ended_ns, PATIENCE));
    let report = flow.report(began_ns, ended_ns);
    assert_eq!((report.lost, report.duplicated), (0, 0), "{report:?}\n{}", logs(&lab));
}
