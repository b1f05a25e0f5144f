//! System calls that data threads make for each frame under bulk load, counted by the kernel (`raw_syscalls:sys_enter`).

use crate::bench::Form;
use crate::bench::bulk::Bulk;
use crate::bench::detect::bed::Bed;
use crate::bench::frames::cpu::data_threads;
use crate::bench::frames::profile::{calls_and_frames, need_perf};
use crate::bench::frames::switch::{Path, switch};
use crate::bench::record::{Bound, Findings, PartRecord, measure_once};
use crate::cluster;
use anyhow::Result;
use netft_userspace::engine::DataWay;
use serde_json::json;
use std::time::Duration;

/// The project's bound, calls per frame.
const CALLS_PER_FRAME: f64 = 1.0 / 16.0;
/// Until the streams are at full speed.
const WARM_UP: Duration = Duration::from_millis(500);

const PATHS: [Path; 2] =
    [Path { name: "socket", way: DataWay::Socket }, Path { name: "xdp", way: DataWay::Xdp }];
/// What the load is: so many streams of TCP, as fast as they go.
const STREAMS: [usize; 2] = [1, 8];

/// The part.
pub(super) fn run(form: Form) -> Result<PartRecord> {
    let what = "system calls of the data threads per frame sent or received, under TCP at full speed, one stream and eight";
    measure_once("calls", what, |_| {
        need_perf()?;
        let span = Duration::from_secs(if form == Form::Full { 5 } else { 1 });
        let bed = Bed::make(2, 1, &[])?;
        let mut findings = Findings::default();
        let mut rows = Vec::new();
        for path in PATHS {
            switch(&bed.lab, path)?;
            for streams in STREAMS {
                let load = (0..streams).map(|_| Bulk::start(&bed.lab, "n1", "n2"));
                let _load = load.collect::<Result<Vec<Bulk>>>()?;
                std::thread::sleep(WARM_UP);
                for (node, does) in [("n1", "sends"), ("n2", "receives")] {
                    let threads = data_threads(cluster::status(&bed.lab, node)?.daemon.pid)?;
                    let (calls, frames) = calls_and_frames(&bed.lab, node, &threads, span)?;
                    let all: f64 = calls.values().sum();
                    let per_frame = all / frames.max(1.0);
                    let said: Vec<String> =
                        calls.iter().map(|(call, rate)| format!("{call} {rate:.0}")).collect();
                    findings.lines.push(format!(
                        "{}, {streams} streams, {node} {does}: {frames:.0} frames a second, one call for {:.1}; calls a second: {}",
                        path.name,
                        1.0 / per_frame.max(f64::EPSILON),
                        said.join(", "),
                    ));
                    let what = format!("calls per frame, {}, {streams} streams, {node} {does}", path.name);
                    findings.bounds.push(Bound::at_most(&what, per_frame, form.limit(CALLS_PER_FRAME)));
                    rows.push(json!({
                        "path": path.name,
                        "streams": streams,
                        "node": node,
                        "does": does,
                        "calls_per_second": calls,
                        "frames_per_second": frames.round(),
                        "calls_per_frame": per_frame,
                    }));
                }
            }
        }
        findings.results = json!({ "rows": rows });
        Ok(findings)
    })
}
