//! The lab itself, and netft in it: real kernels' network namespaces, real eBPF, real daemons.
//!
//! Every test builds a lab of its own, so tests run in parallel. They need root.

#![expect(clippy::unwrap_used, reason = "in tests and their helpers, what fails fails the test")]

mod adapter;
mod bulk;
mod cluster;
mod datapath;
mod failover;
mod fence;
mod hostile;
mod lifecycle;
mod refusals;
mod rotation;
mod routes;
mod sessions;
mod support;
mod survival;
mod topology;
mod versions;
mod vips;
mod waste;
