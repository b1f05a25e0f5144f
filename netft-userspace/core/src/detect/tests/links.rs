//! Carrier and administrative state, here and at the far end.

use super::rig::*;
use crate::detect::{DetectorCommand, DetectorEvent, RouteSetup, StoreCommand};
use crate::types::{LinkState, RouteReason, RouteState};
use netft_common::map::{ActiveRoute, Standing, down_reason};

#[test]
fn a_dead_nic_moves_its_peers_with_one_store_and_only_then_its_routes_and_their_words() {
    let mut rig = Rig::new(6);
    for peer in 2..5 {
        for network in 0..2 {
            let index = u32::from(peer - 2) * 2 + network;
            let interface = interface(u8::try_from(network).unwrap());
            rig.command(DetectorCommand::SetRoute(RouteSetup { interface, ..setup(index, peer) }));
        }
    }
    rig.run(10 * MS);
    rig.forget();
    rig.set_link(0, LinkState::NoCarrier);
    assert_eq!(rig.stores[0], StoreCommand::DeadInterfaces(1));
    let is_down = |store: &StoreCommand| matches!(store, StoreCommand::RouteFlags(_, word) if !Standing::from_word(*word).is_up());
    assert_eq!(rig.stores[1..4].iter().filter(|store| is_down(store)).count(), 3);
    assert_eq!(rig.stores.len(), 7);
    for (position, peer) in (2..5).enumerate() {
        let StoreCommand::Active(node_id, word) = rig.stores[4 + position] else {
            panic!("{:?}", rig.stores)
        };
        assert_eq!(node_id, node(peer));
        assert_eq!(u32::from(ActiveRoute::from_word(word).slot), u32::from(peer - 2) * 2 + 1);
        assert_eq!(ActiveRoute::from_word(word).backup, ActiveRoute::NONE);
    }
    assert_eq!(rig.records.len(), 3);
    assert!(rig.records.iter().all(|r| (r.new, r.reason) == (RouteState::Down, RouteReason::CarrierLost)));
    rig.forget();
    rig.set_link(0, LinkState::NoCarrier);
    assert!(rig.stores.is_empty() && rig.records.is_empty(), "idempotent");
    rig.set_link(0, LinkState::Up);
    assert_eq!(rig.stores, [StoreCommand::DeadInterfaces(0)]);
}

#[test]
fn the_peer_is_told_over_another_route_at_once_and_for_a_while() {
    for (link, reason) in
        [(LinkState::NoCarrier, down_reason::CARRIER), (LinkState::AdminDown, down_reason::ADMIN)]
    {
        let mut rig = Rig::with_routes(2);
        let cut_ns = rig.now;
        rig.set_link(0, link);
        rig.run(200 * MS);
        let told: Vec<_> = rig.requests.iter().filter(|(_, request)| request.notice.is_some()).collect();
        assert!(told.iter().all(|(_, r)| r.slot == slot(1) && r.notice == Some((slot(0), reason))));
        assert!(told[0].0 <= cut_ns + MS / 4, "the first at once, or just after the last leg 1");
        assert!((8..=64).contains(&told.len()), "{}", told.len());
    }
}

#[test]
fn nothing_is_told_once_the_link_is_back() {
    let mut rig = Rig::with_routes(2);
    rig.set_link(0, LinkState::NoCarrier);
    rig.run(2 * MS);
    rig.set_link(0, LinkState::Up);
    rig.forget();
    rig.run(20 * MS);
    assert!(rig.requests.iter().all(|(_, request)| request.notice.is_none()));
    assert_eq!(rig.state(0), RouteState::Up);
}

#[test]
fn two_dead_routes_are_both_told() {
    let mut rig = Rig::with_routes(3);
    rig.set_link(0, LinkState::NoCarrier);
    rig.set_link(1, LinkState::AdminDown);
    rig.run(5 * MS);
    for (index, reason) in [(0, down_reason::CARRIER), (1, down_reason::ADMIN)] {
        let notice = Some((slot(index), reason));
        assert!(rig.requests.iter().any(|(_, request)| request.slot == slot(2) && request.notice == notice));
    }
}

#[test]
fn administrative_down_has_its_own_state_and_ends_with_the_link() {
    let mut rig = Rig::with_routes(2);
    rig.set_link(0, LinkState::AdminDown);
    assert_eq!((rig.records[0].new, rig.records[0].reason), (RouteState::AdminDown, RouteReason::AdminDown));
    rig.set_link(0, LinkState::NoCarrier);
    assert_eq!((rig.records[1].new, rig.records[1].reason), (RouteState::Down, RouteReason::CarrierLost));
    rig.set_link(0, LinkState::Up);
    assert_eq!((rig.state(0), rig.view(0).reason), (RouteState::Down, RouteReason::Starting));
    rig.run(10 * MS);
    assert_eq!(rig.state(0), RouteState::Up);
}

#[test]
fn a_route_on_a_dead_interface_starts_down() {
    let mut rig = Rig::new(1);
    rig.set_link(0, LinkState::AdminDown);
    rig.command(DetectorCommand::SetRoute(setup(0, 2)));
    assert_eq!((rig.state(0), rig.view(0).reason), (RouteState::AdminDown, RouteReason::AdminDown));
    rig.run(10 * MS);
    assert!(rig.requests.is_empty());
}

#[test]
fn what_the_far_end_tells_takes_a_route_down_at_once_and_later_evidence_brings_it_up() {
    for (word, state, reason) in [
        (down_reason::CARRIER, RouteState::Down, RouteReason::PeerCarrierLost),
        (down_reason::ADMIN, RouteState::AdminDown, RouteReason::PeerAdminDown),
    ] {
        let mut rig = Rig::with_routes(2);
        rig.run(300 * US);
        rig.cut(0);
        rig.drop_under_way();
        let told_ns = rig.now;
        rig.wire.paths[0].seen.told_down = (told_ns & !0xf) | u64::from(word);
        let record = rig.run_until_record(5 * MS);
        assert_eq!((record.new, record.reason), (state, reason));
        assert!(
            record.at_ns - told_ns <= MS,
            "by its sibling's wake at the latest: {}",
            record.at_ns - told_ns
        );
        rig.run(20 * MS);
        assert_eq!(rig.records.len(), 1);
        rig.heal(0);
        rig.records.clear();
        rig.run(10 * MS);
        assert_eq!((rig.records.len(), rig.state(0)), (1, RouteState::Up), "{:?}", rig.records);
    }
}

#[test]
fn an_interface_that_is_back_and_hears_us_is_no_longer_the_reason() {
    for (word, state) in
        [(down_reason::CARRIER, RouteState::Down), (down_reason::ADMIN, RouteState::AdminDown)]
    {
        let mut rig = Rig::with_routes(2);
        rig.run(300 * US);
        rig.cut(0);
        rig.drop_under_way();
        rig.wire.paths[0].seen.told_down = (rig.now & !0xf) | u64::from(word);
        rig.run(5 * MS);
        assert_eq!(rig.state(0), state);
        rig.wire.paths[0].seen.told_down = (rig.now & !0xf) | u64::from(down_reason::RX_ONLY);
        rig.run(5 * MS);
        assert_eq!((rig.state(0), rig.view(0).reason), (RouteState::Down, RouteReason::TxOnly));
        rig.heal(0);
        rig.run(10 * MS);
        assert_eq!(rig.state(0), RouteState::Up);
    }
}

#[test]
fn an_old_notice_takes_nothing_down() {
    let mut rig = Rig::with_routes(2);
    let stale_ns = rig.wire.paths[0].seen.completed_sent_ns - 3 * MS;
    rig.wire.paths[0].seen.told_down = (stale_ns & !0xf) | u64::from(down_reason::CARRIER);
    rig.run(20 * MS);
    assert!(rig.records.is_empty(), "{:?}", rig.records);
}

#[test]
fn a_slot_with_a_notice_from_before_it_was_watched_starts_as_usual() {
    let mut rig = Rig::new(1);
    rig.wire.paths[0].seen.told_down = ((START - SECOND) & !0xf) | u64::from(down_reason::ADMIN);
    rig.command(DetectorCommand::SetRoute(setup(0, 2)));
    rig.run(10 * MS);
    assert_eq!(rig.state(0), RouteState::Up);
}

#[test]
fn a_route_that_moves_to_another_interface_follows_its_link() {
    let mut rig = Rig::with_routes(1);
    rig.set_link(7, LinkState::NoCarrier);
    assert!(rig.records.is_empty());
    rig.command(DetectorCommand::SetRoute(RouteSetup { interface: interface(7), ..setup(0, 2) }));
    assert_eq!(rig.records[0].reason, RouteReason::CarrierLost);
    rig.command(DetectorCommand::SetRoute(setup(0, 2)));
    rig.run(10 * MS);
    assert_eq!(rig.state(0), RouteState::Up);
    assert!(rig.events.iter().any(|event| matches!(event, DetectorEvent::Active { new: Some(_), .. })));
}

#[test]
fn bits_that_an_engine_before_us_left_are_overwritten() {
    let mut rig = Rig::new(1);
    rig.set_link(0, LinkState::Up);
    assert_eq!(rig.stores, [StoreCommand::DeadInterfaces(0)]);
}
