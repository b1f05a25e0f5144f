//! Changes the way that cluster traffic takes, or its level, while the cluster runs.

use crate::cluster::{self, ask};
use crate::lab::Lab;
use anyhow::{Result, bail, ensure};
use netft_core::types::Level;
use netft_userspace::control::Request;
use netft_userspace::engine::{DataWay, PathReport};
use netft_userspace::listing::{Nodes, Session};
use std::time::{Duration, Instant};

/// How long sockets may take to be opened and proven.
const PATIENCE: Duration = Duration::from_secs(15);

/// A value of `datapath.path`, and what must come of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::bench) struct Path {
    pub name: &'static str,
    pub way: DataWay,
}

/// All of them, in the order of their turns.
pub(super) const PATHS: [Path; 3] = [
    Path { name: "xdp", way: DataWay::Xdp },
    Path { name: "xdp-generic", way: DataWay::XdpGeneric },
    Path { name: "socket", way: DataWay::Socket },
];

/// Has all nodes use `path`; returns when data goes that way everywhere and all routes are up.
pub(in crate::bench) fn switch(lab: &Lab, path: Path) -> Result<()> {
    set(lab, "datapath", "path", path.name)?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        let seen = paths(lab)?;
        if seen.iter().all(|(_, report)| (report.receive, report.transmit) == (path.way, path.way)) {
            break;
        }
        if Instant::now() > deadline {
            bail!("datapath.path = {:?} isn't in effect: {seen:#?}", path.name);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    cluster::wait_until_whole(lab, PATIENCE)?;
    cluster::wait_until_settled(lab, PATIENCE)
}

/// Has all nodes send at `level`; returns when all do.
pub(in crate::bench) fn secure(lab: &Lab, level: Level) -> Result<()> {
    set(lab, "security", "level", &level.to_string())?;
    let deadline = Instant::now() + PATIENCE;
    let differ = |node: &String| -> Result<bool> {
        let listed: Nodes = ask(lab, node, Request::Nodes)?;
        let sessions = listed.nodes.into_iter().filter(|node| !node.local).map(|node| node.session);
        let agrees = |session: Session| session.sends == level && session.receives == level;
        Ok(!sessions.into_iter().all(|session| session.is_some_and(agrees)))
    };
    loop {
        let late: Vec<String> = cluster::nodes(lab);
        let late =
            late.into_iter().filter_map(|node| differ(&node).map(|late| late.then_some(node)).transpose());
        let late = late.collect::<Result<Vec<String>>>()?;
        if late.is_empty() {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "security.level = \"{level}\" isn't in effect on {late:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Whether a node sends at `level` to all others.
pub(in crate::bench) fn is_at(lab: &Lab, node: &str, level: Level) -> Result<bool> {
    let listed: Nodes = ask(lab, node, Request::Nodes)?;
    let mut sessions = listed.nodes.into_iter().filter(|node| !node.local).map(|node| node.session);
    Ok(sessions.all(|session| session.is_some_and(|session| session.sends == level)))
}

/// Changes a key on all running nodes.
fn set(lab: &Lab, section: &str, key: &str, value: &str) -> Result<()> {
    for node in cluster::nodes(lab) {
        cluster::change(lab, &node, &format!("{section}.{key}={value:?}"))?;
    }
    Ok(())
}

fn paths(lab: &Lab) -> Result<Vec<(String, PathReport)>> {
    let mut paths = Vec::new();
    for node in cluster::nodes(lab) {
        let interfaces = cluster::status(lab, &node)?.interfaces;
        paths.extend(interfaces.into_iter().filter_map(|interface| Some((node.clone(), interface.path?))));
    }
    Ok(paths)
}
