//! Random numbers from a seed that the shell drew: challenges, numbers of handshakes, ephemeral keys.

use sha2::{Digest, Sha256};

/// A generator that can't be run backwards: who reads its state learns nothing of what it gave before, so that keys made
/// from it stay secret.
#[derive(Clone)]
pub struct Dice([u8; 32]);

impl std::fmt::Debug for Dice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Dice(..)")
    }
}

impl Dice {
    /// `seed` must be random, secret and used once.
    pub const fn new(seed: [u8; 32]) -> Self {
        Self(seed)
    }

    /// Fresh random bytes.
    pub fn block(&mut self) -> [u8; 32] {
        let half = |label: u8| Sha256::new().chain_update(self.0).chain_update([label]).finalize().into();
        let (block, next) = (half(1), half(2));
        self.0 = next;
        block
    }

    /// A random number but 0, which means "none" everywhere.
    pub fn number(&mut self) -> u64 {
        let mut word = [0; 8];
        word.copy_from_slice(&self.block()[..8]);
        u64::from_le_bytes(word).max(1)
    }

    /// Another generator, independent of what this one gives afterwards.
    pub fn split(&mut self) -> Self {
        Self(self.block())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_repeats_and_a_seed_gives_the_same_again() {
        let (mut one, mut same, mut other) = (Dice::new([1; 32]), Dice::new([1; 32]), Dice::new([2; 32]));
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..100 {
            let block = one.block();
            assert_eq!(block, same.block());
            assert!(seen.insert(block) && seen.insert(other.block()));
        }
        assert!(seen.insert(one.split().block()));
    }
}
