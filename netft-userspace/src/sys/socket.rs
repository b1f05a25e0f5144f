//! UDP sockets of one local endpoint, with everything that std doesn't set, and sends and receives in batches.

use super::{check, check_len, socklen};
use netft_common::wire::TRAFFIC_CLASS;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// A socket address as the kernel has it, v4 or v6.
#[derive(Clone, Copy)]
pub struct SocketAddress {
    storage: libc::sockaddr_storage,
    length: libc::socklen_t,
}

impl std::fmt::Debug for SocketAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("SocketAddress").field(&self.ip()).finish()
    }
}

impl SocketAddress {
    /// An address and a port.
    pub fn new(ip: IpAddr, port: u16) -> Self {
        // SAFETY: all zeroes is a valid sockaddr_storage; it is large and aligned enough for both kinds of address.
        unsafe {
            let mut storage: libc::sockaddr_storage = std::mem::zeroed();
            let length = match ip {
                IpAddr::V4(ip) => {
                    let address = &mut *(&raw mut storage).cast::<libc::sockaddr_in>();
                    address.sin_family = family(libc::AF_INET);
                    address.sin_port = port.to_be();
                    address.sin_addr.s_addr = u32::from(ip).to_be();
                    socklen::<libc::sockaddr_in>()
                }
                IpAddr::V6(ip) => {
                    let address = &mut *(&raw mut storage).cast::<libc::sockaddr_in6>();
                    address.sin6_family = family(libc::AF_INET6);
                    address.sin6_port = port.to_be();
                    address.sin6_addr.s6_addr = ip.octets();
                    socklen::<libc::sockaddr_in6>()
                }
            };
            Self { storage, length }
        }
    }

    /// The address; `::` if the kernel filled in none.
    pub fn ip(&self) -> IpAddr {
        // SAFETY: the family says which of the two views the storage holds; both fit into it.
        unsafe {
            match i32::from(self.storage.ss_family) {
                libc::AF_INET => {
                    let address = &*(&raw const self.storage).cast::<libc::sockaddr_in>();
                    IpAddr::from(u32::from_be(address.sin_addr.s_addr).to_be_bytes())
                }
                libc::AF_INET6 => {
                    let address = &*(&raw const self.storage).cast::<libc::sockaddr_in6>();
                    IpAddr::from(address.sin6_addr.s6_addr)
                }
                _ => IpAddr::from([0u8; 16]),
            }
        }
    }

    /// The port.
    pub fn port(&self) -> u16 {
        // SAFETY: the port is at the same place in both kinds of address, inside the storage.
        unsafe { u16::from_be((*(&raw const self.storage).cast::<libc::sockaddr_in>()).sin_port) }
    }
}

fn family(family: libc::c_int) -> libc::sa_family_t {
    libc::sa_family_t::try_from(family).unwrap_or(0)
}

fn set<T>(socket: BorrowedFd<'_>, level: libc::c_int, name: libc::c_int, value: &T) -> io::Result<()> {
    // SAFETY: the kernel reads `size_of::<T>()` bytes of `value`.
    check(unsafe {
        libc::setsockopt(socket.as_raw_fd(), level, name, std::ptr::from_ref(value).cast(), socklen::<T>())
    })?;
    Ok(())
}

/// Opens a non-blocking UDP socket on (`local`, `port`) that sends and receives by `interface` only, marked CS6, and
/// never lets the kernel fragment. The address need not be usable yet. Several of these may share an address: the one
/// bound first receives everything once [`receive_on_first`] was called on it.
pub fn open_udp(local: IpAddr, port: u16, interface: &str) -> io::Result<OwnedFd> {
    use std::os::fd::AsFd;
    let (domain, is_v6) = match local {
        IpAddr::V4(_) => (libc::AF_INET, false),
        IpAddr::V6(_) => (libc::AF_INET6, true),
    };
    let kind = libc::SOCK_DGRAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: socket takes plain numbers; the descriptor is new and ours alone.
    let socket = unsafe { OwnedFd::from_raw_fd(check(libc::socket(domain, kind, 0))?) };
    let fd = socket.as_fd();
    let on: libc::c_int = 1;
    let traffic_class = libc::c_int::from(TRAFFIC_CLASS);
    set(fd, libc::SOL_SOCKET, libc::SO_REUSEPORT, &on)?;
    let mut name = [0u8; libc::IFNAMSIZ];
    let length = interface.len().min(libc::IFNAMSIZ - 1);
    name[..length].copy_from_slice(&interface.as_bytes()[..length]);
    set(fd, libc::SOL_SOCKET, libc::SO_BINDTODEVICE, &name)?;
    if is_v6 {
        set(fd, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, &on)?;
        set(fd, libc::IPPROTO_IPV6, libc::IPV6_FREEBIND, &on)?;
        set(fd, libc::IPPROTO_IPV6, libc::IPV6_TCLASS, &traffic_class)?;
        set(fd, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, &libc::IPV6_PMTUDISC_PROBE)?;
    } else {
        set(fd, libc::IPPROTO_IP, libc::IP_FREEBIND, &on)?;
        set(fd, libc::IPPROTO_IP, libc::IP_TOS, &traffic_class)?;
        set(fd, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, &libc::IP_PMTUDISC_PROBE)?;
    }
    // Above 6 the kernel wants CAP_NET_ADMIN, which netftd has; without it the DSCP still stands.
    let _ = set(fd, libc::SOL_SOCKET, libc::SO_PRIORITY, &(7 as libc::c_int));
    let bytes: libc::c_int = 4 << 20;
    if set(fd, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, &bytes).is_err() {
        let _ = set(fd, libc::SOL_SOCKET, libc::SO_RCVBUF, &bytes);
    }
    if set(fd, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, &bytes).is_err() {
        let _ = set(fd, libc::SOL_SOCKET, libc::SO_SNDBUF, &bytes);
    }
    let address = SocketAddress::new(local, port);
    // SAFETY: the kernel reads `length` bytes of the storage.
    check(unsafe { libc::bind(socket.as_raw_fd(), (&raw const address.storage).cast(), address.length) })?;
    Ok(socket)
}

/// Has the kernel put consecutive datagrams of one sender and size together in one message (UDP_GRO): see
/// [`Batch::message`]. All sockets that share an address must agree: when it puts them together, the kernel doesn't know
/// yet which one will receive (udp4_gro_lookup_skb, net/ipv4/udp.c). Kernels before 5.0 can't, and needn't.
pub fn receive_merged(socket: BorrowedFd<'_>) -> io::Result<()> {
    set(socket, libc::SOL_UDP, libc::UDP_GRO, &(1 as libc::c_int))
}

/// Of all sockets that share this one's address, the one bound first receives every datagram.
pub fn receive_on_first(socket: BorrowedFd<'_>) -> io::Result<()> {
    // One classic BPF instruction, `return 0`: index in the reuseport group (socket(7), SO_ATTACH_REUSEPORT_CBPF).
    let mut filter = [libc::sock_filter { code: 0x06, jt: 0, jf: 0, k: 0 }];
    let program = libc::sock_fprog { len: 1, filter: filter.as_mut_ptr() };
    set(socket, libc::SOL_SOCKET, libc::SO_ATTACH_REUSEPORT_CBPF, &program)
}

/// Whether the kernel may take a send as proof that the neighbour is reachable (MSG_CONFIRM, send(2)): it then needs
/// no ARP or neighbour solicitation of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Neighbour {
    /// Heartbeats prove it.
    Confirmed,
    /// The kernel may probe.
    Unknown,
}

/// Sends one datagram, never blocking.
#[inline]
pub fn send_to(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    remote: &SocketAddress,
    neighbour: Neighbour,
) -> io::Result<usize> {
    let flags = libc::MSG_DONTWAIT
        | match neighbour {
            Neighbour::Confirmed => libc::MSG_CONFIRM,
            Neighbour::Unknown => 0,
        };
    // SAFETY: pointer and length of the payload come from one slice; the kernel reads `length` bytes of the storage.
    check_len(unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            bytes.as_ptr().cast(),
            bytes.len(),
            flags,
            (&raw const remote.storage).cast(),
            remote.length,
        )
    })
}

/// Most messages that [`Batch`] and [`send_runs`] move in one call.
pub const BATCH: usize = 32;
/// Most datagrams in one message (UDP_MAX_SEGMENTS, include/linux/udp.h).
pub const MAX_SEGMENTS: usize = 64;
/// Longest message: what IPv4 leaves of 65535 bytes.
pub const MAX_MESSAGE: usize = 65535 - 20 - 8;

/// Room for a control message with a number of up to 4 bytes.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct Control([u8; 24]);

impl Control {
    const EMPTY: Self = Self([0; 24]);

    /// UDP_SEGMENT.
    fn segment(bytes: u16) -> Self {
        let header = libc::cmsghdr {
            // SAFETY: CMSG_LEN only computes.
            cmsg_len: unsafe { libc::CMSG_LEN(2) } as _,
            cmsg_level: libc::SOL_UDP,
            cmsg_type: libc::UDP_SEGMENT,
        };
        let mut this = Self::EMPTY;
        // SAFETY: the structure is 12 or 16 bytes long, the buffer is aligned for it; the number fits behind it.
        unsafe {
            this.0.as_mut_ptr().cast::<libc::cmsghdr>().write(header);
            this.0.as_mut_ptr().add(size_of::<libc::cmsghdr>()).cast::<u16>().write(bytes);
        }
        this
    }

    /// The number in a UDP_GRO message, if the first of `length` bytes are one.
    fn merged(&self, length: usize) -> Option<usize> {
        const NUMBER: usize = size_of::<libc::cmsghdr>();
        if length < NUMBER + 4 {
            return None;
        }
        // SAFETY: the buffer is aligned and long enough for the structure, which may have any content.
        let header = unsafe { self.0.as_ptr().cast::<libc::cmsghdr>().read() };
        let number = i32::from_ne_bytes(*self.0[NUMBER..].first_chunk()?);
        let is_it = (header.cmsg_level, header.cmsg_type) == (libc::SOL_UDP, libc::UDP_GRO);
        usize::try_from(number).ok().filter(|number| is_it && *number > 0)
    }
}

/// Room for receiving up to [`BATCH`] messages in one call. Made once, used for ever: nothing is allocated later.
pub struct Batch {
    payloads: Box<[u8]>,
    payload_size: usize,
    addresses: Box<[SocketAddress]>,
    controls: Box<[Control]>,
    lengths: [usize; BATCH],
    segments: [usize; BATCH],
}

/// What was received in one piece: one datagram, or several from one sender.
#[derive(Debug, PartialEq, Eq)]
pub struct Message<'a> {
    /// From whom.
    pub remote: IpAddr,
    /// By which port.
    pub port: u16,
    /// Bytes of each datagram but the last, which may have fewer.
    pub segment: usize,
    /// The datagrams, one behind the other.
    pub bytes: &'a mut [u8],
}

impl<'a> Message<'a> {
    /// Each of them; an empty one counts as well.
    pub fn datagrams(self) -> impl Iterator<Item = &'a mut [u8]> {
        let (empty, bytes) =
            if self.bytes.is_empty() { (Some(self.bytes), None) } else { (None, Some(self.bytes)) };
        empty
            .into_iter()
            .chain(bytes.into_iter().flat_map(move |bytes| bytes.chunks_mut(self.segment.max(1))))
    }
}

impl Batch {
    /// For messages of up to `payload_size` bytes; longer ones are cut. With [`receive_merged`] they may have
    /// [`MAX_MESSAGE`].
    pub fn new(payload_size: usize) -> Self {
        let nobody = SocketAddress::new(IpAddr::from([0u8; 16]), 0);
        Self {
            payloads: vec![0; payload_size * BATCH].into_boxed_slice(),
            payload_size,
            addresses: vec![nobody; BATCH].into_boxed_slice(),
            controls: vec![Control::EMPTY; BATCH].into_boxed_slice(),
            lengths: [0; BATCH],
            segments: [0; BATCH],
        }
    }

    /// Receives what is there, at most [`BATCH`] messages; says how many. Never blocks.
    pub fn receive(&mut self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        // SAFETY: all zeroes is a valid mmsghdr and iovec. Each header names one distinct payload area, one distinct
        // address and one distinct control buffer, all of which outlive the call, with their true sizes.
        unsafe {
            let mut vectors: [libc::iovec; BATCH] = std::mem::zeroed();
            let mut headers: [libc::mmsghdr; BATCH] = std::mem::zeroed();
            let parts = self.payloads.chunks_exact_mut(self.payload_size).zip(self.addresses.iter_mut());
            let parts = parts.zip(self.controls.iter_mut());
            for ((header, vector), ((payload, address), control)) in
                headers.iter_mut().zip(&mut vectors).zip(parts)
            {
                *vector = libc::iovec { iov_base: payload.as_mut_ptr().cast(), iov_len: payload.len() };
                header.msg_hdr.msg_iov = vector;
                header.msg_hdr.msg_iovlen = 1;
                header.msg_hdr.msg_name = (&raw mut address.storage).cast();
                header.msg_hdr.msg_namelen = socklen::<libc::sockaddr_storage>();
                header.msg_hdr.msg_control = (&raw mut control.0).cast();
                header.msg_hdr.msg_controllen = size_of::<Control>() as _;
            }
            let flags = libc::MSG_DONTWAIT;
            let size = libc::c_uint::try_from(BATCH).unwrap_or(0);
            let received =
                libc::recvmmsg(socket.as_raw_fd(), headers.as_mut_ptr(), size, flags, std::ptr::null_mut());
            let received = check(received)?.unsigned_abs() as usize;
            for (index, header) in headers.iter().enumerate().take(received) {
                let length = header.msg_len as usize;
                self.lengths[index] = length;
                self.addresses[index].length = header.msg_hdr.msg_namelen;
                self.segments[index] =
                    self.controls[index].merged(header.msg_hdr.msg_controllen).unwrap_or(length);
            }
            Ok(received)
        }
    }

    /// Message `index` of the last [`Batch::receive`].
    pub fn message(&mut self, index: usize) -> Message<'_> {
        let address = &self.addresses[index];
        let start = index * self.payload_size;
        Message {
            remote: address.ip(),
            port: address.port(),
            segment: self.segments[index],
            bytes: &mut self.payloads[start..start + self.lengths[index]],
        }
    }
}

/// Datagrams to one receiver, one behind the other.
#[derive(Clone, Copy, Debug)]
pub struct Run<'a> {
    /// All of them: at most [`MAX_MESSAGE`] bytes and [`MAX_SEGMENTS`] datagrams.
    pub bytes: &'a [u8],
    /// Bytes of each but the last, which may have fewer. If that is all, it is one datagram like any other.
    pub segment: u16,
    /// To whom.
    pub remote: &'a SocketAddress,
}

/// Sends runs of datagrams, in order, in one call, at most [`BATCH`] runs; stops at the first that the kernel refuses. Returns
/// how many were sent and, if that is none, why.
///
/// Refused is a run that is longer than one datagram with EIO where the kernel can't divide it for that device, and with
/// EINVAL or EMSGSIZE if its datagrams don't fit into the path's MTU.
pub fn send_runs<'a>(
    socket: BorrowedFd<'_>,
    runs: impl Iterator<Item = Run<'a>>,
) -> (usize, Option<io::Error>) {
    // SAFETY: all zeroes is a valid mmsghdr and iovec. Each header names one payload and one address that the caller
    // keeps borrowed for 'a, and a control buffer that outlives the call; the kernel only reads them.
    unsafe {
        let mut vectors: [libc::iovec; BATCH] = std::mem::zeroed();
        let mut headers: [libc::mmsghdr; BATCH] = std::mem::zeroed();
        let mut controls = [Control::EMPTY; BATCH];
        let mut count = 0;
        let parts = headers.iter_mut().zip(&mut vectors).zip(&mut controls);
        for (((header, vector), control), run) in parts.zip(runs) {
            *vector =
                libc::iovec { iov_base: run.bytes.as_ptr().cast_mut().cast(), iov_len: run.bytes.len() };
            header.msg_hdr.msg_iov = vector;
            header.msg_hdr.msg_iovlen = 1;
            header.msg_hdr.msg_name = (&raw const run.remote.storage).cast_mut().cast();
            header.msg_hdr.msg_namelen = run.remote.length;
            if run.bytes.len() > usize::from(run.segment) {
                *control = Control::segment(run.segment);
                header.msg_hdr.msg_control = (&raw mut control.0).cast();
                header.msg_hdr.msg_controllen = libc::CMSG_SPACE(2) as _;
            }
            count += 1;
        }
        let flags = libc::MSG_DONTWAIT;
        match check(libc::sendmmsg(socket.as_raw_fd(), headers.as_mut_ptr(), count, flags)) {
            Ok(sent) => (sent.unsigned_abs() as usize, None),
            Err(error) => (0, Some(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    fn one<'a>(bytes: &'a [u8], remote: &'a SocketAddress) -> Run<'a> {
        Run { bytes, segment: u16::MAX, remote }
    }

    #[test]
    fn the_first_socket_of_an_address_receives_and_both_send() {
        let local: IpAddr = "127.0.0.1".parse().unwrap();
        let port = 33431;
        let first = open_udp(local, port, "lo").unwrap();
        receive_on_first(first.as_fd()).unwrap();
        let second = open_udp(local, port, "lo").unwrap();
        let address = SocketAddress::new(local, port);
        for _ in 0..8 {
            send_to(second.as_fd(), b"one", &address, Neighbour::Unknown).unwrap();
        }
        let payloads = [b"two".as_slice(), b"three"];
        assert_eq!(send_runs(second.as_fd(), payloads.iter().map(|p| one(p, &address))).0, 2);
        let mut batch = Batch::new(64);
        assert!(batch.receive(second.as_fd()).is_err());
        assert_eq!(batch.receive(first.as_fd()).unwrap(), 10);
        let bytes = &mut b"three".to_vec()[..];
        assert_eq!(batch.message(9), Message { remote: local, port, segment: 5, bytes });
        assert_eq!(batch.message(9).datagrams().count(), 1);
    }

    #[test]
    fn a_run_is_received_as_the_datagrams_that_it_has() {
        for (local, port, merged) in [("127.0.0.1", 33432, true), ("::1", 33433, true), ("::1", 33434, false)]
        {
            let local: IpAddr = local.parse().unwrap();
            let socket = open_udp(local, port, "lo").unwrap();
            if merged {
                receive_merged(socket.as_fd()).unwrap();
            }
            let address = SocketAddress::new(local, port);
            let bytes: Vec<u8> = (0..250u8).collect();
            let runs = [(100, &bytes[..]), (250, &bytes[..]), (100, &bytes[..200])];
            let runs = runs.map(|(segment, bytes)| Run { bytes, segment, remote: &address });
            let (sent, error) = send_runs(socket.as_fd(), runs.into_iter());
            assert_eq!(sent, 3, "{error:?}");
            let mut batch = Batch::new(MAX_MESSAGE);
            let received = batch.receive(socket.as_fd()).unwrap();
            assert_eq!(received, if merged { 3 } else { 6 });
            let mut lengths = Vec::new();
            for index in 0..received {
                lengths
                    .extend(batch.message(index).datagrams().map(|datagram| (datagram.len(), datagram[0])));
            }
            assert_eq!(lengths, [(100, 0), (100, 100), (50, 200), (250, 0), (100, 0), (100, 100)]);
        }
    }

    #[test]
    fn an_empty_datagram_is_one_too() {
        let local: IpAddr = "127.0.0.1".parse().unwrap();
        let socket = open_udp(local, 33435, "lo").unwrap();
        let address = SocketAddress::new(local, 33435);
        send_to(socket.as_fd(), b"", &address, Neighbour::Unknown).unwrap();
        let mut batch = Batch::new(64);
        assert_eq!(batch.receive(socket.as_fd()).unwrap(), 1);
        assert_eq!(batch.message(0).datagrams().count(), 1);
    }
}
