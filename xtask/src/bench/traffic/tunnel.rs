//! A tunnel as anybody would write it first: a TAP device on each side, and each frame in a datagram of its own, by a call
//! for reading and a call for writing. Nothing is signed.

use crate::lab::Lab;
use anyhow::{Context, Result};
use netft_userspace::sys::device::{TapFrames, TapQueues, open_tap};
use netft_userspace::sys::{poll, poll_in};
use std::fs::File;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

const PORT: u16 = 5555;
/// Between looks at whether it should end.
const NAP_NS: u64 = 20_000_000;
/// Longest frame.
const FRAME: usize = 2048;

/// Both ends; it ends when dropped.
pub(super) struct Tunnel {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Tunnel {
    /// Of its devices, over a cable with 1500: IPv4 and UDP outside, Ethernet inside.
    pub const MTU: usize = 1500 - 20 - 8 - 14;

    /// Between devices called `device` in n1 and n2, over the cable with these addresses.
    pub fn start(lab: &Lab, device: &str, cable: [Ipv4Addr; 2]) -> Result<Self> {
        let mut this = Self { stop: Arc::new(AtomicBool::new(false)), threads: Vec::new() };
        for (node, own, other) in [("n1", cable[0], cable[1]), ("n2", cable[1], cable[0])] {
            let (tap, socket) = lab
                .enter(node, || {
                    let tap = open_tap(device, TapQueues::Single, TapFrames::Bare)?;
                    let socket = UdpSocket::bind((own, PORT))?;
                    socket.connect((other, PORT))?;
                    socket.set_nonblocking(true)?;
                    Ok((Arc::new(tap), Arc::new(socket)))
                })
                .with_context(|| format!("a tunnel in {node}"))?;
            let (out_tap, out_socket) = (Arc::clone(&tap), Arc::clone(&socket));
            this.spawn("tunnel-out", move |stop| carry_out(&out_tap, &out_socket, stop))?;
            this.spawn("tunnel-in", move |stop| carry_in(&tap, &socket, stop))?;
        }
        Ok(this)
    }

    fn spawn(&mut self, name: &str, work: impl FnOnce(&AtomicBool) + Send + 'static) -> Result<()> {
        let stop = Arc::clone(&self.stop);
        self.threads.push(std::thread::Builder::new().name(name.into()).spawn(move || work(&stop))?);
        Ok(())
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn carry_out(mut tap: &File, socket: &UdpSocket, stop: &AtomicBool) {
    let mut frame = [0; FRAME];
    while !stop.load(Ordering::Acquire) {
        let _ = poll(&mut [poll_in(tap.as_fd())], Some(NAP_NS));
        while let Ok(length) = tap.read(&mut frame) {
            // What there is no room for is lost, as on any wire.
            let _ = socket.send(&frame[..length]);
        }
    }
}

fn carry_in(mut tap: &File, socket: &UdpSocket, stop: &AtomicBool) {
    let mut frame = [0; FRAME];
    while !stop.load(Ordering::Acquire) {
        let _ = poll(&mut [poll_in(socket.as_fd())], Some(NAP_NS));
        while let Ok(length) = socket.recv(&mut frame) {
            let _ = tap.write(&frame[..length]);
        }
    }
}
