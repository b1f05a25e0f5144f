//! The lab that detection is measured in: all daemons up, and somebody listening to each.

use crate::cluster::{self, Watch, address, is_route};
use crate::interrupt;
use crate::lab::{LabGuard, Options};
use crate::traffic::boottime_ns;
use anyhow::{Context, Result};
use netft_userspace::listing::Event;
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

/// How long a cluster may take to be whole.
const WHOLE_PATIENCE: Duration = Duration::from_secs(20);

/// A whole cluster under watch.
pub(in crate::bench) struct Bed {
    pub watches: Vec<(String, Watch)>,
    pub lab: LabGuard,
}

/// Stalls that nodes have counted.
#[derive(Clone, Copy, Debug, Default, serde::Serialize)]
pub(in crate::bench) struct Stalls {
    /// Their detection threads were late.
    pub own: u64,
    /// A CPU didn't handle what it received.
    pub receive: u64,
    /// Verdicts that were put off because of either.
    pub postponed_verdicts: u64,
}

impl Stalls {
    /// What came since `before`.
    pub fn since(self, before: Self) -> Self {
        Self {
            own: self.own - before.own,
            receive: self.receive - before.receive,
            postponed_verdicts: self.postponed_verdicts - before.postponed_verdicts,
        }
    }
}

impl fmt::Display for Stalls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { own, receive, postponed_verdicts } = self;
        write!(
            f,
            "{own} of detection threads, {receive} of CPUs that handle legs; {postponed_verdicts} verdicts put off"
        )
    }
}

/// A route seen from one of its ends.
#[derive(Clone, Debug)]
pub(in crate::bench) struct End {
    /// The node that looks.
    pub node: String,
    /// The peer it looks at.
    pub peer: String,
    /// The peer's address.
    pub remote: IpAddr,
}

impl Bed {
    /// Builds it: `settings` as for `lab up --set`.
    pub fn make(nodes: u32, networks: u32, settings: &[&str]) -> Result<Self> {
        let name = LabGuard::unique_name("bench");
        interrupt::take_down(&name)?;
        let options = Options::new(&name, nodes, networks);
        let options = settings.iter().try_fold(options, |options, setting| options.set(setting))?;
        let lab = LabGuard::up(&options)?;
        let names = cluster::nodes(&lab);
        let watches = names
            .into_iter()
            .map(|node| Watch::start(&lab, &node).map(|watch| (node, watch)))
            .collect::<Result<_>>()?;
        cluster::wait_until_whole(&lab, WHOLE_PATIENCE)?;
        // What happens in the first moments belongs to the start, not to the measurement.
        std::thread::sleep(Duration::from_millis(100));
        Ok(Self { watches, lab })
    }

    /// Who listens to `node`.
    pub fn watch(&self, node: &str) -> Result<&Watch> {
        let found = self.watches.iter().find(|(name, _)| name == node);
        found.map(|(_, watch)| watch).with_context(|| format!("{node} isn't watched"))
    }

    /// Both ends of every route of `node` over `network`.
    pub fn ends(&self, node: &str, network: u32) -> Result<Vec<End>> {
        let peers = cluster::nodes(&self.lab).into_iter().filter(|peer| peer != node);
        let mut ends = Vec::new();
        for peer in peers {
            for (looks, at) in [(node, peer.as_str()), (peer.as_str(), node)] {
                let candidates = address(network, at)?;
                let known = cluster::routes(&self.lab, looks)?;
                let route = known.iter().find(|route| candidates.contains(&route.remote));
                let route =
                    route.with_context(|| format!("{looks} has no route to {at} over net{network}"))?;
                ends.push(End { node: looks.to_string(), peer: at.to_string(), remote: route.remote });
            }
        }
        Ok(ends)
    }

    /// The event that says that the route became `state`, at or after `from_ns`.
    pub fn route_event(&self, end: &End, state: &str, from_ns: u64, patience: Duration) -> Result<Event> {
        let event =
            self.watch(&end.node)?.wait(from_ns, patience, |event| is_route(event, end.remote, state));
        event.with_context(|| {
            let End { node, peer, remote } = end;
            format!(
                "{node} did not report its route to {peer} ({remote}) as {state} in {} s",
                patience.as_secs()
            )
        })
    }

    /// All route events into `down` on all nodes from `from_ns` on.
    pub fn downs_since(&self, from_ns: u64) -> Vec<(String, Event)> {
        let mut downs = Vec::new();
        for (node, watch) in &self.watches {
            let events = watch.since(from_ns).into_iter();
            let down = events.filter(|event| event.kind == "route" && event.new.as_deref() != Some("up"));
            downs.extend(down.map(|event| (node.clone(), event)));
        }
        downs
    }

    /// What the nodes count of stalls, all together.
    pub fn stalls(&self) -> Result<Stalls> {
        let mut all = Stalls::default();
        for (node, _) in &self.watches {
            let engine = cluster::status(&self.lab, node)?.engine;
            all.own += engine.stalls;
            all.receive += engine.receive_stalls;
            all.postponed_verdicts += engine.postponed_verdicts;
        }
        Ok(all)
    }

    /// The longest any node's detection thread was late so far, in microseconds.
    pub fn longest_loop_gap_us(&self) -> Result<f64> {
        let gaps =
            self.watches.iter().map(|(node, _)| Ok(cluster::status(&self.lab, node)?.engine.loop_gap_max_us));
        gaps.collect::<Result<Vec<_>>>().map(|gaps| gaps.into_iter().fold(0.0, f64::max))
    }

    /// Waits until everybody sees everybody again.
    pub fn wait_until_whole(&self) -> Result<()> {
        cluster::wait_until_whole(&self.lab, WHOLE_PATIENCE).map(|_| ())
    }

    /// Sleeps until at least `pause` after `since_ns` (boottime).
    pub fn keep_distance(since_ns: u64, pause: Duration) {
        let passed = Duration::from_nanos(boottime_ns().saturating_sub(since_ns));
        std::thread::sleep(pause.saturating_sub(passed));
    }
}
