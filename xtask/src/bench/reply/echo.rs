//! The rival: a thread in n2 that sends back whatever it receives, through the kernel's UDP stack.

use super::client::pin;
use super::wire::Wire;
use super::{Class, Wait};
use crate::lab::Lab;
use anyhow::Result;
use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

const RESTING: u8 = 0;
const ANSWERING: u8 = 1;
const ENDING: u8 = 2;

/// An echo that answers only while it is its turn: a spinning one would disturb the others.
pub(super) struct Echo {
    port: u16,
    state: Arc<AtomicU8>,
    thread: Option<JoinHandle<()>>,
}

impl Echo {
    /// Starts it, resting.
    pub fn start(lab: &Lab, wire: Wire, wait: Wait, class: Class) -> Result<Self> {
        let socket = lab.enter("n2", || Ok(UdpSocket::bind((wire.address(2), 0))?))?;
        socket.set_read_timeout(Some(Duration::from_millis(5)))?;
        socket.set_nonblocking(wait == Wait::Spin)?;
        let port = socket.local_addr()?.port();
        let state = Arc::new(AtomicU8::new(RESTING));
        let shared = Arc::clone(&state);
        let thread = std::thread::Builder::new().name("echo".into()).spawn(move || {
            // The other CPU than the client's: what a service on another core is.
            let _ = pin(1);
            if class == Class::Prompt {
                let _ = crate::traffic::be_prompt(55);
            }
            serve(&socket, &shared);
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

fn serve(socket: &UdpSocket, state: &AtomicU8) {
    let mut buffer = [0; 256];
    loop {
        match state.load(Ordering::Acquire) {
            ENDING => return,
            RESTING => std::thread::park_timeout(Duration::from_millis(100)),
            _ => match socket.recv_from(&mut buffer) {
                Ok((length, from)) => {
                    let _ = socket.send_to(&buffer[..length], from);
                }
                Err(_) => std::hint::spin_loop(),
            },
        }
    }
}
