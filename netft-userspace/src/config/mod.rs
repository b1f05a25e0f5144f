//! The configuration: one TOML file, read and judged in one go (`docs/config.md`).
//!
//! [`Config::load`] either gives a whole, valid configuration or every problem it found, each as one sentence with
//! `file:line` and what to do. Unknown keys are refused, so a typing error never silently means a default.

mod change;
mod file;
mod keys;
mod next_secret;
mod read;
mod secret;
#[cfg(test)]
mod tests;
mod units;
mod vips;

pub use change::{Change, Effect, changes};
pub use file::{Existing, WriteError, write_new};
pub(crate) use keys::position;
pub use keys::{Applies, KEYS, Key};
pub use next_secret::{check_writable, keep_secret, load_next_secret, remove_leftovers};
pub(crate) use read::own_host_name;
pub use secret::{Secret, SecretError};
pub use units::{format_duration, format_size, parse_duration, parse_size};
pub use vips::VipConfig;

use crate::engine::{DatapathOptions, Wait};
use netft_common::wire::Versions;
use netft_core::detect::{DampingConfig, DetectorConfig};
use netft_core::membership::{MembershipConfig, NetworkOverride, PeerConfig};
use netft_core::types::{Level, Nanos, NodeId, Timing};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

/// Where the daemon looks without `--config`.
pub const DEFAULT_FILE: &str = "/etc/netft/netft.toml";
/// Where the control socket is unless `control.socket` says otherwise.
pub const DEFAULT_SOCKET: &str = "/run/netft/control.sock";

/// A valid configuration with every default filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The file it came from.
    pub file: PathBuf,
    /// `cluster.id`.
    pub cluster_id: u32,
    /// `cluster.name`.
    pub cluster_name: String,
    /// `node.name`.
    pub node_name: String,
    /// `node.id`.
    pub node_id: NodeId,
    /// `node.site`.
    pub node_site: Option<String>,
    /// `peer.NAME.*`.
    pub peers: BTreeMap<String, PeerConfig>,
    /// Nodes, by name, that only vote: `node.role` and `peer.NAME.role`.
    pub witnesses: BTreeSet<String>,
    /// `vip.NAME.*`.
    pub vips: BTreeMap<String, VipConfig>,
    /// `security.key_file`, absolute.
    pub key_file: PathBuf,
    /// `security.level`.
    pub level: Level,
    /// `security.rekey`: how long a session's keys are used, nanoseconds.
    pub key_period_ns: Nanos,
    /// No key: the wire versions that the daemon speaks. Tests have it speak others than those of this build.
    pub versions: Versions,
    /// `heartbeat.same_subnet`.
    pub same_subnet: Timing,
    /// `heartbeat.cross_subnet`.
    pub cross_subnet: Timing,
    /// `heartbeat.cross_site`.
    pub cross_site: Timing,
    /// `engine.*`.
    pub engine: EngineConfig,
    /// `datapath.*`.
    pub datapath: DatapathOptions,
    /// `network.NAME.*`, in the order of the file.
    pub networks: Vec<NetworkOverride>,
    /// `routes.history`: records kept per route.
    pub route_history: usize,
    /// `routes.up_after`: complete heartbeats in a row before a route is up.
    pub up_after: u32,
    /// `routes.fail_back_hold`, nanoseconds.
    pub fail_back_hold_ns: Nanos,
    /// `routes.flap_limit`, `routes.flap_half_life` and `routes.damping_max`.
    pub damping: DampingConfig,
    /// `events.history`: events kept.
    pub event_history: usize,
    /// `log.packets`: whether the log says which frames XDP refuses.
    pub log_packets: bool,
    /// `control.socket`.
    pub socket: PathBuf,
    /// `control.group`: who besides root may use the socket.
    pub group: Option<String>,
    /// `adapter.name`.
    pub adapter_name: String,
    /// `paths.state`.
    pub state_dir: PathBuf,
    /// `paths.pins`.
    pub pin_dir: PathBuf,
}

/// `engine.*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineConfig {
    /// How the detection thread waits.
    pub wait: Wait,
    /// SCHED_FIFO priority 1 to 99; `None` = ordinary scheduling.
    pub priority: Option<u8>,
    /// CPUs the detection thread may use; empty = netftd chooses.
    pub cpus: Vec<usize>,
    /// Age of a peer's tick at which its engine counts as stalled, nanoseconds.
    pub timeout_ns: Nanos,
    /// How long a peer may be so until its routes are given up, nanoseconds.
    pub absence_ns: Nanos,
}

/// One thing wrong with a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file.
    pub file: PathBuf,
    /// 1-based line; `None` if it is about the file as a whole.
    pub line: Option<usize>,
    /// One sentence: what, and how to mend it.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}:{line}: {}", self.file.display(), self.message),
            None => write!(f, "{}: {}", self.file.display(), self.message),
        }
    }
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file isn't there.
    #[error("{} does not exist: write one with `netft init`, or name yours with --config", .0.display())]
    Missing(PathBuf),
    /// It can't be read.
    #[error("{} can't be read ({source}): check its permissions", .file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// What is in it.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Invalid(Vec<Problem>),
}

impl Config {
    /// Reads and judges `file`.
    pub fn load(file: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(file).map_err(|source| match source.kind() {
            std::io::ErrorKind::NotFound => ConfigError::Missing(file.to_owned()),
            _ => ConfigError::Read { file: file.to_owned(), source },
        })?;
        Self::parse(file, &text)
    }

    /// Judges `text` as if it stood in `file` (which relative paths and messages refer to).
    pub fn parse(file: &Path, text: &str) -> Result<Self, ConfigError> {
        read::read(file, text).map_err(ConfigError::Invalid)
    }

    /// Where the daemon of `file` listens, even if the file has mistakes; `None` if it doesn't say.
    pub fn socket_of(file: &Path) -> Option<PathBuf> {
        read::socket(&std::fs::read_to_string(file).ok()?)
    }

    /// What membership needs of it.
    pub fn membership(&self) -> MembershipConfig {
        MembershipConfig {
            cluster_id: self.cluster_id,
            id: self.node_id,
            name: self.node_name.clone(),
            site: self.node_site.clone(),
            peers: self.peers.clone(),
            networks: self.networks.clone(),
            same_subnet: self.same_subnet,
            cross_subnet: self.cross_subnet,
            cross_site: self.cross_site,
            key_period_ns: self.key_period_ns,
            level: self.level,
            absence_ns: self.engine.absence_ns,
            versions: self.versions,
        }
    }

    /// What the detector needs of it.
    pub fn detector(&self) -> DetectorConfig {
        DetectorConfig {
            up_run: self.up_after,
            fail_back_hold_ns: self.fail_back_hold_ns,
            engine_timeout_ns: self.engine.timeout_ns,
            damping: self.damping,
        }
    }

    /// Every key with the value in effect, as it would stand in the file; `null` = not set. In file order.
    pub fn entries(&self) -> Vec<(String, Value)> {
        let mut entries = vec![
            ("cluster.id".into(), json!(self.cluster_id)),
            ("cluster.name".into(), json!(self.cluster_name)),
            ("node.name".into(), json!(self.node_name)),
            ("node.id".into(), json!(self.node_id)),
            ("node.site".into(), json!(self.node_site)),
            (
                "node.role".into(),
                json!(if self.witnesses.contains(&self.node_name) { "witness" } else { "node" }),
            ),
        ];
        for (name, peer) in &self.peers {
            entries.push((format!("peer.{name}.addresses"), json!(peer.addresses)));
            entries.push((format!("peer.{name}.id"), json!(peer.id)));
            entries.push((format!("peer.{name}.site"), json!(peer.site)));
            let role = self.witnesses.contains(name).then_some("witness");
            entries.push((format!("peer.{name}.role"), json!(role)));
        }
        entries.push(("security.level".into(), json!(self.level)));
        entries.push(("security.key_file".into(), json!(self.key_file)));
        entries.push(("security.rekey".into(), json!(format_duration(self.key_period_ns))));
        for (class, timing) in [
            ("same_subnet", self.same_subnet),
            ("cross_subnet", self.cross_subnet),
            ("cross_site", self.cross_site),
        ] {
            entries.push((format!("heartbeat.{class}.delay"), json!(format_duration(timing.delay_ns))));
            entries.push((format!("heartbeat.{class}.threshold"), json!(timing.threshold)));
        }
        entries.push(("engine.wait".into(), json!(self.engine.wait)));
        entries.push(("engine.priority".into(), json!(self.engine.priority.unwrap_or(0))));
        entries.push(("engine.cpus".into(), json!(self.engine.cpus)));
        entries.push(("engine.timeout".into(), json!(format_duration(self.engine.timeout_ns))));
        entries.push(("engine.absence".into(), json!(format_duration(self.engine.absence_ns))));
        entries.push(("datapath.path".into(), json!(self.datapath.path)));
        entries.push(("datapath.buffers".into(), json!(format_size(self.datapath.buffers))));
        entries.push(("datapath.policy".into(), json!(self.datapath.policy)));
        entries.push(("datapath.keep".into(), json!(format_size(self.datapath.keep))));
        for network in &self.networks {
            let name = &network.name;
            entries.push((format!("network.{name}.match"), json!(network.matches)));
            entries.push((format!("network.{name}.role"), json!(network.role)));
            entries.push((format!("network.{name}.metric"), json!(network.metric)));
        }
        entries.extend(self.vips.iter().flat_map(|(name, vip)| vip.entries(name)));
        entries.push(("routes.history".into(), json!(self.route_history)));
        entries.push(("routes.up_after".into(), json!(self.up_after)));
        entries.push(("routes.fail_back_hold".into(), json!(format_duration(self.fail_back_hold_ns))));
        let damping = self.damping;
        entries.push(("routes.flap_limit".into(), json!(damping.flap_limit)));
        entries.push(("routes.flap_half_life".into(), json!(format_duration(damping.half_life_ns))));
        entries.push(("routes.damping_max".into(), json!(format_duration(damping.longest_ns))));
        entries.push(("events.history".into(), json!(self.event_history)));
        entries.push(("log.packets".into(), json!(self.log_packets)));
        entries.push(("control.socket".into(), json!(self.socket)));
        entries.push(("control.group".into(), json!(self.group)));
        entries.push(("adapter.name".into(), json!(self.adapter_name)));
        entries.push(("paths.state".into(), json!(self.state_dir)));
        entries.push(("paths.pins".into(), json!(self.pin_dir)));
        entries
    }
}
