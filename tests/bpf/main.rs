//! The eBPF programs in this kernel, by PROG_TEST_RUN: every verdict, every reject reason, IPv4, IPv6 and VLAN, and
//! that XDP decides as the same code does on the host. Needs root.

mod agreement;
mod cost;
mod exchange;
mod fence;
mod frames;
mod gates;
mod hostile;
mod lab;
mod log;
mod memory;
mod node;
mod program;
mod sense;
mod steering;
mod verdicts;
mod versions;
