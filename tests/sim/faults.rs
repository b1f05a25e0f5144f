//! What goes wrong, and how often.

use crate::rng::Rng;
use crate::world::{Event, MS, US, World};
use netft_core::types::{LinkState, Nanos, Timing};

#[derive(Clone, Copy, Debug)]
pub enum Fault {
    Path { node: usize, network: usize, tx: bool, rx: bool },
    Link { node: usize, network: usize, link: LinkState },
    Stall { node: usize, span_ns: Nanos },
    StallAll { span_ns: Nanos },
    Restart { node: usize, span_ns: Nanos },
}

/// A kind of simulation.
#[derive(Clone, Debug)]
pub struct Plan {
    pub name: &'static str,
    pub length_ns: Nanos,
    pub max_nodes: u64,
    pub timings: &'static [(Nanos, u32)],
    /// One-way delay and jitter, at most.
    pub delay_ns: Nanos,
    pub jitter_ns: Nanos,
    pub loss_per_million: u64,
    pub engine_timeout_ns: Nanos,
    /// Mean time between faults of each kind over the whole cluster; 0 = never.
    pub cut_every_ns: Nanos,
    pub unplug_every_ns: Nanos,
    pub stall_every_ns: Nanos,
    pub stall_all_every_ns: Nanos,
    pub freeze_every_ns: Nanos,
    pub restart_every_ns: Nanos,
    /// The longest of the ordinary stalls.
    pub stall_ns: Nanos,
    pub preempt_per_million: u64,
    pub preempt_ns: Nanos,
}

const USUAL: &[(Nanos, u32)] = &[(MS, 5), (MS, 5), (200 * US, 5), (10 * MS, 10), (MS, 2), (2 * MS, 3)];

/// Nothing goes wrong.
pub const CALM: Plan = Plan {
    name: "calm",
    length_ns: 300 * MS,
    max_nodes: 4,
    timings: USUAL,
    delay_ns: 30 * US,
    jitter_ns: 20 * US,
    loss_per_million: 0,
    engine_timeout_ns: 50 * MS,
    cut_every_ns: 0,
    unplug_every_ns: 0,
    stall_every_ns: 0,
    stall_all_every_ns: 0,
    freeze_every_ns: 0,
    restart_every_ns: 0,
    stall_ns: 0,
    preempt_per_million: 0,
    preempt_ns: 0,
};

/// Engines are away all the time, singly and together; the network is perfect.
pub const STALLS: Plan = Plan {
    name: "stalls",
    stall_every_ns: 15 * MS,
    stall_all_every_ns: 60 * MS,
    freeze_every_ns: 200 * MS,
    restart_every_ns: 150 * MS,
    stall_ns: 60 * MS,
    preempt_per_million: 3_000,
    preempt_ns: 20 * MS,
    ..CALM
};

/// Paths are cut, in one direction or both, and links lose their carrier; engines run.
pub const CUTS: Plan = Plan { name: "cuts", cut_every_ns: 25 * MS, unplug_every_ns: 40 * MS, ..CALM };

/// Some legs are lost or duplicated; now and then an engine is away.
pub const LOSS: Plan = Plan {
    name: "loss",
    timings: &[(MS, 5), (200 * US, 8)],
    loss_per_million: 5_000,
    stall_every_ns: 50 * MS,
    stall_ns: 30 * MS,
    ..CALM
};

/// Everything at once.
pub const MIXED: Plan = Plan {
    name: "mixed",
    cut_every_ns: 40 * MS,
    unplug_every_ns: 60 * MS,
    stall_every_ns: 30 * MS,
    stall_all_every_ns: 150 * MS,
    freeze_every_ns: 250 * MS,
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
    delay_ns: 20 * MS,
    jitter_ns: 100 * US,
    engine_timeout_ns: 200 * MS,
    cut_every_ns: 300 * MS,
    stall_every_ns: 100 * MS,
    stall_ns: 60 * MS,
    length_ns: 1_000 * MS,
    max_nodes: 2,
    ..CALM
};

impl Plan {
    pub fn nodes(&self, rng: &mut Rng) -> usize {
        usize::try_from(rng.between(2, self.max_nodes)).unwrap()
    }

    pub fn networks(&self, rng: &mut Rng) -> usize {
        usize::try_from(rng.between(1, 3)).unwrap()
    }

    pub fn timing(&self, rng: &mut Rng) -> Timing {
        let (delay_ns, threshold) = rng.pick(self.timings);
        Timing { delay_ns, threshold }
    }

    /// When a world ends: late enough after the last fault for everything to have come back.
    pub fn end(&self, world: &World) -> Nanos {
        let absence = 3 * self.engine_timeout_ns + self.stall_ns + self.preempt_ns;
        self.length_ns + absence + 4 * world.timing.detection_ns() + 4 * world.networks.longest_trip_ns()
    }

    /// Puts all faults on the agenda, and at the end one that mends every port, so that it shows that everything
    /// comes back.
    pub fn schedule(&self, world: &mut World) {
        let settle = 20 * world.timing.delay_ns + 4 * world.networks.longest_trip_ns();
        let end = self.length_ns;
        type Make = fn(&Plan, &mut World, Nanos);
        let kinds: [(Nanos, Make); 6] = [
            (self.cut_every_ns, Plan::cut),
            (self.unplug_every_ns, Plan::unplug),
            (self.stall_every_ns, Plan::stall),
            (self.stall_all_every_ns, Plan::stall_all),
            (self.freeze_every_ns, Plan::freeze),
            (self.restart_every_ns, Plan::restart),
        ];
        for (every, make) in kinds.into_iter().filter(|(every, _)| *every > 0) {
            let mut at = settle + world.rng.between(0, 2 * every);
            while at < end {
                make(self, world, at);
                at += world.rng.between(1, 2 * every);
            }
        }
        for node in 0..world.nodes.len() {
            for network in 0..world.nodes[node].links.len() {
                let whole = Fault::Path { node, network, tx: true, rx: true };
                world.agenda.add(end, Event::Fault(whole));
                let plugged = Fault::Link { node, network, link: LinkState::Up };
                world.agenda.add(end, Event::Fault(plugged));
            }
        }
    }

    fn port(world: &mut World) -> (usize, usize) {
        let node = world.rng.index(world.nodes.len());
        let networks = world.nodes[node].links.len();
        (node, world.rng.index(networks))
    }

    /// Long enough to be found most of the time, sometimes just not.
    fn outage(world: &mut World) -> Nanos {
        let detection = world.timing.detection_ns();
        world.rng.between(detection / 4, 4 * detection)
            + world.rng.between(0, 2 * world.networks.longest_trip_ns())
    }

    fn cut(&self, world: &mut World, at: Nanos) {
        let (node, network) = Self::port(world);
        let (tx, rx) = world.rng.pick(&[(false, false), (false, false), (false, true), (true, false)]);
        let span = Self::outage(world);
        world.agenda.add(at, Event::Fault(Fault::Path { node, network, tx, rx }));
        world.agenda.add(at + span, Event::Fault(Fault::Path { node, network, tx: true, rx: true }));
    }

    fn unplug(&self, world: &mut World, at: Nanos) {
        let (node, network) = Self::port(world);
        let link = world.rng.pick(&[LinkState::NoCarrier, LinkState::AdminDown]);
        let span = Self::outage(world);
        world.agenda.add(at, Event::Fault(Fault::Link { node, network, link }));
        world.agenda.add(at + span, Event::Fault(Fault::Link { node, network, link: LinkState::Up }));
    }

    fn stall(&self, world: &mut World, at: Nanos) {
        let node = world.rng.index(world.nodes.len());
        let longest = world.rng.pick(&[MS, 5 * MS, self.stall_ns]);
        let span_ns = world.rng.between(100 * US, longest);
        world.agenda.add(at, Event::Fault(Fault::Stall { node, span_ns }));
    }

    fn stall_all(&self, world: &mut World, at: Nanos) {
        let span_ns = world.rng.between(500 * US, self.stall_ns);
        world.agenda.add(at, Event::Fault(Fault::StallAll { span_ns }));
    }

    fn freeze(&self, world: &mut World, at: Nanos) {
        let node = world.rng.index(world.nodes.len());
        let span_ns = self.engine_timeout_ns + world.rng.between(0, 2 * self.engine_timeout_ns);
        world.agenda.add(at, Event::Fault(Fault::Stall { node, span_ns }));
    }

    fn restart(&self, world: &mut World, at: Nanos) {
        let node = world.rng.index(world.nodes.len());
        let span_ns = world.rng.between(MS, self.engine_timeout_ns * 2);
        world.agenda.add(at, Event::Fault(Fault::Restart { node, span_ns }));
    }
}
