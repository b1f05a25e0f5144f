//! `vip.NAME.*`: what makes a VIP, and what can only be judged of all of them together.

use super::read::{check_name, duration, list, string};
use super::{Config, format_duration};
use netft_common::fence::{MAX_VIP_ADDRESSES, MAX_VIPS, MAX_VOTERS};
use netft_core::ownership::VipAddress;
use netft_core::types::Nanos;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::IpAddr;
use toml::de::DeValue;

/// Longest name of a VIP, in bytes.
const NAME_LEN: usize = 32;
/// Addresses of one VIP.
const ADDRESSES: usize = 8;
const HOUR: Nanos = 3_600_000_000_000;

/// A virtual IP address, as configured.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VipConfig {
    /// Each with the prefix length of its subnet.
    pub addresses: Vec<VipAddress>,
    /// Name of the network on which it is served; `None` = the one with its subnet.
    pub network: Option<String>,
    /// Names of the nodes that should have it, the best first.
    pub preferred: Vec<String>,
    /// For how long a better node must have been fit before it gets it back, nanoseconds; `None` = never.
    pub failback_ns: Option<Nanos>,
}

impl VipConfig {
    /// Takes one key in.
    pub(super) fn set(&mut self, key: &str, value: &DeValue<'_>) -> Result<(), String> {
        match key {
            "addresses" => self.addresses = addresses(value)?,
            "network" => self.network = Some(string(value)?.to_owned()),
            "preferred" => {
                self.preferred = list(value)?
                    .into_iter()
                    .map(|node| string(node).map(str::to_owned))
                    .collect::<Result<_, _>>()?;
            }
            _ => self.failback_ns = Some(duration(value, 0..=HOUR, "0s to 1h")?),
        }
        Ok(())
    }

    pub(super) fn entries(&self, name: &str) -> Vec<(String, Value)> {
        let texts: Vec<_> = self.addresses.iter().map(ToString::to_string).collect();
        vec![
            (format!("vip.{name}.addresses"), json!(texts)),
            (format!("vip.{name}.network"), json!(self.network)),
            (format!("vip.{name}.preferred"), json!(self.preferred)),
            (format!("vip.{name}.failback"), json!(self.failback_ns.map(format_duration))),
        ]
    }
}

pub(super) fn check_vip_name(name: &str) -> Result<(), String> {
    check_name(name, "a VIP's name", NAME_LEN)
}

fn addresses(value: &DeValue<'_>) -> Result<Vec<VipAddress>, String> {
    if value.is_str() {
        return Err("a string stands here: write a list, like [\"10.0.1.100/24\"]".into());
    }
    let texts = list(value)?.into_iter().map(string).collect::<Result<Vec<_>, _>>()?;
    if texts.is_empty() || texts.len() > ADDRESSES {
        return Err(format!("{} addresses stand here: write 1 to {ADDRESSES}", texts.len()));
    }
    texts.into_iter().map(address).collect()
}

fn address(text: &str) -> Result<VipAddress, String> {
    if let Ok(bare) = text.parse::<IpAddr>() {
        let length = if bare.is_ipv4() { 24 } else { 64 };
        return Err(format!(
            "\"{text}\" has no prefix length: write that of its subnet, like \"{text}/{length}\""
        ));
    }
    let parsed: VipAddress = text.parse()?;
    let reserved = match parsed.address {
        IpAddr::V4(address) => {
            let host = u32::from(address) & u32::MAX.checked_shr(parsed.prefix_len.into()).unwrap_or(0);
            let last = u32::MAX.checked_shr(parsed.prefix_len.into()).unwrap_or(0);
            address.is_link_local()
                || address.is_broadcast()
                || parsed.prefix_len < 31 && (host == 0 || host == last)
        }
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    let address = parsed.address;
    if reserved || address.is_unspecified() || address.is_multicast() || address.is_loopback() {
        return Err(format!(
            "{parsed} can't be a VIP: write the address of a host in a subnet of your nodes"
        ));
    }
    Ok(parsed)
}

/// What is wrong with VIPs as a whole: the key that it is about, and the sentence.
pub(super) fn judge(config: &Config) -> Vec<(String, String)> {
    let mut problems = Vec::new();
    let mut owners: BTreeMap<IpAddr, &str> = BTreeMap::new();
    let peers =
        config.peers.values().flat_map(|peer| peer.addresses.iter().map(|a| (*a, peer.name.as_str())));
    let peers: BTreeMap<IpAddr, &str> = peers.collect();
    for (name, vip) in &config.vips {
        if vip.addresses.is_empty() {
            let text = format!(
                "vip.{name} has no addresses: give one in a subnet of your nodes, like addresses = [\"10.0.1.100/24\"]"
            );
            problems.push((format!("vip.{name}"), text));
        }
        let mut of_addresses = |text: String| problems.push((format!("vip.{name}.addresses"), text));
        for VipAddress { address, .. } in &vip.addresses {
            if let Some(other) = owners.insert(*address, name) {
                let whom = if other == name { "twice".into() } else { format!("to vip.{other}, too") };
                of_addresses(format!(
                    "{address} is given to vip.{name} {whom}: each address belongs to one VIP, once"
                ));
            }
            if let Some(peer) = peers.get(address) {
                of_addresses(format!(
                    "{address} of vip.{name} is where peer.{peer} is met: a VIP needs an address that no node has"
                ));
            }
        }
        let mut of_preferred = |text: String| problems.push((format!("vip.{name}.preferred"), text));
        for (index, node) in vip.preferred.iter().enumerate() {
            if !config.peers.contains_key(node) && *node != config.node_name {
                of_preferred(format!(
                    "vip.{name} prefers {node}, which is neither this node nor a configured peer"
                ));
            }
            if config.witnesses.contains(node) {
                of_preferred(format!("vip.{name} prefers {node}, which is a witness: witnesses get no VIPs"));
            }
            if vip.preferred[..index].contains(node) {
                of_preferred(format!("vip.{name} names {node} twice: name each node once, the best first"));
            }
        }
        if vip.failback_ns.is_some() && vip.preferred.is_empty() {
            let text = format!(
                "vip.{name} has failback and nobody to fail back to: name nodes in vip.{name}.preferred"
            );
            problems.push((format!("vip.{name}.failback"), text));
        }
    }
    let first = config.vips.keys().next().map_or_else(String::new, |name| format!("vip.{name}"));
    let count = config.vips.values().map(|vip| vip.addresses.len()).sum::<usize>();
    if config.vips.len() > MAX_VIPS as usize || count > MAX_VIP_ADDRESSES as usize {
        let text = format!(
            "{} VIPs with {count} addresses are too many: {MAX_VIPS} and {MAX_VIP_ADDRESSES} are possible",
            config.vips.len()
        );
        problems.push((first.clone(), text));
    }
    if config.decides_ownership() && config.peers.len() >= MAX_VOTERS {
        let text = format!(
            "VIPs are possible with up to {MAX_VOTERS} nodes in this version, and these are {}: leave nodes out, or the VIPs",
            config.peers.len() + 1
        );
        problems.push((first, text));
    }
    problems
}

impl Config {
    /// Whether this node takes part in deciding who owns VIPs.
    pub fn decides_ownership(&self) -> bool {
        !self.vips.is_empty() || self.witnesses.contains(&self.node_name)
    }

    /// What is allowed and probably not wanted, one sentence each.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        let nodes = self.peers.len() + 1;
        if self.decides_ownership() && nodes == 2 {
            warnings.push(
                "two nodes decide about VIPs only while both are up, so that when one fails the VIPs are served by nobody: add a third node or a witness (node.role = \"witness\")".into(),
            );
        }
        if self.decides_ownership() && nodes == 1 {
            warnings.push("there is nobody who could take this node's VIPs over: configure peers".into());
        }
        if self.decides_ownership() && self.witnesses.len() >= nodes {
            warnings.push("all nodes are witnesses, so nobody serves a VIP".into());
        }
        warnings
    }
}
