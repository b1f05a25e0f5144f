//! Which route is active.

use super::rig::*;
use crate::detect::{Adopted, DetectorCommand, DetectorEvent, RouteSetup, StoreCommand};
use crate::types::{LinkState, Nanos, Slot};
use netft_common::map::ActiveRoute;

fn words(rig: &Rig) -> Vec<ActiveRoute> {
    let word = |store: &StoreCommand| match store {
        StoreCommand::Active(_, word) => Some(ActiveRoute::from_word(*word)),
        _ => None,
    };
    rig.stores.iter().filter_map(word).collect()
}

fn moves(rig: &Rig) -> Vec<(Nanos, Option<Slot>, Option<Slot>)> {
    let moved = |event: &DetectorEvent| match event {
        DetectorEvent::Active { at_ns, old, new, .. } => Some((*at_ns, *old, *new)),
        _ => None,
    };
    rig.events.iter().filter_map(moved).collect()
}

#[test]
fn traffic_moves_at_once_and_fails_back_after_the_hold() {
    let mut rig = Rig::with_routes(2);
    rig.run(2 * SECOND);
    assert_eq!(rig.detector.active(node(2)), Some(slot(0)));
    rig.forget();
    rig.cut(0);
    let down = rig.run_until_record(20 * MS);
    assert_eq!(moves(&rig), [(down.at_ns, Some(slot(0)), Some(slot(1)))]);
    assert_eq!((words(&rig)[0].slot, words(&rig)[0].backup), (1, ActiveRoute::NONE));
    rig.forget();
    rig.heal(0);
    let up = rig.run_until_record(20 * MS);
    assert_eq!(
        (words(&rig)[0].slot, words(&rig)[0].backup),
        (1, 0),
        "the better one is the backup meanwhile"
    );
    rig.run(3 * SECOND);
    assert_eq!(moves(&rig), [(up.at_ns + SECOND, Some(slot(1)), Some(slot(0)))]);
    let generations: Vec<_> = words(&rig).iter().map(|word| word.generation).collect();
    assert!(generations.windows(2).all(|pair| pair[0] < pair[1]) && generations[0] > 0);
}

#[test]
fn a_better_route_that_flaps_within_the_hold_moves_nothing() {
    let mut rig = Rig::with_routes(2);
    rig.run(2 * SECOND);
    rig.cut(0);
    rig.run(20 * MS);
    rig.forget();
    for _ in 0..5 {
        rig.heal(0);
        rig.run(500 * MS);
        rig.cut(0);
        rig.run(20 * MS);
    }
    assert_eq!(moves(&rig), []);
}

#[test]
fn the_backup_is_on_another_interface() {
    let mut rig = Rig::new(3);
    rig.command(DetectorCommand::SetRoute(setup(0, 2)));
    rig.command(DetectorCommand::SetRoute(RouteSetup { interface: interface(0), ..setup(1, 2) }));
    rig.command(DetectorCommand::SetRoute(setup(2, 2)));
    rig.run(2 * SECOND);
    let last = *words(&rig).last().unwrap();
    assert_eq!((last.slot, last.backup), (0, 2));
}

#[test]
fn no_route_up_is_no_route_active() {
    let mut rig = Rig::with_routes(2);
    rig.set_link(0, LinkState::NoCarrier);
    rig.set_link(1, LinkState::NoCarrier);
    let last = *words(&rig).last().unwrap();
    assert_eq!((last.slot, last.backup), (ActiveRoute::NONE, ActiveRoute::NONE));
    assert_eq!(moves(&rig).last().unwrap().2, None);
}

#[test]
fn a_new_metric_moves_traffic_and_keeps_the_routes() {
    let mut rig = Rig::with_routes(2);
    rig.run(2 * SECOND);
    rig.forget();
    rig.command(DetectorCommand::SetRoute(RouteSetup { metric: 1, ..setup(1, 2) }));
    assert_eq!(moves(&rig), [(rig.now, Some(slot(0)), Some(slot(1)))]);
    assert!(rig.records.is_empty());
}

#[test]
fn equal_metrics_do_not_move_traffic() {
    let mut rig = Rig::with_routes(2);
    rig.run(2 * SECOND);
    rig.cut(0);
    rig.run(20 * MS);
    rig.command(DetectorCommand::SetRoute(RouteSetup { metric: setup(1, 2).metric, ..setup(0, 2) }));
    rig.forget();
    rig.heal(0);
    rig.run(3 * SECOND);
    assert_eq!(moves(&rig), []);
}

#[test]
fn adopted_routes_take_the_best_at_once_in_whatever_order_they_come() {
    let mut rig = Rig::new(2);
    for index in [1, 0] {
        rig.command(DetectorCommand::SetRoute(RouteSetup { adopted: Adopted::Up, ..setup(index, 2) }));
    }
    assert_eq!(rig.detector.active(node(2)), Some(slot(0)));
}

#[test]
fn the_first_word_is_stored_even_if_it_says_none() {
    let mut rig = Rig::new(1);
    rig.command(DetectorCommand::SetRoute(setup(0, 2)));
    assert_eq!(words(&rig).len(), 1);
    assert_eq!(words(&rig)[0].slot, ActiveRoute::NONE);
}

#[test]
fn a_shorter_hold_takes_effect_at_once() {
    let mut rig = Rig::with_routes(2);
    rig.run(2 * SECOND);
    rig.cut(0);
    rig.run(20 * MS);
    rig.heal(0);
    rig.run(20 * MS);
    rig.forget();
    rig.command(DetectorCommand::Configure(crate::detect::DetectorConfig { fail_back_hold_ns: 0, ..CONFIG }));
    assert_eq!(moves(&rig).len(), 1);
}
