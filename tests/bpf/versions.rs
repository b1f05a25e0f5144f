//! Legs of the wire versions that a node speaks, in the kernel and on the host.

use super::frames::leg_frame;
use super::memory::Memory;
use super::node::{FAMILIES, Setup, setup, slot};
use super::program::{Action, Program};
use netft_common::wire::{Header, Heartbeat, Versions};

/// Node `id`, which speaks versions 2 and 3, with keys that were agreed on for `version`.
fn node(id: u16, version: u8) -> Setup {
    let mut setup = setup(id);
    setup.node.versions = Versions { oldest: 2, newest: 3 };
    for family in FAMILIES {
        setup.route_mut(family).keys[0].version = version;
    }
    setup
}

fn version(frame: &[u8]) -> u8 {
    let at = frame.len() - size_of::<Heartbeat>();
    bytemuck::pod_read_unaligned::<Header>(&frame[at..at + size_of::<Header>()]).version
}

#[test]
fn legs_are_sent_and_answered_in_the_version_of_their_keys() {
    for common in [2, 3] {
        let (one, two) = (node(1, common), node(2, common));
        let (program, memory) = (Program::load(&two), Memory::new(&two));
        for family in FAMILIES {
            let leg = one.request(family, 1, 1_000_000);
            assert_eq!(leg.header.version, common);
            let frame = leg_frame(1, family, &leg).bytes();
            let outcome = program.run(&frame);
            assert_eq!((outcome.action, &outcome.counted[..]), (Action::Reply, &["leg1"][..]));
            assert_eq!(version(&outcome.frame), common, "{family:?}");
            let outcome = memory.run(&frame);
            assert_eq!(outcome.action, Action::Reply);
            assert_eq!(version(&outcome.frame), common, "{family:?}, on the host");
        }
    }
}

#[test]
fn legs_of_any_other_version_are_counted_and_leave_nothing() {
    for common in [2, 3] {
        let (one, program) = (node(1, common), Program::load(&node(2, common)));
        for family in FAMILIES {
            for version in (0..=u8::MAX).filter(|version| *version != common) {
                // Made with the right keys, even.
                let leg =
                    one.forge(family, one.request(family, 1, 1_000_000), |leg| leg.header.version = version);
                let outcome = program.run(&leg_frame(1, family, &leg).bytes());
                assert_eq!(
                    (outcome.action, &outcome.counted[..]),
                    (Action::Drop, &["reject_version"][..]),
                    "{version}"
                );
            }
            assert_eq!(program.state(slot(2, family)), [0; 16], "{family:?}");
        }
    }
}
