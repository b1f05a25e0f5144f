//! When things are due, by index: the one thing that every wake looks at of all of them.

use crate::types::Nanos;

/// Deadlines that share one entry of [`Deadlines::earliest_ns`].
const BLOCK: usize = 32;

/// Deadlines, `Nanos::MAX` = none, with the earliest of each block of them: a wake reads one word per block to learn
/// that nothing in it is due. For 1024 routes that is 256 bytes instead of their whole state.
#[derive(Debug)]
pub(super) struct Deadlines {
    at_ns: Box<[Nanos]>,
    /// Never later than the earliest of its block; exact where `stale` doesn't say otherwise.
    earliest_ns: Box<[Nanos]>,
    /// Bit per block: its earliest was moved away, and the next one isn't looked for yet. A wake that moves all of a
    /// block looks once.
    stale: u64,
    /// Blocks from here on have never been used.
    used: usize,
}

impl Deadlines {
    /// Room for `count` deadlines, none set. At most 2048.
    pub(super) fn new(count: usize) -> Self {
        let blocks = count.div_ceil(BLOCK);
        assert!(blocks <= 64, "one bit per block");
        Self {
            at_ns: vec![Nanos::MAX; count].into(),
            earliest_ns: vec![Nanos::MAX; blocks].into(),
            stale: 0,
            used: 0,
        }
    }

    pub(super) fn set(&mut self, index: usize, at: Nanos) {
        let block = index / BLOCK;
        self.used = self.used.max(block + 1);
        let old = std::mem::replace(&mut self.at_ns[index], at);
        let earliest = &mut self.earliest_ns[block];
        if at <= *earliest {
            *earliest = at;
        } else if old == *earliest {
            self.stale |= 1 << block;
        }
    }

    pub(super) fn get(&self, index: usize) -> Nanos {
        self.at_ns[index]
    }

    /// The earliest of all.
    pub(super) fn earliest(&mut self) -> Nanos {
        while self.stale != 0 {
            let block = self.stale.trailing_zeros() as usize;
            self.stale &= self.stale - 1;
            let end = self.at_ns.len().min((block + 1) * BLOCK);
            self.earliest_ns[block] =
                self.at_ns[block * BLOCK..end].iter().copied().min().unwrap_or(Nanos::MAX);
        }
        self.earliest_ns[..self.used].iter().copied().min().unwrap_or(Nanos::MAX)
    }

    /// The first index at or after `from` that is due at `now`.
    pub(super) fn next_due(&self, from: usize, now: Nanos) -> Option<usize> {
        let (mut index, end) = (from, self.at_ns.len().min(self.used * BLOCK));
        while index < end {
            let block_end = end.min((index / BLOCK + 1) * BLOCK);
            if self.earliest_ns[index / BLOCK] <= now
                && let Some(offset) = self.at_ns[index..block_end].iter().position(|at| *at <= now)
            {
                return Some(index + offset);
            }
            index = block_end;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn it_says_what_a_plain_array_says(
            count in 1..200usize,
            steps in prop::collection::vec((any::<prop::sample::Index>(), 0..50u64, 0..50u64, any::<bool>()), 1..200),
        ) {
            let mut deadlines = Deadlines::new(count);
            let mut plain = vec![Nanos::MAX; count];
            for (index, at, now, look) in steps {
                let (index, at) = (index.index(count), if at == 49 { Nanos::MAX } else { at });
                deadlines.set(index, at);
                plain[index] = at;
                prop_assert_eq!(deadlines.get(index), at);
                if look {
                    prop_assert_eq!(deadlines.earliest(), *plain.iter().min().unwrap());
                }
                let mut due = Vec::new();
                let mut from = 0;
                while let Some(found) = deadlines.next_due(from, now) {
                    due.push(found);
                    from = found + 1;
                }
                let expected: Vec<_> = (0..count).filter(|index| plain[*index] <= now).collect();
                prop_assert_eq!(due, expected);
            }
        }
    }
}
