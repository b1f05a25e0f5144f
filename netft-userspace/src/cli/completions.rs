//! `netft completions`.

use super::{Result, print};
use clap_complete::Shell;

/// For whom.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The shell
    shell: Shell,
}

pub(super) fn run(args: &Args, command: &mut clap::Command) -> Result {
    let mut out = Vec::new();
    clap_complete::generate(args.shell, command, "netft", &mut out);
    print(&String::from_utf8_lossy(&out))
}
