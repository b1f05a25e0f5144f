//! The shell around `netft-core`: engine, eBPF loading, netlink, control socket, configuration.

pub mod cli;
pub mod config;
pub mod control;
pub mod daemon;
pub mod engine;
pub mod listing;
pub mod mmap;
pub mod netlink;
pub mod ownership;
pub mod pressure;
pub mod rtnl;
pub mod sys;
