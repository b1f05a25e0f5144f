//! `netft key generate`.

use super::{Cli, Failure, Result, print, print_json};
use crate::config::{Config, Existing, Secret};
use serde_json::json;
use std::path::PathBuf;

/// What to do with it.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Write a new random secret with mode 0600
    Generate {
        /// Where [default: security.key_file of the configuration, else "secret" beside it]
        file: Option<PathBuf>,
        /// Replace one that is there: the other nodes must get the new one as well
        #[arg(long)]
        force: bool,
    },
}

pub(super) fn run(cli: &Cli, args: &Args) -> Result {
    let Verb::Generate { file, force } = &args.verb;
    let configured =
        || Config::load(&cli.config).map_or_else(|_| cli.config.with_file_name("secret"), |c| c.key_file);
    let file = file.clone().unwrap_or_else(configured);
    let existing = if *force { Existing::Replace } else { Existing::Keep };
    let secret = Secret::generate().map_err(|error| Failure::new(1, error))?;
    secret.write(&file, existing).map_err(|error| Failure::new(1, error))?;
    if cli.json {
        return print_json(&json!({ "version": 1, "file": file }));
    }
    print(&format!(
        "wrote a new secret to {}: copy it to every node of the cluster, mode 0600\n",
        file.display()
    ))
}
