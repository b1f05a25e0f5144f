//! What userspace has no room for is dropped before it costs anything, each kind of it by itself.

use super::frames::frame;
use super::node::{FAMILIES, Family, setup};
use super::program::{Action, Program};
use super::steering::{message, node};
use netft_common::map::{COMMON_GATE, gate_index};
use netft_common::wire::{self, kind};

const INTERFACE: u16 = 5;

fn gate(family: Family) -> u32 {
    gate_index(INTERFACE, family == Family::V6)
}

/// What is counted for a message of each sort: data on a route, a probe on it, data that names none, a hello.
fn counted(program: &Program, family: Family) -> [&'static str; 4] {
    let data = message(family, kind::DATA, |_| ());
    let probe = message(family, kind::PROBE, |_| ());
    let stray = message(family, kind::DATA, |header| header.slot = wire::NO_SLOT);
    let hello = message(family, kind::HELLO, |_| ());
    [data, probe, stray, hello].map(|message| {
        let outcome = program.run(&frame(1, family, &message).bytes());
        let [counter] = outcome.counted[..] else { panic!("{:?}", outcome.counted) };
        let expected = if counter == "reject_backlog" { Action::Drop } else { Action::Pass };
        assert_eq!(outcome.action, expected, "{counter}");
        counter
    })
}

const PASSED: &str = "passed_userspace";
const REFUSED: &str = "reject_backlog";

#[test]
fn a_gate_without_a_limit_is_open() {
    for family in FAMILIES {
        let program = Program::load(&node(family));
        for _ in 0..100 {
            assert_eq!(counted(&program, family), [PASSED; 4]);
        }
        assert_eq!((program.passed(gate(family)), program.passed(COMMON_GATE)), (200, 200));
    }
}

#[test]
fn each_gate_lets_through_what_its_limit_says_and_no_other_suffers() {
    for family in FAMILIES {
        let mut program = Program::load(&node(family));
        program.set_limit(gate(family), 3);
        assert_eq!(counted(&program, family), [PASSED; 4]);
        assert_eq!(counted(&program, family), [PASSED, REFUSED, PASSED, PASSED]);
        program.set_limit(COMMON_GATE, 5);
        assert_eq!(counted(&program, family), [REFUSED, REFUSED, PASSED, REFUSED]);
        assert_eq!((program.passed(gate(family)), program.passed(COMMON_GATE)), (3, 5));
        // Userspace has taken some.
        program.set_limit(gate(family), 4);
        program.set_limit(COMMON_GATE, 7);
        assert_eq!(counted(&program, family), [PASSED, REFUSED, PASSED, PASSED]);
        assert_eq!(counted(&program, family), [REFUSED; 4]);
    }
}

#[test]
fn what_is_sent_to_somebody_else_passes_shut_gates() {
    for family in FAMILIES {
        let mut setup = setup(2);
        setup.local.clear();
        let mut program = Program::load(&setup);
        program.set_limit(COMMON_GATE, 1);
        for kind in [kind::HELLO, kind::DATA] {
            let stray = message(family, kind, |header| header.slot = wire::NO_SLOT);
            for _ in 0..3 {
                assert_eq!(program.run(&frame(1, family, &stray).bytes()).counted, [PASSED]);
            }
        }
        assert_eq!(program.passed(COMMON_GATE), 0);
    }
}
