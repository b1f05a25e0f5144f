//! `bench owners`: who owns a VIP, in virtual time: at least 100 000 seeds without two owners, and every VIP served again
//! within its bound. One part for each plan of faults.

use super::record::{Bound, Findings, PartRecord, measure_once};
use super::{Form, Part};
use crate::test::workspace_root;
use anyhow::Result;
use netft_owners::{
    AMNESIA, CHANGES, CRASHES, CUTS, DISRUPT, FORGOTTEN, FREEZES, MIXED, MOVEOUT, MOVES, Plan, RELAPSE,
    RELAY, RIFTS, SERVED_WITHIN_NS, SLEEPER, Simulator, Tally,
};
use serde_json::json;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Seeds of each part of the full form: fourteen parts make more than 110 000.
const SEEDS: u64 = 8_400;
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
    broken: Vec<String>,
}

/// Parts of `bench owners`.
pub(super) const PARTS: &[Part] = &[
    Part { name: "moves", run: |form| part(form, &MOVES, "planned moves"), short: false },
    Part { name: "cuts", run: |form| part(form, &CUTS, "paths fail"), short: false },
    Part { name: "rifts", run: |form| part(form, &RIFTS, "logs diverge"), short: false },
    Part { name: "freezes", run: |form| part(form, &FREEZES, "threads and hosts stand still"), short: false },
    Part {
        name: "crashes",
        run: |form| part(form, &CRASHES, "daemons, hosts and a store die"),
        short: false,
    },
    Part { name: "changes", run: |form| part(form, &CHANGES, "voters and leases change"), short: false },
    Part {
        name: "disrupt",
        run: |form| part(form, &DISRUPT, "one follower can't hear the leader"),
        short: false,
    },
    Part {
        name: "moveout",
        run: |form| part(form, &MOVEOUT, "voters move away from a frozen owner"),
        short: false,
    },
    Part {
        name: "relapse",
        run: |form| part(form, &RELAPSE, "a voter forgets for whom it vouched"),
        short: false,
    },
    Part { name: "relay", run: |form| part(form, &RELAY, "a VIP is given on twice"), short: false },
    Part { name: "sleeper", run: |form| part(form, &SLEEPER, "a node never wakes up"), short: false },
    Part {
        name: "forgotten",
        run: |form| part(form, &FORGOTTEN, "an owner forgets everything, unnoticed"),
        short: false,
    },
    Part { name: "amnesia", run: |form| part(form, &AMNESIA, "a store is emptied"), short: false },
    Part { name: "mixed", run: |form| part(form, &MIXED, "everything at once"), short: true },
];

fn part(form: Form, plan: &'static Plan, what: &'static str) -> Result<PartRecord> {
    measure_once(plan.name, what, |_| {
        let began = Instant::now();
        let sum = simulate(form, plan);
        Ok(findings(form, &sum, began.elapsed()))
    })
}

fn simulate(form: Form, plan: &Plan) -> Sum {
    let (began, next) = (Instant::now(), AtomicU64::new(0));
    let (sum, told) = (Mutex::new(Sum::default()), Mutex::new(began));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let enough = |sum: &Sum| match form {
        Form::Full => sum.seeds >= SEEDS,
        Form::Short => began.elapsed() >= SHORT,
    };
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    one_seed(plan, next.fetch_add(1, Ordering::Relaxed), &sum);
                    let sum = sum.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                    if enough(&sum) || sum.broken.len() >= TOLD {
                        return;
                    }
                    let mut told = told.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                    if told.elapsed() >= TELL_EVERY {
                        *told = Instant::now();
                        println!("  {} seeds in {} s", sum.seeds, began.elapsed().as_secs());
                    }
                }
            });
        }
    });
    sum.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn one_seed(plan: &Plan, seed: u64, sum: &Mutex<Sum>) {
    let (simulator, case) = (Simulator::default(), plan.draw(seed));
    let outcome = simulator.run(&case);
    let told = outcome.as_ref().err().map(|broken| {
        format!(
            "{}:{seed}: {}",
            plan.name,
            simulator.report(&case, broken, &workspace_root().join("target/sim"))
        )
    });
    let mut sum = sum.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    sum.seeds += 1;
    if let Ok(tally) = &outcome {
        sum.tally.add(tally);
    }
    sum.broken.extend(told);
}

fn findings(form: Form, sum: &Sum, took: Duration) -> Findings {
    let tally = &sum.tally;
    let longest_ms = rounded(count(tally.longest_unserved_ns) / 1e6);
    let mut findings = Findings {
        results: json!({
            "seeds": sum.seeds,
            "simulated_s": rounded(count(tally.simulated_ns) / 1e9),
            "wall_s": rounded(took.as_secs_f64()),
            "events": tally.events,
            "open_fences_looked_at": tally.open,
            "contested_instants": tally.contested,
            "times_a_vip_changed_its_node": tally.moved,
            "terms": tally.terms,
            "settled_changes": tally.changes,
            "longest_until_served_ms": longest_ms,
        }),
        ..Findings::default()
    };
    findings.lines.push(format!(
        "{} seeds in {:.0} s; {} open fences looked at, {} of them contested; VIPs moved {} times",
        sum.seeds,
        took.as_secs_f64(),
        tally.open,
        tally.contested,
        tally.moved
    ));
    findings.lines.extend(sum.broken.iter().cloned());
    findings.bounds.push(Bound::none("seeds that broke a property", sum.broken.len()));
    let bound_ms = count(SERVED_WITHIN_NS) / 1e6;
    findings.bounds.push(Bound::at_most("longest until every VIP was served, ms", longest_ms, bound_ms));
    if form == Form::Full {
        let missing = usize::try_from(SEEDS.saturating_sub(sum.seeds)).unwrap_or(usize::MAX);
        findings.bounds.push(Bound::none(&format!("seeds missing of {SEEDS}"), missing));
    }
    findings
}

#[expect(clippy::cast_precision_loss, reason = "for people")]
fn count(number: u64) -> f64 {
    number as f64
}

fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}
