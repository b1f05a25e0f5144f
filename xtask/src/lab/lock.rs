//! What must not happen at the same time on one machine.

use super::config::ROOT;
use anyhow::{Context, Result};
use std::fs::{self, File};
use std::path::Path;

/// A lock on the whole machine; dropping it, or the end of the process, releases it.
#[derive(Debug)]
pub struct MachineLock {
    _file: File,
}

/// Waits for the right to time milliseconds: whoever measures time in a lab holds this, so that no two do at once.
pub fn timing_lock() -> Result<MachineLock> {
    lock("timing.lock")
}

/// Whoever mounts the BPF file system holds this meanwhile.
pub(super) fn setup_lock() -> Result<MachineLock> {
    lock("setup.lock")
}

fn lock(name: &str) -> Result<MachineLock> {
    fs::create_dir_all(ROOT).with_context(|| format!("{ROOT} can't be made"))?;
    let path = Path::new(ROOT).join(name);
    let failed = || format!("{} can't be locked", path.display());
    let file = File::options().create(true).truncate(false).write(true).open(&path).with_context(failed)?;
    file.lock().with_context(failed)?;
    Ok(MachineLock { _file: file })
}
