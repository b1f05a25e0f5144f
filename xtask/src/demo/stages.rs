//! The stages: what is done, what must be seen, and what it cost the flows.

use crate::cluster::{self, Watch, address, is_node, is_route};
use crate::lab::{Direction, Lab};
use crate::traffic::{Flow, FlowReport, boottime_ns};
use anyhow::{Context, Result, ensure};
use std::net::IpAddr;
use std::time::Duration;

/// How long to wait for something that takes milliseconds, before the stage fails.
const PATIENCE: Duration = Duration::from_secs(5);
/// Traffic fails back to the better route after a hold of 1 s.
const FAIL_BACK_PATIENCE: Duration = Duration::from_secs(5);
/// What flows before and after a stage, to be seen in the picture.
const BREATH: Duration = Duration::from_millis(400);

const MILLISECOND: u64 = 1_000_000;

/// One stage.
pub struct Stage {
    name: &'static str,
    play: fn(&Scene<'_>) -> Result<Played>,
}

/// All stages.
pub const STAGES: &[Stage] = &[
    Stage { name: "silent cut", play: silent_cut },
    Stage { name: "unplug", play: unplug },
    Stage { name: "freeze", play: freeze },
    Stage { name: "kill -9", play: kill },
];

/// Everything a stage can use.
pub struct Scene<'a> {
    /// The lab.
    pub lab: &'a Lab,
    /// Events of n1 and n2.
    pub watches: &'a [Watch; 2],
    /// n1 to n2.
    pub udp: &'a Flow,
    /// n1 to n2.
    pub tcp: &'a Flow,
}

/// What a stage did and saw.
pub struct Played {
    /// What was done.
    pub done: String,
    /// When the fault took effect, boottime.
    pub fault_ns: u64,
    /// When it was ended.
    pub healed_ns: u64,
    /// When it was detected, and the word for what was detected; `None` if there is nothing to detect.
    pub detected: Option<(u64, &'static str)>,
    /// Anything else worth a line.
    pub remark: String,
    /// How much of it the close-up shows, in nanoseconds.
    pub close_up_ns: u64,
}

/// A stage that was played.
pub struct Report {
    /// Its name.
    pub name: &'static str,
    /// What happened; `None` if it failed before anything did.
    pub played: Option<Played>,
    /// The UDP flow from shortly before the fault until everything was whole again.
    pub udp: FlowReport,
    /// The TCP flow in the same time.
    pub tcp: FlowReport,
    /// Why it failed.
    pub failure: Option<String>,
}

impl Played {
    /// From fault to detection in nanoseconds.
    pub fn detection_ns(&self) -> Option<u64> {
        self.detected.map(|(at, _)| at.saturating_sub(self.fault_ns))
    }
}

impl Scene<'_> {
    /// Plays a stage and sums up what the flows went through.
    pub fn play(&self, stage: &Stage) -> Report {
        let from_ns = boottime_ns();
        std::thread::sleep(BREATH);
        let played = (stage.play)(self)
            .and_then(|played| cluster::wait_until_whole(self.lab, PATIENCE).map(|_| played));
        let to_ns = boottime_ns();
        // What was sent last may still be on its way.
        std::thread::sleep(Duration::from_millis(100));
        let (udp, tcp) = (self.udp.report(from_ns, to_ns), self.tcp.report(from_ns, to_ns));
        let (played, mut failure) = match played {
            Ok(played) => (Some(played), None),
            Err(error) => (None, Some(format!("{error:#}"))),
        };
        if let (None, Some(fault)) = (&failure, udp.faults.iter().chain(&tcp.faults).next()) {
            failure = Some(format!("a flow broke: {fault}"));
        }
        Report { name: stage.name, played, udp, tcp, failure }
    }

    fn n1(&self) -> &Watch {
        &self.watches[0]
    }

    /// The network that carries n1's traffic to n2, and n2's address in n1's route there.
    fn active(&self) -> Result<(u32, IpAddr)> {
        let network =
            cluster::active_network(self.lab, "n1", "n2")?.context("no route from n1 to n2 is active")?;
        let candidates = address(network, "n2")?;
        let routes = cluster::routes(self.lab, "n1")?;
        let route = routes.into_iter().find(|route| candidates.contains(&route.remote));
        Ok((network, route.context("the active route is gone")?.remote))
    }

    /// Waits until traffic from n1 to n2 goes over `network`.
    fn wait_for_fail_back(&self, network: u32) -> Result<()> {
        let began = std::time::Instant::now();
        while cluster::active_network(self.lab, "n1", "n2")? != Some(network) {
            ensure!(
                began.elapsed() < FAIL_BACK_PATIENCE,
                "traffic doesn't go back to net{network} after it was healed"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    fn wait_for_flows(&self, after_ns: u64) -> Result<()> {
        for (what, flow) in [("UDP", self.udp), ("TCP", self.tcp)] {
            ensure!(flow.wait_for_arrival(after_ns, PATIENCE), "nothing of the {what} flow arrives any more");
        }
        Ok(())
    }
}

fn silent_cut(scene: &Scene<'_>) -> Result<Played> {
    let (network, remote) = scene.active()?;
    let name = format!("net{network}");
    let cut = scene.lab.cut("n2", &name, Direction::Both)?;
    let down = scene.n1().wait(cut.before_ns, PATIENCE, |event| is_route(event, remote, "down"));
    let down = down.with_context(|| format!("n1 did not notice that n2 is cut off from {name}"))?;
    scene.wait_for_flows(down.boottime_ns + 2 * MILLISECOND)?;
    std::thread::sleep(BREATH);
    let healed = scene.lab.heal("n2", &name, Direction::Both)?;
    scene.wait_for_fail_back(network)?;
    Ok(Played {
        done: format!("n2 silently loses {name}, which carries the traffic; the carrier stays"),
        fault_ns: cut.before_ns,
        healed_ns: healed.after_ns,
        detected: Some((down.boottime_ns, "route down")),
        remark: format!("healed; traffic went back to {name}"),
        close_up_ns: 20 * MILLISECOND,
    })
}

fn unplug(scene: &Scene<'_>) -> Result<Played> {
    let (network, remote) = scene.active()?;
    let name = format!("net{network}");
    let pulled = scene.lab.unplug("n2", &name)?;
    let down = scene.n1().wait(pulled.before_ns, PATIENCE, |event| is_route(event, remote, "down"));
    let down = down.with_context(|| format!("n1 did not notice that n2's cable to {name} was pulled"))?;
    let told = down.reason == "peer-carrier-lost";
    scene.wait_for_flows(down.boottime_ns + 2 * MILLISECOND)?;
    std::thread::sleep(BREATH);
    let plugged = scene.lab.plug("n2", &name)?;
    scene.wait_for_fail_back(network)?;
    Ok(Played {
        done: format!("n2's cable to {name} is pulled"),
        fault_ns: pulled.before_ns,
        healed_ns: plugged.after_ns,
        detected: Some((down.boottime_ns, "route down")),
        remark: if told {
            "n2 told n1 over the other network".into()
        } else {
            format!("n1's reason: {}", down.reason)
        },
        close_up_ns: 20 * MILLISECOND,
    })
}

fn freeze(scene: &Scene<'_>) -> Result<Played> {
    let frozen = scene.lab.freeze("n3")?;
    let stalled = scene.n1().wait(frozen.before_ns, PATIENCE, |event| is_node(event, "n3", "engine-stalled"));
    let thawed = scene.lab.thaw("n3")?;
    let stalled = stalled.context("n1 did not notice that n3's engine is frozen")?;
    let up = scene.n1().wait(thawed.before_ns, PATIENCE, |event| is_node(event, "n3", "up"));
    up.context("n1 did not notice that n3's engine runs again")?;
    no_route_went_down(scene, frozen.before_ns)?;
    Ok(Played {
        done: "n3's daemon is stopped (SIGSTOP); its host goes on answering in XDP".into(),
        fault_ns: frozen.before_ns,
        healed_ns: thawed.after_ns,
        detected: Some((stalled.boottime_ns, "engine stalled")),
        remark: "no route went down; continued with SIGCONT".into(),
        close_up_ns: 350 * MILLISECOND,
    })
}

fn kill(scene: &Scene<'_>) -> Result<Played> {
    let killed = scene.lab.kill("n2")?;
    let started = scene.lab.start("n2")?;
    scene.wait_for_flows(started.after_ns)?;
    no_route_went_down(scene, killed.before_ns)?;
    let adopted = cluster::status(scene.lab, "n2")?.daemon.adopted_routes;
    Ok(Played {
        done: "n2's daemon, which receives the flows, is killed and started again".into(),
        fault_ns: killed.before_ns,
        healed_ns: started.after_ns,
        detected: None,
        remark: format!("no route went down anywhere; the new daemon adopted {adopted} routes"),
        close_up_ns: 200 * MILLISECOND,
    })
}

fn no_route_went_down(scene: &Scene<'_>, since_ns: u64) -> Result<()> {
    for watch in scene.watches {
        let events = watch.since(since_ns);
        if let Some(down) =
            events.iter().find(|event| event.kind == "route" && event.new.as_deref() != Some("up"))
        {
            anyhow::bail!("a route went down: {} ({})", down.subject, down.reason);
        }
    }
    Ok(())
}
