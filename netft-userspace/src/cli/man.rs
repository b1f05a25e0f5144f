//! `netft man`.

use super::{Failure, Result, print};
use std::path::PathBuf;

/// Where to.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Folder for the pages of netft and all its verbs; without it, the main page is printed
    folder: Option<PathBuf>,
}

pub(super) fn run(args: &Args, command: clap::Command) -> Result {
    if let Some(folder) = &args.folder {
        let written =
            std::fs::create_dir_all(folder).and_then(|()| clap_mangen::generate_to(command, folder));
        let why = |error| {
            format!("the man pages can't be written to {} ({error}): check the folder", folder.display())
        };
        return written.map_err(|error| Failure::new(1, why(error)));
    }
    let mut out = Vec::new();
    clap_mangen::Man::new(command).render(&mut out)?;
    print(&String::from_utf8_lossy(&out))
}
