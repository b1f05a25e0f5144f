//! What `netft nodes`, `networks` and `routes` show of membership.

use super::machine::Membership;
use super::peer::{Endpoint, Peer, RouteKey};
use super::{KeysView, NetworkView, PeerView, RouteInfo};
use crate::networks::{self, Network};
use crate::types::{RouteClass, RouteState, Slot};

impl Membership {
    /// Every configured peer, by name.
    pub fn peers(&self) -> Vec<PeerView> {
        self.peers.iter().map(|(name, peer)| peer.view(name)).collect()
    }

    /// Every network, by number.
    pub fn networks(&self) -> Vec<NetworkView> {
        let view = |network: &Network| NetworkView {
            number: network.number,
            name: network.name.clone(),
            subnets: network.subnets.iter().map(ToString::to_string).collect(),
            role: network.role,
            metric: network.metric,
            interfaces: network.interfaces.clone(),
            link: network.link,
        };
        self.networks.iter().map(view).collect()
    }

    /// Every known route, by peer name and addresses. A peer that hasn't introduced itself is listed with its
    /// configured addresses.
    pub fn routes(&self) -> Vec<RouteInfo> {
        let mut routes = Vec::new();
        for (name, peer) in &self.peers {
            if peer.session.is_none() {
                routes.extend(self.expected(name, peer));
            }
            routes.extend(peer.routes.iter().map(|(key, route)| RouteInfo {
                slot: Some(route.slot),
                peer: name.clone(),
                id: peer.id(),
                network: route.network.clone(),
                local: key.local,
                remote: key.remote,
                class: route.class,
                metric: route.metric,
                mtu: route.mtu,
                state: route.state,
            }));
        }
        routes.extend(self.adopted.iter().filter_map(|(slot, adopted)| {
            let install = adopted.installed.as_ref()?;
            let id = adopted.peer();
            Some(RouteInfo {
                slot: Some(*slot),
                peer: id
                    .and_then(|id| self.name_of(id))
                    .unwrap_or_else(|| format!("node {}", adopted.config.peer)),
                id,
                network: install.network.clone(),
                local: adopted.local(),
                remote: adopted.remote(),
                class: install.class,
                metric: install.metric,
                mtu: install.mtu,
                state: adopted.state,
            })
        }));
        routes.sort_by(|one, other| {
            let key = |info: &RouteInfo| RouteKey { local: info.local, remote: info.remote };
            (&one.peer, key(one)).cmp(&(&other.peer, key(other)))
        });
        routes
    }

    /// The route that has `slot`.
    pub fn route(&self, slot: Slot) -> Option<RouteInfo> {
        self.routes().into_iter().find(|route| route.slot == Some(slot))
    }

    /// What the routes of a silent peer could be.
    fn expected<'a>(&'a self, name: &'a str, peer: &'a Peer) -> impl Iterator<Item = RouteInfo> + 'a {
        let adopted = move |remote| {
            self.adopted.iter().any(|(_, slot)| slot.remote() == remote && slot.peer() == peer.id())
        };
        let addresses = peer.config.addresses.iter().copied().filter(move |remote| !adopted(*remote));
        addresses.filter_map(move |remote| {
            let local = *self.sources.get(&remote)?;
            let own: Option<&Endpoint> = self.endpoints.iter().find(|own| own.address == local);
            let network = own.and_then(|own| networks::find(&self.networks, &own.subnet()));
            let same = own.is_some_and(|own| own.subnet().contains(remote));
            Some(RouteInfo {
                slot: None,
                peer: name.to_owned(),
                id: peer.id(),
                network: network.map(|network| network.name.clone()).unwrap_or_default(),
                local,
                remote,
                class: if same { RouteClass::SameSubnet } else { self.across(peer.site()) },
                metric: network.map_or(0, |network| network.metric),
                mtu: own.map_or(0, |own| own.mtu),
                state: RouteState::Down,
            })
        })
    }
}

impl Peer {
    fn view(&self, name: &str) -> PeerView {
        let session = self.session.as_ref();
        PeerView {
            name: name.to_owned(),
            id: self.id(),
            site: self.site().map(str::to_owned),
            session_since_ns: session.map(|session| session.since_ns),
            keys: session.and_then(|session| {
                let exchange = &session.exchange;
                let (since_ns, level) = (exchange.since_ns()?, exchange.levels()?);
                Some(KeysView {
                    epoch: exchange.epoch(),
                    version: exchange.version()?,
                    since_ns,
                    level,
                    renewals: exchange.renewals(),
                })
            }),
            leaving: session.is_some_and(|session| session.leaving),
            adapter: session.map(|session| session.said.adapter),
            endpoints: session
                .map(|session| session.said.endpoints.iter().map(Endpoint::view).collect())
                .unwrap_or_default(),
        }
    }
}
