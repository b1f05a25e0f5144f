//! `netft key generate|rotate`.

use super::{Cli, Failure, Result, print, print_json};
use crate::config::{Config, Existing, Secret};
use crate::control::{ClientError, Request};
use crate::listing::{KeyRotate, KeyRotation, Status, Versioned};
use netft_core::membership::Phase;
use serde_json::json;
use std::path::PathBuf;
use std::time::Duration;

/// How often progress is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);

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
    /// Replace the secret of the running cluster, on all nodes, and wait until the old one is refused
    ///
    /// Nothing stops meanwhile. It waits for nodes that are down, and may be interrupted: the cluster goes on with it.
    Rotate {
        /// Keep the old secret after all: where the rotation was started, while not every node has the new one
        #[arg(long)]
        abort: bool,
        /// Don't wait
        #[arg(long)]
        no_wait: bool,
    },
}

pub(super) fn run(cli: &Cli, args: &Args) -> Result {
    match &args.verb {
        Verb::Generate { file, force } => {
            generate(cli, file.clone(), if *force { Existing::Replace } else { Existing::Keep })
        }
        Verb::Rotate { abort: true, .. } => abort(cli),
        Verb::Rotate { no_wait, .. } => rotate(cli, if *no_wait { Wait::No } else { Wait::ForAll }),
    }
}

fn generate(cli: &Cli, file: Option<PathBuf>, existing: Existing) -> Result {
    let configured =
        || Config::load(&cli.config).map_or_else(|_| cli.config.with_file_name("secret"), |c| c.key_file);
    let file = file.unwrap_or_else(configured);
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

/// Whether to stay until it is done.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wait {
    No,
    ForAll,
}

fn refused(error: ClientError) -> Failure {
    match error {
        ClientError::Refused(message) => Failure::new(4, message),
        other => other.into(),
    }
}

fn rotate(cli: &Cli, wait: Wait) -> Result {
    let mut client = cli.connect()?;
    let value = client.ask(Request::RotateKey { abort: false }).map_err(refused)?;
    let asked = client.read::<Versioned<KeyRotate>>(&value)?.document;
    let (mut rotation, mut shown) = (asked.rotation.clone(), String::new());
    while let Some(under_way) = &rotation {
        let line = format!("{}\n", progress(under_way));
        if !cli.json && line != shown {
            print(&line)?;
            shown = line;
        }
        if wait == Wait::No {
            break;
        }
        std::thread::sleep(LOOK_EVERY);
        let value = client.ask(Request::Status)?;
        let daemon = client.read::<Versioned<Status>>(&value)?.document.daemon;
        rotation = daemon.key_rotation;
        if rotation.is_none() && daemon.secret != asked.secret {
            return Err(Failure::new(4, "the rotation was aborted: the old secret stays"));
        }
    }
    if cli.json {
        return print_json(&json!(Versioned::new(KeyRotate { rotation, ..asked })));
    }
    if rotation.is_some() {
        return print("`netft status` shows how it goes on\n");
    }
    print(&format!("done: every node has the new secret in its {}, and refuses the old one\n", asked.file))
}

fn abort(cli: &Cli) -> Result {
    let mut client = cli.connect()?;
    let value = client.ask(Request::RotateKey { abort: true }).map_err(refused)?;
    if cli.json { print_json(&value) } else { print("aborted: the old secret stays\n") }
}

/// What a rotation does now.
pub(super) fn progress(rotation: &KeyRotation) -> String {
    let KeyRotation { started_by, phase, waits_for, .. } = rotation;
    let who = waits_for.join(", ");
    let what = match phase {
        Phase::Offered if waits_for.is_empty() => "every node has the new one".to_owned(),
        Phase::Offered if waits_for.as_slice() == std::slice::from_ref(started_by) => {
            format!("waits for {who} to go on with the new one")
        }
        Phase::Offered => format!("waits for {who} to have the new one"),
        Phase::Switched if waits_for.is_empty() => {
            "every node uses the new one, the old one is about to end".to_owned()
        }
        Phase::Switched => {
            format!("the new one is used; waits for {who} to use it as well and end the old one")
        }
    };
    format!("the cluster secret is being replaced, started on {started_by}: {what}")
}
