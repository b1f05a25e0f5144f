//! A frozen or killed engine: the host goes on answering, the peers say `engine-stalled`, no route goes down.

use super::bed::Bed;
use crate::bench::Form;
use crate::bench::record::{Bound, Findings, PartRecord, measure_once};
use crate::bench::stats::Summary;
use crate::cluster::is_node;
use crate::traffic::promptly;
use anyhow::{Context, Result};
use serde_json::json;
use std::time::Duration;

/// Engine timeout (250 ms) and two delays of 1 ms.
const LIMIT_US: f64 = 252_000.0;
/// Two delays: a thawed engine ticks at once.
const RECOVERY_LIMIT_US: f64 = 2_000.0;
const PATIENCE: Duration = Duration::from_secs(5);
const NODE: &str = "n2";
const PEERS: [&str; 2] = ["n1", "n3"];

/// Times from an act to the peers' event, in nanoseconds.
#[derive(Default)]
struct Times {
    frozen: Vec<u64>,
    thawed: Vec<u64>,
    killed: Vec<u64>,
    started: Vec<u64>,
}

/// Runs it.
pub(super) fn run(form: Form) -> Result<PartRecord> {
    measure_once(
        "engine",
        "n2's daemon is frozen and thawed, killed and started; what its peers say, and when",
        |_| engine(form),
    )
}

fn engine(form: Form) -> Result<Findings> {
    let rounds = if form == Form::Full { 30 } else { 1 };
    let bed = Bed::make(3, 2, &[])?;
    let began_ns = crate::traffic::boottime_ns();
    let mut times = Times::default();
    for _ in 0..rounds {
        let frozen = promptly(|| bed.lab.freeze(NODE))?;
        times.frozen.extend(until(&bed, "engine-stalled", frozen.before_ns)?);
        let thawed = promptly(|| bed.lab.thaw(NODE))?;
        times.thawed.extend(until(&bed, "up", thawed.before_ns)?);
        let killed = promptly(|| bed.lab.kill(NODE))?;
        times.killed.extend(until(&bed, "engine-stalled", killed.before_ns)?);
        let started = bed.lab.start(NODE)?;
        times.started.extend(until(&bed, "up", started.before_ns)?);
        bed.wait_until_whole()?;
    }
    let downs = bed.downs_since(began_ns);
    let [frozen, thawed, killed, started] =
        [&times.frozen, &times.thawed, &times.killed, &times.started].map(|times| Summary::micros(times));
    let mut findings = Findings {
        results: json!({
            "rounds": rounds,
            "freeze_to_stalled_us": frozen,
            "thaw_to_up_us": thawed,
            "kill_to_stalled_us": killed,
            "start_to_up_us": started,
            "route_downs": downs.len(),
        }),
        ..Findings::default()
    };
    let rows = [
        ("freeze to engine-stalled", frozen),
        ("thaw to up", thawed),
        ("kill to engine-stalled", killed),
        ("start of the program to up", started),
    ];
    for (what, times) in rows {
        findings.lines.push(format!(
            "{what:<28} median {:>8.2} ms, max {:>8.2} ms",
            times.median / 1e3,
            times.max / 1e3
        ));
    }
    for (node, event) in &downs {
        findings.lines.push(format!("{node}: {} is {:?}: {}", event.subject, event.new, event.reason));
    }
    for (what, times) in &rows {
        let what = format!("maximum of {what}, µs");
        findings.bounds.push(Bound::at_most(&what, times.max, form.limit(LIMIT_US)));
    }
    let limit = form.limit(RECOVERY_LIMIT_US);
    findings.bounds.push(Bound::at_most("median of thaw to up, µs", rows[1].1.median, limit));
    findings.bounds.push(Bound::none("routes that went down anywhere", downs.len()));
    Ok(findings)
}

/// How long each peer took to say that the node became `state`.
fn until(bed: &Bed, state: &str, from_ns: u64) -> Result<Vec<u64>> {
    let mut took = Vec::new();
    for peer in PEERS {
        let event = bed.watch(peer)?.wait(from_ns, PATIENCE, |event| is_node(event, NODE, state));
        let event = event.with_context(|| format!("{peer} never said that {NODE} is {state}"))?;
        took.push(event.boottime_ns.saturating_sub(from_ns));
    }
    Ok(took)
}
