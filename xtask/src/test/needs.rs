//! What the tests need from the system, brought when it is missing.

use anyhow::{Context, Result, bail};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// Programs and the Debian packages that have them. The eBPF toolchain is `build-ebpf`'s business.
const PROGRAMS: &[(&str, &str)] = &[
    ("ip", "iproute2"),
    ("nsenter", "util-linux"),
    ("chrt", "util-linux"),
    ("cc", "gcc"),
    ("ping", "iputils-ping"),
];

/// Checks privilege, cargo's components and programs; installs what can be installed without asking anything.
pub fn provide() -> Result<()> {
    if !is_root() && !succeeds("sudo", &["--non-interactive", "true"]) {
        bail!(
            "the tests load eBPF programs and make network namespaces, and this is neither root nor a user who may \
             `sudo` without a password: run `sudo -v` first, or run as root"
        );
    }
    for component in ["fmt", "clippy"] {
        if !succeeds("cargo", &[component, "--version"]) {
            let name = if component == "fmt" { "rustfmt" } else { component };
            println!("cargo {component} is missing: rustup component add {name}");
            if !succeeds("rustup", &["component", "add", name]) {
                bail!("cargo {component} is missing and rustup can't add it: install Rust's {name}");
            }
        }
    }
    let missing: Vec<_> = PROGRAMS.iter().filter(|(program, _)| find(program).is_none()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let mut packages: Vec<&str> = missing.iter().map(|(_, package)| *package).collect();
    packages.dedup();
    println!("installing {}", packages.join(" "));
    if apt_get(&["update"]).is_err() || apt_get(&install(&packages)).is_err() {
        // A mirror in the middle of an update answers wrongly once; a second try is the known cure.
        apt_get(&["update"])?;
        apt_get(&install(&packages))?;
    }
    match missing.iter().find(|(program, _)| find(program).is_none()) {
        Some((program, package)) => {
            bail!("{program} is missing though {package} was installed: put it on PATH")
        }
        None => Ok(()),
    }
}

/// Whether we are root.
pub fn is_root() -> bool {
    static ROOT: OnceLock<bool> = OnceLock::new();
    *ROOT.get_or_init(|| nix::unistd::geteuid().is_root())
}

fn install<'a>(packages: &[&'a str]) -> Vec<&'a str> {
    [&["install", "--yes", "--no-install-recommends"], packages].concat()
}

fn apt_get(arguments: &[&str]) -> Result<()> {
    let mut command = Command::new(if is_root() { "env" } else { "sudo" });
    command
        .args(["DEBIAN_FRONTEND=noninteractive", "apt-get", "--quiet=2"])
        .args(arguments)
        .stdin(Stdio::null());
    let status = command.status().context("running apt-get: is this a Debian or Ubuntu system?")?;
    if !status.success() {
        bail!("`apt-get {}` ended with {status}: install these packages by hand", arguments.join(" "));
    }
    Ok(())
}

/// The program's path; root's directories count too, as `ip` may live there.
fn find(program: &str) -> Option<std::path::PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default();
    path.split(':')
        .chain(["/usr/sbin", "/sbin", "/usr/bin"])
        .map(|folder| Path::new(folder).join(program))
        .find(|candidate| candidate.is_file())
}

fn succeeds(program: &str, arguments: &[&str]) -> bool {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}
