//! The rivals: threads in n2 that send back whatever they receive, through the kernel's UDP stack or by AF_XDP.

use super::client::pin;
use super::variant::{self, Class, Stack, Wait};
use super::wire::Wire;
use super::xsk::XskEnd;
use crate::lab::Lab;
use anyhow::{Result, bail};
use netft_common::wire::PORT;
use std::net::UdpSocket;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

const RESTING: u8 = 0;
const ANSWERING: u8 = 1;
const ENDING: u8 = 2;

/// Between looks at whether it is still its turn.
const NAP: Duration = Duration::from_millis(5);

/// An echo that answers only while it is its turn: a spinning one would disturb the others.
pub(super) struct Echo {
    port: u16,
    state: Arc<AtomicU8>,
    thread: Option<JoinHandle<()>>,
}

/// What it serves. A queue has one AF_XDP socket, which goes from one echo to the next.
enum Socket {
    Udp(UdpSocket),
    Xsk(Arc<Mutex<XskEnd>>),
}

impl Echo {
    /// Starts it, resting. `end` is n2's AF_XDP socket.
    pub fn start(
        lab: &Lab,
        wire: Wire,
        echo: variant::Echo,
        end: Option<&Arc<Mutex<XskEnd>>>,
    ) -> Result<Self> {
        let variant::Echo { stack, wait, class } = echo;
        let (socket, port) = match (stack, end) {
            (Stack::Udp, _) => {
                let socket = lab.enter("n2", || Ok(UdpSocket::bind((wire.address(2), 0))?))?;
                socket.set_read_timeout(Some(NAP))?;
                socket.set_nonblocking(wait == Wait::Spin)?;
                let port = socket.local_addr()?.port();
                (Socket::Udp(socket), port)
            }
            (Stack::Xsk, Some(end)) => (Socket::Xsk(Arc::clone(end)), PORT),
            (Stack::Xsk, None) => bail!("n2 has no AF_XDP socket on {}", wire.device()),
        };
        let state = Arc::new(AtomicU8::new(RESTING));
        let shared = Arc::clone(&state);
        let thread = std::thread::Builder::new().name("echo".into()).spawn(move || {
            // The other CPU than the client's: what a service on another core is.
            let _ = pin(1);
            if class == Class::Prompt {
                let _ = crate::traffic::be_prompt(55);
            }
            loop {
                match shared.load(Ordering::Acquire) {
                    ENDING => return,
                    RESTING => std::thread::park_timeout(Duration::from_millis(100)),
                    _ => socket.serve(wait, &shared),
                }
            }
        })?;
        Ok(Self { port, state, thread: Some(thread) })
    }

    /// Lets it answer while `work` runs.
    pub fn during<T>(&self, work: impl FnOnce(u16) -> T) -> T {
        self.state.store(ANSWERING, Ordering::Release);
        if let Some(thread) = &self.thread {
            thread.thread().unpark();
        }
        // It must be waiting in its receive call before the first datagram comes.
        std::thread::sleep(Duration::from_micros(300));
        let result = work(self.port);
        self.state.store(RESTING, Ordering::Release);
        result
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.state.store(ENDING, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}

impl Socket {
    /// Until its turn ends.
    fn serve(&self, wait: Wait, state: &AtomicU8) {
        match self {
            Self::Udp(socket) => serve_udp(socket, state),
            Self::Xsk(end) => serve_xsk(&mut end.lock().unwrap_or_else(PoisonError::into_inner), wait, state),
        }
    }
}

fn serve_udp(socket: &UdpSocket, state: &AtomicU8) {
    let mut buffer = [0; 256];
    while state.load(Ordering::Acquire) == ANSWERING {
        match socket.recv_from(&mut buffer) {
            Ok((length, from)) => {
                let _ = socket.send_to(&buffer[..length], from);
            }
            Err(_) => std::hint::spin_loop(),
        }
    }
}

fn serve_xsk(end: &mut XskEnd, wait: Wait, state: &AtomicU8) {
    while state.load(Ordering::Acquire) == ANSWERING {
        let mut received = None;
        // The client has one under way at a time. One that isn't answered is a lost one there.
        let taken = end.receive(wait, NAP, |heartbeat| received = Some(*heartbeat));
        match received {
            Some(heartbeat) => drop(end.send(&heartbeat)),
            None if taken.is_err() => return,
            None => std::hint::spin_loop(),
        }
    }
}
