//! Data messages: only what was sealed opens, once.

use crate::Adversary;
use netft_core::data::{DataPlane, DataRoute, HEADROOM, Outer};
use netft_core::keys::{Directions, SessionKeys};
use netft_core::offload::Checksum;
use netft_core::session::LiveKeys;
use netft_core::types::{Level, NodeId, Slot};
use std::collections::BTreeSet;

const ROUTE: DataRoute = DataRoute { local: [1; 16], remote: [2; 16], remote_slot: 3 };

fn node(id: u16) -> NodeId {
    NodeId::new(id).expect("1 to 255")
}

fn keys(own: u16, level: Level) -> LiveKeys {
    let both = Directions { send: level, receive: level };
    let keys = SessionKeys::of_secret(b"the fuzzers' secret", node(own), node(3 - own), both);
    LiveKeys { current: Some(SessionKeys { epoch: 5, ..keys }), other: None }
}

fn planes(level: Level) -> (DataPlane, DataPlane) {
    let (mut sender, mut receiver) =
        (DataPlane::new(7, node(1), 0, 1_000), DataPlane::new(7, node(2), 0, 1_000));
    sender.set_session(node(2), &keys(1, level));
    receiver.set_session(node(1), &keys(2, level));
    let DataRoute { local, remote, remote_slot } = ROUTE;
    let slot = Slot::new(remote_slot).expect("in range");
    receiver.set_way(slot, node(1), &DataRoute { local: remote, remote: local, remote_slot });
    (sender, receiver)
}

pub fn corpus() -> Vec<(&'static str, Vec<u8>)> {
    [("empty", 0, Level::Signed), ("short", 60, Level::Encrypted), ("full", 1400, Level::Signed)]
        .into_iter()
        .map(|(name, len, level)| {
            let (mut sender, _) = planes(level);
            let mut datagram = vec![0; HEADROOM];
            datagram.extend((0..len).map(|i| u8::try_from(i % 251).unwrap_or(0)));
            sender.seal(node(2), &ROUTE, Checksum::Complete, &mut datagram).expect("a session");
            (name, datagram)
        })
        .collect()
}

pub fn target(inputs: &[Vec<u8>], adversary: Adversary) -> impl FnMut(&[u8]) + use<> {
    const LEVELS: [Level; 2] = [Level::Signed, Level::Encrypted];
    let mut receivers = LEVELS.map(|level| planes(level).1);
    let opens = |plane: &mut DataPlane, bytes: &[u8]| {
        plane.open(ROUTE.remote, ROUTE.local, Outer::Checked, &mut bytes.to_vec()).is_ok()
    };
    let stale = |bytes: &&Vec<u8>| !LEVELS.iter().any(|level| opens(&mut planes(*level).1, bytes));
    assert_eq!(inputs.iter().find(stale), None, "the wire format has changed: write the corpus anew");
    let genuine: BTreeSet<Vec<u8>> = inputs.iter().cloned().collect();
    let mut opened = BTreeSet::new();
    move |bytes| {
        for receiver in &mut receivers {
            if !opens(receiver, bytes) {
                continue;
            }
            if adversary == Adversary::Blind {
                assert!(genuine.contains(bytes), "a forgery was opened");
            }
            assert!(opened.insert(bytes.to_vec()), "a replay was opened");
        }
    }
}
