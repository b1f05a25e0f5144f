//! How long things may take.

use crate::case::Case;
use crate::types::Nanos;
use crate::world::{LATENESS_NS, NEWS_NS, WORK_NS, XDP_NS};

const US: Nanos = 1_000;
/// With more loss or reordering than this, a whole path may rightly be called down.
const ROUGH_LOSS_PER_MILLION: u64 = 10_000;

/// How long things may take, from the case.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Bounds {
    pub detection_ns: Nanos,
    /// The most that an honest verdict may be late: a wake, the work, and the heartbeat's trip as smoothed.
    pub slack_ns: Nanos,
    pub found_ns: Nanos,
    pub up_ns: Nanos,
    /// Heartbeats by which a postponed verdict waits, and the looking for them.
    pub fresh_ns: Nanos,
    /// What a peer's engine may be seen late by.
    pub prompt_ns: Nanos,
    pub trip_ns: Nanos,
    pub delay_ns: Nanos,
    pub engine_timeout_ns: Nanos,
    pub damping_max_ns: Nanos,
    pub rough: bool,
    pub lossy: bool,
}

impl Bounds {
    pub(super) fn new(case: &Case) -> Self {
        let (detection_ns, trip_ns) = (case.timing().detection_ns(), case.heartbeat_ns());
        let drift_ns = detection_ns * case.drift_ppm / 500_000;
        let slack_ns = LATENESS_NS + WORK_NS + trip_ns + 8 * XDP_NS + NEWS_NS + drift_ns + 2 * US;
        Self {
            detection_ns,
            slack_ns,
            found_ns: detection_ns + slack_ns,
            // A verdict on the past may still fall a detection time and a trip later, and the run takes three
            // heartbeats and a trip.
            up_ns: detection_ns + 4 * case.delay_ns + 2 * slack_ns,
            fresh_ns: trip_ns + case.delay_ns.max(300 * US),
            prompt_ns: 2 * case.delay_ns + slack_ns,
            trip_ns,
            delay_ns: case.delay_ns,
            engine_timeout_ns: case.engine_timeout_ns,
            damping_max_ns: if case.flap_limit > 0 { case.damping_max_ns } else { 0 },
            rough: case.loss_per_million > ROUGH_LOSS_PER_MILLION || case.jitter_ns > case.delay_ns / 4,
            lossy: case.loss_per_million > 0 || case.jitter_ns > case.delay_ns / 4,
        }
    }
}
