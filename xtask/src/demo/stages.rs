//! The stages: what is done, what must be seen, and what it cost the flows.

use crate::cluster::{self, Watch, address, is_node, is_route};
use crate::lab::{Direction, Lab, Stamps};
use crate::traffic::{Flow, FlowReport, boottime_ns, promptly};
use anyhow::{Context, Result, bail, ensure};
use netft_userspace::listing::Event;
use std::cell::Cell;
use std::net::IpAddr;
use std::time::Duration;

/// How long to wait for something that takes milliseconds, before the stage fails.
const PATIENCE: Duration = Duration::from_secs(5);
/// What flows before and after each act, to be seen in the picture.
const BREATH: Duration = Duration::from_millis(600);
/// Records sent last may still be on their way for so long.
const SETTLE: Duration = Duration::from_millis(100);

const MILLISECOND: u64 = 1_000_000;

/// One stage.
pub struct Stage {
    name: &'static str,
    play: fn(&Scene<'_>) -> Result<Played>,
}

/// All stages.
pub const STAGES: &[Stage] = &[
    Stage { name: "silent cut", play: silent_cut },
    Stage { name: "heal", play: heal },
    Stage { name: "unplug", play: unplug },
    Stage { name: "plug", play: plug },
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
    /// The network that is cut or unplugged now, and n2's address in n1's route over it.
    pub broken: Cell<Option<(u32, IpAddr)>>,
}

/// What a stage did and saw.
pub struct Played {
    /// What was done, in a few words.
    pub done: String,
    /// When it took effect, boottime.
    pub at_ns: u64,
    /// When it was seen, and the word for what was seen; `None` if there is nothing to see.
    pub seen: Option<(u64, &'static str)>,
    /// Anything else worth a line; may be empty.
    pub remark: String,
    /// The close-up of this stage; `None` for the end of a fault.
    pub close_up: Option<CloseUp>,
    /// When the fault was over, if this stage ended it itself.
    pub over_ns: Option<u64>,
}

/// What the picture shows of a fault in detail.
pub struct CloseUp {
    /// At least this long, in nanoseconds; longer if the outage was.
    pub at_least_ns: u64,
    /// Labels of the lanes.
    pub lanes: [&'static str; 2],
}

/// A stage that was played.
pub struct Report {
    /// Its name.
    pub name: &'static str,
    /// What happened; `None` if it failed before anything did.
    pub played: Option<Played>,
    /// The UDP flow during the stage.
    pub udp: FlowReport,
    /// The TCP flow during the stage.
    pub tcp: FlowReport,
    /// Why it failed.
    pub failure: Option<String>,
}

impl Played {
    /// How long it took to be seen, in nanoseconds.
    pub fn seen_after_ns(&self) -> Option<u64> {
        self.seen.map(|(at, _)| at.saturating_sub(self.at_ns))
    }
}

impl<'a> Scene<'a> {
    /// With everything whole.
    pub fn new(lab: &'a Lab, watches: &'a [Watch; 2], udp: &'a Flow, tcp: &'a Flow) -> Self {
        Self { lab, watches, udp, tcp, broken: Cell::new(None) }
    }

    /// Plays a stage and sums up what the flows went through.
    pub fn play(&self, stage: &Stage) -> Report {
        let from_ns = boottime_ns();
        std::thread::sleep(BREATH);
        let played = (stage.play)(self);
        let to_ns = boottime_ns();
        std::thread::sleep(SETTLE);
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

    /// Breaks n2's path on the network that carries the traffic, and waits until n1 sees it and the flows go on.
    fn break_active(&self, act: impl Fn(&str) -> Result<Stamps>) -> Result<(String, Stamps, Event)> {
        let (network, remote) = self.active()?;
        let name = format!("net{network}");
        self.broken.set(Some((network, remote)));
        let stamps = act(&name)?;
        let down = self.n1().wait(stamps.before_ns, PATIENCE, |event| is_route(event, remote, "down"));
        let down = down.with_context(|| format!("n1 did not notice that n2 lost {name}"))?;
        self.wait_for_flows(down.boottime_ns + 2 * MILLISECOND)?;
        Ok((name, stamps, down))
    }

    /// Mends what is broken, and waits until n1's traffic is back where it was.
    fn mend(&self, act: impl Fn(&str) -> Result<Stamps>) -> Result<(String, Stamps, Event)> {
        let (network, remote) = self.broken.take().context("nothing is broken")?;
        let name = format!("net{network}");
        let stamps = act(&name)?;
        let up = self.n1().wait(stamps.before_ns, PATIENCE, |event| is_route(event, remote, "up"));
        let up = up.with_context(|| format!("n1 did not notice that n2 has {name} again"))?;
        let began = std::time::Instant::now();
        while cluster::active_network(self.lab, "n1", "n2")? != Some(network) {
            ensure!(began.elapsed() < PATIENCE, "traffic doesn't go back to {name}");
            std::thread::sleep(Duration::from_millis(20));
        }
        cluster::wait_until_whole(self.lab, PATIENCE)?;
        std::thread::sleep(BREATH / 2);
        Ok((name, stamps, up))
    }

    fn wait_for_flows(&self, after_ns: u64) -> Result<()> {
        for (what, flow) in [("UDP", self.udp), ("TCP", self.tcp)] {
            ensure!(flow.wait_for_arrival(after_ns, PATIENCE), "nothing of the {what} flow arrives any more");
        }
        Ok(())
    }

    fn no_route_went_down(&self, since_ns: u64) -> Result<()> {
        for watch in self.watches {
            let events = watch.since(since_ns);
            let down =
                events.iter().find(|event| event.kind == "route" && event.new.as_deref() != Some("up"));
            if let Some(down) = down {
                bail!("a route went down: {} ({})", down.subject, down.reason);
            }
        }
        Ok(())
    }
}

/// The two routes from n1 to n2, with 20 ms.
fn failover_close_up() -> Option<CloseUp> {
    Some(CloseUp { at_least_ns: 20 * MILLISECOND, lanes: ["n1 – n2  net1", "n1 – n2  net2"] })
}

fn silent_cut(scene: &Scene<'_>) -> Result<Played> {
    let (name, cut, down) =
        scene.break_active(|name| promptly(|| scene.lab.cut("n2", name, Direction::Both)))?;
    Ok(Played {
        done: format!("n2 silently loses {name}; no carrier is lost"),
        at_ns: cut.before_ns,
        seen: Some((down.boottime_ns, "route down")),
        remark: format!("n1's reason: {}", down.reason),
        close_up: failover_close_up(),
        over_ns: None,
    })
}

fn heal(scene: &Scene<'_>) -> Result<Played> {
    let (name, healed, up) = scene.mend(|name| scene.lab.heal("n2", name, Direction::Both))?;
    Ok(Played {
        done: format!("{name} works again"),
        at_ns: healed.before_ns,
        seen: Some((up.boottime_ns, "route up")),
        remark: format!("traffic went back to {name} after the fail-back hold"),
        close_up: None,
        over_ns: None,
    })
}

fn unplug(scene: &Scene<'_>) -> Result<Played> {
    let (name, pulled, down) = scene.break_active(|name| promptly(|| scene.lab.unplug("n2", name)))?;
    let told = down.reason == "peer-carrier-lost";
    Ok(Played {
        done: format!("n2's cable to {name} is pulled"),
        at_ns: pulled.before_ns,
        seen: Some((down.boottime_ns, "route down")),
        remark: if told {
            "n2 told n1 over the other network".to_string()
        } else {
            format!("n1's reason: {}", down.reason)
        },
        close_up: failover_close_up(),
        over_ns: None,
    })
}

fn plug(scene: &Scene<'_>) -> Result<Played> {
    let (name, plugged, up) = scene.mend(|name| scene.lab.plug("n2", name))?;
    Ok(Played {
        done: format!("n2's cable to {name} is back"),
        at_ns: plugged.before_ns,
        seen: Some((up.boottime_ns, "route up")),
        remark: format!("traffic went back to {name} after the fail-back hold"),
        close_up: None,
        over_ns: None,
    })
}

fn freeze(scene: &Scene<'_>) -> Result<Played> {
    let frozen = promptly(|| scene.lab.freeze("n3"))?;
    let stalled = scene.n1().wait(frozen.before_ns, PATIENCE, |event| is_node(event, "n3", "engine-stalled"));
    std::thread::sleep(Duration::from_millis(60));
    // Thawed before anything can fail, so that no later stage meets a frozen node.
    let thawed = scene.lab.thaw("n3")?;
    let stalled = stalled.context("n1 did not notice that n3's engine is frozen")?;
    let up = scene.n1().wait(thawed.before_ns, PATIENCE, |event| is_node(event, "n3", "up"));
    up.context("n1 did not notice that n3's engine runs again")?;
    std::thread::sleep(BREATH / 2);
    scene.no_route_went_down(frozen.before_ns)?;
    Ok(Played {
        done: "n3's daemon is stopped; its XDP goes on answering".into(),
        at_ns: frozen.before_ns,
        seen: Some((stalled.boottime_ns, "engine stalled")),
        remark: "no route went down".into(),
        close_up: Some(CloseUp { at_least_ns: 340 * MILLISECOND, lanes: ["n1 – n3  net1", "n3"] }),
        over_ns: Some(thawed.after_ns),
    })
}

fn kill(scene: &Scene<'_>) -> Result<Played> {
    let killed = promptly(|| scene.lab.kill("n2"))?;
    let started = scene.lab.start("n2")?;
    scene.wait_for_flows(started.after_ns)?;
    cluster::wait_until_whole(scene.lab, PATIENCE)?;
    std::thread::sleep(BREATH);
    scene.no_route_went_down(killed.before_ns)?;
    let adopted = cluster::status(scene.lab, "n2")?.daemon.adopted_routes;
    Ok(Played {
        done: "the daemon of the receiving node dies and is started".into(),
        at_ns: killed.before_ns,
        seen: None,
        remark: format!("no route went down; the new daemon adopted {adopted}"),
        close_up: Some(CloseUp { at_least_ns: 60 * MILLISECOND, lanes: ["n1 – n2  net1", "n2"] }),
        over_ns: Some(started.after_ns),
    })
}
