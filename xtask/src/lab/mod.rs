//! The lab: a cluster of network namespaces on one machine, by command (`docs/lab.md`) and as a library.
//!
//! [`Lab`] can be used from any thread. What acts on packets or links acts within microseconds once the handle has
//! been used for the first time, and says when: [`Stamps`].

mod carrier;
mod command;
mod config;
mod guard;
mod lock;
mod namespace;
mod ports;
mod process;
mod setting;
mod shape;
mod status;
pub mod stress;
mod topology;
mod verbs;

pub use command::{Args, run};
pub use guard::LabGuard;
pub use lock::{MachineLock, timing_lock};
pub use ports::Direction;
pub use process::State;
pub use setting::Setting;
pub use shape::{Host, Shape};
pub use status::{HostStatus, PathStatus, Status};
pub use verbs::{Stamps, boottime_ns};

use anyhow::{Context, Result, bail, ensure};
use config::{lab_folder, lab_pins};
use nix::mount::{MsFlags, mount};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};
use ports::Ports;
use process::Daemon;
use serde::{Deserialize, Serialize};
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, OnceLock, PoisonError};

/// What `up` makes.
#[derive(Clone, Debug)]
pub struct Options {
    /// Its shape.
    pub shape: Shape,
    /// Changes to every node's configuration, in order.
    pub settings: Vec<Setting>,
    /// Whether daemons run.
    pub daemons: Daemons,
}

/// Whether `up` builds and starts daemons.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Daemons {
    /// Built, and one started in each node.
    Started,
    /// Only the topology and the files.
    None,
}

impl Options {
    /// A lab of `nodes` nodes on `networks` networks with daemons.
    pub fn new(name: &str, nodes: u32, networks: u32) -> Self {
        let shape = Shape { name: name.to_owned(), nodes, networks, routed: false, queues: 1 };
        Self { shape, settings: Vec::new(), daemons: Daemons::Started }
    }

    /// The same without daemons.
    pub fn daemon_less(mut self) -> Self {
        self.daemons = Daemons::None;
        self
    }

    /// With one more change, as `--set` takes it.
    pub fn set(mut self, setting: &str) -> Result<Self> {
        self.settings.push(setting.parse()?);
        Ok(self)
    }
}

/// What `lab.json` keeps for later commands.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Record {
    shape: Shape,
    /// Whether `up` started daemons.
    daemons: Daemons,
    /// Folder of netftd and netft.
    binaries: PathBuf,
}

/// A lab that exists.
#[derive(Debug)]
pub struct Lab {
    record: Record,
    ports: OnceLock<Ports>,
    carrier: OnceLock<carrier::Carrier>,
}

impl Lab {
    /// Builds a lab. One of the same name is taken down first.
    pub fn up(options: &Options) -> Result<Self> {
        ready()?;
        options.shape.check()?;
        let shape = &options.shape;
        if options.daemons == Daemons::Started {
            build()?;
        }
        Self::down(&shape.name)?;
        let lab = Self {
            record: Record { shape: shape.clone(), daemons: options.daemons, binaries: binaries_folder() },
            ports: OnceLock::new(),
            carrier: OnceLock::new(),
        };
        let made = lab.make(options);
        if made.is_err() {
            // The first error is the one to tell.
            let _ = Self::down(&shape.name);
        }
        made.map(|()| lab)
    }

    fn make(&self, options: &Options) -> Result<()> {
        let shape = self.shape();
        mount_bpf()?;
        config::write(shape, &options.settings)?;
        let record = serde_json::to_string_pretty(&self.record)?;
        config::write_file(&record_path(&shape.name), &record, 0o644)?;
        topology::build(shape)?;
        let ports = Ports::install(shape)?;
        // Nobody else has this handle yet.
        let _ = self.ports.set(ports);
        if options.daemons == Daemons::Started {
            self.start_all()?;
        }
        Ok(())
    }

    fn start_all(&self) -> Result<()> {
        let daemons: Vec<_> = (1..=self.shape().nodes).map(|id| self.daemon(id)).collect();
        daemons.iter().try_for_each(|daemon| daemon.spawn(&self.netftd(), &[]))?;
        daemons.iter().try_for_each(|daemon| daemon.wait_until_it_answers(&self.netft_path()))
    }

    /// Opens the lab called `name`.
    pub fn open(name: &str) -> Result<Self> {
        let path = record_path(name);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => bail!("{}", no_such_lab(name)),
            Err(error) => return Err(error).with_context(|| format!("{} can't be read", path.display())),
        };
        let record: Record = serde_json::from_str(&text).with_context(|| {
            format!("{} is damaged: run `cargo xtask lab down --name {name}`", path.display())
        })?;
        let switch = namespace::path(&record.shape.switch());
        ensure!(
            switch.exists(),
            "lab {name} has lost its namespaces: run `cargo xtask lab down --name {name}`, then `up`"
        );
        Ok(Self { record, ports: OnceLock::new(), carrier: OnceLock::new() })
    }

    /// Names of the labs that exist.
    pub fn list() -> Vec<String> {
        let Ok(entries) = fs::read_dir(config::ROOT) else { return Vec::new() };
        let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        let mut names: Vec<_> = names.filter(|name| record_path(name).exists()).collect();
        names.sort();
        names
    }

    /// Takes the lab called `name` down: ends every process in its namespaces and removes all that it made. Does nothing
    /// if there is none.
    pub fn down(name: &str) -> Result<()> {
        ready()?;
        let shape = Shape { name: name.to_owned(), nodes: 1, networks: 1, routed: false, queues: 1 };
        shape.check()?;
        // By name, not by record: what a broken `up` left behind must go as well.
        let namespaces: Vec<_> = namespace::names().into_iter().filter(|full| belongs(name, full)).collect();
        namespace::end_processes(&namespaces)?;
        namespaces.iter().try_for_each(|full| namespace::remove(full))?;
        remove_folder(&lab_pins(name))?;
        remove_folder(&lab_folder(name))
    }

    /// Its shape.
    pub fn shape(&self) -> &Shape {
        &self.record.shape
    }

    /// Folder of a node's files: `netft.toml`, `secret`, `control.sock`, `netftd.log`, `state/`.
    pub fn folder(&self, node: &str) -> Result<PathBuf> {
        Ok(config::node_folder(&self.shape().name, self.shape().node(node)?))
    }

    /// Folder of the pins of a node's daemon.
    pub fn pins(&self, node: &str) -> Result<PathBuf> {
        Ok(config::node_pins(&self.shape().name, self.shape().node(node)?))
    }

    fn daemon(&self, id: u32) -> Daemon {
        Daemon::new(self.shape(), id)
    }

    /// The daemon's program.
    pub fn netftd(&self) -> PathBuf {
        self.record.binaries.join("netftd")
    }

    fn netft_path(&self) -> PathBuf {
        self.record.binaries.join("netft")
    }

    fn ports(&self) -> Result<&Ports> {
        if self.ports.get().is_none() {
            // Two threads may both open it; one handle stays.
            let _ = self.ports.set(Ports::open(self.shape())?);
        }
        self.ports.get().context("the switch's ports")
    }

    fn carrier(&self) -> Result<&carrier::Carrier> {
        if self.carrier.get().is_none() {
            let _ = self.carrier.set(carrier::Carrier::open(&self.shape().switch())?);
        }
        self.carrier.get().context("the switch's cables")
    }
}

/// Whether namespace `full` is one that lab `name` makes: `nf-1`'s must not go with `nf`.
fn belongs(name: &str, full: &str) -> bool {
    let Some(host) = full.strip_prefix(name).and_then(|rest| rest.strip_prefix('-')) else { return false };
    let number = host.strip_prefix('n').unwrap_or_default();
    matches!(host, "sw" | "client" | "router")
        || !number.is_empty() && number.bytes().all(|digit| digit.is_ascii_digit())
}

fn record_path(name: &str) -> PathBuf {
    lab_folder(name).join("lab.json")
}

fn no_such_lab(name: &str) -> String {
    let labs = Lab::list();
    match labs.is_empty() {
        true => {
            format!("there is no lab {name}, and no other: make it with `cargo xtask lab up --name {name}`")
        }
        false => format!(
            "there is no lab {name}, only {}: name one with --name, or make it with `cargo xtask lab up --name {name}`",
            labs.join(", ")
        ),
    }
}

fn ready() -> Result<()> {
    ensure!(
        nix::unistd::geteuid().is_root(),
        "the lab makes network namespaces and loads eBPF programs, which needs root: run it as root"
    );
    Ok(())
}

fn mount_bpf() -> Result<()> {
    const FOLDER: &str = "/sys/fs/bpf";
    let _lock = lock::setup_lock()?;
    let mounted = statfs(FOLDER).with_context(|| format!("{FOLDER}: has this kernel no BPF?"))?;
    if mounted.filesystem_type() != BPF_FS_MAGIC {
        mount(Some("bpf"), FOLDER, Some("bpf"), MsFlags::empty(), Some("mode=0700"))
            .with_context(|| format!("the BPF file system can't be mounted on {FOLDER}"))?;
    }
    fs::create_dir_all(config::PINS).with_context(|| format!("{} can't be made", config::PINS))
}

fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("/"))
}

fn binaries_folder() -> PathBuf {
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace().join("target"), PathBuf::from);
    workspace().join(target).join("release")
}

/// Builds netftd and netft, once per process: tests make many labs. [`Lab::up`] does it unless told `--daemon-less`.
pub fn build() -> Result<()> {
    static BUILT: Mutex<bool> = Mutex::new(false);
    let mut built = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
    if *built {
        return Ok(());
    }
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // Together with xtask, because alone netft-userspace gets other features of shared libraries: all built twice.
    let packages = ["-p", "netft-userspace", "-p", "xtask"];
    command.args(["build", "--quiet", "--release", "--bin", "netftd", "--bin", "netft"]).args(packages);
    command.current_dir(workspace());
    let status = command.status().context("cargo can't be started")?;
    ensure!(status.success(), "netftd and netft can't be built: see cargo's messages above");
    let binaries = binaries_folder();
    for name in ["netftd", "netft"] {
        ensure!(binaries.join(name).exists(), "cargo left no {name} in {}", binaries.display());
    }
    *built = true;
    Ok(())
}

fn remove_folder(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("{} can't be removed", folder.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lab_owns_its_namespaces_and_no_other_labs() {
        for own in ["nf-sw", "nf-client", "nf-router", "nf-n1", "nf-n12"] {
            assert!(belongs("nf", own), "{own}");
        }
        for other in ["nf-1-n1", "nf-x", "nf", "nf-n", "nf-net1", "nfx-n1", "other-n1"] {
            assert!(!belongs("nf", other), "{other}");
        }
    }
}
