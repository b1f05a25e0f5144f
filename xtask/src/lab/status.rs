//! What there is, and what is broken.

use super::carrier::Cable;
use super::process::State;
use super::shape::{Host, ipv4, network_name, port_index};
use super::{Daemons, Lab};
use anyhow::Result;
use serde::Serialize;
use std::fmt;

/// A lab as it is now.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    /// Its name.
    pub name: String,
    /// How many networks.
    pub networks: u32,
    /// Whether a router stands between two halves.
    pub routed: bool,
    /// Every host, nodes first.
    pub hosts: Vec<HostStatus>,
}

/// One host.
#[derive(Clone, Debug, Serialize)]
pub struct HostStatus {
    /// Its name in commands.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// Its daemon; `None` for the client and the router, and in a lab made without daemons until one is started.
    pub daemon: Option<State>,
    /// The daemon's process.
    pub pid: Option<i32>,
    /// Silenced by `power-off`.
    pub powered_off: bool,
    /// Its interfaces.
    pub paths: Vec<PathStatus>,
}

/// One interface of a host.
#[derive(Clone, Debug, Serialize)]
pub struct PathStatus {
    /// Network, and name of the interface.
    pub network: String,
    /// Its IPv4 address.
    pub address: String,
    /// What the host transmits is lost.
    pub cut_tx: bool,
    /// What the host would receive is lost.
    pub cut_rx: bool,
    /// No carrier.
    pub unplugged: bool,
}

impl Lab {
    /// Looks at everything.
    pub fn status(&self) -> Result<Status> {
        let shape = self.shape();
        let hosts = shape.hosts().into_iter().map(|host| self.host_status(host)).collect::<Result<_>>()?;
        Ok(Status { name: shape.name.clone(), networks: shape.networks, routed: shape.routed, hosts })
    }

    fn host_status(&self, host: Host) -> Result<HostStatus> {
        let shape = self.shape();
        let (daemon, pid) = match host {
            Host::Node(id) => match self.daemon(id).state() {
                (State::Dead, _) if self.record.daemons == Daemons::None => (None, None),
                (state, pid) => (Some(state), pid),
            },
            Host::Client | Host::Router => (None, None),
        };
        let paths = shape.networks_of(host).into_iter().map(|network| self.path_status(host, network));
        Ok(HostStatus {
            name: host.name(),
            namespace: shape.namespace(host),
            daemon,
            pid,
            powered_off: self.ports()?.silenced(host)?,
            paths: paths.collect::<Result<_>>()?,
        })
    }

    fn path_status(&self, host: Host, network: u32) -> Result<PathStatus> {
        let loss = self.ports()?.loss(host, network)?;
        Ok(PathStatus {
            network: network_name(network),
            address: ipv4(network, host.number()),
            cut_tx: loss.tx,
            cut_rx: loss.rx,
            unplugged: self.carrier()?.get(port_index(host, network))? == Cable::Unplugged,
        })
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let routed = if self.routed { ", routed" } else { "" };
        writeln!(f, "lab {}: {} networks{routed}", self.name, self.networks)?;
        writeln!(f, "{:<8} {:<16} {:<12} paths", "host", "namespace", "netftd")?;
        self.hosts.iter().try_for_each(|host| writeln!(f, "{host}"))
    }
}

impl fmt::Display for HostStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let daemon = match (self.powered_off, self.daemon) {
            (true, _) => "powered off".to_owned(),
            (false, Some(State::Running)) => self.pid.map_or_else(String::new, |pid| format!("pid {pid}")),
            (false, Some(State::Frozen)) => "frozen".to_owned(),
            (false, Some(State::Dead)) => "dead".to_owned(),
            (false, None) => "-".to_owned(),
        };
        let paths: Vec<_> = self.paths.iter().map(ToString::to_string).collect();
        write!(f, "{:<8} {:<16} {daemon:<12} {}", self.name, self.namespace, paths.join(", "))
    }
}

impl fmt::Display for PathStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.network, self.address)?;
        match (self.cut_tx, self.cut_rx) {
            (true, true) => write!(f, " [cut]")?,
            (true, false) => write!(f, " [cut tx]")?,
            (false, true) => write!(f, " [cut rx]")?,
            (false, false) => {}
        }
        if self.unplugged {
            write!(f, " [unplugged]")?;
        }
        Ok(())
    }
}
