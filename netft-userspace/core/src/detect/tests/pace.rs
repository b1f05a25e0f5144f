//! When leg 1 leaves.

use super::rig::*;
use crate::detect::{DetectorCommand, RouteSetup};
use crate::types::{LinkState, RouteState, Timing};

#[test]
fn one_leg_1_leaves_per_delay_whether_the_route_is_up_or_down() {
    for cut in [false, true] {
        let mut rig = Rig::with_routes(1);
        if cut {
            rig.cut(0);
            rig.run(50 * MS);
            assert_eq!(rig.state(0), RouteState::Down);
        }
        rig.forget();
        rig.run(SECOND);
        assert_eq!(rig.requests.len(), 1000);
        assert!(rig.requests.windows(2).all(|pair| pair[1].0 - pair[0].0 == MS));
        assert!(rig.requests.windows(2).all(|pair| pair[1].1.sequence == pair[0].1.sequence + 1));
    }
}

#[test]
fn few_routes_leave_with_one_wake_and_many_are_spread() {
    for count in [1, 2, 4, 8] {
        let mut rig = Rig::with_routes(count);
        rig.run(100 * MS);
        assert_eq!(rig.requests.len(), 100 * count as usize);
        assert!(rig.wakes <= 100, "{} wakes for {count} routes", rig.wakes);
    }
    let mut rig = Rig::new(64);
    (0..64).for_each(|index| rig.command(DetectorCommand::SetRoute(setup(index, 2))));
    rig.run(20 * MS);
    rig.forget();
    rig.run(100 * MS);
    assert_eq!(rig.requests.len(), 6400);
    let largest = rig.requests.chunk_by(|a, b| a.0 == b.0).map(<[_]>::len).max().unwrap();
    assert!(largest <= 10, "{largest} leg 1s at once");
    assert!(rig.wakes <= 800, "{} wakes", rig.wakes);
    (8..64).for_each(|index| rig.command(DetectorCommand::RemoveRoute(slot(index))));
    rig.run(20 * MS);
    rig.forget();
    rig.run(100 * MS);
    assert!(rig.wakes <= 100, "{} wakes for the 8 that are left", rig.wakes);
}

#[test]
fn the_pace_of_a_route_stays_even_while_others_come_and_go() {
    let mut rig = Rig::new(64);
    rig.command(DetectorCommand::SetRoute(setup(0, 2)));
    rig.run(20 * MS);
    for round in 0..3 {
        (1..64).for_each(|index| {
            rig.command(DetectorCommand::SetRoute(setup(index, 2)));
            rig.run(100 * US * round);
        });
        (1..64).for_each(|index| {
            rig.command(DetectorCommand::RemoveRoute(slot(index)));
            rig.run(100 * US * round);
        });
    }
    let sent: Vec<_> = rig.requests.iter().filter(|(_, r)| r.slot == slot(0)).map(|(at, _)| *at).collect();
    assert!(
        sent.windows(2).all(|pair| (MS * 4 / 10..=MS * 16 / 10).contains(&(pair[1] - pair[0]))),
        "{sent:?}"
    );
}

#[test]
fn routes_of_different_paces_share_wakes_where_they_nearly_coincide() {
    let mut rig = Rig::new(2);
    let late = Timing { delay_ns: MS + MS / 32, ..TIMING };
    rig.command(DetectorCommand::SetRoute(setup(0, 2)));
    rig.command(DetectorCommand::SetRoute(RouteSetup { timing: late, ..setup(1, 2) }));
    rig.run(SECOND);
    let together = rig.requests.chunk_by(|a, b| a.0 == b.0).filter(|chunk| chunk.len() == 2).count();
    assert!(together >= 50, "{together} of 1000");
    let of_0: Vec<_> = rig.requests.iter().filter(|(_, r)| r.slot == slot(0)).map(|(at, _)| *at).collect();
    assert!(
        of_0.len() >= 1000 && of_0.windows(2).all(|pair| pair[1] - pair[0] >= MS - MS / 8),
        "{}",
        of_0.len()
    );
}

#[test]
fn missed_ones_are_skipped_and_never_come_in_a_burst() {
    let mut rig = Rig::with_routes(1);
    for stall in [600 * US, 3 * MS, 50 * MS, 730 * MS, 10 * SECOND] {
        rig.stall(stall);
        rig.run(20 * MS);
    }
    let gaps: Vec<_> = rig.requests.windows(2).map(|pair| pair[1].0 - pair[0].0).collect();
    assert!(gaps.iter().all(|gap| *gap >= MS / 2), "{gaps:?}");
}

#[test]
fn a_late_loop_keeps_the_pace() {
    let mut rig = Rig::with_routes(1);
    let end = rig.now + 100 * MS;
    while rig.now < end {
        rig.now = rig.detector.poll_timeout() + 150 * US;
        rig.wake();
    }
    assert!((99..=101).contains(&rig.requests.len()), "{}", rig.requests.len());
    assert_eq!(rig.detector.counters().stalls, 0);
}

#[test]
fn a_dead_link_sends_nothing() {
    let mut rig = Rig::with_routes(2);
    rig.set_link(0, LinkState::NoCarrier);
    rig.run(20 * MS);
    assert!(rig.requests.iter().all(|(_, request)| request.slot == slot(1)));
    rig.forget();
    rig.set_link(0, LinkState::Up);
    rig.run(20 * MS);
    assert!((19..=21).contains(&rig.requests.iter().filter(|(_, request)| request.slot == slot(0)).count()));
}

#[test]
fn the_range_of_delays_works() {
    for delay_ns in [50 * US, 200 * US, MS, 333 * MS, 10 * SECOND] {
        let timing = Timing { delay_ns, threshold: 5 };
        let mut rig = Rig::new(1);
        rig.wire.paths[0].rtt_ns = 2 * US;
        rig.command(DetectorCommand::SetRoute(RouteSetup { timing, ..setup(0, 2) }));
        rig.run(10 * delay_ns);
        assert_eq!(rig.state(0), RouteState::Up, "{delay_ns}");
        rig.forget();
        rig.cut(0);
        let cut_ns = rig.now;
        let record = rig.run_until_record(10 * delay_ns);
        assert!(record.at_ns - cut_ns <= timing.detection_ns() + 10 * US, "{delay_ns}");
        assert!(record.at_ns - cut_ns > timing.detection_ns() - delay_ns - 10 * US, "{delay_ns}");
    }
}
