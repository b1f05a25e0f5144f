//! This node's own interfaces, as far as routes are concerned.
//!
//! The kernel takes IPv6 addresses off an interface that an administrator takes down (`addrconf_ifdown`). Their routes
//! must stay, listed as `admin-down`, so an address that vanishes with its interface is kept until the interface is
//! up again without it.

use super::Interface;
use super::peer::Endpoint;
use crate::types::{InterfaceNumber, LinkState, Nanos};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// How long after its interface came up an address may take to come back, in nanoseconds.
const RETURN_NS: Nanos = 5_000_000_000;

/// Own interfaces.
#[derive(Debug, Default)]
pub struct Local {
    /// As the kernel says.
    raw: Vec<Interface>,
    /// With the addresses that are kept.
    kept: Vec<Interface>,
    /// Addresses that the kernel doesn't have now, and until when they are kept.
    missing: BTreeMap<(InterfaceNumber, IpAddr), Nanos>,
    /// Announced addresses in a stable order: who comes later doesn't change which pairs make routes.
    order: Vec<IpAddr>,
    /// Whether the kernel's list came already.
    pub known: bool,
}

impl Local {
    /// The kernel's list.
    pub fn set(&mut self, now: Nanos, interfaces: Vec<Interface>) {
        self.raw = interfaces;
        self.known = true;
        self.settle(now);
    }

    /// Addresses that a previous daemon announced come first, so that the same pairs make routes again.
    pub fn prefer(&mut self, addresses: impl Iterator<Item = IpAddr>) {
        for address in addresses {
            if !self.order.contains(&address) {
                self.order.push(address);
            }
        }
    }

    /// Drops what is kept no longer.
    pub fn settle(&mut self, now: Nanos) {
        let mut kept = self.raw.clone();
        for interface in &mut kept {
            let before = self.kept.iter().find(|old| old.number == interface.number);
            for &(address, prefix_len) in before.map_or(&[][..], |old| &old.addresses) {
                let key = (interface.number, address);
                if self.raw.iter().flat_map(|raw| &raw.addresses).any(|(other, _)| *other == address) {
                    self.missing.remove(&key);
                    continue;
                }
                let until = match (interface.link, self.missing.get(&key)) {
                    (LinkState::AdminDown, _) => Some(Nanos::MAX),
                    (_, Some(&Nanos::MAX)) => Some(now.saturating_add(RETURN_NS)),
                    (_, known) => known.copied().filter(|until| *until > now),
                };
                match until {
                    Some(until) => {
                        self.missing.insert(key, until);
                        interface.addresses.push((address, prefix_len));
                    }
                    None => {
                        self.missing.remove(&key);
                    }
                }
            }
        }
        self.missing.retain(|(number, _), _| kept.iter().any(|interface| interface.number == *number));
        self.kept = kept;
    }

    /// When [`Self::settle`] may change something.
    pub fn timeout_ns(&self) -> Nanos {
        self.missing.values().copied().min().unwrap_or(Nanos::MAX)
    }

    /// Every usable address, in stable order.
    pub fn endpoints(&mut self) -> Vec<Endpoint> {
        let mut endpoints: Vec<Endpoint> = self.kept.iter().flat_map(Endpoint::of_interface).collect();
        self.prefer(endpoints.iter().map(|endpoint| endpoint.address));
        let place = |address: &IpAddr| self.order.iter().position(|other| other == address);
        endpoints.sort_by_key(|endpoint| place(&endpoint.address));
        endpoints.dedup_by_key(|endpoint| endpoint.address);
        self.order = endpoints.iter().map(|endpoint| endpoint.address).collect();
        endpoints
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interface(link: LinkState, addresses: &[&str]) -> Interface {
        Interface {
            number: InterfaceNumber::new(1).unwrap(),
            ifindex: 7,
            name: "eth0".to_owned(),
            mac: [2; 6],
            mtu: 1500,
            speed_mbps: 0,
            link,
            default_route: false,
            rss: false,
            rdma: false,
            addresses: addresses.iter().map(|address| (address.parse().unwrap(), 24)).collect(),
        }
    }

    fn addresses(local: &mut Local) -> Vec<String> {
        local.endpoints().iter().map(|endpoint| endpoint.address.to_string()).collect()
    }

    #[test]
    fn an_address_taken_by_admin_down_stays_until_the_interface_is_up_without_it() {
        let mut local = Local::default();
        local.set(0, vec![interface(LinkState::Up, &["10.0.0.1", "fd00::1"])]);
        local.set(1, vec![interface(LinkState::AdminDown, &["10.0.0.1"])]);
        assert_eq!(addresses(&mut local), ["10.0.0.1", "fd00::1"]);
        assert_eq!(local.timeout_ns(), Nanos::MAX);
        local.set(2, vec![interface(LinkState::Up, &["10.0.0.1"])]);
        assert_eq!(local.timeout_ns(), 2 + RETURN_NS);
        assert_eq!(addresses(&mut local), ["10.0.0.1", "fd00::1"]);
        local.settle(2 + RETURN_NS);
        assert_eq!(addresses(&mut local), ["10.0.0.1"]);
        assert_eq!(local.timeout_ns(), Nanos::MAX);
    }

    #[test]
    fn an_address_removed_from_an_interface_that_is_up_goes_at_once() {
        let mut local = Local::default();
        local.set(0, vec![interface(LinkState::Up, &["10.0.0.1", "fd00::1"])]);
        local.set(1, vec![interface(LinkState::Up, &["fd00::1"])]);
        assert_eq!(addresses(&mut local), ["fd00::1"]);
        local.set(2, Vec::new());
        assert!(addresses(&mut local).is_empty());
    }

    #[test]
    fn newcomers_line_up_behind() {
        let mut local = Local::default();
        local.prefer(["10.0.0.9".parse().unwrap()].into_iter());
        local.set(0, vec![interface(LinkState::Up, &["10.0.0.2", "10.0.0.9"])]);
        assert_eq!(addresses(&mut local), ["10.0.0.9", "10.0.0.2"]);
        local.set(0, vec![interface(LinkState::Up, &["10.0.0.1", "10.0.0.2", "10.0.0.9"])]);
        assert_eq!(addresses(&mut local), ["10.0.0.9", "10.0.0.2", "10.0.0.1"]);
    }

    #[test]
    fn link_local_loopback_and_multicast_are_no_endpoints() {
        let mut local = Local::default();
        let list = ["127.0.0.1", "169.254.1.1", "fe80::1", "::1", "224.0.0.1", "0.0.0.0", "10.0.0.1"];
        local.set(0, vec![interface(LinkState::Up, &list)]);
        assert_eq!(addresses(&mut local), ["10.0.0.1"]);
    }
}
