//! Each rule by itself, in the smallest cluster that shows it. What they do together is in the simulation (`tests/owners`).
#![cfg(not(netft_sabotage))]

mod elections;
mod pair;
mod policy;
mod rules;

use super::{
    Command, Entry, Leases, LogId, Member, Ownership, Standing, Start, State, VipId, VipSettings, VoterSets,
    Why,
};
use crate::types::NodeId;

pub(super) const MS: u64 = 1_000_000;
pub(super) const NOW: u64 = 1_000 * MS;
const LEASE: u64 = 8 * MS;

pub(super) fn id(node: u16) -> NodeId {
    NodeId::new(node).unwrap()
}

pub(super) fn vip(number: u16) -> VipId {
    VipId::new(number).unwrap()
}

pub(super) fn at(index: u64) -> LogId {
    LogId { term: 1, index }
}

fn assign(from: Option<u16>, owner: Option<u16>, epoch: u64) -> Entry {
    Entry::Assign { vip: vip(0), from: from.map(id), owner: owner.map(id), epoch, why: Why::default() }
}

/// What every log here begins with: nodes 1 to 4, of which 1 to 3 vote, and VIP 0, whose epoch is 7.
fn beginning() -> Vec<(LogId, Entry)> {
    let member = |node: u16| {
        let incarnation = u64::from(node) * 11;
        Entry::Member(id(node), Member { incarnation, site: 0, subnet: 0, standing: Standing::Active })
    };
    let mut entries: Vec<_> = (1..=4).map(member).collect();
    entries.push(Entry::Leases(Leases { same_subnet_ns: LEASE, ..Leases::default() }));
    entries.push(Entry::Voters(VoterSets::of([1, 2, 3].map(id).into_iter().collect())));
    entries.push(Entry::Vip(vip(0), VipSettings::default()));
    entries.push(Entry::Settled(6));
    (1..).zip(entries).map(|(index, entry)| (at(index), entry)).collect()
}

/// Index of the first entry after that.
const NEXT: u64 = 9;

pub(super) fn state() -> State {
    let mut state = State::default();
    beginning().iter().for_each(|(id, entry)| state.apply(*id, entry));
    state
}

fn drain(node: &mut Ownership) -> Vec<Command> {
    std::iter::from_fn(|| node.poll_command()).collect()
}

fn started(own: u16) -> Ownership {
    let start = Start { own: id(own), incarnation: u64::from(own) * 11, applied: 0, owned: Vec::new() };
    Ownership::new(start)
}

/// A node that has applied the beginning; `leader` leads.
fn node(own: u16, leader: u16) -> Ownership {
    let mut node = started(own);
    let log = beginning();
    node.handle_restored(NOW, State::default(), log.iter().map(|(id, entry)| (*id, entry)));
    node.handle_leader(NOW, 1, Some(id(leader)));
    commit(&mut node, &log);
    node.handle_leader_commit(NOW, 1, at(NEXT - 1));
    for command in drain(&mut node) {
        if let Command::ReadStamps(nodes) = command {
            let stamps: Vec<_> = nodes.iter().map(|node| (node, 0)).collect();
            node.handle_stamps(NOW, &stamps);
        }
    }
    node
}

fn commit(node: &mut Ownership, entries: &[(LogId, Entry)]) {
    node.handle_committed(NOW, entries.iter().map(|(id, entry)| (*id, entry)));
}

/// Appends and commits in one.
fn add(node: &mut Ownership, index: u64, entry: Entry) -> Vec<Command> {
    let entries = [(at(index), entry)];
    node.handle_append(&entries);
    commit(node, &entries);
    drain(node)
}
