//! An end of the wire with netft's AF_XDP socket: heartbeats out, heartbeats in, headers made and read here.

use super::responder::CLUSTER;
use super::variant::Wait;
use super::wire::Wire;
use crate::lab::Lab;
use anyhow::{Context, Result};
use bytemuck::{bytes_of, pod_read_unaligned};
use netft_common::packet::{Class, classify};
use netft_common::wire::{Heartbeat, Versions};
use netft_core::types::address_bytes;
use netft_userspace::engine::xsk::socket::{ZeroCopy, frame_size, open};
use netft_userspace::engine::xsk::{Headers, Spec, XskPort};
use netft_userspace::sys;
use std::os::fd::RawFd;
use std::time::Duration;

/// Longest frame on the wire.
const FRAME: u32 = 1518;

/// The socket, and the way to the other end.
pub(super) struct XskEnd {
    port: XskPort,
    headers: Headers,
}

impl XskEnd {
    /// On `node`'s end of the wire, to the other one's.
    pub fn open(lab: &Lab, wire: Wire, node: u8) -> Result<Self> {
        let other = 3 - node;
        let [source, destination] = [node, other].map(|node| wire.mac(lab, node));
        let [local, remote] = [node, other].map(|node| address_bytes(wire.address(node)));
        let spec = Spec {
            interface: wire.device().into(),
            queue: 0,
            frame_size: frame_size(FRAME).context("no buffer is large enough")?,
            fill: 2048,
            transmit: 512,
            zero_copy: ZeroCopy::Try,
        };
        let (port, _) = lab.enter(&format!("n{node}"), || Ok(open(&spec)?))?;
        Ok(Self { port, headers: Headers::new(source?, destination?, local, remote) })
    }

    /// For the map in which XDP looks for it.
    pub fn raw_fd(&self) -> RawFd {
        self.port.rings().raw_fd()
    }

    /// Sends one at once.
    pub fn send(&mut self, heartbeat: &Heartbeat) -> Result<()> {
        let Self { port, headers } = self;
        let sent = port.send(|buffer| {
            let packet = buffer.get_mut(..headers.len() + size_of::<Heartbeat>())?;
            packet[headers.len()..].copy_from_slice(bytes_of(heartbeat));
            headers.write(packet)?;
            Some(packet.len())
        });
        sent.ok().context("the AF_XDP socket takes no frame")?;
        port.flush();
        Ok(())
    }

    /// Gives each heartbeat that is there to `each`; if there is none, waits once for at most `patience` when it should
    /// block. Says how many frames there were.
    pub fn receive(
        &mut self,
        wait: Wait,
        patience: Duration,
        mut each: impl FnMut(&Heartbeat),
    ) -> Result<usize> {
        let mut take = |port: &mut XskPort| {
            port.receive(|packet| {
                let (Class::Leg(frame) | Class::Data(frame)) = classify(packet, CLUSTER, Versions::OURS)
                else {
                    return;
                };
                let message = packet.get(frame.message..frame.message + size_of::<Heartbeat>());
                message.into_iter().for_each(|message| each(&pod_read_unaligned(message)));
            })
        };
        let taken = take(&mut self.port);
        if taken > 0 || wait == Wait::Spin {
            return Ok(taken);
        }
        let mut fds = [self.port.rings().poll_in()];
        sys::poll(&mut fds, Some(u64::try_from(patience.as_nanos())?))
            .context("polling the AF_XDP socket")?;
        Ok(take(&mut self.port))
    }
}
