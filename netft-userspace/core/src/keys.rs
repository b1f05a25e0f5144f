//! Keys: from the cluster secret one for hellos and one that handshakes need; from a handshake those of a session.
//!
//! HKDF-SHA256 (RFC 5869), the cluster id as salt of what comes from the secret. Each purpose has its own label, and each key
//! of a session names both nodes in the direction of travel.

use crate::types::{Level, NodeId, address_bytes};
use hkdf::Hkdf;
use hmac::{Hmac, KeyInit, Mac};
use netft_common::map::KeySet;
use netft_common::wire::{HELLO_TAG_LEN, VERSION};
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

    /// A random one, as files have it: 64 hexadecimal digits.
    pub fn of_random(random: &[u8; 32]) -> Self {
        Self(random.iter().flat_map(|byte| format!("{byte:02x}").into_bytes()).collect())
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

/// A key for each direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Directions<T> {
    /// Of what we send.
    pub send: T,
    /// Of what we receive.
    pub receive: T,
}

/// The keys of one epoch of a session, seen from one end. SipHash keys are two little-endian words.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SessionKeys {
    /// Names them on the wire; never 0.
    pub epoch: u32,
    /// The wire version that they were agreed on for: what they protect is written in it.
    pub version: u8,
    /// The level at which each end sends data with these keys.
    pub level: Directions<Level>,
    /// Of heartbeats.
    pub heartbeat: Directions<[u64; 2]>,
    /// Of data at level clear: SipHash.
    pub header: Directions<[u64; 2]>,
    /// Of data at the other levels: AES-256-GCM.
    pub data: Directions<[u8; 32]>,
    /// Of the next cluster secret.
    pub offer: Directions<[u8; 32]>,
}

impl fmt::Debug for SessionKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SessionKeys(epoch {:#010x})", self.epoch)
    }
}

impl SessionKeys {
    /// From what a handshake in the newest version gave to `own` and `peer`.
    pub fn derive(secrets: &Hkdf<Sha256>, own: NodeId, peer: NodeId, level: Directions<Level>) -> Self {
        let mut epoch = [0; 4];
        expand(secrets, &[b"netft 1 epoch"], &mut epoch);
        let fill = |label: &[u8], from: NodeId, to: NodeId, key: &mut [u8]| {
            expand(secrets, &[label, &from.get().to_le_bytes(), &to.get().to_le_bytes()], key);
        };
        let siphash = |label: &[u8]| {
            let key = |from, to| {
                let mut key = [0; 16];
                fill(label, from, to, &mut key);
                words(key)
            };
            Directions { send: key(own, peer), receive: key(peer, own) }
        };
        let aes = |label: &[u8]| {
            let key = |from, to| {
                let mut key = [0; 32];
                fill(label, from, to, &mut key);
                key
            };
            Directions { send: key(own, peer), receive: key(peer, own) }
        };
        Self {
            epoch: u32::from_le_bytes(epoch).max(1),
            version: VERSION,
            level,
            heartbeat: siphash(b"netft 1 heartbeat"),
            header: siphash(b"netft 1 header"),
            data: aes(b"netft 1 data"),
            offer: aes(b"netft 1 offer"),
        }
    }

    /// Those that `derive` makes of a secret that both ends have anyway: for tests and measurements.
    pub fn of_secret(secret: &[u8], own: NodeId, peer: NodeId, level: Directions<Level>) -> Self {
        Self::derive(&Hkdf::new(None, secret), own, peer, level)
    }

    /// As XDP must have them, not to send with yet.
    pub fn heartbeat_set(&self) -> KeySet {
        let Directions { send, receive } = self.heartbeat;
        KeySet { sends: 0, version: self.version, ..KeySet::sending(self.epoch, send, receive) }
    }
}

/// Names a cluster secret without giving it away; never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SecretId(pub u64);

impl fmt::Display for SecretId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Everything that the secret gives.
#[derive(Clone)]
pub struct Keyring {
    id: SecretId,
    hello: Hmac<Sha256>,
    proof: Hmac<Sha256>,
    session: [u8; 32],
    consensus: [u8; 32],
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keyring(..)")
    }
}

impl Keyring {
    /// Of one cluster.
    pub fn new(secret: &Secret, cluster_id: u32) -> Self {
        let cluster = Hkdf::<Sha256>::new(Some(&cluster_id.to_le_bytes()), &secret.0);
        let [mut hello, mut proof, mut session, mut consensus] = [[0; 32]; 4];
        expand(&cluster, &[b"netft 1 hello"], &mut hello);
        expand(&cluster, &[b"netft 1 proof"], &mut proof);
        expand(&cluster, &[b"netft 1 session"], &mut session);
        expand(&cluster, &[b"netft 1 consensus"], &mut consensus);
        let mut id = [0; 8];
        expand(&cluster, &[b"netft 1 secret id"], &mut id);
        let id = SecretId(u64::from_le_bytes(id).max(1));
        Self { id, hello: keyed(&hello), proof: keyed(&proof), session, consensus }
    }

    /// Which secret it is of.
    pub fn id(&self) -> SecretId {
        self.id
    }

    /// The key that both ends of a handshake must have.
    pub fn session_psk(&self) -> &[u8; 32] {
        &self.session
    }

    /// The key that both ends of a connection of consensus must have.
    pub fn consensus_psk(&self) -> &[u8; 32] {
        &self.consensus
    }

    /// Authenticator of a hello or a handshake step from `source` to `destination`; `signed` is everything before it.
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

    /// Shows that `life` has this secret when it makes a hello with `sequence` that is signed with another one.
    pub fn proof(&self, life: &Life, sequence: u64) -> u64 {
        let tag = self.proof_mac(life, sequence).finalize().into_bytes();
        u64::from_le_bytes([tag[0], tag[1], tag[2], tag[3], tag[4], tag[5], tag[6], tag[7]])
    }

    /// Whether it does, in constant time.
    pub fn proven(&self, life: &Life, sequence: u64, proof: u64) -> bool {
        let mac = self.proof_mac(life, sequence);
        proof != 0 && mac.verify_truncated_left(&proof.to_le_bytes()).is_ok()
    }

    fn proof_mac(&self, life: &Life, sequence: u64) -> Hmac<Sha256> {
        self.proof
            .clone()
            .chain_update(life.id.get().to_le_bytes())
            .chain_update(life.boot_nonce)
            .chain_update(sequence.to_le_bytes())
    }

    fn hello_mac(&self, source: IpAddr, destination: IpAddr, signed: &[u8]) -> Hmac<Sha256> {
        self.hello
            .clone()
            .chain_update(address_bytes(source))
            .chain_update(address_bytes(destination))
            .chain_update(signed)
    }
}

/// The keyring of the cluster secret; of two, while one takes the other's place.
#[derive(Clone, Debug)]
pub struct Keyrings {
    /// What we sign with.
    pub primary: Keyring,
    /// What is accepted as well.
    pub other: Option<Keyring>,
}

impl Keyrings {
    /// That of a secret, if it is good now.
    pub fn of(&self, id: SecretId) -> Option<&Keyring> {
        std::iter::once(&self.primary).chain(&self.other).find(|ring| ring.id == id)
    }

    /// The other one than `id`, while there are two.
    pub fn besides(&self, id: SecretId) -> Option<&Keyring> {
        std::iter::once(&self.primary).chain(&self.other).find(|ring| ring.id != id)
    }

    /// The secret with which a hello or a handshake step was signed; `None` if it isn't authentic.
    pub fn signer(
        &self,
        source: IpAddr,
        destination: IpAddr,
        signed: &[u8],
        tag: &[u8; HELLO_TAG_LEN],
    ) -> Option<SecretId> {
        let mut rings = std::iter::once(&self.primary).chain(&self.other);
        rings.find(|ring| ring.hello_authentic(source, destination, signed, tag)).map(Keyring::id)
    }

    /// The other one is signed with from now on, and this one still accepted.
    pub fn swap(&mut self) {
        if let Some(other) = &mut self.other {
            std::mem::swap(&mut self.primary, other);
        }
    }
}

/// A digest of two lives, the same at both ends: what a route's keys and evidence belong to.
pub fn lives(one: &Life, other: &Life) -> u32 {
    let (low, high) = if one.id < other.id { (one, other) } else { (other, one) };
    let digest = Sha256::new()
        .chain_update(b"netft 1 lives")
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

    fn ring(secret: &[u8; 16], cluster: u32) -> Keyring {
        Keyring::new(&Secret::new(secret).unwrap(), cluster)
    }

    const SIGNED: Directions<Level> = Directions { send: Level::Signed, receive: Level::Signed };

    fn node(id: u16) -> NodeId {
        NodeId::new(id).unwrap()
    }

    #[test]
    fn both_ends_derive_the_same_keys_and_no_direction_or_purpose_shares_one() {
        let secrets = Hkdf::new(Some(b"salt"), b"secret");
        let a = SessionKeys::derive(&secrets, node(1), node(2), SIGNED);
        let b = SessionKeys::derive(&secrets, node(2), node(1), SIGNED);
        assert_eq!(a.epoch, b.epoch);
        assert_eq!((a.heartbeat.send, a.heartbeat.receive), (b.heartbeat.receive, b.heartbeat.send));
        assert_eq!((a.data.send, a.data.receive), (b.data.receive, b.data.send));
        assert_eq!((a.header.send, a.header.receive), (b.header.receive, b.header.send));
        assert_eq!((a.offer.send, a.offer.receive), (b.offer.receive, b.offer.send));
        let long = [a.data.send, a.data.receive, a.offer.send, a.offer.receive];
        for (at, key) in long.iter().enumerate() {
            assert!(!long[..at].contains(key));
        }
        let all = [a.heartbeat.send, a.heartbeat.receive, a.header.send, a.header.receive];
        for (at, key) in all.iter().enumerate() {
            assert!(!all[..at].contains(key));
        }
        let other = SessionKeys::derive(&Hkdf::new(Some(b"salt"), b"secreT"), node(1), node(2), SIGNED);
        assert!(other.epoch != a.epoch && !all.contains(&other.heartbeat.send));
    }

    #[test]
    fn another_life_is_another_pair_of_lives_and_both_ends_name_it_alike() {
        let life = |id, byte| Life { id: node(id), boot_nonce: [byte; 16] };
        let base = lives(&life(1, 1), &life(2, 2));
        assert_eq!(base, lives(&life(2, 2), &life(1, 1)));
        for other in [lives(&life(1, 1), &life(2, 3)), lives(&life(1, 1), &life(3, 2))] {
            assert_ne!(base, other);
        }
    }

    #[test]
    fn another_secret_or_cluster_has_another_session_key() {
        let base = *ring(b"0123456789abcdef", 7).session_psk();
        assert_ne!(base, *ring(b"0123456789abcdef", 8).session_psk());
        assert_ne!(base, *ring(b"0123456789abcdeF", 7).session_psk());
        assert_ne!(base, *ring(b"0123456789abcdef", 7).consensus_psk());
        let id = ring(b"0123456789abcdef", 7).id();
        assert_eq!(id, ring(b"0123456789abcdef", 7).id());
        assert!(![ring(b"0123456789abcdef", 8).id(), ring(b"0123456789abcdeF", 7).id()].contains(&id));
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
    fn only_who_has_a_secret_proves_it_and_only_for_one_hello() {
        let (old, new) = (ring(b"0123456789abcdef", 7), ring(b"fedcba9876543210", 7));
        let life = |id, byte| Life { id: node(id), boot_nonce: [byte; 16] };
        let proof = new.proof(&life(1, 1), 5);
        assert!(new.proven(&life(1, 1), 5, proof));
        for forged in [old.proof(&life(1, 1), 5), new.id().0, proof ^ 1, 0] {
            assert!(!new.proven(&life(1, 1), 5, forged));
        }
        assert!(!new.proven(&life(1, 1), 6, proof));
        assert!(!new.proven(&life(2, 1), 5, proof) && !new.proven(&life(1, 2), 5, proof));
    }

    #[test]
    fn a_short_secret_is_refused_with_a_way_out() {
        let error = Secret::new(b"short").unwrap_err();
        assert!(error.to_string().contains("netft key generate"), "{error}");
    }
}
