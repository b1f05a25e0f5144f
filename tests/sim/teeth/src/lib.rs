//! The same sources as the crate `netft-sim`, around the same sources of the detector as in the crate `netft-core`,
//! compiled once more with `netft_sabotage`: then the detector can be told to do something wrong. What is shipped is
//! never compiled like this.
// What it includes is tested where it belongs.
#![cfg(not(test))]

#[path = "../../src/case.rs"]
mod case;
#[path = "../../src/checks/mod.rs"]
mod checks;
#[path = "../../src/clock.rs"]
mod clock;
#[path = "../../../../netft-userspace/core/src/detect/mod.rs"]
#[expect(dead_code, unused_imports, reason = "the simulation doesn't use all of it")]
mod detect;
#[path = "../../src/network.rs"]
mod network;
#[path = "../../src/node.rs"]
mod node;
#[path = "../../src/plan.rs"]
mod plan;
#[path = "../../src/queue.rs"]
mod queue;
#[path = "../../src/rng.rs"]
mod rng;
#[path = "../../src/shrink.rs"]
mod shrink;
#[path = "../../src/traffic.rs"]
mod traffic;
#[path = "../../src/world.rs"]
mod world;

pub use case::{Case, Fault, FaultKind};
pub use checks::{Broken, Property, Tally};
pub use detect::sabotage::{Sabotage, sabotage};
pub use plan::{CALM, CUTS, FAR, FLAPS, FREEZES, LOSS, MIXED, PLANS, Plan, ROUGH, STALLS, TRAFFIC};
pub use shrink::{Shrunk, report, shrink};

pub(crate) use detect::sabotage;
pub(crate) use netft_core::types;

include!("../../src/simulator.rs");
