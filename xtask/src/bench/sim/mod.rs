//! `bench sim`: clusters in virtual time, more than 10 000 seeds and 200 hours, without a property broken. One part for
//! each plan of faults.

use super::record::{Bound, Findings, PartRecord, measure_once};
use super::{Form, Part};
use crate::test::workspace_root;
use anyhow::Result;
use netft_sim::{
    CALM, CUTS, FAR, FLAPS, FREEZES, LOSS, MIXED, Plan, ROUGH, STALLS, Simulator, TRAFFIC, Tally, report,
};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Each part of the full form goes on until it has done both: nine parts make 10 000 seeds and 200 hours.
const SEEDS: u64 = 1_112;
const HOURS: f64 = 22.3;
/// Of the part with packets, whose cases are those of the tests: as many faults, each begun and mended.
const STEPS: u64 = 24_000;
/// How long the short form takes.
const SHORT: Duration = Duration::from_secs(10);
/// How often it says how far it is.
const TELL_EVERY: Duration = Duration::from_secs(60);
/// Broken seeds that are cut down and told; one is enough to fail.
const TOLD: usize = 5;

/// What all threads add to.
#[derive(Default)]
struct Sum {
    tally: Tally,
    seeds: u64,
    /// By size: seeds and simulated nanoseconds.
    sizes: BTreeMap<String, (u64, u64)>,
    broken: Vec<String>,
    broken_seeds: usize,
}

/// Parts of `bench sim`.
pub(super) const PARTS: &[Part] = &[
    Part { name: "calm", run: |form| part(form, &CALM, "nothing goes wrong"), short: false },
    Part { name: "stalls", run: |form| part(form, &STALLS, "engines are starved"), short: false },
    Part { name: "cuts", run: |form| part(form, &CUTS, "paths and links fail"), short: false },
    Part {
        name: "flaps",
        run: |form| part(form, &FLAPS, "they fail so often that they are damped"),
        short: false,
    },
    Part { name: "loss", run: |form| part(form, &LOSS, "legs are lost and duplicated"), short: false },
    Part {
        name: "rough",
        run: |form| part(form, &ROUGH, "many are lost, and overtake each other"),
        short: false,
    },
    Part { name: "freezes", run: |form| part(form, &FREEZES, "whole hosts stand still"), short: false },
    Part { name: "mixed", run: |form| part(form, &MIXED, "everything at once"), short: true },
    Part {
        name: "far",
        run: |form| part(form, &FAR, "a round trip longer than the detection time"),
        short: false,
    },
    Part {
        name: "traffic",
        run: |form| part(form, &TRAFFIC, "packets flow while one path after the other fails"),
        short: false,
    },
];

fn part(form: Form, plan: &'static Plan, what: &'static str) -> Result<PartRecord> {
    measure_once(plan.name, what, |_| Ok(findings(form, plan, &simulate(form, plan))))
}

/// The sum, and how long it took.
fn simulate(form: Form, plan: &Plan) -> (Sum, Duration) {
    let (began, next) = (Instant::now(), AtomicU64::new(0));
    let (sum, enough) = (Mutex::new(Sum::default()), AtomicBool::new(false));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let told = Mutex::new(began);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let mut simulator = Simulator::new();
                while !enough.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    one_seed(&mut simulator, plan, seed, &sum);
                    let sum = sum.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                    let done = match form {
                        Form::Full if plan.packets_per_s > 0 => sum.tally.faults >= STEPS,
                        Form::Full => sum.seeds >= SEEDS && hours(sum.tally.simulated_ns) >= HOURS,
                        Form::Short => began.elapsed() >= SHORT,
                    };
                    enough.fetch_or(done || sum.broken_seeds >= TOLD, Ordering::Relaxed);
                    let mut told = told.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                    if told.elapsed() >= TELL_EVERY {
                        *told = Instant::now();
                        println!(
                            "  {} seeds, {:.1} h simulated in {} s, {} broken",
                            sum.seeds,
                            hours(sum.tally.simulated_ns),
                            began.elapsed().as_secs(),
                            sum.broken_seeds
                        );
                    }
                }
            });
        }
    });
    (sum.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner), began.elapsed())
}

fn one_seed(simulator: &mut Simulator, plan: &Plan, seed: u64, sum: &Mutex<Sum>) {
    let (case, prefix) = match plan.packets_per_s {
        0 => (plan.draw_for_bench(seed), "bench-"),
        _ => (plan.draw(seed), ""),
    };
    let outcome = simulator.run(&case);
    let told = outcome.as_ref().err().map(|broken| {
        let folder = workspace_root().join("target/sim");
        format!("{prefix}{}:{seed}: {}", plan.name, report(simulator, &case, broken, &folder))
    });
    let mut sum = sum.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    sum.seeds += 1;
    if let Ok(tally) = &outcome {
        sum.tally.add(tally);
        let size = format!("{} nodes, {} networks", case.nodes, case.networks);
        let by_size = sum.sizes.entry(size).or_default();
        *by_size = (by_size.0 + 1, by_size.1 + tally.simulated_ns);
    }
    sum.broken_seeds += usize::from(told.is_some());
    sum.broken.extend(told);
}

fn findings(form: Form, plan: &Plan, (sum, took): &(Sum, Duration)) -> Findings {
    let tally = &sum.tally;
    let hours_done = hours(tally.simulated_ns);
    let seconds = took.as_secs_f64();
    let mut findings = Findings {
        results: json!({
            "seeds": sum.seeds,
            "simulated_hours": rounded(hours_done),
            "wall_s": rounded(seconds),
            "simulated_hours_per_s": rounded(hours_done / seconds),
            "legs": tally.legs,
            "legs_per_s": rounded(count(tally.legs) / seconds),
            "downs": tally.downs,
            "dead_routes_looked_at": tally.found,
            "mended_routes_looked_at": tally.up,
            "directions_looked_at": tally.named,
            "active_routes_looked_at": tally.active,
            "stalled_engines_looked_at": tally.stalled,
            "revived_engines_looked_at": tally.back,
            "disagreements": tally.disagreed,
            "longest_disagreement_ms": rounded(count(tally.longest_disagreement_ns) / 1e6),
            "own_stalls": tally.own_stalls,
            "postponed_verdicts": tally.postponed,
            "damped": tally.damped,
            "faults": tally.faults,
            "packets": tally.packets,
            "packets_sent_again": tally.replayed,
            "copies_dropped": tally.copies,
            "worst_detection_of_its_bound": rounded(count(tally.worst_found) / 1e3),
            "by_size": table(&sum.sizes),
        }),
        ..Findings::default()
    };
    findings.lines.push(format!(
        "{} seeds, {hours_done:.1} cluster-hours in {seconds:.0} s: {:.3} hours and {:.1} million legs per second",
        sum.seeds,
        hours_done / seconds,
        count(tally.legs) / seconds / 1e6
    ));
    findings.lines.push(format!(
        "looked at: {} dead routes, {} mended ones, {} one-way losses, {} disagreements, {} stalled engines",
        tally.found, tally.up, tally.named, tally.disagreed, tally.stalled
    ));
    if tally.packets > 0 {
        findings.lines.push(format!(
            "{} faults; {} packets, {} sent again, {} copies dropped",
            tally.faults, tally.packets, tally.replayed, tally.copies
        ));
    }
    findings.lines.extend(sum.broken.iter().cloned());
    findings.bounds.push(Bound::none("seeds that broke a property", sum.broken_seeds));
    if form == Form::Full && plan.packets_per_s > 0 {
        let missing = usize::try_from(STEPS.saturating_sub(tally.faults)).unwrap_or(usize::MAX);
        findings.bounds.push(Bound::none(&format!("faults missing of {STEPS}"), missing));
    } else if form == Form::Full {
        let missing = usize::try_from(SEEDS.saturating_sub(sum.seeds)).unwrap_or(usize::MAX);
        findings.bounds.push(Bound::none(&format!("seeds missing of {SEEDS}"), missing));
        let missing = rounded((HOURS - hours_done).max(0.0));
        findings.bounds.push(Bound::at_most(&format!("cluster-hours missing of {HOURS}"), missing, 0.0));
    }
    findings
}

fn table(rows: &BTreeMap<String, (u64, u64)>) -> Value {
    let row = |(name, (seeds, ns)): (&String, &(u64, u64))| {
        (name.clone(), json!({ "seeds": seeds, "hours": rounded(hours(*ns)) }))
    };
    rows.iter().map(row).collect::<serde_json::Map<_, _>>().into()
}

fn hours(ns: u64) -> f64 {
    count(ns) / 3.6e12
}

#[expect(clippy::cast_precision_loss, reason = "for people")]
fn count(number: u64) -> f64 {
    number as f64
}

fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}
