//! What came of it: a table, ratios, bounds.

use super::client::{PATIENCE, Sample, Turn};
use super::variant::{Stack, Variant};
use super::{Form, MAXIMUM_LIMIT, RATIO_LIMIT};
use crate::bench::record::{Bound, Findings};
use crate::bench::stats::Summary;
use crate::traffic::Monitor;
use serde_json::json;

/// All turns of one variant.
pub(super) struct Measured {
    pub variant: Variant,
    samples: Vec<Sample>,
    lost: u64,
}

/// Against which echoes XDP's reply to a kernel UDP socket is judged; the client waits alike.
#[derive(Clone, Copy)]
pub(super) struct Judged {
    pub median: fn(&Variant) -> bool,
    pub maximum: fn(&Variant) -> bool,
}

impl Measured {
    pub fn new(variant: Variant) -> Self {
        Self { variant, samples: Vec::new(), lost: 0 }
    }

    pub fn add(&mut self, turn: Turn) {
        self.lost += turn.lost;
        self.samples.extend(turn.samples);
    }

    fn summary(&self) -> Summary {
        Summary::micros(&self.samples.iter().map(|sample| sample.took_ns).collect::<Vec<_>>())
    }

    /// The longest round trip, and what the machine did meanwhile.
    fn worst(&self, monitor: &Monitor) -> String {
        let Some(worst) = self.samples.iter().max_by_key(|sample| sample.took_ns) else {
            return String::new();
        };
        let gap = monitor.longest_gap(worst.began_ns, worst.began_ns + worst.took_ns);
        let machine = gap.map_or("the machine shows no gap then".to_string(), |gap| gap.to_string());
        #[expect(clippy::cast_precision_loss, reason = "nanoseconds of at most a second")]
        let took_us = worst.took_ns as f64 / 1e3;
        format!("{}: {took_us:.0} µs; {machine}", self.variant)
    }

    /// The longest round trip during which no CPU had a gap, in microseconds.
    fn longest_without_gap(&self, monitor: &Monitor) -> f64 {
        let mut samples: Vec<&Sample> = self.samples.iter().collect();
        samples.sort_by_key(|sample| std::cmp::Reverse(sample.took_ns));
        let whole = |sample: &&&Sample| {
            monitor.longest_gap(sample.began_ns, sample.began_ns + sample.took_ns).is_none()
        };
        #[expect(clippy::cast_precision_loss, reason = "nanoseconds of at most a second")]
        samples.iter().find(whole).map_or(f64::NAN, |sample| sample.took_ns as f64 / 1e3)
    }
}

/// Everything of a part.
pub(super) fn findings(
    form: Form,
    measured: &[Measured],
    judged: Judged,
    mode: &str,
    monitor: &Monitor,
) -> Findings {
    let summaries: Vec<Summary> = measured.iter().map(Measured::summary).collect();
    let of = |wanted: Variant| {
        let at = measured.iter().position(|measured| measured.variant == wanted)?;
        Some((&measured[at], &summaries[at]))
    };
    let mut findings = Findings::default();
    let mut results = serde_json::Map::new();
    let mut ratios = serde_json::Map::new();
    results.insert("xdp_mode".into(), json!(mode));
    findings.lines.push(format!(
        "{:<36} {:>8} {:>5} {:>9} {:>9} {:>10}   ({mode} XDP)",
        "round trip in µs", "samples", "lost", "median", "p99", "max"
    ));
    for (Measured { variant, lost, .. }, summary) in measured.iter().zip(&summaries) {
        let Summary { count, median, p99, max, .. } = summary;
        let name = variant.to_string();
        findings.lines.push(format!("{name:<36} {count:>8} {lost:>5} {median:>9.2} {p99:>9.2} {max:>10.2}"));
        results.insert(name, json!({ "round_trip_us": summary, "lost": lost }));
    }
    findings.lines.push("XDP's reply / echo, clients waiting alike: ratio of medians, of maxima".into());
    for (echo, slow) in measured.iter().zip(&summaries).filter(|(echo, _)| echo.variant.echo.is_some()) {
        let Variant { stack, .. } = echo.variant;
        // To the kernel's sockets first: that is what is judged.
        let rivals: &[Stack] = if stack == Stack::Udp { &[Stack::Udp, Stack::Xsk] } else { &[Stack::Xsk] };
        for stack in rivals {
            let Some((xdp, quick)) = of(echo.variant.rival(*stack)) else { continue };
            let what = format!("{} / {}", xdp.variant, echo.variant);
            let (median, maximum) = (quick.median / slow.median, quick.max / slow.max);
            findings.lines.push(format!("{what:<68} {median:>7.3} {maximum:>7.3}"));
            if *stack == Stack::Udp && (judged.median)(&echo.variant) {
                let what = format!("median of {what}");
                findings.bounds.push(Bound::at_most(&what, median, form.limit(RATIO_LIMIT)));
            }
            // One sample decides about a maximum: only the full form has enough of them.
            if *stack == Stack::Udp && (judged.maximum)(&echo.variant) && form == Form::Full {
                let what = format!("maximum of {what}");
                let bound = Bound::at_most(&what, maximum, MAXIMUM_LIMIT);
                findings.bounds.push(match bound.held {
                    true => bound,
                    false => {
                        let [quick, slow] = [xdp, echo].map(|end| end.longest_without_gap(monitor));
                        bound.explained(format!(
                            "{}; {}; without round trips during gaps above 200 µs {quick:.0} / {slow:.0} µs = {:.3}",
                            xdp.worst(monitor),
                            echo.worst(monitor),
                            quick / slow
                        ))
                    }
                });
            }
            ratios.insert(what, json!({ "median": median, "maximum": maximum }));
        }
    }
    let lost: u64 = measured.iter().map(|measured| measured.lost).sum();
    if lost > 0 {
        findings.lines.push(format!("one that is lost counts as {} ms", PATIENCE.as_millis()));
    }
    results.insert("ratios".into(), ratios.into());
    findings.results = results.into();
    findings
}
