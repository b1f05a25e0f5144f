//! From TOML text to a [`Config`]: every key is looked up in the table, every value judged where it stands.

use super::keys::{self, Fit, LATER};
use super::units::{parse_duration, parse_size};
use super::{Config, EngineConfig, Problem, vips};
use crate::engine::{DatapathOptions, PathWish, Wait};
use netft_common::wire::Versions;
use netft_common::wire::{IFNAME_LEN, NAME_LEN};
use netft_core::carry::Policy;
use netft_core::detect::DampingConfig;
use netft_core::membership::{NetworkOverride, PeerConfig, Role};
use netft_core::types::{Level, Nanos, NodeId, Timing};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

const MS: Nanos = 1_000_000;
const SECOND: Nanos = 1_000_000_000;
const DELAY_NS: RangeInclusive<Nanos> = 50_000..=10 * SECOND;
const KEY_PERIOD_NS: RangeInclusive<Nanos> = SECOND..=24 * 3600 * SECOND;
const MIB: u64 = 1 << 20;
const THRESHOLD: RangeInclusive<u64> = 2..=1000;

/// Everything in `text`, or everything wrong with it.
pub(super) fn read(file: &Path, text: &str) -> Result<Config, Vec<Problem>> {
    let mut reader = Reader {
        file,
        text,
        config: defaults(file),
        seen: BTreeMap::new(),
        network_order: Vec::new(),
        own_is_witness: false,
        problems: Vec::new(),
    };
    match DeTable::parse(text) {
        Ok(table) => reader.table(&mut Vec::new(), table.get_ref()),
        Err(error) => {
            let at = error.span().map(|span| span.start);
            let message = format!("this is not TOML: {}", error.message().replace('\n', ", "));
            reader.problem(at, message);
        }
    }
    if reader.problems.is_empty() {
        reader.judge_whole();
    }
    if reader.problems.is_empty() { Ok(reader.config) } else { Err(reader.problems) }
}

/// `control.socket` of a file, whatever else is wrong with it: who wants to reload a broken one must reach the daemon.
pub(super) fn socket(text: &str) -> Option<PathBuf> {
    let (table, _) = DeTable::parse_recoverable(text);
    let value = table.get_ref().get("control")?.get_ref().get("socket")?.get_ref();
    absolute(value).ok()
}

fn defaults(file: &Path) -> Config {
    Config {
        file: file.to_owned(),
        cluster_id: 0,
        cluster_name: "cluster".into(),
        node_name: String::new(),
        // Replaced before anybody sees it: node.id must be set.
        node_id: NodeId::try_from(1).unwrap_or_else(|_| unreachable!("1 is a node id")),
        node_site: None,
        peers: BTreeMap::new(),
        witnesses: BTreeSet::new(),
        vips: BTreeMap::new(),
        key_file: beside(file, "secret"),
        key_period_ns: 600 * SECOND,
        level: Level::Signed,
        versions: Versions::OURS,
        same_subnet: Timing { delay_ns: MS, threshold: 5 },
        cross_subnet: Timing { delay_ns: 10 * MS, threshold: 10 },
        cross_site: Timing { delay_ns: 100 * MS, threshold: 10 },
        engine: EngineConfig {
            wait: Wait::Sleep,
            priority: Some(60),
            cpus: Vec::new(),
            timeout_ns: 250 * MS,
            absence_ns: 600 * SECOND,
        },
        datapath: DatapathOptions::default(),
        networks: Vec::new(),
        route_history: 64,
        up_after: 3,
        fail_back_hold_ns: SECOND,
        damping: DampingConfig::default(),
        event_history: 1024,
        log_packets: false,
        socket: super::DEFAULT_SOCKET.into(),
        group: None,
        adapter_name: "netft0".into(),
        state_dir: "/var/lib/netft".into(),
        pin_dir: "/sys/fs/bpf/netft/default".into(),
    }
}

/// `path` as seen from the folder of `file`.
fn beside(file: &Path, path: &str) -> PathBuf {
    let path = file.parent().unwrap_or(Path::new("")).join(path);
    std::path::absolute(&path).unwrap_or(path)
}

struct Reader<'a> {
    file: &'a Path,
    text: &'a str,
    config: Config,
    /// Where each key that was set stands.
    seen: BTreeMap<String, usize>,
    /// Where each network first appeared: they are numbered in the order of the file.
    network_order: Vec<(usize, String)>,
    own_is_witness: bool,
    problems: Vec<Problem>,
}

impl Reader<'_> {
    fn problem(&mut self, at: Option<usize>, message: String) {
        let line = at.map(|at| self.text.as_bytes().iter().take(at).filter(|b| **b == b'\n').count() + 1);
        // What was quoted from the file goes to a terminal and to the journal: as one line, and unable to steer either.
        let shown = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
        let message = message.chars().map(shown).collect();
        self.problems.push(Problem { file: self.file.to_owned(), line, message });
    }

    /// Walks a table; `path` is where it stands.
    fn table(&mut self, path: &mut Vec<String>, table: &DeTable<'_>) {
        let mut entries: Vec<_> = table.iter().collect();
        entries.sort_by_key(|(key, _)| key.span().start);
        for (key, value) in entries {
            path.push(key.get_ref().to_string());
            let segments: Vec<&str> = path.iter().map(String::as_str).collect();
            let at = key.span().start;
            match (keys::fit(&segments), value.get_ref()) {
                (Fit::Key, _) => self.key(&segments, at, value),
                (Fit::Table, DeValue::Table(inner)) => {
                    self.named_table(&segments, at);
                    self.table(path, inner);
                }
                (Fit::Table, _) => {
                    let mut below = segments.clone();
                    below.push("");
                    let known = keys::siblings(&below);
                    let below =
                        if known.is_empty() { "a name of your choice".into() } else { known.join(", ") };
                    let dotted = dotted(&segments);
                    self.problem(
                        Some(at),
                        format!("{dotted} is a table: write [{dotted}] and below it {below}"),
                    );
                }
                (Fit::Unknown, _) => {
                    let message = unknown(&segments);
                    self.problem(Some(at), message);
                }
            }
            path.pop();
        }
    }

    /// A table named by the administrator exists as soon as it is mentioned.
    fn named_table(&mut self, segments: &[&str], at: usize) {
        match segments {
            ["peer", name] => {
                if let Err(why) = check_name(name, "a peer name", NAME_LEN) {
                    self.problem(Some(at), why);
                }
                let peer = PeerConfig { name: (*name).into(), id: None, site: None, addresses: Vec::new() };
                self.seen.insert(format!("peer.{name}"), at);
                self.config.peers.entry((*name).into()).or_insert(peer);
            }
            ["vip", name] => {
                if let Err(why) = vips::check_vip_name(name) {
                    self.problem(Some(at), why);
                }
                self.seen.insert(format!("vip.{name}"), at);
                self.config.vips.entry((*name).into()).or_default();
            }
            ["network", name] => {
                if name.is_empty() || name.chars().any(char::is_control) || name.len() > 64 {
                    self.problem(Some(at), "a network name has 1 to 64 printable characters".into());
                }
                self.seen.insert(format!("network.{name}"), at);
                self.network_order.push((at, (*name).into()));
                let network =
                    NetworkOverride { name: (*name).into(), matches: Vec::new(), role: None, metric: None };
                self.config.networks.push(network);
            }
            _ => {}
        }
    }

    fn key(&mut self, segments: &[&str], at: usize, value: &Spanned<DeValue<'_>>) {
        self.seen.insert(dotted(segments), at);
        if let Err(why) = self.set(segments, value.get_ref()) {
            self.problem(Some(value.span().start), format!("{}: {why}", dotted(segments)));
        }
    }

    /// Puts one value where it belongs, or says what is wrong with it.
    fn set(&mut self, segments: &[&str], value: &DeValue<'_>) -> Result<(), String> {
        let file = self.file;
        let config = &mut self.config;
        match segments {
            ["cluster", "id"] => config.cluster_id = small(integer(value, 1..=u64::from(u32::MAX))?)?,
            ["cluster", "name"] => config.cluster_name = name(value, "a cluster name", 64)?,
            ["node", "name"] => config.node_name = name(value, "a node name", NAME_LEN)?,
            ["node", "id"] => config.node_id = node_id(value)?,
            // Its name may come later.
            ["node", "role"] => self.own_is_witness = is_witness(value)?,
            ["node", "site"] => config.node_site = Some(name(value, "a site name", NAME_LEN)?),
            ["peer", peer, "role"] => {
                if is_witness(value)? {
                    config.witnesses.insert((*peer).into());
                }
            }
            ["vip", vip, key] => config.vips.get_mut(*vip).ok_or("no such VIP")?.set(key, value)?,
            ["peer", peer, key] => {
                let peer = config.peers.get_mut(*peer).ok_or("no such peer")?;
                match *key {
                    "addresses" => peer.addresses = addresses(value)?,
                    "id" => peer.id = Some(node_id(value)?),
                    _ => peer.site = Some(name(value, "a site name", NAME_LEN)?),
                }
            }
            ["security", "level"] => config.level = level(string(value)?)?,
            ["security", "key_file"] => config.key_file = beside(file, string(value)?),
            ["security", "rekey"] => config.key_period_ns = duration(value, KEY_PERIOD_NS, "1s to 24h")?,
            ["heartbeat", class, key] => {
                let timing = match *class {
                    "same_subnet" => &mut config.same_subnet,
                    "cross_subnet" => &mut config.cross_subnet,
                    _ => &mut config.cross_site,
                };
                match *key {
                    "delay" => timing.delay_ns = duration(value, DELAY_NS, "50us to 10s")?,
                    _ => timing.threshold = small(integer(value, THRESHOLD)?)?,
                }
            }
            ["engine", "wait"] => {
                config.engine.wait = match string(value)? {
                    "sleep" => Wait::Sleep,
                    "spin" => Wait::Spin,
                    other => {
                        return Err(format!("\"{other}\" is not a way to wait: use \"sleep\" or \"spin\""));
                    }
                }
            }
            ["engine", "priority"] => {
                let priority = small::<u8>(integer(value, 0..=99)?)?;
                config.engine.priority = (priority != 0).then_some(priority);
            }
            ["engine", "cpus"] => config.engine.cpus = cpus(value)?,
            ["engine", "absence"] => {
                config.engine.absence_ns = duration(value, KEY_PERIOD_NS, "1s to 24h")?;
            }
            ["engine", "timeout"] => {
                config.engine.timeout_ns = duration(value, 10 * MS..=60 * SECOND, "10ms to 60s")?;
            }
            ["datapath", "path"] => config.datapath.path = path(string(value)?)?,
            ["datapath", "buffers"] => {
                config.datapath.buffers = size(string(value)?, MIB..=16 << 30, "1MiB to 16GiB")?;
            }
            ["datapath", "policy"] => config.datapath.policy = policy(string(value)?)?,
            ["datapath", "keep"] => {
                config.datapath.keep = size(string(value)?, MIB..=1 << 30, "1MiB to 1GiB")?;
            }
            ["network", network, key] => {
                let found = config.networks.iter_mut().find(|n| n.name == *network);
                let network = found.ok_or("no such network")?;
                match *key {
                    "match" => network.matches = matches(value)?,
                    "role" => {
                        let role = u8::try_from(any_integer(value)?).map_err(|_| role_help())?;
                        network.role = Some(Role::try_from(role).map_err(|_| role_help())?);
                    }
                    _ => network.metric = Some(small(integer(value, 1..=u64::from(u32::MAX))?)?),
                }
            }
            ["routes", "history"] => config.route_history = small(integer(value, 1..=10_000)?)?,
            ["routes", "up_after"] => config.up_after = small(integer(value, 1..=1000)?)?,
            ["routes", "fail_back_hold"] => {
                config.fail_back_hold_ns = duration(value, 0..=3600 * SECOND, "0s to 1h")?;
            }
            ["routes", "flap_limit"] => config.damping.flap_limit = small(integer(value, 0..=100)?)?,
            ["routes", "flap_half_life"] => {
                config.damping.half_life_ns = duration(value, 100 * MS..=3600 * SECOND, "100ms to 1h")?;
            }
            ["routes", "damping_max"] => {
                config.damping.longest_ns = duration(value, 100 * MS..=3600 * SECOND, "100ms to 1h")?;
            }
            ["events", "history"] => config.event_history = small(integer(value, 16..=100_000)?)?,
            ["log", "packets"] => config.log_packets = boolean(value)?,
            ["control", "socket"] => config.socket = absolute(value)?,
            ["control", "group"] => config.group = Some(name(value, "a group name", 32)?),
            ["adapter", "name"] => config.adapter_name = name(value, "an interface name", IFNAME_LEN - 1)?,
            ["paths", "state"] => config.state_dir = absolute(value)?,
            ["paths", "pins"] => config.pin_dir = absolute(value)?,
            // The table of keys and this match are held together by a test.
            _ => return Err("this key is in the table of keys but not read: report this as a bug".into()),
        }
        Ok(())
    }

    /// What can only be judged with all keys known.
    fn judge_whole(&mut self) {
        self.network_order.sort();
        let order: Vec<String> = self.network_order.iter().map(|(_, name)| name.clone()).collect();
        self.config.networks.sort_by_key(|n| order.iter().position(|name| *name == n.name));
        for (key, example) in
            [("cluster.id", "id = 4711, equal on all nodes"), ("node.id", "id = 1, different on each")]
        {
            if !self.seen.contains_key(key) {
                let table = key.split('.').next().unwrap_or(key);
                self.problem(None, format!("{key} is not set: below [{table}] write {example}"));
            }
        }
        if self.config.node_name.is_empty() {
            match own_host_name() {
                Some(name) => self.config.node_name = name,
                None => {
                    self.problem(None, "node.name is not set and this host has no usable name: set it".into())
                }
            }
        }
        self.judge_peers();
        if self.own_is_witness {
            self.config.witnesses.insert(self.config.node_name.clone());
        }
        for (key, message) in vips::judge(&self.config) {
            let table = key.rsplit_once('.').map_or(key.as_str(), |(table, _)| table);
            let at = self.seen.get(&key).or_else(|| self.seen.get(table)).copied();
            self.problem(at, message);
        }
        let networks = self.config.networks.clone();
        for network in networks.iter().filter(|n| n.matches.is_empty()) {
            let at = self.seen.get(&format!("network.{}", network.name)).copied();
            let name = &network.name;
            self.problem(at, format!("network.{name} has no match: say which subnet or interfaces it is, like match = [\"10.0.1.0/24\"]"));
        }
    }

    fn judge_peers(&mut self) {
        let peers: Vec<PeerConfig> = self.config.peers.values().cloned().collect();
        let mut owners: BTreeMap<IpAddr, &str> = BTreeMap::new();
        let mut ids = BTreeMap::from([(self.config.node_id, self.config.node_name.clone())]);
        for peer in &peers {
            let name = &peer.name;
            let at = |key: &str, seen: &BTreeMap<String, usize>| {
                seen.get(&format!("peer.{name}.{key}")).or(seen.get(&format!("peer.{name}"))).copied()
            };
            if *name == self.config.node_name {
                let place = at("", &self.seen);
                self.problem(
                    place,
                    format!("peer.{name} has the name of this node: leave this node out, or mend node.name"),
                );
            }
            if peer.addresses.is_empty() {
                let place = at("addresses", &self.seen);
                self.problem(place, format!("peer.{name} has no addresses: give one at which it can be met, like addresses = [\"10.0.1.2\"]"));
            }
            for address in &peer.addresses {
                if let Some(other) = owners.insert(*address, name) {
                    let place = at("addresses", &self.seen);
                    let whom = if other == name {
                        "twice for this peer".into()
                    } else {
                        format!("for peer {other} too")
                    };
                    self.problem(
                        place,
                        format!(
                            "address {address} of peer.{name} is given {whom}: each belongs to one peer, once"
                        ),
                    );
                }
            }
            if let Some(id) = peer.id
                && let Some(other) = ids.insert(id, name.clone())
            {
                let place = at("id", &self.seen);
                self.problem(
                    place,
                    format!("node id {id} of peer.{name} is {other}'s: every node has its own"),
                );
            }
        }
        if peers.len() > 254 {
            self.problem(None, format!("{} peers are configured, 254 are possible", peers.len()));
        }
    }
}

fn dotted(segments: &[&str]) -> String {
    let quote = |s: &&str| {
        let bare = !s.is_empty() && s.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
        if bare { (*s).to_owned() } else { format!("{s:?}") }
    };
    segments.iter().map(quote).collect::<Vec<_>>().join(".")
}

/// The sentence about a key that doesn't exist.
fn unknown(segments: &[&str]) -> String {
    let path = dotted(segments);
    let is_later = |key: &str| match key.split_once(".*.") {
        Some((table, leaf)) => segments.len() == 3 && segments[0] == table && segments[2] == leaf,
        None => path == key || path.starts_with(&format!("{key}.")),
    };
    let later = LATER.iter().find(|(key, _)| is_later(key));
    if let Some((_, what)) = later {
        return format!("{path} is not available in this version ({what}): remove it");
    }
    let leaf = segments.last().copied().unwrap_or_default();
    let known = keys::siblings(segments);
    let near = known.iter().map(|name| (strsim::jaro_winkler(name, leaf), *name));
    if let Some((likeness, name)) = near.max_by(|a, b| a.0.total_cmp(&b.0))
        && likeness >= 0.8
    {
        let mut meant = segments.to_vec();
        meant.pop();
        meant.push(name);
        return format!("unknown key {path}: did you mean {}?", dotted(&meant));
    }
    // The right key in the wrong table?
    let elsewhere =
        keys::KEYS.iter().filter(|key| key.path.rsplit('.').next() == Some(leaf)).map(|key| key.path);
    let elsewhere: Vec<&str> = elsewhere.collect();
    if !elsewhere.is_empty() && elsewhere.len() <= 3 {
        return format!("unknown key {path}: did you mean {}?", elsewhere.join(" or ").replace('*', "NAME"));
    }
    format!("unknown key {path}: remove it, or use one of {}", known.join(", "))
}

fn is_a(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number with a fraction",
        DeValue::Boolean(_) => "a yes/no value",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

pub(super) fn string<'v>(value: &'v DeValue<'_>) -> Result<&'v str, String> {
    value.as_str().ok_or_else(|| format!("{} stands here: write a string in double quotes", is_a(value)))
}

fn boolean(value: &DeValue<'_>) -> Result<bool, String> {
    value.as_bool().ok_or_else(|| format!("{} stands here: write true or false, without quotes", is_a(value)))
}

fn any_integer(value: &DeValue<'_>) -> Result<i128, String> {
    let wrong = || format!("{} stands here: write a whole number without quotes", is_a(value));
    let integer = value.as_integer().ok_or_else(wrong)?;
    i128::from_str_radix(integer.as_str(), integer.radix()).map_err(|_| wrong())
}

fn integer(value: &DeValue<'_>, range: RangeInclusive<u64>) -> Result<u64, String> {
    let number = any_integer(value)?;
    let fits = u64::try_from(number).ok().filter(|n| range.contains(n));
    fits.ok_or_else(|| format!("{number} is out of range: use {} to {}", range.start(), range.end()))
}

/// Narrows a number whose range was checked.
fn small<T: TryFrom<u64>>(number: u64) -> Result<T, String> {
    T::try_from(number).map_err(|_| format!("{number} is out of range"))
}

pub(super) fn duration(
    value: &DeValue<'_>,
    range: RangeInclusive<Nanos>,
    words: &str,
) -> Result<Nanos, String> {
    let text = value.as_str().ok_or_else(|| {
        format!("{} stands here: write a duration in quotes, like \"200us\" or \"1ms\"", is_a(value))
    })?;
    let ns = parse_duration(text)?;
    if range.contains(&ns) { Ok(ns) } else { Err(format!("\"{text}\" is out of range: use {words}")) }
}

pub(super) fn check_name(text: &str, what: &str, limit: usize) -> Result<(), String> {
    let fine = !text.is_empty()
        && text.len() <= limit
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c));
    let why = || format!("{text:?} can't be {what}: use 1 to {limit} letters, digits, '.', '_' or '-'");
    if fine { Ok(()) } else { Err(why()) }
}

fn name(value: &DeValue<'_>, what: &str, limit: usize) -> Result<String, String> {
    let text = string(value)?;
    check_name(text, what, limit)?;
    Ok(text.to_owned())
}

fn node_id(value: &DeValue<'_>) -> Result<NodeId, String> {
    let number = integer(value, 1..=255)?;
    NodeId::try_from(small::<u16>(number)?)
}

pub(super) fn list<'v, 'i>(value: &'v DeValue<'i>) -> Result<Vec<&'v DeValue<'i>>, String> {
    let wrong = || format!("{} stands here: write a list in square brackets", is_a(value));
    Ok(value.as_array().ok_or_else(wrong)?.iter().map(|item| item.get_ref()).collect())
}

fn addresses(value: &DeValue<'_>) -> Result<Vec<IpAddr>, String> {
    if value.is_str() {
        return Err("a string stands here: write a list, like [\"10.0.1.2\"]".into());
    }
    let parse = |item: &DeValue<'_>| {
        let text = string(item)?;
        let address: IpAddr = text.parse().map_err(|_| {
            format!("\"{text}\" is not an IP address: write one like \"10.0.1.2\" or \"fd00::2\"")
        })?;
        let link_local = matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local());
        if address.is_unspecified() || address.is_multicast() || address.is_loopback() || link_local {
            return Err(format!(
                "{address} can't be met from another node: write an address of the peer's interface"
            ));
        }
        Ok(address.to_canonical())
    };
    let addresses: Vec<IpAddr> = list(value)?.into_iter().map(parse).collect::<Result<_, _>>()?;
    if addresses.len() > 16 {
        return Err(format!("{} addresses are too many: 16 at most, and one is enough", addresses.len()));
    }
    Ok(addresses)
}

fn matches(value: &DeValue<'_>) -> Result<Vec<String>, String> {
    if value.is_str() {
        return Err("a string stands here: write a list, like [\"10.0.1.0/24\"] or [\"eth*\"]".into());
    }
    list(value)?.into_iter().map(|item| string(item).and_then(check_match)).collect()
}

fn check_match(text: &str) -> Result<String, String> {
    if let Some((address, len)) = text.split_once('/') {
        let parsed = address.parse::<IpAddr>().ok().zip(len.parse::<u8>().ok());
        let fine = parsed.is_some_and(|(a, len)| len <= if a.is_ipv4() { 32 } else { 128 });
        let why = || format!("\"{text}\" is not a subnet: write one like \"10.0.1.0/24\" or \"fd00:1::/64\"");
        return if fine { Ok(text.to_owned()) } else { Err(why()) };
    }
    if text.parse::<IpAddr>().is_ok() {
        return Err(format!("\"{text}\" has no prefix length: write a subnet like \"10.0.1.0/24\""));
    }
    if text.is_empty() || text.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err(format!(
            "\"{text}\" is neither a subnet (\"10.0.1.0/24\") nor an interface name (\"eth*\")"
        ));
    }
    Ok(text.to_owned())
}

fn cpus(value: &DeValue<'_>) -> Result<Vec<usize>, String> {
    list(value)?.into_iter().map(|item| small(integer(item, 0..=4095)?)).collect()
}

fn absolute(value: &DeValue<'_>) -> Result<PathBuf, String> {
    let text = string(value)?;
    let path = PathBuf::from(text);
    if path.is_absolute() {
        Ok(path)
    } else {
        Err(format!("\"{text}\" is relative: write the whole path, from /"))
    }
}

fn size(text: &str, range: RangeInclusive<u64>, words: &str) -> Result<u64, String> {
    let size = parse_size(text)?;
    if range.contains(&size) { Ok(size) } else { Err(format!("\"{text}\" is out of range: use {words}")) }
}

fn policy(text: &str) -> Result<Policy, String> {
    match text {
        "failover" => Ok(Policy::Failover),
        "spread" => Ok(Policy::Spread),
        "duplicate" => Ok(Policy::Duplicate),
        other => Err(format!("\"{other}\" is not a policy: use \"failover\", \"spread\" or \"duplicate\"")),
    }
}

fn path(text: &str) -> Result<PathWish, String> {
    match text {
        "auto" => Ok(PathWish::Auto),
        "xdp" => Ok(PathWish::Xdp),
        "xdp-generic" => Ok(PathWish::XdpGeneric),
        "socket" => Ok(PathWish::Socket),
        other => Err(format!(
            "\"{other}\" is not a data path: use \"auto\", \"xdp\", \"xdp-generic\" or \"socket\""
        )),
    }
}

fn level(text: &str) -> Result<Level, String> {
    [Level::Clear, Level::Signed, Level::Encrypted]
        .into_iter()
        .find(|level| level.to_string() == text)
        .ok_or_else(|| {
            format!("\"{text}\" is not a security level: use \"clear\", \"signed\" or \"encrypted\"")
        })
}

fn is_witness(value: &DeValue<'_>) -> Result<bool, String> {
    match string(value)? {
        "node" => Ok(false),
        "witness" => Ok(true),
        other => Err(format!("\"{other}\" is not a role: use \"node\" or \"witness\"")),
    }
}

fn role_help() -> String {
    "that is not a role: use 0 (not used), 1 (cluster only) or 3 (cluster and client)".into()
}

/// The host's name up to the first dot, if it can be a node name.
pub(crate) fn own_host_name() -> Option<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
    let name = name.trim().split('.').next()?.to_owned();
    check_name(&name, "a node name", NAME_LEN).ok().map(|()| name)
}
