//! Handshake messages to bytes and back: fixed size, for any bytes at all. What they mean is `netft-core`'s `session`.

use crate::hello::HelloError;
use crate::wire::{HELLO_TAG_LEN, Handshake, Header, MAGIC, SECRETS_VERSION, Versions, kind};

/// Length of every handshake message.
pub const LEN: usize = size_of::<Handshake>() + HELLO_TAG_LEN;

/// A well-formed handshake message, not yet authenticated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HandshakeView<'a> {
    /// The message.
    pub message: Handshake,
    /// What the authenticator covers, after the addresses.
    pub signed: &'a [u8],
    /// The authenticator.
    pub tag: &'a [u8; HELLO_TAG_LEN],
}

/// Checks the form of `bytes`, in one of `versions`: everything that can be checked without key and configuration. The cluster id is left to the
/// caller, who has something to say about it.
///
/// # Errors
/// The same as of a hello ([`crate::hello::decode`]).
pub fn decode(bytes: &[u8], versions: Versions) -> Result<HandshakeView<'_>, HelloError> {
    let header = bytes.first_chunk::<{ size_of::<Header>() }>().ok_or(HelloError::NotOurs)?;
    let header: Header = bytemuck::pod_read_unaligned(header);
    let table = [
        (header.magic == MAGIC, HelloError::NotOurs),
        (versions.has(header.version), HelloError::Version),
        (header.kind == kind::HANDSHAKE, HelloError::Kind),
        (bytes.len() == LEN, HelloError::Length),
    ];
    if let Some((_, error)) = table.into_iter().find(|(right, _)| !right) {
        return Err(error);
    }
    let (signed, tag) = bytes.split_last_chunk::<HELLO_TAG_LEN>().ok_or(HelloError::Length)?;
    let message: Handshake = bytemuck::pod_read_unaligned(signed);
    let last = if header.version < SECRETS_VERSION { 2 } else { 3 };
    if message.reserved != 0 || !(1..=last).contains(&message.step) {
        return Err(HelloError::Field);
    }
    Ok(HandshakeView { message, signed, tag })
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytemuck::Zeroable;

    fn decode(bytes: &[u8]) -> Result<HandshakeView<'_>, HelloError> {
        super::decode(bytes, Versions::OURS)
    }

    fn bytes(change: fn(&mut Handshake)) -> [u8; LEN] {
        let mut message = Handshake::zeroed();
        (message.header.magic, message.header.version) = (MAGIC, Versions::OURS.newest);
        (message.header.kind, message.step) = (kind::HANDSHAKE, 2);
        change(&mut message);
        let mut bytes = [7; LEN];
        bytes[..size_of::<Handshake>()].copy_from_slice(bytemuck::bytes_of(&message));
        bytes
    }

    #[test]
    fn only_the_right_form_decodes() {
        let right = bytes(|_| ());
        let view = decode(&right).unwrap();
        assert_eq!((view.message.step, view.tag), (2, &[7; HELLO_TAG_LEN]));
        assert_eq!(view.signed.len(), LEN - HELLO_TAG_LEN);
        for len in 0..LEN {
            assert!(decode(&right[..len]).is_err(), "{len}");
        }
        assert_eq!(decode(&[&right[..], &[0]].concat()), Err(HelloError::Length));
        assert_eq!(decode(&bytes(|m| m.header.magic = 1)), Err(HelloError::NotOurs));
        assert_eq!(decode(&bytes(|m| m.header.version = 9)), Err(HelloError::Version));
        assert_eq!(decode(&bytes(|m| m.header.kind = kind::HELLO)), Err(HelloError::Kind));
        let odd: [fn(&mut Handshake); 3] = [|m| m.step = 0, |m| m.step = 4, |m| m.reserved = 1];
        for change in odd {
            assert_eq!(decode(&bytes(change)), Err(HelloError::Field));
        }
        assert!(decode(&bytes(|m| m.step = 3)).is_ok());
        let early = bytes(|m| (m.header.version, m.step) = (1, 3));
        assert_eq!(decode(&early), Err(HelloError::Field), "version 1 has two steps");
    }
}
