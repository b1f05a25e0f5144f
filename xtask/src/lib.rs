//! Developer tasks as a library, so that tests and benchmarks drive the same lab as the command line.

pub mod bench;
pub mod build_ebpf;
pub mod cluster;
pub mod demo;
pub mod hostile;
pub mod interrupt;
pub mod lab;
pub mod privilege;
pub mod test;
pub mod traffic;
