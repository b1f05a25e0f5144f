//! Whole heartbeats between two loaded instances.

use super::frames::{TAGS, check_reply, leg_frame};
use super::node::{EPOCH, FAMILIES, setup, slot};
use super::program::{Action, Program, boottime_ns};
use netft_common::wire::{NO_SLOT, kind};

/// Words of `SlotState`.
const HIGHEST: usize = 0;
const ARRIVAL: usize = 4;
const COMPLETED: usize = 8;
const CONFIRMED: usize = 9;
const RTT: usize = 10;
const PEER_TICK: usize = 11;
const PEER_FLAGS: usize = 13;

#[test]
fn four_legs_run_between_two_kernels_programs() {
    let (mut one, mut two) = (setup(1), setup(2));
    let start_ns = boottime_ns();
    one.tick_ns = start_ns - 3_000_000;
    two.tick_ns = start_ns - 7_000_000;
    two.flags = 1;
    let (first, second) = (Program::load(&one), Program::load(&two));
    let mut sequence = 0;
    for family in FAMILIES {
        for vlan in TAGS {
            sequence += 1;
            let request = one.request(family, sequence, boottime_ns());
            let sent_ns = request.initiator_sent_ns;
            let mut frame =
                leg_frame(1, family, &request).tagged(vlan).with(|frame| frame.padding = vec![0xab; 7]);
            let ends = [(&second, "leg1", 2), (&first, "leg2", 1), (&second, "leg3", 2)];
            for (step, (program, counter, node)) in (0u8..).zip(ends) {
                let outcome = program.run(&frame.bytes());
                assert_eq!((outcome.action, &outcome.counted[..]), (Action::Reply, &[counter][..]));
                let leg = check_reply(&frame, family, &outcome.frame);
                assert_eq!(leg.header.kind, kind::REQUEST + step + 1);
                assert_eq!((leg.header.source, leg.header.destination), (node, 3 - node));
                assert_eq!(leg.header.slot, slot(3 - node, family));
                assert_eq!((leg.header.sequence, leg.initiator_sent_ns), (sequence, sent_ns));
                assert_eq!(leg.header.flags, if node == 2 { 1 } else { 0 });
                assert_eq!(
                    (leg.down_slot, leg.down_reason, leg.reserved, leg.vouch_index),
                    (NO_SLOT, 0, 0, 0)
                );
                let tick_ns = if node == 2 { two.tick_ns } else { one.tick_ns };
                let age = boottime_ns() - tick_ns;
                assert!(
                    leg.tick_age_ns >= 3_000_000 && leg.tick_age_ns < age + 20_000_000,
                    "{}",
                    leg.tick_age_ns
                );
                frame =
                    leg_frame(node, family, &leg).tagged(vlan).with(|frame| frame.padding = vec![0xab; 7]);
            }
            let last = first.run(&frame.bytes());
            assert_eq!((last.action, &last.counted[..]), (Action::Drop, &["leg4"][..]));
            assert_eq!(last.frame, frame.bytes());

            let (at_one, at_two) = (first.state(slot(1, family)), second.state(slot(2, family)));
            assert_eq!(at_one[HIGHEST..HIGHEST + 4], [0, sequence, 0, sequence]);
            assert_eq!(at_two[HIGHEST..HIGHEST + 4], [sequence, 0, sequence, 0]);
            assert_eq!(at_one[COMPLETED], sent_ns);
            assert_eq!(at_one[RTT], at_one[ARRIVAL + 1] - sent_ns);
            assert_eq!(at_two[CONFIRMED], at_two[ARRIVAL], "leg 2 left when leg 1 arrived");
            // Leg 1 says with which keys its sender sends.
            assert_eq!((at_one[PEER_FLAGS], at_two[PEER_FLAGS]), (1, u64::from(EPOCH) << 32));
            let arrivals = [at_two[ARRIVAL], at_one[ARRIVAL + 1], at_two[ARRIVAL + 2], at_one[ARRIVAL + 3]];
            assert!(sent_ns <= arrivals[0] && arrivals.is_sorted(), "{arrivals:?}");
            // From leg 4: our send stamp less the age when leg 4 left.
            let known = two.tick_ns - (arrivals[2] - sent_ns);
            assert!(
                (known..=two.tick_ns).contains(&at_one[PEER_TICK]),
                "{} {}",
                at_one[PEER_TICK],
                two.tick_ns
            );
        }
    }
}
