//! Makes AF_XDP sockets by xsk-rs, and is the rings of one. All `unsafe` of AF_XDP is here.
//!
//! xsk-rs leaves to its caller that a packet buffer is touched only while the kernel doesn't have it, and that buffers of
//! one socket aren't given to another. Both hold because [`XskRings`] makes its buffers itself and is only reachable
//! through [`Port`], which knows where each one is.

use super::XskPort;
use super::frames::Frame;
use super::port::{BATCH, Port, Rings};
use crate::sys::PollFd;
use std::error::Error;
use std::ffi::CString;
use std::io;
use std::num::NonZeroU32;
use std::os::fd::{AsRawFd, RawFd};
use std::time::{Duration, Instant};
use xsk_rs::config::{
    BindFlags, FrameSize, Interface, LibxdpFlags, QueueSize, SocketConfig, UmemConfig,
    XDP_UMEM_MIN_CHUNK_SIZE,
};
use xsk_rs::{CompQueue, FillQueue, FrameDesc, RxQueue, Socket, TxQueue, Umem};

/// Bytes before a packet in its buffer, which the kernel keeps for XDP programs (XDP_PACKET_HEADROOM).
const XDP_HEADROOM: u32 = 256;
/// A socket that was closed is gone only after a while (up to 0.3 s was seen).
const BUSY_PATIENCE: Duration = Duration::from_secs(1);
const BUSY_PAUSE: Duration = Duration::from_millis(20);

/// What to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    /// The interface, in the calling thread's network namespace.
    pub interface: String,
    /// Its queue.
    pub queue: u32,
    /// Bytes of a packet buffer, a power of two: see [`frame_size`].
    pub frame_size: u32,
    /// Buffers for receiving, a power of two.
    pub fill: u32,
    /// Buffers for transmitting, a power of two.
    pub transmit: u32,
    /// Whether to try without copying first.
    pub zero_copy: ZeroCopy,
}

/// Whether to try zero copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ZeroCopy {
    /// First of all.
    Try,
    /// And nothing else.
    Only,
    /// Not at all: generic XDP has none.
    Never,
}

/// How frames get between the driver and the socket's memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bound {
    /// They don't: the driver uses it itself.
    ZeroCopy,
    /// The kernel copies them; why there is no zero copy, if it was tried.
    Copy(Option<String>),
}

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The numbers.
    #[error("the packet buffers are ill-sized: {0}")]
    Size(String),
    /// The memory.
    #[error("no memory for packet buffers ({0}): lower datapath.buffers, or give netftd CAP_IPC_LOCK")]
    Memory(io::Error),
    /// The driver would have its frames copied.
    #[error(
        "AF_XDP would copy, as the driver refuses zero copy ({0}), and the kernel's sockets are faster than that"
    )]
    Copies(io::Error),
    /// The kernel.
    #[error("no AF_XDP socket on queue {queue}: {error}{}", hint(error))]
    Socket {
        /// The queue.
        queue: u32,
        /// As the kernel put it.
        error: io::Error,
    },
}

fn hint(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EBUSY) => " (another program has one there)",
        Some(libc::EAFNOSUPPORT) => " (the kernel has no CONFIG_XDP_SOCKETS)",
        Some(libc::EPERM) => " (netftd needs CAP_NET_RAW)",
        _ => "",
    }
}

/// Bytes of a packet buffer for frames of up to `length` bytes; `None` if no buffer is large enough: they are a page
/// at most.
pub fn frame_size(length: u32) -> Option<u32> {
    [XDP_UMEM_MIN_CHUNK_SIZE, 4096].into_iter().find(|size| size - XDP_HEADROOM >= length)
}

/// Makes a socket. May take a second, while an earlier one on the same queue goes away.
pub fn open(spec: &Spec) -> Result<(XskPort, Bound), OpenError> {
    let deadline = Instant::now() + BUSY_PATIENCE;
    let ways: &[_] = match spec.zero_copy {
        ZeroCopy::Try => &[BindFlags::XDP_ZEROCOPY, BindFlags::XDP_COPY],
        ZeroCopy::Only => &[BindFlags::XDP_ZEROCOPY],
        ZeroCopy::Never => &[BindFlags::XDP_COPY],
    };
    let mut why = None;
    for (index, way) in ways.iter().enumerate() {
        match open_patiently(spec, *way | BindFlags::XDP_USE_NEED_WAKEUP, deadline) {
            Ok(rings) => {
                let bound =
                    if way.contains(BindFlags::XDP_ZEROCOPY) { Bound::ZeroCopy } else { Bound::Copy(why) };
                let total = spec.fill + spec.transmit;
                return Ok((Port::new(rings, total, spec.fill), bound));
            }
            // Only the trial tells: drivers claim what they can't do.
            Err(OpenError::Socket { error, .. }) if index + 1 < ways.len() => why = Some(error.to_string()),
            Err(OpenError::Socket { error, .. })
                if spec.zero_copy == ZeroCopy::Only && error.raw_os_error() != Some(libc::EBUSY) =>
            {
                return Err(OpenError::Copies(error));
            }
            Err(error) => return Err(error),
        }
    }
    Err(OpenError::Size("no way to bind".to_owned()))
}

fn open_patiently(spec: &Spec, flags: BindFlags, deadline: Instant) -> Result<XskRings, OpenError> {
    loop {
        match XskRings::open(spec, flags) {
            Err(OpenError::Socket { error, .. })
                if error.raw_os_error() == Some(libc::EBUSY) && Instant::now() < deadline =>
            {
                std::thread::sleep(BUSY_PAUSE);
            }
            other => return other,
        }
    }
}

/// Rings and memory of a socket in earnest.
#[derive(Debug)]
pub struct XskRings {
    fill: FillQueue,
    complete: CompQueue,
    transmit: TxQueue,
    receive: RxQueue,
    umem: Umem,
    /// Every buffer as xsk-rs names it.
    buffers: Box<[FrameDesc]>,
    received: Box<[FrameDesc]>,
    completed: Box<[FrameDesc]>,
    frame_size: usize,
    transmit_size: u32,
}

impl XskRings {
    fn open(spec: &Spec, flags: BindFlags) -> Result<Self, OpenError> {
        let size = |error: &dyn Error| OpenError::Size(error.to_string());
        let ring = |entries| QueueSize::new(entries).map_err(|error| size(&error));
        let umem_config = UmemConfig::builder()
            .frame_size(FrameSize::new(spec.frame_size).map_err(|error| size(&error))?)
            .fill_queue_size(ring(spec.fill)?)
            .comp_queue_size(ring(spec.transmit)?)
            .build()
            .map_err(|error| size(&error))?;
        let total = spec.fill.saturating_add(spec.transmit);
        let total = NonZeroU32::new(total).ok_or_else(|| OpenError::Size("there are none".to_owned()))?;
        let (umem, buffers) =
            Umem::new(umem_config, total, false).map_err(|error| OpenError::Memory(cause(&error)))?;
        let config = SocketConfig::builder()
            .rx_queue_size(ring(spec.fill)?)
            .tx_queue_size(ring(spec.transmit)?)
            // Our own program stays, with its map of sockets.
            .libxdp_flags(LibxdpFlags::XSK_LIBXDP_FLAGS_INHIBIT_PROG_LOAD)
            .bind_flags(flags)
            .build();
        let refused = |error| OpenError::Socket { queue: spec.queue, error };
        let name = CString::new(spec.interface.as_str()).map_err(|error| refused(error.into()))?;
        // SAFETY: the condition is about several sockets that share a umem; this umem was made above, for this one.
        let socket = unsafe { Socket::new(config, &umem, &Interface::new(name), spec.queue) };
        let (transmit, receive, rings) = socket.map_err(|error| refused(cause(&error)))?;
        let (fill, complete) = rings.ok_or_else(|| refused(io::Error::other("it came without rings")))?;
        Ok(Self {
            fill,
            complete,
            transmit,
            receive,
            umem,
            buffers: buffers.into_boxed_slice(),
            received: vec![FrameDesc::default(); BATCH].into_boxed_slice(),
            completed: vec![FrameDesc::default(); BATCH].into_boxed_slice(),
            frame_size: spec.frame_size as usize,
            transmit_size: spec.transmit,
        })
    }

    /// To wait for frames. The kernel's need for a wake-up, should it have one, is met by polling.
    pub fn poll_in(&self) -> PollFd {
        PollFd { fd: self.raw_fd(), events: libc::POLLIN, revents: 0 }
    }

    /// The socket's descriptor, open for as long as this lives.
    pub fn raw_fd(&self) -> RawFd {
        self.receive.fd().as_raw_fd()
    }

    /// Frames that the kernel dropped because a ring was full, or the fill ring was empty.
    pub fn dropped(&self) -> u64 {
        let Ok(statistics) = self.receive.fd().xdp_statistics() else { return 0 };
        // rx_dropped has the fill ring's emptiness in it (net/xdp/xsk.c, xsk_rcv).
        statistics.rx_dropped() + statistics.rx_ring_full()
    }

    /// Longest frame that fits into a buffer.
    pub fn capacity(&self) -> usize {
        self.frame_size - XDP_HEADROOM as usize
    }

    /// Bytes of packet memory.
    pub fn memory(&self) -> usize {
        self.buffers.len() * self.frame_size
    }

    /// The buffer that a descriptor of the kernel's lies in, if all of it does.
    fn frame_of(&self, descriptor: &FrameDesc) -> Option<Frame> {
        let frame = descriptor.addr() / self.frame_size;
        let end = descriptor.addr() % self.frame_size + descriptor.lengths().data();
        let inside = frame < self.buffers.len() && end <= self.frame_size;
        if inside { Frame::try_from(frame).ok() } else { None }
    }
}

impl Rings for XskRings {
    fn fill(&mut self, frames: &[Frame]) -> usize {
        let mut batch = [FrameDesc::default(); BATCH];
        let count = frames.len().min(BATCH);
        for (descriptor, frame) in batch.iter_mut().zip(&frames[..count]) {
            *descriptor = self.buffers[*frame as usize];
        }
        // SAFETY: the buffers are this socket's own, and Port gives each away only while it has it.
        unsafe { self.fill.produce(&batch[..count]) }
    }

    fn receive(&mut self) -> usize {
        // SAFETY: the ring and the memory are of one socket.
        unsafe { self.receive.consume(&mut self.received) }
    }

    fn received(&self, index: usize) -> Option<Frame> {
        self.frame_of(self.received.get(index)?)
    }

    fn read<T>(&mut self, index: usize, read: impl FnOnce(&mut [u8]) -> T) -> T {
        // SAFETY: Port asks only for what `received` has named: bytes inside one of our buffers, which the kernel has given
        // back. `&mut self` excludes another borrow.
        read(unsafe { self.umem.data_mut(&mut self.received[index]) }.contents_mut())
    }

    fn write<T>(&mut self, frame: Frame, write: impl FnOnce(&mut [u8]) -> T) -> T {
        let mut descriptor = self.buffers[frame as usize];
        // SAFETY: a buffer of our own, which Port has at this moment; `&mut self` excludes another borrow.
        let mut data = unsafe { self.umem.data_mut(&mut descriptor) };
        data.cursor().set_pos(usize::MAX);
        write(data.contents_mut())
    }

    fn transmit(&mut self, frame: Frame, length: usize) -> bool {
        let mut descriptor = self.buffers[frame as usize];
        // SAFETY: as in `write`; only the length is set, and bounded by the buffer's.
        unsafe { self.umem.data_mut(&mut descriptor) }.cursor().set_pos(length);
        // SAFETY: Port has this buffer and gives it away by this.
        unsafe { self.transmit.produce_one(&descriptor) == 1 }
    }

    fn kick(&mut self) {
        if self.transmit.needs_wakeup() {
            // A device that is down: heartbeats find out, and the frames stay until it is up or the socket closes.
            let _ = self.transmit.wakeup();
        }
    }

    fn waiting(&mut self) -> u32 {
        self.transmit_size - self.transmit.nb_free_exact()
    }

    fn complete(&mut self) -> usize {
        // SAFETY: the ring and the memory are of one socket.
        unsafe { self.complete.consume(&mut self.completed) }
    }

    fn completed(&self, index: usize) -> Option<Frame> {
        self.completed.get(index).and_then(|descriptor| self.frame_of(descriptor))
    }
}

/// The kernel's word at the bottom of an error.
fn cause(error: &(dyn Error + 'static)) -> io::Error {
    let kernel = error.source().and_then(|source| source.downcast_ref::<io::Error>());
    match kernel.and_then(io::Error::raw_os_error) {
        Some(code) => io::Error::from_raw_os_error(code),
        None => io::Error::other(error.to_string()),
    }
}
