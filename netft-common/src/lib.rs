//! What the kernel side and the userspace side of netft must agree on, to the byte.
//!
//! No `std`, no I/O, no clock. The eBPF programs and the daemon compile the same code, so a packet that the
//! daemon's tests accept is the packet that XDP accepts. The layouts are described for people in
//! `docs/wire-format.md`.
#![no_std]

pub mod fence;
// Userspace's alone: a change there must not make the eBPF objects stale.
#[cfg(not(target_arch = "bpf"))]
pub mod handshake;
pub mod heartbeat;
// As above.
#[cfg(not(target_arch = "bpf"))]
pub mod hello;
pub mod lab;
pub mod map;
pub mod packet;
pub mod receive;
pub mod shared;
pub mod siphash;
pub mod vip;
pub mod wire;
