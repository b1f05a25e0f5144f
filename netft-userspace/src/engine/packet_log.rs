//! The log of frames that XDP refuses (`log.packets`). XDP writes records into a ring buffer, a thread of its own at
//! ordinary priority reads them. What strangers send decides how many there are, so everything is bounded: lines by
//! [`LINES_PER_SECOND`], work by rests; a ring buffer that is full takes no more, and XDP goes on without.

use crate::sys;
use aya::Ebpf;
use aya_log::EbpfLogger;
use log::{Level, Log, Metadata, Record};
use netft_common::map::Counter;
use netft_core::types::Nanos;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

/// The ring buffer (`aya_log_ebpf`).
pub(super) const RING: &str = "AYA_LOGS";
const LINES_PER_SECOND: u32 = 20;
/// After so many records that made no line the thread rests: with a ring buffer of 128 KiB it reads at most some
/// thousand records a second, and what it reads isn't old.
const RECORDS_PER_REST: u32 = 256;
const REST_NS: Nanos = 100_000_000;
const SECOND_NS: Nanos = 1_000_000_000;

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
pub enum PacketLogError {
    /// Not in the object, or not mappable.
    #[error(transparent)]
    Ring(#[from] aya_log::Error),
    /// No thread, no event.
    #[error(transparent)]
    Thread(#[from] io::Error),
}

/// The running log. Dropping it ends it, as soon as the thread has read what there is.
#[derive(Debug)]
pub struct PacketLog {
    stop: Arc<OwnedFd>,
}

impl PacketLog {
    /// Starts it on the ring buffer of `ebpf`, whose program must have been loaded. `refused` is how many frames XDP
    /// has refused so far.
    pub fn start(
        ebpf: &mut Ebpf,
        refused: impl Fn() -> u64 + Send + 'static,
    ) -> Result<Self, PacketLogError> {
        let stop = Arc::new(sys::event_fd()?);
        let told = refused();
        let state = State { window: Window::default(), told, refused: Box::new(refused) };
        let writer = Arc::new(Writer { state: Mutex::new(state), stop: Arc::clone(&stop) });
        let reader = EbpfLogger::init_with_logger(ebpf, Shared(Arc::clone(&writer)))?;
        std::thread::Builder::new().name("netft-log".into()).spawn(move || read(reader, &writer))?;
        Ok(Self { stop })
    }
}

impl Drop for PacketLog {
    fn drop(&mut self) {
        // Not waited for: under a flood it may have something to read for as long as the program is attached.
        sys::wake(self.stop.as_fd());
    }
}

/// The thread.
fn read(mut reader: EbpfLogger<Shared>, writer: &Writer) {
    loop {
        let mut fds = [sys::poll_in(reader.as_fd()), sys::poll_in(writer.stop.as_fd())];
        let result = sys::poll(&mut fds, writer.due_in());
        let stopped = fds[1].revents != 0;
        if let Err(error) = &result {
            tracing::warn!(%error, "the log of refused packets ends: restart netftd to have it again");
        }
        if stopped || result.is_err() {
            return;
        }
        reader.flush();
        writer.tell_left_out();
    }
}

/// Turns records into lines, as many as are allowed.
struct Writer {
    state: Mutex<State>,
    stop: Arc<OwnedFd>,
}

struct State {
    window: Window,
    /// Refused frames that lines have told of, each by its own or by the number of those left out.
    told: u64,
    refused: Box<dyn Fn() -> u64 + Send>,
}

impl Writer {
    /// Nobody else holds the lock but the thread that logs.
    fn with<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        work(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Until it must say how many were left out; `None` = nothing was.
    fn due_in(&self) -> Option<Nanos> {
        self.with(|state| state.window.left_out.gt(&0).then(|| state.window.left_ns(sys::boottime())))
    }

    /// Says it if it is time. Also counts frames whose records found the ring buffer full.
    fn tell_left_out(&self) {
        let more = self.with(|state| state.left_out(sys::boottime()));
        if more > 0 {
            tracing::debug!(
                target: "xdp",
                "XDP refused {more} more frames: at most {LINES_PER_SECOND} a second are written here, \
                 `netft status --json` counts all of them"
            );
        }
    }

    fn write(&self, record: &Record<'_>) {
        if record.level() < Level::Debug {
            // Not about a frame, so nobody outside decides how often it comes.
            tracing::warn!(target: "xdp", "{}", record.args());
            return;
        }
        self.tell_left_out();
        match self.with(|state| state.turn(sys::boottime())) {
            Turn::Write => tracing::debug!(target: "xdp", "{}", plain(&record.args().to_string())),
            Turn::LeaveOut => {}
            Turn::Rest => {
                // An error or the end of the log cuts the rest short, no more.
                let _ = sys::poll(&mut [sys::poll_in(self.stop.as_fd())], Some(REST_NS));
            }
        }
    }
}

impl State {
    fn left_out(&mut self, now: Nanos) -> u64 {
        if self.window.left_out == 0 || self.window.left_ns(now) > 0 {
            return 0;
        }
        self.window.left_out = 0;
        let refused = (self.refused)();
        let more = refused.saturating_sub(self.told);
        self.told += more;
        more
    }

    fn turn(&mut self, now: Nanos) -> Turn {
        if self.window.has_room(now) && self.told < (self.refused)() {
            self.window.written += 1;
            self.told += 1;
            return Turn::Write;
        }
        // No room, or an old record: its frame is in the number of those left out already.
        self.window.leave_out()
    }
}

/// XDP writes reasons as numbers of counters, and IPv4 addresses as it keeps them, `::ffff:a.b.c.d`.
fn plain(line: &str) -> String {
    let line = line.replacen("from ::ffff:", "from ", 1);
    let reason = line.split_once("reason ").and_then(|(_, rest)| rest.split(',').next());
    let name = reason.and_then(|number| Counter::NAMES.get(number.parse::<usize>().ok()?));
    match (reason, name) {
        (Some(number), Some(name)) => line.replacen(&format!("reason {number}"), name, 1),
        _ => line,
    }
}

/// What to do with a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    Write,
    LeaveOut,
    /// Leave it out, and read on only a little later.
    Rest,
}

/// One second of lines.
#[derive(Debug, Default)]
struct Window {
    ends_ns: Nanos,
    written: u32,
    left_out: u32,
}

impl Window {
    fn left_ns(&self, now: Nanos) -> Nanos {
        self.ends_ns.saturating_sub(now)
    }

    fn has_room(&mut self, now: Nanos) -> bool {
        if self.left_ns(now) == 0 {
            *self = Self { ends_ns: now + SECOND_NS, written: 0, left_out: self.left_out };
        }
        self.written < LINES_PER_SECOND
    }

    fn leave_out(&mut self) -> Turn {
        self.left_out += 1;
        if self.left_out.is_multiple_of(RECORDS_PER_REST) { Turn::Rest } else { Turn::LeaveOut }
    }
}

/// The writer as aya-log wants it.
struct Shared(Arc<Writer>);

impl Log for Shared {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        self.0.write(record);
    }

    fn flush(&self) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};

    fn state(refused: &Arc<AtomicU64>) -> State {
        let counter = Arc::clone(refused);
        let told = refused.load(Ordering::Relaxed);
        State { window: Window::default(), told, refused: Box::new(move || counter.load(Ordering::Relaxed)) }
    }

    #[test]
    fn a_flood_makes_few_lines_and_every_frame_is_told_of_once() {
        // An earlier daemon's.
        let refused = Arc::new(AtomicU64::new(700));
        let mut state = state(&refused);
        let (mut lines, mut left_out, mut rests) = (0, 0, 0);
        let began = 5 * SECOND_NS;
        // Ten seconds, a frame each 10 µs, written into a ring buffer with room for 500 of them.
        let mut ring = 0;
        let mut reads_at = began;
        for step in 0..1_000_000 {
            let now = began + step * 10_000;
            refused.fetch_add(1, Ordering::Relaxed);
            ring = 500.min(ring + 1);
            while ring > 0 && now >= reads_at {
                ring -= 1;
                left_out += state.left_out(now);
                match state.turn(now) {
                    Turn::Write => lines += 1,
                    Turn::LeaveOut => {}
                    Turn::Rest => {
                        rests += 1;
                        reads_at = now + REST_NS;
                    }
                }
            }
        }
        assert!((180..=200).contains(&lines), "{lines}");
        assert!((90..=100).contains(&rests), "{rests}");
        // The flood is over; what is in the ring buffer is read.
        let ends = began + 10 * SECOND_NS;
        for _ in 0..ring {
            left_out += state.left_out(ends);
            lines += u64::from(state.turn(ends) == Turn::Write);
        }
        left_out += state.left_out(ends + 2 * SECOND_NS);
        assert_eq!(lines + left_out, 1_000_000);
        assert_eq!(state.left_out(ends + 4 * SECOND_NS), 0, "and once");
    }

    #[test]
    fn reasons_and_addresses_are_written_as_people_know_them() {
        let line =
            |reason, from| format!("XDP refused a frame: {reason}, kind 1 from {from} (node 2) for slot 3");
        assert_eq!(plain(&line("reason 11", "::ffff:10.0.0.1")), line("reject_tag", "10.0.0.1"));
        assert_eq!(plain(&line("reason 12", "fd00::ffff:1")), line("reject_replay", "fd00::ffff:1"));
        assert_eq!(plain(&line("reason 99", "fd00::1")), line("reason 99", "fd00::1"));
    }

    #[test]
    fn few_frames_have_a_line_each_and_nothing_is_left_out() {
        let refused = Arc::new(AtomicU64::new(0));
        let mut state = state(&refused);
        for step in 0..100 {
            let now = step * SECOND_NS / 10;
            refused.fetch_add(1, Ordering::Relaxed);
            assert_eq!((state.left_out(now), state.turn(now)), (0, Turn::Write));
        }
    }
}
