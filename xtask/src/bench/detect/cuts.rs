//! Silent cuts: the path swallows everything, the carrier stays. From the cut to the route-down event, at both ends of
//! every route that the cut takes.

use super::bed::{Bed, End};
use super::random::Random;
use crate::bench::Form;
use crate::bench::record::{Bound, Findings, PartRecord, measure_once};
use crate::bench::stats::Summary;
use crate::lab::Direction;
use crate::traffic::{Monitor, promptly};
use anyhow::Result;
use serde_json::json;
use std::time::Duration;

/// Bounds, as multiples of delay × threshold.
const MEDIAN_LIMIT: f64 = 1.2;
const MAXIMUM_LIMIT: f64 = 1.5;
/// A cut route must be down by then, whatever the bound says.
const PATIENCE: Duration = Duration::from_secs(2);
/// Coming back may be damped.
const UP_PATIENCE: Duration = Duration::from_secs(30);

/// One detection.
struct Sample {
    /// "n1 lost n2 on net1".
    what: String,
    cut_ns: u64,
    event_ns: u64,
    /// What the verdict's evidence says of the time that a CPU stood still.
    stalled_ns: u64,
}

impl Sample {
    fn took_ns(&self) -> u64 {
        self.event_ns.saturating_sub(self.cut_ns)
    }
}

/// At the default 1 ms × 5.
pub(super) fn run(form: Form) -> Result<PartRecord> {
    measure_once("cuts", "silent cuts, heartbeats every 1 ms, 5 may be missed", |monitor| {
        cuts(form, monitor, 5_000_000, &[], Judged::ByBounds)
    })
}

/// At 200 µs × 5: reported, not judged.
pub(super) fn run_at_200_us(form: Form) -> Result<PartRecord> {
    measure_once(
        "cuts-200us",
        "silent cuts, heartbeats every 200 µs, 5 may be missed (reported only)",
        |monitor| {
            let settings = [r#"heartbeat.same_subnet.delay="200us""#, "heartbeat.same_subnet.threshold=5"];
            cuts(form, monitor, 1_000_000, &settings, Judged::Not)
        },
    )
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Judged {
    ByBounds,
    Not,
}

fn cuts(
    form: Form,
    monitor: &Monitor,
    detection_ns: u64,
    settings: &[&str],
    judged: Judged,
) -> Result<Findings> {
    // Every route is hit twice in six cuts: at this distance none is cut more often than every 3 s, which must not
    // count as flapping.
    let (count, distance) = match (form, judged) {
        (Form::Full, Judged::ByBounds) => (204, Duration::from_millis(1500)),
        (Form::Full, Judged::Not) => (60, Duration::from_millis(1500)),
        (Form::Short, _) => (6, Duration::ZERO),
    };
    let bed = Bed::make(3, 2, settings)?;
    let stalls_before = bed.stalls()?;
    let mut random = Random::new(1);
    let mut samples = Vec::new();
    let mut false_downs = Vec::new();
    let mut quiet_since = crate::traffic::boottime_ns();
    for number in 0..count {
        let (node, network) = (format!("n{}", number / 2 % 3 + 1), number % 2 + 1);
        let ends = bed.ends(&node, network)?;
        // Any phase of the heartbeat.
        std::thread::sleep(Duration::from_micros(random.below(3000)));
        false_downs.extend(bed.downs_since(quiet_since));
        let cut = promptly(|| bed.lab.cut(&node, &format!("net{network}"), Direction::Both))?;
        for end in &ends {
            let event = bed.route_event(end, "down", cut.before_ns, PATIENCE)?;
            let what = format!("{} lost {} on net{network}", end.node, end.peer);
            let stalled_us = event.evidence.get("stalled_us").copied().unwrap_or(0.0);
            samples.push(Sample {
                what,
                cut_ns: cut.before_ns,
                event_ns: event.boottime_ns,
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "a time that fits, in whole nanoseconds"
                )]
                stalled_ns: (stalled_us * 1e3) as u64,
            });
        }
        let healed = bed.lab.heal(&node, &format!("net{network}"), Direction::Both)?;
        for end in &ends {
            bed.route_event(end, "up", healed.before_ns, UP_PATIENCE)?;
        }
        quiet_since = crate::traffic::boottime_ns();
        Bed::keep_distance(cut.before_ns, distance);
    }
    let stalls = bed.stalls()?.since(stalls_before);
    let mut findings = verdict(form, &samples, detection_ns, monitor, judged);
    findings.lines.push(format!(
        "own stalls counted meanwhile: {stalls}; longest loop gap {:.0} µs",
        bed.longest_loop_gap_us()?
    ));
    for (node, event) in &false_downs {
        findings.lines.push(format!("down without a cut: {node} {} ({})", event.subject, event.reason));
    }
    if judged == Judged::ByBounds {
        findings.bounds.push(Bound::none("downs without a cut", false_downs.len()));
    }
    if let Some(results) = findings.results.as_object_mut() {
        results.insert("cuts".into(), json!(count));
        results.insert("stalls".into(), json!(stalls));
        results.insert("false_downs".into(), json!(false_downs.len()));
    }
    Ok(findings)
}

fn verdict(form: Form, samples: &[Sample], detection_ns: u64, monitor: &Monitor, judged: Judged) -> Findings {
    let took: Vec<u64> = samples.iter().map(Sample::took_ns).collect();
    let (micros, multiples) = (Summary::micros(&took), Summary::multiples(&took, detection_ns));
    let mut findings = Findings {
        results: json!({ "detection_time_us": detection_ns / 1000, "cut_to_event_us": micros, "multiples": multiples }),
        ..Findings::default()
    };
    findings.lines.push(format!(
        "{} detections: median {:.0} µs, p99 {:.0} µs, max {:.0} µs; of the detection time {:.3}, {:.3}, {:.3}",
        micros.count, micros.median, micros.p99, micros.max, multiples.median, multiples.p99, multiples.max
    ));
    if judged == Judged::Not {
        return findings;
    }
    findings.bounds.push(Bound::at_most(
        "median of cut to event / detection time",
        multiples.median,
        form.limit(MEDIAN_LIMIT),
    ));
    let explanations: Vec<(String, bool)> = late(samples, detection_ns)
        .map(|(sample, excess_ns)| {
            let gap = monitor.longest_gap(sample.cut_ns, sample.event_ns);
            // The verdict's own evidence, or the monitor beside it.
            let explained =
                sample.stalled_ns >= excess_ns || gap.as_ref().is_some_and(|gap| gap.late_ns >= excess_ns);
            let stalled = in_us(sample.stalled_ns);
            let machine = gap.map_or("the machine shows no gap then".to_string(), |gap| gap.to_string());
            let text = format!(
                "{}: {:.0} µs late; it waited for {stalled:.0} µs, as a CPU stood still; {machine}",
                sample.what,
                in_us(excess_ns)
            );
            (text, explained)
        })
        .collect();
    let mut bound =
        Bound::at_most("maximum of cut to event / detection time", multiples.max, form.limit(MAXIMUM_LIMIT));
    // A maximum may be exceeded only where the machine itself stood still for as long.
    bound.held |= !explanations.is_empty() && explanations.iter().all(|(_, explained)| *explained);
    let texts: Vec<_> = explanations.into_iter().map(|(text, _)| text).collect();
    findings.bounds.push(bound.explained(texts.join("; ")));
    findings
}

/// Samples beyond the maximum, with how far.
fn late(samples: &[Sample], detection_ns: u64) -> impl Iterator<Item = (&Sample, u64)> {
    let limit_ns = detection_ns * 3 / 2;
    samples
        .iter()
        .filter_map(move |sample| Some((sample, sample.took_ns().checked_sub(limit_ns)?)))
        .filter(|(_, e)| *e > 0)
}

#[expect(clippy::cast_precision_loss, reason = "microseconds for people")]
fn in_us(nanos: u64) -> f64 {
    nanos as f64 / 1e3
}

impl End {
    /// For messages.
    pub(super) fn route(&self) -> String {
        format!("{} to {}", self.node, self.peer)
    }
}
