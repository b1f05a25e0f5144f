//! Daemons of different releases: made by an option that has netftd speak other versions. Version 1 is laid out as it is; 3 and later
//! are laid out as 2.

use crate::support::{PATIENCE, eventually, options, whole};
use netft_userspace::control::Request;
use netft_userspace::listing::{Nodes, RefusedWire};
use std::time::Duration;
use xtask::cluster::{Watch, adapter, ask, status};
use xtask::lab::{Lab, LabGuard, boottime_ns};
use xtask::traffic::{Flow, FlowSpec};

fn start(lab: &Lab, node: &str, versions: &str) {
    lab.start_with(node, &["--test-wire-versions", versions]).unwrap();
}

/// The version that `node` speaks with `peer`.
fn spoken(lab: &Lab, node: &str, peer: &str) -> Option<u8> {
    let listed: Nodes = ask(lab, node, Request::Nodes).unwrap();
    let found = listed.nodes.into_iter().find(|listed| listed.name == peer).expect("every node is listed");
    found.session.map(|session| session.wire_version)
}

#[test]
fn a_cluster_is_upgraded_node_by_node_and_a_release_too_far_away_is_named() {
    let lab = LabGuard::up(&options(2, 2).daemon_less()).unwrap();
    xtask::lab::build().unwrap();
    start(&lab, "n1", "1-2");
    start(&lab, "n2", "1-1");
    whole(&lab);
    assert_eq!((spoken(&lab, "n1", "n2"), spoken(&lab, "n2", "n1")), (Some(1), Some(1)));
    let refused = lab.netft("n1", &["key", "rotate"]).unwrap();
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && told.contains("on n2, a release of netft runs"), "{told}");
    // Traffic crosses in the version of the older one, and in the next once both know it.
    let destination = adapter(&lab, "n2").unwrap().ipv4.into();
    let flow =
        Flow::tcp(&lab, &FlowSpec::kilohertz("n1", "n2", destination, Duration::from_secs(60))).unwrap();
    assert!(flow.wait_for_arrival(0, PATIENCE));
    let watch = Watch::start(&lab, "n1").unwrap();
    let upgraded = lab.kill("n2").unwrap();
    start(&lab, "n2", "2-3");
    eventually("both speak version 2", PATIENCE, || {
        ((spoken(&lab, "n1", "n2"), spoken(&lab, "n2", "n1")) == (Some(2), Some(2))).then_some(())
    });
    whole(&lab);
    assert!(flow.wait_for_arrival(boottime_ns(), PATIENCE), "the stream goes on");
    assert!(watch.since(upgraded.before_ns).iter().all(|event| event.kind != "other-version"));

    // And one release further than n1 can follow.
    let upgraded = lab.kill("n2").unwrap();
    start(&lab, "n2", "3-4");
    let event = watch.wait(upgraded.before_ns, PATIENCE, |event| event.kind == "other-version");
    let event = event.expect("n1 tells that it can't speak with n2");
    assert_eq!(event.subject, "n2");
    assert!(event.reason.contains("wire versions 3 to 4, this node 1 to 2"), "{event:?}");
    assert!(event.reason.contains("upgrade netft on this node"), "{event:?}");
    let wire = status(&lab, "n1").unwrap().wire;
    assert_eq!((wire.oldest, wire.newest), (1, 2));
    let named = |refused: &RefusedWire| {
        refused.node.as_deref() == Some("n2") && (refused.oldest, refused.newest) == (3, 4)
    };
    assert!(!wire.refused.is_empty() && wire.refused.iter().all(named), "{wire:?}");
    let page = lab.netft("n1", &["status"]).unwrap();
    let page = String::from_utf8_lossy(&page.stdout).into_owned();
    assert!(page.contains("speaks wire versions 3 to 4, this node 1 to 2"), "{page}");
    assert!(status(&lab, "n1").unwrap().counters["hello_reject_version"] > 0);
}
