//! netft's XDP program: answers heartbeat legs, gives data to AF_XDP sockets, passes everything that isn't netft's, but for what
//! the [`fence`] keeps out. And the fence's programs in TC.
//!
//! Only this file knows XDP actions. What to do with a frame is decided by [`netft_common::receive`], which is
//! tested as plain Rust; here are the maps it reads ([`maps`]) and the frame it reads from ([`frame`]).
#![no_std]
#![no_main]
// Elsewhere only clippy looks at it.
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

mod fence;
mod frame;
mod log;
mod maps;
mod sense;

use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS, XDP_REDIRECT, XDP_TX};
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use frame::XdpFrame;
use maps::Maps;
use netft_common::map::Counter;
use netft_common::receive::{Verdict, receive};

/// Entry point, on every interface that netft uses.
#[xdp]
pub fn netft(context: XdpContext) -> u32 {
    let (action, counter) = match receive(&mut XdpFrame::new(&context), &Maps::new(&context)) {
        Ok(Verdict::Pass(counter)) => match fence::netft_enters(context.ctx) {
            fence::PASSED => (XDP_PASS, counter as u32),
            closed => (XDP_DROP, closed),
        },
        Ok(Verdict::Consume(counter)) => {
            sense::used();
            (XDP_DROP, counter as u32)
        }
        Ok(Verdict::Reply(counter)) => {
            sense::used();
            (XDP_TX, counter as u32)
        }
        Ok(Verdict::Redirect(index)) => match maps::redirect(index) {
            true => (XDP_REDIRECT, Counter::Redirected as u32),
            false => (XDP_PASS, Counter::FellThrough as u32),
        },
        Err(reject) => {
            // Counted first: whoever reads of it finds it counted.
            maps::count(reject as u32);
            log::refused(&context, reject);
            return XDP_DROP;
        }
    };
    maps::count(counter);
    action
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// Some helpers that programs may call are for GPL-compatible ones only; MIT is, together with GPL.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
