//! Keys that are renewed while the cluster works.

use crate::support::{PATIENCE, cluster, downs, eventually, options, whole};
use netft_core::data::DataReject;
use netft_core::types::Level;
use netft_userspace::control::Request;
use netft_userspace::listing::{Nodes, Reload, Session};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;
use xtask::cluster::{adapter, ask, nodes, status};
use xtask::hostile::{Overheard, Port};
use xtask::lab::{Lab, boottime_ns, timing_lock};
use xtask::traffic::{Flow, FlowSpec};

fn session(lab: &Lab, node: &str, peer: &str) -> Session {
    let listed: Nodes = ask(lab, node, Request::Nodes).unwrap();
    let found = listed.nodes.into_iter().find(|listed| listed.name == peer);
    found.expect("every node is listed").session.expect("there is a session")
}

/// The keys that a node uses with another: epoch, and how often they were replaced.
fn keys(lab: &Lab, node: &str, peer: &str) -> (String, u64) {
    let session = session(lab, node, peer);
    (session.epoch, session.renewals)
}

/// Changes the level at which a running node sends.
fn set_level(lab: &Lab, node: &str, level: Level) {
    let file = lab.folder(node).unwrap().join("netft.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    let kept: Vec<&str> = text.lines().filter(|line| !line.starts_with("level = ")).collect();
    let kept = kept.join("\n").replace("[security]", &format!("[security]\nlevel = \"{level}\""));
    std::fs::write(&file, kept).unwrap();
    let done: Reload = ask(lab, node, Request::Reload { dry_run: false }).unwrap();
    assert!(done.applied && done.changes.len() == 1, "{done:?}");
}

/// What was refused for its keys, its tag or its sequence, anywhere.
fn refused(lab: &Lab) -> BTreeMap<String, u64> {
    let mut all = BTreeMap::new();
    let names = [
        "reject_epoch",
        "reject_tag",
        "data_reject_epoch",
        "data_reject_tag",
        "data_reject_checksum",
        "data_reject_replay",
    ];
    for node in nodes(lab) {
        let status = status(lab, &node).unwrap();
        let counted = status.counters.into_iter().chain(status.data.drops);
        for (name, count) in counted.filter(|(name, count)| names.contains(&name.as_str()) && *count > 0) {
            all.insert(format!("{node} {name}"), count);
        }
    }
    all
}

#[test]
fn keys_are_renewed_every_second_with_no_route_down_and_no_frame_lost_or_refused() {
    let _alone = timing_lock().unwrap();
    let lab = cluster(&options(2, 2).set("security.rekey=\"1s\"").unwrap());
    let destination = IpAddr::V4(adapter(&lab, "n2").unwrap().ipv4);
    let limit = Duration::from_secs(60);
    let flows: Vec<Flow> = [("n1", "n2"), ("n2", "n1")]
        .into_iter()
        .map(|(from, to)| {
            let destination = if to == "n2" { destination } else { adapter(&lab, to).unwrap().ipv4.into() };
            Flow::udp(&lab, &FlowSpec::kilohertz(from, to, destination, limit)).unwrap()
        })
        .collect();
    assert!(flows.iter().all(|flow| flow.wait_for_arrival(0, PATIENCE)));
    let (before, from_ns, refused_before) = (keys(&lab, "n1", "n2"), boottime_ns(), refused(&lab));
    eventually("keys were renewed five times", PATIENCE * 2, || {
        (keys(&lab, "n1", "n2").1 >= before.1 + 5).then_some(())
    });
    let to_ns = boottime_ns();
    assert!(flows.iter().all(|flow| flow.wait_for_arrival(to_ns, PATIENCE)));
    eventually("both use the same keys", PATIENCE, || {
        (keys(&lab, "n1", "n2") == keys(&lab, "n2", "n1")).then_some(())
    });
    assert_ne!(keys(&lab, "n1", "n2").0, before.0);
    for flow in &flows {
        let report = flow.report(from_ns, to_ns);
        assert_eq!((report.lost, report.duplicated), (0, 0), "{report:?}");
    }
    assert_eq!(refused(&lab), refused_before, "what one sends, the other has accepted before");
    assert_eq!(downs(&lab, from_ns), Vec::<String>::new());
}

#[test]
fn a_restarted_daemon_has_new_keys_and_takes_nothing_that_was_recorded_before() {
    let _alone = timing_lock().unwrap();
    // Whichever of the two starts handshakes.
    for (victim, other) in [("n1", "n2"), ("n2", "n1")] {
        let lab = cluster(&options(2, 1));
        let overheard = Overheard::at(&lab, victim, other, "net1").unwrap();
        let port = Port::open(&lab, victim, "net1").unwrap();
        let frame = overheard.data.spoofed().datagram(&overheard.data.payload);
        let before = keys(&lab, other, victim).0;
        let killed = lab.kill(victim).unwrap();
        lab.start(victim).unwrap();
        whole(&lab);
        eventually("both have new keys", PATIENCE, || {
            let (one, two) = (keys(&lab, victim, other).0, keys(&lab, other, victim).0);
            (one == two && one != before).then_some(())
        });
        let count = || {
            let drops = status(&lab, victim).unwrap().data.drops;
            let name = DataReject::NAMES[DataReject::Epoch as usize];
            drops.into_iter().find(|(drop, _)| drop == name).expect("a counter of that name").1
        };
        let refused = count();
        for _ in 0..20 {
            assert!(port.send(&frame).unwrap());
        }
        eventually("all of them were refused", PATIENCE, || (count() == refused + 20).then_some(()));
        assert_eq!(downs(&lab, killed.before_ns), Vec::<String>::new());
    }
}

#[test]
fn levels_change_node_by_node_with_no_route_down_and_no_frame_lost_or_refused() {
    let _alone = timing_lock().unwrap();
    let lab = cluster(&options(2, 2));
    let limit = Duration::from_secs(120);
    let flows = [("n1", "n2"), ("n2", "n1")].map(|(from, to)| {
        let spec = FlowSpec::kilohertz(from, to, adapter(&lab, to).unwrap().ipv4.into(), limit);
        [Flow::udp(&lab, &spec).unwrap(), Flow::tcp(&lab, &spec).unwrap()]
    });
    let flows = flows.as_flattened();
    assert!(flows.iter().all(|flow| flow.wait_for_arrival(0, PATIENCE)));
    let (from_ns, refused_before) = (boottime_ns(), refused(&lab));
    let mut levels = [Level::Signed; 2];
    // Each to each, and from either end.
    for (node, level) in [
        (0, Level::Encrypted),
        (1, Level::Encrypted),
        (1, Level::Clear),
        (0, Level::Clear),
        (0, Level::Signed),
        (1, Level::Signed),
    ] {
        let names = ["n1", "n2"];
        set_level(&lab, names[node], level);
        levels[node] = level;
        eventually("both ends know", PATIENCE, || {
            let of = |node: usize| {
                let session = session(&lab, names[node], names[1 - node]);
                (session.sends, session.receives) == (levels[node], levels[1 - node])
            };
            (of(0) && of(1)).then_some(())
        });
        for node in [0, 1] {
            let daemon = status(&lab, names[node]).unwrap().daemon;
            assert_eq!(daemon.security_level, levels[node]);
            let theirs = daemon.other_levels.get(names[1 - node]).copied();
            assert_eq!(theirs, (levels[0] != levels[1]).then_some(levels[1 - node]), "named if it differs");
        }
        let now_ns = boottime_ns();
        assert!(flows.iter().all(|flow| flow.wait_for_arrival(now_ns, PATIENCE)), "{node} {level}");
    }
    let to_ns = boottime_ns();
    assert!(flows.iter().all(|flow| flow.wait_for_arrival(to_ns, PATIENCE)));
    for flow in flows {
        let report = flow.report(from_ns, to_ns);
        assert_eq!((report.lost, report.duplicated), (0, 0), "{report:?}");
    }
    assert_eq!(refused(&lab), refused_before, "what one sends, the other has accepted before");
    assert_eq!(downs(&lab, from_ns), Vec::<String>::new());
}
