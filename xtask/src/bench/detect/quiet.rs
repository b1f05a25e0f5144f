//! Nothing fails: so nothing may be reported as failed, however busy the machine is.

use super::bed::Bed;
use crate::bench::Form;
use crate::bench::record::{Bound, Findings, PartRecord, measure_once};
use crate::lab::stress::{Kind, Stress};
use crate::traffic::{Monitor, boottime_ns};
use anyhow::Result;
use serde_json::json;
use std::time::Duration;

/// Ten minutes without load.
pub(super) fn idle(form: Form) -> Result<PartRecord> {
    measure_once("idle", "false downs while nothing happens", |monitor| quiet(form, 600, None, monitor))
}

/// Five minutes with two busy threads on every core.
pub(super) fn cpu(form: Form) -> Result<PartRecord> {
    measure_once("cpu", "false downs with two busy threads on every core", |monitor| {
        quiet(form, 300, Some(Kind::Cpu), monitor)
    })
}

/// Five minutes of timer storms.
pub(super) fn timers(form: Form) -> Result<PartRecord> {
    measure_once("timers", "false downs in a storm of timers on every core", |monitor| {
        quiet(form, 300, Some(Kind::Timers), monitor)
    })
}

/// Five minutes of SCHED_FIFO hogs at 50.
pub(super) fn fifo(form: Form) -> Result<PartRecord> {
    measure_once(
        "fifo",
        "false downs with a SCHED_FIFO hog at 50 on every core, busy for 90 % of the time",
        |monitor| quiet(form, 300, Some(Kind::Fifo), monitor),
    )
}

fn quiet(form: Form, full_seconds: u64, load: Option<Kind>, monitor: &Monitor) -> Result<Findings> {
    let seconds = if form == Form::Full { full_seconds } else { 2 };
    let bed = Bed::make(3, 2, &[])?;
    let (began_ns, stalls_before) = (boottime_ns(), bed.stalls()?);
    {
        let _stress = load.map(Stress::start).transpose()?;
        std::thread::sleep(Duration::from_secs(seconds));
    }
    let ended_ns = boottime_ns();
    let downs: Vec<_> =
        bed.downs_since(began_ns).into_iter().filter(|(_, down)| down.boottime_ns <= ended_ns).collect();
    let stalls = bed.stalls()?.since(stalls_before);
    let gap_us = bed.longest_loop_gap_us()?;
    let mut findings = Findings {
        results: json!({ "seconds": seconds, "false_downs": downs.len(), "stalls": stalls, "loop_gap_max_us": gap_us }),
        ..Findings::default()
    };
    findings.lines.push(format!(
        "{seconds} s, {} routes: {} false downs; own stalls counted: {stalls}, longest loop gap {gap_us:.0} µs",
        3 * 2 * 2,
        downs.len()
    ));
    for (node, event) in &downs {
        let gap = monitor.longest_gap(event.boottime_ns.saturating_sub(20_000_000), event.boottime_ns);
        let machine = gap.map_or("the machine shows no gap then".to_string(), |gap| gap.to_string());
        findings.lines.push(format!(
            "false: {node} {} ({}), {:?}; {machine}",
            event.subject, event.reason, event.evidence
        ));
    }
    findings.bounds.push(Bound::none("false downs", downs.len()));
    Ok(findings)
}
