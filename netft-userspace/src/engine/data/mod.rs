//! The data threads: carry frames between `netft0` and the UDP or AF_XDP sockets, and hand hellos to the control thread.
//! They never wait for the control thread, and allocate nothing per frame.
//!
//! Thread q owns queue q of `netft0` and, of every interface that has so many queues, the AF_XDP socket of queue q. The
//! first, the leader, also has the UDP sockets, and finds out which AF_XDP sockets work.

mod board;
mod bypass;
mod counters;
mod prover;
mod worker;

use super::AbortOnPanic;
use super::maps::SharedMaps;
use super::xsk::{Headers, XskPort};
use crate::sys;
use crate::sys::socket::SocketAddress;
pub use board::{Board, Ways};
use counters::Status;
use netft_common::wire;
use netft_core::data::{DataKeys, DataPlane, DataRoute, HEADROOM, Session};
use netft_core::types::{InterfaceNumber, Nanos, NodeId, Slot};
use rtrb::{Consumer, Producer};
use std::collections::BTreeMap;
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
    SetRoute(Slot, Box<Route>),
    /// It is gone.
    RemoveRoute(Slot),
    /// A peer's session.
    SetSession(NodeId, Arc<Session>),
    /// MAC of a peer's `netft0`.
    SetPeer(NodeId, [u8; 6]),
    /// A peer is gone.
    RemovePeer(NodeId),
    /// Another descriptor of the adapter.
    SetAdapter(Arc<File>),
    /// An AF_XDP socket of this thread's queue; the kernel's map of sockets has it already.
    AddPort(InterfaceNumber, Box<XskPort>),
    /// Give up the AF_XDP sockets of an interface.
    RemovePorts(InterfaceNumber),
    /// The leader: see whether the AF_XDP sockets of this interface (kernel index) work, and use them.
    Prove(InterfaceNumber, u32),
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
    /// What goes before a message that leaves by AF_XDP; `None` if only the kernel knows the way.
    pub headers: Option<Headers>,
    /// A peer from which nothing came for so long is no witness of what works.
    pub patience_ns: Nanos,
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
    threads: Vec<Thread>,
    /// Hellos that arrived.
    pub hellos: Consumer<HelloFrame>,
    /// Numbers.
    pub status: Arc<Status>,
    /// Which ways work.
    pub board: Arc<Board>,
    plane: DataPlane,
    routes: BTreeMap<Slot, NodeId>,
}

#[derive(Debug)]
struct Thread {
    commands: Producer<Command>,
    wake: Arc<OwnedFd>,
    handle: Option<JoinHandle<()>>,
}

/// What the threads are made from.
#[derive(Debug)]
pub struct Setup {
    /// The cluster.
    pub cluster_id: u32,
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
    /// Starts the leader.
    pub fn start(setup: Setup) -> io::Result<Self> {
        let (commands, command_queue) = rtrb::RingBuffer::new(COMMANDS);
        let (hello_queue, hellos) = rtrb::RingBuffer::new(HELLOS);
        let status = Arc::new(Status::default());
        let board = Arc::new(Board::default());
        let plane = setup.plane.clone();
        let wake = Arc::new(sys::event_fd()?);
        let shared = Shared {
            cluster_id: setup.cluster_id,
            maps: setup.maps,
            status: Arc::clone(&status),
            board: Arc::clone(&board),
            control: setup.control,
        };
        let worker =
            Worker::new(setup.tap, setup.plane, shared, Arc::clone(&wake), command_queue, hello_queue);
        let handle = std::thread::Builder::new().name("netft-data".to_owned()).spawn(move || {
            let guard = AbortOnPanic;
            // Ahead of ordinary work, but no real-time: a flood must not starve the machine. Without the right to it,
            // ordinary it is.
            let _ = sys::schedule_ordinary(-10);
            worker.run();
            drop(guard);
        })?;
        let threads = vec![Thread { commands, wake, handle: Some(handle) }];
        Ok(Self { threads, hellos, status, board, plane, routes: BTreeMap::new() })
    }

    /// Hands a command over. Waits (milliseconds) in the unlikely case that [`COMMANDS`] are under way.
    pub fn send(&mut self, command: Command) {
        let thread = &mut self.threads[0];
        let mut command = command;
        while let Err(rtrb::PushError::Full(back)) = thread.commands.push(command) {
            command = back;
            sys::wake(thread.wake.as_fd());
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        sys::wake(thread.wake.as_fd());
    }

    /// A route over which frames may go, and the keys of the session with its peer. Idempotent.
    pub fn set_route(&mut self, slot: Slot, route: Route, keys: DataKeys) {
        let peer = route.peer;
        self.plane.set_peer(peer, keys);
        if let Some(session) = self.plane.session(peer) {
            self.send(Command::SetSession(peer, session));
        }
        self.routes.insert(slot, peer);
        self.send(Command::SetRoute(slot, Box::new(route)));
    }

    /// It is gone; with the last one the session with its peer ends.
    pub fn remove_route(&mut self, slot: Slot) {
        if let Some(peer) = self.routes.remove(&slot)
            && !self.routes.values().any(|other| *other == peer)
        {
            self.plane.remove_peer(peer);
        }
        self.send(Command::RemoveRoute(slot));
    }

    /// Ends the threads and waits for them.
    pub fn stop(&mut self) {
        self.status.stop.store(true, Ordering::Release);
        for thread in &mut self.threads {
            sys::wake(thread.wake.as_fd());
            if let Some(handle) = thread.handle.take() {
                // It can't have panicked: that ends the process.
                let _ = handle.join();
            }
        }
    }
}

impl Drop for Data {
    fn drop(&mut self) {
        self.stop();
    }
}

/// What all data threads and the control thread look at.
#[derive(Clone, Debug)]
struct Shared {
    cluster_id: u32,
    maps: Arc<SharedMaps>,
    status: Arc<Status>,
    board: Arc<Board>,
    control: Arc<OwnedFd>,
}
