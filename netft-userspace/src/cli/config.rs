//! `netft config check` and `netft config show`.

use super::{Cli, Failure, Result, print, print_json};
use crate::config::{Config, ConfigError, Secret};
use crate::control::Request;
use crate::listing::{ConfigShow, Versioned};
use serde_json::json;
use std::path::{Path, PathBuf};

/// Which.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Judge a file and its secret without touching the running daemon
    Check {
        /// The file [default: --config]
        file: Option<PathBuf>,
    },
    /// Every key with the value in effect: of the running daemon, or with --file of a file
    Show {
        /// Show what a file means instead of what the daemon does
        #[arg(long)]
        file: Option<PathBuf>,
    },
}

pub(super) fn run(cli: &Cli, args: &Args) -> Result {
    match &args.verb {
        Verb::Check { file } => check(cli, file.as_ref().unwrap_or(&cli.config)),
        Verb::Show { file: None } => cli.list(Request::Config, text),
        Verb::Show { file: Some(file) } => {
            let config = Config::load(file).map_err(|error| Failure::new(4, error))?;
            let document = ConfigShow {
                file: file.display().to_string(),
                config: config.entries().into_iter().collect(),
            };
            if cli.json {
                let value =
                    serde_json::to_value(Versioned::new(&document)).map_err(|e| Failure::new(1, e))?;
                return print_json(&value);
            }
            print(&text(&document))
        }
    }
}

fn check(cli: &Cli, file: &Path) -> Result {
    let problems = problems(file);
    let warnings = Config::load(file).map(|config| config.warnings()).unwrap_or_default();
    if cli.json {
        let list: Vec<_> = problems
            .iter()
            .map(|(line, message)| json!({ "file": file, "line": line, "message": message }))
            .collect();
        print_json(
            &json!({ "version": 1, "file": file, "valid": list.is_empty(), "problems": list, "warnings": warnings }),
        )?;
    }
    if problems.is_empty() {
        if cli.json {
            return Ok(());
        }
        let lines = warnings.iter().map(|warning| format!("warning: {warning}\n"));
        return print(&(lines.collect::<String>() + &format!("{} is valid\n", file.display())));
    }
    Err(Failure::new(4, problems.iter().map(|(_, text)| text.as_str()).collect::<Vec<_>>().join("\nnetft: ")))
}

/// Line, if there is one, and the whole sentence.
fn problems(file: &Path) -> Vec<(Option<usize>, String)> {
    match Config::load(file) {
        Ok(config) => {
            Secret::load(&config.key_file).err().map(|error| (None, error.to_string())).into_iter().collect()
        }
        Err(ConfigError::Invalid(problems)) => problems.iter().map(|p| (p.line, p.to_string())).collect(),
        Err(error) => vec![(None, error.to_string())],
    }
}

fn text(show: &ConfigShow) -> String {
    let mut out = format!("# in effect, from {}\n", show.file);
    let mut entries: Vec<_> = show.config.iter().collect();
    entries.sort_by_key(|(key, _)| (crate::config::position(key), *key));
    for (key, value) in entries {
        if value.is_null() {
            out += &format!("# {key} is not set\n");
        } else {
            out += &format!("{key} = {value}\n");
        }
    }
    out
}
