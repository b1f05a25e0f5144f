//! The detection thread: paces leg 1, judges routes, moves active words. Pinned, SCHED_FIFO, memory locked.
//!
//! After its start it allocates nothing, takes no lock, and makes no system call that could wait for a thread of
//! ordinary priority: no netlink request (they take the kernel's RTNL mutex), no file, no log.

use super::AbortOnPanic;
use super::Wait;
use super::maps::SharedMaps;
use super::views::ViewTable;
use crate::netlink::{GROUP_LINK, link_state};
use crate::rtnl::{self, kind, u32_at};
use crate::sys;
use crate::sys::socket::{Neighbour, SocketAddress, send_to};
use netft_common::heartbeat;
use netft_common::map::{MAX_CPUS, MAX_SLOTS, NodeConfig, SlotConfig, cpu_tick};
use netft_common::wire::NO_SLOT;
use netft_core::detect::{
    Detector, DetectorCommand, DetectorConfig, DetectorEvent, Evidence, RequestTransmit, RouteSetup,
    SlotEvidence, StoreCommand, longest_silence_ns,
};
use netft_core::types::{InterfaceNumber, LinkState, Nanos, NodeId, Slot};
use rtrb::{Consumer, Producer};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;

/// The tick must stay far younger than the engine timeout, so the loop never sleeps longer.
const LONGEST_SLEEP_NS: Nanos = 20_000_000;
/// How long before a deadline sleeping ends and spinning begins, at most. A FIFO thread wakes some 30-50 µs late, so
/// it rarely spins at all; more would only burn CPU.
const FINAL_SPIN_NS: Nanos = 20_000;
/// How often views are published when nothing happens.
const PUBLISH_NS: Nanos = 10_000_000;
/// Being later than this is a stall.
const STALL_NS: Nanos = 300_000;
/// When spinning: sleep [`NAP_NS`] after each [`NAP_EVERY_NS`]. The kernel takes the CPU away for 50 ms from real-time
/// threads that use more than 95 % of a second (sched(7)); naps keep the thread below that.
const NAP_EVERY_NS: Nanos = 1_000_000;
/// See [`NAP_EVERY_NS`].
const NAP_NS: Nanos = 60_000;
/// Commands and netlink datagrams taken per loop, so that neither can keep heartbeats waiting.
const PER_LOOP: usize = 32;
/// Commands and events under way at once.
pub const RING: usize = 4096;

/// What the control thread asks.
#[expect(clippy::large_enum_variant, reason = "boxes would be freed on the detection thread, which mustn't")]
#[derive(Debug)]
pub enum Command {
    /// For the detector as it is.
    Detector(DetectorCommand),
    /// A route, and how to send on it.
    SetRoute(RouteSetup, Path),
    /// A route goes.
    RemoveRoute(Slot),
    /// An interface: its kernel index, its link as the kernel listed it, and when it did.
    SetInterface(InterfaceNumber, u32, LinkState, Nanos),
    /// An interface goes.
    RemoveInterface(InterfaceNumber),
    /// Wake this thread as well when a route comes or goes: it may have to send something again.
    Wake(Arc<OwnedFd>),
}

/// How to send on a route.
#[derive(Clone, Debug)]
pub struct Path {
    /// As in the map.
    pub config: SlotConfig,
    /// The local endpoint's socket for heartbeats. The control thread keeps another reference until this one is gone,
    /// so that closing never happens here.
    pub socket: Arc<OwnedFd>,
    /// The remote endpoint.
    pub remote: SocketAddress,
}

/// What both sides look at, by atomics.
#[derive(Debug)]
pub struct Status {
    /// Ask the thread to end.
    pub stop: AtomicBool,
    /// Its SCHED_FIFO priority, 0 = ordinary.
    pub priority: AtomicU8,
    /// Its thread id.
    pub tid: AtomicU32,
    /// Loops.
    pub loops: AtomicU64,
    /// Longest lateness.
    pub gap_max_ns: AtomicU64,
    /// Latenesses above [`STALL_NS`].
    pub stalls: AtomicU64,
    /// Leg 1s that the kernel refused.
    pub send_errors: AtomicU64,
    /// Views of routes.
    pub views: ViewTable,
}

/// The control thread's end.
#[derive(Debug)]
pub struct Detection {
    commands: Producer<Command>,
    /// Events of the detector.
    pub events: Consumer<DetectorEvent>,
    /// Numbers.
    pub status: Arc<Status>,
    wake: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

/// What the thread is made from.
#[derive(Debug)]
pub struct Setup {
    /// Own id.
    pub node_id: NodeId,
    /// The detector's settings.
    pub detector: DetectorConfig,
    /// SCHED_FIFO priority wished for.
    pub priority: Option<u8>,
    /// CPUs wished for; empty = any.
    pub cpus: Vec<usize>,
    /// How to wait.
    pub wait: Wait,
    /// The maps.
    pub maps: Arc<SharedMaps>,
    /// Wakes the control thread when there are events.
    pub control: Arc<OwnedFd>,
}

impl Detection {
    /// Starts the thread in the calling thread's network namespace. Returns a sentence for each thing that couldn't be
    /// had.
    pub fn start(setup: Setup) -> io::Result<(Self, Vec<String>)> {
        let (commands, command_queue) = rtrb::RingBuffer::new(RING);
        let (event_queue, events) = rtrb::RingBuffer::new(RING);
        let status = Arc::new(Status {
            stop: AtomicBool::new(false),
            priority: AtomicU8::new(0),
            tid: AtomicU32::new(0),
            loops: AtomicU64::new(0),
            gap_max_ns: AtomicU64::new(0),
            stalls: AtomicU64::new(0),
            send_errors: AtomicU64::new(0),
            views: ViewTable::new(MAX_SLOTS as usize),
        });
        let wake = Arc::new(sys::event_fd()?);
        let worker = Worker {
            node: setup.maps.node.load(0),
            maps: setup.maps,
            detector: Detector::new(setup.detector, setup.node_id),
            commands: command_queue,
            events: event_queue,
            status: Arc::clone(&status),
            wake: Arc::clone(&wake),
            control: setup.control,
            netlink: sys::netlink::open(GROUP_LINK)?,
            netlink_buffer: vec![0; 1 << 15].into_boxed_slice(),
            paths: (0..MAX_SLOTS).map(|_| None).collect(),
            interfaces: [None; InterfaceNumber::LIMIT as usize],
            wakes: Vec::with_capacity(MAX_CPUS as usize),
            wait: setup.wait,
            woken: false,
            links_changed: false,
        };
        let (report, notes) = mpsc::channel();
        let thread = std::thread::Builder::new().name("netft-detect".to_owned()).spawn(move || {
            let guard = AbortOnPanic;
            let _ = report.send(prepare(setup.priority, &setup.cpus, &worker.status));
            drop(report);
            worker.run();
            drop(guard);
        })?;
        let notes = notes.recv().unwrap_or_default();
        Ok((Self { commands, events, status, wake, thread: Some(thread) }, notes))
    }

    /// Hands a command over. Waits (milliseconds) in the unlikely case that [`RING`] commands are under way.
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

impl Drop for Detection {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Placement and priority of the calling thread.
fn prepare(priority: Option<u8>, cpus: &[usize], status: &Status) -> Vec<String> {
    let mut notes = Vec::new();
    status.tid.store(sys::thread_id(), Ordering::Release);
    if !cpus.is_empty()
        && let Err(error) = sys::pin_to(cpus)
    {
        notes.push(format!(
            "the detection thread can't be pinned to CPUs {cpus:?} ({error}); it runs on any: check engine.cpus"
        ));
    }
    let fifo = priority.map(|priority| (priority, sys::schedule_fifo(priority)));
    match fifo {
        Some((priority, Ok(()))) => status.priority.store(priority, Ordering::Relaxed),
        other => {
            if let Some((priority, Err(error))) = other {
                notes.push(format!(
                    "the detection thread can't have SCHED_FIFO priority {priority} ({error}); it runs with ordinary priority and may be late: \
                     give netftd CAP_SYS_NICE or LimitRTPRIO={priority}, or set engine.priority"
                ));
            }
            // The next best thing; without the right to it, ordinary it is.
            let _ = sys::schedule_ordinary(-20);
        }
    }
    sys::touch_stack();
    notes
}

/// What this thread knows of an interface.
#[derive(Clone, Copy)]
struct Link {
    ifindex: u32,
    state: LinkState,
    /// When it learned that.
    since_ns: Nanos,
}

struct Worker {
    node: NodeConfig,
    maps: Arc<SharedMaps>,
    detector: Detector,
    commands: Consumer<Command>,
    events: Producer<DetectorEvent>,
    status: Arc<Status>,
    wake: Arc<OwnedFd>,
    control: Arc<OwnedFd>,
    netlink: OwnedFd,
    netlink_buffer: Box<[u8]>,
    paths: Box<[Option<Path>]>,
    interfaces: [Option<Link>; InterfaceNumber::LIMIT as usize],
    /// Data threads, at most one per CPU. They outlive this one.
    wakes: Vec<Arc<OwnedFd>>,
    wait: Wait,
    /// There are commands.
    woken: bool,
    /// There are link events.
    links_changed: bool,
}

impl Worker {
    fn run(mut self) {
        let mut published_ns = 0;
        let mut napped_ns = sys::boottime();
        let mut due_ns = sys::boottime();
        while !self.status.stop.load(Ordering::Acquire) {
            let now = self.tick(due_ns);
            if std::mem::take(&mut self.woken) {
                sys::clear(self.wake.as_fd());
                self.take_commands(now);
            }
            if std::mem::take(&mut self.links_changed) {
                self.take_link_events(now);
            }
            self.detector.handle_timeout(sys::boottime(), &*self.maps);
            let events = self.drain();
            let now = sys::boottime();
            if events > 0 || now.saturating_sub(published_ns) >= PUBLISH_NS {
                self.status.views.publish(&self.detector);
                published_ns = now;
            }
            if events > 0 {
                sys::wake(self.control.as_fd());
            }
            due_ns = self.detector.poll_timeout().min(now.saturating_add(LONGEST_SLEEP_NS));
            due_ns = match self.wait {
                Wait::Sleep => self.sleep_until(due_ns),
                Wait::Spin => self.spin_until(due_ns, &mut napped_ns),
            };
        }
    }

    /// Stamps the engine's tick, and notes how late this loop is.
    fn tick(&self, due_ns: Nanos) -> Nanos {
        let now = sys::boottime();
        self.maps.engine_state().tick_ns.store(now, Ordering::Release);
        let late_ns = now.saturating_sub(due_ns);
        self.status.loops.fetch_add(1, Ordering::Relaxed);
        if late_ns > STALL_NS {
            self.status.stalls.fetch_add(1, Ordering::Relaxed);
        }
        if late_ns > self.status.gap_max_ns.load(Ordering::Relaxed) {
            self.status.gap_max_ns.store(late_ns, Ordering::Relaxed);
        }
        now
    }

    fn take_commands(&mut self, now: Nanos) {
        for _ in 0..PER_LOOP {
            let Ok(command) = self.commands.pop() else {
                return;
            };
            match command {
                Command::Detector(command) => self.detector.handle_command(now, command),
                Command::SetRoute(setup, path) => {
                    self.paths[setup.slot.index()] = Some(path);
                    self.detector.handle_command(now, DetectorCommand::SetRoute(setup));
                }
                Command::RemoveRoute(slot) => {
                    self.detector.handle_command(now, DetectorCommand::RemoveRoute(slot));
                    self.paths[slot.index()] = None;
                }
                Command::SetInterface(number, ifindex, state, at_ns) => {
                    let known = &mut self.interfaces[usize::from(number.get())];
                    // A notification that came after the listing knows better.
                    if known.is_none_or(|link| link.ifindex != ifindex || link.since_ns < at_ns) {
                        *known = Some(Link { ifindex, state, since_ns: at_ns });
                        self.detector.handle_command(now, DetectorCommand::SetLink(number, state));
                    }
                }
                Command::RemoveInterface(number) => {
                    self.interfaces[usize::from(number.get())] = None;
                }
                Command::Wake(thread) => {
                    if self.wakes.len() < self.wakes.capacity() {
                        self.wakes.push(thread);
                    }
                }
            }
        }
        // More to do: don't sleep before it is done.
        sys::wake(self.wake.as_fd());
    }

    /// Carrier and administrative state, as soon as the kernel tells. A lost message (ENOBUFS) is made up for by the
    /// control thread, which has the kernel list them again and again.
    fn take_link_events(&mut self, now: Nanos) {
        // What is left over makes the next poll return at once.
        for _ in 0..PER_LOOP {
            let Ok(length) = sys::netlink::receive(self.netlink.as_fd(), &mut self.netlink_buffer) else {
                return;
            };
            for message in rtnl::messages(&self.netlink_buffer[..length]) {
                // Other families tell of what a bridge thinks of its ports (AF_BRIDGE).
                if message.payload.first() != Some(&0) {
                    continue;
                }
                let state = match message.kind {
                    kind::NEW_LINK => link_state(u32_at(message.payload, 8)),
                    kind::DEL_LINK => LinkState::AdminDown,
                    _ => continue,
                };
                let ifindex = u32_at(message.payload, 4);
                for (number, interface) in (0u8..).zip(self.interfaces.iter_mut()) {
                    if let (Some(link), Some(number)) = (interface.as_mut(), InterfaceNumber::new(number))
                        && link.ifindex == ifindex
                    {
                        link.since_ns = now;
                        if link.state != state {
                            link.state = state;
                            self.detector.handle_command(now, DetectorCommand::SetLink(number, state));
                        }
                    }
                }
            }
        }
    }

    /// Does everything that the detector wants done: stores first, they move traffic. Returns the number of events.
    fn drain(&mut self) -> usize {
        let mut changed = false;
        while let Some(store) = self.detector.poll_store() {
            changed = true;
            match store {
                StoreCommand::Active(peer, word) => {
                    self.maps.active.get(usize::from(peer.get())).store(word, Ordering::Release);
                }
                StoreCommand::DeadInterfaces(word) => {
                    self.maps.engine_state().dead_interfaces.store(word, Ordering::Release);
                }
                StoreCommand::RouteFlags(slot, word) => {
                    self.maps.states.get(slot.index()).engine_flags.store(word, Ordering::Release);
                }
            }
        }
        if changed {
            self.wakes.iter().for_each(|thread| sys::wake(thread.as_fd()));
        }
        while let Some(transmit) = self.detector.poll_transmit(sys::boottime()) {
            self.send(transmit);
        }
        let mut events = 0;
        while !self.events.is_full()
            && let Some(event) = self.detector.poll_event()
            && self.events.push(event).is_ok()
        {
            events += 1;
        }
        events
    }

    fn send(&self, transmit: RequestTransmit) {
        let Some(path) = &self.paths[transmit.slot.index()] else {
            return;
        };
        let state = self.maps.states.get(transmit.slot.index());
        // Stored before it leaves: a restarted engine must never use a sequence twice.
        state.next_sequence.store(transmit.sequence.saturating_add(1), Ordering::Relaxed);
        // The peer knows the route by its own slot.
        let notice = transmit.notice.and_then(|(slot, reason)| {
            let remote_slot = self.paths[slot.index()].as_ref()?.config.remote_slot;
            (remote_slot != NO_SLOT).then_some((remote_slot, reason))
        });
        // An answer to what was sent on this route is better proof than ARP's.
        let up = state.engine_flags.load(Ordering::Relaxed) & 1 == 1;
        let neighbour = if up { Neighbour::Confirmed } else { Neighbour::Unknown };
        let now = sys::boottime();
        let engine = self.maps.engine_state();
        let Some(leg) = heartbeat::request(&self.node, &path.config, engine, transmit.sequence, now, notice)
        else {
            return;
        };
        if send_to(path.socket.as_fd(), bytemuck::bytes_of(&leg), &path.remote, neighbour).is_err() {
            self.status.send_errors.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Sleeps until a command, a link event or `due_ns`. Returns when it should have woken.
    fn sleep_until(&mut self, due_ns: Nanos) -> Nanos {
        let left_ns = due_ns.saturating_sub(sys::boottime());
        if self.poll(left_ns - FINAL_SPIN_NS.min(left_ns / 8)) {
            return sys::boottime().min(due_ns);
        }
        while sys::boottime() < due_ns {
            std::hint::spin_loop();
        }
        due_ns
    }

    /// Like [`Self::sleep_until`], without sleeping but for short naps.
    fn spin_until(&mut self, due_ns: Nanos, napped_ns: &mut Nanos) -> Nanos {
        loop {
            let now = sys::boottime();
            let nap_ns = if now.saturating_sub(*napped_ns) >= NAP_EVERY_NS { NAP_NS } else { 0 };
            let ready = self.poll(nap_ns);
            let now = sys::boottime();
            if nap_ns > 0 {
                *napped_ns = now;
            }
            if ready || now >= due_ns {
                return now.min(due_ns);
            }
        }
    }

    /// Waits for commands and link events, and notes which there are.
    fn poll(&mut self, timeout_ns: Nanos) -> bool {
        let mut fds = [sys::poll_in(self.wake.as_fd()), sys::poll_in(self.netlink.as_fd())];
        // An error can only mean that nothing is ready.
        let ready = sys::poll(&mut fds, Some(timeout_ns)).unwrap_or(0);
        self.woken = fds[0].revents != 0;
        self.links_changed = fds[1].revents != 0;
        ready > 0
    }
}

impl Evidence for SharedMaps {
    fn receive_silent_ns(&self, now: Nanos) -> Nanos {
        let silent = |cpu: usize| {
            // The state first: XDP stamps a tick before it says that the CPU ticks again.
            let running = self.cpus.load(cpu).state == cpu_tick::RUNNING;
            running.then(|| now.saturating_sub(self.cpus.load(cpu).tick_ns))
        };
        longest_silence_ns((0..self.cpu_count).filter_map(silent))
    }

    fn read(&self, slot: Slot) -> SlotEvidence {
        let state = self.states.get(slot.index());
        // Acquire on each: what XDP wrote before a word that we see, we see as well.
        let load = |word: &AtomicU64| word.load(Ordering::Acquire);
        SlotEvidence {
            completed_sent_ns: load(&state.completed_sent_ns),
            confirmed_sent_ns: load(&state.confirmed_sent_ns),
            rtt_ns: load(&state.rtt_ns),
            peer_tick_ns: load(&state.peer_tick_ns),
            told_down: load(&state.told_down),
            peer_flags: load(&state.peer_flags),
            arrival_ns: std::array::from_fn(|leg| load(&state.arrival_ns[leg])),
            highest: std::array::from_fn(|leg| load(&state.highest[leg])),
        }
    }
}
