//! What the configuration wants of the log: what a leader proposes, and what doesn't agree. Pure.

use crate::config::VipConfig;
use netft_core::networks::Subnet;
use netft_core::ownership::{Entry, Leases, State, VipAddress, VipId, VipSettings};
use netft_core::types::NodeId;
use std::collections::{BTreeMap, BTreeSet};

/// Client networks that the policy can tell apart.
const NETWORKS: u8 = 64;

/// VIPs as they are configured, and the leases that follow from the detection times.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wishes {
    /// By name.
    pub vips: BTreeMap<String, VipConfig>,
    /// Detection times.
    pub leases: Leases,
}

impl Wishes {
    /// What is missing from the log. A VIP is never removed or given other addresses by this: who leads with another
    /// configuration than the rest must not take their VIPs away.
    pub fn proposals(&self, state: &State, id_of: &dyn Fn(&str) -> Option<NodeId>) -> Vec<Entry> {
        let mut entries = Vec::new();
        if self.leases != state.leases && state.unsettled.is_none() {
            entries.push(Entry::Leases(self.leases));
        }
        let mut taken: BTreeSet<VipId> = state.vips.keys().copied().collect();
        let mut networks: Vec<(VipSettings, u8)> =
            state.vips.values().map(|vip| (vip.settings.clone(), vip.settings.network)).collect();
        for (name, wish) in &self.vips {
            let known = state.vips.iter().find(|(_, vip)| vip.settings.name == *name);
            // Nodes that aren't known yet may be soon; until then what was known counts.
            let ids = wish.preferred.iter().map(|node| id_of(node)).collect::<Option<Vec<_>>>();
            let before = || known.map(|(_, vip)| vip.settings.preferred.clone()).unwrap_or_default();
            let mut wanted = VipSettings {
                name: name.clone(),
                addresses: wish.addresses.clone(),
                network_name: wish.network.clone(),
                group: None,
                network: 0,
                preferred: ids.unwrap_or_else(before),
                failback_ns: wish.failback_ns,
            };
            wanted.network = network_of(&wanted, &networks);
            let clashes = || state.vips.values().any(|vip| vip.settings.clashes(&wanted));
            let id = match known {
                Some((_, vip)) if vip.settings == wanted || !vip.settings.is_same_vip(&wanted) => None,
                Some((id, _)) => Some(*id),
                None if clashes() => None,
                None => (0..).map_while(VipId::new).find(|id| !taken.contains(id)),
            };
            if let Some(id) = id {
                taken.insert(id);
                networks.push((wanted.clone(), wanted.network));
                entries.push(Entry::Vip(id, wanted));
            }
        }
        entries
    }

    /// Where configuration and log don't agree, a sentence each.
    pub fn differences(&self, state: &State) -> Vec<String> {
        let known: BTreeMap<&str, &VipSettings> =
            state.vips.values().map(|vip| (vip.settings.name.as_str(), &vip.settings)).collect();
        let mut told = Vec::new();
        for (name, wish) in &self.vips {
            match known.get(name.as_str()) {
                Some(settings) if settings.addresses != wish.addresses => told.push(format!(
                    "vip.{name} has the addresses {} in the cluster, and {} in this node's configuration: the cluster's count; make the configurations agree, or remove the VIP with `netft vip remove {name}` and configure it anew",
                    list(&settings.addresses),
                    list(&wish.addresses),
                )),
                Some(_) => (),
                None => {
                    let rival = state.vips.values().find(|vip| shares_an_address(&vip.settings, wish));
                    if let Some(rival) = rival {
                        told.push(format!(
                            "vip.{name} of this node's configuration has an address of the cluster's vip.{}: give it another one on all nodes, or remove that VIP with `netft vip remove {}`",
                            rival.settings.name, rival.settings.name
                        ));
                    }
                }
            }
        }
        for name in known.keys().filter(|name| !self.vips.contains_key(**name)) {
            told.push(format!(
                "the cluster has vip.{name}, and this node's configuration doesn't: add it on this node, or remove it with `netft vip remove {name}`"
            ));
        }
        told
    }
}

fn shares_an_address(settings: &VipSettings, wish: &VipConfig) -> bool {
    settings.addresses.iter().any(|own| wish.addresses.iter().any(|other| own.address == other.address))
}

fn list(addresses: &[VipAddress]) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// VIPs that need the same of a node have the same number.
fn network_of(wanted: &VipSettings, known: &[(VipSettings, u8)]) -> u8 {
    let same = known.iter().find(|(settings, _)| needs(settings) == needs(wanted));
    same.map_or_else(
        || {
            let used: BTreeSet<u8> = known.iter().map(|(_, number)| *number).collect();
            (0..NETWORKS).find(|number| !used.contains(number)).unwrap_or(NETWORKS - 1)
        },
        |(_, number)| *number,
    )
}

/// What decides where it can be.
fn needs(settings: &VipSettings) -> (BTreeSet<Subnet>, Option<&str>) {
    let subnets = settings.addresses.iter().map(|vip| Subnet::of(vip.address, vip.prefix_len));
    (subnets.collect(), settings.network_name.as_deref())
}

#[cfg(test)]
mod tests {
    use super::*;
    use netft_core::ownership::LogId;

    fn wishes(vips: &[(&str, &str, &[&str])]) -> Wishes {
        let vip = |(name, address, preferred): &(&str, &str, &[&str])| {
            let config = VipConfig {
                addresses: vec![address.parse().unwrap()],
                preferred: preferred.iter().map(|node| (*node).to_owned()).collect(),
                ..VipConfig::default()
            };
            ((*name).to_owned(), config)
        };
        Wishes { vips: vips.iter().map(vip).collect(), leases: Leases::default() }
    }

    fn id_of(name: &str) -> Option<NodeId> {
        name.strip_prefix('n').and_then(|id| NodeId::new(id.parse().ok()?))
    }

    fn apply(state: &mut State, entries: &[Entry]) {
        for entry in entries {
            let index = state.applied.index + 1;
            state.apply(LogId { term: 1, index }, entry);
        }
    }

    #[test]
    fn the_leader_proposes_what_is_missing_and_nothing_twice() {
        let mut state = State::default();
        let first = wishes(&[
            ("db", "10.0.2.101/24", &[]),
            ("web", "10.0.2.100/24", &["n2"]),
            ("x", "10.0.3.9/24", &[]),
        ]);
        let entries = first.proposals(&state, &id_of);
        apply(&mut state, &entries);
        let networks: Vec<_> = state.vips.values().map(|vip| vip.settings.network).collect();
        assert_eq!(networks, [0, 0, 1], "two subnets");
        assert_eq!(first.proposals(&state, &id_of), []);
        assert_eq!(first.differences(&state), Vec::<String>::new());

        // A new one gets a number that is free, in whatever order names come; others keep theirs.
        let second = wishes(&[
            ("aa", "10.0.2.99/24", &[]),
            ("db", "10.0.2.101/24", &["n3", "n1"]),
            ("web", "10.0.2.100/24", &["n2"]),
            ("x", "10.0.3.9/24", &[]),
        ]);
        let entries = second.proposals(&state, &id_of);
        apply(&mut state, &entries);
        let names: Vec<_> = state.vips.values().map(|vip| vip.settings.name.as_str()).collect();
        assert_eq!(names, ["db", "web", "x", "aa"]);
        assert_eq!(state.vips[&VipId::new(0).unwrap()].settings.preferred.len(), 2);
        assert_eq!(second.proposals(&state, &id_of), []);

        let slower = Leases { same_subnet_ns: 50_000_000, ..Leases::default() };
        let slower = Wishes { leases: slower, ..second };
        assert_eq!(slower.proposals(&state, &id_of), [Entry::Leases(slower.leases)]);
    }

    #[test]
    fn a_leader_with_another_configuration_takes_nothing_away_and_says_so() {
        let mut state = State::default();
        let first = wishes(&[("db", "10.0.2.101/24", &[]), ("web", "10.0.2.100/24", &[])]);
        let entries = first.proposals(&state, &id_of);
        apply(&mut state, &entries);
        let other = wishes(&[("web", "10.0.2.101/24", &[]), ("www", "10.0.2.100/24", &[])]);
        assert_eq!(other.proposals(&state, &id_of), []);
        let told = other.differences(&state);
        assert_eq!(told.len(), 3, "{told:#?}");
        assert!(told[0].contains("10.0.2.100/24 in the cluster, and 10.0.2.101/24"), "{}", told[0]);
        assert!(told[1].contains("has an address of the cluster's vip.web"), "{}", told[1]);
        assert!(told[2].contains("the cluster has vip.db"), "{}", told[2]);
    }
}
