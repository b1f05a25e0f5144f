//! System calls that data threads make for each frame under bulk load, counted by the kernel (`raw_syscalls:sys_enter`).

use crate::bench::Form;
use crate::bench::bulk::Bulk;
use crate::bench::detect::bed::Bed;
use crate::bench::frames::cpu::data_threads;
use crate::bench::frames::profile::{has_perf, perf};
use crate::bench::frames::switch::{Path, switch};
use crate::bench::record::{Bound, Findings, PartRecord, measure_once};
use crate::cluster;
use crate::lab::Lab;
use anyhow::{Context, Result, ensure};
use netft_userspace::engine::DataWay;
use serde_json::json;
use std::time::{Duration, Instant};

/// The project's bound, calls per frame.
const CALLS_PER_FRAME: f64 = 1.0 / 16.0;
/// Until the stream is at full speed.
const WARM_UP: Duration = Duration::from_millis(500);

const PATHS: [Path; 2] =
    [Path { name: "socket", way: DataWay::Socket }, Path { name: "xdp", way: DataWay::Xdp }];

/// The part.
pub(super) fn run(form: Form) -> Result<PartRecord> {
    let what = "system calls of the data threads per frame sent or received, one TCP stream at full speed";
    measure_once("calls", what, |_| {
        let mut findings = Findings::default();
        if !has_perf() {
            findings.lines.push("not measured: there is no perf here (package linux-perf)".into());
            return Ok(findings);
        }
        let span = Duration::from_secs(if form == Form::Full { 5 } else { 1 });
        let bed = Bed::make(2, 1, &[])?;
        let mut rows = Vec::new();
        for path in PATHS {
            switch(&bed.lab, path)?;
            let _bulk = Bulk::start(&bed.lab, "n1", "n2")?;
            std::thread::sleep(WARM_UP);
            for (node, does) in [("n1", "sends"), ("n2", "receives")] {
                let (calls, frames) = rates(&bed.lab, node, span)?;
                let per_frame = calls / frames.max(1.0);
                findings.lines.push(format!(
                    "{}, {node} {does}: {calls:.0} calls and {frames:.0} frames a second, one call for {:.1} frames",
                    path.name,
                    1.0 / per_frame.max(f64::EPSILON)
                ));
                let what = format!("calls per frame, {}, {node} {does}", path.name);
                findings.bounds.push(Bound::at_most(&what, per_frame, form.limit(CALLS_PER_FRAME)));
                rows.push(json!({
                    "path": path.name,
                    "node": node,
                    "does": does,
                    "calls_per_second": calls.round(),
                    "frames_per_second": frames.round(),
                    "calls_per_frame": per_frame,
                }));
            }
        }
        findings.results = json!({ "rows": rows });
        Ok(findings)
    })
}

/// Calls of a node's data threads a second, and frames that they sent or received.
fn rates(lab: &Lab, node: &str, span: Duration) -> Result<(f64, f64)> {
    let status = || cluster::status(lab, node);
    let tids = data_threads(status()?.daemon.pid)?;
    let tids = tids.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    let pause = format!("{:.1}", span.as_secs_f64());
    let moved = || status().map(|status| status.data.frames_sent + status.data.frames_received);
    let (began, before) = (Instant::now(), moved()?);
    // perf counts while its child sleeps, but takes some time to start: hence rates and not counts.
    let counted =
        perf(&["stat", "-x", ",", "-e", "raw_syscalls:sys_enter", "-t", &tids, "--", "sleep", &pause])?;
    let (frames, took) = (moved()? - before, began.elapsed());
    let text = String::from_utf8_lossy(&counted.stderr);
    let line = text.lines().find(|line| line.contains("raw_syscalls:sys_enter"));
    let calls: f64 = line
        .and_then(|line| line.split(',').next()?.parse().ok())
        .with_context(|| format!("perf counted no system calls: {text}"))?;
    ensure!(frames > 0, "no frame moved at {node}");
    #[expect(clippy::cast_precision_loss, reason = "some millions")]
    Ok((calls / span.as_secs_f64(), frames as f64 / took.as_secs_f64()))
}
