//! XDP and the same code on the host decide alike, on random damage to frames that would be accepted.

use super::frames::leg_frame;
use super::memory::Memory;
use super::node::{FAMILIES, Family, Setup, setup, slot};
use super::program::{Action, Program, boottime_ns};
use netft_common::wire::kind;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use std::cell::RefCell;
use std::collections::BTreeSet;

/// One change to the frame's bytes.
#[derive(Clone, Debug)]
enum Damage {
    Flip(usize, u8),
    Set(usize, u8),
    Cut(usize),
    Grow(usize),
}

fn damage() -> impl Strategy<Value = Damage> {
    prop_oneof![
        4 => (0usize..190, 0u8..8).prop_map(|(at, bit)| Damage::Flip(at, bit)),
        3 => (0usize..190, any::<u8>()).prop_map(|(at, value)| Damage::Set(at, value)),
        1 => (14usize..190).prop_map(Damage::Cut),
        1 => (1usize..40).prop_map(Damage::Grow),
    ]
}

/// Changes fields of the leg before its tag is made, so that what lies behind the tag check is reached.
fn fields() -> impl Strategy<Value = (u8, u64, u64, u64, u32, u32, u32, u32)> {
    let slots = prop_oneof![3 => Just(0u32), 1 => 0..1100u32];
    let down = prop_oneof![Just(u32::MAX), 0..1100u32];
    (
        0u8..6,
        0..4u64,
        any::<u64>(),
        any::<u64>(),
        slots,
        down,
        0..5u32,
        prop_oneof![4 => Just(0u32), 1 => 1..3u32],
    )
}

/// One frame: family, tag, fields, damage.
type Step = (bool, bool, (u8, u64, u64, u64, u32, u32, u32, u32), Vec<Damage>);

fn step() -> impl Strategy<Value = Step> {
    (any::<bool>(), any::<bool>(), fields(), prop::collection::vec(damage(), 0..3))
}

/// The frame of a step, as node 1 would send it before the damage.
fn build(one: &Setup, step: &Step) -> (Family, Vec<u8>) {
    let (v4, tagged, (leg_kind, sequence, initiator, responder, other_slot, down, reason, epoch), damages) =
        step;
    let family = if *v4 { Family::V4 } else { Family::V6 };
    // Half the stamps in the past.
    let past = |stamp: u64| if stamp & 1 == 0 { stamp % boottime_ns() } else { stamp };
    let leg = one.forge(family, one.request(family, *sequence, past(*initiator)), |leg| {
        leg.header.kind = kind::REQUEST.wrapping_add(*leg_kind);
        leg.responder_sent_ns = past(*responder);
        leg.tick_age_ns = responder.rotate_left(20);
        leg.down_slot = *down;
        leg.down_reason = *reason;
        leg.header.key_epoch += epoch;
        if *other_slot != 0 {
            leg.header.slot = *other_slot;
        }
    });
    let mut bytes = leg_frame(1, family, &leg).tagged(tagged.then_some(0x2005)).bytes();
    for damage in damages {
        match damage {
            Damage::Flip(at, bit) => {
                let at = at % bytes.len();
                bytes[at] ^= 1 << bit;
            }
            Damage::Set(at, value) => {
                let at = at % bytes.len();
                bytes[at] = *value;
            }
            Damage::Cut(len) => bytes.truncate((*len).max(14)),
            Damage::Grow(more) => bytes.extend(vec![0x5a; *more]),
        }
    }
    (family, bytes)
}

#[test]
fn kernel_and_host_decide_alike() {
    let (one, two) = (setup(1), setup(2));
    // One program for all cases: loading takes longer than running.
    let program = RefCell::new(Program::load(&two));
    let reached = RefCell::new(BTreeSet::new());
    let config = ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() };
    let steps = prop::collection::vec(step(), 1..40);
    let outcome = TestRunner::new(config).run(&(steps, any::<bool>()), |(steps, ticked)| {
        let mut two = two.clone();
        two.tick_ns = if ticked { boottime_ns() - 1_000_000 } else { 0 };
        let mut program = program.borrow_mut();
        program.set(&two);
        for family in FAMILIES {
            program.reset_state(slot(2, family));
        }
        let memory = Memory::new(&two);
        for step in &steps {
            let (family, bytes) = build(&one, step);
            let in_kernel = program.run(&bytes);
            // The host's clock stands where the kernel's stood when it stamped the arrival, or about now.
            let arrival = program.state(slot(2, family))[4..8].iter().copied().max().unwrap_or(0);
            let accepted = in_kernel.action == Action::Reply || in_kernel.counted == ["leg4"];
            memory.now_ns.set(if accepted { arrival } else { boottime_ns() });
            reached.borrow_mut().extend(in_kernel.counted.iter().copied());
            let on_host = memory.run(&bytes);
            prop_assert_eq!(in_kernel, on_host);
            for family in FAMILIES {
                let slot = slot(2, family);
                prop_assert_eq!(program.state(slot), memory.state(slot));
            }
        }
        Ok(())
    });
    if let Err(error) = outcome {
        panic!("{error}");
    }
    let reached = reached.into_inner();
    for deep in ["leg1", "leg2", "leg3", "leg4", "reject_stamp", "reject_replay", "reject_tag", "reject_slot"]
    {
        assert!(reached.contains(deep), "too shallow to mean anything: only {reached:?}");
    }
}
