//! The maps, with the layouts of `netft_common::map` and `netft_common::fence`.

use aya_ebpf::bindings::xdp_action::XDP_PASS;
use aya_ebpf::bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC};
use aya_ebpf::btf_maps::{Array, HashMap, PerCpuArray, XskMap};
use aya_ebpf::helpers::bpf_get_smp_processor_id;
use aya_ebpf::helpers::generated::bpf_ktime_get_boot_ns;
use aya_ebpf::macros::btf_map;
use aya_ebpf::programs::XdpContext;
#[cfg(target_arch = "bpf")]
use core::arch::asm;
use core::ptr;
use core::sync::atomic::AtomicU64;
use netft_common::fence::{
    FenceState, FenceTables, MAX_MACS, MAX_VIP_ADDRESSES, MAX_VIPS, VipEntry, vouched_index,
};
use netft_common::heartbeat::Tables;
use netft_common::map::{
    Counter, DataPath, EngineState, GATES as GATES_COUNT, Gate, MAX_CPUS, MAX_INTERFACES, MAX_NODES,
    MAX_QUEUES, MAX_SLOTS, NodeConfig, SlotConfig, SlotState,
};
use netft_common::shared::Shared;

pub const MMAPABLE: usize = BPF_F_MMAPABLE as usize;
/// Addresses of one node: two families on every interface, and room for more.
const MAX_ADDRESSES: usize = 256;

#[btf_map]
static NODE: Array<NodeConfig, 1, MMAPABLE> = Array::new();
#[btf_map]
static ENGINE: Array<EngineState, 1, MMAPABLE> = Array::new();
#[btf_map]
static SLOTS: Array<SlotConfig, { MAX_SLOTS as usize }, MMAPABLE> = Array::new();
#[btf_map]
static STATES: Array<SlotState, { MAX_SLOTS as usize }, MMAPABLE> = Array::new();
/// No program reads it yet; it is here so that all pinned maps come from one object.
#[btf_map]
static ACTIVE: Array<u64, { MAX_NODES as usize }, MMAPABLE> = Array::new();
#[btf_map]
static COUNTERS: PerCpuArray<u64, { Counter::COUNT as usize }> = PerCpuArray::new();
#[btf_map]
static LOCAL: HashMap<[u8; 16], u32, MAX_ADDRESSES> = HashMap::new();

#[btf_map]
static PATHS: Array<u64, { MAX_INTERFACES as usize }, MMAPABLE> = Array::new();
#[btf_map]
static GATES: Array<Gate, { GATES_COUNT as usize }, MMAPABLE> = Array::new();
#[btf_map]
static SOCKETS: XskMap<{ (MAX_INTERFACES * MAX_QUEUES) as usize }> = XskMap::new();

#[btf_map]
static FENCE: Array<FenceState, 1, MMAPABLE> = Array::new();
/// Not allocated beforehand: then an entry isn't reused for another address while a program still reads it.
#[btf_map]
static VIPS: HashMap<[u64; 2], u64, { MAX_VIP_ADDRESSES as usize }, { BPF_F_NO_PREALLOC as usize }> =
    HashMap::new();
#[btf_map]
static OWNED: Array<AtomicU64, { MAX_VIPS as usize }, MMAPABLE> = Array::new();
#[btf_map]
static EVIDENCE: Array<AtomicU64, { MAX_NODES as usize }, MMAPABLE> = Array::new();
#[btf_map]
static VOUCH_INDEX: Array<AtomicU64, { MAX_NODES as usize }, MMAPABLE> = Array::new();
#[btf_map]
static VOUCHED: Array<AtomicU64, { (MAX_CPUS * MAX_NODES) as usize }, MMAPABLE> = Array::new();
#[btf_map]
static MACS: HashMap<u64, u32, { MAX_MACS as usize }> = HashMap::new();

/// Where a frame came in: what only XDP can say.
pub trait Ingress {
    /// Kernel index of the device, and the receive queue.
    fn ingress(&self) -> (u32, u32);
}

impl Ingress for XdpContext {
    #[inline(always)]
    fn ingress(&self) -> (u32, u32) {
        // SAFETY: the context is valid for as long as the program runs.
        unsafe { ((*self.ctx).ingress_ifindex, (*self.ctx).rx_queue_index) }
    }
}

/// TC asks for nothing that depends on it.
impl Ingress for () {
    #[inline(always)]
    fn ingress(&self) -> (u32, u32) {
        (0, 0)
    }
}

/// The maps, and where the frame came in, as the logic wants to see them.
pub struct Maps<'a, I> {
    context: &'a I,
}

impl<'a, I> Maps<'a, I> {
    /// For this run of the program.
    #[inline(always)]
    pub fn new(context: &'a I) -> Self {
        Self { context }
    }
}

impl<I: Ingress> Shared for Maps<'_, I> {
    #[inline(always)]
    fn node(&self) -> Option<&NodeConfig> {
        NODE.get(0)
    }

    #[inline(always)]
    fn engine(&self) -> Option<&EngineState> {
        ENGINE.get(0)
    }

    #[inline(always)]
    fn load(&self, word: &AtomicU64) -> u64 {
        // SAFETY: a reference is valid for reads; an aligned u64 is read whole. Volatile, as others write it.
        unsafe { ptr::read_volatile(word.as_ptr()) }
    }

    #[inline(always)]
    fn store(&self, word: &AtomicU64, value: u64) {
        // SAFETY: the word lies in a map, where programs may write; an aligned u64 is written whole.
        unsafe { ptr::write_volatile(word.as_ptr(), value) };
    }

    #[cfg(target_arch = "bpf")]
    #[inline(always)]
    fn compare_and_swap(&self, word: &AtomicU64, seen: u64, new: u64) -> bool {
        let found: u64;
        // SAFETY: the reference is a valid, aligned u64 in a map. The instruction (BPF_ATOMIC | BPF_CMPXCHG, kernel
        // 5.12 and newer) compares with r0, stores on equality, and leaves what it found in r0.
        unsafe {
            asm!(
                "r0 = cmpxchg_64({word} + 0, r0, {new})",
                word = in(reg) word.as_ptr(),
                new = in(reg) new,
                inout("r0") seen => found,
                options(nostack),
            );
        }
        found == seen
    }
}

impl<I: Ingress> Tables for Maps<'_, I> {
    #[inline(always)]
    fn config(&self, slot: u32) -> Option<&SlotConfig> {
        SLOTS.get(slot)
    }

    #[inline(always)]
    fn read(&self, word: &u32) -> u32 {
        // SAFETY: a reference is valid for reads. Volatile because the engine may change the word meanwhile through
        // its own mapping, and the two reads that are compared must not become one.
        unsafe { ptr::read_volatile(word) }
    }

    #[inline(always)]
    fn state(&self, slot: u32) -> Option<&SlotState> {
        STATES.get(slot)
    }

    #[inline(always)]
    fn is_local(&self, address: &[u8; 16]) -> bool {
        // SAFETY: only whether there is an entry is looked at, so it doesn't matter if it is reused meanwhile.
        unsafe { LOCAL.get(address) }.is_some()
    }

    #[inline(always)]
    fn now_ns(&self) -> u64 {
        // SAFETY: the helper takes nothing and returns a number.
        unsafe { bpf_ktime_get_boot_ns() }
    }

    #[inline(always)]
    fn path(&self, interface: u16) -> DataPath {
        // SAFETY: a reference is valid for reads; an aligned u64 is read whole. Volatile, as the engine writes it.
        PATHS
            .get(interface.into())
            .map_or(DataPath::default(), |word| DataPath::from_word(unsafe { ptr::read_volatile(word) }))
    }

    #[inline(always)]
    fn gate(&self, index: u32) -> Option<&Gate> {
        GATES.get(index)
    }

    #[inline(always)]
    fn ingress(&self) -> (u32, u32) {
        self.context.ingress()
    }
}

impl<I: Ingress> FenceTables for Maps<'_, I> {
    #[inline(always)]
    fn fence(&self) -> Option<&FenceState> {
        FENCE.get(0)
    }

    #[inline(always)]
    fn evidence(&self, node: u16) -> Option<&AtomicU64> {
        EVIDENCE.get(node.into())
    }

    #[inline(always)]
    fn vouch_index(&self, node: u16) -> Option<&AtomicU64> {
        VOUCH_INDEX.get(node.into())
    }

    #[inline(always)]
    fn vouched(&self, node: u16) -> Option<&AtomicU64> {
        // SAFETY: the helper takes nothing and returns a number.
        let cpu = unsafe { bpf_get_smp_processor_id() };
        VOUCHED.get(vouched_index(cpu, node)?)
    }

    #[inline(always)]
    fn owned(&self, vip: u32) -> Option<&AtomicU64> {
        OWNED.get(vip)
    }

    #[inline(always)]
    fn vip(&self, address: &[u64; 2]) -> Option<VipEntry> {
        // SAFETY: an entry that is replaced or removed stays as it is until no program can see it any more (RCU), as it
        // isn't allocated beforehand.
        let word = unsafe { VIPS.get(address) }?;
        Some(VipEntry::from_word(*word))
    }

    #[inline(always)]
    fn is_own_mac(&self, mac: u64) -> bool {
        // SAFETY: only whether there is an entry is looked at.
        unsafe { MACS.get(mac) }.is_some()
    }

    #[cfg(target_arch = "bpf")]
    #[inline(always)]
    fn exchange(&self, word: &AtomicU64, value: u64) {
        // SAFETY: the reference is a valid, aligned u64 in a map. The instruction (BPF_ATOMIC | BPF_XCHG, kernel 5.12 and
        // newer) is a full barrier (Documentation/bpf/standardization/instruction-set.rst, kernel memory model).
        unsafe {
            asm!(
                "{value} = xchg_64({word} + 0, {value})",
                word = in(reg) word.as_ptr(),
                value = inout(reg) value => _,
                options(nostack),
            );
        }
    }

    #[cfg(target_arch = "bpf")]
    #[inline(always)]
    fn barrier(&self) {
        // An exchange with a word of our own: eBPF has no other full barrier.
        self.exchange(&AtomicU64::new(0), 0);
    }
}

/// Gives the frame to an AF_XDP socket; says whether there is one.
#[inline(always)]
pub fn redirect(index: u32) -> bool {
    SOCKETS.redirect(index, XDP_PASS.into()).is_ok()
}

/// Adds one to a counter of this CPU.
#[inline(always)]
pub fn count(counter: u32) {
    if let Some(value) = COUNTERS.get_ptr_mut(counter) {
        // SAFETY: the map gave a pointer to this CPU's own u64, and the program isn't preempted by itself.
        unsafe { *value += 1 };
    }
}
