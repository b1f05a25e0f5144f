//! NETLINK_ROUTE sockets, raw: the codec is in `crate::rtnl`.

use super::{check, check_len, socklen};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// RTMGRP_* bits of `groups`; 0 for requests only. Non-blocking.
pub fn open(groups: u32) -> io::Result<OwnedFd> {
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: socket takes plain numbers; the descriptor is new and ours alone. All zeroes is a valid sockaddr_nl, and
    // bind reads exactly its size.
    unsafe {
        let socket = OwnedFd::from_raw_fd(check(libc::socket(libc::AF_NETLINK, kind, libc::NETLINK_ROUTE))?);
        let mut address: libc::sockaddr_nl = std::mem::zeroed();
        address.nl_family = libc::sa_family_t::try_from(libc::AF_NETLINK).unwrap_or(0);
        address.nl_groups = groups;
        check(libc::bind(socket.as_raw_fd(), (&raw const address).cast(), socklen::<libc::sockaddr_nl>()))?;
        let bytes: libc::c_int = 1 << 20;
        let level = libc::SOL_SOCKET;
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            libc::SO_RCVBUF,
            (&raw const bytes).cast(),
            socklen::<libc::c_int>(),
        );
        Ok(socket)
    }
}

/// Sends a message to the kernel.
pub fn send(socket: BorrowedFd<'_>, message: &[u8]) -> io::Result<()> {
    // SAFETY: pointer and length come from one slice.
    check_len(unsafe { libc::send(socket.as_raw_fd(), message.as_ptr().cast(), message.len(), 0) })?;
    Ok(())
}

/// Receives one datagram (several messages). ENOBUFS = the kernel dropped some: ask again for everything.
pub fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
    // SAFETY: pointer and length come from one slice.
    check_len(unsafe {
        libc::recv(socket.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), libc::MSG_DONTWAIT)
    })
}
