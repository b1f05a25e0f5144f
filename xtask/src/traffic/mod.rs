//! Traffic between lab namespaces, and what became of it: UDP and TCP flows with a sequence number and a boottime
//! stamp in every record, and a monitor of this machine's own hiccups.
//!
//! Sockets are made inside the namespaces, threads stay outside: a socket belongs to the namespace it was made in.

mod flow;
mod log;
mod monitor;
mod tcp;
#[cfg(test)]
mod tests;
mod udp;

pub use flow::{Flow, FlowSpec};
pub use log::{FlowLog, FlowReport};
pub use monitor::{MachineGap, Monitor, MonitorReport};

use anyhow::{Context, Result};
use nix::time::{ClockId, clock_gettime};
use std::process::{Command, Stdio};
use std::time::Duration;

/// Above everything ordinary and the FIFO load of the lab (50), below netft's detection thread (60).
const PROMPT: u8 = 55;

/// Now, in nanoseconds of CLOCK_BOOTTIME: the clock of events and of cuts.
pub fn boottime_ns() -> u64 {
    clock_ns(ClockId::CLOCK_BOOTTIME)
}

/// Now in any clock, in nanoseconds; 0 if the kernel doesn't have it.
fn clock_ns(clock: ClockId) -> u64 {
    clock_gettime(clock)
        .ok()
        .and_then(|time| u64::try_from(Duration::from(time).as_nanos()).ok())
        .unwrap_or_default()
}

/// Sleeps until `deadline_ns` of CLOCK_BOOTTIME.
fn sleep_until(deadline_ns: u64) {
    let left = deadline_ns.saturating_sub(boottime_ns());
    if left > 0 {
        std::thread::sleep(Duration::from_nanos(left));
    }
}

/// Does something on a thread that isn't kept waiting by ordinary ones, so that the stamps around it are tight. Nothing
/// that `act` starts may live on: it would inherit the priority.
pub fn promptly<T: Send>(act: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            be_prompt(PROMPT)?;
            act()
        });
        thread.join().unwrap_or_else(|_| Err(anyhow::anyhow!("a thread panicked")))
    })
}

/// Gives the calling thread SCHED_FIFO at `priority`, so that what it measures is the network and not its own turn
/// in the run queue. netft's detection thread runs at 60: stay below.
pub(crate) fn be_prompt(priority: u8) -> Result<()> {
    let thread = nix::unistd::gettid().to_string();
    let status = Command::new("chrt")
        .args(["--fifo", "--pid", &priority.to_string(), &thread])
        .stdout(Stdio::null())
        .status()
        .context("running chrt (package util-linux)")?;
    anyhow::ensure!(status.success(), "SCHED_FIFO is not permitted here: chrt ended with {status}");
    Ok(())
}
