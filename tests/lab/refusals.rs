//! What can't work is refused in one clear sentence, and nothing is changed.

use crate::support::{PATIENCE, cluster, downs, eventually, network_state, options, output_of, whole};
use aya::Ebpf;
use aya::programs::{Xdp, XdpMode};
use netft_userspace::engine::XdpMode as Mode;
use netft_userspace::listing::InterfaceStatus;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use xtask::cluster::{Watch, status};
use xtask::lab::{Lab, LabGuard, boottime_ns, build, timing_lock};

#[test]
fn a_daemon_that_cannot_start_says_why_and_changes_nothing() {
    let lab = LabGuard::up(&options(2, 1).daemon_less()).unwrap();
    build().unwrap();
    let folder = lab.folder("n1").unwrap();
    let (config, secret) = (folder.join("netft.toml"), folder.join("secret"));
    let good = fs::read_to_string(&config).unwrap();
    let key = fs::read(&secret).unwrap();

    fs::remove_file(&secret).unwrap();
    refused(&lab, &[], &["cluster secret", "does not exist", "netft key generate"]);
    fs::write(&secret, &key).unwrap();
    fs::set_permissions(&secret, Permissions::from_mode(0o644)).unwrap();
    refused(&lab, &[], &["cluster secret", "mode 0644", "chmod 0600"]);
    fs::set_permissions(&secret, Permissions::from_mode(0o600)).unwrap();
    fs::write(&secret, b"short\n").unwrap();
    refused(&lab, &[], &["cluster secret", "5 bytes", "32"]);
    fs::write(&secret, &key).unwrap();

    fs::write(&config, good.replace("[engine]", "[engine]\npriorty = 60")).unwrap();
    refused(&lab, &[], &["netft.toml:", "engine.priorty", "engine.priority"]);
    fs::write(&config, good.replace("id = 1\n", "id = 900\n")).unwrap();
    refused(&lab, &[], &["node.id", "1 to 255"]);
    fs::write(&config, &good).unwrap();

    let powerless = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"];
    refused(&lab, &powerless, &["root"]);
    lab.start("n1").expect("with everything in order it starts");
}

#[test]
fn a_second_daemon_on_the_same_files_is_refused_and_the_first_goes_on() {
    let lab = cluster(&options(2, 1));
    let before_ns = boottime_ns();
    let told = start(&lab, &[]);
    assert!(told.contains("already") || told.contains("another netftd"), "{told}");
    assert_eq!(downs(&lab, before_ns), Vec::<String>::new());
}

#[test]
fn another_secret_is_said_by_both_and_joins_nobody() {
    let lab = apart(|lab| {
        let secret = lab.folder("n2").unwrap().join("secret");
        fs::write(secret, "0123456789abcdef0123456789abcdef0123456789abcdef\n").unwrap();
    });
    tells(&lab, "n1", "wrong-secret", &["not authentic", "security.key_file"]);
    tells(&lab, "n2", "wrong-secret", &["not authentic", "security.key_file"]);
    nobody_joined(&lab);
}

#[test]
fn another_clusters_node_is_said_and_joins_nobody() {
    let lab = apart(|lab| edit(lab, "n2", "id = 77\n", "id = 78\n"));
    tells(&lab, "n1", "other-cluster", &["cluster 78", "cluster 77", "cluster.id"]);
    tells(&lab, "n2", "other-cluster", &["cluster 77", "cluster 78", "cluster.id"]);
    nobody_joined(&lab);
}

#[test]
fn a_second_node_with_the_same_id_is_said_and_the_first_pair_goes_on() {
    let _alone = timing_lock().unwrap();
    let lab = LabGuard::up(&options(3, 1).daemon_less()).unwrap();
    build().unwrap();
    edit(&lab, "n3", "id = 3\n", "id = 2\n");
    for node in ["n1", "n2"] {
        lab.start(node).unwrap();
    }
    eventually("n1 and n2 meet", PATIENCE, || {
        (peers_up(&lab, "n1") == 1 && peers_up(&lab, "n2") == 1).then_some(())
    });
    let before_ns = boottime_ns();
    lab.start("n3").unwrap();
    let watch = Watch::start(&lab, "n2").unwrap();
    let said = watch.wait(before_ns, PATIENCE, |event| event.kind == "own-id-taken");
    let said = said.unwrap_or_else(|| panic!("{:#?}", watch.since(before_ns))).reason;
    assert!(said.contains("own id 2") && said.contains("node.id") && !said.contains('\n'), "{said}");
    tells(&lab, "n1", "duplicate-node-id", &["id 2", "n2", "node.id"]);
    assert_eq!(downs(&lab, before_ns), Vec::<String>::new());
    assert_eq!((peers_up(&lab, "n1"), peers_up(&lab, "n2")), (1, 1));
}

#[test]
fn an_interface_with_somebody_elses_program_is_left_alone_and_said() {
    let lab = LabGuard::up(&options(2, 2).daemon_less()).unwrap();
    build().unwrap();
    let foreign = foreign_program(&lab, "net2");
    let theirs = program_on(&lab, "net2");
    assert!(theirs.is_some());
    for node in ["n1", "n2"] {
        lab.start(node).unwrap();
    }
    eventually("n1 and n2 meet on the other network", PATIENCE, || {
        status(&lab, "n1").is_ok_and(|status| status.routes.up == 1).then_some(())
    });
    let net2 = interface(&lab, "net2");
    assert_eq!((interface(&lab, "net1").xdp, net2.xdp), (Mode::Native, Mode::None));
    says_how_to_mend(&net2.note.expect("a sentence"), "net2");
    assert_eq!(program_on(&lab, "net2"), theirs, "the program is still there");
    lab.stop("n1").unwrap();
    assert_eq!(program_on(&lab, "net2"), theirs, "also after a clean stop");
    lab.start("n1").unwrap();
    drop(foreign);
    eventually("the interface is used as soon as it is free", PATIENCE, || {
        (interface(&lab, "net2").xdp == Mode::Native).then_some(())
    });
}

#[test]
fn a_node_whose_only_interface_has_somebody_elses_program_refuses_to_start() {
    let lab = LabGuard::up(&options(2, 1).daemon_less()).unwrap();
    build().unwrap();
    let foreign = foreign_program(&lab, "net1");
    let before = network_state(&lab, "n1");
    let told = start(&lab, &[]);
    says_how_to_mend(told.lines().last().unwrap_or_default(), "net1");
    assert_eq!(before, network_state(&lab, "n1"), "nothing is changed");
    assert!(!lab.pins("n1").unwrap().exists(), "pins are left");
    drop(foreign);
}

#[test]
fn an_interface_without_native_xdp_is_used_in_generic_mode_and_said() {
    let lab = LabGuard::up(&options(2, 1).daemon_less()).unwrap();
    build().unwrap();
    for (node, address) in [("n1", "10.99.0.1/24"), ("n2", "10.99.0.2/24")] {
        let add = ["ip", "link", "add", "mac0", "link", "net1", "type", "macvlan", "mode", "bridge"];
        output_of(&lab, node, &add);
        output_of(&lab, node, &["ip", "address", "add", address, "dev", "mac0"]);
        output_of(&lab, node, &["ip", "link", "set", "mac0", "up"]);
        lab.start(node).unwrap();
    }
    eventually("routes over both", PATIENCE, || {
        status(&lab, "n1").is_ok_and(|status| status.routes.up == 2).then_some(())
    });
    let mac0 = interface(&lab, "mac0");
    assert_eq!(mac0.xdp, Mode::Generic);
    let note = mac0.note.expect("a sentence");
    assert!(note.contains("mac0") && note.contains("generic"), "{note}");
    assert_eq!(interface(&lab, "net1").xdp, Mode::Native);
}

#[test]
fn without_real_time_permission_the_engine_runs_and_says_so() {
    let lab = LabGuard::up(&options(2, 1).daemon_less()).unwrap();
    build().unwrap();
    lab.start("n2").unwrap();
    let mut daemon = Command::new("setpriv");
    daemon.args(["--bounding-set=-sys_nice", "--inh-caps=-all"]).arg(lab.netftd());
    daemon.arg("--config").arg(lab.folder("n1").unwrap().join("netft.toml"));
    let log = fs::File::create(lab.folder("n1").unwrap().join("netftd.log")).unwrap();
    let mut daemon = lab.spawn("n1", daemon.stderr(log).stdout(Stdio::null())).unwrap();
    whole(&lab);
    let engine = status(&lab, "n1").unwrap().engine;
    assert_eq!((engine.priority, engine.priority_configured), (0, 60));
    assert!(engine.notes.iter().any(|note| note.contains("SCHED_FIFO")), "{:?}", engine.notes);
    daemon.kill().unwrap();
    daemon.wait().unwrap();
}

/// Attaches a program that isn't netft's to an interface of n1; it stays until the returned object is dropped.
fn foreign_program(lab: &Lab, interface: &str) -> Ebpf {
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../netft-ebpf/prebuilt/lab.bpf.o");
    let attach = || {
        let mut object = Ebpf::load_file(file)?;
        let program: &mut Xdp = object.program_mut("xdp_pass").expect("it is in there").try_into()?;
        program.load()?;
        program.attach(interface, XdpMode::Driver)?;
        Ok(object)
    };
    lab.enter("n1", attach).unwrap()
}

fn says_how_to_mend(sentence: &str, interface: &str) {
    let remedy = format!("ip link set dev {interface} xdp off");
    for part in ["another XDP program", "xdp_pass", &remedy, "role 0"] {
        assert!(sentence.contains(part), "{sentence:?} lacks {part:?}");
    }
}

/// Starts netftd of n1 by hand, after `prefix`; it must end by itself. Returns what it says.
fn start(lab: &Lab, prefix: &[&str]) -> String {
    let (netftd, config) = (lab.netftd(), lab.folder("n1").unwrap().join("netft.toml"));
    let own = [netftd.to_str().unwrap(), "--config", config.to_str().unwrap()];
    let line = [&["timeout", "10"], prefix, &own].concat();
    let output = lab.exec("n1", &line).unwrap();
    let told = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    let code = output.status.code();
    assert!(matches!(code, Some(1..=123)), "{line:?} ended with {code:?}: {told}");
    told
}

/// As [`start`], and the daemon must say all of `parts` in one line and leave everything as it was.
fn refused(lab: &Lab, prefix: &[&str], parts: &[&str]) {
    let before = network_state(lab, "n1");
    let told = start(lab, prefix);
    for part in parts {
        assert!(told.contains(part), "{told:?} lacks {part:?}");
    }
    assert_eq!(told.lines().count(), 1, "{told}");
    assert_eq!(before, network_state(lab, "n1"), "after {told:?}");
    assert!(!lab.pins("n1").unwrap().exists(), "pins are left after {told:?}");
    assert!(!lab.folder("n1").unwrap().join("control.sock").exists(), "a socket is left after {told:?}");
}

/// Two nodes that `change` keeps apart.
fn apart(change: impl FnOnce(&Lab)) -> LabGuard {
    let lab = LabGuard::up(&options(2, 1).daemon_less()).unwrap();
    build().unwrap();
    change(&lab);
    for node in ["n1", "n2"] {
        lab.start(node).unwrap();
    }
    lab
}

fn edit(lab: &Lab, node: &str, old: &str, new: &str) {
    let file = lab.folder(node).unwrap().join("netft.toml");
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.contains(old), "{text}");
    fs::write(file, text.replacen(old, new, 1)).unwrap();
}

fn tells(lab: &Lab, node: &str, kind: &str, parts: &[&str]) {
    let watch = Watch::start(lab, node).unwrap();
    let event = watch.wait(0, PATIENCE, |event| event.kind == kind);
    let sentence = event.unwrap_or_else(|| panic!("no {kind} on {node}: {:#?}", watch.since(0))).reason;
    for part in parts {
        assert!(sentence.contains(part), "{sentence:?} lacks {part:?}");
    }
    assert!(!sentence.contains('\n'), "{sentence}");
}

fn nobody_joined(lab: &Lab) {
    for node in ["n1", "n2"] {
        let watch = Watch::start(lab, node).unwrap();
        let joined: Vec<_> = watch.since(0).into_iter().filter(|event| event.kind == "peer-joined").collect();
        assert!(joined.is_empty(), "{joined:?}");
        assert_eq!(peers_up(lab, node), 0);
    }
}

fn peers_up(lab: &Lab, node: &str) -> usize {
    status(lab, node).map_or(0, |status| status.peers.up)
}

fn interface(lab: &Lab, name: &str) -> InterfaceStatus {
    let status = status(lab, "n1").unwrap();
    status.interfaces.into_iter().find(|interface| interface.name == name).expect("it is listed")
}

/// Id of the XDP program on an interface of n1.
fn program_on(lab: &Lab, interface: &str) -> Option<String> {
    let shown = output_of(lab, "n1", &["ip", "-details", "link", "show", "dev", interface]);
    let id = shown.split("prog/xdp id ").nth(1)?;
    id.split_whitespace().next().map(str::to_owned)
}
