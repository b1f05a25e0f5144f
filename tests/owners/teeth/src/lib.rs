//! The same sources as the crate `netft-owners`, around the same sources of the fence as in `netft-common` and of ownership as
//! in `netft-core`, compiled once more with `netft_sabotage`: then a rule can be left out. What is shipped is never compiled
//! like this.
// What it includes is tested where it belongs.
#![cfg(not(test))]

#[path = "../../src/case.rs"]
mod case;
#[path = "../../src/checks.rs"]
mod checks;
#[path = "../../src/faults.rs"]
mod faults;
#[path = "../../../../netft-common/src/fence/mod.rs"]
#[expect(dead_code, reason = "the simulation doesn't use all of it")]
mod fence;
#[path = "../../src/memory.rs"]
mod memory;
#[path = "../../src/node.rs"]
mod node;
#[path = "../../../../netft-userspace/core/src/ownership/mod.rs"]
#[expect(dead_code, unused_imports, reason = "the simulation doesn't use all of it")]
mod ownership;
#[path = "../../src/plan.rs"]
mod plan;
#[path = "../../src/raft.rs"]
mod raft;
#[path = "../../../sim/src/rng.rs"]
mod rng;
#[path = "../../src/shell.rs"]
pub mod shell;
#[path = "../../src/world.rs"]
mod world;

pub use case::{Case, Fault, FaultKind};
pub use checks::{Broken, Property, SERVED_WITHIN_NS, Tally};
pub use fence::sabotage as of_the_fence;
pub use ownership::sabotage as of_ownership;
pub use plan::{
    AMNESIA, CHANGES, CRASHES, CUTS, DISRUPT, FORGOTTEN, FREEZES, MIXED, MOVEOUT, MOVES, PLANS, Plan,
    RELAPSE, RELAY, RIFTS, SLEEPER,
};
pub use shell as of_the_shell;

pub(crate) use netft_common::{map, shared, wire};
pub(crate) use netft_core::types;

include!("../../src/simulator.rs");
