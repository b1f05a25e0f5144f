//! What can be done to a lab that exists.

use super::carrier::Cable;
use super::ports::Direction;
use super::shape::{Host, network_name, port_index};
use super::{Daemons, Lab, namespace, remove_folder, topology};
use anyhow::{Context, Result, ensure};
use nix::time::{ClockId, clock_gettime};
use serde_json::Value;
use std::process::{Child, Command, Output, Stdio};

/// Nanoseconds of CLOCK_BOOTTIME just before and just after something took effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Stamps {
    /// Not in effect yet.
    pub before_ns: u64,
    /// In effect.
    pub after_ns: u64,
}

impl Stamps {
    fn around(act: impl FnOnce() -> Result<()>) -> Result<Self> {
        let before_ns = boottime_ns();
        act()?;
        Ok(Self { before_ns, after_ns: boottime_ns() })
    }
}

/// CLOCK_BOOTTIME in nanoseconds: the clock of everything in netft.
pub fn boottime_ns() -> u64 {
    // The clock has existed since Linux 2.6.39.
    clock_gettime(ClockId::CLOCK_BOOTTIME)
        .map_or(0, |time| time.tv_sec().unsigned_abs() * 1_000_000_000 + time.tv_nsec().unsigned_abs())
}

impl Lab {
    /// Makes a path silent without taking the carrier away.
    pub fn cut(&self, host: &str, network: &str, direction: Direction) -> Result<Stamps> {
        let (host, network) = self.path(host, network)?;
        let ports = self.ports()?;
        Stamps::around(|| ports.cut(host, network, direction))
    }

    /// Ends a cut.
    pub fn heal(&self, host: &str, network: &str, direction: Direction) -> Result<Stamps> {
        let (host, network) = self.path(host, network)?;
        let ports = self.ports()?;
        Stamps::around(|| ports.heal(host, network, direction))
    }

    /// Takes the carrier away.
    pub fn unplug(&self, host: &str, network: &str) -> Result<Stamps> {
        self.cable(host, network, Cable::Unplugged)
    }

    /// Gives it back.
    pub fn plug(&self, host: &str, network: &str) -> Result<Stamps> {
        self.cable(host, network, Cable::Plugged)
    }

    fn cable(&self, host: &str, network: &str, cable: Cable) -> Result<Stamps> {
        let (host, network) = self.path(host, network)?;
        let carrier = self.carrier()?;
        Stamps::around(|| carrier.set(port_index(host, network), cable))
    }

    /// SIGKILLs a node's daemon.
    pub fn kill(&self, node: &str) -> Result<Stamps> {
        let daemon = self.daemon(self.shape().node(node)?);
        Stamps::around(|| daemon.kill())
    }

    /// SIGTERMs a node's daemon: a clean stop.
    pub fn stop(&self, node: &str) -> Result<Stamps> {
        let daemon = self.daemon(self.shape().node(node)?);
        Stamps::around(|| daemon.stop())
    }

    /// Starts a node's daemon, as it was built by `up`, and waits until it answers.
    pub fn start(&self, node: &str) -> Result<Stamps> {
        self.start_with(node, &[])
    }

    /// The same, with options for netftd.
    pub fn start_with(&self, node: &str, options: &[&str]) -> Result<Stamps> {
        let daemon = self.daemon(self.shape().node(node)?);
        let netftd = self.netftd();
        ensure!(
            netftd.exists(),
            "there is no {}: `lab up` without --daemon-less builds it, or `cargo build --release -p netft-userspace`",
            netftd.display()
        );
        Stamps::around(|| {
            daemon.spawn(&netftd, options)?;
            daemon.wait_until_it_answers(&self.netft_path())
        })
    }

    /// SIGSTOPs a node's daemon.
    pub fn freeze(&self, node: &str) -> Result<Stamps> {
        let daemon = self.daemon(self.shape().node(node)?);
        Stamps::around(|| daemon.freeze())
    }

    /// SIGCONTs it.
    pub fn thaw(&self, node: &str) -> Result<Stamps> {
        let daemon = self.daemon(self.shape().node(node)?);
        Stamps::around(|| daemon.thaw())
    }

    /// As if the power failed: silences all paths of a node in one step, then SIGKILLs its daemon and removes its
    /// pins and the addresses of VIPs. The stamps are those of the silence.
    pub fn power_off(&self, node: &str) -> Result<Stamps> {
        let id = self.shape().node(node)?;
        let ports = self.ports()?;
        let stamps = Stamps::around(|| ports.silence(Host::Node(id)))?;
        self.daemon(id).kill()?;
        remove_folder(&self.pins(node)?)?;
        // A machine without power has no VIPs' addresses either, and comes back without: netftd adds them as deprecated.
        let host = Host::Node(id);
        let flush = |network| format!("address flush dev {} deprecated\n", network_name(network));
        let lines: String = self.shape().networks_of(host).into_iter().map(flush).collect();
        topology::batch(Some(&self.shape().namespace(host)), &lines)?;
        Ok(stamps)
    }

    /// Gives the paths back and starts the daemon on the same `state/`, unless the lab was made without daemons. Cuts
    /// and unplugged cables stay as they are.
    pub fn power_on(&self, node: &str) -> Result<Stamps> {
        let id = self.shape().node(node)?;
        let ports = self.ports()?;
        let stamps = Stamps::around(|| ports.unsilence(Host::Node(id)))?;
        if self.record.daemons == Daemons::Started {
            self.start(node)?;
        }
        Ok(stamps)
    }

    /// Starts `command` in the namespace of a host.
    pub fn spawn(&self, host: &str, command: &mut Command) -> Result<Child> {
        namespace::spawn(&self.shape().namespace(self.shape().host(host)?), command)
    }

    /// Runs a command in the namespace of a host and collects what it prints. Says nothing about its status.
    pub fn exec<S: AsRef<std::ffi::OsStr>>(&self, host: &str, command: &[S]) -> Result<Output> {
        let (program, arguments) = command.split_first().context("a command is needed")?;
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        self.spawn(host, &mut command)?.wait_with_output().context("the command can't be waited for")
    }

    /// Runs `work` on a thread of its own in the network namespace of a host: the way to make sockets there.
    pub fn enter<T: Send>(&self, host: &str, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        namespace::enter(&self.shape().namespace(self.shape().host(host)?), work)
    }

    /// The same in the switch, where the far ends of all cables are.
    pub fn enter_switch<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        namespace::enter(&self.shape().switch(), work)
    }

    /// The command `netft` for a node's daemon, ready for arguments.
    pub fn netft_command(&self, node: &str) -> Result<Command> {
        let daemon = self.daemon(self.shape().node(node)?);
        let mut command = Command::new(self.netft_path());
        command.env("NETFT_SOCKET", daemon.socket());
        Ok(command)
    }

    /// Runs `netft` for a node and collects what it prints. Says nothing about its status.
    pub fn netft(&self, node: &str, arguments: &[&str]) -> Result<Output> {
        let mut command = self.netft_command(node)?;
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        self.spawn(node, &mut command)?.wait_with_output().context("netft can't be waited for")
    }

    /// Runs `netft … --json` for a node; its failure is an error.
    pub fn netft_json(&self, node: &str, arguments: &[&str]) -> Result<Value> {
        let arguments = [arguments, &["--json"]].concat();
        let output = self.netft(node, &arguments)?;
        let told = String::from_utf8_lossy(&output.stderr);
        let line = arguments.join(" ");
        ensure!(output.status.success(), "netft {line} on {node} failed: {}", told.trim());
        serde_json::from_slice(&output.stdout)
            .with_context(|| format!("netft {line} on {node} didn't print JSON"))
    }

    fn path(&self, host: &str, network: &str) -> Result<(Host, u32)> {
        let host = self.shape().host(host)?;
        Ok((host, self.shape().network(host, network)?))
    }
}
