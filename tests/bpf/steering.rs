//! Which data frames XDP gives to AF_XDP sockets, and that all of them reach the kernel while there is no socket.

use super::frames::{TAGS, frame};
use super::node::{EPOCH, FAMILIES, Family, Setup, setup, slot};
use super::program::{Action, Program};
use netft_common::map::{DataPath, Steering, socket_index};
use netft_common::wire::{self, DATA_TAG_LEN, Data, Header, kind};
use socket2::{Domain, Socket, Type};

/// Test runs come in by the loopback device, queue 0.
const INGRESS: u32 = 1;
const HERE: DataPath = DataPath { ifindex: INGRESS, steering: Steering::Everything, generation: 7 };

/// A data message or probe from node 1 to node 2; XDP doesn't look at the tag.
pub fn message(family: Family, kind: u8, change: impl FnOnce(&mut Header)) -> Vec<u8> {
    let mut header = Header {
        magic: wire::MAGIC,
        version: wire::VERSION,
        kind,
        flags: 0,
        cluster_id: super::node::CLUSTER,
        source: 1,
        destination: 2,
        slot: slot(2, family),
        key_epoch: EPOCH,
        sequence: 1,
    };
    change(&mut header);
    [bytemuck::bytes_of(&Data { header, tag: [0; DATA_TAG_LEN] }), &[7; 60]].concat()
}

/// Node 2 with its route of `family` on interface 5.
pub fn node(family: Family) -> Setup {
    let mut two = setup(2);
    two.route_mut(family).interface = 5;
    two
}

fn counted(program: &Program, bytes: &[u8]) -> &'static str {
    let outcome = program.run(bytes);
    assert_eq!(outcome.action, Action::Pass, "{:?}", outcome.counted);
    assert_eq!(outcome.frame, bytes, "untouched");
    let [counter] = outcome.counted[..] else { panic!("{:?}", outcome.counted) };
    counter
}

#[test]
fn data_on_a_route_falls_through_to_the_kernel_while_its_queue_has_no_socket() {
    for family in FAMILIES {
        let mut program = Program::load(&node(family));
        for tag in TAGS {
            let of = |kind| frame(1, family, &message(family, kind, |_| ())).tagged(tag).bytes();
            let counters = |program: &Program| {
                [kind::DATA, kind::PROBE, kind::HELLO].map(|kind| counted(program, &of(kind)))
            };
            program.set_path(5, DataPath::default());
            assert_eq!(counters(&program), ["passed_userspace"; 3]);
            program.set_path(5, DataPath { steering: Steering::Probes, ..HERE });
            assert_eq!(counters(&program), ["passed_userspace", "fell_through", "passed_userspace"]);
            program.set_path(5, HERE);
            assert_eq!(counters(&program), ["fell_through", "fell_through", "passed_userspace"]);
        }
    }
}

#[test]
fn data_that_came_in_by_another_device_goes_to_the_kernel() {
    let family = Family::V4;
    let mut program = Program::load(&node(family));
    program.set_path(5, DataPath { ifindex: INGRESS + 1, ..HERE });
    let bytes = frame(1, family, &message(family, kind::DATA, |_| ())).bytes();
    assert_eq!(counted(&program, &bytes), "fell_through");
}

#[test]
fn what_travels_no_route_of_ours_is_never_steered() {
    for family in FAMILIES {
        let mut program = Program::load(&node(family));
        program.set_path(5, HERE);
        // There is a socket, but not for these.
        let socket = bare_socket();
        program.set_socket(socket_index(5, 0), &socket);
        let plain = message(family, kind::DATA, |_| ());
        let cases = [
            ("another slot", frame(1, family, &message(family, kind::DATA, |header| header.slot += 1))),
            ("no slot", frame(1, family, &message(family, kind::DATA, |header| header.slot = wire::NO_SLOT))),
            ("another source", frame(1, family, &plain).with(|frame| *source(frame, family) ^= 1)),
            ("another destination", {
                frame(1, family, &plain).with(|frame| *frame.ip.last_mut().expect("headers") ^= 1)
            }),
            ("a first fragment", fragment(frame(1, family, &plain), family)),
        ];
        for (name, frame) in cases {
            assert_eq!(counted(&program, &frame.bytes()), "passed_userspace", "{name}");
        }
    }
}

/// A socket that is bound to nothing: XDP finds it, and in a test run nothing is put into it.
fn bare_socket() -> Socket {
    const AF_XDP: i32 = 44;
    Socket::new(Domain::from(AF_XDP), Type::RAW, None).expect("the kernel has CONFIG_XDP_SOCKETS")
}

#[test]
fn data_on_a_route_is_given_to_the_socket_of_its_interface_and_queue() {
    let socket = bare_socket();
    for family in FAMILIES {
        let mut program = Program::load(&node(family));
        let run = |program: &Program, kind: u8, tag| {
            let bytes = frame(1, family, &message(family, kind, |_| ())).tagged(tag).bytes();
            let outcome = program.run(&bytes);
            assert_eq!(outcome.frame, bytes, "untouched");
            (outcome.action, outcome.counted)
        };
        let (given, fallen) = ((Action::Redirect, vec!["redirected"]), (Action::Pass, vec!["fell_through"]));
        let kernels = (Action::Pass, vec!["passed_userspace"]);
        program.set_path(5, HERE);
        // Another queue's and another interface's socket are none of this one's.
        program.set_socket(socket_index(5, 1), &socket);
        program.set_socket(socket_index(6, 0), &socket);
        assert_eq!(run(&program, kind::DATA, TAGS[0]), fallen);
        program.set_socket(socket_index(5, 0), &socket);
        for tag in TAGS {
            let kinds = |program: &Program| {
                [kind::DATA, kind::PROBE, kind::HELLO].map(|kind| run(program, kind, tag))
            };
            program.set_path(5, HERE);
            assert_eq!(kinds(&program), [given.clone(), given.clone(), kernels.clone()]);
            program.set_path(5, DataPath { steering: Steering::Probes, ..HERE });
            assert_eq!(kinds(&program), [kernels.clone(), given.clone(), kernels.clone()]);
            program.set_path(5, DataPath { steering: Steering::Nothing, ..HERE });
            assert_eq!(kinds(&program), [kernels.clone(), kernels.clone(), kernels.clone()]);
            program.set_path(5, DataPath { ifindex: INGRESS + 1, ..HERE });
            assert_eq!(kinds(&program), [fallen.clone(), fallen.clone(), kernels.clone()]);
        }
    }
}

#[test]
fn a_socket_that_is_closed_is_given_nothing_more() {
    let family = Family::V4;
    let mut program = Program::load(&node(family));
    program.set_path(5, HERE);
    let bytes = frame(1, family, &message(family, kind::DATA, |_| ())).bytes();
    let socket = bare_socket();
    program.set_socket(socket_index(5, 0), &socket);
    assert_eq!(program.run(&bytes).action, Action::Redirect);
    drop(socket);
    assert_eq!(counted(&program, &bytes), "fell_through");
}

/// Last byte of the source address.
fn source(frame: &mut super::frames::Frame, family: Family) -> &mut u8 {
    &mut frame.ip[if family == Family::V4 { 15 } else { 23 }]
}

fn fragment(frame: super::frames::Frame, family: Family) -> super::frames::Frame {
    frame.with(|frame| match family {
        Family::V4 => frame.ip[6] |= 0x20,
        Family::V6 => {
            frame.ip[6] = 44;
            frame.ip.extend([17, 0, 0, 1, 0, 0, 0, 9]);
            let len = u16::from_be_bytes([frame.ip[4], frame.ip[5]]) + 8;
            frame.ip[4..6].copy_from_slice(&len.to_be_bytes());
        }
    })
}
