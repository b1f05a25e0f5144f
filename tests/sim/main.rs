//! The detector in virtual time: real detectors, the real answer logic of XDP, a model of everything between, and
//! faults from a seed. A failing seed is printed; run it again, with every event on stderr, by
//!
//! ```text
//! NETFT_SIM=mixed:1234 cargo test --release -p netft-tests --test sim
//! ```
#![expect(clippy::unwrap_used, reason = "a test program: what can't be is a failed test")]

mod checks;
mod faults;
mod network;
mod node;
mod rng;
mod world;

use checks::{Checks, Tally};
use faults::Plan;
use world::World;

fn simulate(plan: &Plan, seed: u64) -> Result<Tally, String> {
    let mut checks = Checks::default();
    let mut world = World::new(plan, seed);
    world.trace = std::env::var_os("NETFT_SIM").is_some();
    world.run(plan.end(&world), &mut checks)?;
    checks.finish(&world)?;
    Ok(checks.tally)
}

fn add(sum: &mut Tally, one: &Tally) {
    sum.downs += one.downs;
    sum.found += one.found;
    sum.up += one.up;
    sum.stalled += one.stalled;
    sum.back += one.back;
    sum.legs += one.legs;
    sum.active += one.active;
    sum.own_stalls += one.own_stalls;
    sum.postponed += one.postponed;
    sum.worst_found = sum.worst_found.max(one.worst_found);
}

/// Simulates `count` seeds, or the one that `NETFT_SIM=plan:seed` names.
fn run(plan: &Plan, count: u64) -> Option<Tally> {
    let seeds = match std::env::var("NETFT_SIM") {
        Ok(wanted) => {
            let (name, seed) = wanted.split_once(':').expect("NETFT_SIM is PLAN:SEED");
            if name != plan.name {
                return None;
            }
            let seed = seed.parse().expect("NETFT_SIM is PLAN:SEED");
            seed..seed + 1
        }
        Err(_) => 0..std::env::var("NETFT_SIM_SEEDS").map_or(count, |seeds| seeds.parse().expect("a number")),
    };
    let whole = seeds.end - seeds.start > 1;
    let mut sum = Tally::default();
    for seed in seeds {
        match simulate(plan, seed) {
            Ok(tally) => add(&mut sum, &tally),
            Err(wrong) => panic!("NETFT_SIM={}:{seed}: {wrong}", plan.name),
        }
    }
    println!("{}: {sum:?}", plan.name);
    whole.then_some(sum)
}

#[test]
fn a_calm_cluster_stays_up() {
    if let Some(tally) = run(&faults::CALM, 6) {
        assert_eq!((tally.downs, tally.own_stalls), (0, 0));
    }
}

#[test]
fn nobody_is_accused_while_the_network_is_whole_however_the_engines_are_starved() {
    if let Some(tally) = run(&faults::STALLS, 40) {
        assert_eq!(tally.downs, 0);
        assert!(tally.postponed > 100 && tally.stalled > 100 && tally.back > 100, "{tally:?}");
    }
}

#[test]
fn a_dead_route_is_found_within_its_bound_and_a_mended_one_comes_back() {
    if let Some(tally) = run(&faults::CUTS, 40) {
        assert!(tally.found > 1000 && tally.up > 1000, "{tally:?}");
        assert!(tally.worst_found <= 1000, "{tally:?}");
    }
}

#[test]
fn lost_and_duplicated_legs_take_nothing_down() {
    if let Some(tally) = run(&faults::LOSS, 12) {
        assert_eq!(tally.downs, 0);
    }
}

#[test]
fn cuts_and_starved_engines_together_break_no_bound() {
    if let Some(tally) = run(&faults::MIXED, 60) {
        assert!(tally.found > 300 && tally.up > 300 && tally.stalled > 20, "{tally:?}");
    }
}

#[test]
fn a_round_trip_longer_than_the_detection_time_is_no_reason() {
    if let Some(tally) = run(&faults::FAR, 16) {
        assert!(tally.found > 20 && tally.up > 20, "{tally:?}");
    }
}
