use super::*;

const MINIMAL: &str = "[cluster]\nid = 7\n[node]\nid = 1\nname = \"n1\"\n";

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(Path::new("/etc/netft/netft.toml"), text)
}

/// The message of the only problem.
fn only_problem(text: &str) -> String {
    match parse(text) {
        Err(ConfigError::Invalid(problems)) if problems.len() == 1 => problems[0].to_string(),
        other => panic!("one problem expected of {text:?}, got {other:?}"),
    }
}

#[test]
fn two_keys_make_a_configuration() {
    let config = parse(MINIMAL).unwrap();
    assert_eq!((config.cluster_id, config.node_id.get(), config.node_name.as_str()), (7, 1, "n1"));
    assert_eq!(config.key_file, Path::new("/etc/netft/secret"));
    assert_eq!(config.same_subnet.detection_ns(), 5_000_000);
}

#[test]
fn every_key_is_read() {
    let config = parse(
        r#"
        cluster = { id = 7, name = "prod" }
        node = { id = 1, name = "n1", site = "east", role = "witness" }
        security = { level = "encrypted", key_file = "/run/k", rekey = "1h" }
        [peer.n2]
        addresses = ["10.0.1.2", "fd00::2"]
        id = 2
        site = "west"
        role = "witness"
        [peer.n3]
        addresses = ["10.0.1.3"]
        [vip.web]
        addresses = ["10.0.9.100/24", "fd00:9::100/64"]
        network = "Client LAN"
        preferred = ["n3"]
        failback = "30s"
        [network."Client LAN"]
        match = ["10.0.9.0/24"]
        role = 3
        metric = 5
        [network.back]
        match = ["eth*"]
        [heartbeat]
        same_subnet = { delay = "200us", threshold = 4 }
        cross_subnet = { delay = "20ms", threshold = 8 }
        cross_site = { delay = "1s", threshold = 3 }
        [engine]
        wait = "spin"
        priority = 0
        cpus = [1, 2]
        timeout = "500ms"
        absence = "60s"
        [datapath]
        path = "xdp-generic"
        buffers = "1GiB"
        policy = "spread"
        keep = "2MiB"
        [routes]
        history = 5
        up_after = 7
        fail_back_hold = "2s"
        flap_limit = 9
        flap_half_life = "5s"
        damping_max = "1m"
        [events]
        history = 50
        [log]
        packets = true
        [control]
        socket = "/run/x.sock"
        group = "netft"
        [adapter]
        name = "netft1"
        [paths]
        state = "/tmp/s"
        pins = "/sys/fs/bpf/netft/x"
        "#,
    )
    .unwrap();
    assert_eq!(config.networks[0].name, "Client LAN", "networks stay in the order of the file");
    assert_eq!(config.engine.priority, None);
    let defaults = parse(MINIMAL).unwrap();
    // Each key differs from its default, so one that is forgotten in `set` or `entries` shows.
    let same: Vec<_> =
        config.entries().into_iter().filter(|entry| defaults.entries().contains(entry)).collect();
    let same: Vec<&str> = same.iter().map(|(key, _)| key.as_str()).collect();
    assert_eq!(same, ["cluster.id", "node.name", "node.id"]);
    for key in KEYS {
        let listed =
            config.entries().iter().any(|(path, _)| keys::find(path).is_some_and(|k| k.path == key.path));
        assert!(listed, "{} is not among the entries", key.path);
    }
}

#[test]
fn each_mistake_is_one_sentence_with_line_and_remedy() {
    let at = |line: usize, rest: &str| format!("/etc/netft/netft.toml:{line}: {rest}");
    let table = [
        // unknown keys
        ("[cluste]\nid = 1", at(6, "unknown key cluste: did you mean cluster?")),
        (
            "[heartbeat.same_subnett]\ndelay=\"1ms\"",
            at(6, "unknown key heartbeat.same_subnett: did you mean heartbeat.same_subnet?"),
        ),
        (
            "[peer.n2]\naddresses=[\"10.0.0.2\"]\nadress=1",
            at(8, "unknown key peer.n2.adress: did you mean peer.n2.addresses?"),
        ),
        (
            "[engine]\nfail_back_hold=\"1s\"",
            at(7, "unknown key engine.fail_back_hold: did you mean routes.fail_back_hold?"),
        ),
        (
            "[engine]\nfrobnicate=1",
            at(7, "unknown key engine.frobnicate: remove it, or use one of wait, priority, cpus, timeout"),
        ),
        // keys of later versions
        (
            "[vip.web]\ngroup=1",
            at(
                7,
                "vip.web.group is not available in this version (groups of VIPs come in a later version): remove it",
            ),
        ),
        (
            "[metrics]\nlisten=\"[::1]:9\"",
            at(
                6,
                "metrics is not available in this version (metrics come in a later version; `netft status --json` has the numbers): remove it",
            ),
        ),
        (
            "[datapath]\npolicy=\"both\"",
            at(7, "datapath.policy: \"both\" is not a policy: use \"failover\", \"spread\" or \"duplicate\""),
        ),
        ("[datapath]\nkeep=\"2GiB\"", at(7, "datapath.keep: \"2GiB\" is out of range: use 1MiB to 1GiB")),
        (
            "[datapath]\npath=\"fast\"",
            at(
                7,
                "datapath.path: \"fast\" is not a data path: use \"auto\", \"xdp\", \"xdp-generic\" or \"socket\"",
            ),
        ),
        (
            "[datapath]\nbuffers=\"1KiB\"",
            at(7, "datapath.buffers: \"1KiB\" is out of range: use 1MiB to 16GiB"),
        ),
        (
            "[datapath]\nbuffers=\"64MB\"",
            at(
                7,
                "datapath.buffers: \"64MB\" is not a size: write a whole number and a unit, like \"64MiB\"",
            ),
        ),
        // wrong values
        (
            "[heartbeat.same_subnet]\ndelay=\"5\"",
            at(
                7,
                "heartbeat.same_subnet.delay: \"5\" is not a duration: write a number and a unit, like \"200us\", \"1ms\" or \"2s\"",
            ),
        ),
        (
            "[heartbeat.same_subnet]\ndelay=5",
            at(
                7,
                "heartbeat.same_subnet.delay: a whole number stands here: write a duration in quotes, like \"200us\" or \"1ms\"",
            ),
        ),
        (
            "[heartbeat.same_subnet]\ndelay=\"10us\"",
            at(7, "heartbeat.same_subnet.delay: \"10us\" is out of range: use 50us to 10s"),
        ),
        (
            "[heartbeat.same_subnet]\nthreshold=1",
            at(7, "heartbeat.same_subnet.threshold: 1 is out of range: use 2 to 1000"),
        ),
        (
            "[heartbeat]\nsame_subnet=\"1ms\"",
            at(
                7,
                "heartbeat.same_subnet is a table: write [heartbeat.same_subnet] and below it delay, threshold",
            ),
        ),
        (
            "[security]\nlevel=\"rot13\"",
            at(
                7,
                "security.level: \"rot13\" is not a security level: use \"clear\", \"signed\" or \"encrypted\"",
            ),
        ),
        (
            "[engine]\nwait=\"poll\"",
            at(7, "engine.wait: \"poll\" is not a way to wait: use \"sleep\" or \"spin\""),
        ),
        ("[engine]\npriority=100", at(7, "engine.priority: 100 is out of range: use 0 to 99")),
        (
            "[engine]\ncpus=1",
            at(7, "engine.cpus: a whole number stands here: write a list in square brackets"),
        ),
        (
            "[network.a]\nmatch=[\"10.0.0.1\"]",
            at(7, "network.a.match: \"10.0.0.1\" has no prefix length: write a subnet like \"10.0.1.0/24\""),
        ),
        (
            "[network.a]\nmatch=[\"10.0.0.0/33\"]",
            at(
                7,
                "network.a.match: \"10.0.0.0/33\" is not a subnet: write one like \"10.0.1.0/24\" or \"fd00:1::/64\"",
            ),
        ),
        (
            "[network.a]\nmatch=[\"eth0\"]\nrole=2",
            at(
                8,
                "network.a.role: that is not a role: use 0 (not used), 1 (cluster only) or 3 (cluster and client)",
            ),
        ),
        (
            "[network.a]\nrole=1",
            at(
                6,
                "network.a has no match: say which subnet or interfaces it is, like match = [\"10.0.1.0/24\"]",
            ),
        ),
        (
            "[control]\nsocket=\"x.sock\"",
            at(7, "control.socket: \"x.sock\" is relative: write the whole path, from /"),
        ),
        (
            "[adapter]\nname=\"a-name-too-long-for-it\"",
            at(
                7,
                "adapter.name: \"a-name-too-long-for-it\" can't be an interface name: use 1 to 15 letters, digits, '.', '_' or '-'",
            ),
        ),
        // peers
        (
            "[peer.n2]\nid=2",
            at(
                6,
                "peer.n2 has no addresses: give one at which it can be met, like addresses = [\"10.0.1.2\"]",
            ),
        ),
        (
            "[peer.n1]\naddresses=[\"10.0.0.1\"]",
            at(6, "peer.n1 has the name of this node: leave this node out, or mend node.name"),
        ),
        (
            "[peer.n2]\naddresses=\"10.0.0.2\"",
            at(7, "peer.n2.addresses: a string stands here: write a list, like [\"10.0.1.2\"]"),
        ),
        (
            "[peer.n2]\naddresses=[\"n2\"]",
            at(
                7,
                "peer.n2.addresses: \"n2\" is not an IP address: write one like \"10.0.1.2\" or \"fd00::2\"",
            ),
        ),
        (
            "[peer.n2]\naddresses=[\"127.0.0.1\"]",
            at(
                7,
                "peer.n2.addresses: 127.0.0.1 can't be met from another node: write an address of the peer's interface",
            ),
        ),
        (
            "[peer.n2]\naddresses=[\"10.0.0.2\"]\nid=1",
            at(8, "node id 1 of peer.n2 is n1's: every node has its own"),
        ),
        (
            "[peer.n2]\naddresses=[\"10.0.0.2\"]\n[peer.n3]\naddresses=[\"10.0.0.2\"]",
            at(9, "address 10.0.0.2 of peer.n3 is given for peer n2 too: each belongs to one peer, once"),
        ),
        (
            "[peer.\"n 2\"]\naddresses=[\"10.0.0.2\"]",
            at(6, "\"n 2\" can't be a peer name: use 1 to 32 letters, digits, '.', '_' or '-'"),
        ),
        // VIPs
        (
            "[vip.web]",
            at(
                6,
                "vip.web has no addresses: give one in a subnet of your nodes, like addresses = [\"10.0.1.100/24\"]",
            ),
        ),
        (
            "[vip.web]\naddresses=[\"10.0.0.100\"]",
            at(
                7,
                "vip.web.addresses: \"10.0.0.100\" has no prefix length: write that of its subnet, like \"10.0.0.100/24\"",
            ),
        ),
        (
            "[vip.web]\naddresses=[\"10.0.0.0/24\"]",
            at(
                7,
                "vip.web.addresses: 10.0.0.0/24 can't be a VIP: write the address of a host in a subnet of your nodes",
            ),
        ),
        (
            "[vip.web]\naddresses=[\"fe80::1/64\"]",
            at(
                7,
                "vip.web.addresses: fe80::1/64 can't be a VIP: write the address of a host in a subnet of your nodes",
            ),
        ),
        (
            "[vip.web]\naddresses=[\"10.0.0.100/24\"]\n[vip.db]\naddresses=[\"10.0.0.100/24\"]",
            at(7, "10.0.0.100 is given to vip.web to vip.db, too: each address belongs to one VIP, once"),
        ),
        (
            "[vip.web]\naddresses=[\"10.0.0.2/24\"]\n[peer.n2]\naddresses=[\"10.0.0.2\"]",
            at(7, "10.0.0.2 of vip.web is where peer.n2 is met: a VIP needs an address that no node has"),
        ),
        (
            "[vip.web]\naddresses=[\"10.0.0.9/24\"]\npreferred=[\"n7\"]",
            at(8, "vip.web prefers n7, which is neither this node nor a configured peer"),
        ),
        (
            "[vip.web]\naddresses=[\"10.0.0.9/24\"]\nfailback=\"1s\"",
            at(8, "vip.web has failback and nobody to fail back to: name nodes in vip.web.preferred"),
        ),
        // not TOML
        ("[peer.n2\n", at(6, "this is not TOML: ")),
    ];
    for (addition, message) in table {
        let problem = only_problem(&format!("{MINIMAL}{addition}"));
        assert!(problem.starts_with(&message), "{addition:?}\n got {problem}\nwant {message}");
        assert!(!problem.contains('\n'), "{problem}");
    }
}

#[test]
fn what_must_be_set_is_asked_for() {
    let ConfigError::Invalid(problems) = parse("node.name = \"a\"").unwrap_err() else {
        panic!("not a problem list")
    };
    let text: Vec<String> = problems.iter().map(ToString::to_string).collect();
    assert_eq!(
        text,
        [
            "/etc/netft/netft.toml: cluster.id is not set: below [cluster] write id = 4711, equal on all nodes",
            "/etc/netft/netft.toml: node.id is not set: below [node] write id = 1, different on each",
        ]
    );
}

#[test]
fn a_missing_file_names_the_remedy() {
    let error = Config::load(Path::new("/nonexistent/netft.toml")).unwrap_err().to_string();
    assert_eq!(
        error,
        "/nonexistent/netft.toml does not exist: write one with `netft init`, or name yours with --config"
    );
}

#[test]
fn changes_tell_what_needs_a_restart() {
    let old = parse(MINIMAL).unwrap();
    let new = parse(
        "[cluster]\nid = 7\n[node]\nid = 1\nname = \"n1\"\n[heartbeat.same_subnet]\ndelay = \"2ms\"\n\
         [engine]\nwait = \"spin\"\n[peer.n2]\naddresses = [\"10.0.0.2\"]\n",
    )
    .unwrap();
    let list: Vec<(String, Effect)> = changes(&old, &new).into_iter().map(|c| (c.key, c.effect)).collect();
    assert_eq!(
        list,
        [
            ("peer.n2.addresses".into(), Effect::Now),
            ("heartbeat.same_subnet.delay".into(), Effect::Now),
            ("engine.wait".into(), Effect::Restart),
        ]
    );
    let gone = changes(&new, &old);
    assert_eq!(
        gone.last().map(|c| (c.key.as_str(), &c.new)),
        Some(("peer.n2.addresses", &serde_json::Value::Null))
    );
}

#[test]
fn a_secret_is_private_and_long_enough() {
    use std::os::unix::fs::PermissionsExt;
    let folder = std::env::temp_dir().join(format!("netft-secret-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let file = folder.join("secret");
    assert!(Secret::load(&file).unwrap_err().to_string().contains("netft key generate"));
    let secret = Secret::generate().unwrap();
    secret.write(&file, Existing::Keep).unwrap();
    assert_eq!(Secret::load(&file).unwrap(), secret);
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(secret.write(&file, Existing::Keep).unwrap_err().to_string().contains("--force"));
    assert_eq!(Secret::load(&file).unwrap(), secret, "the refused write changed nothing");

    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o640)).unwrap();
    let error = Secret::load(&file).unwrap_err().to_string();
    assert!(error.contains("mode 0640") && error.contains("chmod 0600"), "{error}");
    std::fs::write(&file, "short\n\n").unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    let error = Secret::load(&file).unwrap_err().to_string();
    assert!(error.contains("has 5 bytes, 32 are needed"), "{error}");
    assert!(!format!("{secret:?}").contains(&String::from_utf8_lossy(secret.bytes()).into_owned()));
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn the_manual_has_every_key_with_its_default_and_meaning() {
    let manual = include_str!("../../../docs/config.md");
    for key in KEYS {
        let path = key.path.replace('*', "NAME");
        let row = manual.lines().find(|line| line.starts_with(&format!("| `{path}` |")));
        let row = row.unwrap_or_else(|| panic!("docs/config.md lacks {path}"));
        let reload = if key.applies == Applies::Live { "| now |" } else { "| restart |" };
        assert!(row.contains(key.default) && row.contains(key.about) && row.contains(reload), "{row}");
    }
}

#[test]
fn the_socket_is_found_in_a_file_with_mistakes() {
    let socket = |text| read::socket(text).map(|path| path.display().to_string());
    assert_eq!(socket("[control]\nsocket = \"/x\"\n[nonsense]\n"), Some("/x".into()));
    assert_eq!(socket("[control]\nsocket = \"/x\"\n[node\n"), Some("/x".into()));
    assert_eq!(socket("control.socket = 5\n"), None);
    assert_eq!(socket(MINIMAL), None);
}

#[test]
fn what_is_quoted_from_the_file_cannot_steer_a_terminal() {
    let problem = only_problem(&format!("{MINIMAL}[engine]\nwait = \"\\u001b[2J\\n\"\n"));
    assert!(problem.contains(r"\u{1b}[2J\n") && !problem.contains(char::is_control), "{problem:?}");
}

#[test]
fn two_nodes_with_vips_are_warned_about() {
    let vip = "[vip.web]\naddresses = [\"10.0.0.100/24\"]\n";
    let peer = |number: u8| format!("[peer.n{number}]\naddresses = [\"10.0.0.{number}\"]\n");
    let warnings = |text: String| parse(&format!("{MINIMAL}{text}")).unwrap().warnings();
    assert!(warnings(format!("{vip}{}", peer(2)))[0].contains("two nodes decide"));
    assert!(warnings(vip.to_owned())[0].contains("nobody who could take"));
    assert_eq!(warnings(format!("{vip}{}{}", peer(2), peer(3))), Vec::<String>::new());
    assert_eq!(warnings(peer(2)), Vec::<String>::new(), "without VIPs nothing is decided");
    let many: String = (2..=10).map(peer).collect();
    assert!(only_problem(&format!("{MINIMAL}{vip}{many}")).contains("up to 9 nodes"));
}
