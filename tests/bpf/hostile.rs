//! What a stranger makes of an overheard leg, in the kernel: every length, every flipped bit, every replay. Nothing of
//! it is answered, leaves a trace, or is counted more than once.

use super::frames::{Frame, TAGS, frame, leg_frame};
use super::node::{FAMILIES, Family, Setup, setup, slot};
use super::program::{Action, Program, boottime_ns};
use netft_common::wire::{Heartbeat, kind};
use std::collections::BTreeMap;

/// Node 1, and node 2's program.
fn ends() -> (Setup, Program) {
    (setup(1), Program::load(&setup(2)))
}

/// A leg of each kind that node 2 would accept.
fn legs(one: &Setup, family: Family) -> Vec<Heartbeat> {
    let request = one.request(family, 1, boottime_ns() - 20_000_000);
    let leg = |kind| {
        one.forge(family, request, |leg| {
            leg.header.kind = kind;
            leg.responder_sent_ns = if kind == kind::REQUEST { 0 } else { request.initiator_sent_ns };
        })
    };
    [kind::REQUEST, kind::REPLY, kind::CONFIRMATION, kind::FINAL_REPLY].map(leg).to_vec()
}

/// Gives a frame to the program: it must not be answered, not be changed, and count once.
fn refused(program: &Program, frame: &Frame, what: &str) -> &'static str {
    let bytes = frame.bytes();
    let outcome = program.run(&bytes);
    assert_ne!(outcome.action, Action::Reply, "{what}");
    assert_eq!(outcome.frame, bytes, "{what}: the frame must not change");
    let [counter] = outcome.counted[..] else { panic!("{what}: counted {:?}", outcome.counted) };
    assert_eq!(outcome.action == Action::Drop, counter.starts_with("reject"), "{what}: {counter}");
    counter
}

#[test]
fn a_leg_of_any_other_length_is_truncated_or_nobodys() {
    let (one, program) = ends();
    for family in FAMILIES {
        for vlan in TAGS {
            for leg in legs(&one, family) {
                let whole = bytemuck::bytes_of(&leg);
                for len in (0..whole.len()).chain(whole.len() + 1..whole.len() + 200).chain([1400]) {
                    // With length fields that tell the truth: only the length is wrong.
                    let mut payload = whole.to_vec();
                    payload.resize(len, 0x5a);
                    let frame = frame(1, family, &payload).tagged(vlan);
                    let what = format!("{len} bytes ({family:?}, tag {vlan:?}, kind {})", leg.header.kind);
                    // Without magic and cluster it could be anybody's.
                    let expected = if len < 12 { "passed_other" } else { "reject_truncated" };
                    assert_eq!(refused(&program, &frame, &what), expected, "{what}");
                }
            }
        }
        assert_eq!(program.state(slot(2, family)), [0; 16], "nothing refused may leave a trace");
    }
}

#[test]
fn a_leg_with_any_bit_flipped_is_refused() {
    let (one, program) = ends();
    let mut reasons = BTreeMap::new();
    for family in FAMILIES {
        for vlan in TAGS {
            for leg in legs(&one, family) {
                for bit in 0..size_of::<Heartbeat>() * 8 {
                    let frame = leg_frame(1, family, &leg)
                        .tagged(vlan)
                        .with(|frame| frame.payload[bit / 8] ^= 1 << (bit % 8));
                    let what = format!("bit {bit} ({family:?}, tag {vlan:?}, kind {})", leg.header.kind);
                    *reasons.entry(refused(&program, &frame, &what)).or_insert(0u32) += 1;
                }
            }
        }
        assert_eq!(program.state(slot(2, family)), [0; 16], "nothing refused may leave a trace");
    }
    let reached: Vec<_> = reasons.keys().copied().collect();
    let all = [
        "passed_other",
        "passed_other_cluster",
        // One bit makes leg 1 a step of a handshake, which userspace refuses.
        "passed_userspace",
        "reject_destination",
        "reject_epoch",
        "reject_kind",
        "reject_slot",
        "reject_source",
        "reject_tag",
        "reject_version",
    ];
    assert_eq!(reached, all, "{reasons:?}");
}

#[test]
fn a_leg_with_any_bit_of_its_addresses_flipped_is_refused() {
    let (one, program) = ends();
    for family in FAMILIES {
        let leg = legs(&one, family)[0];
        let (first, last) = if family == Family::V4 { (12, 20) } else { (8, 40) };
        for bit in first * 8..last * 8 {
            let frame = leg_frame(1, family, &leg).with(|frame| frame.ip[bit / 8] ^= 1 << (bit % 8));
            let counter = refused(&program, &frame, &format!("address bit {bit} ({family:?})"));
            // From somebody else, or for somebody else.
            let half = (first + last) / 2 * 8;
            assert_eq!(counter, if bit < half { "reject_source" } else { "passed_other_host" });
        }
        assert_eq!(program.state(slot(2, family)), [0; 16]);
    }
}

#[test]
fn every_leg_is_accepted_once_and_never_again() {
    let (one, program) = ends();
    for family in FAMILIES {
        let accepted = legs(&one, family);
        for leg in &accepted {
            assert!(program.run(&leg_frame(1, family, leg).bytes()).counted[0].starts_with("leg"));
        }
        let state = program.state(slot(2, family));
        for vlan in TAGS {
            for leg in &accepted {
                let again = leg_frame(1, family, leg).tagged(vlan);
                assert_eq!(refused(&program, &again, "a replay"), "reject_replay");
                // Somebody else's MAC on it, and padding behind it, change nothing.
                let disguised = again.with(|frame| {
                    frame.macs[1] = [2, 0xba, 0xd0, 0, 0, 1];
                    frame.padding = vec![0xff; 40];
                });
                assert_eq!(refused(&program, &disguised, "a replay in disguise"), "reject_replay");
            }
        }
        assert_eq!(program.state(slot(2, family)), state, "a replay leaves no trace");
    }
}
