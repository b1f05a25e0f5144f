//! `cargo xtask build-ebpf`: rebuilds the eBPF objects in `netft-ebpf/prebuilt`, or checks that they are fresh.
//!
//! The objects are committed so that nobody needs an eBPF toolchain to use netft. What was built from what, with
//! what, is in `netft-ebpf/prebuilt/BUILDINFO`.

mod buildinfo;
mod object;
mod toolchain;

use anyhow::{Context, Result, bail};
use buildinfo::BuildInfo;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use toolchain::Toolchain;

/// Command line.
#[derive(clap::Args)]
pub struct Args {
    /// Change nothing: fail unless the committed objects are what the sources make.
    #[arg(long)]
    check: bool,
}

/// What the programs are called, as binaries of netft-ebpf and as `NAME.bpf.o`.
const OBJECTS: [&str; 2] = ["netft", "lab"];
const TARGET: &str = "bpfel-unknown-none";

/// Runs it.
pub fn run(args: Args) -> Result<()> {
    build_ebpf(args.check)
}

/// Builds both objects; with `check` compares them with the committed ones instead of replacing them.
pub fn build_ebpf(check: bool) -> Result<()> {
    let root = root();
    let prebuilt = root.join("netft-ebpf/prebuilt");
    let committed = BuildInfo::read(&prebuilt.join("BUILDINFO"));
    if check {
        // Without a toolchain already: what was committed must have been made from these sources.
        let committed = committed.as_ref().map_err(|error| anyhow::anyhow!("{error:#}"))?;
        committed.check_sources(&root)?;
        committed.check_objects(&prebuilt)?;
        println!("the committed objects belong to these sources");
    }
    let wanted = committed.as_ref().ok().map(|info| info.rustc.as_str());
    let toolchain = toolchain::find_or_install(wanted)?;
    println!(
        "building with rustc {}, LLVM {}, {}",
        toolchain.rustc_version, toolchain.llvm, toolchain.linker_version
    );
    let sources = compile(&root, &toolchain)?;
    let fresh = objects(&root)?;
    if !check {
        std::fs::create_dir_all(&prebuilt).with_context(|| format!("making {}", prebuilt.display()))?;
        for (name, bytes) in &fresh {
            let path = prebuilt.join(format!("{name}.bpf.o"));
            std::fs::write(&path, bytes).with_context(|| format!("writing {}", path.display()))?;
            println!("wrote {} ({} bytes)", path.display(), bytes.len());
        }
        return BuildInfo::new(&toolchain, &root, &sources, &fresh)?.write(&prebuilt.join("BUILDINFO"));
    }
    let committed = committed?;
    if committed.is_made_by(&toolchain) {
        return compare(&prebuilt, &fresh);
    }
    println!(
        "BUILDINFO names rustc {}, {}: other tools make other bits, so the fresh objects are tested instead",
        committed.rustc, committed.linker
    );
    test_fresh(&root, &fresh)
}

/// The checkout this binary was built from.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map_or_else(|| PathBuf::from("."), Path::to_path_buf)
}

/// Runs cargo in netft-ebpf; gives the source files that went in, relative to `root`.
fn compile(root: &Path, toolchain: &Toolchain) -> Result<Vec<PathBuf>> {
    let folder = root.join("netft-ebpf");
    let status = cargo(root, toolchain)?
        .args(["build", "--locked", "--release", "--target", TARGET, "-Zbuild-std=core"])
        .current_dir(&folder)
        .status()
        .context("starting cargo for netft-ebpf")?;
    if !status.success() {
        bail!("building netft-ebpf failed ({status}): see the compiler's message above");
    }
    let mut sources = vec![
        PathBuf::from("netft-ebpf/Cargo.toml"),
        PathBuf::from("netft-ebpf/Cargo.lock"),
        PathBuf::from("netft-ebpf/common/Cargo.toml"),
    ];
    for name in OBJECTS {
        let path = output(root).join(format!("{name}.d"));
        let text = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        for file in dependencies(&text) {
            let file = file.canonicalize().with_context(|| format!("finding {}", file.display()))?;
            let relative = file.strip_prefix(root.canonicalize()?);
            sources.push(
                relative.with_context(|| format!("{} is outside the checkout", file.display()))?.into(),
            );
        }
    }
    sources.sort();
    sources.dedup();
    Ok(sources)
}

/// The files of a `target: file file…` line as cargo writes it, spaces escaped.
fn dependencies(text: &str) -> Vec<PathBuf> {
    let Some((_, files)) = text.trim_end().split_once(": ") else { return Vec::new() };
    let files = files.replace("\\ ", "\0");
    files.split(' ').filter(|file| !file.is_empty()).map(|file| file.replace('\0', " ").into()).collect()
}

/// cargo, with everything that makes the object the same in every checkout.
fn cargo(root: &Path, toolchain: &Toolchain) -> Result<Command> {
    let mut flags: Vec<OsString> = vec![
        // 32-bit subregisters and jumps: kernel 5.1 and newer.
        "-Ctarget-cpu=v3".into(),
        // Headers in packets aren't aligned. Without this every field is put together from bytes.
        "-Clink-arg=--cpu-features=+allows-misaligned-mem-access".into(),
        "-Clink-arg=--btf".into(),
        "-Cdebuginfo=2".into(),
    ];
    for (from, to) in toolchain.remapped(root)? {
        let mut flag = OsString::from("--remap-path-prefix=");
        flag.push(from);
        flag.push("=");
        flag.push(to);
        flags.push(flag);
    }
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // A cargo started by cargo inherits what describes the outer package and its flags.
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy().into_owned();
        let inherited = text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_PROFILE_");
        if inherited
            || ["RUSTFLAGS", "RUSTUP_TOOLCHAIN", "RUSTC_WRAPPER", "CARGO_BUILD_TARGET"].contains(&&*text)
        {
            cargo.env_remove(&name);
        }
    }
    cargo
        .env("RUSTC", &toolchain.rustc)
        // build-std is unstable; this says so to a stable compiler, for this call only.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_TARGET_DIR", root.join("netft-ebpf/target"))
        .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", &toolchain.linker)
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join(std::ffi::OsStr::new("\x1f")));
    Ok(cargo)
}

fn output(root: &Path) -> PathBuf {
    root.join("netft-ebpf/target").join(TARGET).join("release")
}

/// The objects that were just built, without DWARF.
fn objects(root: &Path) -> Result<Vec<(&'static str, Vec<u8>)>> {
    OBJECTS
        .into_iter()
        .map(|name| {
            let path = output(root).join(name);
            let bytes = std::fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
            Ok((name, object::strip(&bytes).with_context(|| format!("stripping {}", path.display()))?))
        })
        .collect()
}

fn compare(prebuilt: &Path, fresh: &[(&str, Vec<u8>)]) -> Result<()> {
    for (name, bytes) in fresh {
        let path = prebuilt.join(format!("{name}.bpf.o"));
        let committed = std::fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
        if committed != *bytes {
            bail!(
                "{} isn't what these sources make with the tools that BUILDINFO names: run `cargo xtask build-ebpf` \
                 and commit netft-ebpf/prebuilt",
                path.display()
            );
        }
        println!("{} is bit-identical", path.display());
    }
    Ok(())
}

/// Runs the eBPF tests on objects that aren't the committed ones.
fn test_fresh(root: &Path, fresh: &[(&str, Vec<u8>)]) -> Result<()> {
    let folder = root.join("netft-ebpf/target/fresh");
    std::fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
    for (name, bytes) in fresh {
        let path = folder.join(format!("{name}.bpf.o"));
        std::fs::write(&path, bytes).with_context(|| format!("writing {}", path.display()))?;
    }
    let status = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["test", "--release", "--workspace", "--test", "bpf"])
        .current_dir(root)
        .env("NETFT_EBPF_OBJECTS", &folder)
        .status()
        .context("starting cargo for the eBPF tests")?;
    if !status.success() {
        bail!("the eBPF tests failed on the objects in {}: see above", folder.display());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::dependencies;
    use std::path::PathBuf;

    #[test]
    fn dependency_files_with_spaces_are_read() {
        let found = dependencies("/a/netft: /a/b.rs /a\\ b/c.rs\n");
        assert_eq!(found, [PathBuf::from("/a/b.rs"), PathBuf::from("/a b/c.rs")]);
    }
}
