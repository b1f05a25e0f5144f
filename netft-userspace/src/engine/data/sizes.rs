//! How large packets each route carries: the leader finds out by padded probes and says so on the board; whoever opens an
//! answer, on whichever thread, puts it there. What decides is in [`netft_core::pmtu`].

use super::Route;
use super::bypass::is_awake;
use super::worker::Worker;
use crate::sys;
use crate::sys::socket::{Neighbour, send_to};
use netft_common::map::{MAX_SLOTS, Standing};
use netft_common::wire::PROBE_LEN;
use netft_core::data::HEADROOM;
use netft_core::pmtu::PathMtu;
use netft_core::types::{Nanos, Slot};
use std::os::fd::AsFd;
use std::sync::atomic::Ordering;

/// Tells these probes from those for AF_XDP, whose numbers are times.
const MARK: u64 = 1 << 63;
const UDP: u16 = 8;
/// Longest IP packet that is tried: jumbo frames.
const LONGEST: usize = 9216;

/// What the leader knows.
pub(super) struct Sizes {
    routes: Box<[Option<Measured>]>,
    /// A padded probe.
    datagram: Box<[u8]>,
    due_ns: Nanos,
    count: u16,
}

#[derive(Clone, Copy)]
struct Measured {
    mtu: PathMtu,
    /// The number of the newest probe, which alone counts.
    number: u64,
    was_up: bool,
}

/// Which probe it is: so that an answer speaks for itself.
fn number(slot: Slot, count: u16, size: u16) -> u64 {
    MARK | u64::from(slot.get()) << 32 | u64::from(count) << 16 | u64::from(size)
}

/// Whether an answer is about sizes.
pub(super) fn is_about(number: u64) -> bool {
    number & MARK != 0
}

/// The longest datagram, of all that netft sends, in an IP packet of `size` bytes over a route.
pub(super) fn longest_datagram(route: &Route, size: u16) -> usize {
    let ip = if route.data.local.starts_with(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff]) { 20 } else { 40 };
    usize::from(size.saturating_sub(ip + UDP))
}

impl Sizes {
    pub(super) fn new() -> Self {
        Self {
            routes: vec![None; MAX_SLOTS as usize].into(),
            datagram: vec![0; LONGEST].into(),
            due_ns: 0,
            count: 0,
        }
    }

    /// A route, or another size that its interfaces claim.
    pub(super) fn set_route(&mut self, now: Nanos, slot: Slot, largest: u16) {
        match &mut self.routes[slot.index()] {
            Some(measured) => measured.mtu.set_largest(now, largest),
            empty => {
                *empty = Some(Measured { mtu: PathMtu::new(now, largest), number: 0, was_up: false });
            }
        }
        self.due_ns = 0;
    }

    /// It is gone.
    pub(super) fn remove_route(&mut self, slot: Slot) {
        self.routes[slot.index()] = None;
    }

    /// When to look next.
    pub(super) fn due_ns(&self) -> Nanos {
        self.due_ns
    }

    /// Something about routes changed.
    pub(super) fn look_now(&mut self) {
        self.due_ns = 0;
    }
}

impl Worker {
    /// The leader: takes in answers, and asks for those that are due.
    pub(super) fn measure(&mut self, now: Nanos) {
        let Self { leader: Some(leader), plane, shared, routes, .. } = self else { return };
        let sizes = &mut leader.sizes;
        if now < sizes.due_ns {
            return;
        }
        sizes.due_ns = Nanos::MAX;
        let mut changed = false;
        for (index, measured) in sizes.routes.iter_mut().enumerate() {
            let (Some(measured), Some(route)) = (measured, &routes[index]) else { continue };
            let Some(slot) = u32::try_from(index).ok().and_then(Slot::new) else { continue };
            let place = shared.board.size(slot);
            let answer = place.answer.swap(0, Ordering::Relaxed);
            if answer != 0 && answer == measured.number {
                let size = u16::try_from(answer & 0xffff).unwrap_or(0);
                measured.mtu.answered(now, size);
            }
            let standing = shared.maps.states.get(index).engine_flags.load(Ordering::Acquire);
            let is_up = Standing::from_word(standing).is_up();
            if is_up && !std::mem::replace(&mut measured.was_up, is_up) {
                measured.mtu.look_again(now);
            }
            measured.was_up = is_up;
            if !is_up || !is_awake(&shared.maps, index, route, now) {
                measured.mtu.hold(now);
            } else if let Some(size) = measured.mtu.poll(now) {
                sizes.count = sizes.count.wrapping_add(1);
                measured.number = number(slot, sizes.count, size);
                let length = longest_datagram(route, size).clamp(HEADROOM + PROBE_LEN, LONGEST);
                let datagram = &mut sizes.datagram[..length];
                if plane.padded_probe(route.peer, &route.data, measured.number, datagram).is_ok() {
                    // Before it leaves: a restarted daemon must not use a sequence twice.
                    let persistent = &shared.maps.engine_state().persistent[0];
                    persistent.fetch_max(plane.high_water(), Ordering::Release);
                    // What the kernel refuses isn't answered either.
                    let _ = send_to(route.socket.as_fd(), datagram, &route.remote, Neighbour::Unknown);
                }
            }
            let carried = u64::from(measured.mtu.carried());
            changed |= place.carried.swap(carried, Ordering::Relaxed) != carried;
            sizes.due_ns = sizes.due_ns.min(measured.mtu.due_ns());
        }
        if changed {
            shared.board.sizes_changed.store(true, Ordering::Release);
            sys::wake(shared.control.as_fd());
        }
    }
}
