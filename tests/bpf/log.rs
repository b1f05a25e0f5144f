//! What the program tells about refused frames: why, from where, and nothing unless it is asked to.

use super::frames::{Frame, TAGS, leg_frame};
use super::node::{EPOCH, FAMILIES, Family, Setup, setup, slot};
use super::program::{Log as Wish, Outcome, Program, boottime_ns};
use aya_log::EbpfLogger;
use log::{Level, Log, Metadata, Record};
use netft_common::map::{COMMON_GATE, Counter};
use std::sync::{Arc, Mutex};

/// Keeps lines.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<String>>>);

impl Log for Lines {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }
    fn log(&self, record: &Record<'_>) {
        assert_eq!((record.target(), record.level()), ("xdp", Level::Debug));
        self.0.lock().expect("no line panics").push(record.args().to_string());
    }
    fn flush(&self) {}
}

/// A program, and what it tells.
struct Told {
    program: Program,
    reader: EbpfLogger<Lines>,
    lines: Lines,
}

impl Told {
    fn load(wish: Wish) -> Self {
        let mut program = Program::load_with(&setup(2), wish);
        let lines = Lines::default();
        let reader = program.log_to(lines.clone());
        Self { program, reader, lines }
    }

    fn read(&mut self) -> Vec<String> {
        self.reader.flush();
        std::mem::take(&mut self.lines.0.lock().expect("no line panics"))
    }

    fn run(&mut self, frame: &Frame) -> (Outcome, Vec<String>) {
        (self.program.run(&frame.bytes()), self.read())
    }
}

/// A leg 1 that would be accepted.
fn good(one: &Setup, family: Family) -> Frame {
    leg_frame(1, family, &one.request(family, 1, boottime_ns()))
}

/// Of a counter: the program names reasons so.
fn number(counter: &str) -> usize {
    Counter::NAMES.iter().position(|name| *name == counter).expect("a counter")
}

/// Frames that are refused, each with the line that tells it.
fn refused(one: &Setup, family: Family) -> Vec<(Frame, String)> {
    let (from, elsewhere) = match family {
        Family::V4 => ("::ffff:10.77.1.1", "::ffff:10.77.1.99"),
        Family::V6 => ("fd77:1::1", "fd77:1::63"),
    };
    let route = slot(2, family);
    let with = |change: fn(&mut Frame)| good(one, family).with(change);
    let forged = |change: fn(&mut netft_common::wire::Heartbeat)| {
        leg_frame(1, family, &one.forge(family, one.request(family, 1, boottime_ns()), change))
    };
    let line = |why: &str, kind: u8, from: &str, node: u16, slot: u32| {
        format!(
            "XDP refused a frame: reason {}, kind {kind} from {from} (node {node}) for slot {slot}, by interface 1",
            number(why)
        )
    };
    let plain = |why: &str| line(why, 1, from, 1, route);
    vec![
        (with(|frame| frame.payload[80] ^= 1), plain("reject_tag")),
        (with(|frame| frame.payload[4] = 9), plain("reject_version")),
        (with(|frame| frame.payload[5] = 200), line("reject_kind", 200, from, 1, route)),
        (with(|frame| frame.payload.truncate(60)), plain("reject_truncated")),
        (
            with(|frame| frame.payload.truncate(20)),
            format!(
                "XDP refused a frame: reason {}, from {from}, by interface 1",
                number("reject_truncated")
            ),
        ),
        (forged(|leg| leg.header.slot = 70_000), line("reject_slot", 1, from, 1, 70_000)),
        (forged(|leg| leg.header.source = 300), line("reject_source", 1, from, 300, route)),
        (forged(|leg| leg.header.destination = 3), plain("reject_destination")),
        (forged(|leg| leg.header.key_epoch = EPOCH + 1), plain("reject_epoch")),
        (forged(|leg| leg.header.sequence = 0), plain("reject_replay")),
        (
            forged(|leg| {
                leg.header.kind = 2;
                leg.initiator_sent_ns = u64::MAX;
            }),
            line("reject_stamp", 2, from, 1, route),
        ),
        (
            with(|frame| {
                let at = if frame.ip.len() == 20 { 15 } else { 23 };
                frame.ip[at] = 99;
            }),
            line("reject_source", 1, elsewhere, 1, route),
        ),
        (
            good(one, family).with(|frame| match frame.ip.len() {
                20 => frame.ip[6] = 0x20,
                _ => {
                    frame.ip[6] = 44;
                    frame.ip[5] += 8;
                    frame.ip.extend([17, 0, 0, 1, 0, 0, 0, 7]);
                }
            }),
            plain("reject_fragment"),
        ),
    ]
}

#[test]
fn a_refused_frame_is_told_with_reason_source_and_slot() {
    let one = setup(1);
    let mut told = Told::load(Wish::On);
    let mut reasons = std::collections::BTreeSet::new();
    for family in FAMILIES {
        for tag in TAGS {
            for (frame, line) in refused(&one, family) {
                let (outcome, lines) = told.run(&frame.tagged(tag));
                assert_eq!(lines, std::slice::from_ref(&line));
                assert!(
                    line.contains(&format!("reason {},", number(outcome.counted[0]))),
                    "{line}: {outcome:?}"
                );
                reasons.insert(outcome.counted[0]);
            }
        }
    }
    // A hello for which userspace has no room.
    told.program.set_limit(COMMON_GATE, 1);
    let hello = good(&one, Family::V4).with(|frame| frame.payload[5] = netft_common::wire::kind::HELLO);
    assert_eq!(told.run(&hello).1, Vec::<String>::new());
    let (outcome, lines) = told.run(&hello);
    assert!(lines[0].contains(&format!("reason {}, kind 16 ", number("reject_backlog"))), "{lines:?}");
    reasons.insert(outcome.counted[0]);
    let all: Vec<_> = Counter::NAMES.into_iter().filter(|name| name.starts_with("reject_")).collect();
    assert_eq!(reasons.len(), all.len(), "every reason: {reasons:?}");
}

#[test]
fn nothing_is_told_of_frames_that_are_not_refused() {
    let one = setup(1);
    let mut told = Told::load(Wish::On);
    for family in FAMILIES {
        let good = good(&one, family);
        let foreign = good.clone().with(|frame| frame.udp[1] ^= 1);
        let hello = good.clone().with(|frame| frame.payload[5] = netft_common::wire::kind::HELLO);
        for (frame, counter) in [(good, "leg1"), (foreign, "passed_other"), (hello, "passed_userspace")] {
            let (outcome, lines) = told.run(&frame);
            assert_eq!((outcome.counted[0], lines), (counter, Vec::<String>::new()));
        }
    }
}

#[test]
fn the_log_changes_no_verdict_and_says_nothing_while_it_is_off() {
    let one = setup(1);
    let (mut off, mut on) = (Told::load(Wish::Off), Told::load(Wish::On));
    for family in FAMILIES {
        for (frame, line) in refused(&one, family) {
            let (outcome, lines) = off.run(&frame);
            assert_eq!(lines, Vec::<String>::new());
            assert_eq!(outcome, on.run(&frame).0, "{line}");
        }
    }
}

#[test]
fn a_log_that_nobody_reads_fills_up_and_frames_are_refused_as_before() {
    const FRAMES: usize = 2000;
    let one = setup(1);
    let mut told = Told::load(Wish::On);
    let (frame, line) = refused(&one, Family::V6).swap_remove(0);
    let bytes = frame.bytes();
    for _ in 0..FRAMES {
        assert_eq!(told.program.run(&bytes).counted, ["reject_tag"]);
    }
    let lines = told.read();
    assert!((100..FRAMES).contains(&lines.len()), "{}", lines.len());
    assert_eq!(lines.iter().find(|told| **told != line), None);
    assert_eq!(told.run(&frame).1, [line], "and it goes on");
}
