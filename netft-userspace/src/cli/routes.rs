//! `netft routes`.

use super::text::{ago, microseconds, or_dash, table, word};
use super::{Cli, Result, print, print_json};
use crate::control::Request;
use crate::listing::{HistoryRecord, Route, Routes, Versioned};
use netft_core::types::{RouteReason, RouteState};
use std::fmt::Write;

/// Which routes, and how much of them.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Only routes of this peer or network, or with this address
    #[arg(value_name = "PEER|NETWORK|ADDRESS")]
    only: Option<String>,
    /// Every change of state that is kept, with its reason and evidence
    #[arg(long)]
    history: bool,
}

pub(super) fn run(cli: &Cli, args: &Args) -> Result {
    let mut client = cli.connect()?;
    let value = client.ask(Request::Routes { history: args.history, only: args.only.clone() })?;
    if cli.json {
        return print_json(&value);
    }
    let document: Versioned<Routes> = client.read(&value)?;
    let routes = document.document.routes;
    if let (true, Some(only)) = (routes.is_empty(), &args.only) {
        return Err(super::Failure::new(
            1,
            format!("no route has the peer, network or address {only:?}: see `netft routes`"),
        ));
    }
    print(&if args.history { history(&routes) } else { text(&routes) })
}

fn text(routes: &[Route]) -> String {
    let rows = routes.iter().map(|route| {
        vec![
            if route.active { format!("{} *", route.peer) } else { route.peer.clone() },
            route.local.to_string(),
            route.remote.to_string(),
            state(route),
            or_dash(route.rtt_us.map(microseconds)),
            ago(route.last_change.as_ref()),
            route.network.clone(),
        ]
    });
    table(&["peer", "local", "remote", "state", "rtt", "since", "network"], rows.collect())
}

/// A state that isn't `up` with its reason.
fn state(route: &Route) -> String {
    match route.state {
        RouteState::Up => "up".to_owned(),
        RouteState::Down => match route.damped_left_ms {
            Some(left_ms) if route.reason == RouteReason::Damped => {
                format!("down: damped, {:.1} s left", left_ms / 1000.0)
            }
            _ => format!("down: {}", word(route.reason)),
        },
        RouteState::AdminDown => word(route.state),
    }
}

fn history(routes: &[Route]) -> String {
    let mut out = String::new();
    for route in routes {
        let records = route.history.as_deref().unwrap_or_default();
        let active = if route.active { ", active" } else { "" };
        let _ = writeln!(
            out,
            "{} {} -> {} on {}: {}{active}",
            route.peer,
            route.local,
            route.remote,
            route.network,
            state(route)
        );
        if records.is_empty() {
            out.push_str("no change of state yet\n\n");
            continue;
        }
        out += &table(
            &["time", "old", "new", "reason", "missed", "evidence", "silence"],
            records.iter().map(row).collect(),
        );
        out.push('\n');
    }
    out
}

fn row(record: &HistoryRecord) -> Vec<String> {
    vec![
        super::events::clock(&record.time),
        word(record.old),
        word(record.new),
        word(record.reason),
        format!("{}/{}", record.misses, record.threshold),
        or_dash(record.evidence_age_us.map(microseconds)),
        or_dash(record.silence_us.map(microseconds)),
    ]
}
