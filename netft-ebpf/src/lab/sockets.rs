//! AF_XDP sockets of benchmarks.

use aya_ebpf::bindings::xdp_action::XDP_PASS;
use aya_ebpf::btf_maps::XskMap;
use aya_ebpf::macros::btf_map;

/// By queue.
#[btf_map]
static LAB_SOCKETS: XskMap<64> = XskMap::new();

/// The action for a frame that came in by `queue`.
#[inline(always)]
pub fn redirect(queue: u32) -> u32 {
    match LAB_SOCKETS.redirect(queue, XDP_PASS.into()) {
        Ok(action) | Err(action) => action,
    }
}
