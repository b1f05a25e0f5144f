//! The next cluster secret, while `netft key rotate` is under way: a file beside the secret, which netftd writes and removes
//! itself. Whatever is killed in whatever moment, a daemon finds the secrets that it told others it has.

use super::file::{Existing, WriteError, remove_temporary, write_new};
use super::secret::{Secret, SecretError, hex, read_private};
use netft_core::membership::{Keep, Next, Phase};
use netft_core::session::Offer;
use netft_core::types::NodeId;
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

/// What is in the file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    started_by: NodeId,
    phase: Phase,
    secret: String,
}

/// Where the next secret is while there is one: beside the secret's file, with `.next` behind its name.
fn next_file(key_file: &Path) -> PathBuf {
    beside(key_file, ".next")
}

/// What shows that files can be made there; empty, and gone at once.
fn probe_file(key_file: &Path) -> PathBuf {
    beside(key_file, ".probe")
}

fn beside(key_file: &Path, end: &str) -> PathBuf {
    let mut name = key_file.as_os_str().to_owned();
    name.push(end);
    name.into()
}

/// Where the secret really is: a link to it stays one.
fn real(key_file: &Path) -> PathBuf {
    fs::canonicalize(key_file).unwrap_or_else(|_| key_file.to_owned())
}

/// The next secret, if there is one.
pub fn load_next_secret(key_file: &Path) -> Result<Option<Next>, SecretError> {
    let file = next_file(&real(key_file));
    let bytes = match read_private(&file) {
        Err(SecretError::Missing(_)) => return Ok(None),
        other => other?,
    };
    let damaged = |why: String| SecretError::Next { file: file.clone(), why };
    let text = String::from_utf8(bytes).map_err(|error| damaged(error.to_string()))?;
    let written: Written = toml::from_str(&text).map_err(|error| damaged(error.message().to_owned()))?;
    let secret =
        unhex(&written.secret).ok_or_else(|| damaged("secret is not 64 hexadecimal digits".into()))?;
    Ok(Some(Next { offer: Offer { secret, started_by: written.started_by }, phase: written.phase }))
}

/// Writes down what a rotation asks for. When this returns, it is on the disk.
pub fn keep_secret(key_file: &Path, keep: &Keep) -> Result<(), WriteError> {
    let key_file = real(key_file);
    let file = next_file(&key_file);
    match keep {
        Keep::Next(Next { offer, phase }) => {
            let written = Written { started_by: offer.started_by, phase: *phase, secret: hex(&offer.secret) };
            let text = toml::to_string(&written).map_err(|error| WriteError::Write {
                file: file.clone(),
                source: std::io::Error::other(error),
            })?;
            let text =
                format!("# `netft key rotate` is under way; netftd writes and removes this file.\n{text}");
            write_new(&file, text.as_bytes(), 0o600, Existing::Replace)
        }
        Keep::Only(offer) => {
            // Killed in between, the next daemon finds both alike, which is the end as well.
            Secret::of_random(&offer.secret).write(&key_file, Existing::Replace)?;
            remove(&file)
        }
        Keep::Old => remove(&file),
    }
}

/// Whether secrets can be written down: makes and removes a file where they would be written.
pub fn check_writable(key_file: &Path) -> Result<(), WriteError> {
    let probe = probe_file(&real(key_file));
    write_new(&probe, b"", 0o600, Existing::Replace)?;
    remove(&probe)
}

/// Removes what a daemon that was killed while it wrote secrets left of them. Only where no other can be writing.
pub fn remove_leftovers(key_file: &Path) {
    let key_file = real(key_file);
    let (next, probe) = (next_file(&key_file), probe_file(&key_file));
    [&key_file, &next, &probe].into_iter().for_each(|file| remove_temporary(file));
}

fn remove(file: &Path) -> Result<(), WriteError> {
    let failed = |source| WriteError::Write { file: file.to_owned(), source };
    match fs::remove_file(file) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let folder = file.parent().unwrap_or(Path::new("/"));
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if text.len() != 2 * bytes.len() || !text.is_ascii() {
        return None;
    }
    for (byte, at) in bytes.iter_mut().zip((0..).step_by(2)) {
        *byte = u8::from_str_radix(&text[at..at + 2], 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn every_step_is_found_again_and_files_are_private() {
        let folder = std::env::temp_dir().join(format!("netft-next-secret-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        let key_file = folder.join("secret");
        let old = Secret::generate().unwrap();
        old.write(&key_file, Existing::Keep).unwrap();
        let link = folder.join("link");
        std::os::unix::fs::symlink(&key_file, &link).unwrap();
        assert_eq!(load_next_secret(&link).unwrap(), None);

        let offer = Offer { secret: [0xa7; 32], started_by: NodeId::new(3).unwrap() };
        for phase in [Phase::Offered, Phase::Switched] {
            let next = Next { offer, phase };
            keep_secret(&link, &Keep::Next(next)).unwrap();
            assert_eq!(load_next_secret(&key_file).unwrap(), Some(next));
            assert_eq!(Secret::load(&key_file).unwrap(), old);
        }
        let file = folder.join("secret.next");
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o7777, 0o600);
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(load_next_secret(&key_file).unwrap_err().to_string().contains("chmod 0600"));
        keep_secret(&link, &Keep::Old).unwrap();
        assert_eq!(load_next_secret(&key_file).unwrap(), None);

        keep_secret(&link, &Keep::Next(Next { offer, phase: Phase::Switched })).unwrap();
        keep_secret(&link, &Keep::Only(offer)).unwrap();
        assert_eq!(load_next_secret(&key_file).unwrap(), None);
        assert_eq!(Secret::load(&link).unwrap(), Secret::of_random(&offer.secret));
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink(), "a link stays one");
        assert_eq!(fs::metadata(&key_file).unwrap().permissions().mode() & 0o7777, 0o600);
        // As netft-core makes it: both must agree on what is in the file.
        let core = netft_core::keys::Secret::of_random(&offer.secret);
        assert_eq!(netft_core::keys::Secret::new(Secret::load(&link).unwrap().bytes()).unwrap(), core);

        check_writable(&link).unwrap();
        let left = [".secret.4711.new", ".secret.next.4711.new"].map(|name| folder.join(name));
        let others = [".secret.new", ".secret.mine.new", ".other.4711.new"].map(|name| folder.join(name));
        left.iter().chain(&others).for_each(|file| fs::write(file, "secret").unwrap());
        remove_leftovers(&link);
        assert!(!left.iter().any(|file| file.exists()) && others.iter().all(|file| file.exists()));
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 2 + others.len(), "no probe is left");
        let nowhere = key_file.join("secret");
        assert!(check_writable(&nowhere).unwrap_err().to_string().contains("can't be written"));

        fs::write(&file, "phase = \"nowhere\"\n").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        let error = load_next_secret(&key_file).unwrap_err().to_string();
        assert!(error.contains("not as netftd writes it"), "{error}");
        fs::remove_dir_all(&folder).unwrap();
    }
}
