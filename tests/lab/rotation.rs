//! Another cluster secret while the cluster works.

use crate::support::{PATIENCE, cluster, downs, eventually, options};
use netft_core::membership::Phase;
use netft_userspace::control::Request;
use netft_userspace::listing::{Events, KeyRotation, Nodes};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;
use xtask::cluster::{adapter, ask, nodes, status};
use xtask::lab::{Lab, boottime_ns, timing_lock};
use xtask::traffic::{Flow, FlowSpec};

fn key_file(lab: &Lab, node: &str) -> PathBuf {
    lab.folder(node).unwrap().join("secret")
}

fn next_file(lab: &Lab, node: &str) -> PathBuf {
    lab.folder(node).unwrap().join("secret.next")
}

fn rotation(lab: &Lab, node: &str) -> Option<KeyRotation> {
    status(lab, node).unwrap().daemon.key_rotation
}

/// Runs `netft key rotate`: what it prints, and whether that was a success.
fn key_rotate(lab: &Lab, node: &str, option: &[&str]) -> (bool, String) {
    let output = lab.netft(node, &[&["key", "rotate"], option].concat()).unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(text).unwrap())
}

fn kinds(lab: &Lab, node: &str) -> Vec<String> {
    let events: Events = ask(lab, node, Request::Events { since_unix_ns: None, follow: false }).unwrap();
    events.events.into_iter().map(|event| event.kind).collect()
}

/// All nodes have the same secret, another one than `old`, in private files, and no other.
fn all_have_another(lab: &Lab, old: &[u8]) {
    let new = std::fs::read(key_file(lab, "n1")).unwrap();
    assert_ne!(new, old);
    for node in nodes(lab) {
        assert_eq!(rotation(lab, &node), None, "{node}");
        assert_eq!(std::fs::read(key_file(lab, &node)).unwrap(), new, "{node}");
        let mode = std::fs::metadata(key_file(lab, &node)).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o600);
        assert!(!next_file(lab, &node).exists(), "{node}");
    }
}

#[test]
fn one_command_replaces_the_secret_and_no_frame_is_lost() {
    let _alone = timing_lock().unwrap();
    let lab = cluster(&options(3, 2));
    let old = std::fs::read(key_file(&lab, "n1")).unwrap();
    let limit = Duration::from_secs(60);
    let flows = [("n1", "n2"), ("n2", "n3")].map(|(from, to)| {
        let spec = FlowSpec::kilohertz(from, to, adapter(&lab, to).unwrap().ipv4.into(), limit);
        [Flow::udp(&lab, &spec).unwrap(), Flow::tcp(&lab, &spec).unwrap()]
    });
    let flows = flows.as_flattened();
    assert!(flows.iter().all(|flow| flow.wait_for_arrival(0, PATIENCE)));
    let from_ns = boottime_ns();

    let (done, text) = key_rotate(&lab, "n2", &[]);
    assert!(done && text.contains("done: every node has the new secret"), "{text}");
    eventually("all have ended it", PATIENCE, || {
        nodes(&lab).iter().all(|node| rotation(&lab, node).is_none()).then_some(())
    });
    all_have_another(&lab, &old);
    let to_ns = boottime_ns();
    assert!(flows.iter().all(|flow| flow.wait_for_arrival(to_ns, PATIENCE)));
    for flow in flows {
        let report = flow.report(from_ns, to_ns);
        assert_eq!((report.lost, report.duplicated), (0, 0), "{report:?}");
    }
    assert_eq!(downs(&lab, from_ns), Vec::<String>::new());
    for node in nodes(&lab) {
        assert!(!kinds(&lab, &node).iter().any(|kind| kind == "wrong-secret"), "{node}");
    }

    // Keys come from the new secret, and who starts with the old one is a stranger.
    let listed: Nodes = ask(&lab, "n1", Request::Nodes).unwrap();
    let sessions = listed.nodes.into_iter().filter_map(|node| node.session);
    assert!(sessions.map(|session| session.renewals).all(|renewals| renewals >= 1));
    let new = std::fs::read(key_file(&lab, "n3")).unwrap();
    lab.kill("n3").unwrap();
    std::fs::write(key_file(&lab, "n3"), &old).unwrap();
    lab.start("n3").unwrap();
    eventually("the old secret is refused", PATIENCE, || {
        kinds(&lab, "n1").iter().any(|kind| kind == "wrong-secret").then_some(())
    });
    lab.kill("n3").unwrap();
    std::fs::write(key_file(&lab, "n3"), &new).unwrap();
    lab.start("n3").unwrap();
    eventually("the new one isn't", PATIENCE, || {
        let listed: Nodes = ask(&lab, "n3", Request::Nodes).unwrap();
        listed.nodes.iter().all(|node| node.local || node.session.is_some()).then_some(())
    });
}

#[test]
fn a_rotation_waits_for_a_node_that_is_down_and_survives_kills() {
    let _alone = timing_lock().unwrap();
    let lab = cluster(&options(3, 2));
    let old = std::fs::read(key_file(&lab, "n1")).unwrap();
    let refused = |node: &str, option: &[&str], words: &str| {
        let (done, text) = key_rotate(&lab, node, option);
        assert!(!done && text.contains(words), "{text}");
    };
    refused("n1", &["--abort"], "no rotation is under way");
    // Where netftd can't write, as with a read-only /etc: nobody starts anything.
    let in_the_way = lab.folder("n3").unwrap().join("secret.probe");
    std::fs::create_dir(&in_the_way).unwrap();
    assert!(lab.netft("n3", &["reload"]).unwrap().status.success());
    refused("n3", &[], "can't be written");
    eventually("n1 knows", PATIENCE, || {
        let (done, text) = key_rotate(&lab, "n1", &["--no-wait"]);
        assert!(!done, "{text}");
        text.contains("on n3, netftd can't write").then_some(())
    });
    std::fs::remove_dir(&in_the_way).unwrap();
    assert!(lab.netft("n3", &["reload"]).unwrap().status.success());
    assert!(rotation(&lab, "n1").is_none());
    lab.kill("n3").unwrap();
    let (done, text) = key_rotate(&lab, "n1", &["--no-wait"]);
    assert!(done && text.contains("started on n1: waits for"), "{text}");
    eventually("n2 has the new secret, and n3 is waited for", PATIENCE, || {
        let waits = |node: &str| rotation(&lab, node).is_some_and(|rotation| rotation.waits_for == ["n3"]);
        (waits("n1") && waits("n2")).then_some(())
    });
    assert!(next_file(&lab, "n2").exists() && std::fs::read(key_file(&lab, "n2")).unwrap() == old);
    let shown = String::from_utf8(lab.netft("n2", &["status"]).unwrap().stdout).unwrap();
    assert!(shown.contains("started on n1: waits for n3 to have the new one"), "{shown}");
    refused("n2", &[], "a rotation is under way already, started on n1");
    refused("n2", &["--abort"], "only there it can be aborted");

    // Given up, for all; then once more.
    let (done, text) = key_rotate(&lab, "n1", &["--abort"]);
    assert!(done, "{text}");
    eventually("n2 gives it up", PATIENCE, || rotation(&lab, "n2").is_none().then_some(()));
    assert!(!next_file(&lab, "n1").exists() && !next_file(&lab, "n2").exists());
    assert!(key_rotate(&lab, "n2", &["--no-wait"]).0);
    eventually("n1 has the new secret", PATIENCE, || rotation(&lab, "n1").map(drop));
    for node in ["n1", "n2"] {
        lab.kill(node).unwrap();
        lab.start(node).unwrap();
        let kept = rotation(&lab, node).unwrap();
        assert_eq!((kept.phase, kept.started_by.as_str()), (Phase::Offered, "n2"), "{node} finds it again");
    }
    lab.start("n3").unwrap();
    let switched = |node: &str| rotation(&lab, node).is_none_or(|rotation| rotation.phase == Phase::Switched);
    eventually("n2 has switched", PATIENCE, || switched("n2").then_some(()));
    for node in ["n2", "n3", "n1"] {
        lab.kill(node).unwrap();
        lab.start(node).unwrap();
    }
    eventually("all have ended it", PATIENCE, || {
        nodes(&lab).iter().all(|node| rotation(&lab, node).is_none()).then_some(())
    });
    all_have_another(&lab, &old);
    for node in nodes(&lab) {
        assert!(!kinds(&lab, &node).iter().any(|kind| kind == "wrong-secret"), "{node}");
    }
}
