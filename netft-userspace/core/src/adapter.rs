//! The identity of `netft0`: MAC, IPv4 and IPv6 addresses from a hash of the first physical interface's MAC.

use crate::membership::Adapter;
use netft_common::wire::ENCAPSULATION_BYTES;
use sha2::{Digest, Sha256};
use std::net::{Ipv4Addr, Ipv6Addr};

/// Salts tried before giving up on a conflict.
pub const MAX_SALT: u32 = 4096;

/// What an identity is made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AdapterSeed {
    /// MAC of the first physical interface (or of any that is stable).
    pub first_mac: [u8; 6],
    /// 0, then counted up by conflicts.
    pub salt: u32,
    /// MTU of `netft0` to begin with.
    pub mtu: u16,
}

impl AdapterSeed {
    /// Of a node whose first interface has `first_mac`. `existing` is the MAC of a `netft0` that a previous daemon
    /// left: if it is one of ours, its salt is kept, so that nobody sees the identity change.
    pub fn new(first_mac: [u8; 6], existing: Option<[u8; 6]>) -> Self {
        let at = |salt| Self { first_mac, salt, mtu: 1500 - ENCAPSULATION_BYTES };
        let salt = existing.and_then(|mac| (0..64).find(|&salt| at(salt).adapter().mac == mac));
        at(salt.unwrap_or(0))
    }

    /// The identity.
    pub fn adapter(&self) -> Adapter {
        let hash = Sha256::new()
            .chain_update(b"netft adapter 1")
            .chain_update(self.first_mac)
            .chain_update(self.salt.to_le_bytes())
            .finalize();
        // Locally administered (bit 1 set), unicast (bit 0 clear): IEEE 802c, section 2.2.
        let mac = [hash[0] & 0xfc | 0x02, hash[1], hash[2], hash[3], hash[4], hash[5]];
        // RFC 3927, section 2.1: 169.254.1.0 to 169.254.254.255; 0 and 255 look like subnet and broadcast to people.
        let ipv4 = Ipv4Addr::new(169, 254, 1 + hash[6] % 254, 1 + hash[7] % 254);
        Adapter { mac, ipv4, ipv6: eui64(mac), mtu: self.mtu }
    }
}

/// The link-local address that RFC 4291, appendix A, makes of a MAC.
fn eui64(mac: [u8; 6]) -> Ipv6Addr {
    Ipv6Addr::from([
        0xfe,
        0x80,
        0,
        0,
        0,
        0,
        0,
        0,
        mac[0] ^ 0x02,
        mac[1],
        mac[2],
        0xff,
        0xfe,
        mac[3],
        mac[4],
        mac[5],
    ])
}

/// What two identities have in common, as words, or `None`.
pub fn conflict(one: &Adapter, other: &Adapter) -> Option<String> {
    if one.mac == other.mac {
        return Some(format!("MAC {}", format_mac(one.mac)));
    }
    if one.ipv4 == other.ipv4 {
        return Some(format!("IPv4 {}", one.ipv4));
    }
    (one.ipv6 == other.ipv6).then(|| format!("IPv6 {}", one.ipv6))
}

/// As people write it.
pub fn format_mac(mac: [u8; 6]) -> String {
    let [a, b, c, d, e, f] = mac;
    format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
}
