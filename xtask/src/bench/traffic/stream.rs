//! TCP streams at full speed from one node to the other.

use super::carrier::{Carriers, Ends};
use anyhow::{Context, Result};
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Until streams are at full speed.
const WARM_UP: Duration = Duration::from_millis(300);
/// How long connecting, and a call that waits, may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// Bytes of each call.
const CALL: usize = 256 * 1024;
/// Ticks a second of /proc/stat (USER_HZ, the same on all architectures that Rust knows of).
const TICKS_PER_SECOND: f64 = 100.0;

/// Who sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    /// n1.
    Out,
    /// n2.
    Back,
}

impl Direction {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Out => "out",
            Self::Back => "back",
        }
    }
}

/// What one turn brought.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moved {
    bytes: u64,
    took: Duration,
    /// All CPUs, not idle.
    cpu_seconds: f64,
}

impl Moved {
    pub fn gbits(&self) -> f64 {
        rounded(self.bytes_f64() * 8.0 / 1e9 / self.took.as_secs_f64())
    }

    pub fn cpu_seconds_per_gb(&self) -> f64 {
        rounded(self.cpu_seconds / (self.bytes_f64().max(1.0) / 1e9))
    }

    #[expect(clippy::cast_precision_loss, reason = "some gigabytes")]
    fn bytes_f64(&self) -> f64 {
        self.bytes as f64
    }
}

/// Runs `streams` from one end to the other for `span`, and counts what arrives in it.
pub(super) fn run(
    carriers: &Carriers,
    ends: Ends,
    streams: usize,
    direction: Direction,
    span: Duration,
) -> Result<Moved> {
    let (from, to, address) = match direction {
        Direction::Out => ("n1", "n2", ends[1]),
        Direction::Back => ("n2", "n1", ends[0]),
    };
    let lab = carriers.lab();
    let listener = lab.enter(to, || Ok(TcpListener::bind((address, 0))?)).context("listening")?;
    let target = listener.local_addr()?;
    let connect = || {
        let connected = lab.enter(from, || Ok(TcpStream::connect_timeout(&target, PATIENCE)?));
        let sender = connected.with_context(|| format!("connecting to {target} from {from}"))?;
        sender.set_write_timeout(Some(PATIENCE))?;
        let (receiver, _) = listener.accept()?;
        receiver.set_read_timeout(Some(PATIENCE))?;
        anyhow::Ok((sender, receiver))
    };
    let pairs = (0..streams).map(|_| connect()).collect::<Result<Vec<_>>>()?;
    let (stop, arrived) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for (sender, receiver) in pairs {
            scope.spawn(|| send(sender, &stop));
            scope.spawn(|| receive(receiver, &arrived));
        }
        std::thread::sleep(WARM_UP);
        let (before, cpu) = (arrived.load(Ordering::Relaxed), busy_seconds());
        let began = Instant::now();
        std::thread::sleep(span);
        let (bytes, took) = (arrived.load(Ordering::Relaxed) - before, began.elapsed());
        let cpu_after = busy_seconds();
        stop.store(true, Ordering::Release);
        Ok(Moved { bytes, took, cpu_seconds: cpu_after? - cpu? })
    })
}

/// Until the turn is over; then the stream ends, and with it the receiver.
fn send(mut stream: TcpStream, stop: &AtomicBool) {
    let bytes = vec![0x5a; CALL];
    while !stop.load(Ordering::Acquire) {
        match stream.write(&bytes) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // What doesn't arrive isn't counted.
            Err(_) => return,
        }
    }
}

fn receive(mut stream: TcpStream, arrived: &AtomicU64) {
    let mut bytes = vec![0; CALL];
    while let Ok(length @ 1..) = stream.read(&mut bytes) {
        arrived.fetch_add(length as u64, Ordering::Relaxed);
    }
}

/// CPU time of the whole machine since it started: user, nice, system, irq and softirq of all CPUs.
fn busy_seconds() -> Result<f64> {
    let stat = fs::read_to_string("/proc/stat").context("reading /proc/stat")?;
    let line = stat.lines().next().unwrap_or_default();
    // user nice system idle iowait irq softirq steal (proc_stat(5)).
    let ticks: Vec<f64> = line.split_whitespace().skip(1).filter_map(|word| word.parse().ok()).collect();
    let [user, nice, system, _, _, irq, softirq, ..] = ticks[..] else {
        anyhow::bail!("/proc/stat begins with {line:?}, not with seven times");
    };
    Ok((user + nice + system + irq + softirq) / TICKS_PER_SECOND)
}

fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}
