//! The node that is measured: netft's engine, as netftd runs it, with one route to each peer.

use super::responder::{CLUSTER, EPOCH, key};
use super::wire::{DEVICE, FAR_MAC, address};
use crate::lab::Lab;
use crate::traffic::boottime_ns;
use anyhow::{Context, Result, ensure};
use netft_common::map::{KeySet, SlotConfig};
use netft_common::wire::Versions;
use netft_core::detect::{DampingConfig, DetectorConfig};
use netft_core::membership::{Adapter, Interface, RouteInstall};
use netft_core::types::{NodeId, RouteClass, RouteState, Slot, Timing, address_bytes};
use netft_userspace::engine::{DatapathOptions, Engine, EngineOptions, StopMode, Wait, XdpMode};
use netft_userspace::netlink::Monitor;
use serde_json::{Value, json};
use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

/// How long all routes may take to come up.
const PATIENCE: Duration = Duration::from_secs(20);

/// What a number of peers cost.
pub(super) struct Load {
    pub peers: u16,
    /// Routes that were down at the end.
    pub routes_down: usize,
    spent: Spent,
}

/// Counts over the measured span.
#[derive(Clone, Copy)]
struct Spent {
    wall_ns: u64,
    cpu_ns: u64,
    heartbeats: u64,
    completed: u64,
    wakes: u64,
}

#[expect(clippy::cast_precision_loss, reason = "counts and nanoseconds of at most minutes")]
impl Load {
    /// CPU nanoseconds of all threads of the engine for one heartbeat.
    pub fn cost_ns(&self) -> f64 {
        self.spent.cpu_ns as f64 / self.spent.heartbeats.max(1) as f64
    }

    pub fn per_second(&self) -> f64 {
        self.spent.heartbeats as f64 * 1e9 / self.spent.wall_ns as f64
    }

    pub fn wakes_per_second(&self) -> f64 {
        self.spent.wakes as f64 * 1e9 / self.spent.wall_ns as f64
    }

    pub fn cpu_percent(&self) -> f64 {
        self.spent.cpu_ns as f64 * 100.0 / self.spent.wall_ns as f64
    }

    pub fn completed_percent(&self) -> f64 {
        self.spent.completed as f64 * 100.0 / self.spent.heartbeats.max(1) as f64
    }

    pub fn json(&self) -> Value {
        json!({
            "peers": self.peers,
            "cpu_ns_per_heartbeat": self.cost_ns().round(),
            "heartbeats_per_second": self.per_second().round(),
            "completed_percent": self.completed_percent(),
            "wakes_per_second": self.wakes_per_second().round(),
            "cpu_percent": self.cpu_percent(),
        })
    }
}

/// Runs the engine in n1 with `peers` peers, and measures it for `span`.
pub(super) fn measure(lab: &Lab, peers: u16, delay: Duration, span: Duration) -> Result<Load> {
    lab.enter("n1", || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let mut engine = start(lab, peers, delay).await?;
            let load = load(&engine, peers, span);
            let _ = engine.try_recv();
            engine.stop(StopMode::Clean).await?;
            load
        })
    })
}

async fn start(lab: &Lab, peers: u16, delay: Duration) -> Result<Engine> {
    let options = EngineOptions {
        cluster_id: CLUSTER,
        node_id: NodeId::new(1).context("1 is a node id")?,
        versions: Versions::OURS,
        pin_dir: format!("/sys/fs/bpf/netft/{}", lab.shape().name).into(),
        priority: Some(60),
        cpus: vec![0],
        wait: Wait::Sleep,
        adapter_name: "netft0".to_owned(),
        adapter: Adapter {
            mac: [0x02, 0, 0, 0, 0x5c, 1],
            ipv4: Ipv4Addr::new(169, 254, 90, 1),
            ipv6: Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0x5c, 1),
            mtu: 1386,
        },
        detector: DetectorConfig {
            up_run: 3,
            fail_back_hold_ns: 1_000_000_000,
            engine_timeout_ns: 250_000_000,
            damping: DampingConfig::default(),
        },
        datapath: DatapathOptions::default(),
        left_addresses: Vec::new(),
        log_packets: false,
    };
    let mut engine = Engine::start(options).await?;
    let interface = interface().await?;
    let reports = engine.set_interfaces(std::slice::from_ref(&interface), boottime_ns());
    ensure!(reports.iter().all(|report| report.mode == XdpMode::Native), "no native XDP: {reports:?}");
    for id in 2..2 + peers {
        engine.set_route(&route(id, &interface, delay)?).await?;
    }
    let deadline = Instant::now() + PATIENCE;
    while down(&engine, peers) > 0 {
        ensure!(
            Instant::now() < deadline,
            "{} of {peers} routes don't come up; {:?}",
            down(&engine, peers),
            engine.counters()
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(engine)
}

/// Routes that aren't up.
fn down(engine: &Engine, peers: u16) -> usize {
    let up = engine.route_views().iter().filter(|view| view.state == RouteState::Up).count();
    usize::from(peers).saturating_sub(up)
}

async fn interface() -> Result<Interface> {
    let mut monitor = Monitor::new(vec!["netft0".to_owned()])?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        let listing = monitor.next().await?;
        if let Some(found) = listing.interfaces.into_iter().find(|interface| interface.name == DEVICE) {
            return Ok(found);
        }
        ensure!(Instant::now() < deadline, "interface {DEVICE} isn't listed");
    }
}

fn route(peer: u16, interface: &Interface, delay: Duration) -> Result<RouteInstall> {
    Ok(RouteInstall {
        slot: Slot::new(u32::from(peer) - 2).context("a slot")?,
        config: SlotConfig {
            generation: 1,
            remote_slot: peer.into(),
            peer,
            interface: interface.number.get().into(),
            lives: 1,
            local: address_bytes(address(1).into()),
            remote: address_bytes(address(peer).into()),
            keys: [KeySet::sending(EPOCH, key(1, peer), key(peer, 1)), KeySet::default()],
        },
        class: RouteClass::SameSubnet,
        timing: Timing { delay_ns: u64::try_from(delay.as_nanos())?, threshold: 10 },
        remote_mac: Some(FAR_MAC),
        network: "Cluster Network 1".to_owned(),
        metric: 40_000,
        mtu: interface.mtu,
    })
}

fn load(engine: &Engine, peers: u16, span: Duration) -> Result<Load> {
    // What starting cost is over by then.
    std::thread::sleep(Duration::from_millis(300));
    let (before, began_ns) = (count(engine)?, boottime_ns());
    std::thread::sleep(span);
    let (after, ended_ns) = (count(engine)?, boottime_ns());
    Ok(Load {
        peers,
        routes_down: down(engine, peers),
        spent: Spent {
            wall_ns: ended_ns - began_ns,
            cpu_ns: after.cpu_ns - before.cpu_ns,
            heartbeats: after.heartbeats - before.heartbeats,
            completed: after.completed - before.completed,
            wakes: after.wakes - before.wakes,
        },
    })
}

/// Totals so far.
fn count(engine: &Engine) -> Result<Spent> {
    let stats = engine.stats();
    Ok(Spent {
        wall_ns: 0,
        cpu_ns: engine_cpu_ns()?,
        heartbeats: stats.requests,
        completed: engine.route_views().iter().map(|view| view.completed).sum(),
        wakes: stats.loops,
    })
}

/// CPU time of all threads of the engine, to the nanosecond (Documentation/scheduler/sched-stats.rst).
fn engine_cpu_ns() -> Result<u64> {
    let mut sum = 0;
    for task in fs::read_dir("/proc/self/task").context("own threads")? {
        let folder = task?.path();
        if fs::read_to_string(folder.join("comm")).is_ok_and(|name| name.starts_with("netft-")) {
            let text = fs::read_to_string(folder.join("schedstat")).context("schedstat")?;
            let ran = text.split_whitespace().next().and_then(|ns| ns.parse::<u64>().ok());
            sum += ran.context("the kernel keeps no schedstat")?;
        }
    }
    ensure!(sum > 0, "the engine's threads were not found");
    Ok(sum)
}
