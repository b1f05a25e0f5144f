//! What goes wrong in a kind of simulation, and how often; cases are drawn from it.

use crate::case::{Case, Fault, FaultKind};
use crate::rng::Rng;
use netft_core::types::Nanos;

const US: Nanos = 1_000;
const MS: Nanos = 1_000_000;
/// The cluster elects a leader and settles before anything goes wrong.
const SETTLE_NS: Nanos = 60 * MS;
/// How long things go wrong.
const LENGTH_NS: Nanos = 250 * MS;

/// A kind of simulation: how often what happens, of a hundred faults.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Its name, as in `NETFT_OWNERS_SEED=PLAN:SEED`.
    pub name: &'static str,
    /// Faults, at most.
    pub faults: u64,
    /// One-way cuts between two nodes, nodes that are mute, deaf or isolated.
    pub cuts: u64,
    /// Nodes that are cut off, and after them the leader, so that logs diverge.
    pub rifts: u64,
    /// Single threads that stand still.
    pub freezes: u64,
    /// Hosts that sleep.
    pub suspends: u64,
    /// Daemons that are killed, hosts that lose their power.
    pub crashes: u64,
    /// Stores that are emptied: at most one in a case.
    pub wipes: u64,
    /// Voters that change.
    pub voters: u64,
    /// Leases that change.
    pub leases: u64,
    /// Planned moves.
    pub moves: u64,
    /// How fast or slow clocks run, at most, parts per million.
    pub slew_ppm: u64,
    /// Legs and messages that come late, of a million; half as many come twice.
    pub late_per_million: u64,
    /// Threads and CPUs that stand still in the middle of something, of a million steps.
    pub preempt_per_million: u64,
    /// How one particular sequence of faults is drawn, instead.
    script: Option<fn(&mut Rng, &mut Case)>,
}

/// Nothing but planned moves.
pub const MOVES: Plan = Plan {
    name: "moves",
    faults: 12,
    cuts: 0,
    rifts: 0,
    freezes: 0,
    suspends: 0,
    crashes: 0,
    wipes: 0,
    voters: 0,
    leases: 0,
    moves: 100,
    slew_ppm: 100_000,
    late_per_million: 2_000,
    preempt_per_million: 2_000,
    script: None,
};

/// Paths are cut, in one direction or both, to some or to all.
pub const CUTS: Plan = Plan { name: "cuts", faults: 8, cuts: 75, moves: 25, ..MOVES };

/// Leaders are cut off with what they have just appended, and come back.
pub const RIFTS: Plan = Plan { name: "rifts", faults: 10, cuts: 20, rifts: 60, moves: 20, ..MOVES };

/// Threads and hosts stand still.
pub const FREEZES: Plan =
    Plan { name: "freezes", faults: 8, freezes: 50, suspends: 25, moves: 15, cuts: 10, ..MOVES };

/// Daemons die, hosts lose their power, a store is emptied.
pub const CRASHES: Plan =
    Plan { name: "crashes", faults: 8, crashes: 55, wipes: 10, cuts: 20, moves: 15, ..MOVES };

/// Voters and leases change while nodes are cut off.
pub const CHANGES: Plan =
    Plan { name: "changes", faults: 12, voters: 30, leases: 15, cuts: 30, freezes: 10, moves: 15, ..MOVES };

/// The leader and one follower can't hear each other, and nothing else is wrong.
pub const DISRUPT: Plan = Plan {
    name: "disrupt",
    faults: 1,
    moves: 0,
    slew_ppm: 20_000,
    late_per_million: 0,
    preempt_per_million: 0,
    script: Some(disrupt),
    ..MOVES
};

/// Voters move away from an owner that doesn't get to know.
pub const MOVEOUT: Plan = Plan { name: "moveout", script: Some(moveout), ..MOVES };

/// A voter forgets for whom it vouched.
pub const RELAPSE: Plan = Plan { name: "relapse", script: Some(relapse), ..MOVES };

/// A VIP is given on twice while its owner is cut off.
pub const RELAY: Plan = Plan { name: "relay", script: Some(relay), ..MOVES };

/// A VIP is given to a node whose ownership thread never wakes up.
pub const SLEEPER: Plan = Plan { name: "sleeper", script: Some(sleeper), ..MOVES };

/// An owner's store is emptied, faster than anybody calls the owner dead, and nobody does anything about it.
pub const FORGOTTEN: Plan = Plan { name: "forgotten", script: Some(forgotten), ..MOVES };

/// A store is emptied, and with it half of what a majority had promised.
pub const AMNESIA: Plan = Plan { name: "amnesia", script: Some(amnesia), ..MOVES };

/// Everything.
pub const MIXED: Plan = Plan {
    name: "mixed",
    faults: 14,
    cuts: 20,
    rifts: 10,
    freezes: 15,
    suspends: 10,
    crashes: 15,
    wipes: 3,
    voters: 10,
    leases: 7,
    moves: 10,
    ..MOVES
};

/// All of them.
pub const PLANS: &[&Plan] = &[
    &MOVES, &CUTS, &RIFTS, &FREEZES, &CRASHES, &CHANGES, &DISRUPT, &MOVEOUT, &RELAPSE, &RELAY, &SLEEPER,
    &FORGOTTEN, &AMNESIA, &MIXED,
];

impl Plan {
    /// The plan of that name.
    pub fn named(name: &str) -> Option<&'static Plan> {
        PLANS.iter().copied().find(|plan| plan.name == name)
    }

    /// The case of a seed.
    pub fn draw(&self, seed: u64) -> Case {
        let mut rng = Rng::new(seed);
        let nodes = rng.pick(&[3, 3, 3, 3, 4, 4, 5, 5, 6, 7]);
        let voters = if nodes > 3 && rng.chance(300_000) { nodes - 1 } else { nodes };
        let noise = rng.pick(&[0, 1, 1, 4]);
        let mut case = Case {
            plan: self.name.to_owned(),
            seed: rng.next(),
            nodes,
            voters,
            vips: rng.pick(&[1, 1, 2, 3]),
            lease_ns: rng.pick(&[5 * MS, 5 * MS, 10 * MS]),
            slew_ppm: rng.pick(&[0, self.slew_ppm / 100, self.slew_ppm, self.slew_ppm]),
            trip_ns: rng.pick(&[20 * US, 50 * US, 200 * US]),
            jitter_ns: rng.pick(&[5 * US, 50 * US, 400 * US]),
            late_per_million: noise * self.late_per_million,
            twice_per_million: noise * self.late_per_million / 2,
            preempt_per_million: noise * self.preempt_per_million,
            restore_ns: rng.pick(&[MS, 5 * MS, 30 * MS]),
            unattended: false,
            faults: Vec::new(),
        };
        if let Some(script) = self.script {
            script(&mut rng, &mut case);
            case.faults.sort_by_key(|fault| fault.at_ns);
            return case;
        }
        let count = rng.between(1, self.faults);
        let mut wiped = false;
        for _ in 0..count {
            let at_ns = SETTLE_NS + rng.between(0, LENGTH_NS);
            self.add_fault(&mut rng, &mut case, at_ns, &mut wiped);
        }
        // In one case of four, one node never comes back; not where another has lost its store.
        let last = case.faults.len() - 1;
        if !wiped && rng.chance(250_000) && case.faults[last].kind.may_last() {
            case.faults[last].span_ns = Case::FOREVER_NS;
        }
        case.unattended = wiped && rng.chance(500_000);
        case.faults.sort_by_key(|fault| fault.at_ns);
        case
    }

    fn add_fault(&self, rng: &mut Rng, case: &mut Case, at_ns: Nanos, wiped: &mut bool) {
        let node = rng.index(case.nodes);
        let span_ns = rng.pick(&[rng.clone().between(MS, 8 * MS), 15 * MS, 30 * MS, 60 * MS, 120 * MS]);
        let span_ns = span_ns + rng.between(0, 10 * MS);
        let mut push = |at_ns, span_ns, kind| case.faults.push(Fault { at_ns, span_ns, kind });
        let mut dice = rng.between(0, 99);
        let mut falls = |share: u64| {
            let falls = dice < share;
            dice = if falls { u64::MAX } else { dice.saturating_sub(share) };
            falls
        };
        if falls(self.cuts) {
            let to = (node + 1 + rng.index(case.nodes - 1)) % case.nodes;
            let kind = rng.pick(&[
                FaultKind::Cut { from: node, to },
                FaultKind::Mute { node },
                FaultKind::Deaf { node },
                FaultKind::Isolate { node },
                FaultKind::Isolate { node },
            ]);
            push(at_ns, span_ns, kind);
        } else if falls(self.rifts) {
            // A move is proposed while its owner, or its leader, or all but one follower, hear nothing.
            let vip = u16::try_from(rng.index(usize::from(case.vips))).unwrap_or(0);
            let to = rng.index(case.nodes);
            push(at_ns, 0, FaultKind::Move { vip, node: to });
            let before_ns = rng.between(0, 2 * MS);
            let kind =
                if rng.chance(500_000) { FaultKind::Mute { node } } else { FaultKind::Isolate { node } };
            push(at_ns.saturating_sub(before_ns), span_ns, kind);
            let other = (node + 1) % case.nodes;
            let after_ns = rng.between(0, 12 * MS);
            push(at_ns + after_ns, span_ns / 2, FaultKind::Isolate { node: other });
        } else if falls(self.freezes) {
            let kind = rng.pick(&[FaultKind::FreezeEngine { node }, FaultKind::FreezeOwner { node }]);
            push(at_ns, span_ns, kind);
        } else if falls(self.suspends) {
            push(at_ns, span_ns, FaultKind::Suspend { node });
        } else if falls(self.crashes) {
            let kind = rng.pick(&[FaultKind::Crash { node }, FaultKind::Reboot { node }]);
            push(at_ns, span_ns, kind);
        } else if falls(self.wipes) {
            if !std::mem::replace(wiped, true) {
                push(at_ns, span_ns, FaultKind::Wipe { node });
            }
        } else if falls(self.voters) {
            // Three at least, so that one whose store was emptied can be told apart by the others.
            let mut nodes = (1u16 << case.nodes) - 1;
            for _ in 0..rng.index(case.nodes - 2) {
                nodes &= !(1 << rng.index(case.nodes));
            }
            push(at_ns, 0, FaultKind::Voters { nodes });
        } else if falls(self.leases) {
            push(at_ns, 0, FaultKind::Lease { lease_ns: rng.pick(&[5 * MS, 10 * MS, 20 * MS]) });
        } else if falls(self.moves) {
            let vip = u16::try_from(rng.index(usize::from(case.vips))).unwrap_or(0);
            push(at_ns, 0, FaultKind::Move { vip, node });
        }
    }
}

fn disrupt(rng: &mut Rng, case: &mut Case) {
    case.jitter_ns = case.jitter_ns.min(50 * US);
    let (at_ns, span_ns) = (SETTLE_NS + rng.between(0, 50 * MS), rng.between(50 * MS, 150 * MS));
    let one = rng.index(case.nodes);
    let other = (one + 1 + rng.index(case.nodes - 1)) % case.nodes;
    cut(case, at_ns, span_ns, &[one], &[other]);
}

/// Cuts every path between two groups.
fn cut(case: &mut Case, at_ns: Nanos, span_ns: Nanos, these: &[usize], those: &[usize]) {
    for (one, other) in these.iter().flat_map(|one| those.iter().map(move |other| (*one, *other))) {
        for (from, to) in [(one, other), (other, one)] {
            case.faults.push(Fault { at_ns, span_ns, kind: FaultKind::Cut { from, to } });
        }
    }
}

/// The owner's thread stands still while the voters move to other nodes, and then both halves can't hear each other.
fn moveout(rng: &mut Rng, case: &mut Case) {
    (case.nodes, case.voters, case.preempt_per_million) = (6, 3, 0);
    let at_ns = SETTLE_NS + rng.between(0, 20 * MS);
    let node = rng.between(0, 2);
    let node = usize::try_from(node).unwrap_or(0);
    case.faults.push(Fault { at_ns, span_ns: 0, kind: FaultKind::Move { vip: 0, node } });
    let at_ns = at_ns + 20 * MS;
    case.faults.push(Fault { at_ns, span_ns: 200 * MS, kind: FaultKind::FreezeOwner { node } });
    case.faults.push(Fault { at_ns, span_ns: 0, kind: FaultKind::Voters { nodes: 0b11_1000 } });
    cut(case, at_ns + rng.between(10 * MS, 45 * MS), 100 * MS, &[0, 1, 2], &[3, 4, 5]);
}

/// The leader can't hear the owner; the only other voter dies just after it has heard so, and is back at once.
fn relapse(rng: &mut Rng, case: &mut Case) {
    (case.nodes, case.voters, case.lease_ns, case.restore_ns) = (3, 3, 20 * MS, MS / 2);
    let owner = 1 + rng.index(2);
    let at_ns = SETTLE_NS + rng.between(0, 20 * MS);
    case.faults.push(Fault { at_ns, span_ns: 0, kind: FaultKind::Move { vip: 0, node: owner } });
    let at_ns = at_ns + 20 * MS;
    cut(case, at_ns, 80 * MS, &[0], &[owner]);
    let kind = FaultKind::Crash { node: 3 - owner };
    case.faults.push(Fault { at_ns: at_ns + rng.between(5 * MS, 12 * MS), span_ns: MS / 5, kind });
}

/// The owner is cut off; its VIP is given to a second node, which hasn't taken it yet when it is given to a third.
fn relay(rng: &mut Rng, case: &mut Case) {
    (case.nodes, case.voters) = (3, 3);
    let owner = 1 + rng.index(2);
    let at_ns = SETTLE_NS + rng.between(0, 20 * MS);
    case.faults.push(Fault { at_ns, span_ns: 0, kind: FaultKind::Move { vip: 0, node: owner } });
    let at_ns = at_ns + 20 * MS;
    case.faults.push(Fault { at_ns, span_ns: 60 * MS, kind: FaultKind::Isolate { node: owner } });
    for (after_ns, node) in [(rng.between(0, MS), 3 - owner), (rng.between(MS, 3 * MS), 0)] {
        case.faults.push(Fault {
            at_ns: at_ns + after_ns,
            span_ns: 0,
            kind: FaultKind::Move { vip: 0, node },
        });
    }
}

/// A leader is cut off, and another elected by two voters. One of them loses its store, while the other hears nothing: and now
/// the first leader is back, with a voter that remembers nothing of its successor.
fn amnesia(rng: &mut Rng, case: &mut Case) {
    (case.nodes, case.voters, case.restore_ns) = (3, 3, MS);
    let leader = rng.index(3);
    let forgets = (leader + 1 + rng.index(2)) % 3;
    let deaf = 3 - leader - forgets;
    let at_ns = SETTLE_NS + rng.between(0, 20 * MS);
    let mut push =
        |after_ns, span_ns, kind| case.faults.push(Fault { at_ns: at_ns + after_ns, span_ns, kind });
    push(0, 80 * MS, FaultKind::Isolate { node: leader });
    push(rng.between(15 * MS, 25 * MS), 140 * MS, FaultKind::Deaf { node: deaf });
    push(rng.between(40 * MS, 50 * MS), 36 * MS, FaultKind::Wipe { node: forgets });
    push(100 * MS, 0, FaultKind::Move { vip: 0, node: leader });
}

/// A VIP is given to a follower whose ownership thread stands still for good, while its engine ticks.
fn sleeper(rng: &mut Rng, case: &mut Case) {
    let at_ns = SETTLE_NS + rng.between(0, 20 * MS);
    let node = 1 + rng.index(case.nodes - 1);
    case.faults.push(Fault { at_ns, span_ns: Case::FOREVER_NS, kind: FaultKind::FreezeOwner { node } });
    let after_ns = rng.between(0, 2 * MS);
    case.faults.push(Fault { at_ns: at_ns + after_ns, span_ns: 0, kind: FaultKind::Move { vip: 0, node } });
}

/// The owner's host loses its power and its store, and is back before anybody misses it.
fn forgotten(rng: &mut Rng, case: &mut Case) {
    case.unattended = true;
    let at_ns = SETTLE_NS + rng.between(0, 20 * MS);
    let node = rng.index(case.voters);
    case.faults.push(Fault { at_ns, span_ns: 0, kind: FaultKind::Move { vip: 0, node } });
    let at_ns = at_ns + rng.between(20 * MS, 60 * MS);
    let span_ns = rng.between(MS, 4 * MS);
    case.faults.push(Fault { at_ns, span_ns, kind: FaultKind::Wipe { node } });
}
