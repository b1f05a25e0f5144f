//! Ownership in virtual time: the state machines that decide who owns a VIP and the fence that XDP and TC evaluate, around a
//! model of consensus, with faults from a seed. What must hold is in `checks`; a run that breaks it is cut down to a case that
//! can be replayed. What it shows, and what not, is in `docs/ownership.md`.

mod case;
mod checks;
mod faults;
mod memory;
mod node;
mod plan;
mod raft;
#[path = "../../sim/src/rng.rs"]
mod rng;
mod shell;
mod world;

pub use case::{Case, Fault, FaultKind};
pub use checks::{Broken, Property, SERVED_WITHIN_NS, Tally};
pub use plan::{
    AMNESIA, CHANGES, CRASHES, CUTS, DISRUPT, FORGOTTEN, FREEZES, MIXED, MOVEOUT, MOVES, PLANS, Plan,
    RELAPSE, RELAY, RIFTS, SLEEPER,
};

pub(crate) use netft_common::fence;
pub(crate) use netft_core::ownership;

include!("simulator.rs");
