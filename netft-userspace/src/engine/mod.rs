//! The engine: XDP programs and their maps, the detection thread, the data thread and `netft0`.
//!
//! Everything here is called from the control thread (tokio, current thread). Sockets, programs and the adapter are
//! made in the network namespace of the thread that calls [`Engine::start`].

mod adapter;
mod data;
mod detection;
pub mod fence;
mod gso;
mod interfaces;
mod maps;
mod neighbours;
mod packet_log;
mod routes;
mod sockets;
mod turns;
mod types;
mod views;
mod xdp;
pub mod xsk;

pub use crate::sys::boottime as now;
pub use adapter::AdapterError;
pub use maps::MapsError;
pub use types::{
    DataThread, EngineInput, EngineOptions, EngineStats, InterfaceReport, StopMode, Wait, XdpMode,
};
pub use xdp::XdpError;
pub use xsk::{DataWay, DatapathOptions, PathReport, PathWish};

use crate::rtnl::Client;
use crate::sys;
use crate::sys::socket::{Neighbour, SocketAddress, send_to};
use adapter::NetAdapter;
use data::Data;
use detection::Detection;
use fence::{Fence, FenceReport, FenceWords, FencedInterface};
use maps::{Loaded, Origin, PinFolder};
use netft_common::map::SlotConfig;
use netft_common::wire::{self, flags};
use netft_core::data::DataPlane;
use netft_core::detect::{DetectorCommand, DetectorConfig, RouteView};
use netft_core::membership::{Adapter, HelloTransmit, RouteInstall};
use netft_core::session::LiveKeys;
use netft_core::types::{InterfaceNumber, LinkState, Nanos, NodeId, Slot};
use sockets::Sockets;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::unix::AsyncFd;
use turns::Turns;
use xdp::Attachments;
use xsk::Bypass;

/// Why the engine can't do what was asked. Every message is a sentence that says how to mend it.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// Maps or program.
    #[error(transparent)]
    Maps(#[from] MapsError),
    /// `netft0`.
    #[error(transparent)]
    Adapter(#[from] AdapterError),
    /// Something that threads need.
    #[error("cannot start the engine's threads: {0}; check the limits on open files and processes")]
    Threads(io::Error),
    /// The pinned links.
    #[error("cannot take over the pinned XDP links: {0}")]
    Links(io::Error),
    /// No interface of ours has this address (any more).
    #[error("no interface that netft uses has the address {0}")]
    NoSocket(IpAddr),
    /// The kernel refused a hello.
    #[error("cannot send a hello from {local} to {remote}: {error}")]
    Send {
        /// From.
        local: IpAddr,
        /// To.
        remote: IpAddr,
        /// As the kernel put it.
        error: io::Error,
    },
    /// A program that can't be taken off.
    #[error(
        "cannot remove the XDP program of interface {ifindex}: {error}; use `ip link set dev NAME xdp off`"
    )]
    Detach {
        /// The interface.
        ifindex: u32,
        /// Why.
        error: io::Error,
    },
}

/// Between looks whether an interface's turn has come.
const LOOK: Duration = Duration::from_nanos(turns::LOOK_NS);

/// The running engine. Dropping it is [`StopMode::Keep`].
#[derive(Debug)]
pub struct Engine {
    options: EngineOptions,
    notes: Vec<String>,
    // Fields are dropped in this order: first the threads.
    detection: Detection,
    data: Data,
    bypass: Bypass,
    adapter: NetAdapter,
    sockets: Sockets,
    attachments: Attachments,
    fence: Fence,
    loaded: Loaded,
    folder: PinFolder,
    events: AsyncFd<Arc<OwnedFd>>,
    netlink: Client,
    pending: VecDeque<EngineInput>,
    /// Slots of an earlier daemon that [`Engine::set_route`] hasn't confirmed yet.
    adopted: BTreeSet<Slot>,
    routes: BTreeMap<Slot, RouteInstall>,
    /// Rank and carried size of routes, as both threads were told.
    sizes: BTreeMap<Slot, (u32, u16)>,
    /// What the adapters of peers have.
    peer_mtus: BTreeMap<NodeId, u16>,
    interfaces: BTreeMap<InterfaceNumber, (u32, LinkState)>,
    /// Hardware addresses of them.
    macs: BTreeMap<InterfaceNumber, [u8; 6]>,
    /// Which interface's program may be attached anew, and when to look whether one may.
    turns: Turns,
    looks_ns: Nanos,
}

/// Ends the process when the thread that owns it panics. A daemon without that thread is worse than none: systemd
/// starts a new one, and XDP goes on answering meanwhile.
pub(crate) struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            std::process::abort();
        }
    }
}

/// Whether this process may do what the engine does; the error names what is missing.
pub fn check_privilege() -> Result<(), EngineError> {
    Ok(maps::check_privilege()?)
}

impl Engine {
    /// Loads or adopts maps and programs, makes `netft0`, starts both threads. Must be called within a tokio runtime.
    /// After an error everything is as it was before.
    pub async fn start(mut options: EngineOptions) -> Result<Self, EngineError> {
        let mut notes = Vec::new();
        if options.cpus.is_empty() {
            options.cpus.extend(sys::allowed_cpus().last());
        }
        let mut folder = PinFolder::open(&options.pin_dir)?;
        let loaded = Loaded::load(&mut folder, &options)?;
        if let Origin::New(Some(why)) = &loaded.origin {
            notes.push(format!("{why}: everything was made anew, routes start from down"));
        }
        let (attachments, link_notes) =
            Attachments::adopt(&folder, loaded.program()?).map_err(EngineError::Links)?;
        notes.extend(link_notes);
        fence::keep_closed(folder.path(), &options.left_addresses)?;
        let (fence, fence_notes) = Fence::adopt(folder.path())?;
        notes.extend(fence_notes);
        let maps = &loaded.shared;
        let adopted = (0..maps.slots.len()).filter(|slot| maps.slots.load(*slot).generation != 0);
        let adopted = adopted.filter_map(|slot| u32::try_from(slot).ok().and_then(Slot::new)).collect();
        maps.engine_state().flags.store(0, Ordering::Release);
        maps.engine_state().dead_interfaces.store(0, Ordering::Release);

        let adapter = NetAdapter::open(&options.adapter_name, options.adapter)?;
        if adapter.origin() == adapter::Origin::Replaced {
            notes.push(format!(
                "the adapter {} was another version's, with a single queue: it was made anew",
                options.adapter_name
            ));
        }
        if let Err(error) = sys::lock_memory() {
            notes.push(format!(
                "memory can't be locked ({error}): the engine may be late when the machine swaps; give netftd CAP_IPC_LOCK or LimitMEMLOCK=infinity"
            ));
        }
        let control = Arc::new(sys::event_fd().map_err(EngineError::Threads)?);
        let stored = maps.engine_state().persistent[0].load(Ordering::Acquire);
        let data = Data::start(data::Setup {
            cluster_id: options.cluster_id,
            tap: Arc::clone(&adapter.taps()[0]),
            datagrams: adapter.datagrams(),
            maps: Arc::clone(maps),
            plane: DataPlane::new(options.cluster_id, options.node_id, stored, now()),
            control: Arc::clone(&control),
            policy: options.datapath.policy,
            keep_bytes: usize::try_from(options.datapath.keep).unwrap_or(usize::MAX),
        })
        .map_err(EngineError::Threads)?;
        let (mut detection, thread_notes) = Detection::start(detection::Setup {
            node_id: options.node_id,
            detector: options.detector,
            priority: options.priority,
            cpus: options.cpus.clone(),
            wait: options.wait,
            maps: Arc::clone(maps),
            control: Arc::clone(&control),
        })
        .map_err(EngineError::Threads)?;
        notes.extend(thread_notes);
        detection.send(detection::Command::Wake(data.newest_wake()));
        let bypass = Bypass::new(options.datapath, Arc::clone(&control));
        let events = sys::register(control).map_err(EngineError::Threads)?;
        let netlink = Client::new().map_err(EngineError::Threads)?;
        adapter.keep()?;
        folder.keep();
        Ok(Self {
            options,
            notes,
            detection,
            data,
            bypass,
            adapter,
            sockets: Sockets::default(),
            attachments,
            fence,
            loaded,
            folder,
            events,
            netlink,
            pending: VecDeque::new(),
            adopted,
            routes: BTreeMap::new(),
            sizes: BTreeMap::new(),
            peer_mtus: BTreeMap::new(),
            interfaces: BTreeMap::new(),
            macs: BTreeMap::new(),
            turns: Turns::default(),
            looks_ns: 0,
        })
    }

    /// Random per life of the maps: kept over a restart of the daemon.
    pub fn boot_nonce(&self) -> [u8; 16] {
        self.loaded.shared.node.load(0).boot_nonce
    }

    /// Routes found in maps that an earlier daemon left; XDP goes on answering on them. Those that
    /// [`Engine::set_route`] doesn't confirm should be given to [`Engine::remove_route`] by and by.
    pub fn adopted_slots(&self) -> Vec<(Slot, SlotConfig)> {
        let maps = &self.loaded.shared;
        let left = |slot: &Slot| {
            let mut config = maps.slots.load(slot.index());
            // If the earlier daemon ended while keys were replaced: what the peer sends with is what it has for certain.
            let chosen = maps.states.get(slot.index()).peer_flags.load(Ordering::Acquire) >> 32;
            config.send_with(u32::try_from(chosen).unwrap_or(0));
            (*slot, config)
        };
        self.adopted.iter().map(left).collect()
    }

    /// The keys of cluster traffic with a peer, in force when this returns. Idempotent.
    pub fn set_session(&mut self, peer: NodeId, keys: &LiveKeys) {
        self.data.set_session(peer, keys);
    }

    /// None are good any more. Idempotent.
    pub fn remove_session(&mut self, peer: NodeId) {
        self.data.remove_session(peer);
    }

    /// Peers with which so much has been sent that new keys are wanted. Call now and then.
    pub fn worn_sessions(&self) -> Vec<NodeId> {
        self.data.worn_sessions()
    }

    /// CPUs of the detection thread.
    pub fn cpus(&self) -> &[usize] {
        &self.options.cpus
    }

    /// Thread id of the detection thread.
    pub fn detection_tid(&self) -> u32 {
        self.detection.status.tid.load(Ordering::Acquire)
    }

    /// One sentence each: what of the options couldn't be had (priority, memory lock, CPU), and what of an earlier
    /// daemon couldn't be taken over.
    pub fn notes(&self) -> Vec<String> {
        self.notes.clone()
    }

    /// Removes what an earlier daemon left on `netft0` for peers that didn't come back. Call now and then.
    pub fn sweep_adapter(&mut self) {
        self.adapter.sweep();
    }

    /// A peer's `netft0` is here: neighbour entries and the frame table follow. Idempotent.
    pub async fn set_peer_adapter(&mut self, peer: NodeId, adapter: Adapter) -> Result<(), EngineError> {
        self.data.set_peer(peer, adapter.mac);
        if self.peer_mtus.insert(peer, adapter.mtu) != Some(adapter.mtu) {
            self.take_sizes();
        }
        Ok(self.adapter.set_peer(peer, adapter)?)
    }

    /// It is gone. Idempotent.
    pub async fn remove_peer_adapter(&mut self, peer: NodeId) {
        self.data.remove_peer(peer);
        if self.peer_mtus.remove(&peer).is_some() {
            self.take_sizes();
        }
        self.adapter.remove_peer(peer);
    }

    /// Other addresses for the own `netft0` (a conflict was resolved).
    pub async fn set_adapter(&mut self, adapter: Adapter) -> Result<(), EngineError> {
        self.options.adapter = adapter;
        let mtu = self.wanted_mtu();
        Ok(self.adapter.set_identity(Adapter { mtu, ..adapter })?)
    }

    /// The MTU that `netft0` has now.
    pub fn adapter_mtu(&self) -> u16 {
        self.adapter.identity().mtu
    }

    /// New detector settings.
    pub fn configure(&mut self, detector: DetectorConfig) {
        self.options.detector = detector;
        let timeout_ns = detector.engine_timeout_ns;
        self.loaded.shared.fence.get(0).engine_timeout_ns.store(timeout_ns, Ordering::SeqCst);
        self.detection.send(detection::Command::Detector(DetectorCommand::Configure(detector)));
    }

    /// Other wishes about the data path. The policy takes effect at once, the path with the next [`Self::set_interfaces`],
    /// while data goes on.
    pub fn set_datapath(&mut self, datapath: DatapathOptions) {
        self.options.datapath = datapath;
        self.data.board.set_policy(datapath.policy);
        self.bypass.set_options(datapath);
    }

    /// Which way data takes on each interface that has our program, and why.
    pub fn paths(&self) -> Vec<PathReport> {
        self.bypass.reports(&self.data.board)
    }

    /// Sends a hello or a handshake step from the socket of its local address. An address without a socket, or a refusal by the kernel, is
    /// an error that only concerns this message: hellos are repeated.
    pub fn send_hello(&mut self, hello: &HelloTransmit) -> Result<(), EngineError> {
        let (local, remote) = (hello.local, hello.remote);
        let endpoint = self.sockets.get(local).ok_or(EngineError::NoSocket(local))?;
        let address = SocketAddress::new(remote, wire::PORT);
        send_to(endpoint.data.as_fd(), &hello.payload, &address, Neighbour::Unknown)
            .map_err(|error| EngineError::Send { local, remote, error })?;
        Ok(())
    }

    /// The next input. Dropping the future loses nothing.
    pub async fn recv(&mut self) -> EngineInput {
        loop {
            if let Some(input) = self.try_recv() {
                return input;
            }
            let ready = match self.turns.is_waited_for() {
                true => match tokio::time::timeout(LOOK, self.events.readable()).await {
                    Ok(ready) => ready,
                    Err(_) => continue,
                },
                false => self.events.readable().await,
            };
            // Cleared before looking again: what comes in between sets it again.
            if let Ok(mut ready) = ready {
                sys::clear(ready.get_inner().as_fd());
                ready.clear_ready();
            }
        }
    }

    /// What the engine has at once, without waiting.
    pub fn try_recv(&mut self) -> Option<EngineInput> {
        if let Some(input) = self.pending.pop_front() {
            return Some(input);
        }
        if let Ok(event) = self.detection.events.pop() {
            return Some(EngineInput::Detector(event));
        }
        if self.is_turn(now()) {
            return Some(EngineInput::Turn);
        }
        if let Ok(hello) = self.data.hellos.pop() {
            let bytes = hello.bytes().to_vec();
            return Some(EngineInput::Hello { local: hello.local, remote: hello.remote, bytes });
        }
        while let Some(opened) = self.bypass.opened() {
            self.add_data_threads(opened.count());
            let note = self.bypass.take_over(opened, &mut self.loaded.sockets, &mut self.data);
            self.pending.extend(note);
        }
        if self.data.board.changed.swap(false, Ordering::AcqRel) {
            let inputs = self.bypass.changes(&self.data.board).into_iter().map(|(worse, text)| match worse {
                true => EngineInput::Note(text),
                false => EngineInput::Told(text),
            });
            self.pending.extend(inputs);
        }
        if self.data.board.sizes_changed.swap(false, Ordering::AcqRel) {
            self.take_sizes();
        }
        if let Some(input) = self.pending.pop_front() {
            return Some(input);
        }
        // Every thread says so, some when it is there again.
        if self.data.board.adapter_lost.swap(false, Ordering::AcqRel) && self.adapter.is_lost() {
            return Some(EngineInput::Note(self.restore_adapter()));
        }
        None
    }

    /// Makes the adapter again after somebody removed it, and says so.
    fn restore_adapter(&mut self) -> String {
        let name = self.options.adapter_name.clone();
        match self.adapter.reopen() {
            Ok(()) => {
                self.data.set_adapter(self.adapter.taps());
                format!("the adapter {name} was removed by another program; it was made again")
            }
            Err(error) => {
                format!("the adapter {name} was removed by another program: {error}; restart netftd")
            }
        }
    }

    fn note(&mut self, note: String) {
        self.pending.push_back(EngineInput::Note(note));
    }

    /// Every watched route as the detector sees it, at most some 10 ms old.
    pub fn route_views(&self) -> Vec<RouteView> {
        self.detection.status.views.read().routes
    }

    /// XDP's packet counters, names as in `netft_common::map::Counter::NAMES`.
    pub fn counters(&self) -> Vec<(&'static str, u64)> {
        self.loaded.counters()
    }

    /// The engine's own numbers.
    pub fn stats(&self) -> EngineStats {
        let detection = &self.detection.status;
        let views = detection.views.read();
        let data = self.data.statuses();
        let sum = |word: fn(&data::Status) -> &AtomicU64| {
            data.clone().map(|thread| word(thread).load(Ordering::Relaxed)).sum()
        };
        EngineStats {
            loop_gap_max_ns: detection.gap_max_ns.load(Ordering::Relaxed),
            loop_stalls: detection.stalls.load(Ordering::Relaxed),
            loops: detection.loops.load(Ordering::Relaxed),
            priority: detection.priority.load(Ordering::Relaxed),
            request_send_errors: detection.send_errors.load(Ordering::Relaxed),
            detector_stalls: views.counters.stalls,
            receive_stalls: views.counters.receive_stalls,
            postponed_verdicts: views.counters.postponed_verdicts,
            requests: views.counters.requests,
            rtt: views.rtt,
            frames_sent: sum(|thread| &thread.frames_sent),
            bytes_sent: sum(|thread| &thread.bytes_sent),
            frames_received: sum(|thread| &thread.frames_received),
            bytes_received: sum(|thread| &thread.bytes_received),
            bypass_sent: sum(|thread| &thread.bypass_sent),
            bypass_received: sum(|thread| &thread.bypass_received),
            replayed: sum(|thread| &thread.replayed),
            duplicated: sum(|thread| &thread.duplicated),
            keep_overflow: sum(|thread| &thread.keep_overflow),
            keep_expired: sum(|thread| &thread.keep_expired),
            kept_bytes: sum(|thread| &thread.kept_bytes),
            data_threads: data.clone().map(data::Status::frames).collect(),
            drops: data::Status::drops(data),
        }
    }

    /// The traffic of exactly these interfaces passes the fence from now on; none = none, which costs nothing. Idempotent, one
    /// report for each. After [`Self::set_interfaces`], which decides where XDP guards the way in. Before a VIP's
    /// address is added to one of them; after it was taken away, for those that are left out.
    pub fn set_fenced(&mut self, interfaces: &[FencedInterface]) -> Vec<FenceReport> {
        let with_xdp = self.attachments.interfaces();
        let ifindexes = interfaces.iter().map(|interface| interface.ifindex);
        self.fence.set(interfaces, &ifindexes.filter(|ifindex| !with_xdp.contains(ifindex)).collect())
    }

    /// The fence's words, for the ownership thread.
    ///
    /// # Errors
    /// They can't be mapped.
    pub fn fence_words(&self) -> Result<FenceWords, EngineError> {
        Ok(FenceWords::open(self.folder.path())?)
    }

    /// From now on every leg says that this node is leaving on purpose.
    pub fn leave(&mut self) {
        self.loaded.shared.engine_state().flags.store(flags::LEAVING.into(), Ordering::Release);
    }

    /// Ends both threads; then cleans up as `mode` says. Errors name what is left behind.
    pub async fn stop(mut self, mode: StopMode) -> Result<(), EngineError> {
        self.detection.stop();
        self.data.stop();
        if mode == StopMode::Clean {
            // One failure keeps nothing else from being removed.
            let adapter = self.adapter.remove();
            let mut detached = Ok(());
            for ifindex in self.attachments.interfaces() {
                let result = self.attachments.detach(&self.folder, ifindex);
                detached = detached.and(result.map_err(|error| EngineError::Detach { ifindex, error }));
            }
            // Whoever stops cleanly has taken every VIP's address away.
            let unfenced = self.fence.remove();
            self.folder.remove()?;
            adapter?;
            unfenced.map_err(EngineError::Links)?;
            detached?;
        }
        Ok(())
    }
}
