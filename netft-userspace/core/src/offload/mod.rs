//! Super-packets: what `netft0` hands over, or takes, in one call instead of one call per frame.
//!
//! The kernel's TCP (and UDP with UDP_SEGMENT) leaves the division of up to 64 KiB into frames to the device, with a
//! [`VirtioHeader`] that says how. [`Cut`] divides it, so that each datagram on the wire carries one frame of ordinary
//! size; [`Merger`] puts consecutive frames of a flow together again on the other side, as the kernel's GRO does.
//!
//! # Checksums
//!
//! What local applications send comes with a *partial* checksum: the field has the sum of the pseudo-header alone, and
//! the device completes it. Between two `netft0` nobody needs it complete: the message around the frame is authenticated,
//! so the receiver's kernel is told that the checksum is still partial, believes the content, and completes it if the
//! frame goes on through another device. That saves two passes over every byte. [`Checksum`] travels with the frame.

mod checksum;
mod cut;
mod layout;
mod merge;

pub use checksum::{complement, sum};
pub use cut::{Cut, CutError};
pub use layout::{Family, Layout, Transport};
pub use merge::{Datagrams, Merger, Packet, Unfit};

use bytemuck::{Pod, Zeroable};

/// Longest packet that crosses `netft0` in one call: an IP packet of 65535 bytes, an Ethernet header, two VLAN tags.
pub const MAX_PACKET: usize = 65535 + 14 + 8;

/// What the kernel and a TAP device say to each other about a packet: `struct virtio_net_hdr_mrg_rxbuf`
/// (include/uapi/linux/virtio_net.h), numbers in the byte order of this machine.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct VirtioHeader {
    /// Bit 0: the checksum is partial. Bit 1: it is complete and right.
    pub flags: u8,
    /// One of [`gso`].
    pub gso_type: u8,
    /// Bytes of headers before the payload that is divided; 0 unless it is a super-packet.
    pub header_len: u16,
    /// Payload bytes of each frame but the last; 0 unless it is a super-packet.
    pub segment_len: u16,
    /// Where what a partial checksum covers begins: at the transport header.
    pub checksum_start: u16,
    /// Where the checksum is, from there.
    pub checksum_offset: u16,
    /// Not used by TAP devices.
    pub buffers: u16,
}

impl VirtioHeader {
    /// [`Self::flags`]: the checksum is partial (VIRTIO_NET_HDR_F_NEEDS_CSUM).
    pub const NEEDS_CHECKSUM: u8 = 1;
}

/// Kinds of super-packets (VIRTIO_NET_HDR_GSO_*).
pub mod gso {
    /// An ordinary frame.
    pub const NONE: u8 = 0;
    /// TCP over IPv4.
    pub const TCP_V4: u8 = 1;
    /// TCP over IPv6.
    pub const TCP_V6: u8 = 4;
    /// UDP datagrams of equal size, the last may be shorter.
    pub const UDP: u8 = 5;
    /// Added to those of TCP: the first frame alone keeps CWR. That is how it is cut anyway.
    pub const ECN: u8 = 0x80;
}

/// State of the transport checksum in a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checksum {
    /// As on any wire.
    Complete,
    /// It has the pseudo-header alone. Only of frames whose [`Layout`] can be told: that says where it is.
    Partial,
}

const _: () = assert!(size_of::<VirtioHeader>() == 12);

#[cfg(test)]
mod tests;
