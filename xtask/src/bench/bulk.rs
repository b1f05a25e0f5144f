//! One TCP stream over `netft0` as fast as it goes, and when its receiver got nothing.

use crate::cluster;
use crate::lab::Lab;
use crate::traffic::boottime_ns;
use anyhow::{Context, Result, bail};
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// Times without a byte that are shorter aren't kept.
const NOTABLE_NS: u64 = 1_000_000;
/// How many are, at most: the stream lives for minutes.
const KEPT: usize = 1 << 16;
const CHUNK: usize = 128 << 10;
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

#[derive(Default)]
struct Seen {
    stop: AtomicBool,
    bytes: AtomicU64,
    /// (begin, end), boottime.
    gaps: Mutex<Vec<(u64, u64)>>,
    fault: Mutex<Option<String>>,
}

/// A running stream. Dropping it ends it.
pub(super) struct Bulk {
    seen: Arc<Seen>,
    threads: Vec<JoinHandle<()>>,
}

impl Bulk {
    /// From one node's adapter to another's.
    pub fn start(lab: &Lab, from: &str, to: &str) -> Result<Self> {
        let address = cluster::adapter(lab, to)?.ipv4;
        let listener = lab.enter(to, || Ok(TcpListener::bind((address, 0))?))?;
        let target = listener.local_addr()?;
        let sender = lab.enter(from, || Ok(TcpStream::connect_timeout(&target, CONNECT_LIMIT)?))?;
        let (receiver, _) = listener.accept().context("accepting")?;
        sender.set_write_timeout(Some(Duration::from_millis(200)))?;
        receiver.set_read_timeout(Some(Duration::from_millis(200)))?;
        let seen = Arc::new(Seen { gaps: Mutex::new(Vec::with_capacity(KEPT)), ..Seen::default() });
        let (sending, receiving) = (Arc::clone(&seen), Arc::clone(&seen));
        let threads = vec![
            std::thread::Builder::new().name("bulk-out".into()).spawn(move || send(sender, &sending))?,
            std::thread::Builder::new()
                .name("bulk-in".into())
                .spawn(move || receive(receiver, &receiving))?,
        ];
        Ok(Self { seen, threads })
    }

    /// Bytes that have arrived.
    pub fn bytes(&self) -> u64 {
        self.seen.bytes.load(Ordering::Relaxed)
    }

    /// The longest time without a byte that began in `from_ns..to_ns`; 0 if none was longer than a millisecond. Fails if
    /// the stream broke.
    pub fn stall_ns(&self, from_ns: u64, to_ns: u64) -> Result<u64> {
        if let Some(fault) = &*self.seen.fault.lock().unwrap_or_else(PoisonError::into_inner) {
            bail!("the TCP stream broke: {fault}");
        }
        let gaps = self.seen.gaps.lock().unwrap_or_else(PoisonError::into_inner);
        let within = gaps.iter().filter(|(begin, _)| (from_ns..to_ns).contains(begin));
        Ok(within.map(|(begin, end)| end - begin).max().unwrap_or(0))
    }
}

impl Drop for Bulk {
    fn drop(&mut self) {
        self.seen.stop.store(true, Ordering::Release);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Seen {
    fn fault(&self, what: String) {
        if !self.stop.load(Ordering::Acquire) {
            self.fault.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(what);
        }
    }
}

fn is_pause(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}

fn send(mut stream: TcpStream, seen: &Seen) {
    let chunk = vec![7; CHUNK];
    while !seen.stop.load(Ordering::Acquire) {
        match stream.write(&chunk) {
            Ok(_) => {}
            Err(error) if is_pause(&error) => {}
            Err(error) => return seen.fault(format!("writing: {error}")),
        }
    }
}

fn receive(mut stream: TcpStream, seen: &Seen) {
    let mut chunk = vec![0; CHUNK];
    let mut last_ns = boottime_ns();
    while !seen.stop.load(Ordering::Acquire) {
        match stream.read(&mut chunk) {
            Ok(0) => return seen.fault("it was closed".to_string()),
            Ok(length) => {
                let now = boottime_ns();
                seen.bytes.fetch_add(length as u64, Ordering::Relaxed);
                if now - last_ns > NOTABLE_NS {
                    let mut gaps = seen.gaps.lock().unwrap_or_else(PoisonError::into_inner);
                    if gaps.len() < KEPT {
                        gaps.push((last_ns, now));
                    }
                }
                last_ns = now;
            }
            Err(error) if is_pause(&error) => {}
            Err(error) => return seen.fault(format!("reading: {error}")),
        }
    }
}
