//! `bench loss`: what a silent cut of the active route costs. A UDP flow of 10 000 packets a second over `netft0` loses none
//! and gets none twice; beside a full-speed TCP stream it loses no more than without cuts, and the stream goes on soon.

use super::bulk::Bulk;
use super::detect::bed::{Bed, End};
use super::detect::random::Random;
use super::record::{Bound, Findings, PartRecord, measure_once};
use super::stats::Summary;
use super::{Form, Part};
use crate::cluster;
use crate::lab::Direction;
use crate::traffic::{Flow, FlowReport, FlowSpec, Monitor, boottime_ns, promptly};
use anyhow::{Context, Result};
use netft_userspace::listing;
use serde_json::{Value, json};
use std::time::Duration;

/// Parts of `bench loss`.
pub(super) const PARTS: &[Part] = &[
    Part { name: "failover", run: failover, short: true },
    Part { name: "spread", run: spread, short: false },
    Part { name: "duplicate", run: duplicate, short: true },
    Part { name: "beside-tcp", run: beside_tcp, short: true },
];

/// Packets a second.
const RATE_HZ: u32 = 10_000;
/// Their payload, bytes.
const PAYLOAD: usize = 200;
/// What the lab's heartbeats take to find a dead route.
const DETECTION_NS: u64 = 5_000_000;
/// A stall of TCP may be longer than that by so much, in the median.
const TCP_SLACK_NS: u64 = 5_000_000;
/// A cut route must be down by then.
const DOWN_PATIENCE: Duration = Duration::from_secs(2);
/// Coming back may be damped.
const UP_PATIENCE: Duration = Duration::from_secs(30);
/// How long things settle after a cut and after a repair.
const PAUSE: Duration = Duration::from_millis(100);
/// Between two cuts: each network is cut every 3 s, which isn't damped.
const DISTANCE: Duration = Duration::from_millis(1500);

/// One cut.
struct Cut {
    /// What was cut.
    network: u32,
    cut_ns: u64,
    /// When the sender found its route dead.
    found_ns: u64,
    /// Until when its effects are looked for.
    until_ns: u64,
}

impl Cut {
    fn found_after_ns(&self) -> u64 {
        self.found_ns.saturating_sub(self.cut_ns)
    }
}

fn failover(form: Form) -> Result<PartRecord> {
    let what = "silent cuts of the active route under 10 000 UDP packets/s, policy failover";
    measure_once("failover", what, |_| alone(form, "failover"))
}

fn spread(form: Form) -> Result<PartRecord> {
    let what = "silent cuts of the flow's route under 10 000 UDP packets/s, policy spread";
    measure_once("spread", what, |_| alone(form, "spread"))
}

fn duplicate(form: Form) -> Result<PartRecord> {
    let what = "silent cuts of the active route under 10 000 UDP packets/s, policy duplicate";
    measure_once("duplicate", what, |_| alone(form, "duplicate"))
}

fn bed(policy: &str) -> Result<Bed> {
    Bed::make(2, 2, &[&format!("datapath.policy={policy:?}"), r#"routes.fail_back_hold="200ms""#])
}

fn flow(bed: &Bed, limit: Duration) -> Result<Flow> {
    let spec = FlowSpec {
        rate_hz: RATE_HZ,
        bytes: PAYLOAD,
        ..FlowSpec::kilohertz("n1", "n2", cluster::adapter(&bed.lab, "n2")?.ipv4.into(), limit)
    };
    let flow = Flow::udp(&bed.lab, &spec)?;
    anyhow::ensure!(flow.wait_for_arrival(boottime_ns(), Duration::from_secs(5)), "nothing arrives");
    Ok(flow)
}

/// The flow, and nothing beside it.
fn alone(form: Form, policy: &str) -> Result<Findings> {
    let cuts: u32 = if form == Form::Full { 50 } else { 3 };
    let bed = bed(policy)?;
    let flow = flow(&bed, DISTANCE * (cuts * 4))?;
    let before = cluster::status(&bed.lab, "n1")?.data;
    let from_ns = boottime_ns();
    let done = cut_again_and_again(&bed, form, cuts)?;
    let to_ns = boottime_ns();
    std::thread::sleep(PAUSE);
    let report = flow.report(from_ns, to_ns);
    let after = cluster::status(&bed.lab, "n1")?.data;
    let outages: Vec<u64> =
        done.iter().map(|cut| flow.report(cut.cut_ns, cut.until_ns).longest_outage_ns).collect();
    let mut findings = Findings {
        results: json!({
            "policy": policy,
            "cuts": done.len(),
            "flow": report,
            "outage_per_cut_us": Summary::micros(&outages),
            "found_after_us": Summary::micros(&found(&done)),
            "sender": spent(&before, &after),
        }),
        ..Findings::default()
    };
    findings.lines.push(told(&report, &done));
    let times = Summary::micros(&outages);
    findings.lines.push(format!(
        "longest time without a packet per cut: median {:.1} ms, max {:.1} ms; sent again {}, twice {}",
        times.median / 1e3,
        times.max / 1e3,
        after.replayed - before.replayed,
        after.duplicated - before.duplicated
    ));
    findings.bounds.push(Bound::none("packets lost", usize::try_from(report.lost)?));
    findings.bounds.push(Bound::none("packets delivered twice", usize::try_from(report.duplicated)?));
    findings.bounds.push(Bound::none("faults of the flow's sockets", report.faults.len()));
    Ok(findings)
}

/// The flow and a TCP stream as fast as it goes: for a while without cuts, then with them.
fn beside_tcp(form: Form) -> Result<PartRecord> {
    measure_once(
        "beside-tcp",
        "the same beside a TCP stream at full speed, against as long a time without cuts",
        |monitor| {
            let cuts: u32 = if form == Form::Full { 50 } else { 2 };
            let bed = bed("failover")?;
            let bulk = Bulk::start(&bed.lab, "n1", "n2")?;
            let flow = flow(&bed, DISTANCE * (cuts * 8))?;
            std::thread::sleep(PAUSE);
            let before = cluster::status(&bed.lab, "n1")?.data;
            let (from_ns, sent) = (boottime_ns(), bulk.bytes());
            let done = cut_again_and_again(&bed, form, cuts)?;
            let (to_ns, sent) = (boottime_ns(), bulk.bytes() - sent);
            let after = cluster::status(&bed.lab, "n1")?.data;
            std::thread::sleep(PAUSE);
            let calm_from_ns = boottime_ns();
            std::thread::sleep(Duration::from_nanos(to_ns - from_ns));
            let calm_to_ns = boottime_ns();
            std::thread::sleep(PAUSE);
            let (cut_report, calm) = (flow.report(from_ns, to_ns), flow.report(calm_from_ns, calm_to_ns));
            let stalls = done
                .iter()
                .map(|cut| bulk.stall_ns(cut.cut_ns.saturating_sub(DETECTION_NS), cut.until_ns))
                .collect::<Result<Vec<u64>>>()?;
            let calm_stall_ns = bulk.stall_ns(calm_from_ns, calm_to_ns)?;
            let times = Summary::micros(&stalls);
            #[expect(clippy::cast_precision_loss, reason = "bits of minutes")]
            let gbits = sent as f64 * 8.0 / (to_ns - from_ns) as f64;
            let mut findings = Findings {
                results: json!({
                    "cuts": done.len(),
                    "flow_with_cuts": cut_report,
                    "flow_without_cuts": calm,
                    "tcp_gbit_per_s": gbits,
                    "tcp_stall_per_cut_us": times,
                    "tcp_longest_stall_without_cuts_us": calm_stall_ns / 1000,
                    "found_after_us": Summary::micros(&found(&done)),
                    "sender": spent(&before, &after),
                }),
                ..Findings::default()
            };
            findings.lines.push(told(&cut_report, &done));
            findings.lines.push(format!(
                "without cuts: {} sent, {} lost, {} twice; TCP at {gbits:.2} Gbit/s",
                calm.sent, calm.lost, calm.duplicated
            ));
            findings.lines.push(format!(
                "TCP stall per cut: median {:.1} ms, max {:.1} ms; without cuts at most {:.1} ms",
                times.median / 1e3,
                times.max / 1e3,
                Duration::from_nanos(calm_stall_ns).as_secs_f64() * 1e3
            ));
            findings.lines.extend(longest(&done, &stalls, monitor));
            // A full-speed stream makes full queues lose a handful by luck, with cuts and without: two cuts can't tell these apart.
            if form == Form::Full {
                #[expect(clippy::cast_precision_loss, reason = "counts of thousands")]
                findings.bounds.push(Bound::at_most(
                    "packets lost, against those lost without cuts",
                    cut_report.lost as f64,
                    calm.lost as f64,
                ));
            }
            findings
                .bounds
                .push(Bound::none("packets delivered twice", usize::try_from(cut_report.duplicated)?));
            #[expect(clippy::cast_precision_loss, reason = "milliseconds in nanoseconds")]
            let limit_us = form.limit((DETECTION_NS + TCP_SLACK_NS) as f64 / 1e3);
            findings.bounds.push(Bound::at_most("median TCP stall, µs", times.median, limit_us));
            Ok(findings)
        },
    )
}

/// Cuts n1 off the network that carries its traffic to n2, silently, and heals it, so often.
fn cut_again_and_again(bed: &Bed, form: Form, cuts: u32) -> Result<Vec<Cut>> {
    let mut random = Random::new(1);
    let mut done = Vec::new();
    for _ in 0..cuts {
        let network = cluster::active_network(&bed.lab, "n1", "n2")?.context("n1 has no route to n2")?;
        let ends = bed.ends("n1", network)?;
        // Any phase of the heartbeat.
        std::thread::sleep(Duration::from_micros(random.below(3000)));
        let name = format!("net{network}");
        let stamps = promptly(|| bed.lab.cut("n1", &name, Direction::Both))?;
        let found_ns = down(bed, &ends, stamps.before_ns)?;
        std::thread::sleep(PAUSE);
        done.push(Cut { network, cut_ns: stamps.before_ns, found_ns, until_ns: boottime_ns() });
        let healed = bed.lab.heal("n1", &name, Direction::Both)?;
        for end in &ends {
            bed.route_event(end, "up", healed.before_ns, UP_PATIENCE)?;
        }
        std::thread::sleep(PAUSE);
        if form == Form::Full {
            Bed::keep_distance(stamps.before_ns, DISTANCE);
        }
    }
    Ok(done)
}

/// When n1 found the route dead; waits until n2 has as well.
fn down(bed: &Bed, ends: &[End], cut_ns: u64) -> Result<u64> {
    let mut found_ns = 0;
    for end in ends {
        let event = bed.route_event(end, "down", cut_ns, DOWN_PATIENCE)?;
        if end.node == "n1" {
            found_ns = event.boottime_ns;
        }
    }
    Ok(found_ns)
}

fn found(done: &[Cut]) -> Vec<u64> {
    done.iter().map(Cut::found_after_ns).collect()
}

fn told(report: &FlowReport, done: &[Cut]) -> String {
    let FlowReport { sent, lost, duplicated, reordered, .. } = report;
    format!("{} cuts: {sent} sent, {lost} lost, {duplicated} twice, {reordered} out of order", done.len())
}

/// The worst cuts, with what the machine did meanwhile.
fn longest(done: &[Cut], stalls: &[u64], monitor: &Monitor) -> Vec<String> {
    let mut order: Vec<usize> = (0..done.len()).collect();
    order.sort_by_key(|index| std::cmp::Reverse(stalls[*index]));
    let line = |index: &usize| {
        let cut = &done[*index];
        let gap = monitor.longest_gap(cut.cut_ns, cut.cut_ns + DETECTION_NS + stalls[*index]);
        let machine = gap.map_or("the machine shows no gap then".to_string(), |gap| gap.to_string());
        format!(
            "TCP stood still for {:.1} ms around a cut of net{}, which was found after {:.1} ms; {machine}",
            Duration::from_nanos(stalls[*index]).as_secs_f64() * 1e3,
            cut.network,
            Duration::from_nanos(cut.found_after_ns()).as_secs_f64() * 1e3,
        )
    };
    order.iter().take(3).map(line).collect()
}

/// What the sender counted.
fn spent(before: &listing::Data, after: &listing::Data) -> Value {
    json!({
        "frames_sent": after.frames_sent - before.frames_sent,
        "replayed": after.replayed - before.replayed,
        "duplicated": after.duplicated - before.duplicated,
        "keep_overflow": after.keep_overflow - before.keep_overflow,
        "keep_expired": after.keep_expired - before.keep_expired,
    })
}
