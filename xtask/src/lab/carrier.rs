//! Pulling a cable: takes the switch's end of a veth pair down, so that the node's end loses its carrier.

use super::namespace;
use anyhow::{Context, Result, bail, ensure};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;
use std::os::fd::{AsRawFd, OwnedFd};

// include/uapi/linux/rtnetlink.h, netlink.h, if.h
const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const NLMSG_ERROR: u16 = 2;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const IFF_UP: u32 = 1;
const MESSAGE_LEN: usize = 32;

/// Whether a cable is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cable {
    /// Carrier on both ends.
    Plugged,
    /// No carrier.
    Unplugged,
}

/// A netlink socket in the switch's namespace. A socket stays in the namespace that it was made in, so after
/// [`Carrier::open`] setting a link costs one system call, without entering anything.
#[derive(Debug)]
pub struct Carrier {
    socket: OwnedFd,
}

impl Carrier {
    /// Opens the socket in namespace `switch`.
    pub fn open(switch: &str) -> Result<Self> {
        let socket = namespace::enter(switch, || {
            socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute)
                .context("a netlink socket can't be made")
        })?;
        setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::new(1, 0)).context("netlink")?;
        Ok(Self { socket })
    }

    /// Puts the cable of the port with kernel index `port` in or out; returns when that is in effect.
    pub fn set(&self, port: u32, cable: Cable) -> Result<()> {
        let flags = if cable == Cable::Plugged { IFF_UP } else { 0 };
        let reply = self.ask(&message(RTM_NEWLINK, NLM_F_REQUEST | NLM_F_ACK, port, flags, IFF_UP))?;
        ensure!(word16(&reply, 4) == NLMSG_ERROR, "netlink answered with an unexpected message");
        check(&reply, port)
    }

    /// Whether the cable of the port with kernel index `port` is in.
    pub fn get(&self, port: u32) -> Result<Cable> {
        let reply = self.ask(&message(RTM_GETLINK, NLM_F_REQUEST, port, 0, 0))?;
        if word16(&reply, 4) == NLMSG_ERROR {
            check(&reply, port)?;
        }
        let up = word32(&reply, 24) & IFF_UP != 0;
        Ok(if up { Cable::Plugged } else { Cable::Unplugged })
    }

    fn ask(&self, request: &[u8]) -> Result<[u8; MESSAGE_LEN]> {
        send(self.socket.as_raw_fd(), request, MsgFlags::empty()).context("netlink refused a message")?;
        let mut reply = [0; 8192];
        let length =
            recv(self.socket.as_raw_fd(), &mut reply, MsgFlags::empty()).context("netlink doesn't answer")?;
        ensure!(length >= MESSAGE_LEN, "netlink's answer is only {length} bytes long");
        let mut head = [0; MESSAGE_LEN];
        head.copy_from_slice(&reply[..MESSAGE_LEN]);
        Ok(head)
    }
}

/// `struct nlmsghdr`, then `struct ifinfomsg`.
fn message(kind: u16, flags: u16, port: u32, link_flags: u32, link_change: u32) -> [u8; MESSAGE_LEN] {
    let mut bytes = [0; MESSAGE_LEN];
    bytes[0..4].copy_from_slice(&32u32.to_ne_bytes());
    bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
    bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
    bytes[20..24].copy_from_slice(&port.to_ne_bytes());
    bytes[24..28].copy_from_slice(&link_flags.to_ne_bytes());
    bytes[28..32].copy_from_slice(&link_change.to_ne_bytes());
    bytes
}

fn check(reply: &[u8; MESSAGE_LEN], port: u32) -> Result<()> {
    match word32(reply, 16).cast_signed() {
        0 => Ok(()),
        error => {
            let error = std::io::Error::from_raw_os_error(-error);
            bail!(
                "the switch's port {port} can't be reached ({error}): is the lab broken? Run `lab up` again"
            )
        }
    }
}

fn word16(bytes: &[u8; MESSAGE_LEN], at: usize) -> u16 {
    u16::from_ne_bytes([bytes[at], bytes[at + 1]])
}

fn word32(bytes: &[u8; MESSAGE_LEN], at: usize) -> u32 {
    u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}
