//! The clock of everything that has to do with leases: it goes on in suspend.

use netft_core::types::Nanos;
use nix::time::{ClockId, clock_gettime};

/// Now, by CLOCK_BOOTTIME.
pub(crate) fn now_ns() -> Nanos {
    let time = clock_gettime(ClockId::CLOCK_BOOTTIME).expect("every Linux has this clock");
    let (seconds, nanos) = (time.tv_sec().unsigned_abs(), time.tv_nsec().unsigned_abs());
    seconds * 1_000_000_000 + nanos
}
