//! rtnetlink messages, by hand: the detection thread must read them without allocating, and the dozen requests that
//! the adapter needs aren't worth a second way of doing it (rtnetlink(7), include/uapi/linux/rtnetlink.h).

use crate::sys;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};

/// Message types and flags, as the kernel numbers them.
pub mod kind {
    #![expect(missing_docs, reason = "names of the kernel's API, documented in rtnetlink(7)")]
    pub const ERROR: u16 = 2;
    pub const DONE: u16 = 3;
    pub const NEW_LINK: u16 = 16;
    pub const DEL_LINK: u16 = 17;
    pub const GET_LINK: u16 = 18;
    pub const NEW_ADDRESS: u16 = 20;
    pub const DEL_ADDRESS: u16 = 21;
    pub const GET_ADDRESS: u16 = 22;
    pub const NEW_ROUTE: u16 = 24;
    pub const DEL_ROUTE: u16 = 25;
    pub const GET_ROUTE: u16 = 26;
    pub const NEW_NEIGHBOUR: u16 = 28;
    pub const DEL_NEIGHBOUR: u16 = 29;
    pub const GET_NEIGHBOUR: u16 = 30;
}

/// Address families, linux/socket.h.
pub const AF_INET: u8 = 2;
/// See [`AF_INET`].
pub const AF_INET6: u8 = 10;
/// NLM_F_REQUEST.
const REQUEST: u16 = 1;
/// NLM_F_ACK.
const ACK: u16 = 4;
/// NLM_F_DUMP.
const DUMP: u16 = 0x300;
/// NLM_F_CREATE | NLM_F_REPLACE, for requests that make something or change it to what they say.
pub const CREATE_OR_REPLACE: u16 = 0x400 | 0x100;

/// How long an answer may take.
const PATIENCE_NS: u64 = 2_000_000_000;
const HEADER: usize = 16;

/// Rounds up to the 4 bytes that netlink aligns everything to.
const fn align(length: usize) -> usize {
    (length + 3) & !3
}

/// A request in the making.
#[derive(Debug)]
pub struct Request {
    bytes: Vec<u8>,
}

impl Request {
    /// A message of `kind` with its fixed part (`ifinfomsg`, `ifaddrmsg`, …).
    pub fn new(kind: u16, flags: u16, fixed: &[u8]) -> Self {
        let mut bytes = vec![0; HEADER];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&(flags | REQUEST).to_ne_bytes());
        bytes.extend_from_slice(fixed);
        bytes.resize(align(bytes.len()), 0);
        Self { bytes }
    }

    /// Adds an attribute.
    pub fn attribute(mut self, kind: u16, value: &[u8]) -> Self {
        let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.bytes.resize(align(self.bytes.len()), 0);
        self
    }

    /// Adds an attribute that holds attributes.
    pub fn nest(mut self, kind: u16, fill: impl FnOnce(Self) -> Self) -> Self {
        const NESTED: u16 = 1 << 15;
        let start = self.bytes.len();
        self = fill(self.attribute(kind | NESTED, &[]));
        let length = u16::try_from(self.bytes.len() - start).unwrap_or(u16::MAX);
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self
    }

    fn finish(mut self, flags: u16, sequence: u32) -> Vec<u8> {
        let length = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
        let old = u16::from_ne_bytes([self.bytes[6], self.bytes[7]]);
        self.bytes[0..4].copy_from_slice(&length.to_ne_bytes());
        self.bytes[6..8].copy_from_slice(&(old | flags).to_ne_bytes());
        self.bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
        self.bytes
    }
}

/// One message as received.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// Its type.
    pub kind: u16,
    /// Sequence number of the request that it answers, 0 in notifications.
    pub sequence: u32,
    /// What follows the header.
    pub payload: &'a [u8],
}

/// The messages of one datagram; stops at the first malformed one. Allocates nothing.
pub fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let header = bytes.get(..HEADER)?;
        let length = u32_at(header, 0) as usize;
        let payload = bytes.get(HEADER..length)?;
        bytes = bytes.get(align(length)..).unwrap_or_default();
        Some(Message { kind: u16_at(header, 4), sequence: u32_at(header, 8), payload })
    })
}

/// The attributes after a fixed part of `skip` bytes: (type without flag bits, value).
pub fn attributes(payload: &[u8], skip: usize) -> impl Iterator<Item = (u16, &[u8])> {
    let mut bytes = payload.get(align(skip)..).unwrap_or_default();
    std::iter::from_fn(move || {
        let header = bytes.get(..4)?;
        let length = usize::from(u16_at(header, 0));
        let value = bytes.get(4..length)?;
        bytes = bytes.get(align(length)..).unwrap_or_default();
        Some((u16_at(header, 2) & 0x3fff, value))
    })
}

/// Family and bytes of an address, as messages want them.
pub fn family_and_bytes(address: IpAddr) -> (u8, Vec<u8>) {
    match address {
        IpAddr::V4(v4) => (AF_INET, v4.octets().to_vec()),
        IpAddr::V6(v6) => (AF_INET6, v6.octets().to_vec()),
    }
}

/// The `u16` at `offset`; 0 if the bytes end before.
pub fn u16_at(bytes: &[u8], offset: usize) -> u16 {
    bytes.get(offset..offset + 2).and_then(|b| b.try_into().ok()).map_or(0, u16::from_ne_bytes)
}

/// The `u32` at `offset`; 0 if the bytes end before.
pub fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    bytes.get(offset..offset + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_ne_bytes)
}

/// An attribute that is a C string.
pub fn string(value: &[u8]) -> String {
    String::from_utf8_lossy(value.split(|byte| *byte == 0).next().unwrap_or_default()).into_owned()
}

/// Asks the kernel and waits for its answer (microseconds; 2 s at most).
#[derive(Debug)]
pub struct Client {
    socket: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Client {
    /// Opens a socket in the calling thread's network namespace.
    pub fn new() -> io::Result<Self> {
        Ok(Self { socket: sys::netlink::open(0)?, sequence: 0, buffer: vec![0; 1 << 16] })
    }

    /// Does what `request` says; the error is the kernel's.
    pub fn request(&mut self, request: Request) -> io::Result<()> {
        self.exchange(request, ACK, |_| ())
    }

    /// Lists everything that `request` selects.
    pub fn dump(&mut self, request: Request, each: impl FnMut(Message<'_>)) -> io::Result<()> {
        self.exchange(request, DUMP, each)
    }

    /// Gets the one object that `request` names.
    pub fn get(&mut self, request: Request, each: impl FnMut(Message<'_>)) -> io::Result<()> {
        self.exchange(request, ACK, each)
    }

    fn exchange(
        &mut self,
        request: Request,
        flags: u16,
        mut each: impl FnMut(Message<'_>),
    ) -> io::Result<()> {
        let deadline_ns = sys::boottime().saturating_add(PATIENCE_NS);
        self.sequence = self.sequence.wrapping_add(1).max(1);
        sys::netlink::send(self.socket.as_fd(), &request.finish(flags, self.sequence))?;
        loop {
            let mut fds = [sys::poll_in(self.socket.as_fd())];
            let length = match sys::netlink::receive(self.socket.as_fd(), &mut self.buffer) {
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    // A signal ends poll early.
                    let left_ns = deadline_ns.saturating_sub(sys::boottime());
                    if sys::poll(&mut fds, Some(left_ns))? == 0 && left_ns == 0 {
                        return Err(io::Error::new(
                            io::ErrorKind::TimedOut,
                            "the kernel didn't answer on netlink within 2 s",
                        ));
                    }
                    continue;
                }
                Err(error) => return Err(error),
            };
            for message in messages(&self.buffer[..length]).filter(|m| m.sequence == self.sequence) {
                match message.kind {
                    kind::DONE => return Ok(()),
                    kind::ERROR => {
                        return match u32_at(message.payload, 0).cast_signed() {
                            0 => Ok(()),
                            code => Err(io::Error::from_raw_os_error(-code)),
                        };
                    }
                    _ => each(message),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_reads_back_as_written() {
        let request = Request::new(kind::NEW_LINK, 0, &[7; 5])
            .attribute(1, &[1, 2, 3])
            .nest(2, |r| r.attribute(3, b"x").attribute(4, b"yz"));
        let bytes = request.finish(ACK, 9);
        let message = messages(&bytes).next().unwrap();
        assert_eq!((message.kind, message.sequence), (kind::NEW_LINK, 9));
        let outer: Vec<_> = attributes(message.payload, 5).collect();
        assert_eq!(outer[0], (1, [1, 2, 3].as_slice()));
        assert_eq!(outer[1].0, 2);
        let inner: Vec<_> = attributes(outer[1].1, 0).collect();
        assert_eq!(inner, [(3, b"x".as_slice()), (4, b"yz".as_slice())]);
    }

    #[test]
    fn truncated_messages_end_the_iteration() {
        let bytes = Request::new(kind::NEW_LINK, 0, &[0; 16]).attribute(1, &[0; 8]).finish(0, 1);
        for length in 0..bytes.len() {
            assert_eq!(messages(&bytes[..length]).count(), 0);
        }
        assert_eq!(attributes(&[0, 0, 0, 0], 0).count(), 0, "a length of 0 doesn't loop for ever");
    }

    #[test]
    fn the_kernel_answers() {
        let mut client = Client::new().unwrap();
        let mut names = Vec::new();
        client
            .dump(Request::new(kind::GET_LINK, 0, &[0; 16]), |link| {
                names.extend(
                    attributes(link.payload, 16).filter(|(kind, _)| *kind == 3).map(|(_, name)| string(name)),
                );
            })
            .unwrap();
        assert!(names.contains(&"lo".to_owned()), "{names:?}");
    }
}
