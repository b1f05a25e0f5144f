//! What the detection thread does per delay, as the number of routes grows: every wake, leg 1, verdict and store of
//! one millisecond at 1 ms × 5, without the system calls of the shell; and what one look at all routes costs.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use netft_common::map::MAX_SLOTS;
use netft_core::detect::{
    Adopted, DampingConfig, Detector, DetectorCommand, DetectorConfig, Evidence, RouteSetup, SlotEvidence,
};
use netft_core::types::{InterfaceNumber, LinkState, Nanos, NodeId, Slot, Timing};
use std::hint::black_box;

const MS: Nanos = 1_000_000;
const ROUTES_PER_PEER: u32 = 4;

struct Memory(Vec<SlotEvidence>);

impl Evidence for Memory {
    fn read(&self, slot: Slot) -> SlotEvidence {
        self.0[slot.index()]
    }
    fn told_down(&self, slot: Slot) -> u64 {
        self.0[slot.index()].told_down
    }
}

struct Rig {
    detector: Detector,
    memory: Memory,
    now: Nanos,
}

impl Rig {
    /// Routes that are up, four to each peer on four interfaces.
    fn new(routes: u32) -> Self {
        let config = DetectorConfig {
            up_run: 3,
            fail_back_hold_ns: 1_000 * MS,
            engine_timeout_ns: 250 * MS,
            damping: DampingConfig::default(),
        };
        let mut detector = Detector::new(config, NodeId::new(1).expect("1 is an id"));
        let now = 1_000_000 * MS;
        for index in 0..routes {
            let peer = 2 + index / ROUTES_PER_PEER;
            let interface = u8::try_from(index % ROUTES_PER_PEER).expect("small");
            let setup = RouteSetup {
                slot: Slot::new(index).expect("below the limit"),
                peer: u16::try_from(peer).ok().and_then(NodeId::new).expect("below the limit"),
                interface: InterfaceNumber::new(interface).expect("small"),
                metric: index,
                timing: Timing { delay_ns: MS, threshold: 5 },
                first_sequence: 1,
                adopted: Adopted::Up,
            };
            detector.handle_command(now, DetectorCommand::SetRoute(setup));
        }
        let memory = Memory(vec![SlotEvidence::default(); MAX_SLOTS as usize]);
        let mut rig = Self { detector, memory, now };
        (0..20).for_each(|_| rig.run_1_ms());
        rig
    }

    /// Everything that the detector does in a millisecond; each leg 1 completes at once.
    fn run_1_ms(&mut self) {
        let end = self.now + MS;
        while self.detector.poll_timeout() <= end {
            self.now = self.detector.poll_timeout();
            self.detector.handle_timeout(self.now, &self.memory);
            self.drain();
        }
        self.now = end;
    }

    fn drain(&mut self) {
        while let Some(store) = self.detector.poll_store() {
            black_box(store);
        }
        while let Some(request) = self.detector.poll_transmit(self.now) {
            let seen = &mut self.memory.0[request.slot.index()];
            seen.highest = [0, request.sequence, 0, request.sequence];
            seen.arrival_ns = [0, self.now + 20_000, 0, self.now + 40_000];
            seen.rtt_ns = 20_000;
            seen.completed_sent_ns = self.now;
            seen.peer_tick_ns = self.now;
        }
        while let Some(event) = self.detector.poll_event() {
            black_box(event);
        }
    }
}

fn pace(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("detector, per millisecond");
    for routes in [2, 10, 100, 1000] {
        let mut rig = Rig::new(routes);
        group.throughput(Throughput::Elements(u64::from(routes)));
        group.bench_function(format!("{routes} routes"), |bencher| bencher.iter(|| rig.run_1_ms()));
    }
}

/// A wake that finds no route due: what looking at all of them costs.
fn sweep(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("detector, judgement sweep with nothing due");
    for routes in [10, 100, 1000] {
        let mut rig = Rig::new(routes);
        // Just before the wake that it asks for everything before has been dealt with.
        while rig.detector.poll_timeout() - rig.now < 40_000 {
            rig.now = rig.detector.poll_timeout();
            rig.detector.handle_timeout(rig.now, &rig.memory);
            rig.drain();
        }
        let requests = rig.detector.counters().requests;
        group.bench_function(format!("{routes} routes"), |bencher| {
            bencher.iter(|| rig.detector.handle_timeout(black_box(rig.now), &rig.memory));
        });
        assert_eq!(rig.detector.counters().requests, requests, "nothing was due");
    }
}

fn dead_nic(criterion: &mut Criterion) {
    let mut rig = Rig::new(1000);
    let interface = InterfaceNumber::new(0).expect("small");
    criterion.bench_function("dead NIC with 250 of 1000 routes, and back", |bencher| {
        bencher.iter(|| {
            for link in [LinkState::NoCarrier, LinkState::Up] {
                rig.detector.handle_command(rig.now, DetectorCommand::SetLink(interface, link));
                rig.drain();
            }
        });
    });
}

criterion_group!(benches, pace, sweep, dead_nic);
criterion_main!(benches);
