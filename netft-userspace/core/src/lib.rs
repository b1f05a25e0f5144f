//! netft's protocol logic, sans-IO: no sockets, no clock, no threads, no OS.
//!
//! State machines take `now` (nanoseconds of CLOCK_BOOTTIME) and what arrived, and give back transmits, events and
//! idempotent commands. The shell mutates, then drains: after every `handle_*` it polls everything until empty.
//!
//! - [`detect`]: is a route up? Which one is active? Runs on the detection thread, allocates nothing after start.
//! - [`membership`]: who are the peers, which endpoints, networks and routes exist? Runs on the control thread.
//! - [`session`]: which keys does a pair of nodes use? Runs on the control thread, within membership.
//! - [`carry`]: which routes a frame takes, and what is sent again when one dies. Runs on the data thread.
//! - [`data`]: one frame of cluster traffic, sealed and opened. Runs on the data thread.
//! - [`offload`]: many frames that cross the adapter in one call, cut and merged. Runs on the data thread.
//! - [`pmtu`], [`too_big`]: how large packets a route carries, and who is told. Run on the data thread.
//! - [`ownership`]: who may own which VIP. Runs on the ownership thread.
//! - [`channel`]: what consensus says over TCP, sealed. Runs on the ownership thread.
//! - [`keys`], [`dice`], [`adapter`], [`networks`], [`window`], [`bucket`]: what these need.
#![forbid(unsafe_code)]

pub mod adapter;
pub mod bucket;
pub mod carry;
pub mod channel;
pub mod data;
pub mod detect;
pub mod dice;
pub mod keys;
pub mod membership;
pub mod networks;
pub mod offload;
pub mod ownership;
pub mod pmtu;
pub mod session;
pub mod too_big;
pub mod types;
pub mod window;
