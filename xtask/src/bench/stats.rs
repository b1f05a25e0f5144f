//! Medians and tails of samples.

use serde::Serialize;

/// Order statistics of a set of samples, all in one unit that the field's name says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Summary {
    /// How many.
    pub count: usize,
    /// Smallest.
    pub min: f64,
    /// Half are at most this.
    pub median: f64,
    /// 99 of 100 are at most this.
    pub p99: f64,
    /// Largest.
    pub max: f64,
}

impl Summary {
    /// Of nanoseconds, in microseconds.
    pub fn micros(nanos: &[u64]) -> Self {
        #[expect(clippy::cast_precision_loss, reason = "nanoseconds of at most minutes")]
        Self::of(nanos.iter().map(|nanos| *nanos as f64 / 1e3).collect())
    }

    /// Of nanoseconds, as multiples of `unit_ns`.
    pub fn multiples(nanos: &[u64], unit_ns: u64) -> Self {
        #[expect(clippy::cast_precision_loss, reason = "nanoseconds of at most minutes")]
        Self::of(nanos.iter().map(|nanos| *nanos as f64 / unit_ns.max(1) as f64).collect())
    }

    fn of(mut samples: Vec<f64>) -> Self {
        samples.sort_by(f64::total_cmp);
        let (Some(min), Some(max)) = (samples.first(), samples.last()) else { return Self::default() };
        let rank = |percent: usize| samples[((samples.len() * percent).div_ceil(100)).max(1) - 1];
        let rounded = |value: f64| (value * 1000.0).round() / 1000.0;
        Self {
            count: samples.len(),
            min: rounded(*min),
            median: rounded(rank(50)),
            p99: rounded(rank(99)),
            max: rounded(*max),
        }
    }
}

/// Of a few rounds, in the unit that the field's name says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Spread {
    /// The middle one; of an even number the smaller of both.
    pub median: f64,
    /// Smallest.
    pub min: f64,
    /// Largest.
    pub max: f64,
}

impl Spread {
    /// Of one value for each round.
    pub fn of(rounds: impl IntoIterator<Item = f64>) -> Self {
        let Summary { median, min, max, .. } = Summary::of(rounds.into_iter().collect());
        Self { median, min, max }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_is_of_rounds_that_occurred() {
        assert_eq!(Spread::of([3.0, 1.0, 2.0, 9.0]), Spread { median: 2.0, min: 1.0, max: 9.0 });
        assert_eq!(Spread::of([]), Spread::default());
    }

    #[test]
    fn ranks_are_samples_that_occurred() {
        let nanos: Vec<u64> = (1..=200).map(|n| n * 1000).collect();
        let summary = Summary::micros(&nanos);
        assert_eq!((summary.count, summary.min, summary.max), (200, 1.0, 200.0));
        assert_eq!((summary.median, summary.p99), (100.0, 198.0));
        assert_eq!(Summary::micros(&[]), Summary::default());
        assert_eq!(Summary::multiples(&[6_000_000], 5_000_000).median, 1.2);
    }
}
