//! How often something may happen: some at once, then at a steady pace.

use crate::types::Nanos;

/// A token bucket.
#[derive(Clone, Copy, Debug)]
pub struct Bucket {
    capacity: u32,
    refill_ns: Nanos,
    tokens: u32,
    filled_ns: Nanos,
}

impl Bucket {
    /// Full: `capacity` at once, then one each `refill_ns` (at least 1).
    pub const fn new(now: Nanos, capacity: u32, refill_ns: Nanos) -> Self {
        Self { capacity, refill_ns, tokens: capacity, filled_ns: now }
    }

    /// Takes one token if there is one.
    pub fn take(&mut self, now: Nanos) -> bool {
        let earned = now.saturating_sub(self.filled_ns) / self.refill_ns;
        if earned > 0 {
            self.filled_ns += earned * self.refill_ns;
            let earned = u32::try_from(earned).unwrap_or(u32::MAX);
            self.tokens = self.tokens.saturating_add(earned).min(self.capacity);
        }
        let some = self.tokens > 0;
        self.tokens -= u32::from(some);
        some
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_then_a_pace() {
        let mut bucket = Bucket::new(1_000, 3, 10);
        assert_eq!((0..5).filter(|_| bucket.take(1_000)).count(), 3);
        assert!(!bucket.take(1_009));
        assert!(bucket.take(1_010));
        assert!(!bucket.take(1_010));
        assert_eq!((0..100).filter(|_| bucket.take(10_000_000)).count(), 3, "no more than the capacity");
        assert!(!bucket.take(5), "time that goes back earns nothing");
    }
}
