//! What goes over `netft0`: UDP datagrams of one size, from a socket in n1 to one in n2, in batches.

use super::SENDER;
use crate::bench::reply::pin;
use crate::cluster;
use crate::lab::Lab;
use anyhow::{Context, Result, anyhow};
use netft_userspace::sys::socket::{BATCH, Batch, Run, SocketAddress, send_runs};
use netft_userspace::sys::{poll, poll_in, thread_id};
use nix::sys::socket::{setsockopt, sockopt};
use std::net::{IpAddr, UdpSocket};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Ethernet, IPv4 and UDP headers.
const HEADERS: usize = 14 + 20 + 8;
/// Of the receiver, so that netft's limits show and not its own.
const RECEIVE_BUFFER: usize = 64 << 20;
/// Frames under way at most, in a stream that shouldn't lose any: fewer than any queue on the way holds.
const WINDOW: u64 = 192;
/// Frames under way after so long without an arrival are lost.
const STUCK: Duration = Duration::from_millis(50);
/// Nothing more arrives after so long.
const STILL: Duration = Duration::from_millis(30);

/// How much is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Load {
    /// As much as arrives: at most [`WINDOW`] frames are under way.
    Window,
    /// As much as one thread can send.
    Flood,
}

impl Load {
    pub fn name(self) -> &'static str {
        match self {
            Self::Window => "window",
            Self::Flood => "flood",
        }
    }
}

/// Both ends, ready.
pub(super) struct Stream {
    sender: UdpSocket,
    to: SocketAddress,
    shared: Arc<Shared>,
    receiver: Option<JoinHandle<Result<()>>>,
    /// Thread of the receiver.
    pub receiver_tid: u32,
    /// n2's port.
    pub port: u16,
    /// Bytes of the longest frame, with its Ethernet header.
    pub longest: usize,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    /// The turn whose frames count; one that comes late belongs to none.
    turn: AtomicU64,
    arrived: AtomicU64,
}

/// One turn's.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sent {
    pub sent: u64,
    /// Those that the sender's own kernel refused at once.
    pub refused: u64,
    pub arrived: u64,
    /// From the first frame sent to the last one that arrived.
    pub took: Duration,
}

impl Stream {
    /// Opens both ends and starts to receive.
    pub fn open(lab: &Lab) -> Result<Self> {
        let [from, to] = [SENDER, super::RECEIVER].map(|node| cluster::adapter(lab, node));
        let (from, to) = (from?, to?);
        let receiver = lab.enter(super::RECEIVER, || Ok(UdpSocket::bind((to.ipv4, 0))?))?;
        setsockopt(&receiver, sockopt::RcvBufForce, &RECEIVE_BUFFER).context("a large receive buffer")?;
        let port = receiver.local_addr()?.port();
        let sender = lab.enter(SENDER, || Ok(UdpSocket::bind((from.ipv4, 0))?))?;
        let shared = Arc::new(Shared::default());
        let heard = Arc::clone(&shared);
        let (ready, started) = mpsc::channel();
        let thread = std::thread::Builder::new().name("frames-in".into()).spawn(move || {
            // n2's detection thread is there as well.
            pin(1)?;
            ready.send(thread_id())?;
            receive(&receiver, &heard)
        })?;
        Ok(Self {
            sender,
            to: SocketAddress::new(IpAddr::V4(to.ipv4), port),
            shared,
            receiver: Some(thread),
            receiver_tid: started.recv().context("the receiver doesn't start")?,
            port,
            longest: usize::from(from.mtu.min(to.mtu)) + 14,
        })
    }

    /// Sends frames of `size` bytes, Ethernet header included, for `span`; returns when no more arrive. `at_end` runs
    /// as soon as that is known.
    pub fn run<T: Send>(
        &self,
        load: Load,
        size: usize,
        span: Duration,
        at_end: impl FnOnce(u32) -> Result<T> + Send,
    ) -> Result<(Sent, T)> {
        let turn = self.shared.turn.fetch_add(1, Ordering::AcqRel) + 1;
        self.shared.arrived.store(0, Ordering::Release);
        std::thread::scope(|scope| {
            let sending = scope.spawn(|| {
                pin(0)?;
                let (mut sent, began) = self.send(load, turn, size, span)?;
                let last = self.wait_until_still();
                sent.arrived = self.shared.arrived.load(Ordering::Acquire);
                sent.took = last.max(began) - began;
                Ok((sent, at_end(thread_id())?))
            });
            sending.join().unwrap_or_else(|_| Err(anyhow!("the sender panicked")))
        })
    }

    fn send(&self, load: Load, turn: u64, size: usize, span: Duration) -> Result<(Sent, Instant)> {
        let mut payload = vec![0; size.checked_sub(HEADERS + 8).context("no room for a number")? + 8];
        payload[..8].copy_from_slice(&turn.to_le_bytes());
        let mut counts = Sent { sent: 0, refused: 0, arrived: 0, took: Duration::ZERO };
        // Frames that will never arrive, as far as the window is concerned.
        let mut forgiven = 0;
        let (mut seen, mut moved) = (0, Instant::now());
        let began = Instant::now();
        while began.elapsed() < span {
            if load == Load::Window {
                let arrived = self.shared.arrived.load(Ordering::Acquire);
                if arrived != seen {
                    (seen, moved) = (arrived, Instant::now());
                }
                if counts.sent - forgiven + BATCH as u64 > arrived + WINDOW {
                    if moved.elapsed() > STUCK {
                        forgiven = counts.sent - arrived;
                        moved = Instant::now();
                    }
                    std::thread::sleep(Duration::from_micros(20));
                    continue;
                }
            }
            let one = Run { bytes: &payload, segment: u16::MAX, remote: &self.to };
            let (sent, error) = send_runs(self.sender.as_fd(), std::iter::repeat_n(one, BATCH));
            counts.sent += sent as u64;
            // A full send buffer: the next call finds room or counts again.
            counts.refused += u64::from(error.is_some());
        }
        Ok((counts, began))
    }

    /// Waits until nothing has arrived for a while; says when the last frame did.
    fn wait_until_still(&self) -> Instant {
        let (mut seen, mut moved) = (self.shared.arrived.load(Ordering::Acquire), Instant::now());
        while moved.elapsed() < STILL {
            std::thread::sleep(Duration::from_millis(1));
            let arrived = self.shared.arrived.load(Ordering::Acquire);
            if arrived != seen {
                (seen, moved) = (arrived, Instant::now());
            }
        }
        moved
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        if let Some(receiver) = self.receiver.take() {
            let _ = receiver.join();
        }
    }
}

fn receive(socket: &UdpSocket, shared: &Shared) -> Result<()> {
    const NAP_NS: u64 = 20_000_000;
    let mut batch = Batch::new(2048);
    while !shared.stop.load(Ordering::Acquire) {
        poll(&mut [poll_in(socket.as_fd())], Some(NAP_NS)).context("waiting for frames")?;
        let turn = shared.turn.load(Ordering::Acquire).to_le_bytes();
        while let Ok(received) = batch.receive(socket.as_fd()) {
            let of_turn =
                (0..received).filter(|index| batch.message(*index).bytes.starts_with(&turn)).count();
            shared.arrived.fetch_add(of_turn as u64, Ordering::AcqRel);
            if received < BATCH {
                break;
            }
        }
    }
    Ok(())
}
