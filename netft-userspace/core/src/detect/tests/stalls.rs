//! The own-stall gate: nobody is accused because we were away, and a dead route is found all the same.

use super::rig::*;
use crate::detect::{DetectorCommand, DetectorEvent, RouteSetup};
use crate::types::{Nanos, RouteState, Timing};

#[test]
fn nobody_is_accused_because_we_were_away() {
    for stall in [2 * MS, 6 * MS, 50 * MS, 5 * SECOND] {
        let mut rig = Rig::with_routes(2);
        for _ in 0..20 {
            rig.stall(stall);
            rig.run(7 * MS);
        }
        assert!(rig.records.is_empty(), "{stall}: {:?}", rig.records);
        assert_eq!(rig.detector.counters().stalls, 20);
    }
}

#[test]
fn a_stalled_loop_sends_at_once_and_the_answer_counts_although_we_are_away_again() {
    let mut rig = Rig::with_routes(1);
    for _ in 0..100 {
        rig.forget();
        rig.stall(50 * MS);
        assert_eq!(rig.requests.len(), 1, "a fresh leg 1");
        assert!(rig.records.is_empty());
    }
    assert_eq!(rig.detector.counters().postponed_verdicts, 100);
}

#[test]
fn a_lost_leg_1_after_a_stall_is_no_verdict_yet() {
    let mut rig = Rig::with_routes(1);
    rig.stall(50 * MS);
    rig.drop_under_way();
    rig.cut(0);
    rig.run(2 * MS + 500 * US);
    rig.heal(0);
    rig.run(10 * MS);
    assert!(rig.records.is_empty(), "{:?}", rig.records);
}

#[test]
fn a_cut_during_a_stall_is_found_within_detection_time_of_its_end() {
    for stall in [1_000, 3_000, 4_700, 6_000, 50_000, 2_000_000] {
        for offset in 0..10 {
            let mut rig = Rig::with_routes(1);
            rig.run(offset * 100 * US);
            rig.cut(0);
            rig.stall(stall * US);
            let back_ns = rig.now;
            let record = rig.run_until_record(50 * MS);
            let bound = TIMING.detection_ns() + 2 * 20 * US + MS;
            assert!(record.at_ns <= back_ns + bound, "{stall} {offset}: {}", record.at_ns - back_ns);
            assert_eq!(record.new, RouteState::Down);
        }
    }
}

#[test]
fn a_verdict_is_postponed_at_most_twice() {
    let mut rig = Rig::with_routes(1);
    rig.cut(0);
    let mut stalls = 0;
    while rig.records.is_empty() {
        rig.stall(50 * MS);
        stalls += 1;
        assert!(stalls <= 3, "no verdict after {stalls} stalls");
    }
    assert_eq!((stalls, rig.detector.counters().postponed_verdicts), (3, 2));
}

#[test]
fn endless_small_stalls_do_not_hide_a_dead_route() {
    for late in [350 * US, 501 * US, 900 * US, 2 * MS, 4 * MS, 20 * MS] {
        let mut rig = Rig::with_routes(1);
        rig.cut(0);
        let cut_ns = rig.now;
        while rig.records.is_empty() {
            rig.now = rig.detector.poll_timeout() + late;
            rig.wake();
            assert!(rig.now < cut_ns + 2 * TIMING.detection_ns() + 3 * (late + 6 * MS), "{late}");
        }
    }
}

#[test]
fn evidence_that_came_in_while_we_were_away_needs_no_excuse() {
    let mut rig = Rig::with_routes(1);
    rig.wire.paths[0].initiates = true;
    rig.run(2 * MS);
    rig.stall(50 * MS);
    assert_eq!((rig.detector.counters().stalls, rig.detector.counters().postponed_verdicts), (1, 0));
    rig.cut(0);
    let cut_ns = rig.now;
    assert!(rig.run_until_record(20 * MS).at_ns <= cut_ns + TIMING.detection_ns() + 40 * US);
}

#[test]
fn a_slow_route_is_not_concerned_by_a_short_stall() {
    let mut rig = Rig::with_routes(1);
    let slow = Timing { delay_ns: 100 * MS, threshold: 2 };
    rig.command(DetectorCommand::SetRoute(RouteSetup { timing: slow, ..setup(0, 2) }));
    rig.run(SECOND);
    rig.now = rig.detector.poll_timeout() + 40 * MS;
    rig.wake();
    assert_eq!(rig.detector.counters().stalls, 0);
}

#[test]
fn a_detection_time_shorter_than_the_stall_floor_is_protected_as_well() {
    let timing = Timing { delay_ns: 50 * US, threshold: 5 };
    let mut rig = Rig::new(1);
    rig.wire.paths[0].rtt_ns = 2 * US;
    rig.command(DetectorCommand::SetRoute(RouteSetup { timing, ..setup(0, 2) }));
    rig.run(10 * MS);
    rig.forget();
    for late in (100..400).step_by(10) {
        rig.now = rig.detector.poll_timeout() + late * US;
        rig.wake();
        rig.run(500 * US);
    }
    assert!(rig.records.is_empty(), "{:?}", rig.records);
}

#[test]
fn stalls_are_counted_exactly_and_reported_at_most_ten_times_a_second() {
    let mut rig = Rig::with_routes(1);
    let begin = rig.now;
    let mut worst = 0;
    for round in 0..400u64 {
        let late = 2 * MS + (round % 7) * MS;
        worst = worst.max(late);
        rig.now = rig.detector.poll_timeout() + late;
        rig.wake();
    }
    rig.run(200 * MS);
    let reported: Vec<Nanos> = rig
        .events
        .iter()
        .filter_map(|event| match event {
            DetectorEvent::Stall { gap_ns, .. } => Some(*gap_ns),
            _ => None,
        })
        .collect();
    assert_eq!(rig.detector.counters().stalls, 400);
    assert_eq!(rig.detector.counters().worst_stall_ns, worst);
    assert_eq!(reported.iter().copied().max(), Some(worst));
    assert!(reported.len() as u64 <= (rig.now - begin) / (100 * MS) + 1, "{}", reported.len());
}

#[test]
fn a_command_that_comes_first_after_a_stall_does_not_hide_it() {
    let mut rig = Rig::with_routes(2);
    rig.now += 50 * MS;
    rig.detector.handle_command(rig.now, DetectorCommand::RemoveRoute(slot(0)));
    rig.forget();
    rig.wake();
    assert_eq!(rig.detector.counters().stalls, 1);
    rig.run(20 * MS);
    assert!(rig.records.iter().all(|record| record.slot == slot(0)), "{:?}", rig.records);
}

#[test]
fn a_peer_that_went_silent_while_we_were_away_is_not_accused() {
    let mut rig = Rig::with_routes(1);
    rig.wire.paths[0].initiates = true;
    rig.run(2 * MS);
    // Away for 100 ms; the peer's engine kept the evidence fresh for the first half, then it was away as well.
    rig.now += 50 * MS;
    rig.wire.advance(rig.now);
    rig.wire.paths[0].initiates = false;
    rig.stall(50 * MS);
    rig.run(20 * MS);
    assert!(rig.records.is_empty(), "{:?}", rig.records);
    assert_eq!(rig.detector.counters().postponed_verdicts, 1);
}

#[test]
fn leg_1s_that_left_late_are_a_stall_of_ours_and_missed_by_nobody() {
    for threshold in [2, 3, 5] {
        let timing = Timing { threshold, ..TIMING };
        let mut rig = Rig::with_routes(1);
        rig.command(DetectorCommand::SetRoute(RouteSetup { timing, ..setup(0, 2) }));
        rig.run(20 * MS);
        rig.forget();
        for round in 0..200 {
            // The verdict in time, the leg late: something came between.
            rig.now = rig.detector.poll_timeout();
            rig.wire.advance(rig.now);
            rig.detector.handle_timeout(rig.now, &rig.wire);
            rig.now += 600 * US + round * 10 * US;
            rig.drain();
            rig.now = rig.detector.poll_timeout().max(rig.now + 10 * US);
            rig.wake();
            rig.run(5 * MS);
        }
        assert!(rig.records.is_empty(), "{threshold}: {:?}", rig.records);
        assert_eq!(rig.detector.counters().stalls, 200);
    }
}

#[test]
fn nobody_is_accused_while_a_cpu_of_ours_stands_still() {
    for standstill in [2 * MS, 6 * MS, 20 * MS, 200 * MS] {
        let mut rig = Rig::with_routes(2);
        for _ in 0..20 {
            rig.wire.standstill_ns = Some(rig.now);
            rig.run(standstill);
            rig.wire.standstill_ns = None;
            rig.run(10 * MS);
        }
        assert!(rig.records.is_empty(), "{standstill}: {:?}", rig.records);
        let counters = rig.detector.counters();
        assert_eq!((counters.stalls, counters.receive_stalls), (0, 20));
        assert_eq!(counters.postponed_verdicts > 0, standstill > TIMING.detection_ns());
    }
}

#[test]
fn a_cut_while_a_cpu_of_ours_stands_still_is_found_after_it() {
    for standstill in [MS, 4 * MS, 8 * MS, 100 * MS] {
        let mut rig = Rig::with_routes(1);
        rig.cut(0);
        rig.wire.standstill_ns = Some(rig.now);
        rig.run(standstill);
        rig.wire.standstill_ns = None;
        let end_ns = rig.now;
        assert!(rig.records.is_empty());
        let record = rig.run_until_record(50 * MS);
        assert_eq!(record.new, RouteState::Down);
        let bound = end_ns + TIMING.detection_ns() + 2 * MS;
        assert!(record.at_ns <= bound, "{standstill}: {} too late", record.at_ns - bound);
    }
}

#[test]
fn a_cpu_that_is_gone_hides_no_dead_route() {
    let mut rig = Rig::with_routes(1);
    rig.cut(0);
    rig.wire.standstill_ns = Some(rig.now);
    let record = rig.run_until_record(400 * MS);
    assert_eq!(record.new, RouteState::Down);
}

#[test]
fn a_held_verdict_keeps_no_leg_1_waiting() {
    let mut rig = Rig::with_routes(1);
    rig.drop_under_way();
    rig.wire.standstill_ns = Some(rig.now);
    rig.run(40 * MS);
    assert!(rig.detector.counters().postponed_verdicts > 50, "{:?}", rig.detector.counters());
    assert_eq!(rig.requests.len(), 40, "one per delay");
    let late = |pair: &[(Nanos, _)]| pair[1].0 - pair[0].0 > MS;
    assert!(!rig.requests.windows(2).any(late), "{:?}", rig.requests);
}

#[test]
fn a_leg_1_leaves_as_soon_as_a_cpu_of_ours_runs_again() {
    let timing = Timing { delay_ns: 20 * MS, threshold: 2 };
    for offset in 0..20 {
        let mut rig = Rig::new(1);
        rig.command(DetectorCommand::SetRoute(RouteSetup { timing, ..setup(0, 2) }));
        rig.run(200 * MS + offset * MS);
        assert_eq!(rig.state(0), RouteState::Up);
        rig.wire.standstill_ns = Some(rig.now);
        rig.run(95 * MS);
        rig.drop_under_way();
        rig.wire.standstill_ns = None;
        let end_ns = rig.now;
        rig.forget();
        rig.run(30 * MS);
        let first_ns = rig.requests[0].0;
        assert!(
            first_ns <= end_ns + 6 * MS,
            "{offset}: a quarter of a delay after the last: {}",
            first_ns - end_ns
        );
        assert!(rig.records.is_empty(), "{offset}: {:?}", rig.records);
    }
}
