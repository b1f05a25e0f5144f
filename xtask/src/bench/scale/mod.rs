//! `bench scale`: what a heartbeat costs a node as its peers grow from 2 to 250, and what one look at 1000 routes does.
//!
//! The engine and the maps are real, one route to each peer over one wire; at its other end one responder answers for
//! all peers with the code that XDP runs.

mod node;
mod responder;
mod sweep;
mod wire;

use super::record::{Bound, Findings, PartRecord, measure};
use super::{Form, Part};
use crate::interrupt;
use crate::lab::{LabGuard, Options};
use anyhow::Result;
use node::Load;
use responder::Responder;
use serde_json::json;
use std::time::Duration;

/// Peers. All have the same pace: what grows is their number.
const PEERS: [u16; 4] = [2, 8, 64, 250];
/// Interval between heartbeats on each route: 250 routes at 1 ms would be more than both ends of this bench have CPUs.
const DELAY: Duration = Duration::from_millis(10);
/// The project's bounds.
const RATIO_LIMIT: f64 = 1.0;
/// Beyond this share the measured heartbeats would not be real ones.
const LOSS_PERCENT: f64 = 2.0;
const SWEEP_LIMIT_US: f64 = 2.0;

/// Parts of `bench scale`.
pub(super) const PARTS: &[Part] =
    &[Part { name: "peers", run: peers, short: true }, Part { name: "sweep", run: sweep, short: true }];

fn peers(form: Form) -> Result<PartRecord> {
    measure("peers", "CPU time of the engine's threads per heartbeat, by number of peers", |_| {
        let span = if form == Form::Full { Duration::from_secs(30) } else { Duration::from_secs(2) };
        let name = LabGuard::unique_name("scale");
        interrupt::take_down(&name)?;
        let lab = LabGuard::up(&Options::new(&name, 2, 1).daemon_less())?;
        let loads = PEERS
            .iter()
            .map(|count| {
                wire::lay(&lab, *count)?;
                let responder = Responder::start(&lab, *count)?;
                let load = node::measure(&lab, *count, DELAY, span)?;
                responder.stop()?;
                wire::remove(&lab)?;
                Ok(load)
            })
            .collect::<Result<Vec<Load>>>()?;
        Ok(findings(&loads, form))
    })
}

fn findings(loads: &[Load], form: Form) -> Findings {
    let mut findings = Findings::default();
    findings.lines.push(format!(
        "{:>6} {:>14} {:>12} {:>12} {:>14} {:>14}",
        "peers", "heartbeats/s", "CPU ns each", "completed", "wakes per s", "of a CPU"
    ));
    for load in loads {
        findings.lines.push(format!(
            "{:>6} {:>14.0} {:>12.0} {:>10.2} % {:>14.0} {:>12.1} %",
            load.peers,
            load.per_second(),
            load.cost_ns(),
            load.completed_percent(),
            load.wakes_per_second(),
            load.cpu_percent(),
        ));
    }
    findings.results = json!({
        "delay_us": DELAY.as_micros(),
        "loads": loads.iter().map(Load::json).collect::<Vec<_>>(),
    });
    if let [first, .., last] = loads {
        let ratio = last.cost_ns() / first.cost_ns();
        let what = format!("cost per heartbeat with {} peers / with {}", last.peers, first.peers);
        findings.bounds.push(Bound::at_most(&what, ratio, form.limit(RATIO_LIMIT)));
    }
    if form == Form::Full {
        let least = loads.iter().map(Load::completed_percent).fold(100.0, f64::min);
        findings.bounds.push(Bound::at_most(
            "heartbeats that did not complete, %",
            100.0 - least,
            LOSS_PERCENT,
        ));
    }
    let lost: usize = loads.iter().map(|load| load.routes_down).sum();
    findings.bounds.push(Bound::none("routes that were not up at the end", lost));
    findings
}

fn sweep(form: Form) -> Result<PartRecord> {
    measure("sweep", "one look at 1000 routes of which none is due", |_| {
        let ns = sweep::median_ns(form)?;
        let mut findings =
            Findings { results: json!({ "routes": 1000, "median_ns": ns }), ..Findings::default() };
        findings.lines.push(format!("1000 routes: {ns:.0} ns"));
        findings.bounds.push(Bound::at_most(
            "one judgement sweep of 1000 routes, µs",
            ns / 1e3,
            form.limit(SWEEP_LIMIT_US),
        ));
        Ok(findings)
    })
}
