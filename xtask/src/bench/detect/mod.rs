//! `bench detect`: how fast failures are seen, and that nothing is seen which isn't there.

pub(super) mod bed;
mod cuts;
mod engine;
mod quiet;
pub(super) mod random;
mod survive;
mod unplug;

use super::Part;

/// Parts of `bench detect`.
pub(super) const PARTS: &[Part] = &[
    Part { name: "cuts", run: cuts::run, short: true },
    Part { name: "cuts-200us", run: cuts::run_at_200_us, short: false },
    Part { name: "unplug", run: unplug::run, short: true },
    Part { name: "engine", run: engine::run, short: true },
    Part { name: "survive", run: survive::run, short: true },
    Part { name: "idle", run: quiet::idle, short: true },
    Part { name: "cpu", run: quiet::cpu, short: false },
    Part { name: "timers", run: quiet::timers, short: false },
    Part { name: "fifo", run: quiet::fifo, short: true },
];
