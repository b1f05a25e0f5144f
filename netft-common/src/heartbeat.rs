//! What a node does with a heartbeat leg: checks it, stamps it, and makes the reply's fields. The same code runs in
//! XDP, in the simulator and in tests; only [`Tables`] differs.
//!
//! ```text
//! initiator                       responder
//!   request (1)      ───────────▶   stamps arrival, answers
//!   stamps rtt       ◀───────────   reply (2)
//!   confirmation (3) ───────────▶   stamps confirmed_sent_ns: both directions proven to the responder
//!   stamps completed ◀───────────   final reply (4), which nothing answers
//! ```

use crate::fence::{self, FenceTables};
use crate::map::{
    Counter, DataPath, EngineState, Gate, MAX_SLOTS, NodeConfig, SlotConfig, SlotState, down_reason,
};
use crate::shared::Shared;
use crate::siphash::SipHash24;
use crate::wire::{self, Header, Heartbeat, NO_SLOT, kind};
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Where a node keeps what it knows: eBPF maps, or plain memory in tests and simulations.
pub trait Tables: Shared {
    /// Configuration of a slot, `None` if out of range. May change under the reader: see [`Tables::read`].
    fn config(&self, slot: u32) -> Option<&SlotConfig>;
    /// A word of it (generation or epoch) read again from memory, to see that nothing changed meanwhile.
    fn read(&self, word: &u32) -> u32;
    /// Evidence of a slot, `None` if out of range.
    fn state(&self, slot: u32) -> Option<&SlotState>;
    /// Whether the address is one of this node's.
    fn is_local(&self, address: &[u8; 16]) -> bool;
    /// CLOCK_BOOTTIME in nanoseconds.
    fn now_ns(&self) -> u64;
    /// How data is received on an interface. Without AF_XDP sockets nothing need be said.
    #[inline(always)]
    fn path(&self, interface: u16) -> DataPath {
        let _ = interface;
        DataPath::default()
    }
    /// Kernel index of the device by which the frame came in, and its receive queue.
    #[inline(always)]
    fn ingress(&self) -> (u32, u32) {
        (0, 0)
    }
    /// A gate, `None` if out of range. Without one everything goes through.
    #[inline(always)]
    fn gate(&self, index: u32) -> Option<&Gate> {
        let _ = index;
        None
    }
}

/// Why a message is dropped. One counter each.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reject {
    /// [`Counter::RejectVersion`].
    Version = Counter::RejectVersion as u32,
    /// [`Counter::RejectKind`].
    Kind = Counter::RejectKind as u32,
    /// [`Counter::RejectTruncated`].
    Truncated = Counter::RejectTruncated as u32,
    /// [`Counter::RejectSlot`].
    Slot = Counter::RejectSlot as u32,
    /// [`Counter::RejectSource`].
    Source = Counter::RejectSource as u32,
    /// [`Counter::RejectDestination`].
    Destination = Counter::RejectDestination as u32,
    /// [`Counter::RejectEpoch`].
    Epoch = Counter::RejectEpoch as u32,
    /// [`Counter::RejectTag`].
    Tag = Counter::RejectTag as u32,
    /// [`Counter::RejectReplay`].
    Replay = Counter::RejectReplay as u32,
    /// [`Counter::RejectFragment`].
    Fragment = Counter::RejectFragment as u32,
    /// [`Counter::RejectStamp`].
    Stamp = Counter::RejectStamp as u32,
    /// [`Counter::RejectBacklog`].
    Backlog = Counter::RejectBacklog as u32,
}

/// Why a leg isn't accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It was sent to an address that isn't ours: somebody else's, to be passed.
    NotOurs,
    /// It is ours and wrong: to be dropped.
    Reject(Reject),
}

impl From<Reject> for Refusal {
    #[inline(always)]
    fn from(reject: Reject) -> Self {
        Self::Reject(reject)
    }
}

/// What an accepted leg leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The leg has become the reply, which goes back to where it came from.
    Reply,
    /// Leg 4: nothing answers it.
    Complete,
    /// The peer's slot isn't known yet, so there is nowhere to answer to.
    Unanswered,
}

/// The addresses that a message travelled between. Kept as words: byte arrays end up misaligned on eBPF's stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    pub(crate) source: [u64; 2],
    pub(crate) destination: [u64; 2],
}

impl Addresses {
    /// The sender's and the receiver's, IPv4 as `::ffff:a.b.c.d`.
    #[inline(always)]
    pub fn new(source: [u8; 16], destination: [u8; 16]) -> Self {
        Self { source: bytemuck::cast(source), destination: bytemuck::cast(destination) }
    }

    /// The sender's, IPv4 as `::ffff:a.b.c.d`.
    #[inline(always)]
    pub fn source(&self) -> &[u8; 16] {
        bytemuck::cast_ref(&self.source)
    }

    /// The receiver's, IPv4 as `::ffff:a.b.c.d`.
    #[inline(always)]
    pub fn destination(&self) -> &[u8; 16] {
        bytemuck::cast_ref(&self.destination)
    }
}

/// Generation and configuration of the slot that a leg names, if it is that of the route the leg travelled. The
/// first check of all, and the only one that looks at nothing but header and addresses.
///
/// # Errors
/// [`Refusal::NotOurs`], [`Reject::Slot`] or [`Reject::Source`].
#[inline(always)]
pub fn find_slot<'a, T: Tables>(
    tables: &'a T,
    addresses: &Addresses,
    header: &Header,
) -> Result<(u32, &'a SlotConfig), Refusal> {
    if header.slot < MAX_SLOTS
        && let Some(config) = tables.config(header.slot)
    {
        // Taken before anything else is read: whoever reuses the slot meanwhile changes it.
        let generation = tables.read(&config.generation);
        if generation != 0 && words(&config.local) == addresses.destination {
            if words(&config.remote) != addresses.source {
                return Err(Reject::Source.into());
            }
            return Ok((generation, config));
        }
    }
    if tables.is_local(addresses.destination()) { Err(Reject::Slot.into()) } else { Err(Refusal::NotOurs) }
}

/// Checks a leg that arrived, and if it is accepted stamps it and turns it into the answer, in place because eBPF
/// has 512 bytes of stack. A leg that is not accepted changes nothing and stays as it is.
///
/// # Errors
/// [`Refusal::NotOurs`] and every [`Reject`] but those of malformed frames, in the order of `docs/wire-format.md`.
#[inline(always)]
pub fn answer<T: Tables + FenceTables>(
    tables: &T,
    node: &NodeConfig,
    addresses: &Addresses,
    leg: &mut Heartbeat,
) -> Result<Answer, Refusal> {
    let header = leg.header;
    let (generation, config) = find_slot(tables, addresses, &header)?;
    if header.source != config.peer {
        return Err(Reject::Source.into());
    }
    if header.destination != node.node_id {
        return Err(Reject::Destination.into());
    }
    let keys = config.keys_of(header.key_epoch).ok_or(Reject::Epoch)?;
    if header.version != keys.version {
        return Err(Reject::Version.into());
    }
    let send_key = keys.send_key;
    if leg.tag != tag(keys.receive_key, addresses, leg) {
        return Err(Reject::Tag.into());
    }
    let now_ns = tables.now_ns();
    // The stamp in our own clock that this leg echoes: leg 1 has none.
    let echoed_ns = match header.kind {
        kind::REQUEST => 0,
        kind::REPLY | kind::FINAL_REPLY => leg.initiator_sent_ns,
        kind::CONFIRMATION => leg.responder_sent_ns,
        _ => return Err(Reject::Kind.into()),
    };
    if echoed_ns > now_ns {
        return Err(Reject::Stamp.into());
    }
    let (Some(state), Some(engine)) = (tables.state(header.slot), tables.engine()) else {
        return Err(Reject::Slot.into());
    };
    // All that was read belongs to one life of the slot and to one epoch, or nothing counts.
    if tables.read(&config.generation) != generation {
        return Err(Reject::Slot.into());
    }
    if tables.read(&keys.epoch) != header.key_epoch {
        return Err(Reject::Epoch.into());
    }
    let (highest, arrival_ns) = per_leg(state, header.kind);
    accept_sequence(tables, highest, header.sequence)?;

    advance(tables, arrival_ns, now_ns);
    // Answers are made with the keys of what they answer, so only leg 1 says which ones the peer has chosen.
    let chosen = match header.kind {
        kind::REQUEST => u64::from(header.key_epoch) << 32,
        _ => tables.load(&state.peer_flags) & !u64::from(u32::MAX),
    };
    tables.store(&state.peer_flags, chosen | u64::from(header.flags));
    if header.kind != kind::REQUEST && leg.tick_age_ns != u64::MAX {
        // The leg left after the stamp it echoes was made, so the tick is no older than this. Counting from the
        // arrival would let a delayed leg make a dead engine look alive.
        advance(tables, &state.peer_tick_ns, echoed_ns.saturating_sub(leg.tick_age_ns));
    }
    match header.kind {
        kind::REQUEST => note_down(tables, config.peer, leg, now_ns),
        kind::REPLY => tables.store(&state.rtt_ns, now_ns - echoed_ns),
        kind::CONFIRMATION => advance(tables, &state.confirmed_sent_ns, echoed_ns),
        _ => advance(tables, &state.completed_sent_ns, echoed_ns),
    }
    let vouched = (fence::evidence_stamp(leg), fence::index_of(leg.vouch_index));
    if header.kind == kind::FINAL_REPLY {
        return Ok(Answer::Complete);
    }
    if config.remote_slot == NO_SLOT {
        note_vouch(tables, config.peer, vouched, now_ns);
        return Ok(Answer::Unanswered);
    }
    #[expect(clippy::cast_possible_truncation, reason = "wire flags, 16 bits")]
    let flags = tables.load(&engine.flags) as u16;
    if leg.header.kind == kind::REQUEST {
        leg.responder_sent_ns = now_ns;
    }
    // Magic, version, cluster, keys and sequence stay. In place, for the stack's sake.
    leg.header.kind += 1;
    leg.header.flags = flags;
    (leg.header.source, leg.header.destination) = (node.node_id, config.peer);
    leg.header.slot = config.remote_slot;
    leg.tick_age_ns = tick_age(tables.load(&engine.tick_ns), now_ns);
    leg.vouch_index = match header.kind {
        kind::REQUEST | kind::REPLY => fence::vouch_word(fence::vouch(tables, config.peer, now_ns)),
        _ => 0,
    };
    leg.down_slot = NO_SLOT;
    leg.down_reason = 0;
    leg.reserved = 0;
    // Those of the slot, which are these.
    let back = Addresses { source: addresses.destination, destination: addresses.source };
    leg.tag = tag(send_key, &back, leg);
    // Last, because the verifier follows each of its ways through everything after it.
    note_vouch(tables, config.peer, vouched, now_ns);
    Ok(Answer::Reply)
}

/// What an accepted leg says about this node's lease, if it is one that does.
#[inline(always)]
fn note_vouch<T: FenceTables>(tables: &T, voter: u16, (stamp, index): (Option<u64>, u64), now_ns: u64) {
    if let Some(own_sent_ns) = stamp {
        fence::note_evidence(tables, voter, index, own_sent_ns, now_ns);
    }
}

/// Leg 1, ready to be sent from `config.local` to `config.remote`. For the engine, just before it sends: `now_ns`
/// is the send stamp that all evidence counts from. `notice` tells the peer which of *its* slots' far end is down,
/// and why ([`down_reason`]). `None` as long as the peer's slot isn't known, or there is no session.
pub fn request(
    node: &NodeConfig,
    config: &SlotConfig,
    engine: &EngineState,
    sequence: u64,
    now_ns: u64,
    notice: Option<(u32, u32)>,
) -> Option<Heartbeat> {
    if config.remote_slot == NO_SLOT {
        return None;
    }
    let keys = config.sending()?;
    let (down_slot, down_reason) = notice.unwrap_or((NO_SLOT, 0));
    #[expect(clippy::cast_possible_truncation, reason = "wire flags, 16 bits")]
    let flags = engine.flags.load(Relaxed) as u16;
    let mut leg = Heartbeat {
        header: Header {
            magic: wire::MAGIC,
            version: keys.version,
            kind: kind::REQUEST,
            flags,
            cluster_id: node.cluster_id,
            source: node.node_id,
            destination: config.peer,
            slot: config.remote_slot,
            key_epoch: keys.epoch,
            sequence,
        },
        initiator_sent_ns: now_ns,
        responder_sent_ns: 0,
        tick_age_ns: tick_age(engine.tick_ns.load(Relaxed), now_ns),
        vouch_index: 0,
        down_slot,
        down_reason,
        reserved: 0,
        tag: 0,
    };
    let there = Addresses::new(config.local, config.remote);
    leg.tag = tag(keys.send_key, &there, &leg);
    Some(leg)
}

/// The tag of a leg: SipHash-2-4 over the sender's address, the receiver's, and all of the leg before its tag.
#[inline(always)]
pub fn tag(key: [u64; 2], addresses: &Addresses, leg: &Heartbeat) -> u64 {
    const COVERED: usize = 32 + size_of::<Heartbeat>() - 8;
    let mut hash = SipHash24::new(key);
    for word in addresses.source {
        hash.write(word);
    }
    for word in addresses.destination {
        hash.write(word);
    }
    // Where it is: a copy would not fit on eBPF's stack beside it.
    let leg_words: &[u64; 11] = bytemuck::cast_ref(leg);
    for &word in &leg_words[..10] {
        hash.write(word);
    }
    hash.finish(COVERED, 0)
}

/// Age of the engine's last tick, `u64::MAX` if it never ticked. A tick between the two clock readings counts as 0.
#[inline(always)]
fn tick_age(tick_ns: u64, now_ns: u64) -> u64 {
    match tick_ns {
        0 => u64::MAX,
        tick_ns => now_ns.saturating_sub(tick_ns),
    }
}

#[inline(always)]
fn per_leg(state: &SlotState, kind: u8) -> (&AtomicU64, &AtomicU64) {
    match kind {
        kind::REQUEST => (&state.highest[0], &state.arrival_ns[0]),
        kind::REPLY => (&state.highest[1], &state.arrival_ns[1]),
        kind::CONFIRMATION => (&state.highest[2], &state.arrival_ns[2]),
        _ => (&state.highest[3], &state.arrival_ns[3]),
    }
}

/// Only one of several queues or CPUs that hold the same sequence wins; the loser drops, even if it lost to a
/// lower one: the newest leg will be followed by another.
#[inline(always)]
fn accept_sequence<T: Tables>(tables: &T, highest: &AtomicU64, sequence: u64) -> Result<(), Reject> {
    let seen = tables.load(highest);
    if sequence <= seen || !tables.compare_and_swap(highest, seen, sequence) {
        return Err(Reject::Replay);
    }
    Ok(())
}

/// Two CPUs may have accepted consecutive sequences; the newer stamp stays. (A race between load and store costs
/// the microseconds between the two arrivals.)
#[inline(always)]
fn advance<T: Tables>(tables: &T, word: &AtomicU64, value: u64) {
    if value > tables.load(word) {
        tables.store(word, value);
    }
}

/// Stores what leg 1 says about another route of the same peer.
#[inline(always)]
fn note_down<T: Tables>(tables: &T, peer: u16, leg: &Heartbeat, now_ns: u64) {
    let reason = leg.down_reason;
    if leg.down_slot >= MAX_SLOTS || !(down_reason::CARRIER..=down_reason::RX_ONLY).contains(&reason) {
        return;
    }
    if let (Some(config), Some(state)) = (tables.config(leg.down_slot), tables.state(leg.down_slot))
        && config.generation != 0
        && config.peer == peer
    {
        tables.store(&state.told_down, now_ns & !0xf | u64::from(reason));
    }
}

#[inline(always)]
fn words(address: &[u8; 16]) -> [u64; 2] {
    bytemuck::cast(*address)
}

#[cfg(test)]
mod tests;
