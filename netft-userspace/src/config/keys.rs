//! Every key that the file may have, in one table: what `config check`, `reload` and `docs/config.md` go by.

/// One key. `*` in the path stands for a name that the administrator chooses.
#[derive(Debug)]
pub struct Key {
    /// Dotted path.
    pub path: &'static str,
    /// The value without it, as it would be written; empty = must be set or has none.
    pub default: &'static str,
    /// When a change takes effect.
    pub applies: Applies,
    /// One line.
    pub about: &'static str,
}

/// When a changed value takes effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applies {
    /// At `netft reload`.
    Live,
    /// When netftd starts.
    Restart,
}

const fn key(path: &'static str, default: &'static str, applies: Applies, about: &'static str) -> Key {
    Key { path, default, applies, about }
}

use Applies::{Live, Restart};

/// The keys of this version.
pub const KEYS: &[Key] = &[
    key("cluster.id", "", Restart, "Number of the cluster, 1 to 4294967295, equal on all its nodes."),
    key("cluster.name", "\"cluster\"", Live, "Name of the cluster, for people."),
    key("node.name", "the host name", Restart, "Name of this node, at most 32 bytes."),
    key("node.id", "", Restart, "Number of this node, 1 to 255, different on every node."),
    key(
        "node.role",
        "\"node\"",
        Restart,
        "\"node\", or \"witness\": it votes about VIPs and gets none. Equal to what its peers say.",
    ),
    key("node.site", "", Restart, "Site of this node; nodes of different sites use heartbeat.cross_site."),
    key(
        "peer.*.addresses",
        "",
        Live,
        "Addresses at which this peer can be met; one is enough, the rest is found.",
    ),
    key(
        "peer.*.id",
        "learned from the peer",
        Live,
        "The peer's node id; if set, nobody else is accepted as it.",
    ),
    key("peer.*.site", "learned from the peer", Live, "The peer's site."),
    key("peer.*.role", "\"node\"", Restart, "\"node\", or \"witness\", as the peer's node.role says."),
    key(
        "security.level",
        "\"signed\"",
        Live,
        "How this node sends cluster traffic: \"clear\", \"signed\" or \"encrypted\"; the rest is always authenticated.",
    ),
    key(
        "security.key_file",
        "\"secret\"",
        Restart,
        "The cluster secret: mode 0600, at least 32 bytes, equal on all nodes. Relative to this file.",
    ),
    key("security.rekey", "\"600s\"", Live, "How long the keys of a session are used, 1s to 24h."),
    key(
        "heartbeat.same_subnet.delay",
        "\"1ms\"",
        Live,
        "Interval between heartbeats on routes within one subnet, 50us to 10s.",
    ),
    key(
        "heartbeat.same_subnet.threshold",
        "5",
        Live,
        "Heartbeats that may be missed in a row, 2 to 1000; delay × threshold is the detection time.",
    ),
    key("heartbeat.cross_subnet.delay", "\"10ms\"", Live, "The same for routes with a router between."),
    key("heartbeat.cross_subnet.threshold", "10", Live, "The same for routes with a router between."),
    key("heartbeat.cross_site.delay", "\"100ms\"", Live, "The same for routes between sites."),
    key("heartbeat.cross_site.threshold", "10", Live, "The same for routes between sites."),
    key(
        "engine.wait",
        "\"sleep\"",
        Restart,
        "\"sleep\" (timer and a short spin) or \"spin\" (a CPU of its own).",
    ),
    key(
        "engine.priority",
        "60",
        Restart,
        "SCHED_FIFO priority of the detection thread, 1 to 99; 0 = ordinary scheduling.",
    ),
    key(
        "engine.cpus",
        "[]",
        Restart,
        "CPUs for the detection thread; empty = the last one that netftd may use.",
    ),
    key(
        "engine.timeout",
        "\"250ms\"",
        Live,
        "A peer whose engine hasn't ticked for this long is engine-stalled, 10ms to 60s.",
    ),
    key(
        "engine.absence",
        "\"600s\"",
        Live,
        "How long an engine-stalled peer keeps its routes: longer than a restart or an upgrade takes, 1s to 24h.",
    ),
    key(
        "datapath.path",
        "\"socket\"",
        Live,
        "How cluster traffic travels: \"auto\", \"xdp\" (AF_XDP), \"xdp-generic\" or \"socket\" (the kernel's UDP).",
    ),
    key(
        "datapath.buffers",
        "\"64MiB\"",
        Live,
        "Memory for packets of all AF_XDP sockets together, 1MiB to 16GiB.",
    ),
    key(
        "datapath.policy",
        "\"failover\"",
        Live,
        "Which routes carry traffic to a peer: \"failover\" (the best), \"spread\" (near ones share it) or \"duplicate\" (two).",
    ),
    key(
        "datapath.keep",
        "\"16MiB\"",
        Restart,
        "Memory of each data thread for frames that are sent again if their route dies, 1MiB to 1GiB.",
    ),
    key(
        "network.*.match",
        "",
        Live,
        "Subnets (\"10.0.1.0/24\") or interface names (\"eth*\") that make up this network.",
    ),
    key(
        "network.*.role",
        "3 with a default gateway, else 1",
        Live,
        "0 = not used, 1 = cluster only, 3 = cluster and client.",
    ),
    key(
        "network.*.metric",
        "automatic",
        Live,
        "Preference, 1 to 4294967295; the lowest that is up carries cluster traffic.",
    ),
    key(
        "vip.*.addresses",
        "",
        Live,
        "Addresses of this VIP with prefix length (\"10.0.1.100/24\"), 1 to 8, equal on all nodes.",
    ),
    key(
        "vip.*.network",
        "the one with its subnet",
        Live,
        "Name of the network on whose interfaces the VIP is served.",
    ),
    key("vip.*.preferred", "[]", Live, "Names of the nodes that should have the VIP, the best first."),
    key(
        "vip.*.failback",
        "never",
        Live,
        "For how long a better node must have been fit before the VIP goes back to it, 0s to 1h.",
    ),
    key("routes.history", "64", Live, "Records kept per route, 1 to 10000."),
    key("routes.up_after", "3", Live, "Complete heartbeats in a row before a route is up, 1 to 1000."),
    key(
        "routes.fail_back_hold",
        "\"1s\"",
        Live,
        "How long a better route must be up before traffic returns to it, 0s to 1h.",
    ),
    key(
        "routes.flap_limit",
        "4",
        Live,
        "Downs that a route may have, older ones counting less; one more and it is damped, 0 to 100; 0 = never.",
    ),
    key(
        "routes.flap_half_life",
        "\"2s\"",
        Live,
        "After this long a down counts half towards routes.flap_limit, 100ms to 1h.",
    ),
    key(
        "routes.damping_max",
        "\"10s\"",
        Live,
        "The longest that a damped route must complete heartbeats before it is up again, 100ms to 1h.",
    ),
    key("events.history", "1024", Live, "Events kept for `netft events`, 16 to 100000."),
    key(
        "log.packets",
        "false",
        Restart,
        "Whether netftd logs which frames XDP refuses, from where and why; at most 20 lines a second.",
    ),
    key("control.socket", "\"/run/netft/control.sock\"", Restart, "The Unix socket that `netft` talks to."),
    key(
        "control.group",
        "",
        Restart,
        "Group that may use the socket besides root, except for `netft key rotate`.",
    ),
    key("adapter.name", "\"netft0\"", Restart, "Name of the virtual adapter, at most 15 bytes."),
    key("paths.state", "\"/var/lib/netft\"", Restart, "Folder for what must outlive the daemon."),
    key(
        "paths.pins",
        "\"/sys/fs/bpf/netft/default\"",
        Restart,
        "Folder on a BPF file system for maps and links; one per daemon.",
    ),
];

/// Keys of later versions: refused, but not as typing errors. A path stands for all below it.
pub(super) const LATER: &[(&str, &str)] = &[
    ("cluster.quorum", "a majority of the nodes decides; another quorum comes later"),
    ("cluster.arbiter", "an arbiter comes later; a node with node.role = \"witness\" does the same"),
    ("vip.*.group", "groups of VIPs come in a later version"),
    ("metrics", "metrics come in a later version; `netft status --json` has the numbers"),
];

/// Whether `path` is `pattern`, or lies above it (a table on the way to it).
pub(super) enum Fit {
    /// The key itself.
    Key,
    /// A table that holds keys.
    Table,
    /// Neither.
    Unknown,
}

/// Where `path` stands in the table.
pub(super) fn fit(path: &[&str]) -> Fit {
    let mut table = false;
    for key in KEYS {
        let pattern: Vec<&str> = key.path.split('.').collect();
        let agrees = pattern.iter().zip(path).all(|(p, s)| *p == "*" || p == s);
        if agrees && pattern.len() == path.len() {
            return Fit::Key;
        }
        table |= agrees && path.len() < pattern.len();
    }
    if table { Fit::Table } else { Fit::Unknown }
}

/// The names that may stand at the place of the last segment of `path`, without repeats.
pub(super) fn siblings(path: &[&str]) -> Vec<&'static str> {
    let depth = path.len() - 1;
    let mut names: Vec<&str> = Vec::new();
    for key in KEYS {
        let pattern: Vec<&str> = key.path.split('.').collect();
        let agrees = pattern.iter().zip(&path[..depth]).all(|(p, s)| *p == "*" || p == s);
        if let Some(name) = pattern.get(depth).filter(|n| agrees && **n != "*" && !names.contains(*n)) {
            names.push(name);
        }
    }
    names
}

/// Where the key of a full path stands in the table: the order in which people read them.
pub(crate) fn position(path: &str) -> usize {
    let leaf = find(path);
    KEYS.iter().position(|key| leaf.is_some_and(|leaf| leaf.path == key.path)).unwrap_or(KEYS.len())
}

/// The key that a full path (with names in place of `*`) belongs to.
pub(super) fn find(path: &str) -> Option<&'static Key> {
    let leaf = path.rsplit('.').next().unwrap_or(path);
    KEYS.iter().find(|key| match key.path.split_once(".*.") {
        Some((table, tail)) => path.starts_with(&format!("{table}.")) && leaf == tail,
        None => key.path == path,
    })
}
