//! AF_XDP: sockets that give and take frames in memory shared with the kernel, past its network stack.
//!
//! Split by kernel object: [`frames`] knows where every packet buffer is, [`port`] is a socket as its worker uses it,
//! [`socket`] makes one from xsk-rs (and has all the `unsafe`), [`headers`] makes and reads what the kernel's stack
//! otherwise would, `control` decides which interfaces have sockets. All but the last can be used without an engine.

mod control;
pub mod frames;
pub mod headers;
pub mod port;
pub mod socket;

pub(super) use control::{Bypass, Turn};
pub use control::{DataWay, DatapathOptions, PathReport, PathWish};
pub use headers::Headers;
pub use port::Port;
pub use socket::{Bound, Spec, XskRings};

/// A socket in earnest.
pub type XskPort = Port<XskRings>;
