//! A host's clock: since another moment than others', and a little faster or slower.

use crate::types::Nanos;

const MILLION: u128 = 1_000_000;

/// The world's own, at first.
#[derive(Clone, Copy, Debug, Default)]
pub struct Clock {
    began: Nanos,
    first: Nanos,
    slower_ppm: u32,
}

impl Clock {
    /// One that shows `first` when the world's shows `began`, and from then on is this much slower than the world's.
    pub fn new(began: Nanos, first: Nanos, slower_ppm: u32) -> Self {
        Self { began, first, slower_ppm }
    }

    /// The same speed, from another moment.
    pub fn again(self, began: Nanos, first: Nanos) -> Self {
        Self { began, first, ..self }
    }

    fn speed(self) -> u128 {
        MILLION - u128::from(self.slower_ppm)
    }

    /// What it shows.
    pub fn local(self, now: Nanos) -> Nanos {
        let passed = u128::from(now.saturating_sub(self.began)) * self.speed() / MILLION;
        self.first + Nanos::try_from(passed).unwrap()
    }

    /// The first moment at which it shows at least `local`.
    pub fn at(self, local: Nanos) -> Nanos {
        if local == Nanos::MAX {
            return local;
        }
        let passed = (u128::from(local.saturating_sub(self.first)) * MILLION).div_ceil(self.speed());
        self.began + Nanos::try_from(passed).unwrap_or(Nanos::MAX - self.began)
    }
}

#[test]
fn a_clock_can_be_asked_both_ways() {
    for slower_ppm in [0, 1, 500, 50_000] {
        let clock = Clock::new(1_000, 77, slower_ppm);
        for now in (1_000..10_000_000_000).step_by(99_999_989) {
            let at = clock.at(clock.local(now));
            assert_eq!(clock.local(at), clock.local(now));
            assert!(
                at <= now && (at == 1_000 || clock.local(at - 1) < clock.local(at)),
                "{slower_ppm} {now}"
            );
        }
    }
    assert_eq!(Clock::default().at(Nanos::MAX), Nanos::MAX);
}
