//! What the kernel says of interfaces: a snapshot of the usable ones, again whenever something changes.

use crate::rtnl::{self, Client, Request, attributes, kind, string, u32_at};
use crate::sys;
use netft_core::membership::Interface;
use netft_core::types::{InterfaceNumber, LinkState, Nanos};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::Instant;

/// Why the kernel's interface list couldn't be had.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// The socket couldn't be made.
    #[error(
        "cannot open a netlink socket: {0}; netftd needs the address family AF_NETLINK (systemd: RestrictAddressFamilies)"
    )]
    Open(io::Error),
    /// A dump failed.
    #[error("cannot list {what} by netlink: {error}")]
    Dump {
        /// What was listed.
        what: &'static str,
        /// As the kernel put it.
        error: io::Error,
    },
}

/// RTMGRP_LINK.
pub(crate) const GROUP_LINK: u32 = 1;
/// RTMGRP_IPV4_IFADDR | RTMGRP_IPV4_ROUTE | RTMGRP_IPV6_IFADDR | RTMGRP_IPV6_ROUTE.
const GROUPS_ADDRESS_AND_ROUTE: u32 = 0x10 | 0x40 | 0x100 | 0x400;
/// Sizes of the fixed parts.
pub(crate) const IFINFO: usize = 16;
const IFADDR: usize = 8;
const RTMSG: usize = 12;
/// Changes come in bursts (a link going up makes a dozen messages): wait this long for more before listing.
const SETTLE: Duration = Duration::from_millis(5);
/// Listed again this long after the last time, also if no change was told: a notification may be lost.
const RELIST: Duration = Duration::from_secs(2);

/// The usable interfaces as the kernel has them.
#[derive(Clone, Debug)]
pub struct Listing {
    /// Sorted by number.
    pub interfaces: Vec<Interface>,
    /// Whether they differ from those of the listing before.
    pub changed: bool,
    /// When the kernel was asked, boottime: what it told earlier is in it.
    pub at_ns: Nanos,
}

/// Watches links, addresses and default routes of the network namespace it was made in. Control thread only.
///
/// Numbers of interfaces are stable: an interface keeps its number also over its removal and return under the same
/// name, until all numbers have been given away.
#[derive(Debug)]
pub struct Monitor {
    events: AsyncFd<Arc<OwnedFd>>,
    client: Client,
    skip: Vec<String>,
    numbers: BTreeMap<String, InterfaceNumber>,
    default_routes: Option<BTreeSet<u32>>,
    last: Option<Vec<Interface>>,
    /// When to list next: kept here, so that a dropped future doesn't begin to wait anew.
    due: Instant,
    buffer: Vec<u8>,
}

impl Monitor {
    /// Opens the sockets in the calling thread's network namespace. Must be called within a tokio runtime.
    /// `skip` are names of interfaces that are never usable (`netft0`).
    pub fn new(skip: Vec<String>) -> Result<Self, NetlinkError> {
        let events = sys::netlink::open(GROUP_LINK | GROUPS_ADDRESS_AND_ROUTE).map_err(NetlinkError::Open)?;
        Ok(Self {
            events: sys::register(Arc::new(events)).map_err(NetlinkError::Open)?,
            client: Client::new().map_err(NetlinkError::Open)?,
            skip,
            numbers: BTreeMap::new(),
            default_routes: None,
            last: None,
            due: Instant::now(),
            buffer: vec![0; 1 << 16],
        })
    }

    /// The usable interfaces: at once on the first call, then soon after each change, and every 2 s.
    /// Dropping the future loses nothing.
    pub async fn next(&mut self) -> Result<Listing, NetlinkError> {
        if tokio::time::timeout_at(self.due, self.events.readable()).await.is_ok() {
            self.due = self.due.min(Instant::now() + SETTLE);
            tokio::time::sleep_until(self.due).await;
        }
        self.drain();
        let at_ns = sys::boottime();
        // Also after a failure, or it would be tried again without end.
        self.due = Instant::now() + RELIST;
        let interfaces = self.snapshot()?;
        let changed = self.last.as_ref() != Some(&interfaces);
        if changed {
            self.last = Some(interfaces.clone());
        }
        Ok(Listing { interfaces, changed, at_ns })
    }

    /// Takes all pending notifications; only what they say about default routes matters, the rest is listed anew.
    fn drain(&mut self) {
        loop {
            let buffer = &mut self.buffer;
            let receive = |fd: &Arc<OwnedFd>| sys::netlink::receive(fd.as_fd(), buffer);
            match self.events.try_io(Interest::READABLE, receive) {
                Ok(length) => {
                    let about_default = |m: rtnl::Message<'_>| {
                        matches!(m.kind, kind::NEW_ROUTE | kind::DEL_ROUTE) && m.payload.get(1) == Some(&0)
                    };
                    if rtnl::messages(&self.buffer[..length]).any(about_default) {
                        self.default_routes = None;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // ENOBUFS: some were lost.
                Err(_) => self.default_routes = None,
            }
        }
    }

    fn snapshot(&mut self) -> Result<Vec<Interface>, NetlinkError> {
        if self.default_routes.is_none() {
            self.default_routes = Some(default_routes(&mut self.client)?);
        }
        let mut addresses = addresses(&mut self.client)?;
        let mut links = links(&mut self.client)?;
        links.retain(|link| link.usable && !self.skip.contains(&link.name));
        if self.numbers.len() >= usize::from(InterfaceNumber::LIMIT) {
            // Machines with containers see many names come and go.
            self.numbers.retain(|name, _| links.iter().any(|link| link.name == *name));
        }
        let mut interfaces = Vec::new();
        for link in links {
            let addresses = addresses.remove(&link.ifindex).unwrap_or_default();
            // The kernel takes IPv6 addresses off an interface that is taken down; if it was in use, it still is.
            let was_used = link.state == LinkState::AdminDown && self.numbers.contains_key(&link.name);
            if addresses.is_empty() && !was_used {
                continue;
            }
            let Some(number) = self.number(&link.name) else {
                continue;
            };
            interfaces.push(Interface {
                number,
                ifindex: link.ifindex,
                speed_mbps: sys::device::link_speed_mbps(&link.name),
                mac: link.mac,
                mtu: link.mtu,
                link: link.state,
                default_route: self
                    .default_routes
                    .as_ref()
                    .is_some_and(|routes| routes.contains(&link.ifindex)),
                rss: link.receive_queues > 1,
                rdma: false,
                addresses,
                name: link.name,
            });
        }
        interfaces.sort_by_key(|interface| interface.number);
        Ok(interfaces)
    }

    /// The number of an interface: the one it had, else the lowest that nobody has, else (64 interfaces in use) none.
    fn number(&mut self, name: &str) -> Option<InterfaceNumber> {
        if let Some(number) = self.numbers.get(name) {
            return Some(*number);
        }
        let taken: BTreeSet<u8> = self.numbers.values().map(|number| number.get()).collect();
        let number =
            (0..InterfaceNumber::LIMIT).find(|n| !taken.contains(n)).and_then(InterfaceNumber::new)?;
        self.numbers.insert(name.to_owned(), number);
        Some(number)
    }
}

/// Index and name of every interface that speaks Ethernet, and of `lo`.
///
/// # Errors
/// As the kernel put it.
pub fn ethernet() -> Result<Vec<(u32, String)>, NetlinkError> {
    const ARPHRD_ETHER_AND_LOOPBACK: [u16; 2] = [1, 772];
    const IFLA_IFNAME: u16 = 3;
    let mut client = Client::new().map_err(NetlinkError::Open)?;
    let mut found = Vec::new();
    let each = |message: rtnl::Message<'_>| {
        let mut attributes = attributes(message.payload, IFINFO);
        let name = attributes.find(|(kind, _)| *kind == IFLA_IFNAME).map(|(_, name)| string(name));
        if let Some(name) =
            name.filter(|_| ARPHRD_ETHER_AND_LOOPBACK.contains(&rtnl::u16_at(message.payload, 2)))
        {
            found.push((u32_at(message.payload, 4), name));
        }
    };
    let request = Request::new(kind::GET_LINK, 0, &[0; IFINFO]);
    client.dump(request, each).map_err(|error| NetlinkError::Dump { what: "interfaces", error })?;
    Ok(found)
}

/// State of a link from its `ifi_flags`.
pub(crate) fn link_state(flags: u32) -> LinkState {
    const UP: u32 = 1;
    const LOWER_UP: u32 = 1 << 16;
    match (flags & UP != 0, flags & LOWER_UP != 0) {
        (false, _) => LinkState::AdminDown,
        (true, false) => LinkState::NoCarrier,
        (true, true) => LinkState::Up,
    }
}

struct Link {
    ifindex: u32,
    name: String,
    mac: [u8; 6],
    mtu: u32,
    state: LinkState,
    receive_queues: u32,
    /// Ethernet, and not a tunnel end in userspace.
    usable: bool,
}

fn links(client: &mut Client) -> Result<Vec<Link>, NetlinkError> {
    const ARPHRD_ETHER: u16 = 1;
    const IFLA_ADDRESS: u16 = 1;
    const IFLA_IFNAME: u16 = 3;
    const IFLA_MTU: u16 = 4;
    const IFLA_LINKINFO: u16 = 18;
    const IFLA_INFO_KIND: u16 = 1;
    const IFLA_NUM_RX_QUEUES: u16 = 32;
    let mut links = Vec::new();
    let request = Request::new(kind::GET_LINK, 0, &[0; IFINFO]);
    let each = |message: rtnl::Message<'_>| {
        let mut link = Link {
            ifindex: u32_at(message.payload, 4),
            name: String::new(),
            mac: [0; 6],
            mtu: 0,
            state: link_state(u32_at(message.payload, 8)),
            receive_queues: 1,
            usable: rtnl::u16_at(message.payload, 2) == ARPHRD_ETHER,
        };
        for (kind, value) in attributes(message.payload, IFINFO) {
            match kind {
                IFLA_ADDRESS => link.mac = value.try_into().unwrap_or_default(),
                IFLA_IFNAME => link.name = string(value),
                IFLA_MTU => link.mtu = u32_at(value, 0),
                IFLA_NUM_RX_QUEUES => link.receive_queues = u32_at(value, 0),
                IFLA_LINKINFO => {
                    let tunnel =
                        |(kind, value): (u16, &[u8])| kind == IFLA_INFO_KIND && string(value) == "tun";
                    link.usable &= !attributes(value, 0).any(tunnel);
                }
                _ => {}
            }
        }
        links.push(link);
    };
    client.dump(request, each).map_err(|error| NetlinkError::Dump { what: "interfaces", error })?;
    Ok(links)
}

/// Addresses that can be endpoints, by interface: no link-local ones, none that the kernel doesn't use yet or any more
/// (duplicate address detection), and no secondary ones (virtual and privacy addresses come and go).
fn addresses(client: &mut Client) -> Result<BTreeMap<u32, Vec<(IpAddr, u8)>>, NetlinkError> {
    const IFA_ADDRESS: u16 = 1;
    const IFA_LOCAL: u16 = 2;
    const IFA_FLAGS: u16 = 8;
    const SECONDARY_DADFAILED_DEPRECATED_TENTATIVE: u32 = 0x01 | 0x08 | 0x20 | 0x40;
    let mut found: BTreeMap<u32, Vec<(IpAddr, u8)>> = BTreeMap::new();
    let request = Request::new(kind::GET_ADDRESS, 0, &[0; IFADDR]);
    let each = |message: rtnl::Message<'_>| {
        let [_, prefix, flags, ..] = *message.payload else {
            return;
        };
        let (mut address, mut local, mut flags) = (None, None, u32::from(flags));
        for (kind, value) in attributes(message.payload, IFADDR) {
            match kind {
                IFA_ADDRESS => address = ip(value),
                IFA_LOCAL => local = ip(value),
                IFA_FLAGS => flags = u32_at(value, 0),
                _ => {}
            }
        }
        let usable = |address: &IpAddr| match address {
            IpAddr::V4(v4) => !v4.is_link_local() && !v4.is_loopback(),
            IpAddr::V6(v6) => !v6.is_unicast_link_local() && !v6.is_loopback(),
        };
        if flags & SECONDARY_DADFAILED_DEPRECATED_TENTATIVE == 0
            && let Some(address) = local.or(address).filter(usable)
        {
            found.entry(u32_at(message.payload, 4)).or_default().push((address, prefix));
        }
    };
    client.dump(request, each).map_err(|error| NetlinkError::Dump { what: "addresses", error })?;
    found.values_mut().for_each(|addresses| addresses.sort());
    Ok(found)
}

/// Interfaces by which a default route of the main table leaves.
fn default_routes(client: &mut Client) -> Result<BTreeSet<u32>, NetlinkError> {
    const RT_TABLE_MAIN: u8 = 254;
    const RTN_UNICAST: u8 = 1;
    const RTA_OIF: u16 = 4;
    const RTA_MULTIPATH: u16 = 9;
    let mut found = BTreeSet::new();
    let request = Request::new(kind::GET_ROUTE, 0, &[0; RTMSG]);
    let each = |message: rtnl::Message<'_>| {
        let [_, destination_length, _, _, table, _, _, route_type, ..] = *message.payload else {
            return;
        };
        if (destination_length, table, route_type) != (0, RT_TABLE_MAIN, RTN_UNICAST) {
            return;
        }
        for (kind, value) in attributes(message.payload, RTMSG) {
            match kind {
                RTA_OIF => {
                    found.insert(u32_at(value, 0));
                }
                RTA_MULTIPATH => {
                    // struct rtnexthop { len: u16, flags, hops, ifindex: i32 } and its attributes, repeated.
                    let mut hops = value;
                    while hops.len() >= 8 {
                        found.insert(u32_at(hops, 4));
                        hops = hops.get(usize::from(rtnl::u16_at(hops, 0)).max(8)..).unwrap_or_default();
                    }
                }
                _ => {}
            }
        }
    };
    client.dump(request, each).map_err(|error| NetlinkError::Dump { what: "routes", error })?;
    Ok(found)
}

/// An attribute that is an address.
pub(crate) fn ip(value: &[u8]) -> Option<IpAddr> {
    match value.len() {
        4 => <[u8; 4]>::try_from(value).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(value).ok().map(IpAddr::from),
        _ => None,
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
