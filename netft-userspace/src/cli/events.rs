//! `netft events`.

use super::text::microseconds;
use super::{Cli, Failure, Result, print, print_json};
use crate::config::parse_duration;
use crate::control::{ClientError, Request};
use crate::listing::{Event, Events, Versioned, parse_time, unix_now_ns};
use std::fmt::Write;

/// Which events.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Go on with new ones until interrupted; starts with the newest ten, or with --since
    #[arg(long, short)]
    follow: bool,
    /// Only those after a time (2026-11-22T06:15:20Z) or younger than a duration (10s, 5m, 2h)
    #[arg(long, value_name = "TIME|DURATION", value_parser = since)]
    since: Option<u64>,
}

/// Nanoseconds since 1970.
pub(super) fn since(text: &str) -> std::result::Result<u64, String> {
    if let Some(unix_ns) = parse_time(text) {
        return Ok(unix_ns);
    }
    let how = |_| "write a time like 2026-11-22T06:15:20Z or a duration like 10s, 5m or 2h".to_owned();
    let duration = parse_duration(text).map_err(how)?;
    Ok(unix_now_ns().saturating_sub(duration))
}

pub(super) fn run(cli: &Cli, args: &Args) -> Result {
    let mut client = cli.connect()?;
    client.send(Request::Events { since_unix_ns: args.since, follow: args.follow })?;
    while let Some(value) = client.next_line()? {
        if cli.json {
            print_json(&value)?;
        } else {
            let document: Versioned<Events> = client.read(&value)?;
            print(&text(&document.document))?;
        }
        if !args.follow {
            return Ok(());
        }
    }
    Err(Failure::from(ClientError::NotRunning(cli.socket())))
}

/// The time of day: the date is in `--json`.
pub(super) fn clock(time: &str) -> String {
    time.split_once('T').map_or(time, |(_, clock)| clock).trim_end_matches('Z').to_owned()
}

fn text(events: &Events) -> String {
    events.events.iter().map(line).collect()
}

fn line(event: &Event) -> String {
    let mut out = format!("{}  {:<15}  ", clock(&event.time), event.kind);
    // Reasons of states are words; anything else is a sentence that says it all.
    let sentence = event.reason.contains(' ');
    if sentence {
        out += &event.reason;
    } else {
        let part = |state: &Option<String>| state.clone().unwrap_or_else(|| "none".to_owned());
        let _ =
            write!(out, "{}: {} => {}: {}", event.subject, part(&event.old), part(&event.new), event.reason);
    }
    let numbers: Vec<String> = event.evidence.iter().map(|(name, value)| number(name, *value)).collect();
    if !numbers.is_empty() {
        let _ = write!(out, " ({})", numbers.join(", "));
    }
    out.push('\n');
    out
}

fn number(name: &str, value: f64) -> String {
    match name.strip_suffix("_us") {
        Some(name) => format!("{} {}", name.replace('_', " "), microseconds(value)),
        None => format!("{} {value}", name.replace('_', " ")),
    }
}
