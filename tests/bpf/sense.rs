//! A CPU that handles legs ticks, and rests when there are none.

use super::frames::{TAGS, frame, leg_frame};
use super::node::{Family, setup};
use super::program::{Action, Program, boottime_ns};
use netft_common::map::{CpuTick, cpu_tick};
use std::time::{Duration, Instant};

fn running(program: &Program) -> Vec<CpuTick> {
    program.cpus().into_iter().filter(|tick| tick.state == cpu_tick::RUNNING).collect()
}

/// Asks again until it is so; a busy machine may take its time.
fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < Duration::from_secs(10), "not within 10 s: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_cpu_that_handles_legs_ticks_until_it_has_none() {
    let (one, program) = (setup(1), Program::load(&setup(2)));
    assert_eq!(program.run(&frame(1, Family::V6, b"no leg").tagged(TAGS[0]).bytes()).action, Action::Pass);
    assert!(program.cpus().iter().all(|tick| *tick == CpuTick::default()), "only legs count");

    let leg = one.request(Family::V6, 1, boottime_ns());
    assert_eq!(program.run(&leg_frame(1, Family::V6, &leg).bytes()).action, Action::Reply);
    let first = running(&program);
    let [first] = first[..] else { panic!("the CPU that it ran on, and no other: {first:?}") };
    assert!(first.tick_ns >= first.used_ns);
    eventually("it ticks", || running(&program).first().is_some_and(|tick| tick.tick_ns > first.tick_ns));
    eventually("it rests a second after its last leg", || running(&program).is_empty());

    let leg = one.request(Family::V6, 2, boottime_ns());
    program.run(&leg_frame(1, Family::V6, &leg).bytes());
    let again = running(&program);
    let [again] = again[..] else { panic!("it runs again: {again:?}") };
    eventually("it ticks again", || {
        running(&program).first().is_some_and(|tick| tick.tick_ns > again.tick_ns)
    });
}
