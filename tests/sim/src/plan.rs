//! What goes wrong in a kind of simulation, and how often; cases are drawn from it.

use crate::case::{Case, Fault, FaultKind};
use crate::rng::Rng;
use crate::types::Nanos;
use netft_core::carry::Policy;

const US: Nanos = 1_000;
const MS: Nanos = 1_000_000;

/// A kind of simulation. Times between faults are means over the whole cluster; 0 = never.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Its name, as in `NETFT_SIM_SEED=PLAN:SEED`.
    pub name: &'static str,
    /// How long things go wrong.
    pub length_ns: Nanos,
    /// Nodes, at most.
    pub max_nodes: u64,
    /// Delays and thresholds to choose from.
    pub timings: &'static [(Nanos, u32)],
    /// One way, at most.
    pub trip_ns: Nanos,
    /// Drawn for each leg, at most.
    pub jitter_ns: Nanos,
    /// Legs lost, of a million; as many are duplicated.
    pub loss_per_million: u64,
    /// When an engine counts as stalled.
    pub engine_timeout_ns: Nanos,
    /// Damped cases, of a million.
    pub damped_per_million: u64,
    /// Paths cut, in one direction or both.
    pub cut_every_ns: Nanos,
    /// Carriers lost and interfaces taken down.
    pub unplug_every_ns: Nanos,
    /// Single engines that stand still for a while.
    pub stall_every_ns: Nanos,
    /// All engines at once.
    pub stall_all_every_ns: Nanos,
    /// Single engines for longer than the engine timeout.
    pub hang_every_ns: Nanos,
    /// Whole hosts.
    pub freeze_every_ns: Nanos,
    /// Engines that die and start again.
    pub restart_every_ns: Nanos,
    /// One path at a time, for long enough to be found; then all are whole for a while.
    pub lone_cut_every_ns: Nanos,
    /// Packets that each node sends in a second, at most.
    pub packets_per_s: u64,
    /// The longest of the ordinary stalls.
    pub stall_ns: Nanos,
    /// Wakes that lose the CPU in the middle.
    pub preempt_per_million: u64,
    /// For how long at most.
    pub preempt_ns: Nanos,
}

const USUAL: &[(Nanos, u32)] = &[(MS, 5), (MS, 5), (200 * US, 5), (10 * MS, 10), (MS, 2), (2 * MS, 3)];

/// Nothing goes wrong.
pub const CALM: Plan = Plan {
    name: "calm",
    length_ns: 300 * MS,
    max_nodes: 4,
    timings: USUAL,
    trip_ns: 30 * US,
    jitter_ns: 20 * US,
    loss_per_million: 0,
    engine_timeout_ns: 50 * MS,
    damped_per_million: 0,
    cut_every_ns: 0,
    unplug_every_ns: 0,
    stall_every_ns: 0,
    stall_all_every_ns: 0,
    hang_every_ns: 0,
    freeze_every_ns: 0,
    restart_every_ns: 0,
    lone_cut_every_ns: 0,
    packets_per_s: 0,
    stall_ns: 0,
    preempt_per_million: 0,
    preempt_ns: 0,
};

/// Engines are away all the time, singly and together; the network is perfect.
pub const STALLS: Plan = Plan {
    name: "stalls",
    stall_every_ns: 15 * MS,
    stall_all_every_ns: 60 * MS,
    hang_every_ns: 200 * MS,
    restart_every_ns: 150 * MS,
    stall_ns: 60 * MS,
    preempt_per_million: 3_000,
    preempt_ns: 20 * MS,
    ..CALM
};

/// Paths are cut, in one direction or both, and links lose their carrier; engines run.
pub const CUTS: Plan = Plan { name: "cuts", cut_every_ns: 25 * MS, unplug_every_ns: 40 * MS, ..CALM };

/// The same, so often that routes are damped.
pub const FLAPS: Plan = Plan { name: "flaps", length_ns: 1_000 * MS, damped_per_million: 1_000_000, ..CUTS };

/// Some legs are lost or duplicated; now and then an engine is away.
pub const LOSS: Plan = Plan {
    name: "loss",
    timings: &[(MS, 5), (200 * US, 8)],
    loss_per_million: 5_000,
    stall_every_ns: 50 * MS,
    stall_ns: 30 * MS,
    ..CALM
};

/// Legs overtake each other, and many are lost: what goes down may do so, but only by what the stamps say.
pub const ROUGH: Plan = Plan {
    name: "rough",
    timings: &[(MS, 5), (200 * US, 8), (MS, 3)],
    jitter_ns: 2 * MS,
    loss_per_million: 100_000,
    cut_every_ns: 100 * MS,
    stall_every_ns: 50 * MS,
    stall_ns: 30 * MS,
    ..CALM
};

/// Whole hosts stand still, and what was sent to them waits.
pub const FREEZES: Plan = Plan {
    name: "freezes",
    freeze_every_ns: 40 * MS,
    stall_every_ns: 60 * MS,
    cut_every_ns: 200 * MS,
    stall_ns: 30 * MS,
    ..CALM
};

/// Everything at once.
pub const MIXED: Plan = Plan {
    name: "mixed",
    damped_per_million: 300_000,
    cut_every_ns: 40 * MS,
    unplug_every_ns: 60 * MS,
    stall_every_ns: 30 * MS,
    stall_all_every_ns: 150 * MS,
    hang_every_ns: 250 * MS,
    freeze_every_ns: 120 * MS,
    restart_every_ns: 250 * MS,
    stall_ns: 60 * MS,
    preempt_per_million: 1_000,
    preempt_ns: 10 * MS,
    ..CALM
};

/// A round trip that is longer than the detection time.
pub const FAR: Plan = Plan {
    name: "far",
    timings: &[(MS, 5), (2 * MS, 4)],
    trip_ns: 20 * MS,
    jitter_ns: 100 * US,
    engine_timeout_ns: 200 * MS,
    cut_every_ns: 300 * MS,
    stall_every_ns: 100 * MS,
    stall_ns: 60 * MS,
    length_ns: 1_000 * MS,
    max_nodes: 2,
    ..CALM
};

/// Packets flow while one path after the other is cut, or loses a link; some packets and legs are lost or arrive twice, and
/// overtake each other.
pub const TRAFFIC: Plan = Plan {
    name: "traffic",
    timings: &[(MS, 5), (200 * US, 8), (2 * MS, 3)],
    trip_ns: 200 * US,
    jitter_ns: 200 * US,
    loss_per_million: 2_000,
    lone_cut_every_ns: 60 * MS,
    packets_per_s: 4_000,
    ..CALM
};

/// All of them, by name.
pub const PLANS: &[&Plan] = &[&CALM, &STALLS, &CUTS, &FLAPS, &LOSS, &ROUGH, &FREEZES, &MIXED, &FAR, &TRAFFIC];

/// The form in which a bench goes through all plans: heartbeats every 1 ms, 5 may be missed; sizes from two nodes on
/// one network to nine on three, the small ones longer, so that each case costs about as much.
const BENCH_HEARTBEATS: u64 = 210_000;
/// The longest case of a bench.
const BENCH_LONGEST_NS: Nanos = 105_000 * MS;

impl Plan {
    /// The plan of that name.
    pub fn named(name: &str) -> Option<&'static Plan> {
        PLANS.iter().copied().find(|plan| plan.name == name)
    }

    /// The case of a seed.
    pub fn draw(&self, seed: u64) -> Case {
        let mut rng = Rng::new(seed);
        let nodes = rng.between(2, self.max_nodes);
        let networks = rng.between(1, 3);
        let timing = rng.pick(self.timings);
        self.case(&mut rng, (nodes, networks), timing, self.length_ns, 1)
    }

    /// The case of a seed in a bench.
    pub fn draw_for_bench(&self, seed: u64) -> Case {
        let mut rng = Rng::new(seed ^ 0x5eed_0000_0000_0000);
        let networks = rng.pick(&[1, 1, 1, 1, 1, 1, 2, 2, 2, 3]);
        let most = self.max_nodes.min(9);
        let nodes = match rng.between(0, 99) {
            0..75 => 2,
            75..90 => 3.min(most),
            90..96 => 4.min(most),
            _ if most < 4 => 2,
            _ => rng.between(5, 9),
        };
        let heartbeats_per_s = nodes * (nodes - 1) * networks * 1000;
        let length_ns = (BENCH_HEARTBEATS * 1_000 * MS / heartbeats_per_s).min(BENCH_LONGEST_NS);
        // From as stormy as in the tests to nearly calm: most of the time most clusters are whole.
        let rarer = rng.pick(&[1, 4, 20, 100]);
        let mut case = self.case(&mut rng, (nodes, networks), (MS, 5), length_ns, rarer);
        if rng.chance(500_000) {
            case.engine_timeout_ns = case.engine_timeout_ns.max(250 * MS);
        }
        case
    }

    fn case(
        &self,
        rng: &mut Rng,
        (nodes, networks): (u64, u64),
        (delay_ns, threshold): (Nanos, u32),
        length_ns: Nanos,
        rarer: u64,
    ) -> Case {
        let trip_ns = rng.between(2 * US, self.trip_ns.max(2 * US));
        let mut case = Case {
            plan: self.name.to_owned(),
            seed: rng.next(),
            nodes: usize::try_from(nodes).unwrap_or(2),
            networks: usize::try_from(networks).unwrap_or(1),
            delay_ns,
            threshold,
            engine_timeout_ns: self.engine_timeout_ns,
            flap_limit: 0,
            flap_half_life_ns: 300 * MS,
            damping_max_ns: 800 * MS,
            trip_ns,
            jitter_ns: rng.between(0, self.jitter_ns),
            loss_per_million: rng.between(0, self.loss_per_million),
            duplicates_per_million: self.loss_per_million,
            drift_ppm: rng.pick(&[0, 20, 200, 500]),
            preempt_per_million: self.preempt_per_million / rarer,
            preempt_ns: self.preempt_ns,
            packets_per_s: 0,
            policy: Policy::Failover,
            length_ns,
            faults: Vec::new(),
        };
        if rng.chance(self.damped_per_million) {
            case.flap_limit = rng.pick(&[1, 2, 4]);
        }
        self.add_faults(rng, &mut case, rarer);
        if self.packets_per_s > 0 {
            case.packets_per_s = rng.between(100, self.packets_per_s);
            case.policy = rng.pick(&Policy::ALL);
            self.lone_cuts(rng, &mut case, rarer);
        }
        case
    }

    fn add_faults(&self, rng: &mut Rng, case: &mut Case, rarer: u64) {
        let settle_ns = 20 * case.delay_ns + 4 * case.heartbeat_ns();
        type Make = fn(&Plan, &mut Rng, &mut Case, Nanos);
        let kinds: [(Nanos, Make); 7] = [
            (self.cut_every_ns, Plan::cut),
            (self.unplug_every_ns, Plan::unplug),
            (self.stall_every_ns, Plan::stall),
            (self.stall_all_every_ns, Plan::stall_all),
            (self.hang_every_ns, Plan::hang),
            (self.freeze_every_ns, Plan::freeze),
            (self.restart_every_ns, Plan::restart),
        ];
        for (every_ns, make) in kinds.into_iter().filter(|(every_ns, _)| *every_ns > 0) {
            let every_ns = every_ns * rarer;
            let mut at_ns = settle_ns + rng.between(0, 2 * every_ns);
            while at_ns < case.length_ns {
                make(self, rng, case, at_ns);
                at_ns += rng.between(1, 2 * every_ns);
            }
        }
        for fault in &mut case.faults {
            fault.span_ns = fault.span_ns.min(case.length_ns.saturating_sub(fault.at_ns)).max(1);
        }
        case.faults.sort_by_key(|fault| fault.at_ns);
    }

    fn lone_cuts(&self, rng: &mut Rng, case: &mut Case, rarer: u64) {
        let (detection_ns, slack_ns) = (case.timing().detection_ns(), 4 * case.heartbeat_ns() + MS);
        let mut at_ns = 20 * case.delay_ns + slack_ns;
        loop {
            at_ns += rng.between(1, 2 * self.lone_cut_every_ns * rarer);
            let span_ns = 2 * (detection_ns + slack_ns) + rng.between(0, 4 * detection_ns);
            let (node, network) = (rng.index(case.nodes), rng.index(case.networks));
            let (tx, rx) = rng.pick(&[(true, true), (true, false), (false, true)]);
            let kind = match rng.chance(200_000) {
                true => FaultKind::Unplug { node, network, admin: rng.chance(500_000) },
                false => FaultKind::Cut { node, network, tx, rx },
            };
            if at_ns + span_ns > case.length_ns {
                return;
            }
            case.faults.push(Fault { at_ns, span_ns, kind });
            // Until it is up again, and taken.
            at_ns += span_ns + 2 * detection_ns + 10 * case.delay_ns + slack_ns;
        }
    }

    /// Long enough to be found most of the time, sometimes just not.
    fn outage(rng: &mut Rng, case: &Case) -> Nanos {
        let detection = case.timing().detection_ns();
        rng.between(detection / 4, 4 * detection) + rng.between(0, 2 * case.heartbeat_ns())
    }

    fn cut(&self, rng: &mut Rng, case: &mut Case, at_ns: Nanos) {
        let (node, network) = (rng.index(case.nodes), rng.index(case.networks));
        let (tx, rx) = rng.pick(&[(true, true), (true, true), (true, false), (false, true)]);
        let span_ns = Self::outage(rng, case);
        case.faults.push(Fault { at_ns, span_ns, kind: FaultKind::Cut { node, network, tx, rx } });
    }

    fn unplug(&self, rng: &mut Rng, case: &mut Case, at_ns: Nanos) {
        let (node, network) = (rng.index(case.nodes), rng.index(case.networks));
        let admin = rng.chance(500_000);
        let span_ns = Self::outage(rng, case);
        case.faults.push(Fault { at_ns, span_ns, kind: FaultKind::Unplug { node, network, admin } });
    }

    fn stall(&self, rng: &mut Rng, case: &mut Case, at_ns: Nanos) {
        let node = rng.index(case.nodes);
        let longest = rng.pick(&[MS, 5 * MS, self.stall_ns]);
        let span_ns = rng.between(100 * US, longest);
        case.faults.push(Fault { at_ns, span_ns, kind: FaultKind::Stall { node } });
    }

    fn stall_all(&self, rng: &mut Rng, case: &mut Case, at_ns: Nanos) {
        let span_ns = rng.between(500 * US, self.stall_ns);
        for node in 0..case.nodes {
            let span_ns = span_ns + rng.between(0, span_ns / 8);
            case.faults.push(Fault { at_ns, span_ns, kind: FaultKind::Stall { node } });
        }
    }

    fn hang(&self, rng: &mut Rng, case: &mut Case, at_ns: Nanos) {
        let node = rng.index(case.nodes);
        let span_ns = self.engine_timeout_ns + rng.between(0, 2 * self.engine_timeout_ns);
        case.faults.push(Fault { at_ns, span_ns, kind: FaultKind::Stall { node } });
    }

    fn freeze(&self, rng: &mut Rng, case: &mut Case, at_ns: Nanos) {
        let node = rng.index(case.nodes);
        let longest = rng.pick(&[MS, 6 * MS, 60 * MS, 4 * self.engine_timeout_ns]);
        let span_ns = rng.between(100 * US, longest);
        case.faults.push(Fault { at_ns, span_ns, kind: FaultKind::Freeze { node } });
    }

    fn restart(&self, rng: &mut Rng, case: &mut Case, at_ns: Nanos) {
        let node = rng.index(case.nodes);
        let span_ns = rng.between(MS, self.engine_timeout_ns * 2);
        case.faults.push(Fault { at_ns, span_ns, kind: FaultKind::Restart { node } });
    }
}
