//! CPU time: of the daemons' data threads and of the rest of them, of the stream's own threads, of the machine.

use super::{RECEIVER, SENDER};
use crate::cluster;
use crate::lab::Lab;
use anyhow::{Context, Result};
use serde::Serialize;
use std::fs;

/// Ticks a second of /proc/stat and /proc/PID/stat (USER_HZ, the same on all architectures Rust knows of).
const TICK_NS: f64 = 1e7;

/// Where to look.
pub(super) struct Clocks {
    /// Daemons of n1 and n2.
    pids: [u32; 2],
    receiver: u32,
}

/// Nanoseconds.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct CpuTimes {
    /// Data threads of n1 and n2, with the softirqs that ran on top of them.
    pub data: [f64; 2],
    /// What of that was outside the kernel.
    pub data_user: [f64; 2],
    /// All other threads of both daemons: heartbeats, mostly.
    pub others: f64,
    /// The stream's sender and receiver, with softirqs as well.
    pub ends: [f64; 2],
    /// Not idle, all CPUs.
    pub busy: f64,
    /// In softirqs, by samples at every tick, on whosever account.
    pub softirq: f64,
}

impl Clocks {
    pub fn new(lab: &Lab, receiver: u32) -> Result<Self> {
        let pid = |node| cluster::status(lab, node).map(|status| status.daemon.pid);
        Ok(Self { pids: [pid(SENDER)?, pid(RECEIVER)?], receiver })
    }

    /// Threads of n1's and n2's daemon that carry data.
    pub fn data_threads(&self) -> Result<[Vec<u32>; 2]> {
        Ok([data_threads(self.pids[0])?, data_threads(self.pids[1])?])
    }

    /// Now; `sender` is the stream's sending thread.
    pub fn read(&self, sender: u32) -> Result<CpuTimes> {
        let mut times = CpuTimes::default();
        for (side, pid) in self.pids.iter().enumerate() {
            for (tid, name) in threads(*pid)? {
                let (ran, user) = thread(*pid, tid)?;
                match carries_data(&name) {
                    true => {
                        times.data[side] += ran;
                        times.data_user[side] += user;
                    }
                    false => times.others += ran,
                }
            }
        }
        let own = std::process::id();
        times.ends = [thread(own, sender).map_or(0.0, |times| times.0), thread(own, self.receiver)?.0];
        let stat = fs::read_to_string("/proc/stat").context("reading /proc/stat")?;
        let line = stat.lines().next().unwrap_or_default();
        // user nice system idle iowait irq softirq steal (proc_stat(5)).
        let ticks: Vec<f64> = line.split_whitespace().skip(1).filter_map(|word| word.parse().ok()).collect();
        let [user, nice, system, _, _, irq, softirq, ..] = ticks[..] else {
            anyhow::bail!("/proc/stat begins with {line:?}, not with eight times");
        };
        times.busy = (user + nice + system + irq + softirq) * TICK_NS;
        times.softirq = softirq * TICK_NS;
        Ok(times)
    }
}

impl CpuTimes {
    pub fn since(&self, before: &Self) -> Self {
        let pair = |after: [f64; 2], before: [f64; 2]| [after[0] - before[0], after[1] - before[1]];
        Self {
            data: pair(self.data, before.data),
            data_user: pair(self.data_user, before.data_user),
            others: self.others - before.others,
            ends: pair(self.ends, before.ends),
            busy: self.busy - before.busy,
            softirq: self.softirq - before.softirq,
        }
    }

    /// For each of `frames`.
    pub fn per(&self, frames: f64) -> Self {
        let pair = |times: [f64; 2]| times.map(|time| time / frames);
        Self {
            data: pair(self.data),
            data_user: pair(self.data_user),
            others: self.others / frames,
            ends: pair(self.ends),
            busy: self.busy / frames,
            softirq: self.softirq / frames,
        }
    }
}

/// Threads of a daemon that carry data.
pub(in crate::bench) fn data_threads(pid: u32) -> Result<Vec<u32>> {
    let carrying = threads(pid)?.into_iter().filter(|(_, name)| carries_data(name));
    Ok(carrying.map(|(tid, _)| tid).collect())
}

fn carries_data(name: &str) -> bool {
    name.starts_with("netft-data")
}

/// Threads of a process by id and name.
fn threads(pid: u32) -> Result<Vec<(u32, String)>> {
    let folder = format!("/proc/{pid}/task");
    let entries = fs::read_dir(&folder).with_context(|| format!("listing {folder}"))?;
    let tids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    // One that ended meanwhile has no name.
    let named =
        tids.filter_map(|tid: u32| Some((tid, fs::read_to_string(format!("{folder}/{tid}/comm")).ok()?)));
    Ok(named.map(|(tid, name)| (tid, name.trim().to_string())).collect())
}

/// How long a thread ran, and how much of that outside the kernel.
fn thread(pid: u32, tid: u32) -> Result<(f64, f64)> {
    let path = format!("/proc/{pid}/task/{tid}");
    let read = |file: &str| fs::read_to_string(format!("{path}/{file}")).with_context(|| path.clone());
    // To the nanosecond: the first number (Documentation/scheduler/sched-stats.rst).
    let ran: f64 = read("schedstat")?.split_whitespace().next().context("schedstat is empty")?.parse()?;
    // Times in and outside the kernel are sampled: only their proportion is used. Fields 14 and 15 (proc_pid_stat(5)),
    // counted from behind the name, which may have blanks.
    let stat = read("stat")?;
    let fields: Vec<&str> =
        stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().skip(11).take(2).collect();
    let [user, _] = fields[..] else { anyhow::bail!("{path}/stat is too short") };
    Ok((ran, user.parse::<f64>()? * TICK_NS))
}
