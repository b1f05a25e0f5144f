//! The detector in virtual time: real detectors, the real answer logic of XDP, a model of everything between, and
//! faults from a seed. A failing seed is cut down and written to `target/sim/`; the message says how to see it again:
//!
//! ```text
//! NETFT_SIM_CASE=target/sim/mixed-4d2.json cargo test --release --workspace --test sim replay -- --nocapture
//! NETFT_SIM_SEED=mixed:1234 cargo test --release --workspace --test sim replay -- --nocapture
//! ```

use netft_sim::{
    CALM, CUTS, Case, FAR, FLAPS, FREEZES, LOSS, MIXED, PLANS, Plan, ROUGH, STALLS, Simulator, TRAFFIC,
    Tally, report,
};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

fn folder() -> PathBuf {
    root().join("target/sim")
}

fn simulate(simulator: &mut Simulator, case: &Case, seed: u64) -> Tally {
    match simulator.run(case) {
        Ok(tally) => tally,
        Err(broken) => {
            let told = report(simulator, case, &broken, &folder());
            panic!("NETFT_SIM_SEED={}:{seed}: {told}", case.plan)
        }
    }
}

/// Simulates the first `count` seeds of a plan.
fn run(plan: &Plan, count: u64) -> Tally {
    let mut simulator = Simulator::new();
    let mut sum = Tally::default();
    for seed in 0..count {
        sum.add(&simulate(&mut simulator, &plan.draw(seed), seed));
    }
    println!("{}: {sum:?}", plan.name);
    sum
}

#[test]
fn a_calm_cluster_stays_up() {
    let tally = run(&CALM, 30);
    assert_eq!((tally.downs, tally.own_stalls), (0, 0));
}

#[test]
fn nobody_is_accused_while_the_network_is_whole_however_the_engines_are_starved() {
    let tally = run(&STALLS, 300);
    assert_eq!(tally.downs, 0);
    assert!(tally.postponed > 100 && tally.stalled > 100 && tally.back > 100, "{tally:?}");
}

#[test]
fn a_dead_route_is_found_within_its_bound_and_a_mended_one_comes_back() {
    let tally = run(&CUTS, 200);
    assert!(tally.found > 1000 && tally.up > 1000 && tally.named > 100, "{tally:?}");
    assert!(tally.worst_found <= 1000, "{tally:?}");
}

#[test]
fn a_route_that_flaps_is_held_back_for_a_bounded_time() {
    let tally = run(&FLAPS, 80);
    assert!(tally.damped > 500 && tally.up > 500, "{tally:?}");
}

#[test]
fn lost_and_duplicated_legs_take_nothing_down() {
    let tally = run(&LOSS, 40);
    assert_eq!(tally.downs, 0);
}

#[test]
fn however_many_legs_are_lost_or_overtaken_the_stamps_decide() {
    let tally = run(&ROUGH, 100);
    assert!(tally.downs > 100 && tally.found > 100, "{tally:?}");
}

#[test]
fn hosts_that_stand_still_are_found_and_come_back() {
    let tally = run(&FREEZES, 200);
    assert!(tally.found > 300 && tally.up > 300, "{tally:?}");
}

#[test]
fn cuts_and_starved_engines_together_break_no_bound() {
    let tally = run(&MIXED, 300);
    assert!(tally.found > 300 && tally.up > 300 && tally.stalled > 20, "{tally:?}");
    assert!(tally.disagreed > 100, "{tally:?}");
}

#[test]
fn a_round_trip_longer_than_the_detection_time_is_no_reason() {
    let tally = run(&FAR, 30);
    assert!(tally.found > 20 && tally.up > 20, "{tally:?}");
}

#[test]
fn no_packet_is_lost_with_its_route_and_none_arrives_twice() {
    let tally = run(&TRAFFIC, 150);
    assert!(tally.packets > 100_000 && tally.replayed > 1000 && tally.copies > 1000, "{tally:?}");
}

/// `NETFT_SIM_SECONDS` (20) of the seeds that `cargo xtask bench sim` begins with, on this one thread.
#[test]
fn many_clusters_for_some_seconds() {
    let seconds = std::env::var("NETFT_SIM_SECONDS").map_or(20, |seconds| seconds.parse().unwrap());
    let (began, mut simulator, mut sum) = (Instant::now(), Simulator::new(), Tally::default());
    let mut seeds = 0;
    while began.elapsed() < Duration::from_secs(seconds) {
        let plan = PLANS[usize::try_from(seeds).unwrap() % PLANS.len()];
        let mut case = plan.draw_for_bench(seeds);
        // The short form sees more seeds, and less of each.
        let length_ns = case.length_ns / 10;
        case.length_ns = length_ns;
        case.faults.retain(|fault| fault.at_ns + fault.span_ns <= length_ns);
        sum.add(&simulate(&mut simulator, &case, seeds));
        seeds += 1;
    }
    println!("{seeds} seeds, {} s simulated: {sum:?}", sum.simulated_ns / 1_000_000_000);
    assert!(seeds >= 20 && sum.found > 0 && sum.up > 0, "{sum:?}");
}

#[test]
fn a_case_survives_its_file() {
    let case = MIXED.draw(3);
    assert_eq!(Case::from_text(&case.to_text()), Ok(case));
}

/// Cut down from seeds that broke a property once.
#[test]
fn cases_that_once_broke_a_property_hold() {
    let files = std::fs::read_dir(root().join("tests/sim/cases")).unwrap();
    let mut count = 0;
    for file in files {
        let path = file.unwrap().path();
        let case = Case::from_text(&std::fs::read_to_string(&path).unwrap()).unwrap();
        let result = Simulator::new().run(&case);
        assert!(result.is_ok(), "{}: {}", path.display(), result.unwrap_err());
        count += 1;
    }
    assert!(count > 0);
}

/// The case or the seed that the environment names, with every event on standard error.
#[test]
fn replay() {
    let case = if let Ok(file) = std::env::var("NETFT_SIM_CASE") {
        let path = root().join(&file);
        let text =
            std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Case::from_text(&text).unwrap()
    } else if let Ok(wanted) = std::env::var("NETFT_SIM_SEED") {
        let (plan, seed) = wanted.split_once(':').expect("NETFT_SIM_SEED is PLAN:SEED or bench-PLAN:SEED");
        let seed = seed.parse().expect("a number");
        match plan.strip_prefix("bench-") {
            Some(plan) => Plan::named(plan).expect("a plan").draw_for_bench(seed),
            None => Plan::named(plan).expect("a plan").draw(seed),
        }
    } else {
        return;
    };
    let mut simulator = Simulator::new();
    simulator.trace();
    simulator.run(&case).unwrap_or_else(|broken| panic!("{broken}"));
}
