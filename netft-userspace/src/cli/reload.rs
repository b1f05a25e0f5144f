//! `netft reload`.

use super::text::{table, word};
use super::{Cli, Failure, Result, print, print_json};
use crate::config::Effect;
use crate::control::{ClientError, Request};
use crate::listing::{Reload, Versioned};
use serde_json::Value;

/// Whether to do it.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Only say what would change
    #[arg(long)]
    dry_run: bool,
}

pub(super) fn run(cli: &Cli, args: &Args) -> Result {
    let mut client = cli.connect()?;
    let refused = |error: ClientError| match error {
        ClientError::Refused(message) => Failure::new(4, format!("{message}\nnothing was changed")),
        other => other.into(),
    };
    if !cli.json && !args.dry_run {
        // What changes comes first: if something goes wrong on the way, it has been said.
        let value = client.ask(Request::Reload { dry_run: true }).map_err(refused)?;
        print(&text(&client.read::<Versioned<Reload>>(&value)?.document))?;
    }
    let value = client.ask(Request::Reload { dry_run: args.dry_run }).map_err(refused)?;
    if cli.json {
        return print_json(&value);
    }
    let reload = client.read::<Versioned<Reload>>(&value)?.document;
    if args.dry_run {
        print(&text(&reload))?;
        return print("nothing was changed (--dry-run)\n");
    }
    if reload.changes.is_empty() { Ok(()) } else { print("reloaded\n") }
}

fn text(reload: &Reload) -> String {
    if reload.changes.is_empty() {
        return format!("nothing differs from {}\n", reload.file);
    }
    let rows = reload.changes.iter().map(|change| {
        let effect = match change.effect {
            Effect::Now => "now",
            Effect::Restart => "after a restart",
        };
        vec![change.key.clone(), value(&change.old), value(&change.new), effect.to_owned()]
    });
    let mut out = table(&["key", "old", "new", "in effect"], rows.collect());
    let waiting: Vec<&str> =
        reload.changes.iter().filter(|c| c.effect == Effect::Restart).map(|c| c.key.as_str()).collect();
    if !waiting.is_empty() {
        out += &format!("restart netftd for {}: `systemctl restart netftd`\n", waiting.join(", "));
    }
    out
}

fn value(value: &Value) -> String {
    if value.is_null() { "-".to_owned() } else { word(value) }
}
