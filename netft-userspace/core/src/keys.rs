//! Keys from the cluster secret: one for hellos, and per pair and direction one for heartbeats and one for data.
//!
//! HKDF-SHA256 (RFC 5869) with the cluster id as salt. A heartbeat key's info names both nodes in the direction of
//! travel and both boot nonces, so that no two pairs, directions or lives of a node share one. The data key of a
//! direction is made from its heartbeat key, so that a restarted daemon, which finds the heartbeat keys in the
//! pinned maps, can open data before the peer's first hello. Sessions with forward secrecy can replace [`PairKeys`]
//! without anybody else noticing.

use crate::types::{NodeId, address_bytes};
use hkdf::Hkdf;
use hmac::{Hmac, KeyInit, Mac};
use netft_common::wire::HELLO_TAG_LEN;
use sha2::{Digest, Sha256};
use std::fmt;
use std::net::IpAddr;

/// Shortest secret that is accepted, in bytes.
pub const SECRET_MIN_LEN: usize = 16;

/// The cluster secret: the bytes of its file.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Vec<u8>);

/// A secret that can't be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the cluster secret has {len} bytes, at least {SECRET_MIN_LEN} are needed: make one with `netft key generate`"
)]
pub struct SecretError {
    /// Its length.
    pub len: usize,
}

impl Secret {
    /// From the bytes of the file as they are.
    pub fn new(bytes: &[u8]) -> Result<Self, SecretError> {
        if bytes.len() < SECRET_MIN_LEN {
            return Err(SecretError { len: bytes.len() });
        }
        Ok(Self(bytes.to_vec()))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// One end of a pair: who, and in which life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Life {
    /// The node.
    pub id: NodeId,
    /// Its boot nonce.
    pub boot_nonce: [u8; 16],
}

/// What two lives share, seen from one of them. SipHash keys are two little-endian words.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PairKeys {
    /// Names this set of keys on the wire; never 0.
    pub epoch: u32,
    /// Heartbeats that we send.
    pub send: [u64; 2],
    /// Heartbeats that we receive.
    pub receive: [u64; 2],
}

impl fmt::Debug for PairKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PairKeys(epoch {:#010x})", self.epoch)
    }
}

/// Everything that the secret gives.
#[derive(Clone)]
pub struct Keyring {
    pairs: Hkdf<Sha256>,
    hello: Hmac<Sha256>,
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keyring(..)")
    }
}

impl Keyring {
    /// Of one cluster.
    pub fn new(secret: &Secret, cluster_id: u32) -> Self {
        let pairs = Hkdf::<Sha256>::new(Some(&cluster_id.to_le_bytes()), &secret.0);
        let mut key = [0; 32];
        expand(&pairs, &[b"netft 1 hello"], &mut key);
        Self { hello: keyed(&key), pairs }
    }

    /// Authenticator of a hello from `source` to `destination`; `signed` is everything before it.
    pub fn hello_tag(&self, source: IpAddr, destination: IpAddr, signed: &[u8]) -> [u8; HELLO_TAG_LEN] {
        self.hello_mac(source, destination, signed).finalize().into_bytes().into()
    }

    /// Checks it in constant time.
    pub fn hello_authentic(
        &self,
        source: IpAddr,
        destination: IpAddr,
        signed: &[u8],
        tag: &[u8; HELLO_TAG_LEN],
    ) -> bool {
        self.hello_mac(source, destination, signed).verify_slice(tag).is_ok()
    }

    fn hello_mac(&self, source: IpAddr, destination: IpAddr, signed: &[u8]) -> Hmac<Sha256> {
        self.hello
            .clone()
            .chain_update(address_bytes(source))
            .chain_update(address_bytes(destination))
            .chain_update(signed)
    }

    /// The keys of `own` with `peer`.
    pub fn pair(&self, own: &Life, peer: &Life) -> PairKeys {
        PairKeys {
            epoch: key_epoch(own, peer),
            send: self.direction(own, peer),
            receive: self.direction(peer, own),
        }
    }

    fn direction(&self, from: &Life, to: &Life) -> [u64; 2] {
        let mut key = [0; 16];
        let info: [&[u8]; 5] = [
            b"netft 1 heartbeat",
            &from.id.get().to_le_bytes(),
            &to.id.get().to_le_bytes(),
            &from.boot_nonce,
            &to.boot_nonce,
        ];
        expand(&self.pairs, &info, &mut key);
        words(key)
    }
}

/// The data key of a direction, from its heartbeat key.
pub fn data_key(heartbeat: [u64; 2]) -> [u64; 2] {
    let [low, high] = heartbeat.map(u64::to_le_bytes);
    let mut key = [0; 16];
    key[..8].copy_from_slice(&low);
    key[8..].copy_from_slice(&high);
    let mac = keyed(&key).chain_update(b"netft 1 data").finalize().into_bytes();
    key.copy_from_slice(&mac[..16]);
    words(key)
}

/// A digest of both lives, the same at both ends.
pub fn key_epoch(one: &Life, other: &Life) -> u32 {
    let (low, high) = if one.id < other.id { (one, other) } else { (other, one) };
    let digest = Sha256::new()
        .chain_update(b"netft 1 epoch")
        .chain_update(low.id.get().to_le_bytes())
        .chain_update(high.id.get().to_le_bytes())
        .chain_update(low.boot_nonce)
        .chain_update(high.boot_nonce)
        .finalize();
    u32::from_le_bytes([digest[0], digest[1], digest[2], digest[3]]).max(1)
}

fn keyed(key: &[u8]) -> Hmac<Sha256> {
    Hmac::new_from_slice(key).expect("HMAC takes keys of any length")
}

fn expand(hkdf: &Hkdf<Sha256>, info: &[&[u8]], key: &mut [u8]) {
    hkdf.expand_multi_info(info, key).expect("fewer bytes than HKDF can give");
}

fn words(key: [u8; 16]) -> [u64; 2] {
    let word = u128::from_le_bytes(key);
    #[expect(clippy::cast_possible_truncation, reason = "the halves are wanted")]
    [word as u64, (word >> 64) as u64]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn life(id: u16, byte: u8) -> Life {
        Life { id: NodeId::new(id).unwrap(), boot_nonce: [byte; 16] }
    }

    fn ring(secret: &[u8; 16], cluster: u32) -> Keyring {
        Keyring::new(&Secret::new(secret).unwrap(), cluster)
    }

    #[test]
    fn both_ends_derive_the_same_keys_and_no_direction_shares_one() {
        let ring = ring(b"0123456789abcdef", 7);
        let (a, b) = (ring.pair(&life(1, 1), &life(2, 2)), ring.pair(&life(2, 2), &life(1, 1)));
        assert_eq!(a.epoch, b.epoch);
        assert_eq!((a.send, a.receive), (b.receive, b.send));
        assert_ne!(a.send, a.receive);
        assert_ne!(data_key(a.send), data_key(a.receive));
        assert_ne!(data_key(a.send), a.send);
    }

    #[test]
    fn another_life_secret_or_cluster_has_other_keys() {
        let base = ring(b"0123456789abcdef", 7).pair(&life(1, 1), &life(2, 2));
        for other in [
            ring(b"0123456789abcdef", 7).pair(&life(1, 1), &life(2, 3)),
            ring(b"0123456789abcdef", 7).pair(&life(1, 3), &life(2, 2)),
            ring(b"0123456789abcdef", 7).pair(&life(1, 1), &life(3, 2)),
            ring(b"0123456789abcdef", 8).pair(&life(1, 1), &life(2, 2)),
            ring(b"0123456789abcdeF", 7).pair(&life(1, 1), &life(2, 2)),
        ] {
            assert_ne!(base.send, other.send);
            assert_ne!(base.receive, other.receive);
        }
    }

    #[test]
    fn a_hello_is_authentic_only_between_its_addresses() {
        let ring = ring(b"0123456789abcdef", 7);
        let (a, b) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
        let tag = ring.hello_tag(a, b, b"hello");
        assert!(ring.hello_authentic(a, b, b"hello", &tag));
        assert!(!ring.hello_authentic(b, a, b"hello", &tag));
        assert!(!ring.hello_authentic(a, b, b"hellO", &tag));
    }

    #[test]
    fn a_short_secret_is_refused_with_a_way_out() {
        let error = Secret::new(b"short").unwrap_err();
        assert!(error.to_string().contains("netft key generate"), "{error}");
    }
}
