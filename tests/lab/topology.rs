//! The lab without daemons.

use crate::support::{arrives, bare_lab, is_silent, options};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use xtask::lab::stress::{Kind, Stress};
use xtask::lab::{Direction, Lab, LabGuard, Stamps};

#[test]
fn every_host_reaches_every_other_on_their_networks() {
    let lab = bare_lab(3, 2);
    for (from, to, v4, v6) in [
        ("n1", "n2", "10.77.1.2", "fd77:1::2"),
        ("n3", "n1", "10.77.2.1", "fd77:2::1"),
        ("client", "n2", "10.77.2.2", "fd77:2::2"),
        ("n1", "client", "10.77.2.200", "fd77:2::200"),
    ] {
        assert!(arrives(&lab, from, to, v4), "{from} to {v4}");
        assert!(arrives(&lab, from, to, v6), "{from} to {v6}");
    }
}

#[test]
fn a_routed_lab_joins_its_subnets_by_a_router() {
    let mut options = options(3, 4).daemon_less();
    options.shape.routed = true;
    let lab = LabGuard::up(&options).unwrap();
    for (from, to, v4, v6) in [
        ("n1", "n3", "10.77.2.3", "fd77:2::3"),
        ("n3", "n2", "10.77.1.2", "fd77:1::2"),
        ("client", "n1", "10.77.3.1", "fd77:3::1"),
        ("n3", "client", "10.77.4.200", "fd77:4::200"),
    ] {
        assert!(arrives(&lab, from, to, v4), "{from} to {v4}");
        assert!(arrives(&lab, from, to, v6), "{from} to {v6}");
    }
    lab.cut("router", "net1", Direction::Both).unwrap();
    assert!(is_silent(&lab, "n1", "n3", "10.77.2.3"));
}

#[test]
fn a_cut_silences_the_directions_it_names_and_leaves_the_carrier() {
    let lab = bare_lab(2, 2);
    let out = || !is_silent(&lab, "n1", "n2", "10.77.1.2");
    let back = || !is_silent(&lab, "n2", "n1", "10.77.1.1");
    // Neighbours are known from here on, so each direction can be judged alone.
    assert!(arrives(&lab, "n1", "n2", "10.77.1.2") && arrives(&lab, "n2", "n1", "10.77.1.1"));
    let seen = |direction: Direction| {
        lab.cut("n1", "net1", direction).unwrap();
        let seen = (out(), back());
        lab.heal("n1", "net1", Direction::Both).unwrap();
        assert!(arrives(&lab, "n1", "n2", "10.77.1.2") && arrives(&lab, "n2", "n1", "10.77.1.1"));
        seen
    };
    assert_eq!(seen(Direction::Tx), (false, true));
    assert_eq!(seen(Direction::Rx), (true, false));
    assert_eq!(seen(Direction::Both), (false, false));

    lab.cut("n1", "net1", Direction::Both).unwrap();
    assert_eq!(carrier(&lab, "n1", "net1"), "1");
    assert!(arrives(&lab, "n1", "n2", "10.77.2.2"), "the other network is whole");
    lab.heal("n1", "net1", Direction::Tx).unwrap();
    assert_eq!((out(), back()), (true, false), "each direction heals alone");
}

#[test]
fn unplugging_takes_the_carrier_of_that_path_only() {
    let lab = bare_lab(2, 2);
    let stamps = lab.unplug("n1", "net1").unwrap();
    assert!(stamps.before_ns < stamps.after_ns);
    assert_eq!((carrier(&lab, "n1", "net1").as_str(), carrier(&lab, "n1", "net2").as_str()), ("0", "1"));
    assert!(is_silent(&lab, "n2", "n1", "10.77.1.1"));
    let status = lab.status().unwrap();
    let unplugged: Vec<bool> = status.hosts[0].paths.iter().map(|path| path.unplugged).collect();
    assert_eq!(unplugged, [true, false]);
    lab.plug("n1", "net1").unwrap();
    assert_eq!(carrier(&lab, "n1", "net1"), "1");
    assert!(arrives(&lab, "n2", "n1", "10.77.1.1"));
    assert!(arrives(&lab, "n2", "n1", "fd77:1::1"), "addresses survive");
}

#[test]
fn power_off_silences_all_paths_and_leaves_the_namespace_with_its_processes() {
    let lab = bare_lab(2, 2);
    let mut sleep = Command::new("sleep");
    let mut bystander = lab.spawn("n1", sleep.arg("60")).unwrap();
    lab.cut("n1", "net2", Direction::Both).unwrap();
    lab.power_off("n1").unwrap();
    assert!(is_silent(&lab, "n2", "n1", "10.77.1.1") && is_silent(&lab, "n1", "n2", "10.77.1.2"));
    assert_eq!(carrier(&lab, "n1", "net1"), "1");
    assert!(bystander.try_wait().unwrap().is_none(), "other processes stay");
    assert!(lab.status().unwrap().hosts[0].powered_off);
    lab.power_on("n1").unwrap();
    assert!(arrives(&lab, "n2", "n1", "10.77.1.1"));
    assert!(is_silent(&lab, "n2", "n1", "10.77.2.1"), "a cut from before is still one");
    bystander.kill().unwrap();
    bystander.wait().unwrap();
}

#[test]
fn verbs_may_be_repeated_and_act_within_300_ms() {
    let lab = bare_lab(3, 2);
    type Verb = fn(&Lab) -> anyhow::Result<Stamps>;
    let verbs: [(&str, Verb); 8] = [
        ("cut", |lab| lab.cut("n1", "net1", Direction::Both)),
        ("heal", |lab| lab.heal("n1", "net1", Direction::Both)),
        ("unplug", |lab| lab.unplug("n2", "net2")),
        ("plug", |lab| lab.plug("n2", "net2")),
        ("kill", |lab| lab.kill("n3")),
        ("power-off", |lab| lab.power_off("n3")),
        ("power-on", |lab| lab.power_on("n3")),
        ("cut the client", |lab| lab.cut("client", "net2", Direction::Tx)),
    ];
    for (name, verb) in verbs {
        // As a command does it: with a handle of its own. The best of several, since tests share the machine.
        let fastest = (0..4).map(|_| {
            let start = Instant::now();
            let opened = Lab::open(&lab.shape().name).unwrap();
            verb(&opened).unwrap_or_else(|error| panic!("{name}: {error:#}"));
            start.elapsed()
        });
        let fastest = fastest.min().unwrap_or_default();
        assert!(fastest < Duration::from_millis(300), "{name} took {fastest:?}");
    }
    // With the handle that has been used before, as benchmarks do.
    lab.heal("n1", "net1", Direction::Both).unwrap();
    let cuts = (0..100).map(|_| {
        let stamps = lab.cut("n1", "net1", Direction::Both).unwrap();
        lab.heal("n1", "net1", Direction::Both).unwrap();
        stamps.after_ns - stamps.before_ns
    });
    let fastest = cuts.min().unwrap_or_default();
    assert!(fastest < 50_000, "a cut takes {fastest} ns");
}

#[test]
fn labs_run_side_by_side_and_cannot_hear_each_other() {
    let (first, second) = (bare_lab(2, 1), bare_lab(2, 1));
    first.cut("n1", "net1", Direction::Both).unwrap();
    assert!(is_silent(&first, "n1", "n2", "10.77.1.2"));
    assert!(arrives(&second, "n1", "n2", "10.77.1.2"));
    let names = Lab::list();
    assert!(names.contains(&first.shape().name) && names.contains(&second.shape().name));
    let gone = first.shape().name.clone();
    drop(first);
    assert!(!Lab::list().contains(&gone));
    assert!(arrives(&second, "n2", "n1", "10.77.1.1"), "the other lab is untouched");
}

#[test]
fn down_ends_its_processes_and_leaves_nothing() {
    let lab = bare_lab(2, 2);
    let name = lab.shape().name.clone();
    let mut sleep = Command::new("sleep");
    let mut inside = lab.spawn("n1", sleep.arg("60")).unwrap();
    let mut outside = Command::new("sleep").arg("60").spawn().unwrap();
    lab.unplug("n1", "net1").unwrap();
    Lab::down(&name).unwrap();
    assert!(!inside.wait().unwrap().success(), "what ran in the lab was killed");
    assert!(outside.try_wait().unwrap().is_none(), "what ran elsewhere was not");
    outside.kill().unwrap();
    outside.wait().unwrap();
    for path in [format!("/run/netft-lab/{name}"), format!("/sys/fs/bpf/netft-lab/{name}")] {
        assert!(!Path::new(&path).exists(), "{path}");
    }
    let left: Vec<_> = std::fs::read_dir("/run/netns")
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().into_string().ok())
        .filter(|entry| entry.starts_with(&format!("{name}-")))
        .collect();
    assert!(left.is_empty(), "{left:?}");
    Lab::down(&name).expect("down succeeds when there is no lab");
    drop(lab);
}

#[test]
fn a_lab_goes_with_its_guard_even_in_a_panic() {
    let name = LabGuard::unique_name("test");
    let result = std::panic::catch_unwind(|| {
        let options = xtask::lab::Options::new(&name, 1, 1).daemon_less();
        let _lab = LabGuard::up(&options).unwrap();
        assert!(Lab::list().contains(&name));
        panic!("as a failing test does");
    });
    assert!(result.is_err());
    assert!(!Lab::list().contains(&name));
}

#[test]
fn up_replaces_a_lab_of_the_same_name() {
    let lab = bare_lab(3, 2);
    let options = xtask::lab::Options::new(&lab.shape().name, 1, 1).daemon_less();
    let smaller = Lab::up(&options).unwrap();
    assert_eq!(smaller.status().unwrap().hosts.len(), 2);
    assert_eq!(Lab::open(&lab.shape().name).unwrap().shape().nodes, 1);
}

#[test]
fn commands_run_inside_see_their_own_interfaces_and_the_machines_pins() {
    let lab = bare_lab(1, 2);
    let output = lab.exec("n1", &["sh", "-c", "ls /sys/class/net; exit 7"]).unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "lo\nnet1\nnet2\n");
    assert_eq!(output.status.code(), Some(7));
    let pins = format!("/sys/fs/bpf/netft-lab/{}/switch", lab.shape().name);
    let output = lab.exec("client", &["ls", &pins]).unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).contains("LAB_PORTS"));
    // Mounts of a command are its own.
    assert!(Path::new(&pins).exists() && Path::new("/sys/kernel").exists());
}

#[test]
fn settings_reach_every_nodes_file_and_the_secret_is_private() {
    use std::os::unix::fs::PermissionsExt;
    let options = options(2, 1).daemon_less().set("heartbeat.same_subnet.delay=\"2ms\"").unwrap();
    let lab = LabGuard::up(&options).unwrap();
    let mut secrets = Vec::new();
    for node in ["n1", "n2"] {
        let folder = lab.folder(node).unwrap();
        let text = std::fs::read_to_string(folder.join("netft.toml")).unwrap();
        assert!(text.contains("[heartbeat.same_subnet]\ndelay = \"2ms\""), "{text}");
        assert!(folder.join("state").is_dir());
        let secret = folder.join("secret");
        assert_eq!(std::fs::metadata(&secret).unwrap().permissions().mode() & 0o7777, 0o600);
        secrets.push(std::fs::read(secret).unwrap());
    }
    assert_eq!(secrets[0], secrets[1]);
}

#[test]
fn mistakes_get_one_sentence_that_says_what_there_is() {
    let lab = bare_lab(2, 1);
    let name = &lab.shape().name;
    let says = |result: anyhow::Result<Stamps>, parts: &[&str]| {
        let error = format!("{:#}", result.unwrap_err());
        for part in parts {
            assert!(error.contains(part), "{error:?} lacks {part:?}");
        }
        assert!(!error.contains('\n'), "{error:?}");
    };
    says(lab.cut("n7", "net1", Direction::Both), &["no node n7", "n1, n2, client"]);
    says(lab.cut("n1", "net7", Direction::Both), &["no network net7", "net1"]);
    says(lab.kill("client"), &["client runs no daemon"]);
    let error = format!("{:#}", Lab::open("nosuchlab").unwrap_err());
    assert!(error.contains("there is no lab nosuchlab") && error.contains(name.as_str()), "{error}");
    for shape in [(0, 1), (65, 1), (1, 0), (1, 9)] {
        let options = xtask::lab::Options::new("test-shape", shape.0, shape.1).daemon_less();
        assert!(Lab::up(&options).is_err(), "{shape:?}");
    }
    let options = xtask::lab::Options::new("../etc", 1, 1).daemon_less();
    assert!(format!("{:#}", Lab::up(&options).unwrap_err()).contains("letters, digits"));
}

#[test]
fn stress_starts_on_every_core_and_ends_when_dropped() {
    // Fifo hogs would disturb other tests' clocks.
    let _alone = xtask::lab::timing_lock().unwrap();
    for kind in [Kind::Cpu, Kind::Timers, Kind::Fifo] {
        let stress = Stress::start(kind).unwrap();
        drop(stress);
    }
    let threads = std::fs::read_dir("/proc/self/task").unwrap().flatten();
    let names = threads.filter_map(|thread| std::fs::read_to_string(thread.path().join("comm")).ok());
    assert!(!names.into_iter().any(|name| name.starts_with("stress-")));
}

fn carrier(lab: &Lab, host: &str, network: &str) -> String {
    let path = format!("/sys/class/net/{network}/carrier");
    let mut command = Command::new("cat");
    let child = lab.spawn(host, command.arg(path).stdout(Stdio::piped())).unwrap();
    let output = child.wait_with_output().unwrap();
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}
