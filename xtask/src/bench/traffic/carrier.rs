//! What can carry traffic between n1 and n2.
//!
//! Beside the lab's network, on which both daemons run and XDP programs are attached, there is a cable from n1 to n2 that
//! netft leaves alone (role 0).

use super::tunnel::Tunnel;
use crate::bench::detect::bed::Bed;
use crate::bench::frames::switch::{self, Path};
use crate::cluster;
use crate::lab::Lab;
use anyhow::{Context, Result, ensure};
use netft_core::types::Level;
use netft_userspace::engine::DataWay;
use std::cell::Cell;
use std::net::{IpAddr, Ipv4Addr};
use std::process::Command;

/// What may be sent over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Carrier {
    /// The bare cable.
    Cable,
    /// Kernel VXLAN over it.
    Vxlan,
    /// Kernel VXLAN over the network on which netft's XDP programs are attached.
    VxlanBesideXdp,
    /// A tunnel in userspace over the bare cable: a packet per call, no offloads.
    Tunnel,
    /// `netft0`.
    Netft(NetftPath, Level),
}

/// Values of `datapath.path` that are measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NetftPath {
    Socket,
    Xdp,
}

/// Values of `security.level`.
pub(super) const LEVELS: [Level; 3] = [Level::Clear, Level::Signed, Level::Encrypted];

/// All of them, in the order of their turns.
pub(super) fn all() -> Vec<Carrier> {
    let paths = [NetftPath::Socket, NetftPath::Xdp].into_iter();
    let netft = paths.flat_map(|path| LEVELS.into_iter().map(move |level| Carrier::Netft(path, level)));
    [Carrier::Cable, Carrier::Vxlan, Carrier::VxlanBesideXdp, Carrier::Tunnel]
        .into_iter()
        .chain(netft)
        .collect()
}

impl Carrier {
    pub fn name(self) -> String {
        match self {
            Self::Cable => "veth".to_owned(),
            Self::Vxlan => "VXLAN".to_owned(),
            Self::VxlanBesideXdp => "VXLAN beside netft's XDP".to_owned(),
            Self::Tunnel => "tunnel in userspace".to_owned(),
            Self::Netft(path, level) => format!("netft {} {}", path.path().name, level),
        }
    }

    /// Subnet 10.78.n.0/24 of those that aren't netft's.
    const fn subnet(self) -> u8 {
        match self {
            Self::Cable => 1,
            Self::Vxlan => 2,
            Self::VxlanBesideXdp => 3,
            Self::Tunnel => 4,
            Self::Netft(..) => 0,
        }
    }
}

impl NetftPath {
    const fn path(self) -> Path {
        match self {
            Self::Socket => Path { name: "socket", way: DataWay::Socket },
            Self::Xdp => Path { name: "xdp", way: DataWay::Xdp },
        }
    }
}

/// Addresses of n1 and n2.
pub(super) type Ends = [IpAddr; 2];

/// A lab with all of them.
pub(super) struct Carriers {
    bed: Bed,
    netft: Ends,
    path: Cell<Option<NetftPath>>,
    level: Cell<Option<Level>>,
    _tunnel: Tunnel,
}

impl Carriers {
    /// Makes the lab. netft keeps off all that is made beside.
    pub fn make() -> Result<Self> {
        let bed = Bed::make(2, 1, &["network.bench={match=[\"bench*\"], role=0}"])?;
        let lab = &bed.lab;
        let [here, there] = ["n1", "n2"].map(|node| format!("{}-{node}", lab.shape().name));
        let cable =
            format!("link add bench-cable netns {here} type veth peer name bench-cable netns {there}");
        ip(&cable)?;
        for (namespace, own, other) in [(&here, 1, 2), (&there, 2, 1)] {
            let address = |carrier: Carrier, device: &str| {
                ip(&format!("-n {namespace} address add 10.78.{}.{own}/24 dev {device}", carrier.subnet()))?;
                ip(&format!("-n {namespace} link set {device} up"))
            };
            address(Carrier::Cable, "bench-cable")?;
            let vxlan = |device: &str, id: u8, subnet: &str, under: &str| {
                ip(&format!(
                    "-n {namespace} link add {device} mtu 1450 type vxlan id {id} local {subnet}.{own} remote {subnet}.{other} dstport 4789 dev {under}"
                ))
            };
            vxlan("bench-vx", 7, "10.78.1", "bench-cable")?;
            address(Carrier::Vxlan, "bench-vx")?;
            vxlan("bench-vx-xdp", 8, "10.77.1", "net1")?;
            address(Carrier::VxlanBesideXdp, "bench-vx-xdp")?;
        }
        let tunnel = Tunnel::start(lab, "bench-tunnel", [1, 2].map(|id| Ipv4Addr::new(10, 78, 1, id)))?;
        for (namespace, own) in [(&here, 1), (&there, 2)] {
            let subnet = Carrier::Tunnel.subnet();
            ip(&format!("-n {namespace} address add 10.78.{subnet}.{own}/24 dev bench-tunnel"))?;
            ip(&format!("-n {namespace} link set bench-tunnel mtu {} up", Tunnel::MTU))?;
        }
        let netft =
            [cluster::adapter(lab, "n1")?, cluster::adapter(lab, "n2")?].map(|adapter| adapter.ipv4.into());
        Ok(Self { bed, netft, path: Cell::new(None), level: Cell::new(None), _tunnel: tunnel })
    }

    pub fn lab(&self) -> &Lab {
        &self.bed.lab
    }

    /// Has traffic go that way from now on.
    pub fn ready(&self, carrier: Carrier) -> Result<Ends> {
        let Carrier::Netft(path, level) = carrier else {
            return Ok([1, 2].map(|id| Ipv4Addr::new(10, 78, carrier.subnet(), id).into()));
        };
        if self.path.replace(Some(path)) != Some(path) {
            switch::switch(self.lab(), path.path())?;
        }
        if self.level.replace(Some(level)) != Some(level) {
            switch::secure(self.lab(), level)?;
        }
        Ok(self.netft)
    }
}

fn ip(arguments: &str) -> Result<()> {
    let output = Command::new("ip").args(arguments.split_whitespace()).output();
    let output = output.context("ip can't be started: install iproute2")?;
    ensure!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}
