//! A flow: a sender in one namespace, a receiver in another, bounded in time.

use super::log::{FlowLog, FlowReport};
use super::{tcp, udp};
use crate::lab::Lab;
use anyhow::{Context, Result};
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

/// What flows, from where to where.
#[derive(Clone, Debug)]
pub struct FlowSpec {
    /// Host of the sender, as the lab calls it.
    pub from: String,
    /// Host of the receiver.
    pub to: String,
    /// The receiver's address.
    pub destination: IpAddr,
    /// The device that carries it; needed for IPv6 link-local addresses.
    pub device: Option<String>,
    /// Records per second.
    pub rate_hz: u32,
    /// Size of a record in bytes, at least [`FlowSpec::MIN_BYTES`].
    pub bytes: usize,
    /// It ends by itself after this time.
    pub limit: Duration,
}

impl FlowSpec {
    /// Sequence number and stamp.
    pub const MIN_BYTES: usize = 16;

    /// 1 kHz of 64 bytes: what the bounds are stated for.
    pub fn kilohertz(from: &str, to: &str, destination: IpAddr, limit: Duration) -> Self {
        let (from, to) = (from.to_string(), to.to_string());
        Self { from, to, destination, device: Some("netft0".to_string()), rate_hz: 1000, bytes: 64, limit }
    }

    pub(super) fn interval_ns(&self) -> u64 {
        1_000_000_000 / u64::from(self.rate_hz.max(1))
    }

    /// The destination with `port`, with the device as scope where the address needs one. Call it in a namespace.
    pub(super) fn address(&self, port: u16) -> Result<SocketAddr> {
        match (self.destination, &self.device) {
            (IpAddr::V6(address), Some(device)) if address.is_unicast_link_local() => {
                let scope = nix::net::if_::if_nametoindex(device.as_str())
                    .with_context(|| format!("{device} doesn't exist here"))?;
                Ok(SocketAddrV6::new(address, port, 0, scope).into())
            }
            (address, _) => Ok(SocketAddr::new(address, port)),
        }
    }
}

/// Makes the sockets and starts the threads of one kind of flow.
type Start = fn(&Lab, &FlowSpec, &Arc<FlowLog>) -> Result<Vec<JoinHandle<()>>>;

/// A running flow. Dropping it ends it.
pub struct Flow {
    log: Arc<FlowLog>,
    threads: Vec<JoinHandle<()>>,
}

impl Flow {
    /// Starts a UDP flow.
    pub fn udp(lab: &Lab, spec: &FlowSpec) -> Result<Self> {
        Self::start(lab, spec, "UDP", udp::start)
    }

    /// Starts a TCP flow: one stream, one small write per record, no coalescing.
    pub fn tcp(lab: &Lab, spec: &FlowSpec) -> Result<Self> {
        Self::start(lab, spec, "TCP", tcp::start)
    }

    fn start(lab: &Lab, spec: &FlowSpec, what: &str, start: Start) -> Result<Self> {
        let records = spec.limit.as_secs().saturating_mul(u64::from(spec.rate_hz)).min(2_000_000);
        let log = Arc::new(FlowLog::with_capacity(usize::try_from(records)?));
        let threads = start(lab, spec, &log)
            .with_context(|| format!("starting a {what} flow from {} to {}", spec.from, spec.to))?;
        Ok(Self { log, threads })
    }

    /// What it has seen so far.
    pub fn log(&self) -> &FlowLog {
        &self.log
    }

    /// Ends it, and returns its log.
    pub fn stop(mut self) -> Arc<FlowLog> {
        self.end();
        Arc::clone(&self.log)
    }

    /// Waits until a record sent after `after_ns` (boottime) has arrived; `false` if none did within `patience`.
    pub fn wait_for_arrival(&self, after_ns: u64, patience: Duration) -> bool {
        let deadline = std::time::Instant::now() + patience;
        while self.log.last_arrival_ns().is_none_or(|at| at < after_ns) {
            if std::time::Instant::now() > deadline {
                return false;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        true
    }

    /// The verdict over a stretch of time: see [`FlowLog::report`].
    pub fn report(&self, from_ns: u64, to_ns: u64) -> FlowReport {
        self.log.report(from_ns, to_ns)
    }

    fn end(&mut self) {
        self.log.stop();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        self.end();
    }
}

/// The 16 bytes that every record begins with.
pub(super) fn write_record(record: &mut [u8], sequence: u64, sent_ns: u64) {
    record[..8].copy_from_slice(&sequence.to_le_bytes());
    record[8..16].copy_from_slice(&sent_ns.to_le_bytes());
}

/// The sequence number of a record, if it is long enough to hold one.
pub(super) fn read_record(record: &[u8]) -> Option<u64> {
    Some(u64::from_le_bytes(*record.first_chunk()?))
}
