//! What a run costs: printed always, bounded generously, because shared machines are noisy.

use super::frames::leg_frame;
use super::node::{FAMILIES, Family, Setup, setup, slot};
use super::program::{Log, Program, boottime_ns};
use aya::programs::{TestRun, TestRunOptions};
use netft_common::map::{KeySet, SlotConfig};
use netft_common::wire::kind;

const REPEAT: u32 = 200_000;

/// Nanoseconds per run of one frame, the best of five.
fn run_ns(program: &Program, frame: &[u8]) -> u128 {
    let once = || {
        let mut out = vec![0; frame.len() + 64];
        let options = TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut out),
            repeat: REPEAT,
            ..TestRunOptions::new()
        };
        program.xdp().test_run(options).expect("the kernel runs it").duration.as_nanos()
    };
    (0..5).map(|_| once()).min().unwrap_or(0)
}

#[test]
fn verifying_and_running_stay_cheap() {
    let (one, two) = (setup(1), setup(2));
    let [(off, verified), (on, verified_on)] = [Log::Off, Log::On].map(|log| {
        let program = Program::load_with(&two, log);
        let info = program.xdp().info().expect("the kernel tells");
        let (size, verified) = (info.size_translated(), info.verified_instruction_count().unwrap_or(0));
        println!("netft, log {log:?}: {} instructions, verifier looked at {verified}", size.unwrap_or(0) / 8);
        assert!(verified < 200_000, "the verifier gives up at 1 000 000");
        (program, verified)
    });
    assert!(verified < verified_on, "the verifier doesn't look at a log that is off");
    for (log, program) in [("off", &off), ("on", &on)] {
        println!("log {log}");
        runs(&one, program);
    }
    let [answered_ns, foreign_ns] = cold_ns();
    println!(
        "V4, the first runs after a system call: a leg answered {answered_ns} ns, a foreign frame {foreign_ns} ns"
    );
}

fn runs(one: &Setup, program: &Program) {
    for family in FAMILIES {
        // Checked up to and with the tag, then rejected: a repeated frame isn't changed and is never new.
        let leg = one.forge(family, one.request(family, 1, boottime_ns()), |leg| leg.header.sequence = 0);
        let rejected_ns = run_ns(program, &leg_frame(1, family, &leg).bytes());
        let hello = leg_frame(1, family, &leg).with(|frame| frame.payload[5] = kind::HELLO);
        let passed_ns = run_ns(program, &hello.bytes());
        let foreign = leg_frame(1, family, &leg).with(|frame| frame.udp[1] ^= 1);
        let foreign_ns = run_ns(program, &foreign.bytes());
        println!(
            "{family:?}: foreign {foreign_ns} ns, hello {passed_ns} ns, leg up to the replay check {rejected_ns} ns"
        );
        assert!(rejected_ns < 2_000, "{rejected_ns} ns");
    }
}

/// Median nanoseconds of a leg that is checked and answered, and of a foreign frame, three runs to a call. A frame
/// is answered once only, so this can't be repeated in a loop: node 1 plays both ends on one slot, and the three runs
/// are legs 1, 2 and 3 of one heartbeat, each made by the run before. Caches are cold, as when a packet arrives.
fn cold_ns() -> [u128; 2] {
    // The kernel takes 20 ms to start a repeated run.
    const CALLS: u64 = 100;
    let mut both = setup(1);
    let own = *both.route(Family::V4);
    *both.route_mut(Family::V4) = SlotConfig {
        remote: own.local,
        keys: [
            KeySet::sending(own.keys[0].epoch, own.keys[0].send_key, own.keys[0].send_key),
            KeySet::default(),
        ],
        peer: 1,
        remote_slot: slot(1, Family::V4),
        ..own
    };
    let program = Program::load(&both);
    let three_runs = |bytes: &[u8]| {
        let mut out = vec![0; bytes.len() + 64];
        let options = TestRunOptions {
            data_in: Some(bytes),
            data_out: Some(&mut out),
            repeat: 3,
            ..TestRunOptions::new()
        };
        program.xdp().test_run(options).expect("the kernel runs it").duration.as_nanos()
    };
    let (mut answered, mut foreign) = (Vec::new(), Vec::new());
    for sequence in 1..=CALLS {
        let leg = both.request(Family::V4, sequence, boottime_ns());
        let frame = leg_frame(1, Family::V4, &leg).with(|frame| frame.ip.copy_within(12..16, 16));
        answered.push(three_runs(&frame.bytes()));
        foreign.push(three_runs(&frame.with(|frame| frame.udp[1] ^= 1).bytes()));
    }
    assert_eq!(program.state(slot(1, Family::V4))[..4], [CALLS, CALLS, CALLS, 0]);
    [answered, foreign].map(|mut times| {
        times.sort_unstable();
        times[times.len() / 2]
    })
}
