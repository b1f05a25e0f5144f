//! The lab's programs: make a port of the switch silent without taking its carrier away.
//!
//! Each port of the switch is the far end of a node's interface. What the node sends comes in there and meets
//! `lab_port`; what is sent to it leaves there and meets `lab_egress`. See `docs/lab.md`.
#![no_std]
#![no_main]

mod ports;
mod sockets;

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS};
use aya_ebpf::macros::{classifier, xdp};
use aya_ebpf::programs::{TcContext, XdpContext};
use netft_common::lab::silent;

/// tcx: go on with the next program, or the stack (`TCX_NEXT`, include/uapi/linux/bpf.h).
const TCX_NEXT: i32 = -1;
/// tcx: drop (`TCX_DROP`).
const TCX_DROP: i32 = 2;

/// XDP on a port: drops what a silenced node sends.
#[xdp]
pub fn lab_port(context: XdpContext) -> u32 {
    // SAFETY: the kernel hands over a valid context.
    let ifindex = unsafe { (*context.ctx).ingress_ifindex };
    if ports::silence(ifindex) & silent::TX != 0 { XDP_DROP } else { XDP_PASS }
}

/// tcx egress on a port: drops what is sent to a silenced node.
#[classifier]
pub fn lab_egress(context: TcContext) -> i32 {
    let skb: *const aya_ebpf::bindings::__sk_buff = context.as_ptr().cast();
    // SAFETY: the kernel hands over a valid context.
    let ifindex = unsafe { (*skb).ifindex };
    if ports::silence(ifindex) & silent::RX != 0 { TCX_DROP } else { TCX_NEXT }
}

/// XDP that passes everything: a veth end needs one for its peer's `XDP_TX` to get through.
#[xdp]
pub fn xdp_pass(_context: XdpContext) -> u32 {
    XDP_PASS
}

/// XDP that gives every frame to the AF_XDP socket of the queue it came in by, and passes it if there is none.
#[xdp]
pub fn lab_socket(context: XdpContext) -> u32 {
    // SAFETY: the kernel hands over a valid context.
    sockets::redirect(unsafe { (*context.ctx).rx_queue_index })
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
