//! Raw frames that leave by an interface as the kernel's own do: through its queues, and through programs in TC.

use super::{check, check_len, socklen};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// Opens a socket that sends whole Ethernet frames, and receives nothing.
pub fn open() -> io::Result<OwnedFd> {
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: socket takes plain numbers; the descriptor is new and ours alone. Protocol 0 receives nothing (packet(7)).
    unsafe { Ok(OwnedFd::from_raw_fd(check(libc::socket(libc::AF_PACKET, kind, 0))?)) }
}

/// Sends a frame by an interface.
pub fn send(socket: BorrowedFd<'_>, ifindex: u32, frame: &[u8]) -> io::Result<()> {
    // SAFETY: all zeroes is a valid sockaddr_ll.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::sa_family_t::try_from(libc::AF_PACKET).unwrap_or(0);
    address.sll_ifindex = ifindex.cast_signed();
    // SAFETY: the kernel reads `frame.len()` bytes of `frame`, and `address` with its length.
    check_len(unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            frame.as_ptr().cast(),
            frame.len(),
            0,
            (&raw const address).cast(),
            socklen::<libc::sockaddr_ll>(),
        )
    })?;
    Ok(())
}
