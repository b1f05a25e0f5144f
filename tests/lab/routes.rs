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
use xtask::lab::{Direction, Lab};
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
