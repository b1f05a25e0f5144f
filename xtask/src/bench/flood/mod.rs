//! `bench flood`: 200 000 hostile packets a second and more, while heartbeats go on. Nothing goes down, every packet is
//! counted, memory stays. What one core can send at most is reported, not judged: beyond what the receiving core takes, the
//! wire's queue overflows, and what it loses may be five heartbeats in a row.

pub(super) mod arsenal;
pub(super) mod gun;
pub(super) mod tally;

use super::detect::bed::Bed;
use super::record::{Bound, Findings, PartRecord, measure_once};
use super::{Form, Part};
use crate::cluster;
use crate::hostile::Port;
use crate::traffic::{Monitor, boottime_ns};
use anyhow::Result;
use arsenal::Target;
use gun::{Shots, Turn};
use serde_json::json;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tally::Tally;

/// The attacked node, and whom the attacker pretends to be.
pub(super) const VICTIM: &str = "n1";
pub(super) const IMPERSONATED: &str = "n2";
pub(super) const NETWORK: &str = "net1";
/// n2's, whose detection thread is on CPU 1, as n1's is on CPU 0.
pub(super) const ATTACKERS_CPU: usize = 1;
/// The project's bounds.
pub(super) const RATE: f64 = 200_000.0;
/// What the attacker aims at. Late, it makes up for it.
const PACE: f64 = 230_000.0;
pub(super) const GROWTH_KIB: f64 = 2048.0;
/// Longest that `netft status` may take meanwhile.
const ANSWER_MS: f64 = 1000.0;

/// Parts of `bench flood`.
pub(super) const PARTS: &[Part] = &[
    Part { name: "legs", run: legs, short: true },
    Part { name: "data", run: data, short: true },
    Part { name: "hellos", run: hellos, short: true },
    Part { name: "handshakes", run: handshakes, short: true },
    Part { name: "limit", run: limit, short: false },
];

fn legs(form: Form) -> Result<PartRecord> {
    measure_once("legs", "hostile heartbeat legs, refused in XDP", |monitor| {
        flood(form, Target::Legs, PACE, monitor)
    })
}

fn limit(form: Form) -> Result<PartRecord> {
    measure_once("limit", "hostile heartbeat legs, as many as one core can send", |monitor| {
        let mut findings = flood(form, Target::Legs, f64::INFINITY, monitor)?;
        findings.bounds.clear();
        Ok(findings)
    })
}

fn data(form: Form) -> Result<PartRecord> {
    measure_once("data", "hostile data messages, refused by the data thread", |monitor| {
        flood(form, Target::Data, PACE, monitor)
    })
}

fn hellos(form: Form) -> Result<PartRecord> {
    measure_once("hellos", "hostile hellos, refused by the data and the control thread", |monitor| {
        flood(form, Target::Hellos, PACE, monitor)
    })
}

fn handshakes(form: Form) -> Result<PartRecord> {
    let what =
        "hostile handshake steps, refused by the data and the control thread, with new keys every second";
    measure_once("handshakes", what, |monitor| flood(form, Target::Handshakes, PACE, monitor))
}

fn flood(form: Form, target: Target, rate: f64, monitor: &Monitor) -> Result<Findings> {
    let seconds = if form == Form::Full { 60 } else { 3 };
    let bed = Bed::make(2, 2, target.settings())?;
    let ammunition = target.ammunition(&target.overhear(&bed.lab, VICTIM, IMPERSONATED, NETWORK)?);
    let port = Port::open(&bed.lab, VICTIM, NETWORK)?;
    let hearts = |node: &str| -> Result<(u64, u64)> {
        let routes = cluster::routes(&bed.lab, node)?;
        Ok((routes.iter().map(|r| r.sent).sum(), routes.iter().map(|r| r.completed).sum()))
    };

    let before = Tally::take(&bed.lab, target)?;
    let (began_ns, beats_before) = (boottime_ns(), hearts(VICTIM)?);
    let firing = AtomicBool::new(true);
    let (shots, slowest) = std::thread::scope(|scope| -> Result<(Shots, Duration)> {
        let asking = scope.spawn(|| ask_meanwhile(&bed, &firing));
        let shots =
            gun::fire(&port, &ammunition, ATTACKERS_CPU, Duration::from_secs(seconds), rate, Turn::Fair);
        firing.store(false, Ordering::Release);
        let slowest = asking.join().unwrap_or_else(|_| Err(anyhow::anyhow!("asking panicked")))?;
        Ok((shots?, slowest))
    })?;
    let beats = hearts(VICTIM)?;
    let after = Tally::settled(&bed.lab, target, &before, shots.sent)?;
    bed.wait_until_whole()?;
    let downs = bed.downs_since(began_ns);

    let mut findings = Findings::default();
    let grown = after.since(&before);
    let rate = shots.per_second();
    let (sent_beats, completed) = (beats.0 - beats_before.0, beats.1 - beats_before.1);
    findings.lines.push(format!("{:.0} packets a second for {seconds} s, {} in all", rate, shots.sent));
    for (kind, count) in &shots.by_kind {
        findings.lines.push(format!("  {count:>12} {kind}"));
    }
    findings.lines.push("counted:".into());
    for (name, count) in &grown.counters {
        findings.lines.push(format!("  {count:>12} {name}"));
    }
    findings.lines.push(format!(
        "  {:>12} dropped by the kernel because the socket's buffer was full",
        grown.socket_drops
    ));
    // What the wire refuses to the attacker it counts as well.
    let lost = grown.wire_drops.saturating_sub(shots.refused);
    findings.lines.push(format!(
        "the wire's queue was full for {} more of the attacker's, and for {lost} frames of others",
        shots.refused
    ));
    findings.lines.push(format!(
        "meanwhile {completed} of {sent_beats} heartbeats of {VICTIM} complete; `netft status` took at most {:.1} ms; \
         {} KiB resident, {} before",
        slowest.as_secs_f64() * 1e3,
        after.resident_kib,
        before.resident_kib
    ));
    for (node, event) in &downs {
        let gap = monitor.longest_gap(event.boottime_ns.saturating_sub(20_000_000), event.boottime_ns);
        let machine = gap.map_or("the machine shows no gap then".to_string(), |gap| gap.to_string());
        findings.lines.push(format!(
            "false: {node} {} ({}), {:?}; {machine}",
            event.subject, event.reason, event.evidence
        ));
    }
    findings.results = json!({
        "seconds": seconds,
        "packets": shots.sent,
        "packets_per_second": rate.round(),
        "by_kind": shots.by_kind,
        "counters": grown.counters,
        "socket_drops": grown.socket_drops,
        "refused_by_the_wire": shots.refused,
        "others_lost_on_the_wire": lost,
        "heartbeats_sent": sent_beats,
        "heartbeats_completed": completed,
        "slowest_status_ms": slowest.as_secs_f64() * 1e3,
        "resident_kib": [before.resident_kib, after.resident_kib],
        "false_downs": downs.len(),
    });
    // What reaches userspace shares it with the victim's own hellos, one a second from the peer on each route.
    let genuine = target.genuine(seconds);
    let difference = grown.sum().abs_diff(shots.sent);
    #[expect(clippy::cast_precision_loss, reason = "counts far below 2^53")]
    let (difference, genuine) = (difference as f64, genuine as f64);
    #[expect(clippy::cast_precision_loss, reason = "KiB of a process")]
    let growth = after.resident_kib.saturating_sub(before.resident_kib) as f64;
    findings.bounds = vec![
        Bound::none("false downs", downs.len()),
        Bound::at_most("packets sent, less all that were counted", difference, genuine),
        Bound::at_most("growth of resident memory, KiB", growth, GROWTH_KIB),
        Bound::at_most(
            "slowest `netft status` meanwhile, ms",
            slowest.as_secs_f64() * 1e3,
            form.limit(ANSWER_MS),
        ),
    ];
    // In the short form other tests may have the core.
    if form == Form::Full {
        findings.bounds.push(Bound::at_most("packets a second wanted / sent", RATE / rate, 1.0));
    }
    Ok(findings)
}

/// Asks the victim for its status again and again; returns the longest that an answer took.
fn ask_meanwhile(bed: &Bed, firing: &AtomicBool) -> Result<Duration> {
    let mut slowest = Duration::ZERO;
    while firing.load(Ordering::Acquire) {
        let began = Instant::now();
        cluster::status(&bed.lab, VICTIM)?;
        slowest = slowest.max(began.elapsed());
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(slowest)
}
