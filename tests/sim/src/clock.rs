//! A node's clock: another beginning, and a little faster or slower than the simulation's.

use crate::types::Nanos;

/// `local = at + offset + at × drift / 2^20`.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Clock {
    offset_ns: Nanos,
    drift: i64,
}

impl Clock {
    pub(crate) fn new(offset_ns: Nanos, drift_ppm: i64) -> Self {
        Self { offset_ns, drift: drift_ppm * (1 << 20) / 1_000_000 }
    }

    /// What the clock shows at a moment of the simulation.
    pub(crate) fn local(&self, at: Nanos) -> Nanos {
        let signed = at.cast_signed();
        (at + self.offset_ns).wrapping_add_signed((signed * self.drift) >> 20)
    }

    /// The first moment at which the clock shows at least `local`.
    pub(crate) fn at(&self, local: Nanos) -> Nanos {
        let mut at = local.saturating_sub(self.offset_ns);
        for _ in 0..3 {
            let error = self.local(at).wrapping_sub(local).cast_signed();
            at = at.saturating_add_signed(-error);
        }
        while self.local(at) < local {
            at += 1;
        }
        at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_can_be_asked_both_ways() {
        for drift_ppm in [-500, -20, 0, 20, 500] {
            let clock = Clock::new(7_000_000_000, drift_ppm);
            for at in (0..3_600_000_000_000).step_by(999_999_999_989) {
                let local = clock.local(at);
                let back = clock.at(local);
                assert!(clock.local(back) >= local && back.abs_diff(at) <= 2, "{drift_ppm} {at} {back}");
            }
        }
        let clock = Clock::new(0, 500);
        assert!((500_000 - clock.local(1_000_000_000).abs_diff(1_000_000_000).cast_signed()).abs() < 1_000);
    }
}
