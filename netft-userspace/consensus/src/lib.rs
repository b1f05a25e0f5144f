//! The consensus of a cluster: a replicated log of [`netft_core::ownership::Entry`] on every node, kept by openraft, durable
//! on disk, spoken over TCP connections that take the cluster secret. What it decides is applied to
//! [`netft_core::ownership::Ownership`], whose commands are carried out in order by an [`Actuator`].
//!
//! - [`Consensus`]: one node: start it, tell it what the detector sees, propose entries, change the members.
//! - `driver`: ownership and elections, under one lock.
//! - `store`, `disk`, `log`, `machine`: what openraft keeps, and where.
//! - `rpc`, `network`: how nodes talk.
//! - `members`: founding a cluster, adding and removing nodes.
//!
//! Why it is as it is: `docs/decisions/0036-consensus-by-openraft-over-redb.md`.

mod clock;
mod disk;
mod driver;
mod log;
mod machine;
mod members;
mod network;
mod node;
mod rpc;
mod store;
mod types;

pub use disk::DiskCost;
pub use driver::{Actuator, Change, NoFence};
pub use members::Place;
pub use node::{Consensus, ConsensusError, SNAPSHOT_ENTRIES, Settings, Status, timers};
pub use rpc::Refusals;
pub use store::{FILE, StoreError};
