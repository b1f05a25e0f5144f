//! What `cargo xtask` runs: brings the packages without which nothing here can be built, then gives way to xtask itself.
//!
//! A program of its own because xtask needs them to be built. When nothing is missing it costs a few looks at files.

use std::env;
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

/// What shows that a package is there.
enum Sign {
    /// One of these programs.
    Program(&'static [&'static str]),
    /// A header.
    Header(&'static str),
}

use Sign::{Header, Program};

/// The compilers that xtask/clang knows.
const CLANGS: &[&str] = &[
    "clang-19", "clang-20", "clang-21", "clang-18", "clang-17", "clang-16", "clang", "clang-15", "clang-14",
];

/// What libxdp, libbpf and Rust's bindings to them are built with, and the Debian packages that have it: the first of
/// those that the distribution has.
const NEEDS: &[(Sign, &[&str])] = &[
    (Program(&["cc"]), &["gcc"]),
    (Program(&["make"]), &["make"]),
    (Program(&["m4"]), &["m4"]),
    (Program(&["pkg-config"]), &["pkg-config"]),
    (Program(CLANGS), &["clang-19", "clang"]),
    (Header("libelf.h"), &["libelf-dev"]),
    (Header("zlib.h"), &["zlib1g-dev"]),
];

fn main() -> ExitCode {
    let missing: Vec<&[&str]> = NEEDS.iter().filter(|(sign, _)| !is_there(sign)).map(|need| need.1).collect();
    if !missing.is_empty()
        && let Err(error) = bring(&missing)
    {
        eprintln!("{error}");
        return ExitCode::FAILURE;
    }
    let cargo = env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let error = Command::new(cargo)
        .args(["run", "--quiet", "--release", "--package", "xtask", "--"])
        .args(env::args_os().skip(1))
        .exec();
    eprintln!("cargo can't be started: {error}");
    ExitCode::FAILURE
}

fn is_there(sign: &Sign) -> bool {
    match sign {
        Program(names) => {
            let own = names.contains(&"clang") && env::var_os("CLANG").is_some_and(|clang| !is_ours(&clang));
            own || names.iter().any(|name| find(name))
        }
        Header(name) => {
            let folders = ["/usr/include", "/usr/local/include"];
            folders.iter().any(|folder| Path::new(folder).join(name).is_file())
        }
    }
}

/// Whether $CLANG is what .cargo/config.toml sets.
fn is_ours(clang: &OsString) -> bool {
    Path::new(clang).ends_with("xtask/clang")
}

fn find(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

/// Installs one of each, if this is a system with apt-get and we may.
fn bring(missing: &[&[&str]]) -> Result<(), String> {
    let names = missing.iter().map(|names| names[0]).collect::<Vec<_>>().join(" ");
    let by_hand = format!(
        "missing for building netft: {names} (Debian's names). Install them, or what your distribution calls them, and try again."
    );
    if !find("apt-get") {
        return Err(by_hand);
    }
    eprintln!("installing {names}");
    // A mirror in the middle of an update answers wrongly once; a second try is the known cure.
    let brought = (0..2).any(|_| {
        apt_get(&["update"])
            && missing.iter().all(|names| {
                names.iter().any(|name| apt_get(&["install", "--yes", "--no-install-recommends", name]))
            })
    });
    if brought { Ok(()) } else { Err(by_hand) }
}

fn apt_get(arguments: &[&str]) -> bool {
    let is_root = Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout == b"0\n");
    let mut command = if is_root { Command::new("env") } else { Command::new("sudo") };
    if !is_root {
        command.arg("--non-interactive");
    }
    command.args(["DEBIAN_FRONTEND=noninteractive", "apt-get", "--quiet=2"]).args(arguments);
    // The demo's and the lab's standard output is theirs.
    command.stdin(Stdio::null()).stdout(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}
