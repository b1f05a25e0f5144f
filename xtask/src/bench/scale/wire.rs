//! The wire between the node and all its peers: one veth pair, and everybody's addresses.

use crate::lab::{Host, Lab};
use anyhow::{Context, Result, ensure};
use std::io::Write;
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};

/// Its device, at either end.
pub(super) const DEVICE: &str = "scale";
/// MAC of the far end: all peers'.
pub(super) const FAR_MAC: [u8; 6] = [0x02, 0, 0, 0, 0x5c, 2];

/// Address of node `id`; 1 is the one that is measured, peers count from 2.
pub(super) fn address(id: u16) -> Ipv4Addr {
    let [high, low] = id.to_be_bytes();
    Ipv4Addr::new(10, 90, high, low)
}

/// Lays it between n1 and n2, with `peers` neighbours. Nobody has to ask for one.
pub(super) fn lay(lab: &Lab, peers: u16) -> Result<()> {
    let [near, far] = [1, 2].map(|node| lab.shape().namespace(Host::Node(node)));
    let mac = FAR_MAC.map(|byte| format!("{byte:02x}")).join(":");
    ip(&["link", "add", DEVICE, "netns", &near, "type", "veth", "peer", "name", DEVICE, "netns", &far], "")?;
    ip(&["-n", &far, "link", "set", DEVICE, "address", &mac, "up"], "")?;
    ip(&["-n", &near, "address", "add", &format!("{}/16", address(1)), "dev", DEVICE], "")?;
    ip(&["-n", &near, "link", "set", DEVICE, "up"], "")?;
    let neighbours: String = (2..2 + peers)
        .map(|id| format!("neighbour add {} lladdr {mac} dev {DEVICE} nud permanent\n", address(id)))
        .collect();
    ip(&["-n", &near, "-batch", "-"], &neighbours)
}

/// Takes it away.
pub(super) fn remove(lab: &Lab) -> Result<()> {
    ip(&["-n", &lab.shape().namespace(Host::Node(1)), "link", "delete", DEVICE], "")
}

fn ip(arguments: &[&str], input: &str) -> Result<()> {
    let mut child = Command::new("ip")
        .args(arguments)
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("running ip (iproute2)")?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes()).context("telling ip what to do")?;
    }
    let output = child.wait_with_output().context("waiting for ip")?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "`ip {}` failed: {}", arguments.join(" "), complaint.trim());
    Ok(())
}
