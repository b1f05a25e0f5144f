//! The maps, with the layouts of `netft_common::map`.

use aya_ebpf::bindings::BPF_F_MMAPABLE;
use aya_ebpf::bindings::xdp_action::XDP_PASS;
use aya_ebpf::btf_maps::{Array, HashMap, PerCpuArray, XskMap};
use aya_ebpf::helpers::generated::bpf_ktime_get_boot_ns;
use aya_ebpf::macros::btf_map;
use aya_ebpf::programs::XdpContext;
#[cfg(target_arch = "bpf")]
use core::arch::asm;
use core::ptr;
use core::sync::atomic::AtomicU64;
use netft_common::heartbeat::Tables;
use netft_common::map::{
    Counter, DataPath, EngineState, GATES as GATES_COUNT, Gate, MAX_INTERFACES, MAX_NODES, MAX_QUEUES,
    MAX_SLOTS, NodeConfig, SlotConfig, SlotState,
};

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

/// The maps, and where the frame came in, as the logic wants to see them.
pub struct Maps<'a> {
    context: &'a XdpContext,
}

impl<'a> Maps<'a> {
    /// For this run of the program.
    #[inline(always)]
    pub fn new(context: &'a XdpContext) -> Self {
        Self { context }
    }
}

impl Tables for Maps<'_> {
    #[inline(always)]
    fn node(&self) -> Option<&NodeConfig> {
        NODE.get(0)
    }

    #[inline(always)]
    fn engine(&self) -> Option<&EngineState> {
        ENGINE.get(0)
    }

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
        let context = self.context.ctx;
        // SAFETY: the context is valid for as long as the program runs.
        unsafe { ((*context).ingress_ifindex, (*context).rx_queue_index) }
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
