//! What lies between n1 and n2.

use crate::lab::{Host, Lab};
use anyhow::{Context, Result, ensure};
use nix::ifaddrs::getifaddrs;
use std::net::{IpAddr, Ipv4Addr};
use std::process::Command;

/// The way between the two ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wire {
    /// One veth pair: nothing but the two ends takes time.
    Direct,
    /// The lab's network: two veth pairs, a program at each of the switch's ports, and a bridge.
    Switched,
}

impl Wire {
    /// Its device at either end.
    pub fn device(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Switched => "net1",
        }
    }

    /// Address of node `node` on it.
    pub fn address(self, node: u8) -> IpAddr {
        match self {
            Self::Direct => Ipv4Addr::new(10, 78, 0, node).into(),
            Self::Switched => Ipv4Addr::new(10, 77, 1, node).into(),
        }
    }

    /// Lays it, if it isn't part of the lab. It goes with the lab's namespaces.
    pub fn lay(self, lab: &Lab) -> Result<()> {
        if self == Self::Switched {
            return Ok(());
        }
        let [first, second] = [1, 2].map(|node| lab.shape().namespace(Host::Node(node)));
        let device = self.device();
        ip(&format!("link add {device} netns {first} type veth peer name {device} netns {second}"))?;
        for (namespace, node) in [(first, 1), (second, 2)] {
            ip(&format!("-n {namespace} addr add {}/24 dev {device}", self.address(node)))?;
            ip(&format!("-n {namespace} link set {device} up"))?;
        }
        // While AF_XDP has the wire nobody answers ARP.
        for (node, other) in [(1, 2), (2, 1)] {
            let namespace = lab.shape().namespace(Host::Node(node));
            let other = u8::try_from(other)?;
            let mac = self.mac(lab, other)?.map(|byte| format!("{byte:02x}")).join(":");
            let address = self.address(other);
            ip(&format!("-n {namespace} neigh replace {address} lladdr {mac} dev {device} nud permanent"))?;
        }
        Ok(())
    }

    /// MAC of node `node` on it.
    pub fn mac(self, lab: &Lab, node: u8) -> Result<[u8; 6]> {
        let device = self.device();
        let mac = lab.enter(&format!("n{node}"), || {
            let mut entries = getifaddrs().context("listing interfaces")?;
            Ok(entries.find_map(|entry| {
                (entry.interface_name == device).then(|| entry.address?.as_link_addr()?.addr()).flatten()
            }))
        })?;
        mac.with_context(|| format!("{device} of n{node} has no MAC"))
    }
}

fn ip(arguments: &str) -> Result<()> {
    let output = Command::new("ip").args(arguments.split(' ')).output().context("running ip (iproute2)")?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "`ip {arguments}` failed: {}", complaint.trim());
    Ok(())
}
