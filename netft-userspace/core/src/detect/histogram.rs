//! A histogram of fixed size.

/// Counts by powers of two: bucket `i` holds values in `2^(i-1) .. 2^i` (bucket 0 holds zeros), so that 64 buckets
/// cover every span of time in nanoseconds within a factor of two, and recording is one increment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Histogram {
    buckets: [u64; Histogram::BUCKETS],
    max: u64,
}

impl Histogram {
    /// Number of buckets.
    pub const BUCKETS: usize = 65;

    /// With nothing in it.
    pub const fn new() -> Self {
        Self { buckets: [0; Self::BUCKETS], max: 0 }
    }

    /// Counts one value.
    pub fn record(&mut self, value: u64) {
        let bucket = &mut self.buckets[(u64::BITS - value.leading_zeros()) as usize];
        *bucket = bucket.saturating_add(1);
        self.max = self.max.max(value);
    }

    /// Counts per bucket.
    pub fn buckets(&self) -> &[u64; Self::BUCKETS] {
        &self.buckets
    }

    /// The largest value of bucket `index`.
    pub fn upper_bound(index: usize) -> u64 {
        match index {
            0 => 0,
            1..64 => (1 << index) - 1,
            _ => u64::MAX,
        }
    }

    /// How many values were counted.
    pub fn count(&self) -> u64 {
        self.buckets.iter().fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// The largest value counted, exactly; 0 if none was.
    pub fn max(&self) -> u64 {
        self.max
    }
}

impl Default for Histogram {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_falls_into_the_bucket_whose_bounds_hold_it() {
        for value in [0, 1, 2, 3, 4, 1000, 1023, 1024, u64::MAX / 2, u64::MAX] {
            let mut histogram = Histogram::new();
            histogram.record(value);
            let index = histogram.buckets().iter().position(|count| *count == 1).unwrap();
            assert!(value <= Histogram::upper_bound(index), "{value} in bucket {index}");
            assert!(index == 0 || value > Histogram::upper_bound(index - 1), "{value} in bucket {index}");
            assert_eq!((histogram.count(), histogram.max()), (1, value));
        }
    }
}
