//! Where VIPs can be: which interface of this node, and which nodes at all. Pure.

use netft_consensus::Place;
use netft_core::networks::Subnet;
use netft_core::ownership::{Standing, VipAddress, VipSettings};
use netft_core::types::NodeId;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// An address of a node on one of its interfaces, next to which a VIP may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spot {
    /// Name of the interface.
    pub interface: String,
    /// Its kernel index, 0 = another node's.
    pub ifindex: u32,
    /// Its hardware address.
    pub mac: [u8; 6],
    /// The node's own address there.
    pub address: IpAddr,
    /// Length of its subnet's prefix.
    pub prefix_len: u8,
    /// Name of its network, as this node knows it.
    pub network: Option<String>,
    /// Its link is up, and what leaves by it passes the fence.
    pub usable: bool,
}

impl Spot {
    fn subnet(&self) -> Subnet {
        Subnet::of(self.address, self.prefix_len)
    }

    fn is_for(&self, vip: &VipAddress, network: Option<&str>) -> bool {
        let same_family = vip.address.is_ipv4() == self.address.is_ipv4();
        match network {
            Some(network) => same_family && self.network.as_deref() == Some(network),
            None => self.subnet().contains(vip.address),
        }
    }
}

/// Where an address of a VIP goes to: next to an own address in its subnet, or on the network that the administrator named.
pub fn place<'a>(spots: &'a [Spot], vip: &VipAddress, network: Option<&str>) -> Option<&'a Spot> {
    spots.iter().find(|spot| spot.usable && spot.is_for(vip, network))
}

/// Whether a node with these addresses can serve all addresses of a VIP.
pub fn can_serve(spots: &[Spot], vip: &VipSettings) -> bool {
    vip.addresses.iter().all(|address| place(spots, address, vip.network_name.as_deref()).is_some())
}

/// What is known of a node when the cluster is founded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Founder {
    /// Its site.
    pub site: Option<String>,
    /// Its addresses.
    pub spots: Vec<Spot>,
    /// Whether it may own VIPs.
    pub standing: Standing,
}

/// Numbers of sites and subnets: nodes that share a subnet, directly or by others, have the same number.
pub fn number(founders: &BTreeMap<NodeId, Founder>) -> BTreeMap<NodeId, Place> {
    let mut sites: Vec<_> = founders.values().map(|founder| founder.site.clone()).collect();
    sites.sort();
    sites.dedup();
    let nodes: Vec<NodeId> = founders.keys().copied().collect();
    let mut groups: Vec<usize> = (0..nodes.len()).collect();
    for one in 0..nodes.len() {
        for other in 0..one {
            let (Some(first), Some(second)) = (founders.get(&nodes[one]), founders.get(&nodes[other])) else {
                continue;
            };
            let (from, to) = (groups[one], groups[other]);
            if from != to && share_a_subnet(first, second) {
                groups.iter_mut().filter(|group| **group == from).for_each(|group| *group = to);
            }
        }
    }
    let place = |(index, node): (usize, &NodeId)| {
        let founder = founders.get(node)?;
        let site = sites.iter().position(|site| *site == founder.site)?;
        let (site, subnet) = (u16::try_from(site).ok()?, u16::try_from(groups[index]).ok()?);
        Some((*node, Place { site, subnet, standing: founder.standing }))
    };
    nodes.iter().enumerate().filter_map(place).collect()
}

fn share_a_subnet(one: &Founder, other: &Founder) -> bool {
    one.spots.iter().any(|spot| other.spots.iter().any(|other| other.subnet() == spot.subnet()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spot(interface: &str, address: &str, network: &str) -> Spot {
        let VipAddress { address, prefix_len } = address.parse().unwrap();
        let network = Some(network.to_owned());
        Spot {
            interface: interface.into(),
            ifindex: 1,
            mac: [2; 6],
            address,
            prefix_len,
            network,
            usable: true,
        }
    }

    fn vip(addresses: &[&str], network: Option<&str>) -> VipSettings {
        VipSettings {
            name: "web".into(),
            addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
            network_name: network.map(str::to_owned),
            ..VipSettings::default()
        }
    }

    #[test]
    fn a_vip_goes_to_the_interface_with_its_subnet() {
        let mut spots = vec![
            spot("eth0", "10.0.1.1/24", "back"),
            spot("eth1", "10.0.2.1/24", "front"),
            spot("eth1", "fd00:2::1/64", "front"),
        ];
        let of = |spots: &[Spot], address: &str, network| {
            place(spots, &address.parse().unwrap(), network).map(|spot| spot.interface.clone())
        };
        assert_eq!(of(&spots, "10.0.2.100/24", None), Some("eth1".into()));
        assert_eq!(of(&spots, "10.0.2.100/32", None), Some("eth1".into()), "a host's own prefix is narrower");
        assert_eq!(of(&spots, "192.0.2.1/32", None), None);
        assert_eq!(of(&spots, "192.0.2.1/32", Some("back")), Some("eth0".into()));
        assert_eq!(of(&spots, "fd00:9::1/128", Some("back")), None, "no IPv6 there");
        assert!(can_serve(&spots, &vip(&["10.0.2.100/24", "fd00:2::100/64"], None)));
        spots[1].usable = false;
        assert!(!can_serve(&spots, &vip(&["10.0.2.100/24", "fd00:2::100/64"], None)), "one link is down");
    }

    #[test]
    fn nodes_that_share_a_subnet_have_one_number() {
        let founder = |site: Option<&str>, addresses: &[&str]| Founder {
            site: site.map(str::to_owned),
            spots: addresses.iter().map(|address| spot("eth0", address, "x")).collect(),
            standing: Standing::Active,
        };
        let founders = [
            founder(None, &["10.0.1.1/24"]),
            founder(None, &["10.0.3.2/24"]),
            founder(None, &["10.0.1.3/24", "10.0.3.3/24"]),
            founder(None, &["10.0.4.4/24"]),
            founder(Some("west"), &["10.0.9.5/24"]),
        ];
        let founders = (1..).zip(founders).map(|(id, founder)| (NodeId::new(id).unwrap(), founder)).collect();
        let places: Vec<_> =
            number(&founders).into_values().map(|place| (place.site, place.subnet)).collect();
        assert_eq!(places[0], places[1], "by node 3");
        assert_eq!(places[1], places[2]);
        assert_ne!(places[2].1, places[3].1);
        assert_ne!(places[3].0, places[4].0);
    }
}
