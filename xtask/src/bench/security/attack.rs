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
use crate::bench::stats::Spread;
use crate::cluster;
use crate::hostile::Port;
use crate::lab::Lab;
use crate::traffic::{Monitor, boottime_ns};
use anyhow::Result;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Addresses that the attacker gives as its own.
const ADDRESSES: u16 = 1000;
/// Has no netft: what is sent to it costs the machine what the attacker's own sending does, and little more.
const SINK: &str = "client";
const SINKS_NETWORK: &str = "net2";
/// What of the TCP stream's throughput must be left, the median of all rounds.
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
        let field = Field {
            port: Port::open(&bed.lab, VICTIM, NETWORK)?,
            sink: Port::open(&bed.lab, SINK, SINKS_NETWORK)?,
            // Towards the victim, so that its data threads read both.
            bulk: Bulk::start(&bed.lab, IMPERSONATED, VICTIM)?,
            bed,
        };
        std::thread::sleep(Spans::of(form).calm);
        let mut findings = Findings::default();
        let mut results = Vec::new();
        for attack in &attacks {
            let seen = under(&field, monitor, attack, form)?;
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

/// Where it takes place.
struct Field {
    /// What is sent here reaches the victim.
    port: Port,
    /// What is sent here reaches somebody without netft.
    sink: Port,
    bulk: Bulk,
    bed: Bed,
}

/// Rounds, and how long the stream is looked at in each: without an attack, with one, with one on the sink.
struct Spans {
    rounds: usize,
    calm: Duration,
    attack: Duration,
    elsewhere: Duration,
}

impl Spans {
    fn of(form: Form) -> Self {
        let seconds = Duration::from_secs_f64;
        match form {
            Form::Full => {
                Self { rounds: 5, calm: seconds(2.0), attack: seconds(5.0), elsewhere: seconds(2.0) }
            }
            Form::Short => {
                Self { rounds: 1, calm: seconds(1.2), attack: seconds(2.0), elsewhere: seconds(1.0) }
            }
        }
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

/// The stream's throughput in one round, Gbit/s.
struct Round {
    undisturbed: f64,
    disturbed: f64,
    /// While the attacker sends as much to somebody else: what its own work costs on this machine.
    elsewhere: f64,
    packets_per_second: f64,
}

/// One attack, in rounds: without, with, and with one on somebody else.
fn under(field: &Field, monitor: &Monitor, attack: &Attack, form: Form) -> Result<Findings> {
    let Field { port, sink, bulk, bed } = field;
    let spans = Spans::of(form);
    let (before, steps) = (Tally::take(&bed.lab, Target::Data)?, handshakes(&bed.lab)?);
    let (began_ns, mut fired_ns) = (boottime_ns(), Vec::new());
    let mut rounds = Vec::new();
    for _ in 0..spans.rounds {
        let undisturbed = gbits(bulk, || {
            std::thread::sleep(spans.calm);
            Ok(())
        })?;
        let fire = |at: &Port, span| {
            let shots = gun::fire(at, &attack.ammunition, ATTACKERS_CPU, span, PACE, Turn::First)?;
            Ok(shots.per_second())
        };
        let (mut packets_per_second, from_ns) = (0.0, boottime_ns());
        let disturbed = gbits(bulk, || {
            packets_per_second = fire(port, spans.attack)?;
            Ok(())
        })?;
        fired_ns.push((from_ns, boottime_ns()));
        let elsewhere = gbits(bulk, || fire(sink, spans.elsewhere).map(drop))?;
        rounds.push(Round { undisturbed, disturbed, elsewhere, packets_per_second });
    }
    let after = Tally::take(&bed.lab, Target::Data)?;
    let steps = handshakes(&bed.lab)? - steps;
    let seconds = Duration::from_nanos(boottime_ns() - began_ns).as_secs_f64();
    let downs = bed.downs_since(began_ns);
    let mut stall_ns = 0;
    for (from_ns, to_ns) in fired_ns {
        // Fails if the stream broke.
        stall_ns = stall_ns.max(bulk.stall_ns(from_ns, to_ns)?);
    }

    let spread = |of: fn(&Round) -> f64| Spread::of(rounds.iter().map(of));
    let ratio = spread(|round| round.disturbed / round.undisturbed.max(f64::EPSILON));
    let own = spread(|round| round.elsewhere / round.undisturbed.max(f64::EPSILON));
    let rate = spread(|round| round.packets_per_second);
    let grown = after.since(&before);
    let growth = after.resident_kib.saturating_sub(before.resident_kib);
    let mut findings = Findings::default();
    findings.lines.push(format!(
        "{}: {:.0} packets a second; TCP {:.2} Gbit/s of {:.2}, ratio {:.2} ({:.2} to {:.2}), {:.2} while as much is sent to \
         somebody else; longest stall {:.1} ms; {steps} handshake steps in {seconds:.1} s; {} KiB resident, {} before",
        attack.name,
        rate.median,
        spread(|round| round.disturbed).median,
        spread(|round| round.undisturbed).median,
        ratio.median,
        ratio.min,
        ratio.max,
        own.median,
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
        "rounds": rounds.len(),
        "packets_per_second": rate,
        "tcp_gbit_per_s": spread(|round| round.disturbed),
        "tcp_gbit_per_s_undisturbed": spread(|round| round.undisturbed),
        "tcp_ratio": ratio,
        "tcp_ratio_attack_on_somebody_else": own,
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
    // How fast the stream is beside an attack depends on what else the machine does: the short form asks whether it goes on.
    let tcp = match form {
        Form::Full => Bound::at_most(
            "TCP undisturbed / disturbed",
            1.0 / ratio.median.max(f64::EPSILON),
            1.0 / TCP_LEFT,
        ),
        Form::Short => {
            let still = rounds.iter().filter(|round| round.disturbed <= 0.0).count();
            Bound::none("rounds in which TCP stood still", still)
        }
    };
    findings.bounds = vec![
        Bound::at_most("packets a second wanted / sent", RATE / rate.median.max(1.0), form.limit(1.0)),
        tcp,
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
