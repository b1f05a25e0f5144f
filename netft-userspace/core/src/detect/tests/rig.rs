//! A detector, a clock, and an ideal far end whose XDP answers as long as the path lets it.

use crate::detect::{
    Adopted, DampingConfig, Detector, DetectorCommand, DetectorConfig, DetectorEvent, Evidence,
    RequestTransmit, RouteRecord, RouteSetup, RouteView, SlotEvidence, StoreCommand,
};
use crate::types::{InterfaceNumber, LinkState, Nanos, NodeId, NodeState, RouteState, Slot, Timing};

pub const US: Nanos = 1_000;
pub const MS: Nanos = 1_000_000;
pub const SECOND: Nanos = 1_000_000_000;
pub const START: Nanos = 1_000 * SECOND;
pub const TIMING: Timing = Timing { delay_ns: MS, threshold: 5 };
pub const CONFIG: DetectorConfig = DetectorConfig {
    up_run: 3,
    fail_back_hold_ns: SECOND,
    engine_timeout_ns: 250 * MS,
    damping: DampingConfig { flap_limit: 4, half_life_ns: 2 * SECOND, longest_ns: 10 * SECOND },
};

pub fn slot(index: u32) -> Slot {
    Slot::new(index).unwrap()
}

pub fn node(id: u16) -> NodeId {
    NodeId::new(id).unwrap()
}

pub fn interface(number: u8) -> InterfaceNumber {
    InterfaceNumber::new(number).unwrap()
}

/// Route `index` to `peer` over interface `index`, metric growing with the index.
pub fn setup(index: u32, peer: u16) -> RouteSetup {
    RouteSetup {
        slot: slot(index),
        peer: node(peer),
        interface: interface(u8::try_from(index % 64).unwrap()),
        metric: 100 + index,
        timing: TIMING,
        first_sequence: 1,
        adopted: Adopted::No,
    }
}

/// One path and the host at its end.
#[derive(Clone, Copy)]
pub struct Path {
    pub seen: SlotEvidence,
    /// Our legs get there.
    pub there: bool,
    /// Theirs get here.
    pub back: bool,
    pub rtt_ns: Nanos,
    /// When the far engine last ticked; `None` = it ticks all the time.
    pub ticked_ns: Option<Nanos>,
    /// Whether the far engine sends leg 1s of its own.
    pub initiates: bool,
    next_initiated_ns: Nanos,
}

pub struct Wire {
    pub paths: Vec<Path>,
    /// Leg 1s under way: (when leg 4 is back, slot, sequence, sent).
    under_way: Vec<(Nanos, usize, u64, Nanos)>,
    /// Since when a CPU of this host doesn't handle what it receives: nothing arrives.
    pub standstill_ns: Option<Nanos>,
}

impl Evidence for Wire {
    fn read(&self, slot: Slot) -> SlotEvidence {
        self.paths[slot.index()].seen
    }

    fn receive_silent_ns(&self, now: Nanos) -> Nanos {
        self.standstill_ns.map_or(0, |since_ns| now - since_ns)
    }
}

impl Wire {
    /// Sends a leg 1 off.
    pub fn carry(&mut self, now: Nanos, request: RequestTransmit) {
        let index = request.slot.index();
        let path = &self.paths[index];
        if path.there {
            self.under_way.push((now + 2 * path.rtt_ns, index, request.sequence, now));
        }
    }

    pub fn advance(&mut self, now: Nanos) {
        if self.standstill_ns.is_some() {
            return;
        }
        self.under_way.sort_unstable();
        while let Some(&(at, index, sequence, sent)) = self.under_way.first()
            && at <= now
        {
            self.under_way.remove(0);
            let path = &mut self.paths[index];
            if !path.back {
                continue;
            }
            path.seen.highest[1] = sequence;
            path.seen.arrival_ns[1] = at - path.rtt_ns;
            path.seen.rtt_ns = path.rtt_ns;
            path.seen.peer_tick_ns = path.ticked_ns.unwrap_or(sent).min(sent);
            if path.there {
                path.seen.highest[3] = sequence;
                path.seen.arrival_ns[3] = at;
                path.seen.completed_sent_ns = sent;
            }
        }
        for path in &mut self.paths {
            while path.initiates && path.next_initiated_ns <= now {
                let at = path.next_initiated_ns;
                path.next_initiated_ns += MS;
                if path.back && at + path.rtt_ns <= now {
                    path.seen.highest[0] += 1;
                    path.seen.arrival_ns[0] = at;
                    if path.there {
                        path.seen.highest[2] = path.seen.highest[0];
                        path.seen.arrival_ns[2] = at + path.rtt_ns;
                        path.seen.confirmed_sent_ns = at;
                    }
                }
            }
        }
    }
}

pub struct Rig {
    pub detector: Detector,
    pub now: Nanos,
    pub wire: Wire,
    pub records: Vec<RouteRecord>,
    pub events: Vec<DetectorEvent>,
    pub stores: Vec<StoreCommand>,
    pub requests: Vec<(Nanos, RequestTransmit)>,
    pub wakes: u64,
}

impl Rig {
    /// Knows `paths` good paths, watches nothing yet.
    pub fn new(paths: usize) -> Self {
        let path = Path {
            seen: SlotEvidence::default(),
            there: true,
            back: true,
            rtt_ns: 20 * US,
            ticked_ns: None,
            initiates: false,
            next_initiated_ns: START + 300 * US,
        };
        Self {
            detector: Detector::new(CONFIG, node(1)),
            now: START,
            wire: Wire { paths: vec![path; paths], under_way: Vec::new(), standstill_ns: None },
            records: Vec::new(),
            events: Vec::new(),
            stores: Vec::new(),
            requests: Vec::new(),
            wakes: 0,
        }
    }

    /// Watches slots `0..count`, all to node 2, and waits until they are up.
    pub fn with_routes(count: u32) -> Self {
        let mut rig = Self::new(count as usize);
        (0..count).for_each(|index| rig.command(DetectorCommand::SetRoute(setup(index, 2))));
        rig.run(10 * MS);
        assert!((0..count).all(|index| rig.state(index) == RouteState::Up));
        rig.forget();
        rig
    }

    pub fn forget(&mut self) {
        self.records.clear();
        self.events.clear();
        self.stores.clear();
        self.requests.clear();
        self.wakes = 0;
    }

    pub fn command(&mut self, command: DetectorCommand) {
        self.detector.handle_command(self.now, command);
        self.drain();
    }

    pub fn set_link(&mut self, number: u8, link: LinkState) {
        self.command(DetectorCommand::SetLink(interface(number), link));
    }

    pub fn drain(&mut self) {
        while let Some(store) = self.detector.poll_store() {
            self.stores.push(store);
        }
        while let Some(request) = self.detector.poll_transmit(self.now) {
            self.requests.push((self.now, request));
            self.wire.carry(self.now, request);
        }
        while let Some(event) = self.detector.poll_event() {
            if let DetectorEvent::Route(record) = event {
                self.records.push(record);
            }
            self.events.push(event);
        }
    }

    /// Calls the detector now, whatever it asked for.
    pub fn wake(&mut self) {
        self.wire.advance(self.now);
        self.detector.handle_timeout(self.now, &self.wire);
        self.wakes += 1;
        self.drain();
    }

    /// Lets time pass, waking exactly when asked.
    pub fn run(&mut self, span: Nanos) {
        let end = self.now + span;
        while self.detector.poll_timeout() <= end {
            self.now = self.detector.poll_timeout().max(self.now);
            self.wake();
        }
        self.now = end;
        self.wire.advance(end);
    }

    /// Lets time pass without a wake, then wakes: a stall, unless nothing was asked for meanwhile.
    pub fn stall(&mut self, span: Nanos) {
        self.now += span;
        self.wake();
    }

    pub fn run_until_record(&mut self, limit: Nanos) -> RouteRecord {
        let end = self.now + limit;
        while self.records.is_empty() && self.detector.poll_timeout() <= end {
            self.now = self.detector.poll_timeout().max(self.now);
            self.wake();
        }
        *self.records.first().expect("no route changed its state")
    }

    pub fn view(&self, index: u32) -> RouteView {
        self.detector.views().find(|view| view.slot == slot(index)).unwrap()
    }

    pub fn state(&self, index: u32) -> RouteState {
        self.view(index).state
    }

    pub fn peer_state(&self) -> NodeState {
        self.detector.peer(node(2)).0
    }

    pub fn cut(&mut self, index: usize) {
        (self.wire.paths[index].there, self.wire.paths[index].back) = (false, false);
    }

    pub fn heal(&mut self, index: usize) {
        (self.wire.paths[index].there, self.wire.paths[index].back) = (true, true);
    }

    /// Nothing that is under way arrives.
    pub fn drop_under_way(&mut self) {
        self.wire.under_way.clear();
    }
}
