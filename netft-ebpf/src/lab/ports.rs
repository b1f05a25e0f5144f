//! Which ports are silent.

use aya_ebpf::bindings::BPF_F_MMAPABLE;
use aya_ebpf::btf_maps::{Array, HashMap};
use aya_ebpf::macros::btf_map;
use core::ptr;
use netft_common::lab::{MAX_PORTS, NODES, Port};

#[btf_map]
static LAB_PORTS: HashMap<u32, Port, { MAX_PORTS as usize }> = HashMap::new();
#[btf_map]
static LAB_NODES: Array<u32, { NODES as usize }, { BPF_F_MMAPABLE as usize }> = Array::new();

/// `netft_common::lab::silent` bits of a port and its node together.
#[inline(always)]
pub fn silence(ifindex: u32) -> u32 {
    // SAFETY: the entry is plain data; one that is replaced meanwhile gives the old or the new bits.
    let Some(port) = (unsafe { LAB_PORTS.get(ifindex) }) else { return 0 };
    let node = match LAB_NODES.get_ptr(port.node) {
        // SAFETY: the map gave a valid pointer. Volatile because userspace stores through its own mapping.
        Some(word) => unsafe { ptr::read_volatile(word) },
        None => 0,
    };
    port.silent | node
}
