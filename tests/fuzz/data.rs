//! Data messages: only what was sealed opens, once.

use crate::Adversary;
use netft_core::data::{DataPlane, DataRoute, HEADROOM};
use netft_core::keys::{Directions, SessionKeys};
use netft_core::offload::Checksum;
use netft_core::session::LiveKeys;
use netft_core::types::NodeId;
use std::collections::BTreeSet;

const ROUTE: DataRoute = DataRoute { local: [1; 16], remote: [2; 16], remote_slot: 3 };

fn node(id: u16) -> NodeId {
    NodeId::new(id).expect("1 to 255")
}

fn keys(send: [u64; 2], receive: [u64; 2]) -> LiveKeys {
    let both = Directions { send, receive };
    LiveKeys { current: Some(SessionKeys { epoch: 5, heartbeat: both, data: both }), other: None }
}

fn planes() -> (DataPlane, DataPlane) {
    let (mut sender, mut receiver) =
        (DataPlane::new(7, node(1), 0, 1_000), DataPlane::new(7, node(2), 0, 1_000));
    sender.set_session(node(2), &keys([1, 2], [3, 4]));
    receiver.set_session(node(1), &keys([3, 4], [1, 2]));
    (sender, receiver)
}

pub fn corpus() -> Vec<(&'static str, Vec<u8>)> {
    let (mut sender, _) = planes();
    [("empty", 0), ("short", 60), ("full", 1400)]
        .into_iter()
        .map(|(name, len)| {
            let mut datagram = vec![0; HEADROOM];
            datagram.extend((0..len).map(|i| u8::try_from(i % 251).unwrap_or(0)));
            sender.seal(node(2), &ROUTE, Checksum::Complete, &mut datagram).expect("a session");
            (name, datagram)
        })
        .collect()
}

pub fn target(inputs: &[Vec<u8>], adversary: Adversary) -> impl FnMut(&[u8]) + use<> {
    let (_, mut receiver) = planes();
    let stale = |bytes: &&Vec<u8>| planes().1.open(ROUTE.remote, ROUTE.local, bytes).is_err();
    assert_eq!(inputs.iter().find(stale), None, "the wire format has changed: write the corpus anew");
    let genuine: BTreeSet<Vec<u8>> = inputs.iter().cloned().collect();
    let mut opened = BTreeSet::new();
    move |bytes| {
        if receiver.open(ROUTE.remote, ROUTE.local, bytes).is_ok() {
            if adversary == Adversary::Blind {
                assert!(genuine.contains(bytes), "a forgery was opened");
            }
            assert!(opened.insert(bytes.to_vec()), "a replay was opened");
        }
    }
}
