//! The shell around `netft-core`: engine, eBPF loading, netlink, control socket, configuration.
