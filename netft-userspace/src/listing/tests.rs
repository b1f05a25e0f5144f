//! Snapshots: what `docs/json.md` promises, to the letter. A test that fails here means that the contract changes.

use super::*;
use netft_core::membership::Phase;
use serde_json::{Value, json};

/// `document` comes out as `expected`, and back.
fn snapshot<T>(document: T, expected: Value)
where
    T: Serialize + serde::de::DeserializeOwned + PartialEq + std::fmt::Debug,
{
    let versioned = Versioned::new(document);
    assert_eq!(serde_json::to_value(&versioned).unwrap(), expected);
    let mut newer = expected;
    newer["a_field_of_a_later_version"] = json!(1);
    assert_eq!(serde_json::from_value::<Versioned<T>>(newer).unwrap(), versioned);
}

fn adapter() -> Adapter {
    let (ipv4, ipv6) = ("169.254.7.9".parse().unwrap(), "fe80::1".parse().unwrap());
    Adapter { mac: "02:00:00:00:00:01".into(), ipv4, ipv6, mtu: 1386 }
}

fn path() -> PathReport {
    use crate::engine::DataWay;
    PathReport {
        interface: "net1".into(),
        receive: DataWay::Xdp,
        transmit: DataWay::Socket,
        zero_copy: false,
        sockets: 1,
        buffer_bytes: 1 << 20,
        why: "why".into(),
    }
}

fn path_json() -> Value {
    json!({ "interface": "net1", "receive": "xdp", "transmit": "socket", "zero_copy": false, "sockets": 1,
            "buffer_bytes": 1_048_576, "why": "why" })
}

#[test]
fn nodes_are_as_documented() {
    let endpoint = Endpoint {
        interface: "net1".into(),
        address: "10.77.1.2/24".into(),
        mac: "02:00:00:00:00:02".into(),
        link: LinkState::NoCarrier,
        mtu: 1500,
        speed_mbps: None,
    };
    let node = Node {
        name: "n2".into(),
        id: Some(2),
        site: None,
        state: NodeState::EngineStalled,
        local: false,
        adapter: Some(adapter()),
        last_change: Some("2026-11-22T06:15:20.000000Z".into()),
        silence_us: Some(512.5),
        tick_age_us: Some(1012.0),
        session: Some(Session {
            epoch: "0badcafe".into(),
            wire_version: 1,
            since: "2026-11-22T18:15:20.123456Z".into(),
            sends: Level::Signed,
            receives: Level::Encrypted,
            renewals: 3,
        }),
        endpoints: vec![endpoint],
    };
    snapshot(
        Nodes { nodes: vec![node] },
        json!({ "version": 1, "nodes": [{
            "name": "n2", "id": 2, "site": null, "state": "engine-stalled", "local": false,
            "adapter": { "mac": "02:00:00:00:00:01", "ipv4": "169.254.7.9", "ipv6": "fe80::1", "mtu": 1386 },
            "last_change": "2026-11-22T06:15:20.000000Z",
            "silence_us": 512.5,
            "tick_age_us": 1012.0,
            "session": { "epoch": "0badcafe", "wire_version": 1, "since": "2026-11-22T18:15:20.123456Z", "sends": "signed", "receives": "encrypted", "renewals": 3 },
            "endpoints": [{ "interface": "net1", "address": "10.77.1.2/24", "mac": "02:00:00:00:00:02",
                            "link": "no-carrier", "mtu": 1500, "speed_mbps": null }],
        }] }),
    );
}

#[test]
fn networks_are_as_documented() {
    let network = Network {
        name: "Cluster Network 1".into(),
        subnet: Some("10.77.1.0/24".into()),
        subnets: vec!["10.77.1.0/24".into(), "fd77:1::/64".into()],
        role: Role::ClusterAndClient,
        metric: 80_000,
        state: NetworkState::Partial,
        interfaces: vec!["net1".into()],
        paths: vec![path()],
        routes_up: 1,
        routes: 2,
    };
    snapshot(
        Networks { networks: vec![network] },
        json!({ "version": 1, "networks": [{
            "name": "Cluster Network 1", "subnet": "10.77.1.0/24", "subnets": ["10.77.1.0/24", "fd77:1::/64"],
            "role": 3, "metric": 80000, "state": "partial", "interfaces": ["net1"], "paths": [path_json()],
            "routes_up": 1, "routes": 2,
        }] }),
    );
}

#[test]
fn routes_are_as_documented() {
    let record = HistoryRecord {
        time: "2026-11-22T06:15:20.000000Z".into(),
        boottime_ns: 5_000_000_000,
        old: RouteState::Up,
        new: RouteState::AdminDown,
        reason: RouteReason::PeerAdminDown,
        sent: 100,
        completed: 99,
        misses: 1,
        threshold: 5,
        evidence_age_us: Some(1000.5),
        silence_us: None,
    };
    let route = Route {
        peer: "n2".into(),
        network: "Cluster Network 1".into(),
        local: "10.77.1.1".parse().unwrap(),
        remote: "10.77.1.2".parse().unwrap(),
        state: RouteState::AdminDown,
        active: false,
        rtt_us: Some(12.345),
        mtu: Some(1500),
        misses: 1,
        last_change: None,
        reason: RouteReason::TxOnly,
        class: RouteClass::SameSubnet,
        metric: 40_000,
        delay_us: 1000.0,
        threshold: 5,
        sent: 100,
        completed: 99,
        silence_us: Some(250.0),
        flaps: 1.5,
        damped_left_ms: None,
        slot: Some(3),
        history: Some(vec![record]),
    };
    let mut expected = json!({ "version": 1, "routes": [{
        "peer": "n2", "network": "Cluster Network 1", "local": "10.77.1.1", "remote": "10.77.1.2",
        "state": "admin-down", "active": false, "rtt_us": 12.345, "mtu": 1500, "misses": 1, "last_change": null,
        "reason": "tx-only", "class": "same-subnet", "metric": 40000, "delay_us": 1000.0, "threshold": 5,
        "sent": 100, "completed": 99, "silence_us": 250.0, "flaps": 1.5, "damped_left_ms": null, "slot": 3,
        "history": [{ "time": "2026-11-22T06:15:20.000000Z", "boottime_ns": 5_000_000_000_u64, "old": "up",
                      "new": "admin-down", "reason": "peer-admin-down", "sent": 100, "completed": 99, "misses": 1,
                      "threshold": 5, "evidence_age_us": 1000.5, "silence_us": null }],
    }] });
    snapshot(Routes { routes: vec![route.clone()] }, expected.clone());
    expected["routes"][0].as_object_mut().unwrap().remove("history");
    snapshot(Routes { routes: vec![Route { history: None, ..route }] }, expected);
}

#[test]
fn events_are_as_documented() {
    let event = Event {
        sequence: 7,
        time: "2026-11-22T06:15:20.000001Z".into(),
        boottime_ns: 5,
        kind: "route".into(),
        subject: "n2 10.77.1.1 -> 10.77.1.2".into(),
        old: Some("up".into()),
        new: Some("down".into()),
        reason: "rx-only".into(),
        evidence: BTreeMap::from([("misses".into(), 5.0)]),
    };
    let mut expected = json!({ "version": 1, "events": [{
        "sequence": 7, "time": "2026-11-22T06:15:20.000001Z", "boottime_ns": 5, "kind": "route",
        "subject": "n2 10.77.1.1 -> 10.77.1.2", "old": "up", "new": "down", "reason": "rx-only",
        "evidence": { "misses": 5.0 },
    }] });
    snapshot(Events { events: vec![event.clone()] }, expected.clone());
    expected["events"][0].as_object_mut().unwrap().remove("evidence");
    snapshot(Events { events: vec![Event { evidence: BTreeMap::new(), ..event }] }, expected);
}

#[test]
fn status_is_as_documented() {
    let status = Status {
        cluster: Cluster { name: "prod".into(), id: 7 },
        node: ThisNode { name: "n1".into(), id: 1, site: None, state: NodeState::Up },
        daemon: Daemon {
            version: "0.1.0".into(),
            pid: 12,
            started: "2026-11-22T06:15:20.000000Z".into(),
            uptime_s: 3,
            config_file: "/etc/netft/netft.toml".into(),
            security_level: Level::Signed,
            other_levels: BTreeMap::from([("n2".into(), Level::Clear)]),
            outdated_levels: BTreeMap::from([("n3".into(), Level::Clear)]),
            secret: "00c0ffee00c0ffee".into(),
            key_rotation: Some(KeyRotation {
                started_by: "n2".into(),
                phase: Phase::Offered,
                waits_for: vec!["n3".into()],
                secret: "0badcafe0badcafe".into(),
            }),
            adopted_routes: 0,
        },
        wire: Wire {
            oldest: 1,
            newest: 2,
            refused: vec![RefusedWire {
                node: Some("n3".into()),
                address: "fd77:1::3".parse().unwrap(),
                oldest: 3,
                newest: 4,
            }],
        },
        engine: Engine {
            wait: crate::engine::Wait::Sleep,
            priority: 60,
            priority_configured: 60,
            cpus: vec![1],
            loops: 9,
            loop_gap_max_us: 120.5,
            stalls: 0,
            stolen_us: 20_000,
            waited_us: 7,
            receive_stalls: 3,
            postponed_verdicts: 1,
            request_send_errors: 0,
            notes: vec![],
        },
        adapter: AdapterStatus { name: "netft0".into(), adapter: adapter() },
        interfaces: vec![InterfaceStatus {
            name: "net1".into(),
            link: LinkState::Up,
            xdp: crate::engine::XdpMode::Native,
            note: None,
            addresses: vec!["10.77.1.1/24".into()],
            mtu: 1500,
            speed_mbps: Some(10_000),
            path: Some(path()),
        }],
        peers: Tally { up: 1, total: 2 },
        routes: Tally { up: 2, total: 4 },
        rtt: Rtt::new(&[(1_023, 2)]),
        data: Data {
            threads: vec![crate::engine::DataThread::default()],
            drops: BTreeMap::from([("no_route".into(), 0)]),
            ..Data::default()
        },
        counters: BTreeMap::from([("leg1".into(), 5)]),
    };
    snapshot(
        status,
        json!({
            "version": 1,
            "cluster": { "name": "prod", "id": 7 },
            "node": { "name": "n1", "id": 1, "site": null, "state": "up" },
            "daemon": { "version": "0.1.0", "pid": 12, "started": "2026-11-22T06:15:20.000000Z", "uptime_s": 3,
                        "config_file": "/etc/netft/netft.toml", "security_level": "signed", "other_levels": { "n2": "clear" },
                        "outdated_levels": { "n3": "clear" }, "secret": "00c0ffee00c0ffee",
                        "key_rotation": { "started_by": "n2", "phase": "offered", "waits_for": ["n3"], "secret": "0badcafe0badcafe" },
                        "adopted_routes": 0 },
            "wire": { "oldest": 1, "newest": 2,
                      "refused": [{ "node": "n3", "address": "fd77:1::3", "oldest": 3, "newest": 4 }] },
            "engine": { "wait": "sleep", "priority": 60, "priority_configured": 60, "cpus": [1], "loops": 9,
                        "loop_gap_max_us": 120.5, "stalls": 0, "stolen_us": 20000, "waited_us": 7,
                        "receive_stalls": 3, "postponed_verdicts": 1,
                        "request_send_errors": 0, "notes": [] },
            "adapter": { "name": "netft0", "mac": "02:00:00:00:00:01", "ipv4": "169.254.7.9", "ipv6": "fe80::1",
                         "mtu": 1386 },
            "interfaces": [{ "name": "net1", "link": "up", "xdp": "native", "note": null,
                             "addresses": ["10.77.1.1/24"], "mtu": 1500, "speed_mbps": 10000,
                             "path": path_json() }],
            "peers": { "up": 1, "total": 2 },
            "routes": { "up": 2, "total": 4 },
            "rtt": { "samples": 2, "p50_us": 1.023, "p99_us": 1.023, "max_us": 1.023,
                     "histogram": [{ "le_us": 1.023, "count": 2 }] },
            "data": { "policy": "failover", "frames_sent": 0, "bytes_sent": 0, "frames_received": 0, "bytes_received": 0,
                      "xdp_sent": 0, "xdp_received": 0,
                      "threads": [{ "frames_sent": 0, "frames_received": 0, "xdp_sent": 0, "xdp_received": 0 }],
                      "buffer_bytes": 0, "kept_bytes": 0, "replayed": 0, "duplicated": 0, "keep_overflow": 0,
                      "keep_expired": 0,
                      "drops": { "no_route": 0 } },
            "counters": { "leg1": 5 },
        }),
    );
}

#[test]
fn reload_and_failures_are_as_documented() {
    let change = Change {
        key: "engine.wait".into(),
        old: json!("sleep"),
        new: json!("spin"),
        effect: crate::config::Effect::Restart,
    };
    snapshot(
        Reload { file: "/etc/netft/netft.toml".into(), applied: true, changes: vec![change] },
        json!({ "version": 1, "file": "/etc/netft/netft.toml", "applied": true,
                "changes": [{ "key": "engine.wait", "old": "sleep", "new": "spin", "effect": "restart" }] }),
    );
    snapshot(Failure { error: "no".into() }, json!({ "version": 1, "error": "no" }));
    let config = BTreeMap::from([("node.id".into(), json!(1)), ("node.site".into(), Value::Null)]);
    snapshot(
        ConfigShow { file: "/f".into(), config },
        json!({ "version": 1, "file": "/f", "config": { "node.id": 1, "node.site": null } }),
    );
}

/// Every field that a document has is named in the manual, so that nothing is published by accident.
#[test]
fn the_manual_names_every_word() {
    let manual = include_str!("../../../docs/json.md");
    let words = include_str!("../../../docs/words.md");
    for word in ["up", "down", "admin-down", "engine-stalled", "leaving"] {
        assert!(words.contains(&format!("| `{word}` |")), "{word}");
    }
    let reasons = [
        RouteReason::Starting,
        RouteReason::HeartbeatsComplete,
        RouteReason::HeartbeatsMissed,
        RouteReason::RxOnly,
        RouteReason::TxOnly,
        RouteReason::CarrierLost,
        RouteReason::AdminDown,
        RouteReason::PeerCarrierLost,
        RouteReason::PeerAdminDown,
        RouteReason::PeerLeft,
        RouteReason::Adopted,
        RouteReason::Removed,
        RouteReason::Damped,
    ];
    for reason in reasons {
        let word = serde_json::to_value(reason).unwrap();
        assert!(words.contains(&format!("| `{}` |", word.as_str().unwrap())), "{word}");
    }
    for field in [
        "last_change",
        "evidence_age_us",
        "adopted_routes",
        "loop_gap_max_us",
        "routes_up",
        "speed_mbps",
        "tick_age_us",
        "silence_us",
        "damped_left_ms",
        "flaps",
    ] {
        assert!(manual.contains(&format!("`{field}`")), "{field}");
    }
}
