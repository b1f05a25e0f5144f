//! Anti-replay window for data: which sequences were seen, without remembering each (RFC 6479's ring of words).

/// Words in the ring; a power of two. What a sender keeps ([`crate::carry::Keep`]) and sends again when a route dies may be
/// thousands of frames behind what its other threads send meanwhile.
const WORDS: usize = 1024;
/// How far behind the highest sequence one may be and still be told from a replay.
pub const WINDOW: u64 = (WORDS as u64 - 1) * 64;

/// The window of one session and direction.
#[derive(Clone, Debug)]
pub struct Window {
    highest: u64,
    seen: [u64; WORDS],
}

impl Default for Window {
    fn default() -> Self {
        Self::new()
    }
}

impl Window {
    /// Nothing seen yet. Sequence 0 is never valid.
    pub const fn new() -> Self {
        Self { highest: 0, seen: [0; WORDS] }
    }

    /// Whether `sequence` is new. Cheap: ask before checking a tag, and [`Self::accept`] afterwards.
    pub fn is_new(&self, sequence: u64) -> bool {
        if sequence > self.highest {
            return true;
        }
        sequence != 0 && self.highest - sequence < WINDOW && self.seen[word(sequence)] & bit(sequence) == 0
    }

    /// Takes an authentic `sequence`; `false` if it is not new.
    pub fn accept(&mut self, sequence: u64) -> bool {
        if !self.is_new(sequence) {
            return false;
        }
        if sequence > self.highest {
            let steps = (sequence / 64 - self.highest / 64).min(WORDS as u64);
            for step in 1..=steps {
                self.seen[word((self.highest / 64).wrapping_add(step).wrapping_mul(64))] = 0;
            }
            self.highest = sequence;
        }
        self.seen[word(sequence)] |= bit(sequence);
        true
    }
}

fn word(sequence: u64) -> usize {
    (sequence / 64 % WORDS as u64) as usize
}

fn bit(sequence: u64) -> u64 {
    1 << (sequence % 64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    const _: () = assert!(WINDOW >= 4096);

    #[test]
    fn the_edge_of_the_window_is_where_it_should_be() {
        let mut window = Window::new();
        assert!(!window.accept(0));
        assert!(window.accept(10 * WINDOW));
        assert!(!window.accept(9 * WINDOW));
        assert!(window.accept(9 * WINDOW + 1));
        assert!(!window.accept(9 * WINDOW + 1));
        assert!(window.accept(u64::MAX));
        assert!(!window.accept(u64::MAX));
        assert!(window.accept(u64::MAX - 1));
    }

    proptest! {
        #[test]
        fn nothing_is_accepted_twice_and_nothing_recent_is_lost(
            steps in prop::collection::vec((0u64..3 * WINDOW, 0u64..2 * WINDOW), 1..400)
        ) {
            let (mut window, mut seen, mut base, mut highest) = (Window::new(), BTreeSet::new(), 1u64, 0u64);
            for (back, ahead) in steps {
                base += ahead / 8;
                let sequence = base.saturating_sub(back).max(1);
                let new = !seen.contains(&sequence);
                let in_window = sequence > highest || highest - sequence < WINDOW;
                prop_assert_eq!(window.accept(sequence), new && in_window);
                if in_window {
                    seen.insert(sequence);
                }
                highest = highest.max(sequence);
            }
        }
    }
}
