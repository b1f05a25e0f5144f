//! Clusters in virtual time: real detectors, the real answer logic of XDP, a model of everything between, and faults
//! from a seed. What must hold is in `checks`; a run that breaks it is cut down to a case that can be replayed.

mod case;
mod checks;
mod clock;
mod network;
mod node;
mod plan;
mod queue;
mod rng;
mod shrink;
mod traffic;
mod world;

pub use case::{Case, Fault, FaultKind};
pub use checks::{Broken, Property, Tally};
pub use plan::{CALM, CUTS, FAR, FLAPS, FREEZES, LOSS, MIXED, PLANS, Plan, ROUGH, STALLS, TRAFFIC};
pub use shrink::{Shrunk, report, shrink};

pub(crate) use netft_core::{detect, types};

/// Nothing is broken on purpose here: see the crate `netft-sim-teeth`.
pub(crate) mod sabotage {
    pub(crate) enum Sabotage {
        AnswersLeg4,
    }

    pub(crate) fn broken(how: Sabotage) -> bool {
        match how {
            Sabotage::AnswersLeg4 => false,
        }
    }
}

include!("simulator.rs");
