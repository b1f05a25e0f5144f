//! Never two owners, and served again within a bound: the real state machines and the real fence in virtual time, faults from
//! a seed. A failing seed is cut down and written to `target/sim/`; the message says how to see it again:
//!
//! ```text
//! NETFT_OWNERS_CASE=target/sim/owners-mixed-4d2.json cargo test --release --workspace --test owners replay -- --nocapture
//! NETFT_OWNERS_SEED=mixed:1234 cargo test --release --workspace --test owners replay -- --nocapture
//! ```

use netft_owners::{
    AMNESIA, CHANGES, CRASHES, CUTS, Case, DISRUPT, FORGOTTEN, FREEZES, MIXED, MOVEOUT, MOVES, Plan, RELAPSE,
    RELAY, RIFTS, SERVED_WITHIN_NS, SLEEPER, Simulator, Tally,
};
use std::path::Path;

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

/// Simulates the first `count` seeds of a plan.
fn run(plan: &Plan, count: u64) -> Tally {
    let (simulator, mut sum) = (Simulator::default(), Tally::default());
    for seed in 0..count {
        let case = plan.draw(seed);
        match simulator.run(&case) {
            Ok(tally) => sum.add(&tally),
            Err(broken) => {
                let told = simulator.report(&case, &broken, &root().join("target/sim"));
                panic!("NETFT_OWNERS_SEED={}:{seed}: {told}", plan.name)
            }
        }
    }
    println!("{}: {sum:?}", plan.name);
    assert!(sum.open > 0 && sum.longest_unserved_ns < SERVED_WITHIN_NS, "{sum:?}");
    sum
}

#[test]
fn planned_moves_have_one_owner_at_any_instant() {
    let tally = run(&MOVES, 100);
    assert!(tally.moved > 200, "{tally:?}");
}

#[test]
fn cuts_of_every_kind_leave_one_owner() {
    let tally = run(&CUTS, 200);
    assert!(tally.contested > 1_000, "{tally:?}");
}

#[test]
fn logs_that_diverge_leave_one_owner() {
    let tally = run(&RIFTS, 200);
    assert!(tally.contested > 1_000, "{tally:?}");
}

#[test]
fn threads_and_hosts_that_stand_still_leave_one_owner() {
    let tally = run(&FREEZES, 200);
    assert!(tally.contested > 1_000, "{tally:?}");
}

#[test]
fn crashes_and_an_empty_store_leave_one_owner() {
    run(&CRASHES, 200);
}

#[test]
fn changes_of_voters_and_leases_leave_one_owner() {
    let tally = run(&CHANGES, 200);
    assert!(tally.changes > 200, "{tally:?}");
}

#[test]
fn a_follower_that_is_cut_off_deposes_no_leader() {
    run(&DISRUPT, 100);
}

#[test]
fn voters_that_move_away_from_a_frozen_owner_leave_one_owner() {
    run(&MOVEOUT, 60);
}

#[test]
fn a_voter_that_forgot_leaves_one_owner() {
    run(&RELAPSE, 60);
}

#[test]
fn a_vip_that_is_given_on_twice_has_one_owner() {
    run(&RELAY, 60);
}

#[test]
fn a_vip_of_a_node_that_never_wakes_up_is_served_by_another() {
    run(&SLEEPER, 40);
}

#[test]
fn a_vip_of_a_node_that_forgot_everything_is_served_by_another() {
    run(&FORGOTTEN, 60);
    // An owner whose store was emptied, under a leader that hadn't committed anything since.
    let outcome = Simulator::default().run(&Case { unattended: true, ..MIXED.draw(1920) });
    assert!(outcome.is_ok(), "{outcome:?}");
}

#[test]
fn what_a_majority_committed_outlives_an_emptied_store() {
    run(&AMNESIA, 200);
    // Found among the first 8400 seeds.
    let outcome = Simulator::default().run(&MIXED.draw(6210));
    assert!(outcome.is_ok(), "{outcome:?}");
}

#[test]
fn everything_together_leaves_one_owner() {
    let tally = run(&MIXED, 200);
    assert!(tally.contested > 1_000 && tally.changes > 100, "{tally:?}");
}

/// In each of these a node that had been cut off for long is proven alive within 0.1 ms of the end of the cut.
#[test]
fn a_node_that_is_heard_again_isn_t_cut_off_any_more() {
    for seed in [509, 1121, 1477, 3269] {
        let outcome = Simulator::default().run(&MIXED.draw(seed));
        assert!(outcome.is_ok(), "NETFT_OWNERS_SEED=mixed:{seed}: {outcome:?}");
    }
}

#[test]
fn a_case_survives_its_file() {
    let case = MIXED.draw(3);
    assert_eq!(Case::from_text(&case.to_text()), Ok(case));
}

/// The case or the seed that the environment names, with every event on standard error.
#[test]
fn replay() {
    let case = if let Ok(file) = std::env::var("NETFT_OWNERS_CASE") {
        let path = root().join(&file);
        let text =
            std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Case::from_text(&text).unwrap()
    } else if let Ok(wanted) = std::env::var("NETFT_OWNERS_SEED") {
        let (plan, seed) = wanted.split_once(':').expect("NETFT_OWNERS_SEED is PLAN:SEED");
        Plan::named(plan).expect("a plan").draw(seed.parse().expect("a number"))
    } else {
        return;
    };
    let simulator = Simulator { trace: true, only: None };
    let tally = simulator.run(&case).unwrap_or_else(|broken| panic!("{broken}"));
    println!("{tally:?}");
}
