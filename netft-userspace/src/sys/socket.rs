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
        set(fd, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, &libc::IPV6_PMTUDISC_DO)?;
    } else {
        set(fd, libc::IPPROTO_IP, libc::IP_FREEBIND, &on)?;
        set(fd, libc::IPPROTO_IP, libc::IP_TOS, &traffic_class)?;
        set(fd, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, &libc::IP_PMTUDISC_DO)?;
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

/// Most datagrams that [`Batch`] moves in one call.
pub const BATCH: usize = 32;

/// Room for receiving up to [`BATCH`] datagrams in one call. Made once, used for ever: nothing is allocated later.
pub struct Batch {
    payloads: Box<[u8]>,
    payload_size: usize,
    addresses: Box<[SocketAddress]>,
    lengths: [usize; BATCH],
}

impl Batch {
    /// For datagrams of up to `payload_size` bytes; longer ones are cut.
    pub fn new(payload_size: usize) -> Self {
        let nobody = SocketAddress::new(IpAddr::from([0u8; 16]), 0);
        Self {
            payloads: vec![0; payload_size * BATCH].into_boxed_slice(),
            payload_size,
            addresses: vec![nobody; BATCH].into_boxed_slice(),
            lengths: [0; BATCH],
        }
    }

    /// Receives what is there, at most [`BATCH`]; 0 = nothing. Never blocks.
    pub fn receive(&mut self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        // SAFETY: all zeroes is a valid mmsghdr and iovec. Each header names one distinct payload area and one distinct
        // address, all of which outlive the call, with their true sizes.
        unsafe {
            let mut vectors: [libc::iovec; BATCH] = std::mem::zeroed();
            let mut headers: [libc::mmsghdr; BATCH] = std::mem::zeroed();
            let parts = self.payloads.chunks_exact_mut(self.payload_size).zip(self.addresses.iter_mut());
            for ((header, vector), (payload, address)) in headers.iter_mut().zip(&mut vectors).zip(parts) {
                *vector = libc::iovec { iov_base: payload.as_mut_ptr().cast(), iov_len: payload.len() };
                header.msg_hdr.msg_iov = vector;
                header.msg_hdr.msg_iovlen = 1;
                header.msg_hdr.msg_name = (&raw mut address.storage).cast();
                header.msg_hdr.msg_namelen = socklen::<libc::sockaddr_storage>();
            }
            let flags = libc::MSG_DONTWAIT;
            let size = libc::c_uint::try_from(BATCH).unwrap_or(0);
            let received =
                libc::recvmmsg(socket.as_raw_fd(), headers.as_mut_ptr(), size, flags, std::ptr::null_mut());
            let received = check(received)?.unsigned_abs() as usize;
            for (index, header) in headers.iter().enumerate().take(received) {
                self.lengths[index] = header.msg_len as usize;
                self.addresses[index].length = header.msg_hdr.msg_namelen;
            }
            Ok(received)
        }
    }

    /// Datagram `index` of the last [`Batch::receive`]: from whom, and the payload.
    pub fn datagram(&mut self, index: usize) -> (IpAddr, u16, &mut [u8]) {
        let address = &self.addresses[index];
        let start = index * self.payload_size;
        (address.ip(), address.port(), &mut self.payloads[start..start + self.lengths[index]])
    }
}

/// Sends datagrams, in order, in as few calls as possible; stops at the first that the kernel refuses. Returns how
/// many were sent and why the next one wasn't.
pub fn send_batch<'a>(
    socket: BorrowedFd<'_>,
    datagrams: impl Iterator<Item = (&'a [u8], &'a SocketAddress)>,
) -> (usize, Option<io::Error>) {
    // SAFETY: all zeroes is a valid mmsghdr and iovec. Each header names one payload and one address that the caller
    // keeps borrowed for 'a; the kernel only reads them.
    unsafe {
        let mut vectors: [libc::iovec; BATCH] = std::mem::zeroed();
        let mut headers: [libc::mmsghdr; BATCH] = std::mem::zeroed();
        let mut count = 0;
        for ((header, vector), (payload, address)) in headers.iter_mut().zip(&mut vectors).zip(datagrams) {
            *vector = libc::iovec { iov_base: payload.as_ptr().cast_mut().cast(), iov_len: payload.len() };
            header.msg_hdr.msg_iov = vector;
            header.msg_hdr.msg_iovlen = 1;
            header.msg_hdr.msg_name = (&raw const address.storage).cast_mut().cast();
            header.msg_hdr.msg_namelen = address.length;
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
        assert_eq!(send_batch(second.as_fd(), payloads.iter().map(|p| (*p, &address))).0, 2);
        let mut batch = Batch::new(64);
        assert!(batch.receive(second.as_fd()).is_err());
        assert_eq!(batch.receive(first.as_fd()).unwrap(), 10);
        assert_eq!(batch.datagram(9), (local, port, b"three".to_vec().as_mut_slice()));
    }
}
