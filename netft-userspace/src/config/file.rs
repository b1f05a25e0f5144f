//! Writing files whole or not at all.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// What to do with a file that is there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    /// Leave it, and fail.
    Keep,
    /// Replace it.
    Replace,
}

/// Why a file wasn't written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// It is there already.
    #[error("{} exists already and was left as it is: use --force to replace it", .0.display())]
    Exists(PathBuf),
    /// The kernel refused.
    #[error("{} can't be written ({source}): check the folder and your permissions", .file.display())]
    Write {
        /// The file.
        file: PathBuf,
        /// What the kernel said.
        source: std::io::Error,
    },
}

/// Behind the process id in a temporary file's name.
const NEW: &str = ".new";

/// Before it.
fn temporary_prefix(file: &Path) -> String {
    format!(".{}.", file.file_name().unwrap_or_default().to_string_lossy())
}

/// Removes the temporary files that processes left beside `file` which were killed while they wrote it. Nobody may write it now.
pub fn remove_temporary(file: &Path) {
    let prefix = temporary_prefix(file);
    let Some(entries) = file.parent().and_then(|folder| fs::read_dir(folder).ok()) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let process = name.to_str().and_then(|name| name.strip_prefix(&prefix)?.strip_suffix(NEW));
        if process.is_some_and(|process| process.parse::<u32>().is_ok()) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Writes `bytes` to `file` with `mode`: into a temporary file beside it, synced, then put in place in one step.
/// Makes the folder if there is none.
pub fn write_new(file: &Path, bytes: &[u8], mode: u32, existing: Existing) -> Result<(), WriteError> {
    let failed = |source| WriteError::Write { file: file.to_owned(), source };
    let folder = match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    fs::create_dir_all(folder).map_err(failed)?;
    let temporary = folder.join(format!("{}{}{NEW}", temporary_prefix(file), std::process::id()));
    let result = (|| {
        let mut new = OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
        new.write_all(bytes)?;
        new.sync_all()?;
        match existing {
            // A link fails if the name is taken: the check and the act are one step.
            Existing::Keep => fs::hard_link(&temporary, file)?,
            Existing::Replace => fs::rename(&temporary, file)?,
        }
        File::open(folder)?.sync_all()
    })();
    if existing == Existing::Keep || result.is_err() {
        // After a rename there is nothing to remove; after a link, the name beside it.
        let _ = fs::remove_file(&temporary);
    }
    result.map_err(|source: std::io::Error| match source.kind() {
        std::io::ErrorKind::AlreadyExists => WriteError::Exists(file.to_owned()),
        _ => failed(source),
    })
}
