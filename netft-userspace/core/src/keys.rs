//! Keys from the cluster secret: one for hellos, and per pair and direction one for heartbeats and one for data.

use std::fmt;

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
