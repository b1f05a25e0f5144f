//! A lab that goes when its owner does.

use super::{Lab, Options};
use anyhow::Result;
use std::ops::Deref;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

/// Takes the lab down when dropped, also while a panic unwinds.
#[derive(Debug)]
pub struct LabGuard {
    lab: Lab,
}

impl LabGuard {
    /// Builds a lab as [`Lab::up`] does.
    pub fn up(options: &Options) -> Result<Self> {
        Ok(Self { lab: Lab::up(options)? })
    }

    /// A lab name that no other process and no other call has: `PREFIX-PID-N`.
    ///
    /// Takes down what processes that were killed left behind under the same prefix.
    pub fn unique_name(prefix: &str) -> String {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        for name in Lab::list() {
            if owner(prefix, &name).is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
                // What can't go now is tried again by the next caller.
                let _ = Lab::down(&name);
            }
        }
        format!("{prefix}-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

fn owner(prefix: &str, name: &str) -> Option<u32> {
    let (pid, number) = name.strip_prefix(prefix)?.strip_prefix('-')?.split_once('-')?;
    number.parse::<u32>().ok()?;
    pid.parse().ok()
}

impl Deref for LabGuard {
    type Target = Lab;

    fn deref(&self) -> &Lab {
        &self.lab
    }
}

impl Drop for LabGuard {
    fn drop(&mut self) {
        if let Err(error) = Lab::down(&self.lab.shape().name) {
            eprintln!("lab {} can't be taken down: {error:#}", self.lab.shape().name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unique_name_tells_whose_it_is() {
        assert_eq!(owner("test", "test-123-4"), Some(123));
        assert_eq!(owner("test", "test-x-4"), None);
        assert_eq!(owner("test", "testing-123-4"), None);
    }
}
