//! The thread that adds and removes VIPs' addresses and sends claims: netlink may take its time, and consensus doesn't wait for
//! it. It does what it is told in order. The fence is open before an address is added, and closed before it is removed.

use super::claims::{REPEATS_NS, frames};
use super::hands::{SharedBook, lock};
use super::kept::{Addresses, store_addresses};
use super::places::{Spot, place};
use super::{Tell, Told};
use crate::rtnl::{self, Client, Request, attributes, kind};
use crate::sys;
use netft_core::ownership::{VipAddress, VipId};
use netft_core::types::Nanos;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

/// Looks whether everything is as it should be, this often: others remove addresses, too, or the kernel does with a link.
const LOOK_NS: Nanos = 2_000_000_000;
/// Claims are sent again this often while nothing happens.
const REFRESH_NS: Nanos = 10_000_000_000;

/// What there is to do.
pub enum Job {
    /// Remember for the next start that these may be on interfaces.
    Keep(Addresses),
    /// This node has taken the VIP: add its addresses, and claim them.
    Take(VipId),
    /// It has released it: remove them.
    Release(VipId),
    /// This node's interfaces.
    Spots(Vec<Spot>),
    /// Answer when everything before is done.
    Wait(mpsc::Sender<()>),
}

/// To the thread. It ends when the last of these is gone.
#[derive(Clone)]
pub struct Jobs(mpsc::Sender<Job>);

impl Jobs {
    /// To be done in its turn.
    pub fn send(&self, job: Job) {
        // It ends after all of these, or with the process.
        let _ = self.0.send(job);
    }

    /// Returns when everything that was sent is done.
    pub fn wait(&self) {
        let (done, waiting) = mpsc::channel();
        self.send(Job::Wait(done));
        let _ = waiting.recv();
    }
}

/// Starts the thread, in the network namespace of the caller.
pub fn start(book: SharedBook, folder: PathBuf, tell: Tell) -> io::Result<(Jobs, JoinHandle<()>)> {
    let (jobs, queue) = mpsc::channel();
    let worker = Worker {
        book,
        folder,
        tell,
        client: Client::new()?,
        socket: sys::packet::open()?,
        spots: Vec::new(),
        placed: BTreeMap::new(),
        claims: BTreeMap::new(),
        kept: None,
        unplaced: BTreeSet::new(),
        look_ns: 0,
        refresh_ns: 0,
    };
    let thread =
        std::thread::Builder::new().name("netft-addresses".into()).spawn(move || worker.run(&queue))?;
    Ok((Jobs(jobs), thread))
}

/// An address as it is on an interface.
type Placed = (u32, u8);

struct Worker {
    book: SharedBook,
    folder: PathBuf,
    tell: Tell,
    client: Client,
    socket: OwnedFd,
    spots: Vec<Spot>,
    /// VIPs' addresses that are on interfaces: index and prefix length.
    placed: BTreeMap<IpAddr, Placed>,
    /// Claims to come: VIP, which repetition.
    claims: BTreeMap<(Nanos, VipId), usize>,
    /// As it is on disk.
    kept: Option<Addresses>,
    /// VIPs for which there is no interface, as far as that was said.
    unplaced: BTreeSet<VipId>,
    look_ns: Nanos,
    refresh_ns: Nanos,
}

impl Worker {
    fn run(mut self, queue: &mpsc::Receiver<Job>) {
        let _abort = crate::engine::AbortOnPanic;
        // What is urgent mustn't wait behind the rest of the machine.
        let _ = sys::schedule_ordinary(-10);
        loop {
            let now = sys::boottime();
            let next_ns =
                self.claims.keys().next().map_or(self.look_ns, |(at_ns, _)| *at_ns).min(self.look_ns);
            let job = queue.recv_timeout(Duration::from_nanos(next_ns.saturating_sub(now)));
            match job {
                Ok(job) => self.work(job),
                Err(mpsc::RecvTimeoutError::Timeout) => (),
                Err(mpsc::RecvTimeoutError::Disconnected) => return,
            }
            self.claim_what_is_due();
            if sys::boottime() >= self.look_ns {
                self.look();
            }
        }
    }

    fn work(&mut self, job: Job) {
        match job {
            Job::Keep(addresses) => {
                if self.kept.as_ref() != Some(&addresses) {
                    match store_addresses(&self.folder, &addresses) {
                        Ok(()) => self.kept = Some(addresses),
                        Err(error) => self.warn(error.to_string()),
                    }
                }
            }
            Job::Take(vip) => self.take(vip),
            Job::Release(vip) => self.release(vip),
            Job::Spots(spots) => {
                self.spots = spots;
                self.look();
            }
            Job::Wait(done) => drop(done.send(())),
        }
    }

    fn warn(&self, text: String) {
        self.tell.send(Told::Warning(text));
    }

    /// A VIP's addresses, each with where it belongs.
    fn places(&self, vip: VipId) -> Option<Vec<(VipAddress, Option<Spot>)>> {
        let book = lock(&self.book);
        let settings = book.settings(vip)?;
        let network = settings.network_name.as_deref();
        let spot = |address: &VipAddress| (*address, place(&self.spots, address, network).cloned());
        Some(settings.addresses.iter().map(spot).collect())
    }

    fn take(&mut self, vip: VipId) {
        if !lock(&self.book).owns(vip) {
            return;
        }
        for (address, spot) in self.places(vip).unwrap_or_default() {
            let Some(spot) = spot else {
                if self.unplaced.insert(vip) {
                    self.warn(format!(
                        "{address} has nowhere to be: no interface of this node that is up and fenced has its subnet"
                    ));
                }
                continue;
            };
            self.unplaced.remove(&vip);
            self.add(address, &spot);
        }
        self.claim(vip);
        let now = sys::boottime();
        self.claims.retain(|(_, other), _| *other != vip);
        self.claims
            .extend(REPEATS_NS.iter().enumerate().map(|(index, after_ns)| ((now + after_ns, vip), index)));
    }

    fn add(&mut self, vip: VipAddress, spot: &Spot) {
        let placed = (spot.ifindex, vip.prefix_len);
        match self.placed.get(&vip.address) {
            Some(known) if *known == placed => return,
            Some(_) => self.remove(vip.address),
            None => (),
        }
        match self.client.request(add_request(vip, spot.ifindex)) {
            Ok(()) => {
                self.placed.insert(vip.address, placed);
                self.tell.send(Told::Address {
                    address: vip,
                    interface: spot.interface.clone(),
                    added: true,
                });
            }
            Err(error) => self
                .warn(format!("{vip} can't be added to {}: {error}; tried again every 2 s", spot.interface)),
        }
    }

    fn release(&mut self, vip: VipId) {
        let addresses = lock(&self.book).addresses().get(&vip).cloned().unwrap_or_default();
        self.claims.retain(|(_, other), _| *other != vip);
        self.unplaced.remove(&vip);
        for address in &addresses {
            self.remove(address.address);
        }
        if !addresses.iter().any(|address| self.placed.contains_key(&address.address)) {
            lock(&self.book).is_gone(vip);
        }
    }

    fn remove(&mut self, address: IpAddr) {
        let Some((ifindex, prefix_len)) = self.placed.get(&address).copied() else { return };
        let vip = VipAddress { address, prefix_len };
        let done = self.client.request(remove_request(vip, ifindex));
        // EADDRNOTAVAIL, ENODEV: somebody else was faster.
        let gone = done.as_ref().is_err_and(|error| matches!(error.raw_os_error(), Some(99 | 19)));
        match done {
            Err(error) if !gone => {
                self.warn(format!(
                    "{vip} can't be removed: {error}; its fence stays closed, and it is tried again every 2 s"
                ));
            }
            _ => {
                self.placed.remove(&address);
                let known = self.spots.iter().find(|spot| spot.ifindex == ifindex);
                let interface =
                    known.map_or_else(|| format!("interface {ifindex}"), |spot| spot.interface.clone());
                self.tell.send(Told::Address { address: vip, interface, added: false });
            }
        }
    }

    fn claim(&self, vip: VipId) {
        for (address, spot) in self.places(vip).unwrap_or_default() {
            let Some(spot) = spot else { continue };
            for frame in frames(address.address, spot.mac) {
                // A link that just went down takes none. The fence may be closed: then they are dropped without a word.
                let _ = sys::packet::send(self.socket.as_fd(), spot.ifindex, &frame);
            }
        }
    }

    fn claim_what_is_due(&mut self) {
        let now = sys::boottime();
        while let Some(((at_ns, vip), _)) = self.claims.first_key_value().map(|(key, index)| (*key, *index)) {
            if at_ns > now {
                return;
            }
            self.claims.remove(&(at_ns, vip));
            if lock(&self.book).owns(vip) {
                self.claim(vip);
            }
        }
    }

    /// Makes interfaces agree with what this node has taken.
    fn look(&mut self) {
        let now = sys::boottime();
        self.look_ns = now + LOOK_NS;
        match self.present() {
            Ok(placed) => self.placed = placed,
            Err(error) => return self.warn(format!("addresses can't be listed: {error}")),
        }
        let (owned, known) = {
            let book = lock(&self.book);
            (book.owned(), book.addresses().clone())
        };
        for vip in known.keys().filter(|vip| !owned.contains(vip)) {
            self.release(*vip);
        }
        let refresh = now >= self.refresh_ns;
        if refresh {
            self.refresh_ns = now + REFRESH_NS;
        }
        for vip in owned {
            let places = self.places(vip).unwrap_or_default();
            let is_placed = |(address, spot): &(VipAddress, Option<Spot>)| {
                spot.as_ref().is_none_or(|spot| {
                    self.placed.get(&address.address) == Some(&(spot.ifindex, address.prefix_len))
                })
            };
            if !places.iter().all(is_placed) {
                self.take(vip);
            } else if refresh {
                self.claim(vip);
            }
        }
    }

    /// VIPs' addresses that are on interfaces.
    fn present(&mut self) -> io::Result<BTreeMap<IpAddr, Placed>> {
        const IFADDR: usize = 8;
        const IFA_ADDRESS: u16 = 1;
        const IFA_LOCAL: u16 = 2;
        let vips: BTreeSet<IpAddr> =
            lock(&self.book).addresses().values().flatten().map(|vip| vip.address).collect();
        let mut present = BTreeMap::new();
        self.client.dump(Request::new(kind::GET_ADDRESS, 0, &[0; IFADDR]), |message| {
            let found = |wanted| {
                let mut attributes = attributes(message.payload, IFADDR);
                attributes.find(|(kind, _)| *kind == wanted).and_then(|(_, value)| crate::netlink::ip(value))
            };
            let address = found(IFA_LOCAL).or_else(|| found(IFA_ADDRESS));
            if let (Some(address), [_, prefix_len, ..]) = (address, message.payload)
                && vips.contains(&address)
            {
                present.insert(address, (rtnl::u32_at(message.payload, 4), *prefix_len));
            }
        })?;
        Ok(present)
    }
}

/// Without duplicate address detection, which takes a second. Deprecated, so that nothing takes it for the source of what it
/// sends, and netft not for an endpoint; and without a route to its subnet, which the interface's own address has made.
fn add_request(vip: VipAddress, ifindex: u32) -> Request {
    const IFA_CACHEINFO: u16 = 6;
    const IFA_FLAGS: u16 = 8;
    const NODAD_NOPREFIXROUTE: u32 = 0x02 | 0x200;
    const FOR_EVER: u32 = u32::MAX;
    // struct ifa_cacheinfo: preferred and valid lifetimes, and two stamps that the kernel fills in.
    let lifetimes = [0, FOR_EVER, 0, 0].map(u32::to_ne_bytes).concat();
    address_request(kind::NEW_ADDRESS, rtnl::CREATE_OR_REPLACE, vip, ifindex)
        .attribute(IFA_FLAGS, &NODAD_NOPREFIXROUTE.to_ne_bytes())
        .attribute(IFA_CACHEINFO, &lifetimes)
}

fn remove_request(vip: VipAddress, ifindex: u32) -> Request {
    address_request(kind::DEL_ADDRESS, 0, vip, ifindex)
}

fn address_request(kind: u16, flags: u16, vip: VipAddress, ifindex: u32) -> Request {
    const IFA_ADDRESS: u16 = 1;
    const IFA_LOCAL: u16 = 2;
    let (family, bytes) = rtnl::family_and_bytes(vip.address);
    // struct ifaddrmsg: family, prefix length, flags, scope, index.
    let mut fixed = vec![family, vip.prefix_len, 0, 0];
    fixed.extend(ifindex.to_ne_bytes());
    Request::new(kind, flags, &fixed).attribute(IFA_LOCAL, &bytes).attribute(IFA_ADDRESS, &bytes)
}

/// Removes what an earlier daemon left, when there is no ownership any more that could.
pub fn remove_all(addresses: &Addresses) -> io::Result<()> {
    const IFADDR: usize = 8;
    let mut client = Client::new()?;
    let mut found = Vec::new();
    let vips: BTreeSet<IpAddr> = addresses.values().flatten().map(|vip| vip.address).collect();
    client.dump(Request::new(kind::GET_ADDRESS, 0, &[0; IFADDR]), |message| {
        for (_, value) in attributes(message.payload, IFADDR).filter(|(kind, _)| matches!(kind, 1 | 2)) {
            if let (Some(address), [_, prefix_len, ..]) = (crate::netlink::ip(value), message.payload)
                && vips.contains(&address)
            {
                let vip = VipAddress { address, prefix_len: *prefix_len };
                found.push((vip, rtnl::u32_at(message.payload, 4)));
            }
        }
    })?;
    found.sort();
    found.dedup();
    found.into_iter().try_for_each(|(vip, ifindex)| client.request(remove_request(vip, ifindex)))
}
