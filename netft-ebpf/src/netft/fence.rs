//! The fence at the interfaces, in XDP and in TC: what to do is decided by [`netft_common::vip`].
//!
//! TC counts nothing for frames that pass, and looks at none as long as there are no VIPs.

use super::frame::{TcFrame, XdpFrame};
use super::maps::{Maps, count};
use aya_ebpf::bindings::xdp_md;
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::{TcContext, XdpContext};
use netft_common::fence::Closed;
use netft_common::map::Counter;
use netft_common::vip;

/// tcx: go on with the next program, or the stack (`TCX_NEXT`, include/uapi/linux/bpf.h; `TC_ACT_UNSPEC` of clsact).
const NEXT: i32 = -1;
/// tcx: drop (`TCX_DROP`; `TC_ACT_SHOT` of clsact).
const DROP: i32 = 2;
/// Sent to this host (include/uapi/linux/if_packet.h).
const PACKET_HOST: u32 = 0;

/// For a frame that XDP would give to the kernel: the counter of why not, or [`PASSED`]. Exported, which makes it one of the
/// functions that the verifier looks at once, and not again for each way that leads here.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn netft_enters(context: *mut xdp_md) -> u32 {
    let context = XdpContext::new(context);
    verdict(vip::may_enter(&XdpFrame::new(&context), &Maps::new(&context)))
}

/// There is nothing to object to.
pub const PASSED: u32 = u32::MAX;

/// On the way out of every interface that netft is told of.
#[classifier]
pub fn netft_out(context: TcContext) -> i32 {
    // SAFETY: the kernel hands over a valid context.
    let came_in_by = unsafe { (*context.skb.skb).ingress_ifindex };
    finish(vip::may_leave(&TcFrame::new(&context), &Maps::new(&()), came_in_by))
}

/// On the way in, where there is no XDP.
#[classifier]
pub fn netft_in(context: TcContext) -> i32 {
    // SAFETY: the kernel hands over a valid context.
    if unsafe { (*context.skb.skb).pkt_type } != PACKET_HOST {
        return NEXT;
    }
    finish(vip::may_enter_here(&TcFrame::new(&context), &Maps::new(&())))
}

#[inline(always)]
fn finish(result: Result<(), Closed>) -> i32 {
    match verdict(result) {
        PASSED => NEXT,
        counter => {
            count(counter);
            DROP
        }
    }
}

#[inline(always)]
fn verdict(result: Result<(), Closed>) -> u32 {
    match result {
        Ok(()) => PASSED,
        Err(closed) => Counter::from(closed) as u32,
    }
}
