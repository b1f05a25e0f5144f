//! Somebody on the network, without the secret, sends 200 000 messages a second from 1000 addresses, while heartbeats and a TCP
//! stream go on.

use crate::bench::Form;
use crate::bench::bulk::Bulk;
use crate::bench::detect::bed::Bed;
use crate::bench::flood::arsenal::{Ammunition, Target};
use crate::bench::flood::gun::{self, Turn};
use crate::bench::flood::tally::Tally;
use crate::bench::flood::{ATTACKERS_CPU, GROWTH_KIB, IMPERSONATED, NETWORK, RATE, VICTIM};
use crate::bench::record::{Bound, Findings, PartRecord, measure_once};
use crate::cluster;
use crate::hostile::Port;
use crate::lab::Lab;
use crate::traffic::{Monitor, boottime_ns};
use anyhow::Result;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Addresses that the attacker gives as its own.
const ADDRESSES: u16 = 1000;
/// What of the TCP stream's throughput must be left.
const TCP_LEFT: f64 = 0.3;
/// Above [`RATE`], which must be reached.
const PACE: f64 = 1.05 * RATE;
/// What a node computes or repeats of handshakes, whoever asks: 8 at once, 4 a second, and what is told again while a step may
/// be lost (`core/session`). Here for both nodes, whose keys are replaced every second.
const HANDSHAKES_AT_ONCE: f64 = 2.0 * 8.0;
const HANDSHAKES_A_SECOND: f64 = 2.0 * 4.0;

/// What is sent.
struct Attack {
    name: &'static str,
    ammunition: Vec<Ammunition>,
}

/// The part.
pub(super) fn run(form: Form) -> Result<PartRecord> {
    let what =
        "hostile messages from 1000 forged addresses beside TCP at full speed, with new keys every second";
    measure_once("attack", what, |monitor| {
        let bed = Bed::make(2, 2, Target::Handshakes.settings())?;
        let attacks = attacks(&bed.lab, form)?;
        let port = Port::open(&bed.lab, VICTIM, NETWORK)?;
        // Towards the victim, so that its data threads read both.
        let bulk = Bulk::start(&bed.lab, IMPERSONATED, VICTIM)?;
        std::thread::sleep(spans(form).0);
        let mut findings = Findings::default();
        let mut results = Vec::new();
        for attack in &attacks {
            let seen = under(&bed, monitor, &port, &bulk, attack, form)?;
            findings.lines.extend(seen.lines);
            findings.bounds.extend(seen.bounds.into_iter().map(|mut bound| {
                bound.what = format!("{}: {}", attack.name, bound.what);
                bound
            }));
            results.push(seen.results);
        }
        findings.results = json!({ "addresses": ADDRESSES, "attacks": results });
        Ok(findings)
    })
}

/// How long the stream is looked at without an attack, and with one.
fn spans(form: Form) -> (Duration, Duration) {
    match form {
        Form::Full => (Duration::from_secs(4), Duration::from_secs(15)),
        Form::Short => (Duration::from_millis(1200), Duration::from_secs(2)),
    }
}

/// Everything at once, and in the full form each kind alone.
fn attacks(lab: &Lab, form: Form) -> Result<Vec<Attack>> {
    let kinds = [
        ("handshakes", Target::Handshakes),
        ("hellos", Target::Hellos),
        ("data", Target::Data),
        ("heartbeats", Target::Legs),
    ];
    let heard = kinds
        .iter()
        .map(|(_, target)| target.overhear(lab, VICTIM, IMPERSONATED, NETWORK))
        .collect::<Result<Vec<_>>>()?;
    let made =
        || kinds.iter().zip(&heard).map(|((name, target), heard)| target.strangers(name, heard, ADDRESSES));
    let mut attacks = vec![Attack { name: "all kinds", ammunition: made().collect() }];
    if form == Form::Full {
        attacks
            .extend(kinds.iter().zip(made()).map(|((name, _), one)| Attack { name, ammunition: vec![one] }));
    }
    Ok(attacks)
}

/// One attack, between two times without.
fn under(
    bed: &Bed,
    monitor: &Monitor,
    port: &Port,
    bulk: &Bulk,
    attack: &Attack,
    form: Form,
) -> Result<Findings> {
    let (calm, span) = spans(form);
    let undisturbed_before = gbits(bulk, || {
        std::thread::sleep(calm);
        Ok(())
    })?;
    let (before, steps) = (Tally::take(&bed.lab, Target::Data)?, handshakes(&bed.lab)?);
    let began_ns = boottime_ns();
    let mut shots = None;
    let disturbed = gbits(bulk, || {
        shots = Some(gun::fire(port, &attack.ammunition, ATTACKERS_CPU, span, PACE, Turn::First)?);
        Ok(())
    })?;
    let after = Tally::take(&bed.lab, Target::Data)?;
    let steps = handshakes(&bed.lab)? - steps;
    let seconds = Duration::from_nanos(boottime_ns() - began_ns).as_secs_f64();
    let undisturbed_after = gbits(bulk, || {
        std::thread::sleep(calm);
        Ok(())
    })?;
    let downs = bed.downs_since(began_ns);
    // Fails if the stream broke.
    let stall_ns = bulk.stall_ns(began_ns, boottime_ns())?;

    let rate = shots.as_ref().map_or(0.0, gun::Shots::per_second);
    let undisturbed = f64::midpoint(undisturbed_before, undisturbed_after);
    let ratio = disturbed / undisturbed.max(f64::EPSILON);
    let grown = after.since(&before);
    let growth = after.resident_kib.saturating_sub(before.resident_kib);
    let mut findings = Findings::default();
    findings.lines.push(format!(
        "{}: {rate:.0} packets a second; TCP {disturbed:.2} Gbit/s of {undisturbed_before:.2} before and \
         {undisturbed_after:.2} after, ratio {ratio:.2}, longest stall {:.1} ms; {steps} handshake steps in {seconds:.1} s; \
         {} KiB resident, {} before",
        attack.name,
        Duration::from_nanos(stall_ns).as_secs_f64() * 1e3,
        after.resident_kib,
        before.resident_kib,
    ));
    let counted: Vec<String> = grown.counters.iter().map(|(name, count)| format!("{name} {count}")).collect();
    findings.lines.push(format!(
        "  refused: {}, {} for want of room",
        counted.join(", "),
        grown.socket_drops
    ));
    for (node, event) in &downs {
        let gap = monitor.longest_gap(event.boottime_ns.saturating_sub(20_000_000), event.boottime_ns);
        let machine = gap.map_or("the machine shows no gap then".to_string(), |gap| gap.to_string());
        findings.lines.push(format!("  false: {node} {} ({}); {machine}", event.subject, event.reason));
    }
    findings.results = json!({
        "kinds": attack.name,
        "packets_per_second": rate.round(),
        "tcp_gbit_per_s": disturbed,
        "tcp_gbit_per_s_undisturbed": [undisturbed_before, undisturbed_after],
        "tcp_ratio": ratio,
        "tcp_longest_stall_us": stall_ns / 1000,
        "handshake_steps": steps,
        "seconds": seconds,
        "resident_kib": [before.resident_kib, after.resident_kib],
        "refused": grown.counters,
        "socket_drops": grown.socket_drops,
        "false_downs": Value::from(downs.len()),
    });
    #[expect(clippy::cast_precision_loss, reason = "KiB of a process, and some dozens")]
    let (growth, steps) = (growth as f64, steps as f64);
    findings.bounds = vec![
        Bound::at_most("packets a second wanted / sent", RATE / rate.max(1.0), form.limit(1.0)),
        Bound::at_most(
            "TCP undisturbed / disturbed",
            1.0 / ratio.max(f64::EPSILON),
            form.limit(1.0 / TCP_LEFT),
        ),
        Bound::none("false downs", downs.len()),
        Bound::at_most("growth of resident memory, KiB", growth, GROWTH_KIB),
        Bound::at_most(
            "handshake steps sent by both nodes",
            steps,
            HANDSHAKES_A_SECOND.mul_add(seconds, HANDSHAKES_AT_ONCE),
        ),
    ];
    Ok(findings)
}

/// Throughput while `work` goes on.
fn gbits(bulk: &Bulk, work: impl FnOnce() -> Result<()>) -> Result<f64> {
    let (began, before) = (Instant::now(), bulk.bytes());
    work()?;
    #[expect(clippy::cast_precision_loss, reason = "some gigabytes")]
    let bits = (bulk.bytes() - before) as f64 * 8.0;
    Ok(bits / 1e9 / began.elapsed().as_secs_f64())
}

/// Steps of handshakes that both nodes have made or repeated so far: each first one costs two Diffie-Hellman operations or three.
fn handshakes(lab: &Lab) -> Result<u64> {
    let mut sum = 0;
    for node in cluster::nodes(lab) {
        let counters = cluster::status(lab, &node)?.counters;
        sum += ["handshakes_started", "handshakes_answered"]
            .iter()
            .filter_map(|name| counters.get(*name))
            .sum::<u64>();
    }
    Ok(sum)
}
