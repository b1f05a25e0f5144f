//! Lost carrier: the node that lost it acts at once, and tells its peers over another route.

use super::bed::Bed;
use crate::bench::Form;
use crate::bench::record::{Bound, Findings, PartRecord, measure_once};
use crate::bench::stats::Summary;
use crate::traffic::promptly;
use anyhow::Result;
use serde_json::json;
use std::time::Duration;

/// The project's bound for the node that lost its carrier.
const LOCAL_MEDIAN_LIMIT_US: f64 = 2000.0;
const PATIENCE: Duration = Duration::from_secs(2);
const UP_PATIENCE: Duration = Duration::from_secs(30);

/// Runs it.
pub(super) fn run(form: Form) -> Result<PartRecord> {
    measure_once(
        "unplug",
        "a cable is pulled: event at the node itself, and at the peers that it tells",
        |_| unplug(form),
    )
}

fn unplug(form: Form) -> Result<Findings> {
    let (count, distance) = match form {
        Form::Full => (60, Duration::from_millis(1500)),
        Form::Short => (4, Duration::ZERO),
    };
    let bed = Bed::make(3, 2, &[])?;
    let (mut local, mut remote) = (Vec::new(), Vec::new());
    let mut untold = Vec::new();
    for number in 0..count {
        let (node, network) = (format!("n{}", number / 2 % 3 + 1), number % 2 + 1);
        let ends = bed.ends(&node, network)?;
        let pulled = promptly(|| bed.lab.unplug(&node, &format!("net{network}")))?;
        for end in &ends {
            let event = bed.route_event(end, "down", pulled.before_ns, PATIENCE)?;
            let took = event.boottime_ns.saturating_sub(pulled.before_ns);
            let (times, expected) = if end.node == node {
                (&mut local, "carrier-lost")
            } else {
                (&mut remote, "peer-carrier-lost")
            };
            times.push(took);
            if event.reason != expected {
                untold.push(format!("{} says {} instead of {expected}", end.route(), event.reason));
            }
        }
        let plugged = bed.lab.plug(&node, &format!("net{network}"))?;
        for end in &ends {
            bed.route_event(end, "up", plugged.before_ns, UP_PATIENCE)?;
        }
        Bed::keep_distance(pulled.before_ns, distance);
    }
    let (local, remote) = (Summary::micros(&local), Summary::micros(&remote));
    let mut findings = Findings {
        results: json!({ "unplugs": count, "local_us": local, "told_us": remote, "wrong_reasons": untold }),
        ..Findings::default()
    };
    for (who, times) in [("at the node itself", local), ("at its peers", remote)] {
        findings.lines.push(format!(
            "{who:<20} {} events: median {:.0} µs, p99 {:.0} µs, max {:.0} µs",
            times.count, times.median, times.p99, times.max
        ));
    }
    findings.lines.extend(untold.iter().cloned());
    findings.bounds.push(Bound::at_most(
        "median from unplug to event at the node itself, µs",
        local.median,
        form.limit(LOCAL_MEDIAN_LIMIT_US),
    ));
    findings.bounds.push(Bound::none("events with another reason than the lost carrier", untold.len()));
    Ok(findings)
}
