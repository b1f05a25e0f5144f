//! The configuration file: written by people, so anything can stand in it.

use netft_core::types::NodeId;
use netft_userspace::config::{Config, ConfigError};
use std::collections::BTreeSet;
use std::path::Path;

/// What configurations are made of.
pub const WORDS: &[&str] = &[
    "[cluster]\n",
    "[node]\n",
    "[peer.n2]\n",
    "[network.\"a b\"]\n",
    "[heartbeat.same_subnet]\n",
    "[engine]\n",
    "id = ",
    "name = ",
    "addresses = [",
    "match = [",
    "delay = ",
    "cpus = [",
    "priority = ",
    "\"1ms\"",
    "\"99999999999999999999s\"",
    "\"0.5us\"",
    "\"10.0.1.2\"",
    "\"::ffff:10.0.1.2\"",
    "\"fe80::1\"",
    "\"10.0.0.0/33\"",
    "-0x8000000000000000",
    "1e400",
    "\"\\u001b[2J\"",
    "\"\\u0000\"",
    "'''",
    "\"\"\"",
    "\u{85}",
    "]\n",
    "= {",
];

const SMALLEST: &str = "[cluster]\nid = 7\n[node]\nid = 1\nname = \"n1\"\n";
const WHOLE: &str = r#"
cluster = { id = 7, name = "prod" }
node = { id = 1, name = "n1", site = "east" }
security = { level = "signed", key_file = "/run/k", rekey = "1h" }
[peer.n2]
addresses = ["10.0.1.2", "fd00::2"]
id = 2
site = "west"
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
[routes]
history = 5
up_after = 7
fail_back_hold = "2s"
[events]
history = 50
[control]
socket = "/run/x.sock"
group = "netft"
[paths]
state = "/var/lib/x"
pins = "/sys/fs/bpf/netft/x"
"#;

pub fn corpus() -> Vec<(&'static str, Vec<u8>)> {
    vec![("smallest", SMALLEST.into()), ("whole", WHOLE.into())]
}

fn parse(bytes: &[u8]) -> Result<Config, ConfigError> {
    Config::parse(Path::new("/etc/netft/netft.toml"), &String::from_utf8_lossy(bytes))
}

pub fn target(inputs: &[Vec<u8>]) -> impl FnMut(&[u8]) + use<> {
    let stale = |bytes: &&Vec<u8>| parse(bytes).is_err();
    assert_eq!(inputs.iter().find(stale), None, "the keys have changed: write the corpus anew");
    |bytes| match parse(bytes) {
        Ok(config) => sound(&config),
        Err(ConfigError::Invalid(problems)) => {
            assert!(!problems.is_empty(), "refused without a reason");
            let lines = String::from_utf8_lossy(bytes).split('\n').count();
            for problem in problems {
                assert!(problem.line.is_none_or(|line| (1..=lines).contains(&line)), "{problem}");
                // It goes to a terminal and to the journal, as one line.
                assert!(!problem.message.contains(char::is_control), "{:?}", problem.message);
            }
        }
        Err(error) => panic!("only what is in the text can be wrong: {error}"),
    }
}

/// What the rest of the daemon relies on.
fn sound(config: &Config) {
    assert_ne!(config.cluster_id, 0);
    assert!(!config.node_name.is_empty());
    for timing in [config.same_subnet, config.cross_subnet, config.cross_site] {
        assert!((50_000..=10_000_000_000).contains(&timing.delay_ns));
        assert!((2..=1000).contains(&timing.threshold));
    }
    assert!(config.engine.priority.is_none_or(|priority| (1..=99).contains(&priority)));
    assert!(config.peers.len() < 255);
    let mut ids = BTreeSet::from([config.node_id]);
    let mut addresses = BTreeSet::new();
    for (name, peer) in &config.peers {
        assert!(*name == peer.name && *name != config.node_name && !peer.addresses.is_empty());
        assert!(peer.id.is_none_or(|id: NodeId| ids.insert(id)), "an id is given twice");
        assert!(peer.addresses.iter().all(|address| addresses.insert(*address)), "an address is given twice");
    }
    assert!(config.networks.iter().all(|network| !network.matches.is_empty()));
    assert!([&config.socket, &config.state_dir, &config.pin_dir].iter().all(|path| path.is_absolute()));
    assert!(config.entries().len() > 20);
    let (_, _) = (config.membership(), config.detector());
}
