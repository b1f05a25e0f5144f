//! Carries out the commands of ownership: words of the fence at once and in their order, addresses by the thread beside.

use super::addresses::{Job, Jobs};
use super::kept::Addresses;
use crate::engine::fence::FenceWords;
use netft_common::fence::{MAX_VOTERS, VipEntry, quorum, vip_flags};
use netft_consensus::Actuator;
use netft_core::ownership::{Epoch, NodeSet, VipId, VipSettings};
use netft_core::types::{Nanos, NodeId};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Which addresses are fenced by which number, and what this node has taken. Written by the ownership thread; the one that adds
/// and removes addresses reads it, and says when an address is gone.
pub struct Book {
    words: FenceWords,
    /// What is in the map: perhaps VIPs that are no more, from before the start.
    addresses: Addresses,
    settings: BTreeMap<VipId, VipSettings>,
    owned: BTreeMap<VipId, Epoch>,
}

/// A book that two threads share.
pub type SharedBook = Arc<Mutex<Book>>;

/// Locks it; nobody who holds it waits for anything.
pub fn lock(book: &SharedBook) -> MutexGuard<'_, Book> {
    book.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Book {
    /// What an earlier daemon left: its VIPs' addresses, some of which are on interfaces, and those it had taken.
    pub fn new(mut words: FenceWords, left: Addresses) -> Self {
        let owned = words.owned().into_iter().collect();
        for (vip, addresses) in &left {
            set(&mut words, *vip, addresses.iter().map(|vip| vip.address), vip_flags::INSTALLED);
        }
        Self { words, addresses: left, settings: BTreeMap::new(), owned }
    }

    /// All addresses that are fenced.
    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// What this node has taken.
    pub fn owned(&self) -> Vec<VipId> {
        self.owned.keys().copied().collect()
    }

    /// Whether it has taken this one.
    pub fn owns(&self, vip: VipId) -> bool {
        self.owned.contains_key(&vip)
    }

    /// What the cluster says of a VIP.
    pub fn settings(&self, vip: VipId) -> Option<&VipSettings> {
        self.settings.get(&vip)
    }

    /// Other preferences, or another network.
    pub fn change(&mut self, vip: VipId, settings: &VipSettings) {
        self.settings.entry(vip).and_modify(|known| known.clone_from(settings));
    }

    /// Its addresses are on no interface any more: frames to them are no business of this node, unless it has taken the VIP
    /// meanwhile.
    pub fn is_gone(&mut self, vip: VipId) {
        if !self.owns(vip) {
            self.mark(vip, 0);
        }
    }

    fn mark(&mut self, vip: VipId, flags: u32) {
        let addresses = self.addresses.get(&vip).cloned().unwrap_or_default();
        set(&mut self.words, vip, addresses.iter().map(|vip| vip.address), flags);
    }

    fn remove(&mut self, vip: VipId) {
        for address in self.addresses.remove(&vip).unwrap_or_default() {
            if let Err(error) = self.words.remove_address(address.address) {
                tracing::error!("{address} can't be taken out of the fence's map: {error}");
            }
        }
        self.settings.remove(&vip);
    }
}

fn set(words: &mut FenceWords, vip: VipId, addresses: impl Iterator<Item = std::net::IpAddr>, flags: u32) {
    for address in addresses {
        // The map has room for all that a configuration may have.
        if let Err(error) = words.set_address(address, VipEntry { vip: vip.get().into(), flags }) {
            tracing::error!("{address} can't be put into the fence's map: {error}");
        }
    }
}

/// The [`Actuator`] of a node that may own VIPs.
pub struct Hands {
    words: FenceWords,
    book: SharedBook,
    jobs: Jobs,
}

impl Hands {
    /// The words must be those of the running engine.
    pub fn new(words: FenceWords, book: SharedBook, jobs: Jobs) -> Self {
        Self { words, book, jobs }
    }
}

impl Actuator for Hands {
    fn store_all_unsure(&mut self) {
        self.words.store_all_unsure();
    }

    fn store_vouch(&mut self, node: NodeId, index: u64) {
        self.words.store_vouch(node, index);
    }

    fn read_stamps(&mut self, nodes: &NodeSet) -> Vec<(NodeId, Nanos)> {
        self.words.read_stamps(nodes)
    }

    fn store_voters(&mut self, words: &[u64; MAX_VOTERS]) {
        self.words.store_voters(words, quorum::MAJORITY);
    }

    fn store_vip(&mut self, vip: VipId, settings: &VipSettings) {
        // An earlier daemon may have had other VIPs, under this number or with one of these addresses.
        let is_stale = |(id, addresses): (&VipId, &Vec<_>)| {
            let shares = addresses.iter().any(|address| settings.addresses.contains(address));
            (*id == vip && *addresses != settings.addresses || *id != vip && shares).then_some(*id)
        };
        let stale: Vec<_> = lock(&self.book).addresses.iter().filter_map(is_stale).collect();
        stale.into_iter().for_each(|vip| self.forget_vip(vip));
        let mut book = lock(&self.book);
        if book.addresses.insert(vip, settings.addresses.clone()).is_none() {
            book.mark(vip, 0);
        }
        book.settings.insert(vip, settings.clone());
        let kept = book.addresses.clone();
        drop(book);
        self.jobs.send(Job::Keep(kept));
    }

    fn forget_vip(&mut self, vip: VipId) {
        // Its address must be gone before its fence is.
        self.jobs.send(Job::Release(vip));
        self.jobs.wait();
        lock(&self.book).remove(vip);
    }

    fn clear_owner(&mut self, vip: VipId) {
        self.words.clear_owner(vip);
        lock(&self.book).owned.remove(&vip);
        self.jobs.send(Job::Release(vip));
    }

    fn flush(&mut self) {
        if let Err(error) = self.words.flush() {
            // Nobody may be told that this node has fallen silent: without a release its lease is waited for.
            tracing::error!("the fence can't be flushed ({error}): netftd needs membarrier(2)");
            std::process::abort();
        }
    }

    fn store_applied(&mut self, applied: u64) {
        self.words.store_applied(applied);
    }

    fn set_owner(&mut self, vip: VipId, epoch: Epoch) {
        let mut book = lock(&self.book);
        book.owned.insert(vip, epoch);
        book.mark(vip, vip_flags::INSTALLED);
        drop(book);
        self.words.set_owner(vip, epoch);
        self.jobs.send(Job::Take(vip));
    }
}

/// Closes every fence of this node and has all addresses removed: for a node that takes no part any more.
pub fn let_go(words: &FenceWords, book: &SharedBook, jobs: &Jobs) {
    let mut book = lock(book);
    let mut vips = book.owned();
    vips.iter().for_each(|vip| words.clear_owner(*vip));
    book.owned.clear();
    vips.extend(book.addresses.keys());
    drop(book);
    vips.into_iter().for_each(|vip| jobs.send(Job::Release(vip)));
    jobs.wait();
}
