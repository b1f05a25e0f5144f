//! What several tests need.

use anyhow::{Context, Result};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};
use xtask::lab::{Lab, LabGuard, Options};

/// Options of a lab that only the caller has.
pub fn options(nodes: u32, networks: u32) -> Options {
    Options::new(&LabGuard::unique_name("test"), nodes, networks)
}

/// A lab without daemons.
pub fn bare_lab(nodes: u32, networks: u32) -> LabGuard {
    LabGuard::up(&options(nodes, networks).daemon_less()).expect("the lab comes up")
}

/// Sends datagrams from one host to an address of another until one arrives or `limit` has passed: says whether frames
/// get there, and nothing about the way back.
pub fn delivers(lab: &Lab, from: &str, to: &str, address: &str, limit: Duration) -> Result<bool> {
    let address: IpAddr = address.parse().context("address")?;
    let receiver = lab.enter(to, || Ok(UdpSocket::bind(SocketAddr::new(address, 0))?))?;
    receiver.set_read_timeout(Some(Duration::from_millis(10)))?;
    let target = receiver.local_addr()?;
    let any: IpAddr = if address.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
    let sender = lab.enter(from, || Ok(UdpSocket::bind(SocketAddr::new(any, 0))?))?;
    let deadline = Instant::now() + limit;
    while Instant::now() < deadline {
        // While a path is unplugged or unresolved, the kernel may say so here: then nothing arrives either.
        let _ = sender.send_to(b"x", target);
        if receiver.recv(&mut [0; 16]).is_ok() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether frames arrive; gives them the time that a busy machine may need.
pub fn arrives(lab: &Lab, from: &str, to: &str, address: &str) -> bool {
    delivers(lab, from, to, address, Duration::from_secs(5)).expect("sockets work")
}

/// Whether nothing arrives for as long as many a frame would need.
pub fn is_silent(lab: &Lab, from: &str, to: &str, address: &str) -> bool {
    !delivers(lab, from, to, address, Duration::from_millis(150)).expect("sockets work")
}
