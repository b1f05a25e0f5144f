//! A rule that nothing misses is no rule: each one left out must break the property that it is for, watched alone, in some
//! seed of the tests' plans; the case must survive being cut down, and pass again with all rules in place.

use netft_owners_teeth::of_ownership::Sabotage as Ownership;
use netft_owners_teeth::of_the_fence::Sabotage as Fence;
use netft_owners_teeth::of_the_shell::Shell;
use netft_owners_teeth::{
    AMNESIA, CHANGES, CRASHES, CUTS, DISRUPT, FORGOTTEN, FREEZES, MOVEOUT, MOVES, Plan, Property, RELAPSE,
    RELAY, RIFTS, SLEEPER, Simulator, of_ownership, of_the_fence, of_the_shell,
};

/// What is left out.
#[derive(Clone, Copy, Debug)]
enum Without {
    Fence(Fence),
    Ownership(Ownership),
    Shell(Shell),
}

fn leave_out(what: Option<Without>) {
    of_the_fence::sabotage(None);
    of_ownership::sabotage(None);
    of_the_shell::sabotage(None);
    match what {
        Some(Without::Fence(rule)) => of_the_fence::sabotage(Some(rule)),
        Some(Without::Ownership(rule)) => of_ownership::sabotage(Some(rule)),
        Some(Without::Shell(rule)) => of_the_shell::sabotage(Some(rule)),
        None => (),
    }
}

/// Seeds until it must have been missed.
fn seeds() -> u64 {
    std::env::var("NETFT_OWNERS_SEEDS")
        .map_or(3_000, |seeds| seeds.parse().expect("NETFT_OWNERS_SEEDS is a number"))
}

fn bites(what: Without, property: Property, plan: &Plan) {
    let simulator = Simulator { trace: false, only: Some(property) };
    for seed in 0..seeds() {
        let case = plan.draw(seed);
        leave_out(Some(what));
        if let Err(broken) = simulator.run(&case) {
            let (small, how) = simulator.shrink(&case, &broken);
            println!(
                "{what:?}: {}:{seed}: {broken}\n  cut down to {} faults: {how}",
                plan.name,
                small.faults.len()
            );
            assert_eq!(how.property, property);
            leave_out(None);
            if let Err(broken) = simulator.run(&small) {
                panic!("the case fails with all rules in place as well: {broken}");
            }
            return;
        }
    }
    leave_out(None);
    panic!("nobody misses {what:?}: {property:?} holds in {} seeds of {}", seeds(), plan.name);
}

/// One test for each rule that can be left out.
macro_rules! rules {
    ($($name:ident: $what:expr, $property:ident, $plan:ident;)*) => {
        $(#[test]
        fn $name() {
            bites($what, Property::$property, &$plan);
        })*
    };
}

rules! {
    rule_1_vouching_for_who_has_not_applied_its_loss: Without::Fence(Fence::VouchesForAnything), OneOwner, CUTS;
    rule_1_vouching_until_the_loss_is_committed: Without::Ownership(Ownership::VouchesUntilCommitted), OneOwner, RIFTS;
    rule_1_vouching_before_the_log_is_known: Without::Ownership(Ownership::VouchesFromTheStart), OneOwner, CRASHES;
    rule_2_leases_that_count_from_the_arrival: Without::Fence(Fence::CountsFromArrival), OneOwner, CUTS;
    rule_2_leases_that_count_from_the_arrival_when_cut_off: Without::Fence(Fence::CountsFromArrival), CutOff, CUTS;
    rule_3_leases_that_never_end: Without::Fence(Fence::LeasesNeverEnd), OneOwner, CUTS;
    rule_3_leases_that_never_end_when_cut_off: Without::Fence(Fence::LeasesNeverEnd), CutOff, CUTS;
    rule_3_one_voter: Without::Fence(Fence::OneIsEnough), OneOwner, CUTS;
    rule_3_a_node_that_always_counts_itself: Without::Fence(Fence::AlwaysVouchesForItself), OneOwner, RIFTS;
    rule_3_a_fence_that_trusts_frozen_engines: Without::Fence(Fence::TrustsFrozenEngines), Frozen, FREEZES;
    rule_4_a_clock_that_stops_in_suspend: Without::Shell(Shell::ClockStopsInSuspend), OneOwner, FREEZES;
    rule_4_no_margin_for_clocks: Without::Ownership(Ownership::NoMargin), OneOwner, CUTS;
    rule_5_a_shorter_lease_at_once: Without::Ownership(Ownership::ShorterLeaseAtOnce), OneOwner, CHANGES;
    rule_7_taking_at_once: Without::Ownership(Ownership::TakesAtOnce), OneOwner, CUTS;
    rule_7_releasing_before_it_is_done: Without::Ownership(Ownership::ReleasesEarly), OneOwner, MOVES;
    rule_7_one_report: Without::Ownership(Ownership::OneReport), OneOwner, CUTS;
    rule_7_reports_without_the_lease: Without::Ownership(Ownership::NoLease), OneOwner, CUTS;
    rule_8_readings_that_are_lost: Without::Ownership(Ownership::ForgetsReadings), OneOwner, RELAPSE;
    rule_9_only_the_last_owner: Without::Ownership(Ownership::OnlyTheLastOwner), OneOwner, RELAY;
    rule_11_heeding_every_vote: Without::Ownership(Ownership::HeedsEveryVote), Deposed, DISRUPT;
    rule_13_voters_that_change_at_will: Without::Ownership(Ownership::ChangesAtWill), OneOwner, MOVEOUT;
    rule_14_a_store_that_was_emptied: Without::Ownership(Ownership::TrustsEmptyStores), OneOwner, CRASHES;
    rule_14_an_emptied_store_that_acknowledges: Without::Shell(Shell::AppendsToAnotherStore), Committed, AMNESIA;
    rule_14_a_node_that_sleeps: Without::Ownership(Ownership::TrustsSleepers), Served, SLEEPER;
    rule_14_a_node_that_says_nothing: Without::Ownership(Ownership::TrustsSilence), Served, FORGOTTEN;
}
