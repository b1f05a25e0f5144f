//! Runs cargo for a part, with a deadline and, where a part needs it, with root's rights for what cargo runs.

use super::needs;
use anyhow::{Context, Result, bail};
use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Whose rights the programs that cargo runs get. Cargo itself always runs as the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Privilege {
    /// The caller's.
    User,
    /// Root's: loads eBPF programs and makes network namespaces.
    Root,
}

/// Runs `cargo ARGUMENTS` in `root`; its output goes straight to ours.
pub fn cargo(
    root: &Path,
    arguments: &[&str],
    privilege: Privilege,
    environment: &[(&str, &str)],
    deadline: Instant,
) -> Result<()> {
    let shown = format!("cargo {}", arguments.join(" "));
    println!("$ {shown}");
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments).current_dir(root).stdin(Stdio::null()).envs(environment.iter().copied());
    // `cargo run` (the xtask alias) names its own package in these; a nested cargo must not inherit them.
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("CARGO_PKG_"))
    {
        command.env_remove(name);
    }
    if privilege == Privilege::Root && !needs::is_root() {
        let target = format!("{}_UNKNOWN_LINUX_GNU", std::env::consts::ARCH.to_uppercase());
        command.env(format!("CARGO_TARGET_{target}_RUNNER"), "sudo --preserve-env");
    }
    let mut child = command.spawn().with_context(|| format!("starting `{shown}`"))?;
    loop {
        if let Some(status) = child.try_wait().with_context(|| format!("waiting for `{shown}`"))? {
            if status.success() {
                return Ok(());
            }
            bail!("`{shown}` ended with {status}");
        }
        if Instant::now() > deadline {
            end_tree(child.id());
            let _ = child.wait();
            bail!("`{shown}` took too long and was ended: something hangs");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Ends a process and everything below it: ending cargo alone would leave the test that hangs behind.
fn end_tree(pid: u32) {
    let mut doomed = BTreeSet::from([pid]);
    let parents: Vec<(u32, u32)> = std::fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            let pid: u32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            // pid (comm) state ppid: comm may hold spaces and parentheses, so read from the last one.
            let parent = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()?;
            Some((pid, parent))
        })
        .collect();
    loop {
        let before = doomed.len();
        let below = parents.iter().filter(|(_, parent)| doomed.contains(parent)).map(|(pid, _)| *pid);
        let below: Vec<u32> = below.collect();
        doomed.extend(below);
        if doomed.len() == before {
            break;
        }
    }
    for pid in doomed {
        let _ = Command::new("kill").args(["-KILL", &pid.to_string()]).status();
    }
}
