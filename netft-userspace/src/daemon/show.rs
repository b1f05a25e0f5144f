//! The daemon's state as the documents of [`crate::listing`].

use super::Daemon;
use crate::engine::XdpMode;
use crate::listing::{
    Adapter, AdapterStatus, Clock, Cluster, ConfigShow, Data, Endpoint, Engine, InterfaceStatus, KeyRotation,
    Network, NetworkState, Networks, Node, Nodes, RefusedWire, Route, Routes, Rtt, Session, Status, Tally,
    ThisNode, Wire, us,
};
use netft_core::detect::RouteView;
use netft_core::membership::{EndpointView, OtherVersions, RouteInfo};
use netft_core::types::{Level, LinkState, Nanos, NodeState, RouteClass, RouteReason, RouteState, Timing};
use std::collections::BTreeMap;

impl Daemon {
    /// `netft status`.
    pub(super) fn status(&self) -> Status {
        let config = &self.config;
        let clock = Clock::now();
        let stats = self.engine.stats();
        let taken = self.pressure.in_all();
        let routes = self.routes(false, None).routes;
        let mut counters: Vec<(&str, u64)> = self.engine.counters();
        counters.extend(self.membership.counters());
        let peers = self.nodes().nodes;
        let peers = peers.iter().filter(|node| !node.local);
        Status {
            cluster: Cluster { name: config.cluster_name.clone(), id: config.cluster_id },
            node: ThisNode {
                name: config.node_name.clone(),
                id: config.node_id.get(),
                site: config.node_site.clone(),
                state: self.own_state(),
            },
            daemon: crate::listing::Daemon {
                version: env!("CARGO_PKG_VERSION").to_owned(),
                pid: std::process::id(),
                started: clock.format(self.started_ns),
                uptime_s: crate::sys::boottime().saturating_sub(self.started_ns) / 1_000_000_000,
                config_file: config.file.display().to_string(),
                security_level: config.level,
                other_levels: self.other_levels(),
                outdated_levels: self.outdated_levels(),
                secret: self.membership.secret().to_string(),
                key_rotation: self.rotation(),
                adopted_routes: self.adopted_routes,
            },
            wire: Wire {
                oldest: config.versions.oldest,
                newest: config.versions.newest,
                refused: self
                    .membership
                    .other_versions(crate::sys::boottime())
                    .into_iter()
                    .map(refused)
                    .collect(),
            },
            engine: Engine {
                wait: config.engine.wait,
                priority: stats.priority,
                priority_configured: config.engine.priority.unwrap_or(0),
                cpus: self.engine.cpus().to_vec(),
                loops: stats.loops,
                loop_gap_max_us: us(stats.loop_gap_max_ns),
                stalls: stats.loop_stalls,
                receive_stalls: stats.receive_stalls,
                postponed_verdicts: stats.postponed_verdicts,
                stolen_us: taken.stolen_us,
                waited_us: taken.waited_us,
                request_send_errors: stats.request_send_errors,
                notes: self.engine.notes(),
            },
            adapter: AdapterStatus { name: config.adapter_name.clone(), adapter: self.own_adapter() },
            interfaces: self.interface_statuses(),
            peers: Tally {
                up: peers.clone().filter(|node| node.state != NodeState::Down).count(),
                total: peers.count(),
            },
            routes: tally(&routes),
            rtt: Rtt::new(&stats.rtt),
            data: Data {
                policy: config.datapath.policy,
                frames_sent: stats.frames_sent,
                bytes_sent: stats.bytes_sent,
                frames_received: stats.frames_received,
                bytes_received: stats.bytes_received,
                xdp_sent: stats.bypass_sent,
                xdp_received: stats.bypass_received,
                threads: stats.data_threads,
                kept_bytes: stats.kept_bytes,
                replayed: stats.replayed,
                duplicated: stats.duplicated,
                keep_overflow: stats.keep_overflow,
                keep_expired: stats.keep_expired,
                buffer_bytes: self.engine.paths().iter().map(|path| path.buffer_bytes).sum(),
                drops: stats.drops.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect(),
            },
            counters: counters.into_iter().map(|(name, count)| (name.to_owned(), count)).collect(),
        }
    }

    /// The rotation of the cluster secret that is under way.
    pub(super) fn rotation(&self) -> Option<KeyRotation> {
        let rotation = self.membership.rotation()?;
        Some(KeyRotation {
            started_by: rotation.started_by,
            phase: rotation.phase,
            waits_for: rotation.waits_for,
            secret: rotation.secret.to_string(),
        })
    }

    /// Peers whose level differs from ours, as they said when keys were agreed on.
    fn other_levels(&self) -> BTreeMap<String, Level> {
        let peers = self.membership.peers().into_iter();
        let levels = peers.filter_map(|peer| Some((peer.name, peer.keys?.level.receive)));
        levels.filter(|(_, level)| *level != self.config.level).collect()
    }

    /// Peers to which we still send at another level than configured: there are no new keys with them yet.
    fn outdated_levels(&self) -> BTreeMap<String, Level> {
        let peers = self.membership.peers().into_iter();
        let levels = peers.filter_map(|peer| Some((peer.name, peer.keys?.level.send)));
        levels.filter(|(_, level)| *level != self.config.level).collect()
    }

    fn own_state(&self) -> NodeState {
        if self.stopping { NodeState::Leaving } else { NodeState::Up }
    }

    fn own_adapter(&self) -> Adapter {
        Adapter { mtu: self.engine.adapter_mtu(), ..self.membership.adapter().into() }
    }

    fn interface_statuses(&self) -> Vec<InterfaceStatus> {
        let paths = self.engine.paths();
        let report = |name: &str| self.reports.iter().find(|report| report.name == name);
        self.interfaces
            .iter()
            .map(|interface| InterfaceStatus {
                name: interface.name.clone(),
                link: interface.link,
                xdp: report(&interface.name).map_or(XdpMode::None, |report| report.mode),
                note: match report(&interface.name) {
                    Some(report) => report.note.clone(),
                    None => Some(format!("{} is not used: its network has role 0", interface.name)),
                },
                addresses: interface.addresses.iter().map(|(ip, len)| format!("{ip}/{len}")).collect(),
                mtu: interface.mtu,
                speed_mbps: (interface.speed_mbps != 0).then_some(interface.speed_mbps),
                path: paths.iter().find(|path| path.interface == interface.name).cloned(),
            })
            .collect()
    }

    /// `netft nodes`.
    pub(super) fn nodes(&self) -> Nodes {
        let clock = Clock::now();
        let own = Node {
            name: self.config.node_name.clone(),
            id: Some(self.config.node_id.get()),
            site: self.config.node_site.clone(),
            state: self.own_state(),
            local: true,
            adapter: Some(self.own_adapter()),
            last_change: Some(clock.format(self.started_ns)),
            silence_us: None,
            tick_age_us: None,
            session: None,
            endpoints: self.membership.endpoints().iter().map(endpoint).collect(),
        };
        let (views, now) = (self.engine.route_views(), crate::sys::boottime());
        let peers = self.membership.peers().into_iter().map(|peer| {
            let over = || views.iter().filter(|view| Some(view.peer) == peer.id);
            let known = peer.id.and_then(|id| self.node_states.get(&id));
            Node {
                name: peer.name,
                id: peer.id.map(|id| id.get()),
                site: peer.site,
                state: known.map_or(NodeState::Down, |known| known.state),
                local: false,
                adapter: peer.adapter.map(Adapter::from),
                last_change: known.map(|known| clock.format(known.since_ns)),
                silence_us: age_us(now, over().map(|view| view.heard_ns).max()),
                tick_age_us: age_us(now, over().map(|view| view.peer_tick_ns).max()),
                session: peer.keys.map(|keys| Session {
                    epoch: format!("{:08x}", keys.epoch),
                    wire_version: keys.version,
                    since: clock.format(keys.since_ns),
                    sends: keys.level.send,
                    receives: keys.level.receive,
                    renewals: keys.renewals,
                }),
                endpoints: peer.endpoints.iter().map(endpoint).collect(),
            }
        });
        Nodes { nodes: std::iter::once(own).chain(peers).collect() }
    }

    /// `netft networks`.
    pub(super) fn networks(&self) -> Networks {
        let routes = self.routes(false, None).routes;
        let paths = self.engine.paths();
        let networks = self.membership.networks().into_iter().map(|network| {
            let over: Vec<Route> =
                routes.iter().filter(|route| route.network == network.name).cloned().collect();
            let tally = tally(&over);
            let state = match (network.link, tally) {
                (Some(LinkState::NoCarrier | LinkState::AdminDown), _) => NetworkState::Down,
                (_, Tally { up, total }) if up == total && total > 0 => NetworkState::Up,
                (Some(LinkState::Up), Tally { total: 0, .. }) => NetworkState::Up,
                (_, Tally { up: 0, .. }) => NetworkState::Down,
                _ => NetworkState::Partial,
            };
            Network {
                name: network.name,
                subnet: network.subnets.first().cloned(),
                subnets: network.subnets,
                role: network.role,
                metric: network.metric,
                state,
                paths: paths
                    .iter()
                    .filter(|path| network.interfaces.contains(&path.interface))
                    .cloned()
                    .collect(),
                interfaces: network.interfaces,
                routes_up: tally.up,
                routes: tally.total,
            }
        });
        Networks { networks: networks.collect() }
    }

    /// `netft routes`, perhaps only those that `only` names by peer, network, interface address.
    pub(super) fn routes(&self, history: bool, only: Option<&str>) -> Routes {
        let clock = Clock::now();
        let views = self.engine.route_views();
        let wanted = |info: &RouteInfo| {
            only.is_none_or(|only| {
                let addresses = [info.local.to_string(), info.remote.to_string()];
                self.name_of(info) == only
                    || info.network == only
                    || addresses.iter().any(|address| address == only)
            })
        };
        let infos = self.membership.routes().into_iter().filter(wanted);
        let routes = infos.map(|info| {
            let view = views.iter().find(|view| Some(view.slot) == info.slot);
            self.route(info, view, history, clock)
        });
        Routes { routes: routes.collect() }
    }

    fn route(&self, info: RouteInfo, view: Option<&RouteView>, history: bool, clock: Clock) -> Route {
        let timing = self.timing(info.class);
        let carries = info.id.and_then(|id| self.active.get(&id));
        let active = info.slot.is_some() && carries == info.slot.as_ref();
        let history = history.then(|| self.record.history(info.local, info.remote, clock));
        Route {
            peer: self.name_of(&info),
            network: info.network,
            local: info.local,
            remote: info.remote,
            state: view.map_or(RouteState::Down, |view| view.state),
            active,
            rtt_us: view.filter(|view| view.srtt_ns > 0).map(|view| us(view.srtt_ns)),
            mtu: info
                .slot
                .and_then(|slot| self.engine.route_mtu(slot))
                .or((info.mtu != 0).then_some(info.mtu)),
            misses: view.map_or(0, |view| view.misses),
            last_change: view.map(|view| clock.format(view.since_ns)),
            reason: view.map_or(RouteReason::Starting, |view| view.reason),
            class: info.class,
            metric: info.metric,
            delay_us: us(timing.delay_ns),
            threshold: timing.threshold,
            sent: view.map_or(0, |view| view.sent),
            completed: view.map_or(0, |view| view.completed),
            silence_us: age_us(crate::sys::boottime(), view.map(|view| view.heard_ns)),
            flaps: view.map_or(0.0, |view| us(view.flaps_milli)),
            damped_left_ms: view
                .filter(|view| view.damped_left_ns > 0)
                .map(|view| us(view.damped_left_ns) / 1000.0),
            slot: info.slot.map(|slot| slot.get()),
            history,
        }
    }

    fn timing(&self, class: RouteClass) -> Timing {
        match class {
            RouteClass::SameSubnet => self.config.same_subnet,
            RouteClass::CrossSubnet => self.config.cross_subnet,
            RouteClass::CrossSite => self.config.cross_site,
        }
    }

    /// `netft config show`.
    pub(super) fn config_show(&self) -> ConfigShow {
        ConfigShow {
            file: self.config.file.display().to_string(),
            config: self.config.entries().into_iter().collect(),
        }
    }
}

/// Age of a stamp; 0 = never.
fn age_us(now: Nanos, stamp: Option<Nanos>) -> Option<f64> {
    stamp.filter(|stamp| *stamp > 0).map(|stamp| us(now.saturating_sub(stamp)))
}

fn tally(routes: &[Route]) -> Tally {
    Tally { up: routes.iter().filter(|route| route.state == RouteState::Up).count(), total: routes.len() }
}

fn endpoint(endpoint: &EndpointView) -> Endpoint {
    Endpoint {
        interface: endpoint.interface.clone(),
        address: format!("{}/{}", endpoint.address, endpoint.prefix_len),
        mac: netft_core::adapter::format_mac(endpoint.mac),
        link: endpoint.link,
        mtu: endpoint.mtu,
        speed_mbps: (endpoint.speed_mbps != 0).then_some(endpoint.speed_mbps),
    }
}

fn refused(other: OtherVersions) -> RefusedWire {
    let OtherVersions { peer, from, versions } = other;
    RefusedWire { node: peer, address: from, oldest: versions.oldest, newest: versions.newest }
}
