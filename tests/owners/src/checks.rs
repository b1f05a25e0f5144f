//! What must hold. Looked at are fences, never beliefs: would a frame for this VIP pass at this node at this instant?

use crate::case::{Case, FaultKind};
use crate::fence::check;
use crate::memory::ENGINE_TIMEOUT_NS;
use crate::node::{Node, Power};
use crate::raft::Role;
use crate::world::World;
use netft_core::types::Nanos;
use std::fmt;
use std::sync::atomic::Ordering::Relaxed;

/// Within this long after the last fault every VIP is served again. A leader that hears its peers but doesn't work is noticed
/// after 500 ms; the rest is elections, and nodes that join again one by one.
pub const SERVED_WITHIN_NS: Nanos = 1_500_000_000;

/// What was broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Property {
    /// Never two open fences for one VIP at one instant.
    OneOwner,
    /// With a majority connected and stable, every VIP is served again within a bound.
    Served,
    /// No fence is open where the engine hasn't ticked within its timeout.
    Frozen,
    /// No fence is open where nothing has come in or gone out for longer than the lease.
    CutOff,
    /// A leader that a majority acknowledges stays.
    Deposed,
    /// What was committed stays.
    Committed,
}

/// A property that was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// Which.
    pub property: Property,
    /// When.
    pub at_ns: Nanos,
    /// How.
    pub how: String,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} at {} µs: {}", self.property, self.at_ns / 1_000, self.how)
    }
}

/// What a run looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Runs.
    pub seeds: u64,
    /// Events of the simulation.
    pub events: u64,
    /// Simulated time.
    pub simulated_ns: Nanos,
    /// Fences found open.
    pub open: u64,
    /// Instants at which two nodes had the owner bit of one VIP, and only evidence kept one of them silent.
    pub contested: u64,
    /// Times that a VIP went to another node.
    pub moved: u64,
    /// The longest time from the last fault until every VIP was served.
    pub longest_unserved_ns: Nanos,
    /// Leaders elected.
    pub terms: u64,
    /// Voters or leases changed.
    pub changes: u64,
}

impl Tally {
    /// Adds another run's.
    pub fn add(&mut self, other: &Self) {
        self.seeds += other.seeds;
        self.events += other.events;
        self.simulated_ns += other.simulated_ns;
        self.open += other.open;
        self.contested += other.contested;
        self.moved += other.moved;
        self.longest_unserved_ns = self.longest_unserved_ns.max(other.longest_unserved_ns);
        self.terms += other.terms;
        self.changes += other.changes;
    }
}

pub(crate) struct Checks {
    pub(crate) only: Option<Property>,
    tally: Tally,
    /// By VIP, who was last seen with an open fence.
    serving: Vec<Option<usize>>,
    /// Since when each node has been cut off from all others.
    cut_off_since_ns: Vec<Option<Nanos>>,
    /// The leader's term when the only fault began, in a plan that deposes nobody.
    steady_term: Option<(usize, u64)>,
    next_ns: Nanos,
}

impl Checks {
    pub(crate) fn new(case: &Case, only: Option<Property>) -> Self {
        Self {
            only,
            tally: Tally::default(),
            serving: vec![None; usize::from(case.vips)],
            cut_off_since_ns: vec![None; case.nodes],
            steady_term: None,
            next_ns: 0,
        }
    }

    fn fail(&self, world: &World, property: Property, how: String) -> Result<(), Broken> {
        match self.only {
            Some(only) if only != property => Ok(()),
            _ => Err(Broken { property, at_ns: world.now_ns, how }),
        }
    }

    /// After something happened at a node: an overlap begins where the later of two fences opens, so looking then is enough.
    pub(crate) fn look(&mut self, world: &World, touched: usize) -> Result<(), Broken> {
        if world.nodes[touched].raft.lost {
            self.fail(world, Property::Committed, format!("n{}", touched + 1))?;
        }
        for vip in 0..world.case.vips {
            if !world.nodes[touched].memory.owns(vip) || !is_open(world, touched, vip) {
                continue;
            }
            self.tally.open += 1;
            self.look_at_open(world, touched, vip)?;
            for other in (0..world.nodes.len()).filter(|other| *other != touched) {
                if !world.nodes[other].memory.owns(vip) || world.nodes[other].power != Power::On {
                    continue;
                }
                self.tally.contested += 1;
                if is_open(world, other, vip) {
                    let how =
                        format!("VIP {vip}: the fences of n{} and n{} are open", touched + 1, other + 1);
                    self.fail(world, Property::OneOwner, how)?;
                }
            }
        }
        Ok(())
    }

    fn look_at_open(&mut self, world: &World, node: usize, vip: u16) -> Result<(), Broken> {
        let serving = &mut self.serving[usize::from(vip)];
        if *serving != Some(node) {
            self.tally.moved += 1;
            *serving = Some(node);
            if world.trace {
                eprintln!("{:>12} VIP {vip} is served by n{}", world.now_ns, node + 1);
            }
        }
        let local_ns = world.local(node);
        let tick_ns = world.nodes[node].memory.engine.tick_ns.load(Relaxed);
        if local_ns.saturating_sub(tick_ns) >= ENGINE_TIMEOUT_NS {
            let how = format!("VIP {vip}: n{}'s engine doesn't tick, its fence is open", node + 1);
            self.fail(world, Property::Frozen, how)?;
        }
        // A clock that runs at nine tenths makes a lease last for ten ninths.
        let longest_ns = world.case.longest_lease_ns() * 10 / 9 + 1;
        if self.cut_off_since_ns[node].is_some_and(|since_ns| world.now_ns - since_ns > longest_ns) {
            let how =
                format!("VIP {vip}: n{} is cut off for longer than a lease, its fence is open", node + 1);
            self.fail(world, Property::CutOff, how)?;
        }
        Ok(())
    }

    /// After a fault began or ended, and at that very instant: a round trip may be shorter than any interval of looking, so
    /// that a node that was looked at a little later would still be taken for cut off when it is rightly heard again.
    pub(crate) fn note_cuts(&mut self, world: &World) {
        for node in 0..world.nodes.len() {
            let mut others = (0..world.nodes.len()).filter(|other| *other != node);
            let cut = others.all(|other| world.cuts[node][other] > 0 && world.cuts[other][node] > 0);
            let since_ns = self.cut_off_since_ns[node].unwrap_or(world.now_ns);
            self.cut_off_since_ns[node] = cut.then_some(since_ns);
        }
    }

    /// Whether the run is over: all faults are, and every VIP is served.
    pub(crate) fn enough(&mut self, world: &World) -> Result<bool, Broken> {
        if world.now_ns < self.next_ns {
            return Ok(false);
        }
        self.next_ns = world.now_ns + 100_000;
        self.look_at_leader(world)?;
        let quiet_ns = world.case.quiet_ns();
        if world.now_ns <= quiet_ns + 1_000_000 {
            return Ok(false);
        }
        let served = |vip: u16| (0..world.nodes.len()).any(|node| is_open(world, node, vip));
        let all = (0..world.case.vips).all(served);
        if !all && world.now_ns > quiet_ns + SERVED_WITHIN_NS {
            let missing: Vec<_> = (0..world.case.vips).filter(|vip| !served(*vip)).collect();
            self.fail(world, Property::Served, format!("VIPs {missing:?} aren't served"))?;
            return Ok(true);
        }
        if all {
            self.tally.longest_unserved_ns = world.now_ns - quiet_ns;
        }
        Ok(all)
    }

    /// In a case whose only faults are cuts between the leader and one follower: the leader stays while they last.
    fn look_at_leader(&mut self, world: &World) -> Result<(), Broken> {
        let Some(first) = world.case.faults.first().filter(|_| world.case.plan == "disrupt") else {
            return Ok(());
        };
        if world.now_ns < first.at_ns {
            let leader = world.nodes.iter().position(|node| node.raft.role == Role::Leader);
            self.steady_term = leader.map(|leader| (leader, world.nodes[leader].raft.disk.term));
        } else if world.now_ns < first.at_ns + first.span_ns
            && let Some((leader, term)) = self.steady_term
        {
            let follower_is_cut = |node: usize| {
                world.case.faults.iter().all(|fault| match fault.kind {
                    FaultKind::Cut { from, to } => [from, to].contains(&leader) && [from, to].contains(&node),
                    _ => false,
                })
            };
            let applies = (0..world.nodes.len()).any(|node| node != leader && follower_is_cut(node));
            let raft = &world.nodes[leader].raft;
            if applies && (raft.role, raft.disk.term) != (Role::Leader, term) {
                self.fail(world, Property::Deposed, format!("n{} led term {term}", leader + 1))?;
            }
        }
        Ok(())
    }

    pub(crate) fn finish(self, world: &World) -> Tally {
        let terms = world.nodes.iter().map(|node| node.raft.disk.term).max().unwrap_or(0);
        let leader = world.nodes.iter().find(|node| node.raft.role == Role::Leader);
        let log = leader.map_or(&[][..], |leader| &leader.raft.disk.log);
        let changes = log.iter().filter(|(_, entry)| matches!(entry, crate::ownership::Entry::Settled(_)));
        Tally {
            seeds: 1,
            events: world.events,
            simulated_ns: world.now_ns,
            terms,
            changes: changes.count() as u64,
            ..self.tally
        }
    }
}

/// Whether a frame for the VIP would pass at the node now.
fn is_open(world: &World, number: usize, vip: u16) -> bool {
    let node: &Node = &world.nodes[number];
    node.power == Power::On && check(&node.memory, u32::from(vip), world.local(number)).is_ok()
}
