//! What a node costs while nothing happens: a reply costs it no system call, and it stays small.

use crate::support::{PATIENCE, cluster, downs, eventually, options, whole};
use std::collections::BTreeMap;
use std::fs;
use xtask::cluster::{nodes, routes, status};
use xtask::lab::{Lab, boottime_ns, timing_lock};

/// Resident memory that a daemon may have beside packet buffers.
const RESIDENT_KIB: u64 = 64 * 1024;
/// Heartbeats on each route that a frozen node must answer.
const HEARTBEATS: u64 = 2_000;

/// Everything that the kernel counts of one thread when it does anything at all.
#[derive(Debug, PartialEq, Eq)]
struct Thread {
    name: String,
    /// Switches to and from it, voluntary and not.
    switches: Vec<u64>,
    /// Nanoseconds on a CPU, and how often it got one.
    ran_ns: u64,
    turns: u64,
    /// Read and write calls (CONFIG_TASK_IO_ACCOUNTING).
    calls: Vec<u64>,
}

fn threads(pid: u32) -> BTreeMap<String, Thread> {
    let folder = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let read = |entry: fs::DirEntry| {
        let text = |file: &str| fs::read_to_string(entry.path().join(file)).unwrap_or_default();
        let numbers = |text: &str, wanted: &[&str]| -> Vec<u64> {
            let lines = text.lines().filter_map(|line| line.split_once(':'));
            let wanted = lines.filter(|(name, _)| wanted.contains(name));
            wanted.map(|(_, number)| number.trim().parse().unwrap()).collect()
        };
        let schedule: Vec<u64> = text("schedstat").split_whitespace().map(|n| n.parse().unwrap()).collect();
        let thread = Thread {
            name: text("comm").trim().to_owned(),
            switches: numbers(&text("status"), &["voluntary_ctxt_switches", "nonvoluntary_ctxt_switches"]),
            ran_ns: schedule[0],
            turns: schedule[2],
            calls: numbers(&text("io"), &["syscr", "syscw"]),
        };
        assert_eq!(thread.switches.len(), 2, "the kernel counts switches");
        (entry.file_name().into_string().unwrap(), thread)
    };
    folder.map(|entry| read(entry.unwrap())).collect()
}

/// Heartbeats that `node` completed with `peer`, the least of all routes.
fn completed(lab: &Lab, node: &str, peer: &str) -> u64 {
    let routes = routes(lab, node).unwrap();
    routes.iter().filter(|route| route.peer == peer).map(|route| route.completed).min().unwrap()
}

/// A process that is stopped makes no system call. It answers all the same.
#[test]
fn replies_cost_the_replying_process_no_system_call() {
    let _alone = timing_lock().unwrap();
    let lab = cluster(&options(3, 2));
    let pid = status(&lab, "n2").unwrap().daemon.pid;
    let frozen = lab.freeze("n2").unwrap();
    let before = threads(pid);
    assert!(before.len() >= 3, "{before:?}");
    let peers = ["n1", "n3"];
    let began = peers.map(|peer| completed(&lab, peer, "n2"));
    eventually("its peers completed some thousand heartbeats with it", PATIENCE, || {
        let more =
            peers.iter().zip(began).all(|(peer, began)| completed(&lab, peer, "n2") >= began + HEARTBEATS);
        more.then_some(())
    });
    let after = threads(pid);
    assert_eq!(before, after, "no thread of the frozen process did anything");
    lab.thaw("n2").unwrap();
    whole(&lab);
    assert_eq!(downs(&lab, frozen.before_ns), Vec::<String>::new());
    assert!(boottime_ns() > frozen.after_ns);
}

#[test]
fn a_daemon_stays_small() {
    let lab = cluster(&options(3, 2));
    for node in nodes(&lab) {
        let pid = status(&lab, &node).unwrap().daemon.pid;
        let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let kib = |field: &str| -> u64 {
            let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':')).unwrap();
            line.split_whitespace().next().unwrap().parse().unwrap()
        };
        println!("{node}: {} KiB resident, {} KiB of it locked", kib("VmRSS"), kib("VmLck"));
        assert!(kib("VmRSS") <= RESIDENT_KIB, "{node}: {} KiB", kib("VmRSS"));
    }
}
