//! A property that nothing can break proves nothing: each way of breaking the detector must be noticed by the property
//! that it violates, watched alone, in some seed of the tests' plans; and the case must survive being cut down.

use netft_sim_teeth::{
    CALM, CUTS, FAR, FLAPS, MIXED, Plan, Property, STALLS, Sabotage, Simulator, TRAFFIC, sabotage, shrink,
};

/// Seeds until it must have been noticed.
const SEEDS: u64 = 200;

fn bites(how: Sabotage, property: Property, plan: &Plan) {
    let mut simulator = Simulator::new();
    simulator.watch_only(property);
    for seed in 0..SEEDS {
        let case = plan.draw(seed);
        sabotage(Some(how));
        if let Err(broken) = simulator.run(&case) {
            assert_eq!(broken.property, property);
            let shrunk = shrink(&mut simulator, &case, &broken);
            assert_eq!(shrunk.broken.property, property);
            assert!(shrunk.case.faults.len() <= case.faults.len());
            println!("{how:?}: seed {seed}: {broken}\n  cut down to {:?}", shrunk.case);
            sabotage(None);
            if let Err(broken) = simulator.run(&shrunk.case) {
                panic!("the case fails without sabotage as well: {broken}");
            }
            return;
        }
    }
    panic!("{how:?} goes unnoticed by {property:?} in {SEEDS} seeds of {}", plan.name);
}

#[test]
fn a_detector_that_never_accuses_is_noticed() {
    bites(Sabotage::NeverAccuses, Property::Found, &CUTS);
}

#[test]
fn a_detector_that_waits_twice_as_long_is_noticed() {
    bites(Sabotage::TwicePatient, Property::Found, &CUTS);
}

#[test]
fn a_detector_without_the_stall_gate_is_noticed() {
    bites(Sabotage::IgnoresOwnStalls, Property::Accused, &STALLS);
}

#[test]
fn a_detector_that_forgets_the_trip_is_noticed() {
    bites(Sabotage::ForgetsTrip, Property::Accused, &FAR);
}

#[test]
fn a_detector_that_judges_against_the_stamps_is_noticed() {
    bites(Sabotage::Impatient, Property::Accused, &CUTS);
}

#[test]
fn a_detector_that_sends_a_heartbeat_twice_is_noticed() {
    bites(Sabotage::RepeatsSequences, Property::Storm, &CALM);
}

#[test]
fn a_detector_that_catches_up_in_a_burst_is_noticed() {
    bites(Sabotage::CatchesUp, Property::Storm, &STALLS);
}

#[test]
fn an_answer_to_the_last_leg_is_noticed() {
    bites(Sabotage::AnswersLeg4, Property::Storm, &CALM);
}

#[test]
fn an_end_that_keeps_its_opinion_is_noticed() {
    bites(Sabotage::OneEndNeverAccuses, Property::Agree, &CUTS);
}

#[test]
fn an_end_that_never_returns_is_noticed() {
    bites(Sabotage::OneEndStaysDown, Property::Agree, &CUTS);
}

#[test]
fn a_selection_that_stays_on_a_dead_route_is_noticed() {
    bites(Sabotage::KeepsActive, Property::Active, &CUTS);
}

#[test]
fn a_detector_that_names_no_direction_is_noticed() {
    bites(Sabotage::NamesNothing, Property::Named, &CUTS);
}

#[test]
fn a_detector_that_tells_nobody_is_noticed() {
    bites(Sabotage::TellsNobody, Property::Named, &CUTS);
}

#[test]
fn a_detector_that_trusts_every_host_is_noticed() {
    bites(Sabotage::TrustsHosts, Property::Engine, &STALLS);
}

#[test]
fn damping_of_the_last_route_is_noticed() {
    bites(Sabotage::DampsLastRoute, Property::Damping, &FLAPS);
}

#[test]
fn a_route_that_claims_to_have_carried_all_is_noticed() {
    bites(Sabotage::CoversAll, Property::Lost, &TRAFFIC);
}

#[test]
fn a_lost_event_is_noticed() {
    bites(Sabotage::LosesEvents, Property::Whole, &MIXED);
}
