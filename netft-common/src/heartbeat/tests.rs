//! Two nodes in memory, every reject reason, and the whole exchange.

extern crate std;

use super::*;
use crate::map::KeySet;
use core::cell::Cell;
use std::vec::Vec;

const SLOT_A: u32 = 3;
const SLOT_B: u32 = 7;
const EPOCH: u32 = 5;
const A: [u8; 16] = crate::packet::mapped([10, 77, 1, 1]);
const B: [u8; 16] = crate::packet::mapped([10, 77, 1, 2]);
const A_TO_B: [u64; 2] = [11, 12];
const B_TO_A: [u64; 2] = [21, 22];

struct Memory {
    node: NodeConfig,
    engine: EngineState,
    configs: Vec<SlotConfig>,
    states: Vec<SlotState>,
    now_ns: Cell<u64>,
}

impl Shared for Memory {
    fn node(&self) -> Option<&NodeConfig> {
        Some(&self.node)
    }
    fn engine(&self) -> Option<&EngineState> {
        Some(&self.engine)
    }
}

impl Tables for Memory {
    fn config(&self, slot: u32) -> Option<&SlotConfig> {
        self.configs.get(slot as usize)
    }
    fn read(&self, word: &u32) -> u32 {
        *word
    }
    fn state(&self, slot: u32) -> Option<&SlotState> {
        self.states.get(slot as usize)
    }
    fn is_local(&self, address: &[u8; 16]) -> bool {
        self.configs.iter().any(|config| config.generation != 0 && config.local == *address)
    }
    fn now_ns(&self) -> u64 {
        self.now_ns.get()
    }
}

impl FenceTables for Memory {}

fn node(id: u16, slot: u32, config: SlotConfig, now_ns: u64) -> Memory {
    let mut configs = std::vec![SlotConfig::default(); MAX_SLOTS as usize];
    configs[slot as usize] = config;
    Memory {
        node: NodeConfig { cluster_id: 9, node_id: id, ..NodeConfig::default() },
        engine: EngineState::default(),
        configs,
        states: (0..MAX_SLOTS).map(|_| SlotState::default()).collect(),
        now_ns: Cell::new(now_ns),
    }
}

/// Node 1 at A and node 2 at B, their clocks far apart.
fn pair() -> (Memory, Memory) {
    let one = SlotConfig {
        generation: 1,
        remote_slot: SLOT_B,
        peer: 2,
        interface: 0,
        lives: 1,
        local: A,
        remote: B,
        keys: [KeySet::sending(EPOCH, A_TO_B, B_TO_A), KeySet::default()],
    };
    let two = SlotConfig {
        remote_slot: SLOT_A,
        peer: 1,
        local: B,
        remote: A,
        keys: [KeySet::sending(EPOCH, B_TO_A, A_TO_B), KeySet::default()],
        ..one
    };
    (node(1, SLOT_A, one, 1_000_000), node(2, SLOT_B, two, 900_000_000))
}

/// What comes of the leg, and the reply or the unchanged leg.
type Outcome = (Result<Answer, Refusal>, Heartbeat);

fn deliver(memory: &Memory, source: [u8; 16], destination: [u8; 16], leg: &Heartbeat) -> Outcome {
    let mut copy = *leg;
    let answer = answer(memory, &memory.node, &Addresses::new(source, destination), &mut copy);
    assert!(answer == Ok(Answer::Reply) || copy == *leg, "only a reply changes the leg");
    (answer, copy)
}

fn to_b(memory: &Memory, leg: &Heartbeat) -> Result<Answer, Refusal> {
    deliver(memory, A, B, leg).0
}

fn to_a(memory: &Memory, leg: &Heartbeat) -> Result<Answer, Refusal> {
    deliver(memory, B, A, leg).0
}

fn reply((answer, leg): Outcome) -> Heartbeat {
    assert_eq!(answer, Ok(Answer::Reply));
    leg
}

fn request_from(memory: &Memory, sequence: u64) -> Heartbeat {
    let config = &memory.configs[SLOT_A as usize];
    request(&memory.node, config, &memory.engine, sequence, memory.now_ns(), None).expect("slot is known")
}

fn rejected(reject: Reject) -> Result<Answer, Refusal> {
    Err(Refusal::Reject(reject))
}

/// Changes a leg and makes its tag right again.
fn forged(leg: &Heartbeat, change: impl FnOnce(&mut Heartbeat)) -> Heartbeat {
    let mut leg = *leg;
    change(&mut leg);
    leg.tag = tag(A_TO_B, &Addresses::new(A, B), &leg);
    leg
}

#[test]
fn four_legs_prove_both_directions_to_both_nodes() {
    let (a, b) = pair();
    a.engine.tick_ns.store(999_000, Relaxed);
    b.engine.tick_ns.store(899_990_000, Relaxed);
    let one = request_from(&a, 1);
    let two = reply(deliver(&b, A, B, &one));
    assert_eq!((two.header.kind, two.header.slot, two.header.source), (kind::REPLY, SLOT_A, 2));
    assert_eq!((two.initiator_sent_ns, two.responder_sent_ns), (1_000_000, 900_000_000));
    assert_eq!(two.tick_age_ns, 10_000);
    a.now_ns.set(1_050_000);
    let three = reply(deliver(&a, B, A, &two));
    assert_eq!((three.header.kind, three.tick_age_ns), (kind::CONFIRMATION, 51_000));
    b.now_ns.set(900_060_000);
    let four = reply(deliver(&b, A, B, &three));
    assert_eq!(four.header.kind, kind::FINAL_REPLY);
    a.now_ns.set(1_110_000);
    assert_eq!(to_a(&a, &four), Ok(Answer::Complete));

    let (at_a, at_b) = (&a.states[SLOT_A as usize], &b.states[SLOT_B as usize]);
    assert_eq!(at_a.completed_sent_ns.load(Relaxed), 1_000_000);
    assert_eq!(at_a.rtt_ns.load(Relaxed), 50_000);
    assert_eq!(at_a.peer_tick_ns.load(Relaxed), 1_000_000 - 10_000);
    assert_eq!(at_a.arrival_ns[1].load(Relaxed), 1_050_000);
    assert_eq!(at_a.arrival_ns[3].load(Relaxed), 1_110_000);
    assert_eq!(at_b.confirmed_sent_ns.load(Relaxed), 900_000_000);
    assert_eq!(at_b.peer_tick_ns.load(Relaxed), 900_000_000 - 51_000);
    for leg in [0, 2] {
        assert_eq!(at_b.highest[leg].load(Relaxed), 1);
        assert_eq!(at_a.highest[leg + 1].load(Relaxed), 1);
    }
}

#[test]
fn a_leg_of_another_slot_address_or_node_is_rejected() {
    let (a, b) = pair();
    let leg = request_from(&a, 1);
    for slot in [SLOT_B + 1, MAX_SLOTS, NO_SLOT] {
        assert_eq!(to_b(&b, &forged(&leg, |leg| leg.header.slot = slot)), rejected(Reject::Slot));
    }
    let elsewhere = crate::packet::mapped([10, 77, 1, 9]);
    assert_eq!(deliver(&b, A, elsewhere, &leg).0, Err(Refusal::NotOurs));
    assert_eq!(deliver(&b, elsewhere, B, &leg).0, rejected(Reject::Source));
    assert_eq!(to_b(&b, &forged(&leg, |leg| leg.header.source = 3)), rejected(Reject::Source));
    assert_eq!(to_b(&b, &forged(&leg, |leg| leg.header.destination = 3)), rejected(Reject::Destination));
    assert_eq!(to_b(&b, &forged(&leg, |leg| leg.header.key_epoch = 6)), rejected(Reject::Epoch));
    assert_eq!(b.states[SLOT_B as usize].highest[0].load(Relaxed), 0);
}

#[test]
fn any_changed_bit_breaks_the_tag() {
    let (a, b) = pair();
    let leg = request_from(&a, 1);
    for bit in 0..size_of::<Heartbeat>() * 8 {
        let mut bytes: [u8; 88] = bytemuck::cast(leg);
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert!(to_b(&b, &bytemuck::cast(bytes)).is_err(), "bit {bit}");
    }
    assert_eq!(b.states[SLOT_B as usize].highest[0].load(Relaxed), 0);
    assert!(to_b(&b, &leg).is_ok());
}

#[test]
fn a_sequence_is_accepted_once_and_never_after_a_higher_one() {
    let (a, b) = pair();
    assert_eq!(to_b(&b, &request_from(&a, 0)), rejected(Reject::Replay));
    assert!(to_b(&b, &request_from(&a, 5)).is_ok());
    for sequence in [5, 4, 1] {
        assert_eq!(to_b(&b, &request_from(&a, sequence)), rejected(Reject::Replay));
    }
    assert!(to_b(&b, &request_from(&a, 6)).is_ok());
}

#[test]
fn a_leg_is_not_accepted_in_the_other_direction() {
    let (a, b) = pair();
    let leg = request_from(&a, 1);
    let mirrored = forged(&leg, |leg| {
        leg.header.slot = SLOT_A;
        (leg.header.source, leg.header.destination) = (2, 1);
    });
    assert_eq!(to_a(&a, &mirrored), rejected(Reject::Tag));
    let _ = b;
}

#[test]
fn an_echo_from_the_future_changes_nothing() {
    let (a, b) = pair();
    let leg = forged(&request_from(&a, 1), |leg| {
        leg.header.kind = kind::CONFIRMATION;
        leg.responder_sent_ns = 900_000_001;
    });
    assert_eq!(to_b(&b, &leg), rejected(Reject::Stamp));
    assert_eq!(b.states[SLOT_B as usize].highest[2].load(Relaxed), 0);
    b.now_ns.set(900_000_001);
    assert!(to_b(&b, &leg).is_ok());
}

#[test]
fn a_peer_may_tell_only_of_its_own_routes() {
    let (a, mut b) = pair();
    b.configs[8] = SlotConfig { generation: 2, peer: 1, ..SlotConfig::default() };
    b.configs[9] = SlotConfig { generation: 2, peer: 3, ..SlotConfig::default() };
    let config = a.configs[SLOT_A as usize];
    let mut sequence = 0;
    let mut told = |slot: u32, reason: u32| {
        sequence += 1;
        let leg = request(&a.node, &config, &a.engine, sequence, 5, Some((slot, reason))).expect("known");
        assert!(to_b(&b, &leg).is_ok());
        b.states[slot.min(MAX_SLOTS - 1) as usize].told_down.load(Relaxed)
    };
    assert_eq!(told(8, down_reason::CARRIER), 900_000_000 & !0xf | 1);
    assert_eq!(told(8, down_reason::ADMIN), 900_000_000 & !0xf | 2);
    assert_eq!(told(8, down_reason::RX_ONLY), 900_000_000 & !0xf | 3);
    assert_eq!(told(9, down_reason::CARRIER), 0, "another peer's");
    assert_eq!(told(10, down_reason::CARRIER), 0, "free");
    assert_eq!(told(MAX_SLOTS, down_reason::CARRIER), 0, "out of range");
    assert_eq!(told(SLOT_B, 4), 0, "unknown reason");
}

#[test]
fn an_unknown_remote_slot_is_stamped_but_not_answered() {
    let (a, mut b) = pair();
    b.configs[SLOT_B as usize].remote_slot = NO_SLOT;
    assert_eq!(to_b(&b, &request_from(&a, 1)), Ok(Answer::Unanswered));
    assert_eq!(b.states[SLOT_B as usize].arrival_ns[0].load(Relaxed), 900_000_000);
}

#[test]
fn an_engine_that_never_ticked_says_so() {
    let (a, b) = pair();
    let two = reply(deliver(&b, A, B, &request_from(&a, 1)));
    assert_eq!(two.tick_age_ns, u64::MAX);
    assert!(to_a(&a, &two).is_ok());
    assert_eq!(a.states[SLOT_A as usize].peer_tick_ns.load(Relaxed), 0);
}

/// Keys of another epoch at both ends.
const NEXT: u32 = 6;
const NEXT_KEYS: ([u64; 2], [u64; 2]) = ([31, 32], [41, 42]);

fn next_keys(end: u16) -> KeySet {
    let (a_to_b, b_to_a) = NEXT_KEYS;
    let (send_key, receive_key) = if end == 1 { (a_to_b, b_to_a) } else { (b_to_a, a_to_b) };
    KeySet { sends: 0, ..KeySet::sending(NEXT, send_key, receive_key) }
}

#[test]
fn while_keys_are_replaced_both_epochs_are_good_and_answers_take_that_of_the_request() {
    let (mut a, mut b) = pair();
    b.configs[SLOT_B as usize].admit(next_keys(2));
    a.configs[SLOT_A as usize].admit(next_keys(1));
    let old = request_from(&a, 1);
    assert_eq!(old.header.key_epoch, EPOCH, "what is only admitted isn't sent with");
    let answer = reply(deliver(&b, A, B, &old));
    assert_eq!(answer.header.key_epoch, EPOCH);
    assert!(to_a(&a, &answer).is_ok());
    a.configs[SLOT_A as usize].send_with(NEXT);
    let new = request_from(&a, 2);
    assert_eq!(new.header.key_epoch, NEXT);
    let answer = reply(deliver(&b, A, B, &new));
    assert_eq!(answer.header.key_epoch, NEXT);
    assert!(to_a(&a, &answer).is_ok());
    // Sequences go on: what was accepted before the change stays a replay, whatever its keys.
    assert_eq!(to_b(&b, &old), rejected(Reject::Replay));
    b.configs[SLOT_B as usize].send_with(NEXT);
    b.configs[SLOT_B as usize].retire();
    assert_eq!(to_b(&b, &old), rejected(Reject::Epoch));
    assert!(to_b(&b, &request_from(&a, 3)).is_ok());
}

#[test]
fn what_the_peer_sends_with_is_noted_from_leg_1_alone() {
    let (mut a, mut b) = pair();
    a.configs[SLOT_A as usize].admit(next_keys(1));
    b.configs[SLOT_B as usize].admit(next_keys(2));
    let noted = |b: &Memory| b.states[SLOT_B as usize].peer_flags.load(Relaxed) >> 32;
    assert!(to_b(&b, &request_from(&a, 1)).is_ok());
    assert_eq!(noted(&b), u64::from(EPOCH));
    // An answer of A's, made with what B asked with.
    b.configs[SLOT_B as usize].send_with(NEXT);
    let asked =
        request(&b.node, &b.configs[SLOT_B as usize], &b.engine, 1, 900_000_000, None).expect("known");
    let two = reply(deliver(&a, B, A, &asked));
    assert_eq!(two.header.key_epoch, NEXT);
    assert!(to_b(&b, &two).is_ok());
    assert_eq!(noted(&b), u64::from(EPOCH));
}

#[test]
fn without_a_session_nothing_is_sent_and_nothing_accepted() {
    let (a, mut b) = pair();
    let leg = request_from(&a, 1);
    b.configs[SLOT_B as usize].keys = [KeySet::default(); 2];
    assert_eq!(to_b(&b, &leg), rejected(Reject::Epoch));
    assert_eq!(to_b(&b, &forged(&leg, |leg| leg.header.key_epoch = 0)), rejected(Reject::Epoch));
    let own = &b.configs[SLOT_B as usize];
    assert_eq!(request(&b.node, own, &b.engine, 1, 5, None), None);
}

#[test]
fn of_two_places_the_one_that_does_not_send_is_given_to_new_keys() {
    let set = |epoch| KeySet { sends: 0, ..KeySet::sending(epoch, [epoch.into(); 2], [9; 2]) };
    let epochs =
        |config: &SlotConfig| (config.keys.map(|keys| keys.epoch), config.sending().map(|k| k.epoch));
    let mut config = SlotConfig::default();
    config.send_with(1);
    config.retire();
    assert_eq!(config, SlotConfig::default());
    config.admit(set(1));
    assert_eq!(epochs(&config), ([1, 0], None));
    config.send_with(1);
    config.admit(set(2));
    config.admit(set(2));
    assert_eq!(epochs(&config), ([1, 2], Some(1)));
    config.admit(set(3));
    assert_eq!(epochs(&config), ([1, 3], Some(1)));
    config.send_with(3);
    config.admit(set(4));
    assert_eq!(epochs(&config), ([4, 3], Some(3)));
    config.retire();
    assert_eq!(epochs(&config), ([0, 3], Some(3)));
}
