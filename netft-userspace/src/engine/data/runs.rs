//! Sealed datagrams on their way into the kernel's sockets, as *runs*: datagrams of one size over one route, which the
//! kernel takes as one message and divides itself, as late as it can (UDP_SEGMENT).

use super::Route;
use super::counters::{Loss, Status};
use crate::sys::socket::{BATCH, MAX_MESSAGE, MAX_SEGMENTS, Run, send_runs};
use netft_common::map::MAX_SLOTS;
use netft_core::data::HEADROOM;
use netft_core::types::Slot;
use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::Ordering;

/// Bytes that wait for their calls: two full messages. More would only have to be fetched from farther away again.
const ARENA: usize = 128 * 1024;

/// What waits.
pub(super) struct Runs {
    arena: Box<[u8]>,
    used: usize,
    waiting: Vec<Waiting>,
    /// Routes by slot whose device the kernel divides nothing for.
    undivided: Box<[bool]>,
}

/// One run.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    slot: Slot,
    start: usize,
    end: usize,
    segment: usize,
    datagrams: usize,
    /// Its last datagram is shorter: nothing may follow.
    is_ended: bool,
}

impl Runs {
    pub(super) fn new() -> Self {
        Self {
            arena: vec![0; ARENA].into_boxed_slice(),
            used: 0,
            waiting: Vec::with_capacity(BATCH),
            undivided: vec![false; MAX_SLOTS as usize].into_boxed_slice(),
        }
    }

    /// Another route has this slot.
    pub(super) fn forget(&mut self, slot: Slot) {
        self.undivided[slot.index()] = false;
    }

    /// Room for a datagram of `length` bytes; `None` if what waits must go first.
    pub(super) fn room(&mut self, length: usize) -> Option<&mut [u8]> {
        let has_run = self.waiting.len() < BATCH;
        self.arena.get_mut(self.used..self.used + length).filter(|_| has_run)
    }

    /// The datagram that was put into [`Self::room`] goes over a route.
    pub(super) fn add(&mut self, slot: Slot, length: usize) {
        let (start, end) = (self.used, self.used + length);
        self.used = end;
        if let Some(last) = self.waiting.last_mut()
            && last.slot == slot
            && !last.is_ended
            && length <= last.segment
            && last.datagrams < MAX_SEGMENTS
            && end - last.start <= MAX_MESSAGE
            && !self.undivided[slot.index()]
        {
            last.end = end;
            last.datagrams += 1;
            last.is_ended = length < last.segment;
        } else {
            self.waiting.push(Waiting { slot, start, end, segment: length, datagrams: 1, is_ended: false });
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Sends everything: one call for consecutive runs over one route.
    pub(super) fn send(&mut self, routes: &[Option<Route>], status: &Status) {
        let mut next = 0;
        while let Some(&first) = self.waiting.get(next) {
            let Some(route) = &routes[first.slot.index()] else {
                status.lose(Loss::NoRoute, first.datagrams);
                next += 1;
                continue;
            };
            let same = self.waiting[next..].iter().take_while(|run| run.slot == first.slot);
            let runs = same.map(|run| run.whole(&self.arena, route));
            let (sent, error) = send_runs(route.socket.as_fd(), runs);
            for run in &self.waiting[next..next + sent] {
                run.count_sent(status);
            }
            next += sent;
            if sent == 0 {
                // The first one was refused; the others are tried.
                let error = error.unwrap_or_else(|| io::Error::from_raw_os_error(libc::EHOSTUNREACH));
                if first.datagrams > 1 && concerns_division(&error) {
                    self.undivided[first.slot.index()] |= error.raw_os_error() == Some(libc::EIO);
                    first.send_one_by_one(&self.arena, route, status);
                } else {
                    status.lose(refusal(&error), first.datagrams);
                }
                next += 1;
            }
        }
        self.waiting.clear();
        self.used = 0;
    }
}

impl Waiting {
    fn whole<'a>(&self, arena: &'a [u8], route: &'a Route) -> Run<'a> {
        let segment = u16::try_from(self.segment).unwrap_or(u16::MAX);
        Run { bytes: &arena[self.start..self.end], segment, remote: &route.remote }
    }

    fn count_sent(&self, status: &Status) {
        let bytes = self.end - self.start - self.datagrams * HEADROOM;
        status.frames_sent.fetch_add(self.datagrams as u64, Ordering::Relaxed);
        status.bytes_sent.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    fn send_one_by_one(&self, arena: &[u8], route: &Route, status: &Status) {
        for start in (self.start..self.end).step_by(self.segment) {
            let end = (start + self.segment).min(self.end);
            let one = Self { start, end, datagrams: 1, ..*self };
            match send_runs(route.socket.as_fd(), std::iter::once(one.whole(arena, route))) {
                (0, Some(error)) => status.lose(refusal(&error), 1),
                _ => one.count_sent(status),
            }
        }
    }
}

/// Whether the kernel may take the datagrams one by one: a device without checksum offload (EIO, before Linux 6.11), or one
/// of them is too long, and the others aren't.
fn concerns_division(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EIO | libc::EINVAL | libc::EMSGSIZE))
}

/// What a refused send is counted as.
fn refusal(error: &io::Error) -> Loss {
    match error.raw_os_error() {
        Some(libc::EMSGSIZE) => Loss::TooLong,
        Some(libc::EAGAIN | libc::ENOBUFS | libc::ENOMEM) => Loss::BufferFull,
        _ => Loss::Unreachable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs(lengths: &[(u32, usize)]) -> Vec<(u32, usize, usize)> {
        let mut runs = Runs::new();
        for (slot, length) in lengths {
            runs.room(*length).expect("there is room");
            runs.add(Slot::new(*slot).unwrap(), *length);
        }
        let of =
            |run: &Waiting| (u32::try_from(run.slot.index()).unwrap(), run.datagrams, run.end - run.start);
        runs.waiting.iter().map(of).collect()
    }

    #[test]
    fn datagrams_of_one_size_and_route_are_one_run_and_a_shorter_one_ends_it() {
        assert_eq!(runs(&[(1, 100), (1, 100), (1, 60), (1, 60)]), [(1, 3, 260), (1, 1, 60)]);
        assert_eq!(runs(&[(1, 100), (2, 100), (2, 101)]), [(1, 1, 100), (2, 1, 100), (2, 1, 101)]);
    }

    #[test]
    fn no_run_is_longer_than_a_message_may_be() {
        assert_eq!(runs(&[(1, 100); 70]), [(1, 64, 6400), (1, 6, 600)]);
        let long = runs(&[(1, 1448); 50]);
        assert_eq!(long, [(1, 45, 45 * 1448), (1, 5, 5 * 1448)]);
    }

    #[test]
    fn what_has_no_room_must_wait_for_a_call() {
        let mut runs = Runs::new();
        for _ in 0..BATCH {
            assert!(runs.room(1000).is_some());
            // Longer than the one before, so it begins a run.
            runs.add(Slot::new(1).unwrap(), 1000 + runs.waiting.len());
        }
        assert!(runs.room(1).is_none());
        let mut runs = Runs::new();
        while runs.room(9000).is_some() {
            runs.add(Slot::new(1).unwrap(), 9000);
        }
        assert!(ARENA - runs.used < 9000);
    }

    #[test]
    fn a_device_that_divides_nothing_gets_single_datagrams() {
        let mut runs = Runs::new();
        let slot = Slot::new(1).unwrap();
        runs.undivided[slot.index()] = true;
        for _ in 0..3 {
            runs.add(slot, 100);
        }
        assert_eq!(runs.waiting.len(), 3);
        runs.forget(slot);
        runs.add(slot, 100);
        assert_eq!(runs.waiting.len(), 3);
    }
}
