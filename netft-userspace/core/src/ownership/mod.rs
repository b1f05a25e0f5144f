//! Who may own which VIP: what a node does with the entries of the replicated log so that a VIP never has two owners.
//! The rules, with their reasons, are in `docs/ownership.md`; "rule N" in a comment is one of them. Runs on the ownership
//! thread. Consensus itself isn't here: the shell hands over what its log does, and proposes what it is told to.
//!
//! - [`State`]: what the log says, applied entry by entry, the same on every node.
//! - [`Ownership`]: what this node does about it: owner bits, its applied index, handovers, and as a voter for whom it may
//!   vouch, as the leader when an earlier owner is surely silent.
//! - [`Elections`]: when to stand for election, and which votes to ignore.
//! - [`policy`]: which node should own what. Safe whatever it says.
//! - [`Pair`]: two nodes without a quorum.

mod collector;
mod command;
mod elections;
mod entry;
mod handover;
mod identities;
mod machine;
mod node_set;
mod pair;
pub mod policy;
mod progress;
#[cfg(not(netft_sabotage))]
mod sabotage;
#[cfg(netft_sabotage)]
pub mod sabotage;
mod state;
#[cfg(test)]
mod tests;
mod vouching;

pub use command::{Command, Message, Start};
pub use elections::{Elections, Heed, Seen};
pub use entry::{
    Entry, LogId, Maintenance, Member, Standing, VipAddress, VipId, VipSettings, VoterSets, Why,
};
pub use machine::Ownership;
pub use node_set::NodeSet;
pub use pair::{Claim, Pair, PairCommand};
pub use state::{Leases, State, Vip};
pub use vouching::VoterStanding;

/// How often an owner has owned: grows by one with every assignment of a VIP, so each names one owner.
pub type Epoch = u64;
