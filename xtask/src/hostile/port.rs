//! A raw socket at a port of the lab's switch.

use crate::lab::Lab;
use anyhow::{Context, Result, ensure};
use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::libc::PACKET_OUTGOING;
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, bind, recvfrom, send, setsockopt,
    socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

/// How long one receive waits.
const NAP: Duration = Duration::from_millis(20);

/// Where frames can be sent to one node over one network, as if they came from the network.
pub struct Port {
    socket: OwnedFd,
}

/// Hears every frame that one node sends over one network, also those that XDP answered with.
pub struct Ear {
    socket: OwnedFd,
    buffer: Vec<u8>,
}

impl Port {
    /// At the port of `host` on `network` ("net1").
    pub fn open(lab: &Lab, host: &str, network: &str) -> Result<Self> {
        // Sends only: with protocol 0 the kernel hands it nothing.
        Ok(Self { socket: open(lab, host, network, None)? })
    }

    /// Frames that were lost on the wire to `host` so far.
    pub fn drops(lab: &Lab, host: &str, network: &str) -> Result<u64> {
        let name = format!("{host}-{network}:");
        let text = lab.enter_switch(|| Ok(std::fs::read_to_string("/proc/thread-self/net/dev")?))?;
        let line = text.lines().find_map(|line| line.trim().strip_prefix(&name));
        // netdevice(7) and /proc/net/dev: 8 columns of receiving, then bytes, packets, errors and drops of sending.
        let drops = line.and_then(|line| line.split_whitespace().nth(11)?.parse().ok());
        drops.with_context(|| format!("the switch's port {name} has no statistics"))
    }

    /// Sends one frame. `false` = the device's queue is full, and it was not sent.
    pub fn send(&self, frame: &[u8]) -> Result<bool> {
        match send(self.socket.as_raw_fd(), frame, MsgFlags::empty()) {
            Ok(sent) => {
                ensure!(sent == frame.len(), "a frame of {} bytes was cut to {sent}", frame.len());
                Ok(true)
            }
            Err(Errno::ENOBUFS | Errno::EAGAIN | Errno::EINTR) => Ok(false),
            Err(error) => Err(error).context("sending a raw frame"),
        }
    }
}

impl Ear {
    /// At the port of `host` on `network` ("net1").
    pub fn open(lab: &Lab, host: &str, network: &str) -> Result<Self> {
        let socket = open(lab, host, network, Some(SockProtocol::EthAll))?;
        setsockopt(&socket, sockopt::RcvBufForce, &(16 << 20)).context("a large receive buffer")?;
        let nap = TimeVal::microseconds(i64::try_from(NAP.as_micros())?);
        setsockopt(&socket, sockopt::ReceiveTimeout, &nap).context("a receive timeout")?;
        Ok(Self { socket, buffer: vec![0; 1 << 16] })
    }

    /// The next frame from the node, `None` if there is none for 20 ms.
    pub fn hear(&mut self) -> Result<Option<&[u8]>> {
        loop {
            match recvfrom::<LinkAddr>(self.socket.as_raw_fd(), &mut self.buffer) {
                // What leaves towards the node is heard as well.
                Ok((_, Some(from))) if from.pkttype() == PACKET_OUTGOING => {}
                Ok((length, _)) => return Ok(Some(&self.buffer[..length])),
                Err(Errno::EAGAIN) => return Ok(None),
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error).context("listening at the switch"),
            }
        }
    }

    /// The first frame that `wanted` accepts.
    pub fn find<T>(
        &mut self,
        patience: Duration,
        mut wanted: impl FnMut(&[u8]) -> Option<T>,
    ) -> Result<Option<T>> {
        let deadline = Instant::now() + patience;
        while Instant::now() < deadline {
            if let Some(found) = self.hear()?.and_then(&mut wanted) {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }
}

/// A packet socket bound to a port of the switch.
fn open(lab: &Lab, host: &str, network: &str, protocol: Option<SockProtocol>) -> Result<OwnedFd> {
    let name = format!("{host}-{network}");
    lab.enter_switch(|| {
        let flags = SockFlag::SOCK_CLOEXEC;
        let socket =
            socket(AddressFamily::Packet, SockType::Raw, flags, protocol).context("a packet socket")?;
        let mut ports = getifaddrs().context("listing the switch's ports")?;
        let port = ports.find_map(|port| {
            (port.interface_name == name).then(|| port.address?.as_link_addr().copied()).flatten()
        });
        let port = port.with_context(|| format!("the switch has no port {name}"))?;
        bind(socket.as_raw_fd(), &port).with_context(|| format!("binding to port {name}"))?;
        Ok(socket)
    })
}
