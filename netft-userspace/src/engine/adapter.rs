//! `netft0`: the persistent TAP device with a queue for each data thread, its addresses, the neighbours behind it and the
//! routes to them.

use super::gso::gso_max_size;
use super::neighbours::{NDMSG, NUD_PERMANENT, NUD_STALE, Neighbour};
use crate::rtnl::{
    self, AF_INET, AF_INET6, CREATE_OR_REPLACE, Client, Request, attributes, family_and_bytes, kind, string,
    u32_at,
};
use crate::sys;
use crate::sys::device::{
    Persistence, TapFrames, TapQueues, offload_tap, open_tap, persist_tap, receive_queues,
};

use netft_core::membership::Adapter;
use netft_core::offload::Datagrams;
use netft_core::types::NodeId;
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Why `netft0` isn't as it should be.
#[derive(Debug, thiserror::Error)]
pub enum AdapterError {
    /// The device.
    #[error(
        "cannot make the adapter {name}: {error}; netftd needs CAP_NET_ADMIN and the kernel CONFIG_TUN, and no other program may use {name}"
    )]
    Open {
        /// Its name.
        name: String,
        /// Why.
        error: io::Error,
    },
    /// One of its settings.
    #[error("cannot set {what} of the adapter {name}: {error}")]
    Set {
        /// Its name.
        name: String,
        /// Which.
        what: String,
        /// As the kernel put it.
        error: io::Error,
    },
}

/// Retransmission timer of TCP towards peers, in milliseconds: a lost packet must not cost the default 200.
const RTO_MIN_MS: u32 = 5;
/// Who made our routes (RTPROT_*): an unused number, so that `ip route` shows that they are ours.
const PROTOCOL: u8 = 33;
const RT_TABLE_MAIN: u8 = 254;
const RT_SCOPE_LINK: u8 = 253;
const RTN_UNICAST: u8 = 1;
const IFINFO: usize = crate::netlink::IFINFO;
const IFADDR: usize = 8;
const IFLA_GSO_MAX_SIZE: u16 = 41;

/// The device while the engine runs.
#[derive(Debug)]
pub struct NetAdapter {
    name: String,
    ifindex: u32,
    /// Its queues, in order.
    taps: Vec<Arc<File>>,
    origin: Origin,
    datagrams: Datagrams,
    client: Client,
    identity: Adapter,
    peers: BTreeMap<NodeId, Adapter>,
    /// Routes to peers of an earlier daemon, and when those go that nobody has claimed.
    left: Option<(Vec<Ipv4Addr>, Instant)>,
}

/// Where the device comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Made, or taken over.
    Usual,
    /// Made in place of one with a single queue, as versions before had it.
    Replaced,
}

/// How long the device may be another process's, and between looks.
const BUSY_PATIENCE: Duration = Duration::from_millis(500);
const BUSY_PAUSE: Duration = Duration::from_millis(10);
/// How long peers of an earlier daemon have to say that they are there.
const CLAIM: Duration = Duration::from_secs(10);

impl NetAdapter {
    /// Makes the device, or takes over the one that an earlier daemon left, with its neighbours.
    pub fn open(name: &str, identity: Adapter) -> Result<Self, AdapterError> {
        let open = |error| AdapterError::Open { name: name.to_owned(), error };
        let (tap, origin) = first_queue(name).map_err(open)?;
        let datagrams = offload_tap(&tap).map_err(open)?;
        let mut client = Client::new().map_err(open)?;
        let ifindex = find(&mut client, name).map_err(open)?;
        let mut this = Self {
            name: name.to_owned(),
            ifindex,
            taps: vec![Arc::new(tap)],
            origin,
            datagrams,
            client,
            identity,
            peers: BTreeMap::new(),
            left: None,
        };
        this.left = Some((this.peer_routes(), Instant::now() + CLAIM));
        this.quiet();
        this.doubt_neighbours();
        this.set_identity(identity)?;
        Ok(this)
    }

    /// Makes the device anew after it was removed, as it was.
    pub fn reopen(&mut self) -> Result<(), AdapterError> {
        let mut new = Self::open(&self.name, self.identity)?;
        for (peer, adapter) in &self.peers {
            new.set_peer(*peer, *adapter)?;
        }
        for _ in 1..self.taps.len() {
            new.add_queue()?;
        }
        new.keep()?;
        *self = new;
        Ok(())
    }

    /// Where it comes from.
    pub fn origin(&self) -> Origin {
        self.origin
    }

    /// Whether datagrams of UDP may be merged on their way into it.
    pub fn datagrams(&self) -> Datagrams {
        self.datagrams
    }

    /// Whether somebody removed the device.
    pub fn is_lost(&self) -> bool {
        let mut fds = [sys::poll_in(self.taps[0].as_fd())];
        // What can't be polled isn't there.
        sys::poll(&mut fds, Some(0)).is_err() || fds[0].revents & libc::POLLERR != 0
    }

    /// Descriptors of its queues, in order; at least one.
    pub fn taps(&self) -> &[Arc<File>] {
        &self.taps
    }

    /// One more queue. From now on some of what is sent into the device waits there.
    pub fn add_queue(&mut self) -> Result<Arc<File>, AdapterError> {
        let open = |error| AdapterError::Open { name: self.name.clone(), error };
        let tap = Arc::new(open_tap(&self.name, TapQueues::Multiple, TapFrames::Announced).map_err(open)?);
        self.taps.push(Arc::clone(&tap));
        Ok(tap)
    }

    /// Takes the last queue away; what waits there is lost.
    pub fn remove_queue(&mut self) {
        if self.taps.len() > 1 {
            self.taps.pop();
        }
    }

    /// What it is set to.
    pub fn identity(&self) -> Adapter {
        self.identity
    }

    /// Sets MAC, MTU and addresses, takes other addresses away, and brings the device up.
    pub fn set_identity(&mut self, identity: Adapter) -> Result<(), AdapterError> {
        const IFLA_ADDRESS: u16 = 1;
        const IFLA_MTU: u16 = 4;
        const IFLA_TXQLEN: u16 = 13;
        const IFLA_AF_SPEC: u16 = 26;
        const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;
        const IN6_ADDR_GEN_MODE_NONE: u8 = 1;
        const IFF_UP: u32 = 1;
        // Before it is up, or the kernel makes an fe80 address of its own.
        let quiet = self.link(0).nest(IFLA_AF_SPEC, |spec| {
            spec.nest(AF_INET6.into(), |v6| v6.attribute(IFLA_INET6_ADDR_GEN_MODE, &[IN6_ADDR_GEN_MODE_NONE]))
        });
        // A kernel without IPv6 refuses; then there is no address to prevent.
        let _ = self.client.request(quiet);
        let properties = self
            .link(IFF_UP)
            .attribute(IFLA_ADDRESS, &identity.mac)
            .attribute(IFLA_MTU, &u32::from(identity.mtu).to_ne_bytes())
            .attribute(IFLA_TXQLEN, &1000u32.to_ne_bytes())
            .attribute(IFLA_GSO_MAX_SIZE, &gso_max_size(identity.mtu).to_ne_bytes());
        self.request(properties, || "MAC and MTU".to_owned())?;
        self.identity = identity;

        let wanted = [(IpAddr::from(identity.ipv4), 16u8), (IpAddr::from(identity.ipv6), 64)];
        for (address, prefix) in self.addresses() {
            if !wanted.contains(&(address, prefix)) {
                let request = self.address(kind::DEL_ADDRESS, 0, address, prefix);
                self.request(request, || format!("the removal of {address}"))?;
            }
        }
        for (address, prefix) in wanted {
            let request = self.address(kind::NEW_ADDRESS, CREATE_OR_REPLACE, address, prefix);
            self.request(request, || format!("the address {address}"))?;
        }
        let network = IpAddr::from([0xfe80, 0, 0, 0, 0, 0, 0, 0]);
        let request = self.route(kind::NEW_ROUTE, CREATE_OR_REPLACE, network, 64);
        self.request(request, || format!("the route to {network}/64"))?;
        for adapter in self.peers.clone().into_values() {
            self.install(&adapter)?;
        }
        Ok(())
    }

    /// Sets the MTU alone.
    pub fn set_mtu(&mut self, mtu: u16) -> Result<(), AdapterError> {
        const IFLA_MTU: u16 = 4;
        if self.identity.mtu != mtu {
            let request = self
                .link(0)
                .attribute(IFLA_MTU, &u32::from(mtu).to_ne_bytes())
                .attribute(IFLA_GSO_MAX_SIZE, &gso_max_size(mtu).to_ne_bytes());
            self.request(request, || format!("the MTU {mtu}"))?;
            self.identity.mtu = mtu;
        }
        Ok(())
    }

    /// A peer's adapter: neighbour entries and a route.
    pub fn set_peer(&mut self, peer: NodeId, adapter: Adapter) -> Result<(), AdapterError> {
        if self.peers.get(&peer) == Some(&adapter) {
            return Ok(());
        }
        self.remove_peer(peer);
        self.install(&adapter)?;
        self.peers.insert(peer, adapter);
        Ok(())
    }

    /// It is gone.
    pub fn remove_peer(&mut self, peer: NodeId) {
        let Some(adapter) = self.peers.remove(&peer) else {
            return;
        };
        for address in [IpAddr::from(adapter.ipv4), IpAddr::from(adapter.ipv6)] {
            let neighbour =
                self.neighbour(address, adapter.mac).request(kind::DEL_NEIGHBOUR, 0, NUD_PERMANENT);
            // What isn't there needs no removal.
            let _ = self.client.request(neighbour);
        }
        let route = self.bare_route(kind::DEL_ROUTE, 0, adapter.ipv4.into(), 32);
        let _ = self.client.request(route);
    }

    /// From now on the device outlives this process.
    pub fn keep(&self) -> Result<(), AdapterError> {
        persist_tap(&self.taps[0], Persistence::Keep)
            .map_err(|error| AdapterError::Open { name: self.name.clone(), error })
    }

    /// Removes the device with all that hangs on it, as soon as all descriptors from [`Self::taps`] are closed.
    pub fn remove(self) -> Result<(), AdapterError> {
        persist_tap(&self.taps[0], Persistence::Remove).map_err(|error| AdapterError::Set {
            name: self.name,
            what: "the removal".to_owned(),
            error,
        })
    }

    /// Neighbour entries, so that nothing is ever asked for, and the route. A route per peer, not one to
    /// 169.254.0.0/16: that would take the cloud's metadata service (169.254.169.254) away.
    fn install(&mut self, adapter: &Adapter) -> Result<(), AdapterError> {
        for address in [IpAddr::from(adapter.ipv4), IpAddr::from(adapter.ipv6)] {
            let neighbour = self.neighbour(address, adapter.mac);
            let request = neighbour.request(kind::NEW_NEIGHBOUR, CREATE_OR_REPLACE, NUD_PERMANENT);
            self.request(request, || format!("the neighbour {address}"))?;
        }
        let request = self.route(kind::NEW_ROUTE, CREATE_OR_REPLACE, adapter.ipv4.into(), 32);
        self.request(request, || format!("the route to {}", adapter.ipv4))
    }

    /// Permanent neighbours that an earlier daemon left become stale ones: they go on working, and the kernel checks
    /// and forgets those that nobody confirms.
    fn doubt_neighbours(&mut self) {
        const NDA_DST: u16 = 1;
        const NDA_LLADDR: u16 = 2;
        let ifindex = self.ifindex;
        let mut found = Vec::new();
        for family in [AF_INET, AF_INET6] {
            let mut fixed = [0; NDMSG];
            fixed[0] = family;
            let each = |message: rtnl::Message<'_>| {
                if u32_at(message.payload, 4) != ifindex
                    || rtnl::u16_at(message.payload, 8) & NUD_PERMANENT == 0
                {
                    return;
                }
                let (mut address, mut mac) = (None, None);
                for (kind, value) in attributes(message.payload, NDMSG) {
                    match kind {
                        NDA_DST => address = crate::netlink::ip(value),
                        NDA_LLADDR => mac = <[u8; 6]>::try_from(value).ok(),
                        _ => {}
                    }
                }
                found.extend(address.zip(mac));
            };
            // If it can't be listed, old entries stay as they are.
            let _ = self.client.dump(Request::new(kind::GET_NEIGHBOUR, 0, &fixed), each);
        }
        for (address, mac) in found.into_iter().filter(|(address, _)| !address.is_multicast()) {
            let neighbour = self.neighbour(address, mac);
            let request = neighbour.request(kind::NEW_NEIGHBOUR, CREATE_OR_REPLACE, NUD_STALE);
            let _ = self.client.request(request);
        }
    }

    /// Destinations of our routes to single addresses; none if they can't be listed.
    fn peer_routes(&mut self) -> Vec<Ipv4Addr> {
        const RTA_DST: u16 = 1;
        const RTA_OIF: u16 = 4;
        let (ifindex, mut found) = (self.ifindex, Vec::new());
        let mut fixed = [0; 12];
        fixed[0] = AF_INET;
        let each = |message: rtnl::Message<'_>| {
            let [_, 32, _, _, _, PROTOCOL, ..] = *message.payload else { return };
            let (mut here, mut destination) = (false, None);
            for (kind, value) in attributes(message.payload, fixed.len()) {
                match kind {
                    RTA_DST => destination = <[u8; 4]>::try_from(value).ok(),
                    RTA_OIF => here = u32_at(value, 0) == ifindex,
                    _ => {}
                }
            }
            found.extend(destination.filter(|_| here).map(Ipv4Addr::from));
        };
        let _ = self.client.dump(Request::new(kind::GET_ROUTE, 0, &fixed), each);
        found
    }

    /// Removes what an earlier daemon left for peers that didn't come back. Call now and then.
    pub fn sweep(&mut self) {
        let Some((left, _)) = self.left.take_if(|(_, until)| *until <= Instant::now()) else { return };
        for gone in left {
            if self.peers.values().all(|peer| peer.ipv4 != gone) {
                let _ = self.client.request(self.bare_route(kind::DEL_ROUTE, 0, gone.into(), 32));
            }
        }
    }

    /// No router advertisements, no duplicate address detection: addresses are agreed on by hello. Where a kernel
    /// lacks one of these, there is nothing to switch off.
    fn quiet(&self) {
        for key in ["accept_ra", "accept_dad", "autoconf"] {
            let _ = std::fs::write(format!("/proc/sys/net/ipv6/conf/{}/{key}", self.name), "0");
        }
    }

    /// Addresses that the device has.
    fn addresses(&mut self) -> Vec<(IpAddr, u8)> {
        const IFA_ADDRESS: u16 = 1;
        const IFA_LOCAL: u16 = 2;
        let ifindex = self.ifindex;
        let mut found = Vec::new();
        let each = |message: rtnl::Message<'_>| {
            if u32_at(message.payload, 4) == ifindex {
                let get = |wanted| attributes(message.payload, IFADDR).find(|(kind, _)| *kind == wanted);
                let address = get(IFA_LOCAL).or_else(|| get(IFA_ADDRESS));
                let address = address.and_then(|(_, value)| crate::netlink::ip(value));
                found.extend(address.zip(message.payload.get(1).copied()));
            }
        };
        let _ = self.client.dump(Request::new(kind::GET_ADDRESS, 0, &[0; IFADDR]), each);
        found
    }

    fn request(&mut self, request: Request, what: impl FnOnce() -> String) -> Result<(), AdapterError> {
        self.client.request(request).map_err(|error| AdapterError::Set {
            name: self.name.clone(),
            what: what(),
            error,
        })
    }

    /// RTM_NEWLINK for the device, which sets `flags`.
    fn link(&self, flags: u32) -> Request {
        let mut fixed = [0; IFINFO];
        fixed[4..8].copy_from_slice(&self.ifindex.to_ne_bytes());
        fixed[8..12].copy_from_slice(&flags.to_ne_bytes());
        fixed[12..16].copy_from_slice(&flags.to_ne_bytes());
        Request::new(kind::NEW_LINK, 0, &fixed)
    }

    fn address(&self, kind: u16, flags: u16, address: IpAddr, prefix: u8) -> Request {
        const IFA_ADDRESS: u16 = 1;
        const IFA_LOCAL: u16 = 2;
        const IFA_BROADCAST: u16 = 4;
        const IFA_FLAGS: u16 = 8;
        const NODAD_NOPREFIXROUTE: u32 = 0x02 | 0x200;
        let (family, bytes) = family_and_bytes(address);
        let mut fixed = [0; IFADDR];
        fixed[0] = family;
        fixed[1] = prefix;
        fixed[3] = RT_SCOPE_LINK;
        fixed[4..8].copy_from_slice(&self.ifindex.to_ne_bytes());
        let request = Request::new(kind, flags, &fixed)
            .attribute(IFA_LOCAL, &bytes)
            .attribute(IFA_ADDRESS, &bytes)
            .attribute(IFA_FLAGS, &NODAD_NOPREFIXROUTE.to_ne_bytes());
        if address.is_ipv4() { request.attribute(IFA_BROADCAST, &[169, 254, 255, 255]) } else { request }
    }

    fn neighbour(&self, address: IpAddr, mac: [u8; 6]) -> Neighbour {
        Neighbour { ifindex: self.ifindex, address, mac }
    }

    /// A route to a destination, by nothing but what tells it apart: enough to delete it, whatever else it has.
    fn bare_route(&self, kind: u16, flags: u16, destination: IpAddr, prefix: u8) -> Request {
        const RTA_DST: u16 = 1;
        const RTA_OIF: u16 = 4;
        let (family, bytes) = family_and_bytes(destination);
        let fixed = [family, prefix, 0, 0, RT_TABLE_MAIN, PROTOCOL, RT_SCOPE_LINK, RTN_UNICAST, 0, 0, 0, 0];
        Request::new(kind, flags, &fixed)
            .attribute(RTA_DST, &bytes)
            .attribute(RTA_OIF, &self.ifindex.to_ne_bytes())
    }

    fn route(&self, kind: u16, flags: u16, destination: IpAddr, prefix: u8) -> Request {
        const RTA_PRIORITY: u16 = 6;
        const RTA_PREFSRC: u16 = 7;
        const RTA_METRICS: u16 = 8;
        const RTAX_RTO_MIN: u16 = 13;
        let request = self
            .bare_route(kind, flags, destination, prefix)
            .nest(RTA_METRICS, |metrics| metrics.attribute(RTAX_RTO_MIN, &RTO_MIN_MS.to_ne_bytes()));
        if destination.is_ipv4() {
            request.attribute(RTA_PREFSRC, &self.identity.ipv4.octets())
        } else {
            // Not 256, the metric of the kernel's own fe80::/64 routes: NLM_F_REPLACE picks its victim by prefix and
            // metric alone, so it would take the route of another interface (fib6_add_rt2node, net/ipv6/ip6_fib.c).
            request.attribute(RTA_PRIORITY, &3343u32.to_ne_bytes())
        }
    }
}

/// The first queue of the device. A daemon that was killed may not have let go of it yet.
fn first_queue(name: &str) -> io::Result<(File, Origin)> {
    let deadline = Instant::now() + BUSY_PATIENCE;
    loop {
        match try_first_queue(name) {
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) && Instant::now() < deadline => {
                std::thread::sleep(BUSY_PAUSE);
            }
            other => return other,
        }
    }
}

/// A device that has a single queue takes no second one (EINVAL). It is replaced: its addresses are set anyway, and peers
/// say hello again. Of the other kind anybody may open one more queue, so it must be seen whether somebody else has any.
fn try_first_queue(name: &str) -> io::Result<(File, Origin)> {
    let (tap, origin) = match open_tap(name, TapQueues::Multiple, TapFrames::Announced) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            // EBUSY if somebody uses it. It goes as soon as it is closed.
            persist_tap(&open_tap(name, TapQueues::Single, TapFrames::Bare)?, Persistence::Remove)?;
            (open_tap(name, TapQueues::Multiple, TapFrames::Announced)?, Origin::Replaced)
        }
        tap => (tap?, Origin::Usual),
    };
    if receive_queues(name) > 1 {
        return Err(io::Error::from_raw_os_error(libc::EBUSY));
    }
    Ok((tap, origin))
}

/// The index of the interface `name`.
fn find(client: &mut Client, name: &str) -> io::Result<u32> {
    const IFLA_IFNAME: u16 = 3;
    let mut ifindex = 0;
    client.dump(Request::new(kind::GET_LINK, 0, &[0; IFINFO]), |link| {
        let is_it = |(kind, value): (u16, &[u8])| kind == IFLA_IFNAME && string(value) == name;
        if attributes(link.payload, IFINFO).any(is_it) {
            ifindex = u32_at(link.payload, 4);
        }
    })?;
    if ifindex == 0 { Err(io::Error::from_raw_os_error(libc::ENODEV)) } else { Ok(ifindex) }
}
