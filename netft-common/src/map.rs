//! What eBPF and userspace share through maps. All arrays are `BPF_F_MMAPABLE` unless said otherwise, so that the
//! engine reads and writes them without a syscall. Words marked "kernel" are written by eBPF only, "engine" by
//! userspace only: one writer per word.

use crate::wire::{VERSION, Versions};
use bytemuck::{Pod, Zeroable};
use core::sync::atomic::AtomicU64;

/// Version of these layouts. A daemon that finds pinned maps of another version makes new ones.
pub const LAYOUT_VERSION: u32 = 5;
/// Routes one node can have: slots are 0..MAX_SLOTS.
pub const MAX_SLOTS: u32 = 1024;
/// Node ids are 1..MAX_NODES.
pub const MAX_NODES: u32 = 256;
/// Interface numbers are 0..MAX_INTERFACES.
pub const MAX_INTERFACES: u32 = 64;
/// Receive queues of one interface that can have an AF_XDP socket: 0..MAX_QUEUES.
pub const MAX_QUEUES: u32 = 64;

/// Names of the maps in the object and of their pins.
pub mod name {
    /// One [`super::NodeConfig`]. Engine writes.
    pub const NODE: &str = "NODE";
    /// One [`super::EngineState`]. Engine writes.
    pub const ENGINE: &str = "ENGINE";
    /// [`super::SlotConfig`] per slot. Engine writes.
    pub const SLOTS: &str = "SLOTS";
    /// [`super::SlotState`] per slot. Kernel writes.
    pub const STATES: &str = "STATES";
    /// Active-route words, one `u64` per node id (see [`super::ActiveRoute`]). Engine writes.
    pub const ACTIVE: &str = "ACTIVE";
    /// [`super::Counter`]s: per-CPU array of `u64`, not mmapable. Kernel writes.
    pub const COUNTERS: &str = "COUNTERS";
    /// Hash of the node's own addresses ([u8; 16]) to 1: tells a wrong slot from somebody else's packet.
    pub const LOCAL: &str = "LOCAL";
    /// [`super::DataPath`] words, one `u64` per interface number. Engine writes.
    pub const PATHS: &str = "PATHS";
    /// AF_XDP sockets by [`super::socket_index`]; not mmapable. The kernel takes a socket out when it is closed.
    pub const SOCKETS: &str = "SOCKETS";
    /// [`super::Gate`]s: what the data thread has room for. Kernel and engine write a word each.
    pub const GATES: &str = "GATES";
    /// [`super::CpuTick`] per CPU. Kernel writes.
    pub const CPUS: &str = "CPUS";
    /// The timers behind [`CPUS`]; not mmapable.
    pub const TIMERS: &str = "TIMERS";
}

/// CPUs that are watched; those above are not.
pub const MAX_CPUS: u32 = 512;
/// How often a watched CPU ticks, in nanoseconds.
pub const CPU_TICK_NS: u64 = 1_000_000;

/// Values of [`CpuTick::state`].
pub mod cpu_tick {
    /// No legs lately, no ticks.
    pub const RESTING: u64 = 0;
    /// It ticks.
    pub const RUNNING: u64 = 1;
    /// This kernel can't.
    pub const UNAVAILABLE: u64 = 2;
}

/// Whether a CPU that handles legs does so in time.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct CpuTick {
    /// Its last tick, boottime; while it runs, a new one comes every [`CPU_TICK_NS`].
    pub tick_ns: u64,
    /// The last leg that it handled, boottime.
    pub used_ns: u64,
    /// See [`cpu_tick`].
    pub state: u64,
    /// 0.
    pub reserved: u64,
}

/// Who this node is.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct NodeConfig {
    /// [`LAYOUT_VERSION`].
    pub layout: u32,
    /// Cluster id; 0 = not set, everything is passed.
    pub cluster_id: u32,
    /// Own node id.
    pub node_id: u16,
    /// The wire versions that it speaks.
    pub versions: Versions,
    /// 0.
    pub reserved: [u16; 2],
    /// The boot nonce, kept here so that a restarted daemon goes on with the same keys.
    pub boot_nonce: [u8; 16],
}

/// The engine's liveness, read by XDP for every reply.
#[repr(C)]
#[derive(Debug, Default)]
pub struct EngineState {
    /// Boottime of the engine's last tick, in nanoseconds; 0 = never.
    pub tick_ns: AtomicU64,
    /// [`crate::wire::flags`] that XDP puts into replies.
    pub flags: AtomicU64,
    /// Bit i set = the interface with number i is dead: one store takes all its routes away from transmitters.
    pub dead_interfaces: AtomicU64,
    /// Next hello/data sequence floor and such: words that must outlive a restart. The first is the next data sequence.
    pub persistent: [AtomicU64; 5],
}

/// The heartbeat keys of one epoch of a session, as one end has them. All zero = none.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct KeySet {
    /// Names it on the wire; 0 = there is none. The engine writes 0 here before it changes the keys, and this last.
    pub epoch: u32,
    /// 1 = leg 1 is sent with it. Others are only accepted, and answered with.
    pub sends: u16,
    /// The wire version that they were agreed on for.
    pub version: u8,
    /// 0.
    pub reserved: u8,
    /// Key of what we send: two little-endian words.
    pub send_key: [u64; 2],
    /// Key of what we receive.
    pub receive_key: [u64; 2],
}

impl KeySet {
    /// One that leg 1 is sent with, for the newest version.
    pub const fn sending(epoch: u32, send_key: [u64; 2], receive_key: [u64; 2]) -> Self {
        Self { epoch, sends: 1, version: VERSION, reserved: 0, send_key, receive_key }
    }
}

/// One route as XDP must know it. The engine writes `generation` last, and 0 there before changing anything else but
/// keys: those change while the slot is in use.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct SlotConfig {
    /// 0 = free; else changes whenever the slot gets another meaning. Written last (release).
    pub generation: u32,
    /// The peer's slot for this route, [`crate::wire::NO_SLOT`] until it told us (then legs are not answered).
    pub remote_slot: u32,
    /// Node id of the peer.
    pub peer: u16,
    /// Number of the local interface, 0..64, the bit in [`EngineState::dead_interfaces`].
    pub interface: u16,
    /// Digest of both nodes' ids and boot nonces: another one means another life of the peer.
    pub lives: u32,
    /// Own address, IPv4 as `::ffff:a.b.c.d`.
    pub local: [u8; 16],
    /// The peer's address.
    pub remote: [u8; 16],
    /// Keys of at most two epochs, in no order: while keys are replaced, both are good.
    pub keys: [KeySet; 2],
}

impl SlotConfig {
    /// The keys of an epoch.
    #[inline(always)]
    pub const fn keys_of(&self, epoch: u32) -> Option<&KeySet> {
        if epoch == 0 {
            None
        } else if self.keys[0].epoch == epoch {
            Some(&self.keys[0])
        } else if self.keys[1].epoch == epoch {
            Some(&self.keys[1])
        } else {
            None
        }
    }

    /// The keys that leg 1 is sent with; `None` as long as there is no session.
    pub fn sending(&self) -> Option<&KeySet> {
        self.keys.iter().find(|keys| keys.epoch != 0 && keys.sends != 0)
    }

    /// Accepts what was made with `keys` from now on. Of the two places that one is used whose keys don't send: what they
    /// were is no longer accepted. Idempotent.
    pub fn admit(&mut self, keys: KeySet) {
        if self.keys_of(keys.epoch).is_some() {
            return;
        }
        let place = match self.sending() {
            Some(sending) if sending.epoch == self.keys[0].epoch => 1,
            Some(_) => 0,
            None => usize::from(self.keys[0].epoch != 0 && self.keys[1].epoch == 0),
        };
        self.keys[place] = KeySet { sends: 0, ..keys };
    }

    /// Sends with the keys of `epoch` from now on; the others stay accepted. Without such keys nothing changes.
    pub fn send_with(&mut self, epoch: u32) {
        if self.keys_of(epoch).is_some() {
            self.keys.iter_mut().for_each(|keys| keys.sends = u16::from(keys.epoch == epoch));
        }
    }

    /// Accepts only the keys that send.
    pub fn retire(&mut self) {
        if self.sending().is_some() {
            self.keys.iter_mut().filter(|keys| keys.sends == 0).for_each(|keys| *keys = KeySet::default());
        }
    }
}

/// What XDP has seen on one route. Kernel writes all of it, except `next_sequence` and `newest_sent_ns` (engine).
/// Times are CLOCK_BOOTTIME nanoseconds of this node. 128 bytes: two cache lines.
///
/// Whoever gives a slot another meaning zeroes the kernel's words while `generation` is 0. New keys change nothing here:
/// sequences go on, so that what was accepted with the old ones stays a replay (0 is never accepted).
#[repr(C)]
#[derive(Debug, Default)]
pub struct SlotState {
    /// Per leg (index = leg - 1) the highest sequence accepted; advanced by one compare-and-swap, the loser drops.
    pub highest: [AtomicU64; 4],
    /// Per leg the arrival stamp of the newest accepted one.
    pub arrival_ns: [AtomicU64; 4],
    /// Own send stamp echoed by the newest accepted leg 4 (of our leg 1): "newest heartbeat that completed".
    pub completed_sent_ns: AtomicU64,
    /// Own leg-2 send stamp echoed by the newest accepted leg 3: the same proof, needing no engine of ours.
    pub confirmed_sent_ns: AtomicU64,
    /// Round trip of the newest leg 2, in nanoseconds.
    pub rtt_ns: AtomicU64,
    /// Newest moment, in our clock, at which the peer's engine is known to have ticked, from legs 2 to 4: the stamp
    /// they echo less the age they carry, so it errs by at most one round trip, towards older; 0 = never seen.
    pub peer_tick_ns: AtomicU64,
    /// When the peer told us that the far end of this route is down, and [`down_reason`] in the low 4 bits; 0 = never.
    pub told_down: AtomicU64,
    /// Flags of the newest accepted leg from the peer ([`crate::wire::flags`]), and in the upper half the key epoch of the
    /// newest accepted leg 1: the one that the peer sends with.
    pub peer_flags: AtomicU64,
    /// Engine: sequence of the next leg 1, so that a restarted engine goes on above what the peer accepted.
    pub next_sequence: AtomicU64,
    /// Engine: the route's [`Standing`], so that a restarted engine takes it over as it was, and data threads know what
    /// has to be sent again.
    pub engine_flags: AtomicU64,
}

impl SlotState {
    /// All of it, in order.
    pub fn words(&self) -> [&AtomicU64; size_of::<Self>() / size_of::<AtomicU64>()] {
        let Self {
            highest: [h1, h2, h3, h4],
            arrival_ns: [a1, a2, a3, a4],
            completed_sent_ns,
            confirmed_sent_ns,
            rtt_ns,
            peer_tick_ns,
            told_down,
            peer_flags,
            next_sequence,
            engine_flags,
        } = self;
        [
            h1,
            h2,
            h3,
            h4,
            a1,
            a2,
            a3,
            a4,
            completed_sent_ns,
            confirmed_sent_ns,
            rtt_ns,
            peer_tick_ns,
            told_down,
            peer_flags,
            next_sequence,
            engine_flags,
        ]
    }
}

/// How a route stands, packed into one 8-byte word ([`SlotState::engine_flags`]). Times lose their lowest bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Down. Of what was sent over it, only what left before this moment (boottime; 0 = nothing) is known to have had a
    /// path: then the newest heartbeat was sent that had completed at the verdict.
    Down {
        /// That moment.
        covered_ns: u64,
    },
    /// Up.
    Up {
        /// Since then, boottime.
        since_ns: u64,
    },
}

impl Standing {
    /// The word as stored.
    pub const fn to_word(self) -> u64 {
        match self {
            Self::Down { covered_ns } => covered_ns & !1,
            Self::Up { since_ns } => since_ns | 1,
        }
    }

    /// From the word as stored.
    pub const fn from_word(word: u64) -> Self {
        match word & 1 {
            0 => Self::Down { covered_ns: word },
            _ => Self::Up { since_ns: word & !1 },
        }
    }

    /// Whether it is up.
    pub const fn is_up(self) -> bool {
        matches!(self, Self::Up { .. })
    }
}

/// Why a route's far end is down, as told in [`crate::wire::Heartbeat::down_reason`].
pub mod down_reason {
    /// Its interface lost the carrier.
    pub const CARRIER: u32 = 1;
    /// Its interface was taken down by an administrator.
    pub const ADMIN: u32 = 2;
    /// It receives on this route, but what it sends doesn't arrive: names the direction, takes nothing down.
    pub const RX_ONLY: u32 = 3;
}

/// The active route of one peer, packed into one 8-byte word of [`name::ACTIVE`]: one store moves a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ActiveRoute {
    /// Slot that carries cluster traffic, `u16::MAX` = none.
    pub slot: u16,
    /// Slot to use while the first one's interface has its bit in [`EngineState::dead_interfaces`]; `u16::MAX` = none.
    pub backup: u16,
    /// Grows with every change; never 0 once set.
    pub generation: u32,
}

impl ActiveRoute {
    /// No route.
    pub const NONE: u16 = u16::MAX;

    /// The word as stored.
    pub const fn to_word(self) -> u64 {
        (self.slot as u64) | (self.backup as u64) << 16 | (self.generation as u64) << 32
    }

    /// From the word as stored.
    #[expect(clippy::cast_possible_truncation, reason = "each field takes its own bits")]
    pub const fn from_word(word: u64) -> Self {
        Self { slot: word as u16, backup: (word >> 16) as u16, generation: (word >> 32) as u32 }
    }
}

/// Where a socket stands in [`name::SOCKETS`].
#[inline(always)]
pub const fn socket_index(interface: u16, queue: u32) -> u32 {
    interface as u32 * MAX_QUEUES + queue
}

/// What XDP gives to AF_XDP sockets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Steering {
    /// Nothing: data goes to the kernel's UDP sockets.
    #[default]
    Nothing,
    /// Probes only, to see whether they arrive.
    Probes,
    /// Probes and data.
    Everything,
}

/// Messages that only userspace can judge, on their way through the kernel's sockets. More of them than userspace takes
/// would cost this CPU the time that heartbeats need, only to be dropped at the socket: XDP drops them first.
#[repr(C)]
#[derive(Debug, Default)]
pub struct Gate {
    /// Kernel: how many were let through. (Two CPUs may count two as one; then one more gets through.)
    pub passed: AtomicU64,
    /// Engine: how many may be, all in all; 0 = all.
    pub limit: AtomicU64,
}

/// Number of [`Gate`]s.
pub const GATES: u32 = 2 * MAX_INTERFACES + 1;
/// The gate for hellos, and for whatever names no route of ours.
pub const COMMON_GATE: u32 = 2 * MAX_INTERFACES;

/// The gate for data on routes of an interface: each address family has its own, as each has its own sockets.
#[inline(always)]
pub const fn gate_index(interface: u16, v6: bool) -> u32 {
    2 * interface as u32 + v6 as u32
}

/// How data is received on one interface, packed into one 8-byte word of [`name::PATHS`]: one store switches it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DataPath {
    /// The interface's kernel index. A frame that comes in by another device (a bond's port, a VLAN's parent) would be
    /// lost on its way to a socket of this one, so it goes to the kernel.
    pub ifindex: u32,
    /// What is steered.
    pub steering: Steering,
    /// Another one for other sockets, below [`Self::GENERATIONS`]: who compares and swaps can't mistake them for those it knows.
    pub generation: u32,
}

impl DataPath {
    /// Values of [`Self::generation`].
    pub const GENERATIONS: u32 = 1 << 30;

    /// The word as stored: index, two bits of steering, generation.
    pub const fn to_word(self) -> u64 {
        self.ifindex as u64 | (self.steering as u64) << 32 | (self.generation as u64) << 34
    }

    /// From the word as stored; a steering that doesn't exist is none.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "each field takes its own bits")]
    pub const fn from_word(word: u64) -> Self {
        let steering = match (word >> 32) & 0b11 {
            1 => Steering::Probes,
            2 => Steering::Everything,
            _ => Steering::Nothing,
        };
        Self { ifindex: word as u32, steering, generation: (word >> 34) as u32 }
    }
}

/// Indices into [`name::COUNTERS`]: what XDP did with packets, and the fence in TC. Per-packet events are counted, and logged only
/// if an administrator asks for it (`log.packets`).
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counter {
    /// Not netft's: passed without a look.
    PassedOther = 0,
    /// netft's, for userspace (hello, data): passed.
    PassedUserspace,
    /// Right magic, another cluster's id: passed.
    PassedOtherCluster,
    /// Right magic, for an address that isn't ours: passed.
    PassedOtherHost,
    /// Right magic and cluster, a version we don't speak.
    RejectVersion,
    /// Right magic, cluster and version, a kind we don't know.
    RejectKind,
    /// Shorter than its kind says, or a length field that lies.
    RejectTruncated,
    /// Slot out of range, free, or of another address pair.
    RejectSlot,
    /// Source node or address isn't the route's remote endpoint.
    RejectSource,
    /// Destination node isn't us.
    RejectDestination,
    /// Key epoch of another session.
    RejectEpoch,
    /// Tag doesn't verify.
    RejectTag,
    /// Sequence not above the highest accepted: replayed, duplicated or overtaken.
    RejectReplay,
    /// An IP fragment, or IP options / extension headers on port 3343: rejected when sent to one of our slots.
    RejectFragment,
    /// Echoed stamp in the future.
    RejectStamp,
    /// For userspace, which has enough to do: see [`Gate`].
    RejectBacklog,
    /// Leg 1 accepted (leg 2 sent).
    Leg1,
    /// Leg 2 accepted (leg 3 sent).
    Leg2,
    /// Leg 3 accepted (leg 4 sent).
    Leg3,
    /// Leg 4 accepted (nothing sent).
    Leg4,
    /// An accepted leg that couldn't be answered (the peer's slot isn't known yet).
    Unanswered,
    /// Data or a probe, given to an AF_XDP socket.
    Redirected,
    /// Data or a probe that was to go to an AF_XDP socket, but its queue has none, or it came in by another device:
    /// passed to the kernel's socket.
    FellThrough,
    /// For or from a VIP: the fence is closed, as it isn't set up, or is at this moment being changed.
    FenceNotReady,
    /// The same, as the engine didn't tick within its timeout.
    FenceEngineStalled,
    /// The same, as no majority of voters vouched within their leases.
    FenceNoMajority,
    /// The same, as this node isn't the owner.
    FenceNotOwner,
}

impl Counter {
    /// Number of counters.
    pub const COUNT: u32 = Counter::FenceNotOwner as u32 + 1;
    /// Metric-style names, in order.
    pub const NAMES: [&'static str; Counter::COUNT as usize] = [
        "passed_other",
        "passed_userspace",
        "passed_other_cluster",
        "passed_other_host",
        "reject_version",
        "reject_kind",
        "reject_truncated",
        "reject_slot",
        "reject_source",
        "reject_destination",
        "reject_epoch",
        "reject_tag",
        "reject_replay",
        "reject_fragment",
        "reject_stamp",
        "reject_backlog",
        "leg1",
        "leg2",
        "leg3",
        "leg4",
        "unanswered",
        "redirected",
        "fell_through",
        "fence_not_ready",
        "fence_engine_stalled",
        "fence_no_majority",
        "fence_not_owner",
    ];
}

/// Pad so that nothing here is forgotten when layouts change.
const _: () = {
    assert!(size_of::<NodeConfig>() == 32);
    assert!(size_of::<EngineState>() == 64);
    assert!(size_of::<KeySet>() == 40);
    assert!(size_of::<SlotConfig>() == 128);
    assert!(size_of::<SlotState>() == 128);
    assert!(size_of::<Gate>() == 16);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_data_path_is_one_word_and_generations_differ() {
        let path =
            DataPath { ifindex: u32::MAX, steering: Steering::Probes, generation: DataPath::GENERATIONS - 1 };
        for path in [path, DataPath { steering: Steering::Everything, ..path }, DataPath::default()] {
            assert_eq!(DataPath::from_word(path.to_word()), path);
        }
        assert_ne!(path.to_word(), DataPath { generation: 0, ..path }.to_word());
    }
}
