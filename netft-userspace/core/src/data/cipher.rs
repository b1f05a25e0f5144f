//! The keys of data, ready to be used: made once for an epoch, used for each message without allocation.

use super::{DataRoute, HEADROOM};
use crate::keys::SessionKeys;
use crate::session::LiveKeys;
use crate::types::Level;
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use netft_common::siphash::Stream;
use netft_common::wire::{self, DATA_TAG_LEN, Header, PROBE_LEN, kind};

/// Where the tag is in a message.
const TAG: std::ops::Range<usize> = size_of::<Header>()..HEADROOM;

/// A message that can't be sealed, or isn't authentic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CipherError;

/// All keys that are good now.
#[derive(Debug, Default)]
pub struct Ciphers {
    keys: LiveKeys,
    current: Option<Cipher>,
    other: Option<Cipher>,
}

impl Ciphers {
    /// Makes them.
    pub fn new(keys: &LiveKeys) -> Self {
        let make = |keys: &Option<SessionKeys>| keys.as_ref().and_then(Cipher::new);
        Self { current: make(&keys.current), other: make(&keys.other), keys: keys.clone() }
    }

    /// What they were made from.
    pub fn keys(&self) -> &LiveKeys {
        &self.keys
    }

    /// The one to send with.
    pub fn current(&self) -> Option<&Cipher> {
        self.current.as_ref()
    }

    /// That of an epoch.
    pub fn of(&self, epoch: u32) -> Option<&Cipher> {
        [&self.current, &self.other].into_iter().flatten().find(|cipher| cipher.epoch == epoch)
    }
}

/// The keys of one epoch.
#[derive(Debug)]
pub struct Cipher {
    epoch: u32,
    version: u8,
    send: Direction,
    receive: Direction,
}

/// The keys of one epoch and direction.
enum Direction {
    Clear([u64; 2]),
    Signed(LessSafeKey),
    Encrypted(LessSafeKey),
}

impl std::fmt::Debug for Direction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Clear(_) => "Clear(..)",
            Self::Signed(_) => "Signed(..)",
            Self::Encrypted(_) => "Encrypted(..)",
        })
    }
}

impl Direction {
    fn new(level: Level, header: [u64; 2], data: &[u8; 32]) -> Option<Self> {
        let key = || UnboundKey::new(&AES_256_GCM, data).ok().map(LessSafeKey::new);
        Some(match level {
            Level::Clear => Self::Clear(header),
            Level::Signed => Self::Signed(key()?),
            Level::Encrypted => Self::Encrypted(key()?),
        })
    }
}

impl Cipher {
    fn new(keys: &SessionKeys) -> Option<Self> {
        Some(Self {
            epoch: keys.epoch,
            version: keys.version,
            send: Direction::new(keys.level.send, keys.header.send, &keys.data.send)?,
            receive: Direction::new(keys.level.receive, keys.header.receive, &keys.data.receive)?,
        })
    }

    /// Its epoch.
    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    /// The wire version of what it seals and opens.
    pub fn version(&self) -> u8 {
        self.version
    }

    /// The level of what is received.
    pub fn receives(&self) -> Level {
        match self.receive {
            Direction::Clear(_) => Level::Clear,
            Direction::Signed(_) => Level::Signed,
            Direction::Encrypted(_) => Level::Encrypted,
        }
    }

    /// Writes header and tag in front of the frame in `datagram`, which is at least [`HEADROOM`] long.
    pub fn seal(&self, header: &Header, route: &DataRoute, datagram: &mut [u8]) -> Result<(), CipherError> {
        let unsealed = wire::Data { header: *header, tag: [0; DATA_TAG_LEN] };
        datagram[..HEADROOM].copy_from_slice(bytemuck::bytes_of(&unsealed));
        let tag = match &self.send {
            Direction::Clear(key) => clear_tag(*key, &route.local, &route.remote, header, datagram),
            Direction::Signed(key) => {
                let tag = key.seal_in_place_separate_tag(nonce(header), Aad::from(&*datagram), &mut []);
                bytes_of(tag.map_err(|_| CipherError)?.as_ref())?
            }
            Direction::Encrypted(key) => {
                let (head, frame) = datagram.split_at_mut(HEADROOM);
                let covered = Aad::from(&head[..TAG.start]);
                let tag = key.seal_in_place_separate_tag(nonce(header), covered, frame);
                bytes_of(tag.map_err(|_| CipherError)?.as_ref())?
            }
        };
        datagram[TAG].copy_from_slice(&tag);
        Ok(())
    }

    /// Checks `datagram`, which is at least [`HEADROOM`] long and begins with `header`, and makes its frame readable.
    pub fn open(
        &self,
        header: &Header,
        local: &[u8; 16],
        remote: &[u8; 16],
        datagram: &mut [u8],
    ) -> Result<(), CipherError> {
        let tag = bytes_of(&datagram[TAG])?;
        let opened = match &self.receive {
            Direction::Clear(key) => {
                let right = clear_tag(*key, remote, local, header, datagram);
                // One comparison of two words: there is no prefix whose length the time it takes could tell.
                return if u128::from_le_bytes(right) == u128::from_le_bytes(tag) {
                    Ok(())
                } else {
                    Err(CipherError)
                };
            }
            Direction::Signed(key) => {
                datagram[TAG].fill(0);
                let covered = Aad::from(&*datagram);
                key.open_in_place_separate_tag(nonce(header), covered, &tag, &mut []).map(drop)
            }
            Direction::Encrypted(key) => {
                let (head, frame) = datagram.split_at_mut(HEADROOM);
                let covered = Aad::from(&head[..TAG.start]);
                key.open_in_place_separate_tag(nonce(header), covered, &tag, frame).map(drop)
            }
        };
        opened.map_err(|_| CipherError)
    }
}

/// Unique to a message: of two with the same sequence each goes over another route, or both are the same bytes.
fn nonce(header: &Header) -> Nonce {
    let mut nonce = [0; NONCE_LEN];
    nonce[..8].copy_from_slice(&header.sequence.to_le_bytes());
    nonce[8..].copy_from_slice(&header.slot.to_le_bytes());
    Nonce::assume_unique_for_key(nonce)
}

/// Covers everything but what is in the frame, and the number of a probe: it vouches for a route. The second half is 0.
fn clear_tag(
    key: [u64; 2],
    source: &[u8; 16],
    destination: &[u8; 16],
    header: &Header,
    datagram: &[u8],
) -> [u8; DATA_TAG_LEN] {
    let mut stream = Stream::new(key);
    stream.write(source).write(destination).write(bytemuck::bytes_of(header));
    stream.write(&(datagram.len() as u64).to_le_bytes());
    if header.kind == kind::PROBE {
        stream.write(datagram.get(HEADROOM..HEADROOM + PROBE_LEN).unwrap_or_default());
    }
    let hash = stream.finish();
    let mut tag = [0; DATA_TAG_LEN];
    tag[..8].copy_from_slice(&hash.to_le_bytes());
    tag
}

fn bytes_of(tag: &[u8]) -> Result<[u8; DATA_TAG_LEN], CipherError> {
    tag.try_into().map_err(|_| CipherError)
}
