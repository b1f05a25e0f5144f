//! Networks: the interfaces of all nodes grouped by the subnets they share, each with name, role and metric. Pure.
//!
//! Two subnets are one network if some interface of some node has addresses in both: that ties IPv4 and IPv6
//! together. Networks are numbered in the order of their lowest subnet, IPv4 first, so that all nodes that see the
//! same interfaces give the same numbers.
//!
//! Automatic metric: 40 000 for role 1 and 80 000 for role 3, less what the *slowest* interface in the network earns:
//!
//! | speed, at least | reduction |
//! | --- | --- |
//! | 100 Gbit/s | 12 800 |
//! | 40 Gbit/s | 11 200 |
//! | 25 Gbit/s | 10 400 |
//! | 10 Gbit/s | 9 600 |
//! | 5 Gbit/s | 6 400 |
//! | 2.5 Gbit/s | 4 800 |
//! | 1 Gbit/s | 3 200 |
//! | 100 Mbit/s | 1 600 |
//! | slower or unknown | 0 |
//!
//! and 6 400 more if all its interfaces have RDMA, 800 more if all have RSS. Networks that come out equal get +0, +1,
//! +2, … in the order of their numbers, so that automatic metrics are unique, and equal networks are less than 16
//! apart. Role 3 never beats role 1 by itself: all reductions together are 20 000.

use crate::membership::{NetworkOverride, Role};
use crate::types::{LinkState, NodeId};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// A subnet: an address with all host bits zero, and a prefix length. IPv4 sorts before IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Subnet {
    address: IpAddr,
    prefix_len: u8,
}

impl Subnet {
    /// The subnet of an address. A prefix longer than the address is cut to its length.
    pub fn of(address: IpAddr, prefix_len: u8) -> Self {
        match address {
            IpAddr::V4(v4) => {
                let prefix_len = prefix_len.min(32);
                let mask = u32::MAX.checked_shl(32 - u32::from(prefix_len)).unwrap_or(0);
                Self { address: Ipv4Addr::from_bits(v4.to_bits() & mask).into(), prefix_len }
            }
            IpAddr::V6(v6) => {
                let prefix_len = prefix_len.min(128);
                let mask = u128::MAX.checked_shl(128 - u32::from(prefix_len)).unwrap_or(0);
                Self { address: Ipv6Addr::from_bits(v6.to_bits() & mask).into(), prefix_len }
            }
        }
    }

    /// Whether `address` is in it.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.address.is_ipv4() == address.is_ipv4() && Self::of(address, self.prefix_len) == *self
    }

    /// Whether all of `other` is in it.
    pub fn covers(&self, other: &Subnet) -> bool {
        self.prefix_len <= other.prefix_len && self.contains(other.address)
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix_len)
    }
}

/// A text that is no subnet.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no subnet: write it like 10.77.1.0/24 or fd77:1::/64")]
pub struct SubnetError(String);

impl FromStr for Subnet {
    type Err = SubnetError;
    fn from_str(text: &str) -> Result<Self, SubnetError> {
        let error = || SubnetError(text.to_owned());
        let (address, prefix_len) = text.split_once('/').ok_or_else(error)?;
        let address: IpAddr = address.parse().map_err(|_| error())?;
        let prefix_len: u8 = prefix_len.parse().map_err(|_| error())?;
        let bits = if address.is_ipv4() { 32 } else { 128 };
        if prefix_len > bits { Err(error()) } else { Ok(Self::of(address, prefix_len)) }
    }
}

/// One address of one interface of one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// The node.
    pub node: NodeId,
    /// Number that ties the addresses of one interface together on its node.
    pub interface: u32,
    /// Interface name.
    pub name: String,
    /// Its subnet.
    pub subnet: Subnet,
    /// Mbit/s, 0 = unknown.
    pub speed_mbps: u32,
    /// A default route leaves by it.
    pub default_route: bool,
    /// RDMA capable.
    pub rdma: bool,
    /// More than one receive queue.
    pub rss: bool,
    /// Its link.
    pub link: LinkState,
}

/// A network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    /// 1, 2, …
    pub number: u32,
    /// "Cluster Network N" or the administrator's word.
    pub name: String,
    /// Its subnets, ascending: IPv4 first.
    pub subnets: Vec<Subnet>,
    /// Role.
    pub role: Role,
    /// Metric; lower wins.
    pub metric: u32,
    /// Interface names of the own node in it, ascending.
    pub interfaces: Vec<String>,
    /// Best link of these; `None` without any.
    pub link: Option<LinkState>,
}

/// Groups the interfaces of all nodes. `own` says whose interface names the globs of `overrides` mean.
pub fn group(attachments: &[Attachment], own: NodeId, overrides: &[NetworkOverride]) -> Vec<Network> {
    let mut networks = Vec::new();
    let (mut names, mut metrics) = (BTreeSet::new(), BTreeSet::new());
    for (members, number) in members(attachments).into_values().zip(1..) {
        let subnets: BTreeSet<Subnet> = members.iter().map(|member| member.subnet).collect();
        let local: Vec<&Attachment> = members.iter().copied().filter(|member| member.node == own).collect();
        let word = overrides.iter().find(|word| selects(word, &subnets, &local));
        let automatic_role = if members.iter().any(|member| member.default_route) {
            Role::ClusterAndClient
        } else {
            Role::Cluster
        };
        let role = word.and_then(|word| word.role).unwrap_or(automatic_role);
        let name = word.map_or_else(|| format!("Cluster Network {number}"), |word| word.name.clone());
        let metric = match word.and_then(|word| word.metric) {
            Some(metric) => metric,
            None => unique(automatic_metric(&members, role), &metrics),
        };
        metrics.insert(metric);
        networks.push(Network {
            number,
            name: unique_name(name, &mut names),
            subnets: subnets.into_iter().collect(),
            role,
            metric,
            interfaces: local
                .iter()
                .map(|member| member.name.clone())
                .collect::<BTreeSet<_>>()
                .into_iter()
                .collect(),
            link: local.iter().map(|member| member.link).min_by_key(|link| match link {
                LinkState::Up => 0,
                LinkState::NoCarrier => 1,
                LinkState::AdminDown => 2,
            }),
        });
    }
    networks
}

/// The network that has `subnet`.
pub fn find<'a>(networks: &'a [Network], subnet: &Subnet) -> Option<&'a Network> {
    networks.iter().find(|network| network.subnets.binary_search(subnet).is_ok())
}

/// Attachments by the lowest subnet of their network.
fn members(attachments: &[Attachment]) -> BTreeMap<Subnet, Vec<&Attachment>> {
    let mut lowest: BTreeMap<Subnet, Subnet> = attachments.iter().map(|a| (a.subnet, a.subnet)).collect();
    let mut first_of_interface = BTreeMap::new();
    for attachment in attachments {
        let first =
            *first_of_interface.entry((attachment.node, attachment.interface)).or_insert(attachment.subnet);
        let (one, other) = (root(&lowest, first), root(&lowest, attachment.subnet));
        lowest.insert(one.max(other), one.min(other));
    }
    let mut members: BTreeMap<Subnet, Vec<&Attachment>> = BTreeMap::new();
    for attachment in attachments {
        members.entry(root(&lowest, attachment.subnet)).or_default().push(attachment);
    }
    members
}

/// Follows a chain of ever lower subnets to its end.
fn root(lowest: &BTreeMap<Subnet, Subnet>, mut subnet: Subnet) -> Subnet {
    while let Some(&lower) = lowest.get(&subnet)
        && lower != subnet
    {
        subnet = lower;
    }
    subnet
}

fn selects(word: &NetworkOverride, subnets: &BTreeSet<Subnet>, local: &[&Attachment]) -> bool {
    word.matches.iter().any(|pattern| match pattern.parse::<Subnet>() {
        Ok(wanted) => subnets.iter().any(|subnet| wanted.covers(subnet)),
        Err(_) => local.iter().any(|member| glob(pattern.as_bytes(), member.name.as_bytes())),
    })
}

/// Whether `name` matches `pattern`, in which `*` is any run of bytes and `?` any single one.
pub fn glob(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n, mut star) = (0, 0, None);
    while n < name.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(&byte) if byte == b'?' || byte == name[n] => (p, n) = (p + 1, n + 1),
            _ => match star {
                Some((at, from)) => {
                    star = Some((at, from + 1));
                    (p, n) = (at + 1, from + 1);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|&byte| byte == b'*')
}

fn automatic_metric(members: &[&Attachment], role: Role) -> u32 {
    const SPEEDS: [(u32, u32); 8] = [
        (100_000, 12_800),
        (40_000, 11_200),
        (25_000, 10_400),
        (10_000, 9_600),
        (5_000, 6_400),
        (2_500, 4_800),
        (1_000, 3_200),
        (100, 1_600),
    ];
    let base = if role == Role::ClusterAndClient { 80_000 } else { 40_000 };
    let slowest = members.iter().map(|member| member.speed_mbps).min().unwrap_or(0);
    let speed =
        SPEEDS.iter().find(|(at_least, _)| slowest >= *at_least).map_or(0, |(_, reduction)| *reduction);
    let rdma = if members.iter().all(|member| member.rdma) { 6_400 } else { 0 };
    let rss = if members.iter().all(|member| member.rss) { 800 } else { 0 };
    base - speed - rdma - rss
}

fn unique(mut metric: u32, used: &BTreeSet<u32>) -> u32 {
    while used.contains(&metric) {
        metric += 1;
    }
    metric
}

/// An override can select several networks: the second one is "name 2".
fn unique_name(name: String, used: &mut BTreeSet<String>) -> String {
    let mut candidate = name.clone();
    let mut count = 1;
    while !used.insert(candidate.clone()) {
        count += 1;
        candidate = format!("{name} {count}");
    }
    candidate
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(node: u16, interface: u32, address: &str) -> Attachment {
        let (address, prefix_len) = address.split_once('/').unwrap();
        Attachment {
            node: NodeId::new(node).unwrap(),
            interface,
            name: format!("net{interface}"),
            subnet: Subnet::of(address.parse().unwrap(), prefix_len.parse().unwrap()),
            speed_mbps: 10_000,
            default_route: false,
            rdma: false,
            rss: false,
            link: LinkState::Up,
        }
    }

    fn own() -> NodeId {
        NodeId::new(1).unwrap()
    }

    fn two_networks() -> Vec<Attachment> {
        vec![
            at(1, 2, "10.77.2.1/24"),
            at(1, 2, "fd77:2::1/64"),
            at(1, 1, "10.77.1.1/24"),
            at(2, 5, "fd77:2::2/64"),
            at(2, 4, "10.77.1.2/24"),
            at(2, 4, "fd77:1::2/64"),
        ]
    }

    #[test]
    fn both_families_of_one_interface_are_one_network() {
        let networks = group(&two_networks(), own(), &[]);
        let texts: Vec<_> = networks
            .iter()
            .map(|n| (n.name.as_str(), n.subnets.iter().map(|s| s.to_string()).collect::<Vec<_>>().join(" ")))
            .collect();
        assert_eq!(
            texts,
            [
                ("Cluster Network 1", "10.77.1.0/24 fd77:1::/64".to_owned()),
                ("Cluster Network 2", "10.77.2.0/24 fd77:2::/64".to_owned())
            ]
        );
        assert_eq!(networks[0].interfaces, ["net1"]);
        assert_eq!(networks.iter().map(|n| n.metric).collect::<Vec<_>>(), [30_400, 30_401]);
    }

    #[test]
    fn the_order_of_attachments_does_not_matter() {
        let mut attachments = two_networks();
        let expected = group(&attachments, own(), &[]);
        for _ in 0..attachments.len() {
            attachments.rotate_left(1);
            assert_eq!(group(&attachments, own(), &[]), expected);
            let reversed: Vec<_> = attachments.iter().rev().cloned().collect();
            assert_eq!(group(&reversed, own(), &[]), expected);
        }
    }

    #[test]
    fn a_default_route_anywhere_makes_a_client_network() {
        let mut attachments = two_networks();
        attachments[3].default_route = true;
        let networks = group(&attachments, own(), &[]);
        assert_eq!((networks[0].role, networks[1].role), (Role::Cluster, Role::ClusterAndClient));
        assert_eq!(networks[1].metric, 70_400);
    }

    #[test]
    fn the_slowest_interface_decides_and_features_must_be_everywhere() {
        let metric = |change: fn(&mut Vec<Attachment>)| {
            let mut attachments = vec![at(1, 1, "10.0.0.1/24"), at(2, 1, "10.0.0.2/24")];
            change(&mut attachments);
            group(&attachments, own(), &[])[0].metric
        };
        assert_eq!(metric(|_| ()), 30_400);
        assert_eq!(metric(|a| a[1].speed_mbps = 1_000), 36_800);
        assert_eq!(metric(|a| a[1].speed_mbps = 0), 40_000);
        assert_eq!(metric(|a| a[0].rdma = true), 30_400);
        assert_eq!(metric(|a| a.iter_mut().for_each(|a| a.rdma = true)), 24_000);
        assert_eq!(metric(|a| a.iter_mut().for_each(|a| (a.rss, a.speed_mbps) = (true, 200_000))), 26_400);
    }

    #[test]
    fn administrators_override_by_subnet_or_interface() {
        let word = |name: &str, pattern: &str, role, metric| NetworkOverride {
            name: name.to_owned(),
            matches: vec![pattern.to_owned()],
            role,
            metric,
        };
        let overrides = [
            word("heartbeat", "fd77:1::/64", Some(Role::None), None),
            word("front", "net[2]", None, Some(7)),
            word("rest", "net?", Some(Role::ClusterAndClient), Some(9)),
        ];
        let networks = group(&two_networks(), own(), &overrides);
        assert_eq!((networks[0].name.as_str(), networks[0].role), ("heartbeat", Role::None));
        assert_eq!(
            (networks[1].name.as_str(), networks[1].role, networks[1].metric),
            ("rest", Role::ClusterAndClient, 9)
        );
        let networks = group(&two_networks(), own(), &overrides[2..]);
        assert_eq!((networks[0].name.as_str(), networks[1].name.as_str()), ("rest", "rest 2"));
    }

    #[test]
    fn globs() {
        for (pattern, name, matches) in [
            ("eth*", "eth0", true),
            ("eth*", "eth", true),
            ("*0", "eth0", true),
            ("*0", "eth1", false),
            ("e*h*1", "eth10h1", true),
            ("eth?", "eth", false),
            ("", "", true),
            ("", "x", false),
            ("**", "x", true),
        ] {
            assert_eq!(glob(pattern.as_bytes(), name.as_bytes()), matches, "{pattern} {name}");
        }
    }

    #[test]
    fn subnets_parse_and_mask() {
        let subnet: Subnet = "10.77.1.9/24".parse().unwrap();
        assert_eq!(subnet.to_string(), "10.77.1.0/24");
        assert!(subnet.contains("10.77.1.255".parse().unwrap()));
        assert!(!subnet.contains("10.77.2.1".parse().unwrap()));
        assert!("0.0.0.0/0".parse::<Subnet>().unwrap().covers(&subnet));
        assert!(!"::/0".parse::<Subnet>().unwrap().covers(&subnet));
        for bad in ["10.0.0.0", "10.0.0.0/33", "x/3", "::/129", ""] {
            assert!(bad.parse::<Subnet>().is_err(), "{bad}");
        }
    }
}
