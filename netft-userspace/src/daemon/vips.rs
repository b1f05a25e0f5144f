//! What the control thread does for VIPs: fences interfaces, tells ownership what there is, and records what it says.

use super::{Daemon, Note};
use crate::config::Config;
use crate::engine::fence::{FenceWords, FencedInterface};
use crate::listing::{Clock, Vip, Vips};
use crate::netlink;
use crate::ownership::{
    Founder, NodeFacts, Ownership, Setup, Spot, Surroundings, Told, Wishes, kept, remove_all,
};
use netft_core::keys::Keyring;
use netft_core::membership::EndpointView;
use netft_core::networks::Subnet;
use netft_core::ownership::{Leases, Standing, VipId};
use netft_core::types::{LinkState, NodeId};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;

/// Where ownership keeps its files.
pub(super) fn folder(config: &Config) -> PathBuf {
    config.state_dir.join(kept::FOLDER)
}

/// Addresses that an earlier daemon may have left on interfaces.
pub(super) fn left_addresses(config: &Config) -> Vec<(VipId, IpAddr)> {
    let left = kept::load_addresses(&folder(config));
    left.into_iter().flat_map(|(vip, all)| all.into_iter().map(move |one| (vip, one.address))).collect()
}

pub(super) fn wishes(config: &Config) -> Wishes {
    let leases = Leases {
        same_subnet_ns: config.same_subnet.detection_ns(),
        cross_subnet_ns: config.cross_subnet.detection_ns(),
        cross_site_ns: config.cross_site.detection_ns(),
    };
    Wishes { vips: config.vips.clone(), leases }
}

impl Daemon {
    /// Starts ownership if the configuration has VIPs, or this node is a witness. Without, whatever is left of an earlier one is
    /// removed.
    pub(super) fn start_ownership(&mut self) {
        if self.ownership.is_some() {
            return;
        }
        if !self.config.decides_ownership() {
            if let Err(error) = self.forget_vips() {
                let text = format!(
                    "addresses of VIPs that an earlier netftd left can't be removed ({error}): see `ip address`"
                );
                self.note(Note::Warning, "vip", "vips", &text);
            }
            return;
        }
        for warning in self.config.warnings() {
            self.note(Note::Warning, "vip", "vips", &warning);
        }
        self.fence_interfaces();
        match self.set_ownership_up() {
            Ok(ownership) => self.ownership = Some(ownership),
            Err(error) => {
                let text =
                    format!("this node takes no part in VIPs: {error}; restart netftd when that is mended");
                self.note(Note::Warning, "vip", "vips", &text);
            }
        }
    }

    fn set_ownership_up(&mut self) -> anyhow::Result<Ownership> {
        let words = || self.engine.fence_words();
        let words = [words()?, words()?, words()?];
        Ok(Ownership::start(Setup {
            own: self.config.node_id,
            cluster_id: self.config.cluster_id,
            keyring: Keyring::new(&self.secret, self.config.cluster_id),
            folder: folder(&self.config),
            adapter: self.config.adapter_name.clone(),
            detection_ns: self.config.same_subnet.detection_ns(),
            words,
            wishes: wishes(&self.config),
            surroundings: self.surroundings(),
            states: self.node_states.iter().map(|(node, known)| (*node, known.state)).collect(),
        })?)
    }

    fn forget_vips(&mut self) -> anyhow::Result<()> {
        let folder = folder(&self.config);
        let left = kept::load_addresses(&folder);
        if left.is_empty() {
            return Ok(());
        }
        let mut words: FenceWords = self.engine.fence_words()?;
        words.owned().into_iter().for_each(|(vip, _)| words.clear_owner(vip));
        remove_all(&left)?;
        for vip in left.values().flatten() {
            words.remove_address(vip.address)?;
        }
        kept::store_addresses(&folder, &kept::Addresses::new())?;
        self.engine.set_fenced(&[]);
        Ok(())
    }

    /// Every interface by which a VIP's frames may leave passes the fence, `lo` and those without addresses among them.
    pub(super) fn fence_interfaces(&mut self) {
        if !self.config.decides_ownership() {
            return;
        }
        let interfaces = match netlink::ethernet() {
            Ok(interfaces) => interfaces,
            Err(error) => return self.note(Note::Warning, "vip", "vips", &error.to_string()),
        };
        let interfaces: Vec<_> =
            interfaces.into_iter().map(|(ifindex, name)| FencedInterface { ifindex, name }).collect();
        let reports = self.engine.set_fenced(&interfaces);
        for report in &reports {
            if let Some(note) = report.note.as_ref().filter(|_| !self.fence_reports.contains(report)) {
                self.record.note(Note::Warning, "interface", &report.name, note);
            }
        }
        self.fence_reports = reports;
    }

    /// Tells ownership what there is, if that has changed.
    pub(super) fn tell_surroundings(&mut self) {
        if self.ownership.is_some() {
            let surroundings = self.surroundings();
            if let Some(ownership) = &mut self.ownership {
                ownership.surroundings(surroundings);
            }
        }
    }

    fn surroundings(&self) -> Surroundings {
        let networks: BTreeMap<String, String> = self
            .membership
            .networks()
            .into_iter()
            .flat_map(|network| network.subnets.into_iter().map(move |subnet| (subnet, network.name.clone())))
            .collect();
        let fenced: BTreeSet<&str> = self
            .fence_reports
            .iter()
            .filter(|report| report.fenced)
            .map(|report| report.name.as_str())
            .collect();
        let spot = |endpoint: &EndpointView, ifindex: u32, usable: bool| Spot {
            interface: endpoint.interface.clone(),
            ifindex,
            mac: endpoint.mac,
            address: endpoint.address,
            prefix_len: endpoint.prefix_len,
            network: networks.get(&Subnet::of(endpoint.address, endpoint.prefix_len).to_string()).cloned(),
            usable: usable && endpoint.link == LinkState::Up,
        };
        let standing = |name: &str| match self.config.witnesses.contains(name) {
            true => Standing::Witness,
            false => Standing::Active,
        };
        let endpoints = self.membership.endpoints();
        let own_spots = endpoints.iter().filter_map(|endpoint| {
            let interface = self.interfaces.iter().find(|known| known.name == endpoint.interface)?;
            Some(spot(endpoint, interface.ifindex, fenced.contains(endpoint.interface.as_str())))
        });
        let own_name = &self.config.node_name;
        let own = NodeFacts {
            id: Some(self.config.node_id),
            met: true,
            adapter: Some(self.membership.adapter().ipv4),
            founder: Founder {
                site: self.config.node_site.clone(),
                spots: own_spots.collect(),
                standing: standing(own_name),
            },
        };
        let peers = self.membership.peers().into_iter().map(|peer| {
            let spots = peer.endpoints.iter().map(|endpoint| spot(endpoint, 0, true)).collect();
            let facts = NodeFacts {
                id: peer.id,
                met: peer.session_since_ns.is_some() && peer.id.is_some(),
                adapter: peer.adapter.map(|adapter| adapter.ipv4),
                founder: Founder { site: peer.site, spots, standing: standing(&peer.name) },
            };
            (peer.name, facts)
        });
        Surroundings { nodes: peers.chain([(own_name.clone(), own)]).collect() }
    }

    /// What ownership says.
    pub(super) fn handle_told(&mut self, told: Told) {
        match told {
            Told::Owner { vip, old, new, why } => {
                let name = |node: Option<NodeId>| node.map(|node| self.node_name(node));
                self.record.vip(&vip, name(old), name(new), why);
            }
            Told::Address { address, interface, added } => {
                let here = Some(interface);
                let (old, new) = if added { (None, here) } else { (here, None) };
                self.record.vip_address(&address.to_string(), old, new);
            }
            Told::Info(text) => self.note(Note::Info, "vip", "vips", &text),
            Told::Warning(text) => self.note(Note::Warning, "vip", "vips", &text),
        }
    }

    pub(super) fn drain_ownership(&mut self) {
        while let Some(told) = self.ownership.as_mut().and_then(Ownership::try_event) {
            self.handle_told(told);
        }
    }

    fn node_name(&self, node: NodeId) -> String {
        if node == self.config.node_id { self.config.node_name.clone() } else { self.peer_name(node) }
    }

    /// `netft vips`.
    pub(super) fn vips(&self) -> Vips {
        let clock = Clock::now();
        let Some(ownership) = &self.ownership else {
            return Vips { leader: None, trouble: None, differences: Vec::new(), vips: Vec::new() };
        };
        let view = ownership.view();
        let vips = view.vips.into_iter().map(|vip| Vip {
            name: vip.name,
            addresses: vip.addresses.iter().map(ToString::to_string).collect(),
            owner: vip.owner.map(|owner| self.node_name(owner)),
            local: vip.owner == Some(self.config.node_id),
            epoch: vip.epoch,
            state: vip.state,
            since: vip.since_ns.map(|since_ns| clock.format(since_ns)),
            why: vip.why.filter(|_| vip.owner.is_some()),
        });
        Vips {
            vips: vips.collect(),
            leader: view.leader.map(|leader| self.node_name(leader)),
            trouble: view.trouble,
            differences: view.differences,
        }
    }

    /// A clean stop, first half: others take this node's VIPs, which one message tells them. A leader does that while it still
    /// leads; the peers of others must hear that they leave.
    pub(super) async fn hand_over(&mut self) {
        let Some(ownership) = &self.ownership else { return self.engine.leave() };
        let leads = ownership.view().leader == Some(self.config.node_id);
        let handed_over = ownership.leave();
        if !leads {
            self.engine.leave();
        }
        // It answers within its own limit.
        let _ = handed_over.await;
        self.engine.leave();
        self.drain_ownership();
    }

    /// The second: nothing of a VIP is left here.
    pub(super) fn stop_ownership(&mut self) {
        if let Some(ownership) = self.ownership.take() {
            ownership.stop();
        }
    }
}
