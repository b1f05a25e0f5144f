//! Root's rights for the tasks that need them.

use anyhow::{Context, Result, bail};
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Goes on as root: does nothing if we are, else starts this program again under sudo, which may ask for a password.
///
/// What the lab builds is built before that, as the caller: root would leave files that the caller can't replace.
pub fn ensure_root() -> Result<()> {
    if nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = Command::new(cargo);
    build
        .args(["build", "--quiet", "--release", "--bin", "netftd", "--bin", "netft"])
        .args(["-p", "netft-userspace", "-p", "xtask"])
        .current_dir(env!("CARGO_MANIFEST_DIR"));
    if !build.status().context("running cargo build")?.success() {
        bail!("netftd and netft can't be built: see cargo's messages above");
    }
    let program = std::env::current_exe().context("finding this program")?;
    let error =
        Command::new("sudo").arg("--preserve-env").arg(program).args(std::env::args_os().skip(1)).exec();
    Err(error)
        .context("this needs root for namespaces and eBPF programs, and sudo can't be run: run it as root")
}
