//! The cluster that runs in a lab, as its daemons describe it over their control sockets.

mod watch;

pub use watch::{Watch, far_end, is_node, is_route};

use crate::lab::{Lab, Setting};
use anyhow::{Context, Result, bail, ensure};
use netft_core::types::{NodeState, RouteState};
use netft_userspace::control::{Client, Request};
use netft_userspace::listing::{Adapter, Nodes, Reload, Route, Routes, Status};
use serde::de::DeserializeOwned;
use std::fs;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Asks the daemon of `node` over its control socket, and waits for the answer.
pub fn ask<T: DeserializeOwned>(lab: &Lab, node: &str, request: Request) -> Result<T> {
    let mut client = Client::connect(&lab.folder(node)?.join("control.sock"))?;
    let answer = client.ask(request).with_context(|| format!("asking {node}"))?;
    Ok(client.read(&answer)?)
}

/// All routes that `node` knows.
pub fn routes(lab: &Lab, node: &str) -> Result<Vec<Route>> {
    let document: Routes = ask(lab, node, Request::Routes { history: false, only: None })?;
    Ok(document.routes)
}

/// The page of `node` about itself.
pub fn status(lab: &Lab, node: &str) -> Result<Status> {
    ask(lab, node, Request::Status)
}

/// Changes a setting ("security.rekey=\"1s\"") in the configuration of a running node, and has it take effect.
pub fn change(lab: &Lab, node: &str, setting: &str) -> Result<()> {
    let file = lab.folder(node)?.join("netft.toml");
    let text = fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
    let mut table: toml::Table = text.parse().with_context(|| format!("{} is no TOML", file.display()))?;
    setting.parse::<Setting>()?.apply(&mut table)?;
    fs::write(&file, toml::to_string(&table)?).with_context(|| format!("writing {}", file.display()))?;
    let done: Reload = ask(lab, node, Request::Reload { dry_run: false })?;
    ensure!(done.applied, "{node} doesn't take {setting}: {done:?}");
    Ok(())
}

/// Names of the lab's nodes.
pub fn nodes(lab: &Lab) -> Vec<String> {
    (1..=lab.shape().nodes).map(|id| format!("n{id}")).collect()
}

/// The address of `node` on network `network` that routes use: the lab has IPv6 everywhere, and IPv6 is preferred.
pub fn address(network: u32, node: &str) -> Result<[IpAddr; 2]> {
    let id: u32 = node.trim_start_matches('n').parse().with_context(|| format!("{node} is no node"))?;
    Ok([format!("fd77:{network}::{id}").parse()?, format!("10.77.{network}.{id}").parse()?])
}

/// The number of the lab's network that `address` is on.
pub fn network_of(address: IpAddr) -> Option<u32> {
    match address {
        IpAddr::V4(address) => Some(u32::from(address.octets()[2])),
        IpAddr::V6(address) => format!("{:x}", address.segments()[1]).parse().ok(),
    }
}

/// The adapter of `node`, as `node` says.
pub fn adapter(lab: &Lab, node: &str) -> Result<Adapter> {
    let document: Nodes = ask(lab, node, Request::Nodes)?;
    let own = document.nodes.into_iter().find(|listed| listed.local);
    own.and_then(|own| own.adapter).with_context(|| format!("{node} doesn't list its own adapter"))
}

/// The lab's network that carries traffic from `node` to `peer` now.
pub fn active_network(lab: &Lab, node: &str, peer: &str) -> Result<Option<u32>> {
    let active = routes(lab, node)?.into_iter().find(|route| route.peer == peer && route.active);
    Ok(active.and_then(|route| network_of(route.local)))
}

/// Waits until every node sees every other one up over every network; returns how long that took.
pub fn wait_until_whole(lab: &Lab, patience: Duration) -> Result<Duration> {
    let began = Instant::now();
    loop {
        let wanting = wanting(lab);
        match wanting {
            Ok(None) => return Ok(began.elapsed()),
            Ok(Some(what)) if began.elapsed() > patience => {
                bail!("the cluster isn't whole after {:.1} s: {what}", patience.as_secs_f64());
            }
            Err(error) if began.elapsed() > patience => return Err(error),
            _ => std::thread::sleep(Duration::from_millis(2)),
        }
    }
}

/// Waits until traffic between all nodes goes over the best route that is up: after the fail-back hold.
pub fn wait_until_settled(lab: &Lab, patience: Duration) -> Result<()> {
    let began = Instant::now();
    loop {
        let mut elsewhere = None;
        for node in nodes(lab) {
            let known = routes(lab, &node)?;
            for route in known.iter().filter(|route| route.active) {
                let rivals =
                    known.iter().filter(|other| other.peer == route.peer && other.state == RouteState::Up);
                if rivals.map(|other| other.metric).min() != Some(route.metric) {
                    elsewhere = Some(format!("{node} reaches {} over {}", route.peer, route.network));
                }
            }
        }
        match elsewhere {
            None => return Ok(()),
            Some(where_it_is) if began.elapsed() > patience => {
                bail!(
                    "traffic doesn't go over the best route after {:.1} s: {where_it_is}",
                    patience.as_secs_f64()
                );
            }
            Some(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

/// What is missing for the cluster to be whole.
fn wanting(lab: &Lab) -> Result<Option<String>> {
    let names = nodes(lab);
    for node in &names {
        let listed: Nodes = ask(lab, node, Request::Nodes)?;
        let routes = routes(lab, node)?;
        for peer in names.iter().filter(|peer| *peer != node) {
            let state = listed.nodes.iter().find(|listed| listed.name == *peer).map(|listed| listed.state);
            if state != Some(NodeState::Up) {
                return Ok(Some(format!("{node} sees {peer} as {state:?}")));
            }
            let up =
                routes.iter().filter(|route| route.peer == *peer && route.state == RouteState::Up).count();
            if up < lab.shape().networks as usize {
                return Ok(Some(format!("{node} has {up} routes up to {peer}")));
            }
            if let Some(down) =
                routes.iter().find(|route| route.peer == *peer && route.state != RouteState::Up)
            {
                return Ok(Some(format!("{node}'s route to {peer} at {} is down", down.remote)));
            }
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_tell_their_network() {
        for network in [1, 2, 4] {
            for address in address(network, "n3").unwrap() {
                assert_eq!(network_of(address), Some(network));
            }
        }
    }
}
