//! The cluster secret: a file that nobody else can read.

use super::file::{self, WriteError};
use std::fmt;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Fewest bytes of a secret.
pub const MIN_LEN: usize = 32;
/// Longest file that is read.
const MAX_LEN: u64 = 4096;

/// The cluster secret. Its `Debug` form doesn't show it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Vec<u8>);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({} bytes)", self.0.len())
    }
}

/// Why there is no secret.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// No such file.
    #[error(
        "the cluster secret {} does not exist: copy it from another node of the cluster, or make the first one with \
         `netft key generate {}`", .0.display(), .0.display()
    )]
    Missing(PathBuf),
    /// Not readable.
    #[error("the cluster secret {} can't be read ({source}): run this as the user that owns it", .file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// A folder, a device...
    #[error("the cluster secret {} is not a regular file: name one in security.key_file", .0.display())]
    NotAFile(PathBuf),
    /// Others may read or write it.
    #[error("the cluster secret {} has mode {mode:04o}, so others can get at it: run `chmod 0600 {}`", .file.display(), .file.display())]
    Mode {
        /// The file.
        file: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Somebody else's.
    #[error("the cluster secret {} belongs to user id {owner}, not to us ({us}): run `chown {us} {}`", .file.display(), .file.display())]
    Owner {
        /// The file.
        file: PathBuf,
        /// Its owner.
        owner: u32,
        /// Who we are.
        us: u32,
    },
    /// Too short to be one.
    #[error(
        "the cluster secret {} has {len} bytes, {MIN_LEN} are needed: make a new one with `netft key generate --force {}` \
         and copy it to every node", .file.display(), .file.display()
    )]
    Short {
        /// The file.
        file: PathBuf,
        /// What it has, white space at the end not counted.
        len: usize,
    },
    /// The next secret, which netftd has written itself, is damaged.
    #[error(
        "{} is not as netftd writes it ({why}): if `netft status` on the other nodes shows no rotation, remove it; if it shows one, \
         copy the file of that name from another node and set started_by and phase as there", .file.display()
    )]
    Next {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// Longer than a secret ever is.
    #[error("the cluster secret {} is longer than {MAX_LEN} bytes: is that the right file?", .0.display())]
    Long(PathBuf),
}

impl Secret {
    /// Reads `file`, and refuses one that others can read, that isn't ours, or that is too short.
    pub fn load(file: &Path) -> Result<Self, SecretError> {
        let bytes = read_private(file)?;
        if bytes.len() < MIN_LEN {
            return Err(SecretError::Short { file: file.to_owned(), len: bytes.len() });
        }
        Ok(Self(bytes))
    }

    /// A new random one: 32 bytes, written as 64 hexadecimal digits, so that it survives copy and paste.
    pub fn generate() -> Result<Self, getrandom::Error> {
        let mut random = [0; 32];
        getrandom::fill(&mut random)?;
        Ok(Self::of_random(&random))
    }

    /// The same, of bytes that are random.
    pub fn of_random(random: &[u8; 32]) -> Self {
        Self(hex(random).into_bytes())
    }

    /// Writes it with mode 0600, whole or not at all.
    pub fn write(&self, file: &Path, existing: file::Existing) -> Result<(), WriteError> {
        let mut text = self.0.clone();
        text.push(b'\n');
        file::write_new(file, &text, 0o600, existing)
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What is in a file that nobody else can read, without white space at its end.
pub(super) fn read_private(file: &Path) -> Result<Vec<u8>, SecretError> {
    let read = |source: std::io::Error| match source.kind() {
        std::io::ErrorKind::NotFound => SecretError::Missing(file.to_owned()),
        _ => SecretError::Read { file: file.to_owned(), source },
    };
    let mut opened = std::fs::File::open(file).map_err(read)?;
    // Asked of the open file, so nothing can be swapped in between.
    let metadata = opened.metadata().map_err(read)?;
    if !metadata.is_file() {
        return Err(SecretError::NotAFile(file.to_owned()));
    }
    let mode = metadata.permissions().mode() & 0o7777;
    if mode & 0o177 != 0 {
        return Err(SecretError::Mode { file: file.to_owned(), mode });
    }
    // /proc/self belongs to the effective user: the one thing std has that tells it.
    let us = std::fs::metadata("/proc/self").map_or(metadata.uid(), |m| m.uid());
    if metadata.uid() != us {
        return Err(SecretError::Owner { file: file.to_owned(), owner: metadata.uid(), us });
    }
    let mut bytes = Vec::new();
    opened.by_ref().take(MAX_LEN + 1).read_to_end(&mut bytes).map_err(read)?;
    if bytes.len() as u64 > MAX_LEN {
        return Err(SecretError::Long(file.to_owned()));
    }
    // An editor's newline at the end must not make another secret.
    while bytes.last().is_some_and(u8::is_ascii_whitespace) {
        bytes.pop();
    }
    Ok(bytes)
}
