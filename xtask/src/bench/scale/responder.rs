//! All peers in one: answers every leg that arrives at the far end of the wire, by the code that XDP runs.

use super::wire::{DEVICE, address};
use crate::bench::reply::pin;
use crate::lab::Lab;
use crate::test::workspace_root;
use crate::traffic::{be_prompt, boottime_ns};
use anyhow::{Context, Result, anyhow};
use aya::programs::{Xdp, XdpMode};
use aya::{Ebpf, EbpfLoader};
use netft_common::fence::FenceTables;
use netft_common::heartbeat::Tables;
use netft_common::map::{EngineState, KeySet, LAYOUT_VERSION, NodeConfig, SlotConfig, SlotState};
use netft_common::receive::{Verdict, receive};
use netft_common::shared::Shared;
use netft_common::wire::Header;
use netft_core::types::address_bytes;
use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::libc::PACKET_OUTGOING;
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, bind, recvfrom, send, setsockopt,
    socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

/// Cluster of all.
pub(super) const CLUSTER: u32 = 90;
/// Key epoch of all routes.
pub(super) const EPOCH: u32 = 1;
/// Where the netft header begins in an untagged IPv4 frame without options.
const MESSAGE: usize = 14 + 20 + 8;

/// Key of what `from` sends to `to`.
pub(super) fn key(from: u16, to: u16) -> [u64; 2] {
    [0x5ca1_e000_0000_0000 | u64::from(from) << 16 | u64::from(to), 0x0123_4567_89ab_cdef]
}

/// The running responder.
pub(super) struct Responder {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<()>>,
    /// Passes everything: without a program here, no XDP_TX reply leaves the other end.
    _pass: Ebpf,
}

impl Responder {
    /// Answers for peers 2 to `peers` + 1, in n2.
    pub fn start(lab: &Lab, peers: u16) -> Result<Self> {
        let (socket, pass) = lab.enter("n2", || Ok((open()?, attach_pass()?)))?;
        let stop = Arc::new(AtomicBool::new(false));
        let ending = Arc::clone(&stop);
        let thread = std::thread::Builder::new().name("scale-peers".into()).spawn(move || {
            // The measured node's detection thread is on CPU 0.
            pin(1)?;
            // Remote ends are other machines: what else this one does must not keep their answers waiting.
            be_prompt(55)?;
            answer(&socket, &mut Peers::new(peers), &ending)
        })?;
        Ok(Self { stop, thread, _pass: pass })
    }

    /// Ends it; an error of its own is told now.
    pub fn stop(self) -> Result<()> {
        self.stop.store(true, Ordering::Release);
        self.thread.join().unwrap_or_else(|_| Err(anyhow!("the responder panicked")))
    }
}

fn open() -> Result<OwnedFd> {
    let (flags, protocol) = (SockFlag::SOCK_CLOEXEC, SockProtocol::EthAll);
    let socket = socket(AddressFamily::Packet, SockType::Raw, flags, protocol).context("a packet socket")?;
    setsockopt(&socket, sockopt::RcvBufForce, &(16 << 20)).context("a large receive buffer")?;
    setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::milliseconds(20)).context("a receive timeout")?;
    let device = getifaddrs()?.find_map(|entry| {
        (entry.interface_name == DEVICE).then(|| entry.address?.as_link_addr().copied()).flatten()
    });
    bind(socket.as_raw_fd(), &device.context("the wire isn't there")?).context("binding to the wire")?;
    Ok(socket)
}

fn attach_pass() -> Result<Ebpf> {
    let path = workspace_root().join("netft-ebpf/prebuilt/lab.bpf.o");
    let mut ebpf =
        EbpfLoader::new().load_file(&path).with_context(|| format!("loading {}", path.display()))?;
    let program: &mut Xdp = ebpf.program_mut("xdp_pass").context("no program \"xdp_pass\"")?.try_into()?;
    program.load()?;
    program.attach(DEVICE, XdpMode::Driver).context("attaching XDP at the far end")?;
    Ok(ebpf)
}

fn answer(socket: &OwnedFd, peers: &mut Peers, stop: &AtomicBool) -> Result<()> {
    let mut buffer = [0; 2048];
    while !stop.load(Ordering::Acquire) {
        let length = match recvfrom::<LinkAddr>(socket.as_raw_fd(), &mut buffer) {
            Ok((_, Some(from))) if from.pkttype() == PACKET_OUTGOING => continue,
            Ok((length, _)) => length,
            Err(Errno::EAGAIN | Errno::EINTR) => continue,
            Err(error) => return Err(error).context("listening at the far end"),
        };
        let frame = &mut buffer[..length];
        if peers.answers(frame) {
            match send(socket.as_raw_fd(), frame, MsgFlags::empty()) {
                // Lost, as on any wire.
                Ok(_) | Err(Errno::ENOBUFS | Errno::EAGAIN | Errno::EINTR) => {}
                Err(error) => return Err(error).context("answering at the far end"),
            }
        }
    }
    Ok(())
}

/// What all peers know.
struct Peers {
    nodes: Vec<NodeConfig>,
    engine: EngineState,
    configs: Vec<SlotConfig>,
    states: Vec<SlotState>,
    /// Whom the frame at hand is for.
    own: usize,
}

impl Peers {
    fn new(count: u16) -> Self {
        let ids = 0..count + 2;
        let node = |node_id| NodeConfig {
            layout: LAYOUT_VERSION,
            cluster_id: CLUSTER,
            node_id,
            ..NodeConfig::default()
        };
        let config = |id: u16| SlotConfig {
            generation: u32::from(id >= 2),
            // As in `node::route`.
            remote_slot: u32::from(id.saturating_sub(2)),
            peer: 1,
            interface: 0,
            lives: 1,
            local: address_bytes(address(id).into()),
            remote: address_bytes(address(1).into()),
            keys: [KeySet::sending(EPOCH, key(id, 1), key(1, id)), KeySet::default()],
        };
        Self {
            nodes: ids.clone().map(node).collect(),
            engine: EngineState::default(),
            configs: ids.clone().map(config).collect(),
            states: ids.map(|_| SlotState::default()).collect(),
            own: 0,
        }
    }

    /// Turns a leg into its reply; `false` if there is none.
    fn answers(&mut self, frame: &mut [u8]) -> bool {
        let header = frame.get(MESSAGE..MESSAGE + size_of::<Header>());
        let Some(header) = header.map(bytemuck::pod_read_unaligned::<Header>) else { return false };
        self.own = usize::from(header.destination).min(self.nodes.len() - 1);
        self.engine.tick_ns.store(boottime_ns(), Ordering::Relaxed);
        matches!(receive(frame, self), Ok(Verdict::Reply(_)))
    }
}

impl Shared for Peers {
    fn node(&self) -> Option<&NodeConfig> {
        self.nodes.get(self.own)
    }
    fn engine(&self) -> Option<&EngineState> {
        Some(&self.engine)
    }
}

impl Tables for Peers {
    fn config(&self, slot: u32) -> Option<&SlotConfig> {
        self.configs.get(usize::try_from(slot).ok()?)
    }
    fn read(&self, word: &u32) -> u32 {
        *word
    }
    fn state(&self, slot: u32) -> Option<&SlotState> {
        self.states.get(usize::try_from(slot).ok()?)
    }
    fn is_local(&self, _: &[u8; 16]) -> bool {
        true
    }
    fn now_ns(&self) -> u64 {
        boottime_ns()
    }
}

impl FenceTables for Peers {}
