//! When a route is down, when it is up, and why.

use super::rig::*;
use crate::detect::{Adopted, DampingConfig, DetectorCommand, DetectorConfig, RouteSetup, StoreCommand};
use crate::types::{LinkState, NodeState, RouteReason, RouteState, Timing};
use netft_common::map::{Standing, down_reason};
use netft_common::wire::flags;

#[test]
fn a_silent_cut_is_found_at_detection_time_plus_trip_after_the_newest_completed_heartbeat() {
    let mut rig = Rig::with_routes(1);
    rig.run(300 * US);
    rig.cut(0);
    let newest_sent_ns = rig.wire.paths[0].seen.completed_sent_ns;
    let record = rig.run_until_record(20 * MS);
    assert_eq!((record.old, record.new), (RouteState::Up, RouteState::Down));
    assert_eq!(record.reason, RouteReason::HeartbeatsMissed);
    assert_eq!(record.at_ns, newest_sent_ns + TIMING.detection_ns() + 2 * 20 * US + 1);
    assert_eq!((record.misses, record.threshold), (5, 5));
    assert_eq!(record.evidence_age_ns, record.at_ns - newest_sent_ns);
    let standing = Standing::Down { covered_ns: newest_sent_ns };
    assert!(rig.stores.contains(&StoreCommand::RouteFlags(slot(0), standing.to_word())));
    // What completes afterwards proves nothing about what was lost before.
    rig.forget();
    rig.heal(0);
    rig.run(2 * MS);
    assert!(rig.stores.is_empty(), "{:?}", rig.stores);
}

#[test]
fn one_lost_heartbeat_less_than_the_threshold_changes_nothing() {
    let mut rig = Rig::with_routes(1);
    for _ in 0..50 {
        rig.cut(0);
        rig.run(4 * MS - 200 * US);
        rig.heal(0);
        rig.run(2 * MS);
    }
    assert!(rig.records.is_empty(), "{:?}", rig.records);
    assert_eq!(rig.view(0).misses, 0);
}

#[test]
fn a_route_comes_up_after_a_run_of_complete_heartbeats() {
    let mut rig = Rig::new(1);
    rig.command(DetectorCommand::SetRoute(setup(0, 2)));
    assert_eq!((rig.state(0), rig.view(0).reason), (RouteState::Down, RouteReason::Starting));
    let record = rig.run_until_record(20 * MS);
    assert_eq!((record.new, record.reason), (RouteState::Up, RouteReason::HeartbeatsComplete));
    assert_eq!(record.completed, 3);
    let standing = Standing::Up { since_ns: record.at_ns };
    assert!(rig.stores.contains(&StoreCommand::RouteFlags(slot(0), standing.to_word())));
}

#[test]
fn a_run_that_is_interrupted_for_the_detection_time_starts_again() {
    let mut rig = Rig::new(1);
    rig.command(DetectorCommand::SetRoute(setup(0, 2)));
    for _ in 0..10 {
        rig.heal(0);
        rig.run(2 * MS);
        rig.cut(0);
        rig.drop_under_way();
        rig.run(7 * MS);
    }
    assert!(rig.records.is_empty(), "{:?}", rig.records);
}

#[test]
fn a_route_that_went_down_needs_heartbeats_sent_after_that() {
    let mut rig = Rig::with_routes(1);
    rig.cut(0);
    let down = rig.run_until_record(20 * MS);
    rig.records.clear();
    rig.heal(0);
    let up = rig.run_until_record(20 * MS);
    assert_eq!(up.new, RouteState::Up);
    assert!(up.at_ns >= down.at_ns + 2 * MS, "three heartbeats take two delays");
    assert!(up.at_ns <= down.at_ns + 4 * MS + 100 * US);
}

#[test]
fn evidence_of_the_peers_heartbeats_alone_keeps_a_route_up() {
    let mut rig = Rig::with_routes(1);
    rig.wire.paths[0].initiates = true;
    rig.run(3 * MS);
    // Only confirmations from here on: nothing of ours completes.
    let frozen = rig.wire.paths[0].seen.completed_sent_ns;
    for _ in 0..50 {
        rig.run(MS);
        rig.wire.paths[0].seen.completed_sent_ns = frozen;
        rig.drop_under_way();
    }
    assert!(rig.records.is_empty(), "{:?}", rig.records);
}

#[test]
fn a_round_trip_may_be_longer_than_the_detection_time() {
    let mut rig = Rig::new(1);
    rig.wire.paths[0].rtt_ns = 40 * MS;
    rig.command(DetectorCommand::SetRoute(setup(0, 2)));
    rig.run(2 * SECOND);
    assert_eq!(rig.records.len(), 1, "up, then quiet: {:?}", rig.records);
    assert_eq!(rig.view(0).srtt_ns, 40 * MS);
    rig.forget();
    rig.cut(0);
    let cut_ns = rig.now;
    let record = rig.run_until_record(SECOND);
    assert!(record.at_ns <= cut_ns + TIMING.detection_ns() + 2 * 40 * MS, "{}", record.at_ns - cut_ns);
}

#[test]
fn the_direction_that_failed_has_a_name() {
    for threshold in [2, 3, 5, 20] {
        let timing = Timing { threshold, ..TIMING };
        for (there, back, reason) in [
            (true, true, None),
            (false, true, Some(RouteReason::RxOnly)),
            (false, false, Some(RouteReason::HeartbeatsMissed)),
        ] {
            for offset in 0..10 {
                let mut rig = Rig::with_routes(1);
                rig.wire.paths[0].initiates = true;
                rig.command(DetectorCommand::SetRoute(RouteSetup { timing, ..setup(0, 2) }));
                rig.run(10 * MS + offset * 100 * US);
                (rig.wire.paths[0].there, rig.wire.paths[0].back) = (there, back);
                rig.run(50 * MS);
                assert_eq!(rig.records.len(), usize::from(reason.is_some()));
                assert!(reason.is_none_or(|reason| rig.view(0).reason == reason), "{threshold} {offset}");
                if threshold > 2 {
                    // With less patience there isn't enough to tell by yet when the verdict falls.
                    assert_eq!(
                        rig.records.first().map(|record| record.reason),
                        reason,
                        "{threshold} {offset}"
                    );
                }
            }
        }
    }
}

#[test]
fn what_is_lost_on_the_way_back_is_named_when_the_peer_tells() {
    let mut rig = Rig::with_routes(2);
    rig.wire.paths[0].back = false;
    rig.run(6 * MS);
    assert_eq!(rig.view(0).reason, RouteReason::HeartbeatsMissed);
    rig.wire.paths[0].seen.told_down = (rig.now & !0xf) | u64::from(down_reason::RX_ONLY);
    rig.run(MS);
    assert_eq!((rig.view(0).state, rig.view(0).reason), (RouteState::Down, RouteReason::TxOnly));
}

#[test]
fn a_route_that_only_hears_tells_the_peer_over_another_one() {
    let mut rig = Rig::with_routes(2);
    rig.wire.paths[0].initiates = true;
    rig.wire.paths[0].there = false;
    rig.run(10 * MS);
    assert_eq!(rig.view(0).reason, RouteReason::RxOnly);
    let notice = Some((slot(0), down_reason::RX_ONLY));
    assert!(rig.requests.iter().any(|(_, request)| request.slot == slot(1) && request.notice == notice));
    assert!(rig.requests.iter().all(|(_, request)| request.slot == slot(1) || request.notice.is_none()));
}

#[test]
fn a_path_that_never_worked_in_our_direction_says_so() {
    let mut rig = Rig::new(1);
    rig.wire.paths[0].initiates = true;
    rig.wire.paths[0].there = false;
    rig.command(DetectorCommand::SetRoute(setup(0, 2)));
    rig.run(20 * MS);
    assert_eq!(rig.view(0).reason, RouteReason::RxOnly);
    assert!(rig.records.is_empty(), "still down: no change of state");
}

#[test]
fn a_peer_that_said_goodbye_is_no_failure() {
    let mut rig = Rig::with_routes(1);
    rig.wire.paths[0].seen.peer_flags = u64::from(flags::LEAVING);
    rig.run(5 * MS);
    assert_eq!(rig.peer_state(), NodeState::Leaving);
    rig.cut(0);
    assert_eq!(rig.run_until_record(20 * MS).reason, RouteReason::PeerLeft);
    assert_eq!(rig.peer_state(), NodeState::Down);
}

#[test]
fn an_adopted_route_starts_up_and_is_judged_from_then_on() {
    let mut rig = Rig::new(1);
    rig.wire.paths[0].seen.completed_sent_ns = START - 30 * SECOND;
    rig.command(DetectorCommand::SetRoute(RouteSetup {
        adopted: Adopted::Up,
        first_sequence: 5_000,
        ..setup(0, 2)
    }));
    assert_eq!((rig.records[0].new, rig.records[0].reason), (RouteState::Up, RouteReason::Adopted));
    rig.run(20 * MS);
    assert_eq!((rig.records.len(), rig.state(0)), (1, RouteState::Up));
    assert_eq!(rig.requests[0].1.sequence, 5_000);

    let mut rig = Rig::new(1);
    rig.cut(0);
    rig.command(DetectorCommand::SetRoute(RouteSetup { adopted: Adopted::Up, ..setup(0, 2) }));
    rig.records.clear();
    let record = rig.run_until_record(20 * MS);
    assert_eq!((record.new, record.at_ns), (RouteState::Down, START + TIMING.detection_ns() + 1));
}

#[test]
fn new_timing_keeps_the_state_and_judges_from_now() {
    let mut rig = Rig::new(1);
    let slow = Timing { delay_ns: 500 * MS, threshold: 10 };
    rig.command(DetectorCommand::SetRoute(RouteSetup { timing: slow, ..setup(0, 2) }));
    rig.run(3 * SECOND + 400 * MS);
    assert_eq!(rig.state(0), RouteState::Up);
    rig.forget();
    rig.command(DetectorCommand::SetRoute(setup(0, 2)));
    rig.run(100 * MS);
    assert!(rig.records.is_empty(), "{:?}", rig.records);
    assert!((99..=102).contains(&rig.requests.len()), "{}", rig.requests.len());
    rig.cut(0);
    let cut_ns = rig.now;
    let record = rig.run_until_record(20 * MS);
    assert!(record.at_ns - cut_ns <= TIMING.detection_ns() + 100 * US);
}

#[test]
fn a_removed_route_is_gone() {
    let mut rig = Rig::with_routes(3);
    rig.command(DetectorCommand::RemoveRoute(slot(1)));
    assert_eq!(rig.records[0].reason, RouteReason::Removed);
    rig.command(DetectorCommand::RemoveRoute(slot(1)));
    assert_eq!(rig.records.len(), 1);
    rig.run(10 * MS);
    assert!(rig.requests.iter().all(|(_, request)| request.slot != slot(1)));
    assert_eq!(rig.detector.views().count(), 2);
    for index in [0, 2] {
        rig.command(DetectorCommand::RemoveRoute(slot(index)));
    }
    assert_eq!(rig.detector.poll_timeout(), u64::MAX);
    assert_eq!(rig.peer_state(), NodeState::Down);
}

#[test]
fn a_slot_that_gets_another_peer_is_another_route() {
    let mut rig = Rig::with_routes(1);
    rig.command(DetectorCommand::SetRoute(setup(0, 3)));
    assert_eq!(rig.records[0].reason, RouteReason::Removed);
    assert_eq!((rig.view(0).peer, rig.state(0)), (node(3), RouteState::Down));
    assert_eq!(rig.detector.active(node(2)), None);
}

#[test]
fn events_that_nobody_takes_merge_and_the_last_state_is_never_lost() {
    let mut rig = Rig::with_routes(2);
    let damping = DampingConfig { flap_limit: 0, ..CONFIG.damping };
    rig.command(DetectorCommand::Configure(DetectorConfig { damping, ..CONFIG }));
    for round in 0..5_000 {
        let link = if round % 2 == 0 { LinkState::NoCarrier } else { LinkState::Up };
        rig.detector.handle_command(rig.now, DetectorCommand::SetLink(interface(0), link));
        for _ in 0..8 {
            rig.now += MS;
            rig.wire.advance(rig.now);
            rig.detector.handle_timeout(rig.now, &rig.wire);
            while let Some(request) = rig.detector.poll_transmit(rig.now) {
                rig.wire.carry(rig.now, request);
            }
        }
    }
    assert!(rig.detector.counters().merged_events > 0);
    rig.drain();
    let last = rig.records.iter().rfind(|record| record.slot == slot(0)).unwrap();
    assert_eq!(last.new, rig.state(0));
    assert!(rig.records.windows(2).all(|pair| pair[0].slot != pair[1].slot || pair[0].new == pair[1].old));
    rig.forget();
    rig.set_link(1, LinkState::NoCarrier);
    assert_eq!(rig.records.len(), 1, "and in order again");
}
