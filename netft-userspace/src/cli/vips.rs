//! `netft vips` and `netft vip`.

use super::text::{ago, or_dash, table, word};
use super::{Cli, Result, print, print_json};
use crate::control::Request;
use crate::listing::{Changed, Versioned, Vips};

/// What to do with a VIP.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Have another node serve a VIP: its owner lets go first, and the other one begins when it says so
    Move {
        /// The VIP's name
        vip: String,
        /// The node's name
        node: String,
    },
    /// Remove a VIP that no node's configuration has any more
    Remove {
        /// The VIP's name
        vip: String,
    },
}

pub(super) fn text(vips: &Vips) -> String {
    let rows = vips.vips.iter().map(|vip| {
        vec![
            if vip.local { format!("{} *", vip.name) } else { vip.name.clone() },
            vip.addresses.join(" "),
            or_dash(vip.owner.clone()),
            word(vip.state),
            ago(vip.since.as_ref()),
            or_dash(vip.why.map(word)),
        ]
    });
    let mut text = table(&["vip", "addresses", "owner", "state", "since", "why"], rows.collect());
    for sentence in vips.trouble.iter().chain(&vips.differences) {
        text += &format!("! {sentence}\n");
    }
    text
}

pub(super) fn run(cli: &Cli, args: &Args) -> Result {
    let request = match &args.verb {
        Verb::Move { vip, node } => Request::MoveVip { vip: vip.clone(), node: node.clone() },
        Verb::Remove { vip } => Request::RemoveVip { vip: vip.clone() },
    };
    let mut client = cli.connect()?;
    let value = client.ask(request)?;
    if cli.json {
        return print_json(&value);
    }
    let changed: Versioned<Changed> = client.read(&value)?;
    print(&format!("{}\n", changed.document.done))
}
