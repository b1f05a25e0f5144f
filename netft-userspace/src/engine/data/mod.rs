//! The data threads: carry frames between `netft0` and the UDP or AF_XDP sockets, and hand hellos to the control thread.
//! They never wait for the control thread, and allocate nothing per frame.
//!
//! `netft0` gives and takes super-packets, which are cut into frames on their way out and merged on their way in. Each
//! frame gets its route and is sealed in one place (`outgoing`, `enqueue`), into a *run* (`runs`), from which the kernel's UDP
//! socket takes many in one call, or straight into an AF_XDP socket's memory. What arrives is opened in one place
//! (`incoming`, `take_in`).
//!
//! Thread q owns queue q of `netft0` and, of every interface that has so many queues, the AF_XDP socket of queue q; what is
//! beyond the last thread goes round. So nothing on a frame's way is shared but the session's numbering and window. The
//! first thread, the leader, also has the UDP sockets, and finds out which AF_XDP sockets work. Threads are added as
//! interfaces need them, and stay until the engine stops.

mod board;
mod bypass;
mod carrier;
mod counters;
mod gates;
mod incoming;
mod outgoing;
mod prover;
mod runs;
mod sizes;
mod worker;

use super::AbortOnPanic;
use super::maps::SharedMaps;
use super::xsk::{Headers, XskPort};
use crate::sys;
use crate::sys::socket::SocketAddress;
pub use board::{Board, Ways};
pub use counters::Status;
use netft_common::map::{DataPath, Steering};
use netft_common::wire;
use netft_core::carry::Policy;
use netft_core::data::{DataPlane, DataRoute, HEADROOM, Session};
use netft_core::offload::Datagrams;
use netft_core::session::LiveKeys;
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
use worker::{Leader, Worker};

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

/// What the control thread asks of a thread.
#[derive(Debug)]
enum Command {
    /// The leader: receive on this socket.
    AddSocket(Socket),
    /// The leader: forget the socket of this address.
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
    /// The thread's queue of another adapter.
    SetAdapter(Arc<File>),
    /// An AF_XDP socket; the kernel's map of sockets has it already.
    AddPort(InterfaceNumber, Box<XskPort>),
    /// Give up the AF_XDP sockets of an interface: nothing is steered to them any more.
    RemovePorts(InterfaceNumber),
    /// The leader: see whether the AF_XDP sockets of this interface work, and use them: probes are steered to them in
    /// this way.
    Prove(InterfaceNumber, DataPath),
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
    /// Its rank: its network's metric, and more if it doesn't carry full frames. Lower is better.
    pub metric: u32,
    /// Bytes of an IP packet that both its interfaces claim to carry.
    pub largest: u16,
    /// Bytes of an IP packet that it carries, as far as is known.
    pub carried: u16,
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
    /// Which ways work.
    pub board: Arc<Board>,
    shared: Shared,
    plane: DataPlane,
    /// How often proof was asked for: a slow leader must not take new sockets for those that it knows.
    proofs: u32,
    keep_bytes: usize,
    // What a thread that is added must know.
    routes: BTreeMap<Slot, Route>,
    peers: BTreeMap<NodeId, [u8; 6]>,
}

#[derive(Debug)]
struct Thread {
    commands: Producer<Command>,
    wake: Arc<OwnedFd>,
    status: Arc<Status>,
    handle: Option<JoinHandle<()>>,
}

/// What the threads are made from.
#[derive(Debug)]
pub struct Setup {
    /// The cluster.
    pub cluster_id: u32,
    /// The adapter's first queue.
    pub tap: Arc<File>,
    /// Whether it takes merged datagrams of UDP.
    pub datagrams: Datagrams,
    /// The maps.
    pub maps: Arc<SharedMaps>,
    /// Sealing and opening.
    pub plane: DataPlane,
    /// Wakes the control thread when there are hellos.
    pub control: Arc<OwnedFd>,
    /// Which routes a frame takes.
    pub policy: Policy,
    /// Memory of each thread for frames that may have to be sent again, bytes.
    pub keep_bytes: usize,
}

impl Data {
    /// Starts the leader.
    pub fn start(setup: Setup) -> io::Result<Self> {
        let (hello_queue, hellos) = rtrb::RingBuffer::new(HELLOS);
        let board = Arc::new(Board::default());
        board.set_policy(setup.policy);
        let shared = Shared {
            cluster_id: setup.cluster_id,
            datagrams: setup.datagrams,
            maps: setup.maps,
            board: Arc::clone(&board),
            control: setup.control,
        };
        let leader = Leader::new(hello_queue);
        let keep_bytes = setup.keep_bytes;
        let thread =
            Thread::start(0, setup.tap, setup.plane.clone(), shared.clone(), keep_bytes, Some(leader))?;
        Ok(Self {
            threads: vec![thread],
            hellos,
            board,
            shared,
            plane: setup.plane,
            proofs: 0,
            keep_bytes,
            routes: BTreeMap::new(),
            peers: BTreeMap::new(),
        })
    }

    /// How many threads there are.
    pub fn threads(&self) -> usize {
        self.threads.len()
    }

    /// What wakes the thread that was started last: the detection thread does, when a route comes or goes.
    pub fn newest_wake(&self) -> Arc<OwnedFd> {
        let newest = self.threads.last().unwrap_or_else(|| unreachable!("the leader is always there"));
        Arc::clone(&newest.wake)
    }

    /// Starts one more, for the next queue of the adapter.
    pub fn add_thread(&mut self, tap: Arc<File>) -> io::Result<()> {
        let number = self.threads.len();
        let (plane, shared) = (self.plane.clone(), self.shared.clone());
        let mut thread = Thread::start(number, tap, plane, shared, self.keep_bytes, None)?;
        for (slot, route) in &self.routes {
            // Its plane has every session that there is.
            thread.send(Command::SetRoute(*slot, Box::new(route.clone())));
        }
        for (peer, mac) in &self.peers {
            thread.send(Command::SetPeer(*peer, *mac));
        }
        self.threads.push(thread);
        Ok(())
    }

    /// Each thread's counters.
    pub fn statuses(&self) -> impl Iterator<Item = &Status> + Clone {
        self.threads.iter().map(|thread| &*thread.status)
    }

    /// Receive on this socket.
    pub fn add_socket(&mut self, socket: Socket) {
        self.threads[0].send(Command::AddSocket(socket));
    }

    /// Forget the socket of this address.
    pub fn remove_socket(&mut self, local: IpAddr) {
        self.threads[0].send(Command::RemoveSocket(local));
    }

    /// A route over which frames may go. Idempotent.
    pub fn set_route(&mut self, slot: Slot, route: Route) {
        for thread in &mut self.threads {
            thread.send(Command::SetRoute(slot, Box::new(route.clone())));
        }
        self.routes.insert(slot, route);
    }

    /// The keys of a peer's session: in force on every thread when this returns, unless the session is new. Idempotent.
    pub fn set_session(&mut self, peer: NodeId, keys: &LiveKeys) {
        let known = self.plane.session(peer).is_some();
        self.plane.set_session(peer, keys);
        if let Some(session) = self.plane.session(peer).filter(|_| !known) {
            for thread in &mut self.threads {
                thread.send(Command::SetSession(peer, Arc::clone(&session)));
            }
        }
    }

    /// The session with a peer ends, on every thread when this returns.
    pub fn remove_session(&mut self, peer: NodeId) {
        self.plane.remove_session(peer);
    }

    /// Peers with which so much has been sent that new keys are wanted.
    pub fn worn_sessions(&self) -> Vec<NodeId> {
        self.plane.worn().collect()
    }

    /// It is gone.
    pub fn remove_route(&mut self, slot: Slot) {
        self.routes.remove(&slot);
        self.threads.iter_mut().for_each(|thread| thread.send(Command::RemoveRoute(slot)));
    }

    /// MAC of a peer's `netft0`.
    pub fn set_peer(&mut self, peer: NodeId, mac: [u8; 6]) {
        self.peers.insert(peer, mac);
        self.threads.iter_mut().for_each(|thread| thread.send(Command::SetPeer(peer, mac)));
    }

    /// A peer is gone.
    pub fn remove_peer(&mut self, peer: NodeId) {
        self.peers.remove(&peer);
        self.threads.iter_mut().for_each(|thread| thread.send(Command::RemovePeer(peer)));
    }

    /// The adapter was made anew: its queues, one for each thread.
    pub fn set_adapter(&mut self, taps: &[Arc<File>]) {
        for (thread, tap) in self.threads.iter_mut().zip(taps) {
            thread.send(Command::SetAdapter(Arc::clone(tap)));
        }
    }

    /// An AF_XDP socket of a queue of an interface; the kernel's map of sockets has it already.
    pub fn add_port(&mut self, interface: InterfaceNumber, queue: u32, port: Box<XskPort>) {
        let thread = queue as usize % self.threads.len();
        self.threads[thread].send(Command::AddPort(interface, port));
    }

    /// See whether the AF_XDP sockets of an interface (kernel index) work, and use them.
    pub fn prove(&mut self, interface: InterfaceNumber, ifindex: u32) {
        self.proofs = (self.proofs + 1) % DataPath::GENERATIONS;
        let path = DataPath { ifindex, steering: Steering::Probes, generation: self.proofs };
        self.steer(interface, path);
        self.threads[0].send(Command::Prove(interface, path));
    }

    /// Give up the AF_XDP sockets of an interface.
    pub fn remove_ports(&mut self, interface: InterfaceNumber) {
        // First of all, whichever thread is slow: from here on the leader can't steer anything to them again.
        self.steer(interface, DataPath::default());
        self.threads.iter_mut().for_each(|thread| thread.send(Command::RemovePorts(interface)));
    }

    fn steer(&self, interface: InterfaceNumber, path: DataPath) {
        let word = self.shared.maps.paths.get(usize::from(interface.get()));
        word.store(path.to_word(), Ordering::Release);
    }

    /// Ends the threads and waits for them.
    pub fn stop(&mut self) {
        self.board.stop.store(true, Ordering::Release);
        self.threads.iter().for_each(|thread| sys::wake(thread.wake.as_fd()));
        for thread in &mut self.threads {
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

impl Thread {
    fn start(
        number: usize,
        tap: Arc<File>,
        plane: DataPlane,
        shared: Shared,
        keep_bytes: usize,
        leader: Option<Leader>,
    ) -> io::Result<Self> {
        let (commands, queue) = rtrb::RingBuffer::new(COMMANDS);
        let status = Arc::new(Status::default());
        let wake = Arc::new(sys::event_fd()?);
        let worker = Worker::new(worker::Setup {
            tap,
            plane,
            shared,
            status: Arc::clone(&status),
            wake: Arc::clone(&wake),
            commands: queue,
            keep_bytes,
            leader,
        });
        let handle = std::thread::Builder::new().name(format!("netft-data-{number}")).spawn(move || {
            let guard = AbortOnPanic;
            // Ahead of ordinary work, but no real-time: a flood must not starve the machine. Without the right to it,
            // ordinary it is.
            let _ = sys::schedule_ordinary(-10);
            worker.run();
            drop(guard);
        })?;
        Ok(Self { commands, wake, status, handle: Some(handle) })
    }

    /// Hands a command over. Waits (milliseconds) in the unlikely case that [`COMMANDS`] are under way.
    fn send(&mut self, command: Command) {
        let mut command = command;
        while let Err(rtrb::PushError::Full(back)) = self.commands.push(command) {
            command = back;
            sys::wake(self.wake.as_fd());
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        sys::wake(self.wake.as_fd());
    }
}

/// What all data threads and the control thread look at.
#[derive(Clone, Debug)]
struct Shared {
    cluster_id: u32,
    datagrams: Datagrams,
    maps: Arc<SharedMaps>,
    board: Arc<Board>,
    control: Arc<OwnedFd>,
}
