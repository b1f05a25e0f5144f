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

use crate::map::{Counter, EngineState, MAX_SLOTS, NodeConfig, SlotConfig, SlotState, down_reason};
use crate::siphash::SipHash24;
use crate::wire::{self, Header, Heartbeat, NO_SLOT, kind};
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Where a node keeps what it knows: eBPF maps, or plain memory in tests and simulations.
pub trait Tables {
    /// Who this node is; `None` or cluster id 0 = nobody yet.
    fn node(&self) -> Option<&NodeConfig>;
    /// The engine's liveness.
    fn engine(&self) -> Option<&EngineState>;
    /// Configuration of a slot, `None` if out of range. May change under the reader: see [`Tables::generation`].
    fn config(&self, slot: u32) -> Option<&SlotConfig>;
    /// `config.generation` read again from memory, to see that nothing changed meanwhile.
    fn generation(&self, config: &SlotConfig) -> u32;
    /// Evidence of a slot, `None` if out of range.
    fn state(&self, slot: u32) -> Option<&SlotState>;
    /// Whether the address is one of this node's.
    fn is_local(&self, address: &[u8; 16]) -> bool;
    /// CLOCK_BOOTTIME in nanoseconds.
    fn now_ns(&self) -> u64;
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
    /// This leg goes back to where the accepted one came from.
    Reply(Heartbeat),
    /// Leg 4: nothing answers it.
    Complete,
    /// The peer's slot isn't known yet, so there is nowhere to answer to.
    Unanswered,
}

/// The addresses that a message travelled between, IPv4 as `::ffff:a.b.c.d`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// The sender's.
    pub source: [u8; 16],
    /// The receiver's.
    pub destination: [u8; 16],
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
        let generation = tables.generation(config);
        if generation != 0 && same(&config.local, &addresses.destination) {
            if !same(&config.remote, &addresses.source) {
                return Err(Reject::Source.into());
            }
            return Ok((generation, config));
        }
    }
    if tables.is_local(&addresses.destination) { Err(Reject::Slot.into()) } else { Err(Refusal::NotOurs) }
}

/// Checks a leg that arrived, and if it is accepted stamps it and makes the answer. A leg that is not accepted
/// changes nothing.
///
/// # Errors
/// [`Refusal::NotOurs`] and every [`Reject`] but those of malformed frames, in the order of `docs/wire-format.md`.
#[inline(always)]
pub fn answer<T: Tables>(
    tables: &T,
    node: &NodeConfig,
    addresses: &Addresses,
    leg: &Heartbeat,
) -> Result<Answer, Refusal> {
    let header = &leg.header;
    let (generation, config) = find_slot(tables, addresses, header)?;
    if header.source != config.peer {
        return Err(Reject::Source.into());
    }
    if header.destination != node.node_id {
        return Err(Reject::Destination.into());
    }
    if header.key_epoch != config.key_epoch {
        return Err(Reject::Epoch.into());
    }
    if leg.tag != tag(config.receive_key, addresses, leg) {
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
    // All that was read belongs to one life of the slot, or nothing counts.
    if tables.generation(config) != generation {
        return Err(Reject::Slot.into());
    }
    let (highest, arrival_ns) = per_leg(state, header.kind);
    accept_sequence(highest, header.sequence)?;

    advance(arrival_ns, now_ns);
    state.peer_flags.store(u64::from(header.flags), Relaxed);
    if header.kind != kind::REQUEST && leg.tick_age_ns != u64::MAX {
        // The leg left after the stamp it echoes was made, so the tick is no older than this. Counting from the
        // arrival would let a delayed leg make a dead engine look alive.
        advance(&state.peer_tick_ns, echoed_ns.saturating_sub(leg.tick_age_ns));
    }
    match header.kind {
        kind::REQUEST => note_down(tables, config.peer, leg, now_ns),
        kind::REPLY => state.rtt_ns.store(now_ns - echoed_ns, Relaxed),
        kind::CONFIRMATION => advance(&state.confirmed_sent_ns, echoed_ns),
        _ => advance(&state.completed_sent_ns, echoed_ns),
    }
    if header.kind == kind::FINAL_REPLY {
        return Ok(Answer::Complete);
    }
    if config.remote_slot == NO_SLOT {
        return Ok(Answer::Unanswered);
    }
    let mut reply = Heartbeat {
        header: own_header(node, config, engine, header.kind + 1, header.sequence),
        initiator_sent_ns: leg.initiator_sent_ns,
        responder_sent_ns: if header.kind == kind::REQUEST { now_ns } else { leg.responder_sent_ns },
        tick_age_ns: tick_age(engine, now_ns),
        vouch_index: 0,
        down_slot: NO_SLOT,
        down_reason: 0,
        reserved: 0,
        tag: 0,
    };
    let back = Addresses { source: config.local, destination: config.remote };
    reply.tag = tag(config.send_key, &back, &reply);
    Ok(Answer::Reply(reply))
}

/// Leg 1, ready to be sent from `config.local` to `config.remote`. For the engine, just before it sends: `now_ns`
/// is the send stamp that all evidence counts from. `notice` tells the peer which of *its* slots' far end is down,
/// and why ([`down_reason`]). `None` as long as the peer's slot isn't known.
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
    let (down_slot, down_reason) = notice.unwrap_or((NO_SLOT, 0));
    let mut leg = Heartbeat {
        header: own_header(node, config, engine, kind::REQUEST, sequence),
        initiator_sent_ns: now_ns,
        responder_sent_ns: 0,
        tick_age_ns: tick_age(engine, now_ns),
        vouch_index: 0,
        down_slot,
        down_reason,
        reserved: 0,
        tag: 0,
    };
    let there = Addresses { source: config.local, destination: config.remote };
    leg.tag = tag(config.send_key, &there, &leg);
    Some(leg)
}

/// The tag of a leg: SipHash-2-4 over the sender's address, the receiver's, and all of the leg before its tag.
#[inline(always)]
pub fn tag(key: [u64; 2], addresses: &Addresses, leg: &Heartbeat) -> u64 {
    const COVERED: usize = 32 + size_of::<Heartbeat>() - 8;
    let mut hash = SipHash24::new(key);
    for address in [words(&addresses.source), words(&addresses.destination)] {
        hash.write(address[0]);
        hash.write(address[1]);
    }
    let leg_words: [u64; 11] = bytemuck::cast(*leg);
    for &word in &leg_words[..10] {
        hash.write(word);
    }
    hash.finish(COVERED, 0)
}

#[inline(always)]
fn own_header(
    node: &NodeConfig,
    config: &SlotConfig,
    engine: &EngineState,
    kind: u8,
    sequence: u64,
) -> Header {
    #[expect(clippy::cast_possible_truncation, reason = "the engine keeps wire flags there, 16 bits")]
    let flags = engine.flags.load(Relaxed) as u16;
    Header {
        magic: wire::MAGIC,
        version: wire::VERSION,
        kind,
        flags,
        cluster_id: node.cluster_id,
        source: node.node_id,
        destination: config.peer,
        slot: config.remote_slot,
        key_epoch: config.key_epoch,
        sequence,
    }
}

/// Age of the engine's last tick, `u64::MAX` if it never ticked. A tick between the two clock readings counts as 0.
#[inline(always)]
fn tick_age(engine: &EngineState, now_ns: u64) -> u64 {
    match engine.tick_ns.load(Relaxed) {
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
fn accept_sequence(highest: &AtomicU64, sequence: u64) -> Result<(), Reject> {
    let seen = highest.load(Relaxed);
    if sequence <= seen || highest.compare_exchange(seen, sequence, Relaxed, Relaxed).is_err() {
        return Err(Reject::Replay);
    }
    Ok(())
}

/// Two CPUs may have accepted consecutive sequences; the newer stamp stays. (A race between load and store costs
/// the microseconds between the two arrivals.)
#[inline(always)]
fn advance(word: &AtomicU64, value: u64) {
    if value > word.load(Relaxed) {
        word.store(value, Relaxed);
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
        state.told_down.store(now_ns & !0xf | u64::from(reason), Relaxed);
    }
}

#[inline(always)]
fn words(address: &[u8; 16]) -> [u64; 2] {
    bytemuck::cast(*address)
}

#[inline(always)]
fn same(a: &[u8; 16], b: &[u8; 16]) -> bool {
    words(a) == words(b)
}

#[cfg(test)]
mod tests;
