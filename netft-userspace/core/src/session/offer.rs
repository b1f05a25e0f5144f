//! The next cluster secret on its way to a peer, sealed with keys of the session that have nothing to do with the secret
//! that it replaces: who records it and learns the old secret later can't read it.

use super::Exchange;
use crate::keys::SessionKeys;
use crate::types::NodeId;
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use netft_common::wire::{NOISE_LEN, SECRETS_VERSION};

/// The step number that offers have among handshake messages.
pub const OFFER: u32 = 3;

const SECRET: usize = 32;
/// The secret, who started, zeros.
const PLAIN: usize = SECRET + 8;
const _: () = assert!(PLAIN + 16 == NOISE_LEN);

/// A cluster secret that shall become the next one.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Offer {
    /// Random bytes ([`crate::keys::Secret::of_random`]).
    pub secret: [u8; SECRET],
    /// Where the rotation was started.
    pub started_by: NodeId,
}

impl std::fmt::Debug for Offer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Offer(started by {})", self.started_by)
    }
}

impl Exchange {
    /// Seals an offer with the keys that we send with; returns their epoch and version as well. `number` never repeats in a
    /// life. `None` while there are no keys, or only such of a version that knows no offers.
    pub fn seal_offer(&self, number: u64, offer: &Offer) -> Option<(u32, u8, [u8; NOISE_LEN])> {
        let keys = self.current.as_ref().filter(|keys| keys.version >= SECRETS_VERSION)?;
        let mut sealed = [0; NOISE_LEN];
        let (plain, tag) = sealed.split_at_mut(PLAIN);
        plain[..SECRET].copy_from_slice(&offer.secret);
        plain[SECRET..SECRET + 2].copy_from_slice(&offer.started_by.get().to_le_bytes());
        let made = key(&keys.offer.send)?.seal_in_place_separate_tag(nonce(number), Aad::empty(), plain);
        tag.copy_from_slice(made.ok()?.as_ref());
        Some((keys.epoch, keys.version, sealed))
    }

    /// Opens one; `None` if it isn't authentic, or its keys aren't good now.
    pub fn open_offer(
        &self,
        (epoch, version): (u32, u8),
        number: u64,
        sealed: &[u8; NOISE_LEN],
    ) -> Option<Offer> {
        let good = |keys: &&SessionKeys| (keys.epoch, keys.version) == (epoch, version);
        let keys = self.current.iter().chain(self.beside()).find(good)?;
        let mut sealed = *sealed;
        let plain = key(&keys.offer.receive)?.open_in_place(nonce(number), Aad::empty(), &mut sealed).ok()?;
        let (secret, rest) = plain.split_first_chunk::<SECRET>()?;
        let started_by = NodeId::new(u16::from_le_bytes([rest[0], rest[1]]))?;
        Some(Offer { secret: *secret, started_by })
    }
}

fn key(bytes: &[u8; 32]) -> Option<LessSafeKey> {
    UnboundKey::new(&AES_256_GCM, bytes).ok().map(LessSafeKey::new)
}

fn nonce(number: u64) -> Nonce {
    let mut nonce = [0; NONCE_LEN];
    nonce[..8].copy_from_slice(&number.to_le_bytes());
    Nonce::assume_unique_for_key(nonce)
}
