//! Where peers are on their links, told to the kernel when it doesn't know.
//!
//! Heartbeats and data leave through the kernel's stack, which must know the peer's hardware address. After a loss of
//! carrier it has forgotten it, and after a long cut it has given up; then it asks again once a second, so that a
//! healed route would come up a second late. The peer's hello has said the address, so nobody needs to ask.

use crate::rtnl::{CREATE_OR_REPLACE, Client, Request, family_and_bytes, kind, u16_at};
use std::io;
use std::net::IpAddr;

/// `struct ndmsg`.
pub(super) const NDMSG: usize = 12;
pub(super) const NUD_STALE: u16 = 0x04;
pub(super) const NUD_PERMANENT: u16 = 0x80;
/// NUD_REACHABLE | NUD_STALE | NUD_DELAY | NUD_PROBE | NUD_NOARP | NUD_PERMANENT: the kernel has an address to send to.
const NUD_VALID: u16 = 0x02 | NUD_STALE | 0x08 | 0x10 | 0x40 | NUD_PERMANENT;

/// A peer's endpoint on a subnet of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// The own interface that is on that subnet.
    pub ifindex: u32,
    /// The peer's address.
    pub address: IpAddr,
    /// Its hardware address, as the peer says.
    pub mac: [u8; 6],
}

impl Neighbour {
    /// A request about it, NUD_* in `state`.
    pub fn request(&self, kind: u16, flags: u16, state: u16) -> Request {
        const NDA_LLADDR: u16 = 2;
        self.bare(kind, flags, state).attribute(NDA_LLADDR, &self.mac)
    }

    fn bare(&self, kind: u16, flags: u16, state: u16) -> Request {
        const NDA_DST: u16 = 1;
        let (family, bytes) = family_and_bytes(self.address);
        let mut fixed = [0; NDMSG];
        fixed[0] = family;
        fixed[4..8].copy_from_slice(&self.ifindex.to_ne_bytes());
        fixed[8..10].copy_from_slice(&state.to_ne_bytes());
        Request::new(kind, flags, &fixed).attribute(NDA_DST, &bytes)
    }
}

/// Makes sure that the kernel has an address to send to. What it found out itself stays; an entry made here is *stale*,
/// so the kernel uses it at once and checks it (RFC 4861, section 7.3.2). Returns whether one was made.
pub fn ensure(client: &mut Client, neighbour: &Neighbour) -> io::Result<bool> {
    let mut state = 0;
    let asked = client
        .get(neighbour.bare(kind::GET_NEIGHBOUR, 0, 0), |message| state = u16_at(message.payload, 8))
        .or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) });
    asked?;
    if state & NUD_VALID != 0 {
        return Ok(false);
    }
    client.request(neighbour.request(kind::NEW_NEIGHBOUR, CREATE_OR_REPLACE, NUD_STALE))?;
    Ok(true)
}
