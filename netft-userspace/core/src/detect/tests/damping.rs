//! Routes that go down too often.

use super::rig::*;
use crate::detect::{DampingConfig, DetectorCommand, DetectorConfig};
use crate::types::{LinkState, Nanos, RouteReason, RouteState};

/// Cuts route 0 for 20 ms out of every `period`, `times` times; at how many of the ends it was up again.
fn flap(rig: &mut Rig, period: Nanos, times: u32) -> u32 {
    let mut ups = 0;
    for _ in 0..times {
        rig.cut(0);
        rig.run(20 * MS);
        rig.heal(0);
        rig.run(period - 20 * MS);
        ups += u32::from(rig.state(0) == RouteState::Up);
    }
    ups
}

#[test]
fn a_route_cut_every_3_s_is_not_damped_however_long_that_goes_on() {
    let mut rig = Rig::with_routes(2);
    assert_eq!(flap(&mut rig, 3 * SECOND, 100), 100);
    assert!(rig.records.iter().all(|record| record.reason != RouteReason::Damped));
    assert!(rig.view(0).flaps_milli < 2_000 && rig.view(0).damped_left_ns == 0);
}

#[test]
fn a_route_that_flaps_is_held_down_until_it_has_been_whole_for_long_enough() {
    let mut rig = Rig::with_routes(2);
    assert_eq!(flap(&mut rig, 100 * MS, 30), 4, "up four times, then no more");
    let told: Vec<_> = rig.records.iter().filter(|record| record.reason == RouteReason::Damped).collect();
    assert_eq!(told.len(), 1, "once in its history");
    assert_eq!((told[0].old, told[0].new), (RouteState::Down, RouteState::Down));
    let view = rig.view(0);
    assert_eq!((view.state, view.reason), (RouteState::Down, RouteReason::Damped));
    assert!(view.flaps_milli > 10_000 && view.damped_left_ns > 4 * SECOND, "{view:?}");
    assert!(view.damped_left_ns <= CONFIG.damping.longest_ns);
    rig.forget();
    rig.run(view.damped_left_ns - 2 * MS);
    assert!(rig.records.is_empty(), "{:?}", rig.records);
    let up = rig.run_until_record(5 * MS);
    assert_eq!((up.new, up.reason), (RouteState::Up, RouteReason::HeartbeatsComplete));
    assert_eq!(rig.view(0).damped_left_ns, 0);
}

#[test]
fn while_it_is_held_down_a_gap_starts_the_wait_again() {
    let mut rig = Rig::with_routes(2);
    flap(&mut rig, 100 * MS, 8);
    let before = rig.view(0).damped_left_ns;
    rig.run(before / 2);
    rig.cut(0);
    rig.run(20 * MS);
    assert_eq!(rig.view(0).reason, RouteReason::HeartbeatsMissed);
    rig.heal(0);
    rig.run(20 * MS);
    assert_eq!(rig.view(0).reason, RouteReason::Damped);
    assert!(rig.view(0).damped_left_ns > before / 2);
}

#[test]
fn a_lost_carrier_counts_and_an_administrator_does_not() {
    for (link, damped) in [(LinkState::NoCarrier, true), (LinkState::AdminDown, false)] {
        let mut rig = Rig::with_routes(2);
        for _ in 0..8 {
            rig.set_link(0, link);
            rig.run(10 * MS);
            rig.set_link(0, LinkState::Up);
            rig.run(10 * MS);
        }
        assert_eq!(rig.view(0).reason == RouteReason::Damped, damped, "{link:?}");
        assert_eq!(rig.state(0) == RouteState::Up, !damped);
    }
}

#[test]
fn the_last_way_to_a_peer_is_never_held_back() {
    let mut rig = Rig::with_routes(1);
    assert_eq!(flap(&mut rig, 100 * MS, 30), 30);

    let mut rig = Rig::with_routes(2);
    flap(&mut rig, 100 * MS, 10);
    assert_eq!(rig.view(0).reason, RouteReason::Damped);
    rig.forget();
    rig.set_link(1, LinkState::NoCarrier);
    assert_eq!(rig.state(0), RouteState::Up, "at once");
    assert_eq!(rig.detector.active(node(2)), Some(slot(0)));

    let mut rig = Rig::with_routes(2);
    flap(&mut rig, 100 * MS, 10);
    rig.forget();
    rig.cut(1);
    let down = rig.run_until_record(20 * MS);
    assert_eq!((down.slot, down.new), (slot(1), RouteState::Down));
    assert_eq!((rig.records[1].slot, rig.records[1].new), (slot(0), RouteState::Up));
    assert_eq!(rig.records[1].at_ns, down.at_ns, "with the same wake");
}

#[test]
fn an_own_stall_is_no_flap_of_a_route_that_is_held_back() {
    let mut rig = Rig::with_routes(2);
    flap(&mut rig, 100 * MS, 8);
    let flaps = rig.view(0).flaps_milli;
    rig.stall(50 * MS);
    rig.run(10 * MS);
    assert!(rig.view(0).flaps_milli <= flaps);
    assert_eq!(rig.view(0).reason, RouteReason::Damped);
}

#[test]
fn damping_can_be_turned_off_and_that_takes_effect_at_once() {
    let mut rig = Rig::with_routes(2);
    flap(&mut rig, 100 * MS, 10);
    let damping = DampingConfig { flap_limit: 0, ..CONFIG.damping };
    rig.command(DetectorCommand::Configure(DetectorConfig { damping, ..CONFIG }));
    rig.run(2 * MS);
    assert_eq!(rig.state(0), RouteState::Up);
    assert_eq!(flap(&mut rig, 100 * MS, 20), 20);
}
