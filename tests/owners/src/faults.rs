//! What faults do to the nodes and to what is between them.

use crate::case::FaultKind;
use crate::memory::{Clock, Memory};
use crate::node::{Heard, Input, Power};
use crate::ownership::{NodeSet, VipId};
use crate::raft::{Disk, Role};
use crate::world::{What, World, clock};

impl World {
    pub(crate) fn fault_begins(&mut self, number: usize) -> Option<usize> {
        let fault = self.case.faults[number];
        if self.trace {
            eprintln!("{:>12} begins: {fault:?}", self.now_ns);
        }
        self.add(fault.span_ns, What::Ends(number));
        match fault.kind {
            FaultKind::Cut { from, to } => self.cuts[from][to] += 1,
            FaultKind::Mute { node } => self.cut(node, 1, 0),
            FaultKind::Deaf { node } => self.cut(node, 0, 1),
            FaultKind::Isolate { node } => self.cut(node, 1, 1),
            FaultKind::FreezeEngine { node } => self.nodes[node].engine_frozen += 1,
            FaultKind::FreezeOwner { node } => self.nodes[node].owner_frozen += 1,
            FaultKind::Crash { node } => {
                self.nodes[node].dead += 1;
                self.nodes[node].daemon = false;
            }
            FaultKind::Reboot { node } | FaultKind::Wipe { node } => {
                self.nodes[node].dead += 1;
                self.nodes[node].daemon = false;
                self.nodes[node].power = Power::Off;
            }
            FaultKind::Suspend { node } => {
                if self.nodes[node].power == Power::On {
                    self.nodes[node].power = Power::Asleep;
                    self.asleep_since_ns[node] = self.now_ns;
                }
            }
            FaultKind::Voters { nodes } => {
                let ids = (0..self.nodes.len()).filter(|node| nodes >> node & 1 == 1);
                let voters: NodeSet = ids.map(|node| self.nodes[node].id).collect();
                if !voters.is_empty() {
                    self.operator.voters = voters;
                }
            }
            FaultKind::Lease { lease_ns } => self.tell_leader(&Input::Leases(lease_ns)),
            FaultKind::Move { vip, node } => {
                if let Some(vip) = VipId::new(vip) {
                    self.tell_leader(&Input::Move(vip, self.nodes[node].id));
                }
            }
        }
        None
    }

    fn tell_leader(&mut self, input: &Input) {
        for node in 0..self.nodes.len() {
            if self.nodes[node].raft.role == Role::Leader && self.nodes[node].power == Power::On {
                self.nodes[node].inbox.push_back(input.clone());
                self.wake(node);
            }
        }
    }

    fn cut(&mut self, node: usize, out: u32, into: u32) {
        for other in (0..self.nodes.len()).filter(|other| *other != node) {
            self.cuts[node][other] += out;
            self.cuts[other][node] += into;
        }
    }

    fn heal(&mut self, node: usize, out: u32, into: u32) {
        for other in (0..self.nodes.len()).filter(|other| *other != node) {
            self.cuts[node][other] -= out;
            self.cuts[other][node] -= into;
        }
    }

    pub(crate) fn fault_ends(&mut self, number: usize) -> Option<usize> {
        let fault = self.case.faults[number];
        if self.trace {
            eprintln!("{:>12} ends: {fault:?}", self.now_ns);
        }
        match fault.kind {
            FaultKind::Cut { from, to } => self.cuts[from][to] -= 1,
            FaultKind::Mute { node } => self.heal(node, 1, 0),
            FaultKind::Deaf { node } => self.heal(node, 0, 1),
            FaultKind::Isolate { node } => self.heal(node, 1, 1),
            FaultKind::FreezeEngine { node } => self.nodes[node].engine_frozen -= 1,
            FaultKind::FreezeOwner { node } => self.nodes[node].owner_frozen -= 1,
            FaultKind::Crash { node } => {
                self.nodes[node].dead -= 1;
                if self.nodes[node].power != Power::Off {
                    self.start(node);
                }
            }
            FaultKind::Reboot { node } => self.boot(node),
            FaultKind::Wipe { node } => {
                let incarnation = self.rng.next() | 1;
                self.nodes[node].raft.disk = Disk { incarnation, ..Disk::default() };
                if !self.case.unattended {
                    self.operator.incarnations[node].1 = incarnation;
                }
                self.boot(node);
            }
            FaultKind::Suspend { node } => {
                if self.nodes[node].power == Power::Asleep {
                    self.slept_ns[node] += self.now_ns - self.asleep_since_ns[node];
                    self.nodes[node].power = Power::On;
                    return Some(node);
                }
            }
            FaultKind::Voters { .. } | FaultKind::Lease { .. } | FaultKind::Move { .. } => (),
        }
        None
    }

    fn boot(&mut self, number: usize) {
        self.nodes[number].dead -= 1;
        let clock = clock(&mut self.rng, &self.case, self.now_ns);
        let node = &mut self.nodes[number];
        node.boot += 1;
        node.power = Power::On;
        node.clock = Clock { slew_ppm: node.clock.slew_ppm, ..clock };
        node.memory = Memory::new(node.id);
        node.heard.fill(Heard::default());
        self.slept_ns[number] = 0;
        for other in &mut self.nodes {
            other.heard[number + 1] = Heard::default();
        }
        self.start(number);
    }

    pub(crate) fn start(&mut self, number: usize) {
        if self.nodes[number].dead > 0 || self.nodes[number].daemon {
            return;
        }
        let now = self.local(number);
        self.nodes[number].start_daemon(now);
        self.wake(number);
        let boots = (self.nodes[number].boot, self.nodes[number].boot);
        let in_ns = self.rng.between(0, self.case.restore_ns);
        self.add(in_ns, What::Input { to: number, from: number, boots, input: Box::new(Input::Restored) });
    }
}
