//! What a lab consists of: nodes, networks, who is on which, and every name, address and index that follows.

use anyhow::{Result, bail, ensure};
use serde::{Deserialize, Serialize};

/// Host number of the client on its network.
pub const CLIENT_HOST: u32 = 200;
/// Host number of the router on each network.
pub const ROUTER_HOST: u32 = 254;
/// Most nodes a lab can have: host numbers below the client's.
pub const MAX_NODES: u32 = 64;
/// Most networks: what one node may announce in its hello, half of them IPv6.
pub const MAX_NETWORKS: u32 = 8;
/// Most queues of a cable.
pub const MAX_QUEUES: u32 = 16;

/// The shape of a lab. Everything else about its topology is computed from these.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shape {
    /// Prefix of its namespaces.
    pub name: String,
    /// Nodes, `n1` to `n<nodes>`.
    pub nodes: u32,
    /// Networks, `net1` to `net<networks>`.
    pub networks: u32,
    /// Two halves of the nodes on subnets of their own, with a router between.
    pub routed: bool,
    /// Queues of every cable, in each direction.
    #[serde(default = "one")]
    pub queues: u32,
}

/// As many queues as labs had that don't say how many.
fn one() -> u32 {
    1
}

/// Who has a namespace with interfaces on the switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Host {
    /// A cluster node, 1-based.
    Node(u32),
    /// The client.
    Client,
    /// The router, in a routed lab.
    Router,
}

impl Host {
    /// Its name in commands and on switch ports.
    pub fn name(self) -> String {
        match self {
            Host::Node(id) => format!("n{id}"),
            Host::Client => "client".to_owned(),
            Host::Router => "router".to_owned(),
        }
    }

    /// Its number in every subnet, and its row in the lab's map of silenced hosts.
    pub fn number(self) -> u32 {
        match self {
            Host::Node(id) => id,
            Host::Client => CLIENT_HOST,
            Host::Router => ROUTER_HOST,
        }
    }
}

impl Shape {
    /// Refuses shapes that can't be built.
    pub fn check(&self) -> Result<()> {
        let name_fits = (1..=32).contains(&self.name.len())
            && self.name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            && !self.name.starts_with('-');
        ensure!(
            name_fits,
            "lab name {:?}: use 1 to 32 letters, digits, '-' or '_', not starting with '-'",
            self.name
        );
        ensure!((1..=MAX_NODES).contains(&self.nodes), "{} nodes: a lab has 1 to {MAX_NODES}", self.nodes);
        ensure!(
            (1..=MAX_NETWORKS).contains(&self.networks),
            "{} networks: a lab has 1 to {MAX_NETWORKS}",
            self.networks
        );
        ensure!(
            !self.routed || self.networks == 4,
            "--routed makes 4 networks (two cluster subnets, two client subnets): leave --networks out"
        );
        ensure!(
            (1..=MAX_QUEUES).contains(&self.queues),
            "{} queues: a cable has 1 to {MAX_QUEUES}",
            self.queues
        );
        Ok(())
    }

    /// Namespace of `host`.
    pub fn namespace(&self, host: Host) -> String {
        format!("{}-{}", self.name, host.name())
    }

    /// Namespace of the switch.
    pub fn switch(&self) -> String {
        format!("{}-sw", self.name)
    }

    /// Every host, nodes first.
    pub fn hosts(&self) -> Vec<Host> {
        let others = [Host::Client, Host::Router];
        let count = if self.routed { 2 } else { 1 };
        (1..=self.nodes).map(Host::Node).chain(others.into_iter().take(count)).collect()
    }

    /// Every namespace.
    pub fn namespaces(&self) -> Vec<String> {
        let hosts = self.hosts().into_iter().map(|host| self.namespace(host));
        std::iter::once(self.switch()).chain(hosts).collect()
    }

    /// Networks that `host` is on, ascending.
    ///
    /// Routed: 1 and 2 are the cluster subnets, 3 and 4 the client subnets, of the first and second half of the nodes.
    pub fn networks_of(&self, host: Host) -> Vec<u32> {
        match host {
            Host::Client => vec![self.networks],
            Host::Router => (1..=self.networks).collect(),
            Host::Node(id) if self.routed => match self.half(id) {
                Half::First => vec![1, 3],
                Half::Second => vec![2, 4],
            },
            Host::Node(_) => (1..=self.networks).collect(),
        }
    }

    /// Networks with clients on them; their gateway gives the nodes a default route, hence role 3.
    pub fn client_networks(&self) -> Vec<u32> {
        if self.routed { vec![3, 4] } else { vec![self.networks] }
    }

    /// Default gateway of `host`: (network, host number of the gateway).
    pub fn gateway(&self, host: Host) -> Option<(u32, u32)> {
        match host {
            Host::Router => None,
            Host::Client => self.routed.then_some((self.networks, ROUTER_HOST)),
            Host::Node(_) if !self.routed => Some((self.networks, CLIENT_HOST)),
            Host::Node(id) => match self.half(id) {
                Half::First => Some((3, ROUTER_HOST)),
                Half::Second => Some((4, ROUTER_HOST)),
            },
        }
    }

    /// In a routed lab, the far cluster subnet of `host` and its own, through which it is reached.
    pub fn far_cluster_network(&self, host: Host) -> Option<(u32, u32)> {
        match host {
            Host::Node(id) if self.routed => match self.half(id) {
                Half::First => Some((2, 1)),
                Half::Second => Some((1, 2)),
            },
            _ => None,
        }
    }

    /// The host called `name`.
    pub fn host(&self, name: &str) -> Result<Host> {
        match self.hosts().into_iter().find(|host| host.name() == name) {
            Some(host) => Ok(host),
            None => {
                let known: Vec<_> = self.hosts().into_iter().map(Host::name).collect();
                bail!("lab {} has no node {name}: it has {}", self.name, known.join(", "))
            }
        }
    }

    /// The node called `name`: the client and the router have no daemon.
    pub fn node(&self, name: &str) -> Result<u32> {
        match self.host(name)? {
            Host::Node(id) => Ok(id),
            Host::Client | Host::Router => {
                bail!("{name} runs no daemon: name a node, n1 to n{}", self.nodes)
            }
        }
    }

    /// The network called `name` that `host` is on.
    pub fn network(&self, host: Host, name: &str) -> Result<u32> {
        let networks = self.networks_of(host);
        match networks.iter().find(|network| network_name(**network) == name) {
            Some(network) => Ok(*network),
            None => {
                let known: Vec<_> = networks.into_iter().map(network_name).collect();
                bail!("{} has no network {name}: it has {}", host.name(), known.join(", "))
            }
        }
    }

    fn half(&self, node: u32) -> Half {
        if node <= self.nodes.div_ceil(2) { Half::First } else { Half::Second }
    }
}

enum Half {
    First,
    Second,
}

/// Name of network `network`: of its bridge, and of each host's interface on it.
pub fn network_name(network: u32) -> String {
    format!("net{network}")
}

/// Name of `host`'s port on the bridge of `network`.
pub fn port_name(host: Host, network: u32) -> String {
    format!("{}-net{network}", host.name())
}

/// Kernel index of the interface on `network` within each host.
///
/// Indices are chosen, not left to the kernel, because a carrier change of a veth is told at once only if its index
/// differs from its peer's (`linkwatch_urgent_event`, net/core/link_watch.c); else it may wait for a second.
pub fn interface_index(network: u32) -> u32 {
    1 + network
}

/// Kernel index of `host`'s port in the switch.
pub fn port_index(host: Host, network: u32) -> u32 {
    1000 * host.number() + network
}

/// IPv4 address of host number `host` on `network`, a /24.
pub fn ipv4(network: u32, host: u32) -> String {
    format!("10.77.{network}.{host}")
}

/// IPv6 address of host number `host` on `network`, a /64. The digits are the IPv4 ones, so that they read alike.
pub fn ipv6(network: u32, host: u32) -> String {
    format!("fd77:{network}::{host}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(nodes: u32, networks: u32, routed: bool) -> Shape {
        Shape { name: "nf".to_owned(), nodes, networks, routed, queues: 1 }
    }

    #[test]
    fn a_flat_lab_puts_every_node_on_every_network_and_the_client_on_the_last() {
        let lab = shape(3, 2, false);
        assert_eq!(lab.namespaces(), ["nf-sw", "nf-n1", "nf-n2", "nf-n3", "nf-client"]);
        assert_eq!(lab.networks_of(Host::Node(3)), [1, 2]);
        assert_eq!(lab.networks_of(Host::Client), [2]);
        assert_eq!(lab.client_networks(), [2]);
    }

    #[test]
    fn a_routed_lab_gives_each_half_its_own_cluster_and_client_subnet() {
        let lab = shape(3, 4, true);
        assert_eq!(lab.networks_of(Host::Node(1)), [1, 3]);
        assert_eq!(lab.networks_of(Host::Node(2)), [1, 3]);
        assert_eq!(lab.networks_of(Host::Node(3)), [2, 4]);
        assert_eq!(lab.networks_of(Host::Router), [1, 2, 3, 4]);
        assert!(lab.namespaces().contains(&"nf-router".to_owned()));
    }

    #[test]
    fn unknown_names_are_answered_with_the_known_ones() {
        let lab = shape(2, 2, false);
        assert_eq!(lab.host("n9").unwrap_err().to_string(), "lab nf has no node n9: it has n1, n2, client");
        let error = lab.network(Host::Client, "net1").unwrap_err().to_string();
        assert_eq!(error, "client has no network net1: it has net2");
        assert!(lab.node("client").unwrap_err().to_string().contains("n1 to n2"));
    }

    #[test]
    fn no_two_ends_of_a_cable_share_an_index() {
        let lab = shape(MAX_NODES, MAX_NETWORKS, false);
        for host in lab.hosts() {
            for network in lab.networks_of(host) {
                assert_ne!(port_index(host, network), interface_index(network));
            }
        }
    }
}
