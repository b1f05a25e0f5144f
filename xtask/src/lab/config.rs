//! The files of each node: `/run/netft-lab/LAB/n<i>/`.

use super::setting::Setting;
use super::shape::{Host, Shape, ipv4};
use anyhow::{Context, Result};
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use toml::{Table, Value};

/// All labs' files.
pub const ROOT: &str = "/run/netft-lab";
/// All labs' programs, maps and daemons' pins.
pub const PINS: &str = "/sys/fs/bpf/netft-lab";
/// Cluster id of every lab: they can't hear each other.
const CLUSTER_ID: i64 = 77;

/// Folder of lab `name`.
pub fn lab_folder(name: &str) -> PathBuf {
    Path::new(ROOT).join(name)
}

/// Folder of pins of lab `name`.
pub fn lab_pins(name: &str) -> PathBuf {
    Path::new(PINS).join(name)
}

/// Folder of node `id` in lab `name`.
pub fn node_folder(name: &str, id: u32) -> PathBuf {
    lab_folder(name).join(Host::Node(id).name())
}

/// Folder of the pins of node `id`'s daemon.
pub fn node_pins(name: &str, id: u32) -> PathBuf {
    lab_pins(name).join(Host::Node(id).name())
}

/// Writes the files of every node.
pub fn write(shape: &Shape, settings: &[Setting]) -> Result<()> {
    let secret = random_hex()?;
    for id in 1..=shape.nodes {
        let folder = node_folder(&shape.name, id);
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder.join("state"))
            .with_context(|| format!("{} can't be made", folder.display()))?;
        let mut table = node(shape, id);
        for setting in settings {
            setting.apply(&mut table)?;
        }
        let text = toml::to_string(&table).context("the configuration can't be written as TOML")?;
        write_file(&folder.join("netft.toml"), &text, 0o644)?;
        write_file(&folder.join("secret"), &secret, 0o600)?;
    }
    Ok(())
}

/// What node `id` is told: who it is, and one address of each peer. It finds the rest by itself.
fn node(shape: &Shape, id: u32) -> Table {
    let folder = node_folder(&shape.name, id);
    let file = |name: &str| Value::String(folder.join(name).display().to_string());
    let peers = (1..=shape.nodes).filter(|peer| *peer != id).map(|peer| {
        let network = shape.networks_of(Host::Node(peer))[0];
        let addresses = Value::Array(vec![Value::String(ipv4(network, peer))]);
        (Host::Node(peer).name(), table([("addresses", addresses)]))
    });
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let cpu = i64::from(id - 1) % i64::try_from(cpus).unwrap_or(1);
    let pins = node_pins(&shape.name, id).display().to_string();
    let sections = [
        ("cluster", table([("id", Value::Integer(CLUSTER_ID)), ("name", Value::String(shape.name.clone()))])),
        ("node", table([("name", Value::String(Host::Node(id).name())), ("id", Value::Integer(id.into()))])),
        ("peer", Value::Table(peers.collect())),
        ("security", table([("key_file", file("secret"))])),
        ("engine", table([("cpus", Value::Array(vec![Value::Integer(cpu)]))])),
        ("control", table([("socket", file("control.sock"))])),
        ("paths", table([("state", file("state")), ("pins", Value::String(pins))])),
    ];
    sections.into_iter().map(|(name, section)| (name.to_owned(), section)).collect()
}

fn table<const N: usize>(entries: [(&str, Value); N]) -> Value {
    Value::Table(entries.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
}

fn random_hex() -> Result<String> {
    let mut bytes = [0; 32];
    fs::File::open("/dev/urandom")
        .and_then(|mut random| random.read_exact(&mut bytes))
        .context("no random bytes for the cluster secret")?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).chain(["\n".to_owned()]).collect())
}

/// Replaces `path`. The mode counts from the first byte on.
pub fn write_file(path: &Path, text: &str, mode: u32) -> Result<()> {
    let failed = || format!("{} can't be written", path.display());
    if path.exists() {
        fs::remove_file(path).with_context(failed)?;
    }
    let mut file =
        OpenOptions::new().write(true).create_new(true).mode(mode).open(path).with_context(failed)?;
    file.write_all(text.as_bytes()).with_context(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_knows_one_address_of_each_peer() {
        let shape = Shape { name: "x".to_owned(), nodes: 3, networks: 2, routed: false, queues: 1 };
        let table = node(&shape, 2);
        let peers = table["peer"].as_table().unwrap();
        assert_eq!(peers.keys().collect::<Vec<_>>(), ["n1", "n3"]);
        assert_eq!(peers["n3"]["addresses"].as_array().unwrap(), &[Value::String("10.77.1.3".to_owned())]);
        assert_eq!(table["control"]["socket"].as_str(), Some("/run/netft-lab/x/n2/control.sock"));
        assert_eq!(table["paths"]["pins"].as_str(), Some("/sys/fs/bpf/netft-lab/x/n2"));
    }

    #[test]
    fn a_routed_peer_is_met_on_its_own_cluster_subnet() {
        let shape = Shape { name: "x".to_owned(), nodes: 2, networks: 4, routed: true, queues: 1 };
        let table = node(&shape, 1);
        let peers = table["peer"].as_table().unwrap();
        assert_eq!(peers["n2"]["addresses"].as_array().unwrap(), &[Value::String("10.77.2.2".to_owned())]);
    }
}
