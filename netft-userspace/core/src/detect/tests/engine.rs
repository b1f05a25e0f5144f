//! The peer's engine: does it tick?

use super::rig::*;
use crate::detect::{DetectorCommand, DetectorEvent, RouteSetup};
use crate::types::{Nanos, NodeState, Timing};

fn changes(rig: &Rig) -> Vec<(Nanos, NodeState)> {
    let change = |event: &DetectorEvent| match event {
        DetectorEvent::Peer { at_ns, new, .. } => Some((*at_ns, *new)),
        _ => None,
    };
    rig.events.iter().filter_map(change).collect()
}

#[test]
fn a_frozen_engine_is_reported_within_its_timeout_and_its_routes_stay_up() {
    for delay_ns in [200 * US, MS, 100 * MS] {
        let mut rig = Rig::new(1);
        let timing = Timing { delay_ns, threshold: 5 };
        rig.command(DetectorCommand::SetRoute(RouteSetup { timing, ..setup(0, 2) }));
        rig.run(SECOND);
        rig.forget();
        let frozen_ns = rig.now;
        rig.wire.paths[0].ticked_ns = Some(frozen_ns);
        rig.run(2 * SECOND);
        let [(stalled_ns, NodeState::EngineStalled)] = changes(&rig)[..] else {
            panic!("{:?}", changes(&rig))
        };
        let took_ns = stalled_ns - frozen_ns;
        assert!(took_ns > CONFIG.engine_timeout_ns, "{took_ns}");
        assert!(took_ns <= CONFIG.engine_timeout_ns + (2 * delay_ns).min(MS), "{took_ns}");
        assert!(rig.records.is_empty());
        rig.forget();
        let thawed_ns = rig.now;
        rig.wire.paths[0].ticked_ns = None;
        rig.run(SECOND);
        let [(up_ns, NodeState::Up)] = changes(&rig)[..] else { panic!("{:?}", changes(&rig)) };
        assert!(up_ns - thawed_ns <= 2 * delay_ns + 100 * US);
    }
}

#[test]
fn our_own_silence_says_nothing_about_the_peers_engine() {
    let mut rig = Rig::with_routes(2);
    for _ in 0..10 {
        rig.stall(3 * SECOND);
        rig.run(20 * MS);
    }
    assert_eq!(changes(&rig), []);
}

#[test]
fn a_cut_peer_is_down_not_stalled() {
    let mut rig = Rig::with_routes(1);
    rig.cut(0);
    rig.run(2 * SECOND);
    assert_eq!(changes(&rig).iter().map(|change| change.1).collect::<Vec<_>>(), [NodeState::Down]);
    rig.heal(0);
    rig.run(20 * MS);
    assert_eq!(rig.peer_state(), NodeState::Up);
}

#[test]
fn an_engine_that_never_ticked_is_stalled() {
    let mut rig = Rig::new(1);
    rig.wire.paths[0].ticked_ns = Some(0);
    rig.command(DetectorCommand::SetRoute(setup(0, 2)));
    rig.run(SECOND);
    assert_eq!(rig.peer_state(), NodeState::EngineStalled);
}

#[test]
fn a_long_round_trip_is_not_taken_for_a_stalled_engine() {
    let mut rig = Rig::new(1);
    rig.wire.paths[0].rtt_ns = 400 * MS;
    rig.command(DetectorCommand::SetRoute(setup(0, 2)));
    rig.run(5 * SECOND);
    assert_eq!(rig.peer_state(), NodeState::Up);
    assert_eq!(changes(&rig).len(), 1, "{:?}", changes(&rig));
}
