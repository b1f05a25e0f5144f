//! Tells why a frame was refused, by aya-log, if the log is on (`log.packets`).
//!
//! The level is set before the program is loaded. While it is off, the verifier removes everything here, and what
//! remains of a refusal is the test of a constant.

use super::frame::XdpFrame;
use super::maps::Maps;
use aya_ebpf::programs::XdpContext;
use aya_log_ebpf::macro_support::{Level, level_enabled};
use aya_log_ebpf::{debug, warn};
use netft_common::heartbeat::{Reject, Tables};
use netft_common::packet::{Class, Packet, classify};
use netft_common::shared::Shared;
use netft_common::wire::Header;

/// A frame was refused. `context` is its own.
#[inline(always)]
pub fn refused(context: &XdpContext, reject: Reject) {
    if level_enabled(Level::Debug) {
        describe(context, reject);
    }
}

/// A CPU's timer can't be had; the helper that failed returned `error`.
#[inline(always)]
pub fn not_watched(cpu: u32, helper: &'static str, error: i64) {
    warn!((), target: "xdp", "CPU {} isn't watched: {} returned {}", cpu, helper, error);
}

/// A function of its own, so that its stack isn't added to the program's.
#[inline(never)]
fn describe(context: &XdpContext, reject: Reject) -> Option<()> {
    let frame = XdpFrame::new(context);
    let maps = Maps::new(context);
    let node = maps.node()?;
    let (Class::Leg(found) | Class::Malformed(found, _) | Class::Data(found) | Class::Userspace(found)) =
        classify(&frame, node.cluster_id, node.versions)
    else {
        return None;
    };
    // IPv4 as ::ffff:a.b.c.d: one shape, as two end up misaligned on the stack.
    let source = *found.addresses(&frame)?.source();
    let (ifindex, _) = maps.ingress();
    // Numbers for userspace to put into words: strings of several lengths multiply what the verifier has to follow.
    let reason = reject as u32;
    match frame.load::<Header>(found.message) {
        Some(header) => debug!(
            context,
            target: "xdp",
            "XDP refused a frame: reason {}, kind {} from {:i} (node {}) for slot {}, by interface {}",
            reason, header.kind, source, header.source, header.slot, ifindex
        ),
        None => {
            debug!(context, target: "xdp", "XDP refused a frame: reason {}, from {:i}, by interface {}", reason, source, ifindex);
        }
    }
    Some(())
}
