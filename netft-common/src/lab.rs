//! What the lab's programs and `cargo xtask lab` share: which ports of the switch are silent.

use bytemuck::{Pod, Zeroable};

/// Names of programs and maps in the lab's object.
pub mod name {
    /// XDP on a port of the switch, where frames from the node arrive.
    pub const PORT: &str = "lab_port";
    /// tcx egress on a port of the switch, where frames to the node leave.
    pub const EGRESS: &str = "lab_egress";
    /// XDP that passes everything: a veth end needs one for its peer's `XDP_TX` to get through.
    pub const PASS: &str = "xdp_pass";
    /// Hash: ifindex of a port to [`super::Port`].
    pub const PORTS: &str = "LAB_PORTS";
    /// Array of [`super::NODES`] words: [`super::silent`] bits of a node, all its ports at once. Memory-mapped.
    pub const NODES: &str = "LAB_NODES";
}

/// Length of [`name::NODES`]; the index is [`Port::node`].
pub const NODES: u32 = 256;
/// Ports one lab can have.
pub const MAX_PORTS: u32 = 1024;

/// Directions in which a port or a node is silent, from the node's point of view.
pub mod silent {
    /// What the node sends is dropped.
    pub const TX: u32 = 1;
    /// What is sent to the node is dropped.
    pub const RX: u32 = 2;
}

/// One port of the switch.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Port {
    /// [`silent`] bits of this port.
    pub silent: u32,
    /// Index of the node in [`name::NODES`] whose bits count as well.
    pub node: u32,
}

const _: () = assert!(size_of::<Port>() == 8);
