//! The data thread: carries frames between `netft0` and the UDP sockets, and hands hellos to the control thread. It
//! never waits for the control thread, and allocates nothing per frame.

mod counters;
mod worker;

use super::AbortOnPanic;
use super::maps::SharedMaps;
use crate::sys;
use crate::sys::socket::SocketAddress;
use counters::Status;
use netft_common::wire;
use netft_core::data::{DataKeys, DataPlane, DataRoute, HEADROOM};
use netft_core::types::{InterfaceNumber, NodeId, Slot};
use rtrb::{Consumer, Producer};
use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use worker::Worker;

/// Largest frame that is carried: a jumbo frame with a VLAN tag.
pub const MAX_FRAME: usize = 9216 + 18;
/// A datagram with such a frame.
const BUFFER: usize = HEADROOM + MAX_FRAME;
/// Largest hello: header, endpoints, authenticator.
pub const MAX_HELLO: usize =
    size_of::<wire::Hello>() + wire::MAX_ENDPOINTS * size_of::<wire::HelloEndpoint>() + wire::HELLO_TAG_LEN;
/// Hellos under way to the control thread; more are dropped and counted.
const HELLOS: usize = 256;
const COMMANDS: usize = 4096;

/// What the control thread asks.
#[derive(Debug)]
pub enum Command {
    /// Receive on this socket.
    AddSocket(Socket),
    /// Forget the socket of this address.
    RemoveSocket(IpAddr),
    /// A route over which frames may go.
    SetRoute(Slot, Route),
    /// It is gone.
    RemoveRoute(Slot),
    /// Keys of a peer's session.
    SetKeys(NodeId, DataKeys),
    /// MAC of a peer's `netft0`.
    SetPeer(NodeId, [u8; 6]),
    /// A peer is gone.
    RemovePeer(NodeId),
    /// Another descriptor of the adapter.
    SetAdapter(Arc<File>),
}

/// A socket to receive on.
#[derive(Clone, Debug)]
pub struct Socket {
    /// Its address.
    pub local: IpAddr,
    /// The socket.
    pub socket: Arc<OwnedFd>,
}

/// How frames go over a route.
#[derive(Clone, Debug)]
pub struct Route {
    /// Whom it leads to.
    pub peer: NodeId,
    /// The local interface.
    pub interface: InterfaceNumber,
    /// What sealing needs.
    pub data: DataRoute,
    /// The local endpoint's socket.
    pub socket: Arc<OwnedFd>,
    /// The remote endpoint.
    pub remote: SocketAddress,
}

/// A hello on its way to the control thread.
#[derive(Clone, Debug)]
pub struct HelloFrame {
    /// Where it arrived.
    pub local: IpAddr,
    /// Where it came from.
    pub remote: IpAddr,
    length: usize,
    bytes: [u8; MAX_HELLO],
}

impl HelloFrame {
    /// The UDP payload.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}
/// The control thread's end.
#[derive(Debug)]
pub struct Data {
    commands: Producer<Command>,
    /// Hellos that arrived.
    pub hellos: Consumer<HelloFrame>,
    /// Numbers.
    pub status: Arc<Status>,
    wake: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

/// What the thread is made from.
#[derive(Debug)]
pub struct Setup {
    /// The adapter.
    pub tap: Arc<File>,
    /// The maps.
    pub maps: Arc<SharedMaps>,
    /// Sealing and opening.
    pub plane: DataPlane,
    /// Wakes the control thread when there are hellos.
    pub control: Arc<OwnedFd>,
}

impl Data {
    /// Starts the thread.
    pub fn start(setup: Setup) -> io::Result<Self> {
        let (commands, command_queue) = rtrb::RingBuffer::new(COMMANDS);
        let (hello_queue, hellos) = rtrb::RingBuffer::new(HELLOS);
        let status = Arc::new(Status::default());
        let wake = Arc::new(sys::event_fd()?);
        let worker = Worker::new(setup, Arc::clone(&status), Arc::clone(&wake), command_queue, hello_queue);
        let thread = std::thread::Builder::new().name("netft-data".to_owned()).spawn(move || {
            let guard = AbortOnPanic;
            // Ahead of ordinary work, but no real-time: a flood must not starve the machine. Without the right to it,
            // ordinary it is.
            let _ = sys::schedule_ordinary(-10);
            worker.run();
            drop(guard);
        })?;
        Ok(Self { commands, hellos, status, wake, thread: Some(thread) })
    }

    /// Hands a command over. Waits (milliseconds) in the unlikely case that [`COMMANDS`] are under way.
    pub fn send(&mut self, command: Command) {
        let mut command = command;
        while let Err(rtrb::PushError::Full(back)) = self.commands.push(command) {
            command = back;
            sys::wake(self.wake.as_fd());
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        sys::wake(self.wake.as_fd());
    }

    /// Ends the thread and waits for it.
    pub fn stop(&mut self) {
        self.status.stop.store(true, Ordering::Release);
        sys::wake(self.wake.as_fd());
        if let Some(thread) = self.thread.take() {
            // It can't have panicked: that ends the process.
            let _ = thread.join();
        }
    }
}

impl Drop for Data {
    fn drop(&mut self) {
        self.stop();
    }
}
