//! May this node use this VIP at this instant? One pure function for XDP, TC and userspace, over words that they share.
//! The rules that it keeps are those of `docs/ownership.md`; the numbers in the comments are theirs.
//!
//! ```text
//! ownership thread   owner bits, A (applied index), voters and leases, R (what must be applied to be vouched for)
//! XDP                evidence: own send stamps that voters echoed; when this node last vouched for others
//! engine             its tick
//! ```
//!
//! Nothing has to run for the fence to close: it opens by stores, and closes by them or by time alone.

#[cfg(not(netft_sabotage))]
mod sabotage;
#[cfg(netft_sabotage)]
pub mod sabotage;

use crate::map::{MAX_CPUS, MAX_NODES};
use crate::shared::Shared;
use crate::wire::{Heartbeat, kind};
use bytemuck::{Pod, Zeroable};
use core::sync::atomic::AtomicU64;

use sabotage::{Sabotage, broken};

/// Voters of a cluster; further nodes are learners. Bounds the loop that runs per frame.
pub const MAX_VOTERS: usize = 9;
/// VIPs of a cluster: their numbers are 0..MAX_VIPS.
pub const MAX_VIPS: u32 = 1024;
/// Addresses of all VIPs together.
pub const MAX_VIP_ADDRESSES: u32 = 4096;
/// Hardware addresses of one node.
pub const MAX_MACS: u32 = 256;
/// An echoed stamp may be this far in the future, in nanoseconds (CPUs read the clock a little apart); beyond, it is none.
pub const FUTURE_NS: u64 = 1_000_000;
/// In a vouch index: this node doesn't know what it would vouch for, so it vouches for nobody.
pub const UNSURE: u64 = u64::MAX;

/// Names of the maps in the object and of their pins.
pub mod name {
    /// One [`super::FenceState`]. The ownership thread writes.
    pub const FENCE: &str = "FENCE";
    /// Hash of an address (16 bytes, IPv4 mapped) to its VIP's [`super::VipEntry`]. The ownership thread writes.
    pub const VIPS: &str = "VIPS";
    /// Owner bits: a `u64` per VIP, the epoch it is owned at, 0 = not owned. The ownership thread writes.
    pub const OWNED: &str = "OWNED";
    /// A `u64` per node id: the newest own send stamp that this voter echoed with a vouch that counts. Kernel writes.
    pub const EVIDENCE: &str = "EVIDENCE";
    /// `R` per node id: index of the last entry in the own log that takes a VIP from it, as [`super::vouch_word`]: in a new
    /// map everybody is [`super::UNSURE`]. The ownership thread writes.
    pub const VOUCH_INDEX: &str = "VOUCH_INDEX";
    /// Per CPU a `u64` per node id ([`super::vouched_index`]): when it last began a leg that vouches for it. Kernel writes.
    pub const VOUCHED: &str = "VOUCHED";
    /// Hash of this node's own hardware addresses ([`super::mac_word`]) to 1, only looked at for VIPs. Engine writes.
    pub const MACS: &str = "MACS";
}

/// Values of [`FenceState::quorum`].
pub mod quorum {
    /// No configuration yet: every fence is closed.
    pub const NOT_READY: u64 = 0;
    /// A majority of voters must vouch.
    pub const MAJORITY: u64 = 1;
    /// `quorum = "none"` (rule 15): nobody need vouch. Two nodes, availability before uniqueness.
    pub const NONE: u64 = 2;
}

/// What the fence goes by, besides the words per node and per VIP. The ownership thread writes all of it but the engine's
/// timeout. 128 bytes.
#[repr(C)]
#[derive(Debug, Default)]
pub struct FenceState {
    /// Odd while `voters` and `quorum` change; grows with each change. Readers that see it move take it for closed.
    pub generation: AtomicU64,
    /// `A`: the log index up to which owner bits are right. Stored after them.
    pub applied: AtomicU64,
    /// See [`quorum`].
    pub quorum: AtomicU64,
    /// Age of the engine's tick at which the fence closes, in nanoseconds. Engine writes.
    pub engine_timeout_ns: AtomicU64,
    /// [`Voter`] words, 0 = no more.
    pub voters: [AtomicU64; MAX_VOTERS],
    /// Addresses in [`name::VIPS`]; 0 = no frame is looked at. Raised before one is put in, lowered after one was taken out.
    pub addresses: AtomicU64,
    /// 0.
    pub reserved: [AtomicU64; 2],
}

/// A VIP as eBPF finds it by its address.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct VipEntry {
    /// Its number, the index of its owner bit.
    pub vip: u32,
    /// [`vip_flags`].
    pub flags: u32,
}

impl VipEntry {
    /// The word as stored: number, flags.
    #[inline(always)]
    pub const fn to_word(self) -> u64 {
        self.vip as u64 | (self.flags as u64) << 32
    }

    /// From the word as stored.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "each field takes its own bits")]
    pub const fn from_word(word: u64) -> Self {
        Self { vip: word as u32, flags: (word >> 32) as u32 }
    }
}

/// Bits of [`VipEntry::flags`].
pub mod vip_flags {
    /// The address is on an interface of this node. Set before the address is added, cleared after it is gone, so that
    /// it is never there without its fence.
    pub const INSTALLED: u32 = 1 << 0;
}

const _: () = {
    assert!(size_of::<FenceState>() == 128);
    assert!(size_of::<VipEntry>() == 8);
};

/// One voter as the fence counts it, packed into one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Voter {
    /// Its node id; 0 = no voter.
    pub node: u16,
    /// In which of the (at most two, while a configuration is joint) sets of voters it is: bits 0 and 1.
    pub sets: u8,
    /// For how long its vouching counts, in nanoseconds, below [`Voter::LONGEST_LEASE_NS`].
    pub lease_ns: u64,
}

impl Voter {
    /// Leases are shorter than this (19 hours).
    pub const LONGEST_LEASE_NS: u64 = 1 << 46;

    /// The word as stored: id, sets, lease.
    #[inline(always)]
    pub const fn to_word(self) -> u64 {
        let lease_ns =
            if self.lease_ns < Self::LONGEST_LEASE_NS { self.lease_ns } else { Self::LONGEST_LEASE_NS - 1 };
        self.node as u64 | (self.sets as u64 & 0b11) << 16 | lease_ns << 18
    }

    /// From the word as stored.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "each field takes its own bits")]
    pub const fn from_word(word: u64) -> Self {
        Self { node: word as u16, sets: (word >> 16) as u8 & 0b11, lease_ns: word >> 18 }
    }
}

/// Where the fence's words are: eBPF maps, or plain memory in tests and simulations.
///
/// Whoever has no VIPs need say nothing: without these words nobody is vouched for, and every fence is closed.
pub trait FenceTables: Shared {
    /// The fence's own state; `None` = not there yet.
    #[inline(always)]
    fn fence(&self) -> Option<&FenceState> {
        None
    }
    /// The word of [`name::EVIDENCE`] of a node, `None` if out of range.
    #[inline(always)]
    fn evidence(&self, node: u16) -> Option<&AtomicU64> {
        let _ = node;
        None
    }
    /// The word of [`name::VOUCH_INDEX`] of a node.
    #[inline(always)]
    fn vouch_index(&self, node: u16) -> Option<&AtomicU64> {
        let _ = node;
        None
    }
    /// The word of [`name::VOUCHED`] of a node, this CPU's.
    #[inline(always)]
    fn vouched(&self, node: u16) -> Option<&AtomicU64> {
        let _ = node;
        None
    }
    /// The word of [`name::OWNED`] of a VIP.
    #[inline(always)]
    fn owned(&self, vip: u32) -> Option<&AtomicU64> {
        let _ = vip;
        None
    }
    /// Which VIP has this address.
    #[inline(always)]
    fn vip(&self, address: &[u64; 2]) -> Option<VipEntry> {
        let _ = address;
        None
    }
    /// Whether this hardware address ([`mac_word`]) is this node's.
    #[inline(always)]
    fn is_own_mac(&self, mac: u64) -> bool {
        let _ = mac;
        false
    }
    /// Stores a word by an atomic exchange, which nothing after it overtakes.
    #[cfg(target_has_atomic = "64")]
    fn exchange(&self, word: &AtomicU64, value: u64) {
        word.swap(value, core::sync::atomic::Ordering::SeqCst);
    }
    /// Stores a word by an atomic exchange, which nothing after it overtakes.
    #[cfg(not(target_has_atomic = "64"))]
    fn exchange(&self, word: &AtomicU64, value: u64);
    /// What is read after it was not read before it.
    #[cfg(target_has_atomic = "64")]
    fn barrier(&self) {
        core::sync::atomic::fence(core::sync::atomic::Ordering::SeqCst);
    }
    /// What is read after it was not read before it.
    #[cfg(not(target_has_atomic = "64"))]
    fn barrier(&self);
}

/// Stores another set of voters, and how many must vouch ([`quorum`]). For the ownership thread alone. Whoever looks meanwhile
/// finds the fence closed; a writer that died in the middle leaves it so, until the next one.
#[cfg(target_has_atomic = "64")]
pub fn store_voters(fence: &FenceState, voters: &[u64; MAX_VOTERS], quorum: u64) {
    use core::sync::atomic::Ordering::{Relaxed, SeqCst};
    let changing = fence.generation.load(Relaxed) | 1;
    fence.generation.swap(changing, SeqCst);
    for (word, voter) in fence.voters.iter().zip(voters) {
        word.store(*voter, Relaxed);
    }
    fence.quorum.store(quorum, Relaxed);
    fence.generation.swap(changing.wrapping_add(1), SeqCst);
}

/// Why a fence is closed: the first reason that was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closed {
    /// There is no configuration, or it changes at this moment.
    NotReady,
    /// The engine didn't tick within its timeout.
    EngineStalled,
    /// No majority of voters vouched within their leases.
    NoMajority,
    /// This node doesn't own the VIP.
    NotOwner,
}

/// Where a frame that concerns a VIP was met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame {
    /// XDP: for the VIP, to a MAC of this host.
    ToOwnMac,
    /// XDP: for the VIP, to another MAC: somebody else's, seen because of a bridge or promiscuous mode.
    ToOtherMac,
    /// TC egress: from the VIP or a claim for it, made on this host.
    Local,
    /// TC egress: the same, but it came in by another interface: this host routes or bridges for others.
    Transit,
}

/// Rule 2: the own send stamp that an accepted leg proves to have been answered by the peer's kernel. Legs 1 and 4 are
/// never evidence: leg 1 echoes nothing, and voters note only legs 2 and 3 as vouching (rule 8).
#[inline(always)]
pub fn evidence_stamp(leg: &Heartbeat) -> Option<u64> {
    match leg.header.kind {
        kind::REPLY => Some(leg.initiator_sent_ns),
        kind::CONFIRMATION => Some(leg.responder_sent_ns),
        _ => None,
    }
}

/// Rules 1 and 2: notes that `voter` vouched for this node in answer to what this node sent at `own_sent_ns`, if the leg
/// counts. For XDP, once a leg 2 or 3 is accepted. Of several CPUs the newest stamp stays; after some lost races an older
/// one does, which only closes earlier.
#[inline(always)]
pub fn note_evidence<T: FenceTables>(
    tables: &T,
    voter: u16,
    vouch_index: u64,
    own_sent_ns: u64,
    now_ns: u64,
) {
    const TRIES: u32 = 4;
    let (Some(fence), Some(word)) = (tables.fence(), tables.evidence(voter)) else { return };
    if !vouch_counts(tables.load(&fence.applied), vouch_index) || in_future(own_sent_ns, now_ns) {
        return;
    }
    let own_sent_ns = if broken(Sabotage::CountsFromArrival) { now_ns } else { own_sent_ns };
    for _ in 0..TRIES {
        let seen = tables.load(word);
        if own_sent_ns <= seen || tables.compare_and_swap(word, seen, own_sent_ns) {
            return;
        }
    }
}

/// Rule 1: a vouch counts once everything is applied that its voter knows to take a VIP from this node.
#[inline(always)]
pub fn vouch_counts(applied: u64, vouch_index: u64) -> bool {
    (vouch_index != UNSURE && applied >= vouch_index) || broken(Sabotage::VouchesForAnything)
}

/// Where a CPU notes in [`name::VOUCHED`] that it vouches for a node; `None` if one of both is out of range.
#[inline(always)]
pub const fn vouched_index(cpu: u32, node: u16) -> Option<u32> {
    if cpu < MAX_CPUS && (node as u32) < MAX_NODES { Some(cpu * MAX_NODES + node as u32) } else { None }
}

/// A hardware address as the key of [`name::MACS`].
#[inline(always)]
pub const fn mac_word(mac: [u8; 6]) -> u64 {
    u64::from_le_bytes([mac[0], mac[1], mac[2], mac[3], mac[4], mac[5], 0, 0])
}

/// Rule 8: what goes into the `vouch_index` of a leg 2 or 3 to `node`. That this node vouches is noted before the index is read:
/// so whoever stores an index and then reads the notes finds every leg that left with the one before. A CPU that can't
/// note it vouches for nobody.
#[inline(always)]
pub fn vouch<T: FenceTables>(tables: &T, node: u16, now_ns: u64) -> u64 {
    if note_vouching(tables, node, now_ns) { vouch_index(tables, node) } else { UNSURE }
}

/// The first half of [`vouch`], for simulations in which a CPU stands still between both; says whether it was noted.
#[inline(always)]
pub fn note_vouching<T: FenceTables>(tables: &T, node: u16, now_ns: u64) -> bool {
    match tables.vouched(node) {
        Some(word) => {
            tables.exchange(word, now_ns);
            true
        }
        None => false,
    }
}

/// The second half of [`vouch`].
#[inline(always)]
pub fn vouch_index<T: FenceTables>(tables: &T, node: u16) -> u64 {
    tables.vouch_index(node).map_or(UNSURE, |word| index_of(tables.load(word)))
}

/// The index that was stored or sent as `word`.
#[inline(always)]
pub const fn index_of(word: u64) -> u64 {
    word.wrapping_sub(1)
}

/// A vouch index as it is stored and sent: 0 is [`UNSURE`].
#[inline(always)]
pub const fn vouch_word(index: u64) -> u64 {
    index.wrapping_add(1)
}

/// What to do with a frame that concerns a VIP: `Ok` = let it through. Rule 6: what isn't for or from this host isn't
/// judged, and XDP guards only addresses that are on this host.
///
/// # Errors
/// Why it is to be dropped.
#[inline(always)]
pub fn judge<T: FenceTables>(tables: &T, entry: VipEntry, frame: Frame, now_ns: u64) -> Result<(), Closed> {
    if is_judged(entry, frame) { check(tables, entry.vip, now_ns) } else { Ok(()) }
}

/// Whether [`check`] decides on a frame; else it passes.
#[inline(always)]
pub fn is_judged(entry: VipEntry, frame: Frame) -> bool {
    match frame {
        Frame::ToOtherMac | Frame::Transit => false,
        Frame::ToOwnMac => entry.flags & vip_flags::INSTALLED != 0,
        Frame::Local => true,
    }
}

/// Rule 3: the fence of a VIP. The owner bit is read last: evidence that came after the bit was cleared must not let a frame
/// out that saw the bit before.
///
/// # Errors
/// Why it is closed.
#[inline(always)]
pub fn check<T: FenceTables>(tables: &T, vip: u32, now_ns: u64) -> Result<(), Closed> {
    let fence = tables.fence().ok_or(Closed::NotReady)?;
    engine_ticks(tables, fence, now_ns)?;
    let generation = tables.load(&fence.generation);
    tables.barrier();
    match tables.load(&fence.quorum) {
        quorum::MAJORITY => majority_vouches(tables, fence, now_ns)?,
        quorum::NONE => (),
        _ => return Err(Closed::NotReady),
    }
    tables.barrier();
    if generation % 2 == 1 || tables.load(&fence.generation) != generation {
        return Err(Closed::NotReady);
    }
    is_owner(tables, vip)
}

/// Rule 3: the committed owner, by the newest state that this node applied. Only after [`check`] of another VIP.
///
/// # Errors
/// [`Closed::NotOwner`].
#[inline(always)]
pub fn is_owner<T: FenceTables>(tables: &T, vip: u32) -> Result<(), Closed> {
    match tables.owned(vip) {
        Some(word) if tables.load(word) != 0 => Ok(()),
        _ => Err(Closed::NotOwner),
    }
}

/// Rule 3: a starved engine costs nothing, a dead or frozen one keeps no address.
#[inline(always)]
fn engine_ticks<T: FenceTables>(tables: &T, fence: &FenceState, now_ns: u64) -> Result<(), Closed> {
    let tick_ns = tables.engine().map_or(0, |engine| tables.load(&engine.tick_ns));
    let alive = tick_ns != 0
        && !in_future(tick_ns, now_ns)
        && now_ns.saturating_sub(tick_ns) < tables.load(&fence.engine_timeout_ns);
    if alive || broken(Sabotage::TrustsFrozenEngines) { Ok(()) } else { Err(Closed::EngineStalled) }
}

/// Rule 3: a majority of every set of voters, each with evidence younger than its lease.
#[inline(always)]
fn majority_vouches<T: FenceTables>(tables: &T, fence: &FenceState, now_ns: u64) -> Result<(), Closed> {
    let own_id = tables.node().map_or(0, |node| node.node_id);
    // Two counts in one word each: of the first set in the low half, of the second in the high half.
    let (mut members, mut vouching) = (0u64, 0u64);
    for word in &fence.voters {
        let voter = Voter::from_word(tables.load(word));
        if voter.node == 0 || u32::from(voter.node) >= MAX_NODES {
            continue;
        }
        let weight = u64::from(voter.sets & 1) | u64::from(voter.sets >> 1) << 32;
        members += weight;
        let vouches = if voter.node == own_id {
            vouches_for_itself(tables, fence, own_id)
        } else {
            vouched_lately(tables, voter, now_ns)
        };
        if vouches {
            vouching += weight;
        }
    }
    let first = majority(members & 0xffff_ffff, vouching & 0xffff_ffff);
    let second = members >> 32 == 0 || majority(members >> 32, vouching >> 32);
    if first && second { Ok(()) } else { Err(Closed::NoMajority) }
}

/// Rule 3: this node counts itself only if its own log holds no loss that it hasn't applied.
#[inline(always)]
fn vouches_for_itself<T: FenceTables>(tables: &T, fence: &FenceState, own_id: u16) -> bool {
    vouch_counts(tables.load(&fence.applied), vouch_index(tables, own_id))
        || broken(Sabotage::AlwaysVouchesForItself)
}

#[inline(always)]
fn vouched_lately<T: FenceTables>(tables: &T, voter: Voter, now_ns: u64) -> bool {
    let stamp_ns = match tables.evidence(voter.node) {
        Some(word) => tables.load(word),
        None => 0,
    };
    let fresh = now_ns.saturating_sub(stamp_ns) < voter.lease_ns || broken(Sabotage::LeasesNeverEnd);
    stamp_ns != 0 && !in_future(stamp_ns, now_ns) && fresh
}

#[inline(always)]
fn majority(members: u64, vouching: u64) -> bool {
    vouching * 2 > members || broken(Sabotage::OneIsEnough) && vouching > 0
}

/// Rule 2: a stamp from the future proves nothing.
#[inline(always)]
fn in_future(stamp_ns: u64, now_ns: u64) -> bool {
    stamp_ns > now_ns.saturating_add(FUTURE_NS)
}

#[cfg(all(test, not(netft_sabotage)))]
mod tests;
