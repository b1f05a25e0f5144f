//! Finds a compiler with the standard library's source, and a bpf-linker with an LLVM that reads what it writes;
//! installs Debian's when there is none.

use anyhow::{Context, Result, bail};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The version that is installed when there is none, and its feature for the LLVM of [`PACKAGES`].
const LINKER_VERSION: &str = "0.13.0";
const LINKER_FEATURE: &str = "llvm-22";
const LINKER_LLVM: u32 = 22;
/// Debian's compiler for the web, which comes with `core`'s source for other machines.
const PACKAGES: [&str; 2] = ["rustc-web", "rust-web-src"];
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";

/// A compiler and a linker that fit together.
#[derive(Debug)]
pub struct Toolchain {
    /// The compiler.
    pub rustc: PathBuf,
    /// `1.96.0 (ac68faa20 2026-05-25)`.
    pub rustc_version: String,
    /// `22.1.8`.
    pub llvm: String,
    /// bpf-linker.
    pub linker: PathBuf,
    /// `bpf-linker 0.13.0`.
    pub linker_version: String,
    /// Where `core`'s source is.
    library: PathBuf,
}

impl Toolchain {
    /// What must not show in the object, and what stands for it.
    pub fn remapped(&self, root: &Path) -> Result<Vec<(PathBuf, &'static str)>> {
        let mut remapped = vec![(root.to_path_buf(), "/netft"), (self.library.clone(), "/rust/library")];
        let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
        let home = home.or_else(|| std::env::home_dir().map(|home| home.join(".cargo")));
        let registries = home.context("finding cargo's folder: set CARGO_HOME")?.join("registry/src");
        // One folder per registry, whose name depends on the mirror. It is there: this program came from it too.
        for entry in std::fs::read_dir(&registries).into_iter().flatten() {
            remapped.push((entry.context("listing cargo's registries")?.path(), "/registry"));
        }
        Ok(remapped)
    }
}

/// A toolchain: preferably the one with the compiler `wanted`, else any, else Debian's, installed now.
pub fn find_or_install(wanted: Option<&str>) -> Result<Toolchain> {
    let mut found: Vec<Toolchain> = compilers().iter().filter_map(|rustc| complete(rustc).ok()).collect();
    if found.is_empty() {
        install()?;
        found.push(complete(Path::new(DEBIAN_RUSTC)).context("using what was just installed")?);
    }
    let best = found.iter().position(|toolchain| Some(toolchain.rustc_version.as_str()) == wanted);
    Ok(found.swap_remove(best.unwrap_or(0)))
}

/// Compilers that may have the library's source: nightlies of rustup, then Debian's.
fn compilers() -> Vec<PathBuf> {
    let mut compilers = Vec::new();
    let toolchains = output(Command::new("rustup").args(["toolchain", "list"])).unwrap_or_default();
    for line in toolchains.lines().filter(|line| line.starts_with("nightly")) {
        let name = line.split_whitespace().next().unwrap_or(line);
        if let Ok(path) = output(Command::new("rustup").args(["which", "rustc", "--toolchain", name])) {
            compilers.push(path.trim().into());
        }
    }
    compilers.push(DEBIAN_RUSTC.into());
    compilers
}

/// The compiler with its library and a linker; an error says what it lacks.
fn complete(rustc: &Path) -> Result<Toolchain> {
    let version = output(Command::new(rustc).arg("-vV"))?;
    let field = |name: &str| version.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let rustc_version = field("rustc ").context("rustc doesn't say its version")?;
    let llvm = field("LLVM version: ").context("rustc doesn't say its LLVM's version")?;
    let sysroot = output(Command::new(rustc).args(["--print", "sysroot"]))?;
    let library = Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library");
    if !library.join("core/src/lib.rs").is_file() {
        bail!("{} has no source of the standard library in {}", rustc.display(), library.display());
    }
    let major: u32 = llvm.split('.').next().and_then(|major| major.parse().ok()).unwrap_or(u32::MAX);
    if major > LINKER_LLVM {
        bail!("{} writes the bitcode of LLVM {llvm}, newer than bpf-linker's", rustc.display());
    }
    let linker = linker()?;
    let linker_version = output(Command::new(&linker).arg("--version"))?.trim().to_owned();
    Ok(Toolchain {
        rustc: rustc.into(),
        rustc_version: rustc_version.into(),
        llvm: llvm.into(),
        linker,
        linker_version,
        library,
    })
}

/// bpf-linker from the cache.
fn linker() -> Result<PathBuf> {
    let path = cache()?.join("toolchain/bin/bpf-linker");
    let version = output(Command::new(&path).arg("--version"))?;
    if version.trim() != format!("bpf-linker {LINKER_VERSION}") {
        bail!("{} is {}, not {LINKER_VERSION}", path.display(), version.trim());
    }
    Ok(path)
}

/// Where the toolchain is kept, outside any checkout: `$NETFT_CACHE`, else `~/.cache/netft`.
fn cache() -> Result<PathBuf> {
    let own = std::env::var_os("NETFT_CACHE").map(PathBuf::from);
    own.or_else(|| std::env::home_dir().map(|home| home.join(".cache/netft")))
        .context("finding the cache: set NETFT_CACHE to a folder")
}

fn install() -> Result<()> {
    let by_hand = "to mend it by hand, have Debian's rustc-web and rust-web-src, or `rustup toolchain install nightly \
                   --component rust-src`, and run again";
    let has_source = compilers().iter().any(|rustc| {
        output(Command::new(rustc).args(["--print", "sysroot"]))
            .is_ok_and(|sysroot| Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core").is_dir())
    });
    let llvm = llvm_library();
    if !has_source || llvm.is_none() {
        println!("no eBPF toolchain: apt-get install {}", PACKAGES.join(" "));
        if apt_install().is_err() {
            // A mirror in the middle of an update answers wrongly once; a second try is the known cure.
            apt_install()
                .with_context(|| format!("no eBPF toolchain and apt-get can't bring one; {by_hand}"))?;
        }
    }
    let llvm =
        llvm_library().with_context(|| format!("no libLLVM.so.{LINKER_LLVM}.* in /usr/lib; {by_hand}"))?;
    let toolchain = cache()?.join("toolchain");
    link_llvm(&llvm, &toolchain.join("llvm/lib"))?;
    println!("building bpf-linker {LINKER_VERSION} into {} (some minutes)", toolchain.display());
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .args(["install", "bpf-linker", "--version", LINKER_VERSION, "--locked", "--no-default-features"])
        .args(["--features", LINKER_FEATURE, "--root"])
        .arg(&toolchain)
        .env("LLVM_PREFIX", toolchain.join("llvm"))
        .env_remove("CARGO_TARGET_DIR");
    succeed(&mut cargo).context("building bpf-linker: see cargo's message above")
}

fn apt_install() -> Result<()> {
    let root = output(Command::new("id").arg("-u"))?.trim() == "0";
    for arguments in
        [&["update"][..], &[&["install", "--yes", "--no-install-recommends"][..], &PACKAGES].concat()]
    {
        let mut apt = Command::new(if root { "env" } else { "sudo" });
        succeed(apt.args(["DEBIAN_FRONTEND=noninteractive", "apt-get", "--quiet=2"]).args(arguments))?;
    }
    Ok(())
}

/// Debian's `libLLVM.so.22.1`.
fn llvm_library() -> Option<PathBuf> {
    let folder = Path::new("/usr/lib").join(format!("{}-linux-gnu", std::env::consts::ARCH));
    let prefix = format!("libLLVM.so.{LINKER_LLVM}.");
    let mut found: Vec<PathBuf> =
        std::fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path()).collect();
    found.retain(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&prefix)));
    found.sort();
    found.pop()
}

/// A folder as bpf-linker's build script expects LLVM's: there is no development package of this version.
fn link_llvm(library: &Path, folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    let own_name = library.file_name().map(OsString::from).context("libLLVM has no name")?;
    for name in [OsString::from("libLLVM.so"), own_name] {
        let link = folder.join(name);
        if link.symlink_metadata().is_ok() {
            std::fs::remove_file(&link).with_context(|| format!("removing {}", link.display()))?;
        }
        std::os::unix::fs::symlink(library, &link).with_context(|| format!("linking {}", link.display()))?;
    }
    Ok(())
}

fn succeed(command: &mut Command) -> Result<()> {
    let shown = format!("{command:?}");
    let status = command.stdin(Stdio::null()).status().with_context(|| format!("starting {shown}"))?;
    if !status.success() {
        bail!("{shown} ended with {status}");
    }
    Ok(())
}

fn output(command: &mut Command) -> Result<String> {
    let shown = format!("{command:?}");
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("starting {shown}"))?;
    if !output.status.success() {
        bail!("{shown} ended with {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    String::from_utf8(output.stdout).with_context(|| format!("reading what {shown} said"))
}
