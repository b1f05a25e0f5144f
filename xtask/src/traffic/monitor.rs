//! The gap monitor: one prompt thread per CPU that only sleeps and notes when it woke too late, beside what the
//! kernel says of time stolen by the hypervisor and spent in softirqs. It tells a slow netft from a slow machine.

use super::{be_prompt, boottime_ns, sleep_until};
use anyhow::{Context, Result};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use serde::Serialize;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

/// One below netft's detection thread: whatever delays this one and isn't netft delays netft too.
const PRIORITY: u8 = 59;
const INTERVAL_NS: u64 = 500_000;
/// Lateness from here on is kept with its time, to be matched with outliers.
const NOTABLE_NS: u64 = 200_000;
const KEPT: usize = 100_000;

/// What the machine did to us during a measurement.
#[derive(Clone, Debug, Default, Serialize)]
pub struct MonitorReport {
    /// Length of the measurement in seconds.
    pub seconds: f64,
    /// Share of all CPU time that the hypervisor took away, in percent.
    pub steal_percent: f64,
    /// Share spent in softirqs, in percent.
    pub softirq_percent: f64,
    /// Share not idle, in percent.
    pub busy_percent: f64,
    /// Latest wake-up of a monitor thread, in microseconds.
    pub longest_gap_us: f64,
    /// Wake-ups later than 200 µs.
    pub gaps_over_200us: usize,
    /// Wake-ups later than 1 ms.
    pub gaps_over_1ms: usize,
}

/// One late wake-up.
#[derive(Clone, Copy, Debug)]
struct Gap {
    cpu: usize,
    due_ns: u64,
    woke_ns: u64,
}

/// A stretch in which a CPU ran neither the monitor nor anything below it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MachineGap {
    /// The CPU.
    pub cpu: usize,
    /// How long.
    pub late_ns: u64,
}

impl std::fmt::Display for MachineGap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "CPU {} ran nothing below priority 60 for {} µs then", self.cpu, self.late_ns / 1000)
    }
}

/// A running monitor.
pub struct Monitor {
    gaps: Arc<Mutex<Vec<Gap>>>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    began_ns: u64,
    before: CpuTimes,
}

/// Sums over all CPUs, in clock ticks.
#[derive(Clone, Copy, Debug, Default)]
struct CpuTimes {
    all: u64,
    idle: u64,
    softirq: u64,
    steal: u64,
}

impl Monitor {
    /// Starts it on every CPU.
    pub fn start() -> Result<Self> {
        let gaps = Arc::new(Mutex::new(Vec::with_capacity(KEPT)));
        let stop = Arc::new(AtomicBool::new(false));
        let before = cpu_times()?;
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = (0..cpus)
            .map(|cpu| {
                let (gaps, stop) = (Arc::clone(&gaps), Arc::clone(&stop));
                let name = format!("monitor-{cpu}");
                std::thread::Builder::new().name(name).spawn(move || watch(cpu, &gaps, &stop))
            })
            .collect::<std::io::Result<_>>()
            .context("starting the gap monitor")?;
        Ok(Self { gaps, stop, threads, began_ns: boottime_ns(), before })
    }

    /// The longest gap of this machine that overlaps `from_ns..to_ns` (boottime), if there was one above 200 µs.
    pub fn longest_gap(&self, from_ns: u64, to_ns: u64) -> Option<MachineGap> {
        let gaps = self.gaps.lock().unwrap_or_else(PoisonError::into_inner);
        let overlapping = gaps.iter().filter(|gap| gap.due_ns < to_ns && gap.woke_ns > from_ns);
        let longest = overlapping.max_by_key(|gap| gap.woke_ns - gap.due_ns)?;
        Some(MachineGap { cpu: longest.cpu, late_ns: longest.woke_ns - longest.due_ns })
    }

    /// Ends it.
    pub fn stop(mut self) -> Result<MonitorReport> {
        self.end();
        let after = cpu_times()?;
        let gaps = self.gaps.lock().unwrap_or_else(PoisonError::into_inner);
        let late = |gap: &Gap| gap.woke_ns - gap.due_ns;
        let all = after.all.saturating_sub(self.before.all).max(1);
        #[expect(clippy::cast_precision_loss, reason = "shares and milliseconds for people")]
        let percent = |after: u64, before: u64| after.saturating_sub(before) as f64 * 100.0 / all as f64;
        #[expect(clippy::cast_precision_loss, reason = "shares and milliseconds for people")]
        let in_units = |nanos: u64, unit: f64| nanos as f64 / unit;
        Ok(MonitorReport {
            seconds: in_units(boottime_ns() - self.began_ns, 1e9),
            steal_percent: percent(after.steal, self.before.steal),
            softirq_percent: percent(after.softirq, self.before.softirq),
            busy_percent: 100.0 - percent(after.idle, self.before.idle),
            longest_gap_us: in_units(gaps.iter().map(late).max().unwrap_or(0), 1e3),
            gaps_over_200us: gaps.len(),
            gaps_over_1ms: gaps.iter().filter(|gap| late(gap) > 1_000_000).count(),
        })
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Release);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        self.end();
    }
}

fn watch(cpu: usize, gaps: &Mutex<Vec<Gap>>, stop: &AtomicBool) {
    let mut only = CpuSet::new();
    // Without its CPU or its priority the monitor still watches, only less sharply.
    if only.set(cpu).is_ok() {
        let _ = sched_setaffinity(Pid::from_raw(0), &only);
    }
    let _ = be_prompt(PRIORITY);
    let mut due_ns = boottime_ns() + INTERVAL_NS;
    while !stop.load(Ordering::Acquire) {
        sleep_until(due_ns);
        let woke_ns = boottime_ns();
        if woke_ns - due_ns.min(woke_ns) > NOTABLE_NS {
            let mut gaps = gaps.lock().unwrap_or_else(PoisonError::into_inner);
            if gaps.len() < KEPT {
                gaps.push(Gap { cpu, due_ns, woke_ns });
            }
        }
        due_ns = woke_ns + INTERVAL_NS;
    }
}

/// The first line of /proc/stat: user nice system idle iowait irq softirq steal (proc_stat(5)).
fn cpu_times() -> Result<CpuTimes> {
    let stat = std::fs::read_to_string("/proc/stat").context("reading /proc/stat")?;
    let line = stat.lines().next().unwrap_or_default();
    let ticks: Vec<u64> =
        line.split_whitespace().skip(1).take(8).filter_map(|word| word.parse().ok()).collect();
    let [_, _, _, idle, iowait, _, softirq, steal] = ticks[..] else {
        anyhow::bail!("/proc/stat begins with {line:?}, not with eight times");
    };
    Ok(CpuTimes { all: ticks.iter().sum(), idle: idle + iowait, softirq, steal })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_monitor_counts_time_and_ends() {
        let monitor = Monitor::start().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(30));
        let report = monitor.stop().unwrap();
        assert!(report.seconds >= 0.03);
        assert!((0.0..=100.0).contains(&report.steal_percent));
    }
}
