//! Every place between both ends of a stream where a frame may be lost, and how many were.

use super::{RECEIVER, SENDER};
use crate::cluster;
use crate::lab::Lab;
use anyhow::{Context, Result};
use netft_common::wire::PORT;
use netft_userspace::listing::Status;
use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

/// How long what was lost may take to be counted: AF_XDP's own losses are looked at twice a second.
const STILL: Duration = Duration::from_millis(1200);

/// Counters of netft that mean a lost frame.
const LOSSES: [&str; 4] = ["data_drop_", "data_reject_", "reject_", "xdp_drop_"];

/// Losses at one moment, or their growth, by place.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally {
    pub losses: BTreeMap<String, u64>,
    /// Frames that netft took from n1's `netft0`, those by AF_XDP; put into n2's, those by AF_XDP.
    pub carried: [u64; 4],
}

impl Tally {
    /// `port` is the stream's in n2.
    pub fn take(lab: &Lab, port: u16) -> Result<Self> {
        let mut tally = Self::default();
        let [sender, receiver] = [SENDER, RECEIVER].map(|node| cluster::status(lab, node));
        let (sender, receiver) = (sender?, receiver?);
        tally.carried = [
            sender.data.frames_sent,
            sender.data.xdp_sent,
            receiver.data.frames_received,
            receiver.data.xdp_received,
        ];
        for (node, status) in [(SENDER, sender), (RECEIVER, receiver)] {
            tally.add_node(node, status, port)?;
        }
        // Frames in the backlogs of all CPUs, in all namespaces: second column, hexadecimal.
        let backlog = fs::read_to_string("/proc/net/softnet_stat").context("softnet_stat")?;
        let dropped = backlog.lines().filter_map(|line| line.split_whitespace().nth(1));
        let dropped = dropped.filter_map(|column| u64::from_str_radix(column, 16).ok()).sum();
        tally.losses.insert("backlog of a CPU full".into(), dropped);
        let table = lab.enter_switch(|| Ok(fs::read_to_string("/proc/thread-self/net/dev")?))?;
        tally.add_devices("switch", &table, &format!("{SENDER}-"));
        tally.add_devices("switch", &table, &format!("{RECEIVER}-"));
        Ok(tally)
    }

    fn add_node(&mut self, node: &str, status: Status, port: u16) -> Result<()> {
        let pid = status.daemon.pid;
        let counters = status.data.drops.into_iter().chain(status.counters);
        for (name, count) in counters.filter(|(name, _)| LOSSES.iter().any(|loss| name.starts_with(loss))) {
            self.losses.insert(format!("{node} {name}"), count);
        }
        for (port, whose) in [(PORT, "netft's UDP socket"), (port, "the receiver's socket")] {
            self.losses.insert(format!("{node} {whose} full"), socket_drops(pid, port)?);
        }
        let table = fs::read_to_string(format!("/proc/{pid}/net/dev")).context("the interfaces' drops")?;
        for device in ["net", "netft"] {
            self.add_devices(node, &table, device);
        }
        Ok(())
    }

    /// Drops of all devices whose names begin with `prefix`: 8 columns of receiving, then bytes, packets, errors and
    /// drops of sending (/proc/net/dev).
    fn add_devices(&mut self, whose: &str, table: &str, prefix: &str) {
        for line in table.lines().map(str::trim).filter(|line| line.starts_with(prefix)) {
            let Some((device, numbers)) = line.split_once(':') else { continue };
            let numbers: Vec<u64> = numbers.split_whitespace().filter_map(|n| n.parse().ok()).collect();
            for (column, direction) in [(3, "rx_dropped"), (11, "tx_dropped")] {
                if let Some(count) = numbers.get(column) {
                    self.losses.insert(format!("{whose} {device} {direction}"), *count);
                }
            }
        }
    }

    /// Once `missing` frames are counted as lost, or nothing is counted any more.
    pub fn settled(lab: &Lab, port: u16, before: &Self, missing: u64) -> Result<Self> {
        let mut seen = Self::take(lab, port)?;
        let mut since = Instant::now();
        while seen.since(before).lost() < missing && since.elapsed() < STILL {
            std::thread::sleep(Duration::from_millis(20));
            let now = Self::take(lab, port)?;
            if now.since(before).lost() != seen.since(before).lost() {
                since = Instant::now();
            }
            seen = now;
        }
        Ok(seen)
    }

    /// What came since `before`; places without losses are left out.
    pub fn since(&self, before: &Self) -> Self {
        let grown = |(name, count): (&String, &u64)| {
            let more = count.saturating_sub(before.losses.get(name).copied().unwrap_or(0));
            (more > 0).then(|| (name.clone(), more))
        };
        let mut carried = self.carried;
        carried.iter_mut().zip(before.carried).for_each(|(now, before)| *now -= before);
        Self { losses: self.losses.iter().filter_map(grown).collect(), carried }
    }

    /// All of them.
    pub fn lost(&self) -> u64 {
        self.losses.values().sum()
    }
}

/// Of all sockets on `port` in the namespace of `pid` (proc_net(5): the last column).
fn socket_drops(pid: u32, port: u16) -> Result<u64> {
    let port = format!(":{port:04X}");
    let mut drops = 0;
    for table in ["udp", "udp6"] {
        let text = fs::read_to_string(format!("/proc/{pid}/net/{table}")).context("the sockets' drops")?;
        let ours =
            text.lines().filter(|line| line.split_whitespace().nth(1).is_some_and(|l| l.ends_with(&port)));
        drops += ours.filter_map(|line| line.split_whitespace().last()?.parse::<u64>().ok()).sum::<u64>();
    }
    Ok(drops)
}
