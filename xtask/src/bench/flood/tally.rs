//! What the attacked node has counted.

use super::arsenal::Target;
use super::{NETWORK, VICTIM};
use crate::cluster;
use crate::hostile::Port;
use crate::lab::Lab;
use anyhow::{Context, Result};
use netft_common::wire::PORT;
use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

/// How long what was sent may take to be counted, without anything changing.
const STILL: Duration = Duration::from_millis(500);

/// Numbers at one moment, or their growth.
#[derive(Clone, Debug)]
pub(in crate::bench) struct Tally {
    /// Every counter of refused or dropped messages that what was fired can reach, and that isn't 0.
    pub counters: BTreeMap<String, u64>,
    /// Datagrams that found the socket's buffer full.
    pub socket_drops: u64,
    /// Frames that found the queue of the wire to the node full.
    pub wire_drops: u64,
    /// VmRSS of the daemon.
    pub resident_kib: u64,
}

impl Tally {
    pub fn take(lab: &Lab, target: Target) -> Result<Self> {
        let status = cluster::status(lab, VICTIM)?;
        let all = status.counters.into_iter().chain(status.data.drops);
        let counters =
            all.filter(|(name, _)| target.counters().iter().any(|prefix| name.starts_with(prefix)));
        let pid = status.daemon.pid;
        let own = fs::read_to_string(format!("/proc/{pid}/status")).context("the daemon's status")?;
        let resident = own.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let resident = resident.and_then(|line| line.split_whitespace().next()?.parse().ok());
        Ok(Self {
            counters: counters.collect(),
            socket_drops: socket_drops(pid)?,
            wire_drops: Port::drops(lab, VICTIM, NETWORK)?,
            resident_kib: resident.context("VmRSS")?,
        })
    }

    /// Once everything that was sent is accounted for, or nothing moves any more.
    pub fn settled(lab: &Lab, target: Target, before: &Self, sent: u64) -> Result<Self> {
        let mut seen = Self::take(lab, target)?;
        let mut since = Instant::now();
        while seen.since(before).sum() < sent && since.elapsed() < STILL {
            std::thread::sleep(Duration::from_millis(20));
            let now = Self::take(lab, target)?;
            if now.since(before).sum() != seen.since(before).sum() {
                since = Instant::now();
            }
            seen = now;
        }
        Ok(seen)
    }

    /// What came since `before`; memory as it is now.
    pub fn since(&self, before: &Self) -> Self {
        let grown = |(name, count): (&String, &u64)| {
            let more = count - before.counters.get(name).copied().unwrap_or(0);
            (more > 0).then(|| (name.clone(), more))
        };
        Self {
            counters: self.counters.iter().filter_map(grown).collect(),
            socket_drops: self.socket_drops - before.socket_drops,
            wire_drops: self.wire_drops - before.wire_drops,
            resident_kib: self.resident_kib,
        }
    }

    /// Packets that arrived, by what became of them.
    pub fn sum(&self) -> u64 {
        self.counters.values().sum::<u64>() + self.socket_drops
    }
}

/// Of all sockets on netft's port in the namespace of `pid` (proc_net(5): the last column).
fn socket_drops(pid: u32) -> Result<u64> {
    let port = format!(":{PORT:04X}");
    let mut drops = 0;
    for table in ["udp", "udp6"] {
        let text = fs::read_to_string(format!("/proc/{pid}/net/{table}")).context("the sockets' drops")?;
        let ours =
            text.lines().filter(|line| line.split_whitespace().nth(1).is_some_and(|l| l.ends_with(&port)));
        drops += ours.filter_map(|line| line.split_whitespace().last()?.parse::<u64>().ok()).sum::<u64>();
    }
    Ok(drops)
}
