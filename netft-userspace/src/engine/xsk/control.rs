//! Which interfaces have AF_XDP sockets, as the control thread sees it: what the configuration wishes, what the kernel
//! gives, and what was proven to work. Sockets are opened on a thread of their own, as that may take a second.

use super::socket::{self, OpenError, ZeroCopy};
use super::{Bound, Spec, XskPort};
use crate::engine::data::{Board, Data, Ways};
use crate::engine::maps::SocketMap;
use crate::engine::{EngineInput, XdpMode};
use crate::sys;
use crate::sys::device::receive_queues;
use netft_common::map::{MAX_QUEUES, socket_index};
use netft_core::carry::Policy;
use netft_core::membership::Interface;
use netft_core::types::InterfaceNumber;
use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, mpsc};

/// Which way cluster traffic is to take: `datapath.path`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PathWish {
    /// AF_XDP where the driver needs no copy of a frame; sockets elsewhere, as they are faster than AF_XDP that copies.
    Auto,
    /// AF_XDP everywhere, with XDP in the driver where it has it.
    Xdp,
    /// AF_XDP everywhere, with XDP in the stack.
    XdpGeneric,
    /// The kernel's UDP sockets.
    #[default]
    Socket,
}

/// `datapath.*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DatapathOptions {
    /// `datapath.path`.
    pub path: PathWish,
    /// `datapath.buffers`: bytes of packet memory for all AF_XDP sockets together.
    pub buffers: u64,
    /// `datapath.policy`.
    pub policy: Policy,
    /// `datapath.keep`: bytes of memory of each data thread for frames that may have to be sent again.
    pub keep: u64,
}

impl Default for DatapathOptions {
    fn default() -> Self {
        Self { path: PathWish::default(), buffers: 64 << 20, policy: Policy::default(), keep: 16 << 20 }
    }
}

/// Which way data takes on an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DataWay {
    /// AF_XDP, with XDP in the driver.
    Xdp,
    /// AF_XDP, with XDP in the stack.
    XdpGeneric,
    /// The kernel's UDP socket.
    Socket,
}

/// The data path of one interface.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct PathReport {
    /// The interface.
    pub interface: String,
    /// How data is received.
    pub receive: DataWay,
    /// How data is sent to peers on the same subnet; to others it is always [`DataWay::Socket`].
    pub transmit: DataWay,
    /// Whether the driver uses the packet memory itself.
    pub zero_copy: bool,
    /// AF_XDP sockets, one per queue.
    pub sockets: u32,
    /// Bytes of packet memory.
    pub buffer_bytes: u64,
    /// Why it is so.
    pub why: String,
}

/// Whether XDP is attached to an interface as it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// It is, as far as it can be.
    Done,
    /// Not before its turn: it is attached as it was.
    Awaited,
}

/// What decides about the sockets of an interface: while it is the same, they stay.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Facts {
    name: String,
    ifindex: u32,
    mode: XdpMode,
    plan: Plan,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Plan {
    Sockets(Vec<Spec>),
    None(String),
}

#[derive(Debug)]
enum State {
    None,
    Opening(u64),
    Open { bound: Bound, sockets: u32, memory: u64, missing: Option<String> },
    Failed(String),
}

#[derive(Debug)]
struct Entry {
    facts: Facts,
    state: State,
    told: Ways,
}

/// Sockets that a thread has opened.
#[derive(Debug)]
pub struct Opened {
    job: u64,
    interface: InterfaceNumber,
    sockets: Vec<(u32, Box<XskPort>, Bound)>,
    error: Option<OpenError>,
}

impl Opened {
    /// How many there are: so many data threads have something to do.
    pub fn count(&self) -> usize {
        self.sockets.len()
    }
}

/// Smallest and largest number of buffers for receiving on one socket. With 2048, half of a burst was seen dropped.
const FILL: std::ops::RangeInclusive<u32> = 256..=8192;
/// Buffers for transmitting are this part of those for receiving.
const TRANSMIT_PART: u32 = 4;

/// All of them.
#[derive(Debug)]
pub struct Bypass {
    options: DatapathOptions,
    entries: BTreeMap<InterfaceNumber, Entry>,
    results: mpsc::Receiver<Opened>,
    sender: mpsc::Sender<Opened>,
    control: Arc<OwnedFd>,
    jobs: u64,
}

impl Bypass {
    /// None yet. `control` wakes the control thread.
    pub fn new(options: DatapathOptions, control: Arc<OwnedFd>) -> Self {
        let (sender, results) = mpsc::channel();
        Self { options, entries: BTreeMap::new(), results, sender, control, jobs: 0 }
    }

    /// Other wishes; they take effect with the next [`Self::update`].
    pub fn set_options(&mut self, options: DatapathOptions) {
        self.options = options;
    }

    /// How XDP is to be attached.
    pub fn wants_generic(&self) -> bool {
        self.options.path == PathWish::XdpGeneric
    }

    /// These are the interfaces with our program, how it is attached, and whether that is about to change. Gives up sockets that don't fit any more (data
    /// goes on by the kernel's sockets), and has others opened.
    pub fn update(&mut self, interfaces: &[(&Interface, XdpMode, Turn)], data: &mut Data) {
        let facts = self.facts(interfaces);
        let old = std::mem::take(&mut self.entries);
        let (kept, gone): (BTreeMap<_, _>, BTreeMap<_, _>) =
            old.into_iter().partition(|(number, entry)| facts.get(number) == Some(&entry.facts));
        self.entries = kept;
        for number in gone.into_keys() {
            data.remove_ports(number);
        }
        let mut jobs = Vec::new();
        for (number, facts) in facts {
            if self.entries.contains_key(&number) {
                continue;
            }
            let state = match &facts.plan {
                Plan::None(_) => State::None,
                Plan::Sockets(specs) => {
                    self.jobs += 1;
                    jobs.push((self.jobs, number, specs.clone()));
                    State::Opening(self.jobs)
                }
            };
            self.entries.insert(number, Entry { facts, state, told: Ways::default() });
        }
        self.open(jobs);
    }

    /// One interface gives up its sockets before XDP is attached there in another way.
    pub fn release(&mut self, interface: InterfaceNumber, data: &mut Data) {
        if self.entries.remove(&interface).is_some() {
            data.remove_ports(interface);
        }
    }

    /// Sockets that were opened meanwhile, for [`Self::take_over`].
    pub fn opened(&mut self) -> Option<Opened> {
        let of = |opened: &Opened| self.entries.get(&opened.interface).map(|entry| &entry.state);
        // Those that were overtaken by another wish close here.
        self.results
            .try_iter()
            .find(|opened| matches!(of(opened), Some(State::Opening(job)) if *job == opened.job))
    }

    /// Takes them over. If there are none though there should be, returns a sentence about it.
    pub fn take_over(
        &mut self,
        opened: Opened,
        sockets: &mut SocketMap,
        data: &mut Data,
    ) -> Option<EngineInput> {
        let number = opened.interface;
        let entry = self.entries.get_mut(&number)?;
        entry.state = adopt(number, opened, sockets, data, entry.facts.ifindex);
        let State::Failed(why) = &entry.state else { return None };
        let text = format!("{}: data goes by the kernel's sockets: {why}", entry.facts.name);
        match self.options.path {
            PathWish::Auto => Some(EngineInput::Told(text)),
            _ => Some(EngineInput::Note(text)),
        }
    }

    /// One sentence for each interface whose ways have changed since it was asked last; `true` = for the worse.
    pub fn changes(&mut self, board: &Board) -> Vec<(bool, String)> {
        let mut notes = Vec::new();
        for (number, entry) in &mut self.entries {
            let ways = board.line(*number).ways();
            if ways != entry.told && matches!(entry.state, State::Open { .. }) {
                let worse = ways.refuted
                    || (entry.told.receive && !ways.receive)
                    || (entry.told.transmit && !ways.transmit);
                entry.told = ways;
                notes.push((worse, format!("{}: {}", entry.facts.name, entry.why(ways))));
            }
        }
        notes
    }

    /// All interfaces.
    pub fn reports(&self, board: &Board) -> Vec<PathReport> {
        self.entries.iter().map(|(number, entry)| entry.report(board.line(*number).ways())).collect()
    }

    fn facts(&self, interfaces: &[(&Interface, XdpMode, Turn)]) -> BTreeMap<InterfaceNumber, Facts> {
        let path = self.options.path;
        let fit = interfaces.iter().map(|(interface, mode, turn)| {
            let length = interface.mtu.saturating_add(14 + 4);
            let plan = match (path, mode, socket::frame_size(length)) {
                (PathWish::Socket, ..) => Err("datapath.path is \"socket\"".to_owned()),
                _ if *turn == Turn::Awaited => Err(
                    "XDP is attached anew as soon as every peer can be reached by another interface meanwhile".to_owned(),
                ),
                (_, XdpMode::None, _) => Err("no XDP program is attached".to_owned()),
                (PathWish::Auto, XdpMode::Generic, _) => {
                    Err("with XDP in the stack AF_XDP copies, and the kernel's sockets are faster than that".to_owned())
                }
                (_, _, None) => Err(format!("its MTU of {} doesn't fit into a packet buffer", interface.mtu)),
                (_, _, Some(size)) => Ok((size, receive_queues(&interface.name).clamp(1, MAX_QUEUES))),
            };
            (*interface, *mode, plan)
        });
        let fit: Vec<_> = fit.collect();
        let sockets: u32 = fit.iter().filter_map(|(.., plan)| plan.as_ref().ok()).map(|plan| plan.1).sum();
        let share = self.options.buffers / u64::from(sockets.max(1));
        let facts = fit.into_iter().map(|(interface, mode, plan)| {
            let plan = plan.and_then(|(frame_size, queues)| {
                let fill = fill_size(share, frame_size).ok_or_else(|| {
                    format!("datapath.buffers is too small for {sockets} sockets of {} buffers", FILL.start())
                })?;
                let zero_copy = match (path, mode) {
                    (PathWish::Auto, _) => ZeroCopy::Only,
                    (_, XdpMode::Native) => ZeroCopy::Try,
                    _ => ZeroCopy::Never,
                };
                let spec = |queue| Spec {
                    interface: interface.name.clone(),
                    queue,
                    frame_size,
                    fill,
                    transmit: fill / TRANSMIT_PART,
                    zero_copy,
                };
                Ok((0..queues).map(spec).collect())
            });
            let plan = plan.map_or_else(Plan::None, Plan::Sockets);
            (interface.number, Facts { name: interface.name.clone(), ifindex: interface.ifindex, mode, plan })
        });
        facts.collect()
    }

    /// On another thread, in the calling thread's network namespace.
    fn open(&self, jobs: Vec<(u64, InterfaceNumber, Vec<Spec>)>) {
        if jobs.is_empty() {
            return;
        }
        let (sender, control) = (self.sender.clone(), Arc::clone(&self.control));
        let failed =
            |error| tracing::error!(%error, "no thread to open AF_XDP sockets: data goes by UDP sockets");
        let run = move || {
            for (job, interface, specs) in jobs {
                let mut opened = Opened { job, interface, sockets: Vec::new(), error: None };
                for spec in &specs {
                    match socket::open(spec) {
                        Ok((port, bound)) => opened.sockets.push((spec.queue, Box::new(port), bound)),
                        Err(error) => {
                            opened.error = Some(error);
                            break;
                        }
                    }
                }
                if sender.send(opened).is_err() {
                    return;
                }
                sys::wake(control.as_fd());
            }
        };
        if let Err(error) = std::thread::Builder::new().name("netft-open".to_owned()).spawn(run) {
            failed(error);
        }
    }
}

/// Tells the kernel and the data thread about new sockets.
fn adopt(
    number: InterfaceNumber,
    opened: Opened,
    sockets: &mut SocketMap,
    data: &mut Data,
    ifindex: u32,
) -> State {
    let mut missing = opened.error.map(|error| error.to_string());
    let (mut count, mut memory, mut worst) = (0, 0, None);
    for (queue, port, bound) in opened.sockets {
        let index = socket_index(number.get().into(), queue);
        if let Err(error) = sockets.set(index, port.rings().raw_fd()) {
            missing = Some(format!("XDP can't be told of the socket of queue {queue}: {error}"));
            continue;
        }
        count += 1;
        memory += port.rings().memory() as u64;
        if worst.is_none() || bound != Bound::ZeroCopy {
            worst = Some(bound);
        }
        data.add_port(number, queue, port);
    }
    match worst {
        None => State::Failed(missing.unwrap_or_else(|| "there is no queue".to_owned())),
        Some(bound) => {
            data.prove(number, ifindex);
            State::Open { bound, sockets: count, memory, missing }
        }
    }
}

impl Entry {
    fn way(&self, bypass: bool) -> DataWay {
        match (bypass, self.facts.mode) {
            (false, _) | (_, XdpMode::None) => DataWay::Socket,
            (true, XdpMode::Native) => DataWay::Xdp,
            (true, XdpMode::Generic) => DataWay::XdpGeneric,
        }
    }

    fn report(&self, ways: Ways) -> PathReport {
        let (zero_copy, sockets, buffer_bytes) = match &self.state {
            State::Open { bound, sockets, memory, .. } => (*bound == Bound::ZeroCopy, *sockets, *memory),
            _ => (false, 0, 0),
        };
        PathReport {
            interface: self.facts.name.clone(),
            receive: self.way(ways.receive),
            transmit: self.way(ways.transmit),
            zero_copy,
            sockets,
            buffer_bytes,
            why: self.why(ways),
        }
    }

    fn why(&self, ways: Ways) -> String {
        match (&self.state, &self.facts.plan) {
            (State::Failed(why), _) | (State::None, Plan::None(why)) => why.clone(),
            (State::None | State::Opening(_), _) => "AF_XDP sockets are being opened".to_owned(),
            (State::Open { bound, missing, .. }, _) => {
                let seen = match (ways.receive, ways.transmit, ways.refuted) {
                    (true, true, _) => "probes arrive both ways by AF_XDP",
                    (true, false, true) => {
                        "what is sent by AF_XDP doesn't arrive, so the kernel's socket sends"
                    }
                    (false, true, true) => "nothing arrives by AF_XDP, so the kernel's socket receives",
                    (false, false, true) => {
                        "nothing arrives by AF_XDP and nothing sent by it does, so the kernel's socket carries data"
                    }
                    (_, _, false) => "AF_XDP is used as soon as a peer's probe has arrived by it",
                };
                let copy = match bound {
                    Bound::ZeroCopy => "without copying".to_owned(),
                    Bound::Copy(Some(why)) => format!("copied, because the driver refuses zero copy ({why})"),
                    Bound::Copy(None) => "copied, as always in generic mode".to_owned(),
                };
                let missing =
                    missing.as_ref().map_or_else(String::new, |why| format!("; not on all queues: {why}"));
                format!("{seen}; {copy}{missing}")
            }
        }
    }
}

/// Buffers for receiving on a socket that may use `share` bytes.
fn fill_size(share: u64, frame_size: u32) -> Option<u32> {
    let fits = |fill: &u32| u64::from(fill + fill / TRANSMIT_PART) * u64::from(frame_size) <= share;
    let sizes = std::iter::successors(Some(*FILL.end()), |size| Some(size / 2));
    sizes.take_while(|size| FILL.contains(size)).find(fits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_as_many_as_fit() {
        const MIB: u64 = 1 << 20;
        assert_eq!(fill_size(64 * MIB, 2048), Some(8192));
        assert_eq!(fill_size(20 * MIB, 2048), Some(8192));
        assert_eq!(fill_size(20 * MIB - 1, 2048), Some(4096));
        assert_eq!(fill_size(20 * MIB, 4096), Some(4096));
        assert_eq!(fill_size(640 * 1024, 2048), Some(256));
        assert_eq!(fill_size(640 * 1024 - 1, 2048), None);
    }

    #[test]
    fn a_frame_fits_into_its_buffer_beside_what_xdp_keeps() {
        assert_eq!(socket::frame_size(1518), Some(2048));
        assert_eq!(socket::frame_size(1792), Some(2048));
        assert_eq!(socket::frame_size(1793), Some(4096));
        assert_eq!(socket::frame_size(3840), Some(4096));
        assert_eq!(socket::frame_size(3841), None);
    }
}
