//! Every verdict and every reject reason, over IPv4 and IPv6, with and without a tag: in the kernel and on the host.

use super::frames::{Frame, TAGS, leg_frame};
use super::memory::Memory;
use super::node::{CLUSTER, EPOCH, FAMILIES, Family, Setup, address, setup, slot};
use super::program::{Action, Program, boottime_ns};
use netft_common::map::{Counter, MAX_SLOTS, down_reason};
use netft_common::wire::{Heartbeat, NO_SLOT, OLDEST_VERSION, VERSION, kind};
use std::collections::BTreeSet;

/// Node 2 gets `frame` and must count `counter`.
struct Case {
    name: &'static str,
    counter: &'static str,
    frame: Frame,
}

fn case(name: &'static str, counter: &'static str, frame: Frame) -> Case {
    Case { name, counter, frame }
}

/// A leg 1 that would be accepted.
fn good(one: &Setup, family: Family) -> Heartbeat {
    one.request(family, 1, 1_000_000)
}

fn forged(one: &Setup, family: Family, change: impl FnOnce(&mut Heartbeat)) -> Frame {
    leg_frame(1, family, &one.forge(family, good(one, family), change))
}

/// With the destination address changed to one that isn't node 2's.
fn elsewhere(frame: Frame) -> Frame {
    frame.with(|frame| *frame.ip.last_mut().expect("an IP header") = 99)
}

/// With an extra header of a protocol after IPv6's, or options in IPv4's.
fn odd(frame: &Frame, next: u8, extra_words: u8) -> Frame {
    let mut frame = frame.clone();
    if frame.ip[0] >> 4 == 4 {
        frame.ip[0] = 0x46 + extra_words;
        frame.ip[3] += 4 + 4 * extra_words;
        frame.ip.extend(vec![1; 4 + 4 * usize::from(extra_words)]);
    } else {
        frame.ip[6] = next;
        frame.ip[5] += 8 + 8 * extra_words;
        frame.ip.extend([17, if next == 44 { 0 } else { extra_words }, 0, 1, 0, 0, 0, 0]);
        frame.ip.extend(vec![0; 8 * usize::from(extra_words)]);
    }
    frame
}

fn passed(one: &Setup, family: Family) -> Vec<Case> {
    let leg = leg_frame(1, family, &good(one, family));
    let with = |change: fn(&mut Frame)| leg.clone().with(change);
    let protocol = |frame: &mut Frame| {
        let at = if frame.ip[0] >> 4 == 4 { 9 } else { 6 };
        frame.ip[at] = 6;
    };
    let mut cases = vec![
        case("TCP", "passed_other", leg.clone().with(protocol)),
        case("another source port", "passed_other", with(|frame| frame.udp[1] ^= 1)),
        case("another destination port", "passed_other", with(|frame| frame.udp[3] ^= 1)),
        case("another magic", "passed_other", with(|frame| frame.payload[0] ^= 1)),
        case("too short for a magic", "passed_other", with(|frame| frame.payload.truncate(11))),
        case("no UDP header", "passed_other", with(|frame| frame.payload.clear())),
        case("broadcast MAC", "passed_other", with(|frame| frame.macs[0] = [0xff; 6])),
        case("multicast MAC", "passed_other", with(|frame| frame.macs[0] = [1, 0, 0x5e, 0, 0, 1])),
        case("multicast source MAC", "passed_other", with(|frame| frame.macs[1][0] |= 1)),
        case("IP version 5", "passed_other", with(|frame| frame.ip[0] ^= 0x10)),
        case("another cluster", "passed_other_cluster", with(|frame| frame.payload[8] ^= 1)),
        case("another host", "passed_other_host", elsewhere(leg.clone())),
        case("another host, odd", "passed_other_host", {
            let mut odd = odd(&leg, 60, 0);
            let last = if family == Family::V4 { 19 } else { 39 };
            odd.ip[last] = 99;
            odd
        }),
        case("another host, version", "passed_other_host", elsewhere(with(|frame| frame.payload[4] = 9))),
        case("another host, kind", "passed_other_host", elsewhere(with(|frame| frame.payload[5] = 9))),
        case("another host, short", "passed_other_host", elsewhere(with(|frame| frame.payload.truncate(50)))),
    ];
    for (name, kind) in [("hello", kind::HELLO), ("data", kind::DATA)] {
        let message = leg.clone().with(|frame| frame.payload[5] = kind);
        cases.push(case("fragmented or with options", "passed_userspace", odd(&message, 44, 0)));
        if kind == kind::HELLO {
            // netftd finds out whose they are.
            let other = message.clone().with(|frame| frame.payload[4] = 9);
            cases.push(case("a hello of another version", "passed_userspace", other));
        }
        cases.push(case(name, "passed_userspace", message));
    }
    if family == Family::V4 {
        cases.push(case("a later fragment", "passed_other", with(|frame| frame.ip[7] = 1)));
        cases.push(case("a header of 16 bytes", "passed_other", with(|frame| frame.ip[0] = 0x44)));
    } else {
        let later = odd(&leg, 44, 0).with(|frame| frame.ip[43] = 9);
        cases.push(case("a later fragment", "passed_other", later));
        let two = odd(&leg, 60, 0).with(|frame| frame.ip[40] = 60);
        cases.push(case("two extension headers", "passed_other", two));
    }
    cases
}

fn rejected(one: &Setup, family: Family) -> Vec<Case> {
    let leg = leg_frame(1, family, &good(one, family));
    let with = |change: fn(&mut Frame)| leg.clone().with(change);
    let other_family = if family == Family::V4 { Family::V6 } else { Family::V4 };
    let future = u64::MAX;
    let mut cases = vec![
        case("version 0", "reject_version", with(|frame| frame.payload[4] = 0)),
        case("a version to come", "reject_version", with(|frame| frame.payload[4] = VERSION + 1)),
        case(
            "a version that isn't that of the keys",
            "reject_version",
            with(|frame| frame.payload[4] = OLDEST_VERSION),
        ),
        case("kind 0", "reject_kind", with(|frame| frame.payload[5] = 0)),
        case("kind 5", "reject_kind", with(|frame| frame.payload[5] = 5)),
        case("kind 255", "reject_kind", with(|frame| frame.payload[5] = 255)),
        case("cut in the leg", "reject_truncated", with(|frame| frame.payload.truncate(87))),
        case("cut in the header", "reject_truncated", with(|frame| frame.payload.truncate(12))),
        case("UDP length short", "reject_truncated", with(|frame| frame.udp[5] = 95)),
        case("UDP length long", "reject_truncated", with(|frame| frame.udp[5] = 97)),
        case("UDP length 0", "reject_truncated", with(|frame| frame.udp[5] = 0)),
        case(
            "a hello without a header",
            "reject_truncated",
            with(|frame| {
                frame.payload[5] = kind::HELLO;
                frame.payload.truncate(31);
            }),
        ),
        case("a free slot", "reject_slot", forged(one, family, |leg| leg.header.slot = 900)),
        case("slot out of range", "reject_slot", forged(one, family, |leg| leg.header.slot = MAX_SLOTS)),
        case("no slot", "reject_slot", forged(one, family, |leg| leg.header.slot = NO_SLOT)),
        case("another route's slot", "reject_slot", {
            forged(one, family, |leg| leg.header.slot = slot(2, other_family))
        }),
        case(
            "another source address",
            "reject_source",
            with(|frame| {
                let at = if frame.ip[0] >> 4 == 4 { 15 } else { 23 };
                frame.ip[at] = 99;
            }),
        ),
        case("another source node", "reject_source", forged(one, family, |leg| leg.header.source = 3)),
        case(
            "another destination",
            "reject_destination",
            forged(one, family, |leg| leg.header.destination = 3),
        ),
        case("another epoch", "reject_epoch", forged(one, family, |leg| leg.header.key_epoch = EPOCH + 1)),
        case("sequence 0", "reject_replay", forged(one, family, |leg| leg.header.sequence = 0)),
        case(
            "leg 2 echoes the future",
            "reject_stamp",
            forged(one, family, |leg| {
                leg.header.kind = kind::REPLY;
                leg.initiator_sent_ns = future;
            }),
        ),
        case(
            "leg 3 echoes the future",
            "reject_stamp",
            forged(one, family, |leg| {
                leg.header.kind = kind::CONFIRMATION;
                leg.responder_sent_ns = future;
            }),
        ),
        case(
            "leg 4 echoes the future",
            "reject_stamp",
            forged(one, family, |leg| {
                leg.header.kind = kind::FINAL_REPLY;
                leg.initiator_sent_ns = future;
            }),
        ),
        case("odd and of a free slot", "reject_slot", {
            odd(&forged(one, family, |leg| leg.header.slot = 900), 60, 0)
        }),
    ];
    // Flags, slot excepted, everything the tag covers and the tag itself.
    for at in [6, 24, 31, 32, 40, 48, 56, 64, 68, 72, 80, 87] {
        let flipped = leg.clone().with(|frame| frame.payload[at] ^= 0x40);
        cases.push(case("a flipped bit", "reject_tag", flipped));
    }
    match family {
        Family::V4 => {
            cases.push(case("IP length short", "reject_truncated", with(|frame| frame.ip[3] = 115)));
            cases.push(case("IP length long", "reject_truncated", with(|frame| frame.ip[3] = 117)));
            cases.push(case("IP length below the header", "reject_truncated", with(|frame| frame.ip[3] = 7)));
            cases.push(case("a first fragment", "reject_fragment", with(|frame| frame.ip[6] = 0x20)));
            cases.push(case(
                "a short first fragment",
                "reject_fragment",
                with(|frame| {
                    frame.ip[6] = 0x20;
                    frame.ip[3] = 68;
                    frame.payload.truncate(40);
                }),
            ));
            for words in 0..10 {
                cases.push(case("options", "reject_fragment", odd(&leg, 0, words)));
            }
        }
        Family::V6 => {
            cases.push(case("payload length short", "reject_truncated", with(|frame| frame.ip[5] = 95)));
            cases.push(case("payload length long", "reject_truncated", with(|frame| frame.ip[5] = 97)));
            for next in [0, 43, 60, 44] {
                cases.push(case("an extension header", "reject_fragment", odd(&leg, next, 0)));
            }
            cases.push(case("a long extension header", "reject_fragment", odd(&leg, 60, 8)));
        }
    }
    cases
}

fn run(case: &Case, family: Family, vlan: Option<u16>, program: &Program, memory: &Memory) -> &'static str {
    let bytes = case.frame.clone().tagged(vlan).bytes();
    let action = if case.counter.starts_with("passed") { Action::Pass } else { Action::Drop };
    memory.now_ns.set(boottime_ns());
    for (place, outcome) in [("kernel", program.run(&bytes)), ("host", memory.run(&bytes))] {
        let what = format!("{} ({family:?}, tag {vlan:?}, {place})", case.name);
        assert_eq!((outcome.action, &outcome.counted[..]), (action, &[case.counter][..]), "{what}");
        assert_eq!(outcome.frame, bytes, "{what}: the frame must not change");
    }
    case.counter
}

#[test]
fn every_verdict_and_reject_reason_is_reached_and_counted_once() {
    let (one, two) = (setup(1), setup(2));
    let (program, memory) = (Program::load(&two), Memory::new(&two));
    let mut reached = BTreeSet::new();
    for family in FAMILIES {
        for vlan in TAGS {
            for case in passed(&one, family).iter().chain(&rejected(&one, family)) {
                reached.insert(run(case, family, vlan, &program, &memory));
            }
        }
        assert_eq!(program.state(slot(2, family)), [0; 16], "nothing refused may leave a trace");
        assert_eq!(memory.state(slot(2, family)), [0; 16], "nothing refused may leave a trace");
    }
    // The rest is what accepted legs count (exchange.rs and below), what is steered to sockets (steering.rs), what is too
    // much for userspace (gates.rs), and what the fence keeps out (fence.rs).
    let mut elsewhere = vec!["leg1", "leg2", "leg3", "leg4", "unanswered", "redirected", "fell_through"];
    elsewhere.extend(["reject_backlog", "fence_not_ready", "fence_engine_stalled", "fence_no_majority"]);
    elsewhere.push("fence_not_owner");
    for elsewhere in elsewhere {
        reached.insert(elsewhere);
    }
    let all: BTreeSet<_> = Counter::NAMES.into_iter().collect();
    assert_eq!(reached, all);
}

#[test]
fn a_replayed_or_overtaken_leg_is_rejected() {
    let (one, two) = (setup(1), setup(2));
    let program = Program::load(&two);
    for family in FAMILIES {
        let at = |sequence| leg_frame(1, family, &one.request(family, sequence, 1)).bytes();
        assert_eq!(program.run(&at(10)).counted, ["leg1"]);
        for sequence in [10, 9, 1] {
            assert_eq!(program.run(&at(sequence)).counted, ["reject_replay"]);
        }
        assert_eq!(program.run(&at(11)).counted, ["leg1"]);
        // Each leg has a window of its own.
        let three = one.forge(family, one.request(family, 10, 1), |leg| leg.header.kind = kind::CONFIRMATION);
        assert_eq!(program.run(&leg_frame(1, family, &three).bytes()).counted, ["leg3"]);
        assert_eq!(program.run(&leg_frame(1, family, &three).bytes()).counted, ["reject_replay"]);
    }
}

#[test]
fn a_leg_is_stamped_but_not_answered_while_the_peers_slot_is_unknown() {
    let (one, mut two) = (setup(1), setup(2));
    two.route_mut(Family::V6).remote_slot = NO_SLOT;
    let program = Program::load(&two);
    let frame = leg_frame(1, Family::V6, &good(&one, Family::V6)).bytes();
    let outcome = program.run(&frame);
    assert_eq!((outcome.action, &outcome.counted[..]), (Action::Drop, &["unanswered"][..]));
    assert_eq!(outcome.frame, frame);
    assert!(program.state(slot(2, Family::V6))[4] > 0);
}

#[test]
fn a_node_without_a_cluster_passes_everything() {
    let one = setup(1);
    let mut two = setup(2);
    two.node.cluster_id = 0;
    let program = Program::load(&two);
    let mut leg = good(&one, Family::V4);
    for cluster_id in [CLUSTER, 0] {
        leg.header.cluster_id = cluster_id;
        let outcome = program.run(&leg_frame(1, Family::V4, &leg).bytes());
        assert_eq!((outcome.action, &outcome.counted[..]), (Action::Pass, &["passed_other"][..]));
    }
}

#[test]
fn a_slot_being_changed_answers_nothing() {
    let (one, mut two) = (setup(1), setup(2));
    two.route_mut(Family::V4).generation = 0;
    let program = Program::load(&two);
    let frame = leg_frame(1, Family::V4, &good(&one, Family::V4)).bytes();
    assert_eq!(program.run(&frame).counted, ["reject_slot"]);
    two.route_mut(Family::V4).generation = 2;
    let mut program = program;
    program.set(&two);
    assert_eq!(program.run(&frame).counted, ["leg1"]);
}

#[test]
fn a_notice_reaches_only_the_tellers_own_routes() {
    const TOLD_DOWN: usize = 12;
    let (one, mut two) = (setup(1), setup(2));
    let mut stranger = *two.route(Family::V4);
    stranger.peer = 3;
    stranger.remote = address(1, Family::V6);
    two.slots.push((500, stranger));
    let program = Program::load(&two);
    let mut sequence = 0;
    let mut tell = |down_slot: u32, reason: u32| {
        sequence += 1;
        let leg = one.forge(Family::V4, one.request(Family::V4, sequence, 1), |leg| {
            leg.down_slot = down_slot;
            leg.down_reason = reason;
        });
        assert_eq!(program.run(&leg_frame(1, Family::V4, &leg).bytes()).counted, ["leg1"]);
    };
    let before_ns = boottime_ns() - 20_000_000;
    let other = slot(2, Family::V6);
    tell(other, down_reason::CARRIER);
    let told = program.state(other)[TOLD_DOWN];
    assert_eq!(told & 0xf, u64::from(down_reason::CARRIER));
    assert!(told > before_ns && told < before_ns + 5_000_000_000);
    tell(500, down_reason::CARRIER);
    assert_eq!(program.state(500)[TOLD_DOWN], 0, "another peer's route");
    tell(MAX_SLOTS, down_reason::CARRIER);
    tell(900, down_reason::ADMIN);
    assert_eq!(program.state(900)[TOLD_DOWN], 0, "a free slot");
    tell(other, 15);
    assert_eq!(program.state(other)[TOLD_DOWN], told, "an unknown reason");
    tell(other, down_reason::ADMIN);
    assert_eq!(program.state(other)[TOLD_DOWN] & 0xf, u64::from(down_reason::ADMIN));
}

#[test]
fn an_engine_that_never_ticked_is_told_as_such() {
    let (one, two) = (setup(1), setup(2));
    let outcome = Program::load(&two).run(&leg_frame(1, Family::V4, &good(&one, Family::V4)).bytes());
    let leg: Heartbeat = bytemuck::pod_read_unaligned(&outcome.frame[42..]);
    assert_eq!(leg.tick_age_ns, u64::MAX);
}
