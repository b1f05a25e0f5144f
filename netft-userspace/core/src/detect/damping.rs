//! Flap damping: a route that goes down too often must prove itself for longer before it comes up again.
//!
//! Each down adds one to a count that halves with time (the figure of merit of RFC 2439, section 4.2). A route whose
//! count exceeds the limit is damped: it comes up only when the count has halved once more below the limit, with
//! heartbeats completing all the while; a gap among them counts as another down. So the run that it must show grows
//! with how often it failed, shrinks as that becomes past, and has a bound. The last way to a peer is never damped:
//! see [`super::Detector`].

use crate::types::Nanos;

/// When routes are damped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DampingConfig {
    /// Downs that a route may have, older ones counting less; one more damps it. 0 = nothing is ever damped
    /// (default 4).
    pub flap_limit: u32,
    /// After this long a down counts half, in nanoseconds (default 2 s: with the limit of 4, routes that go down less
    /// than every 0.8 s are never damped).
    pub half_life_ns: Nanos,
    /// The longest that heartbeats of a damped route must complete without a gap before it comes up, in nanoseconds
    /// (default 10 s).
    pub longest_ns: Nanos,
}

impl Default for DampingConfig {
    fn default() -> Self {
        Self { flap_limit: 4, half_life_ns: 2_000_000_000, longest_ns: 10_000_000_000 }
    }
}

/// One down, in thousandths.
const DOWN: u64 = 1000;
/// The count stops here, so that it can't overflow.
const MOST: u64 = 1000 * DOWN;

/// How often one route went down lately.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Flaps {
    /// Downs at `newest_ns`, in thousandths.
    count: u64,
    /// The newest down.
    newest_ns: Nanos,
    damped: bool,
}

/// `count` after `age`: halved per half-life, and linear between, which is never more than 6 % off.
fn decayed(count: u64, age: Nanos, half_life: Nanos) -> u64 {
    let half_life = half_life.max(1);
    let (halvings, rest) = (age / half_life, age % half_life);
    let halved = u32::try_from(halvings).ok().and_then(|bits| count.checked_shr(bits)).unwrap_or(0);
    let part = u128::from(halved) * u128::from(rest) / (2 * u128::from(half_life));
    halved - u64::try_from(part).unwrap_or(halved)
}

impl Flaps {
    /// It went down, or would have if it weren't held back.
    pub(super) fn note_down(&mut self, now: Nanos, config: &DampingConfig) {
        self.count = self.count(now, config).saturating_add(DOWN).min(MOST);
        self.newest_ns = now;
        let limit = u64::from(config.flap_limit) * DOWN;
        self.damped |= limit > 0 && self.count > limit;
    }

    /// Downs lately, in thousandths.
    pub(super) fn count(&self, now: Nanos, config: &DampingConfig) -> u64 {
        decayed(self.count, now.saturating_sub(self.newest_ns), config.half_life_ns)
    }

    /// How long it stays damped if it doesn't go down again; 0 = it isn't damped.
    pub(super) fn left_ns(&self, now: Nanos, config: &DampingConfig) -> Nanos {
        if !self.damped || config.flap_limit == 0 {
            return 0;
        }
        let enough = u64::from(config.flap_limit) * DOWN / 2;
        let mut count = self.count;
        let mut needed_ns: Nanos = 0;
        while count / 2 > enough {
            count /= 2;
            needed_ns = needed_ns.saturating_add(config.half_life_ns);
        }
        if count > enough {
            let part = u128::from(config.half_life_ns) * 2 * u128::from(count - enough) / u128::from(count);
            needed_ns = needed_ns.saturating_add(Nanos::try_from(part).unwrap_or(Nanos::MAX));
        }
        needed_ns.min(config.longest_ns).saturating_sub(now.saturating_sub(self.newest_ns))
    }

    /// Whether it must still prove itself.
    pub(super) fn is_damped(&mut self, now: Nanos, config: &DampingConfig) -> bool {
        self.damped &= self.left_ns(now, config) > 0;
        self.damped
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Nanos = 1_000_000_000;
    const START: Nanos = 1_000 * SECOND;

    fn damped_after(period: Nanos, config: &DampingConfig) -> Option<u64> {
        let mut flaps = Flaps::default();
        (1..10_000).find(|number| {
            let now = START + number * period;
            flaps.note_down(now, config);
            flaps.is_damped(now, config)
        })
    }

    #[test]
    fn a_route_that_goes_down_every_second_is_never_damped_by_default_and_a_faster_one_is() {
        let config = DampingConfig::default();
        assert_eq!(damped_after(3 * SECOND, &config), None);
        assert_eq!(damped_after(SECOND, &config), None);
        assert_eq!(damped_after(SECOND / 10, &config), Some(5));
        assert!(damped_after(SECOND / 2, &config).is_some_and(|downs| (6..10).contains(&downs)));
        assert_eq!(damped_after(SECOND / 10, &DampingConfig { flap_limit: 0, ..config }), None);
    }

    #[test]
    fn the_wait_grows_with_the_downs_up_to_its_bound_and_ends_when_it_says() {
        let config = DampingConfig::default();
        let mut flaps = Flaps::default();
        let mut before_ns = 0;
        for number in 1..=200 {
            flaps.note_down(START, &config);
            let left_ns = flaps.left_ns(START, &config);
            assert!(left_ns >= before_ns && left_ns <= config.longest_ns, "{number}");
            assert_eq!(left_ns > 0, number > 4);
            before_ns = left_ns;
            if left_ns > 0 {
                assert!(flaps.is_damped(START + left_ns - 1, &config));
                assert!(!{ flaps }.is_damped(START + left_ns, &config));
            }
        }
        assert_eq!(before_ns, config.longest_ns);
        assert!(!flaps.is_damped(START + config.longest_ns, &config));
    }

    #[test]
    fn the_count_halves_with_time() {
        let config = DampingConfig::default();
        let mut flaps = Flaps::default();
        (0..4).for_each(|_| flaps.note_down(START, &config));
        assert_eq!(flaps.count(START, &config), 4000);
        assert_eq!(flaps.count(START + SECOND, &config), 3000);
        assert_eq!(flaps.count(START + 2 * SECOND, &config), 2000);
        assert_eq!(flaps.count(START + 4 * SECOND, &config), 1000);
        assert_eq!(flaps.count(START + 10_000 * SECOND, &config), 0);
    }
}
