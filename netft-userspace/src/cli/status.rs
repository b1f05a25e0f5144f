//! `netft status`.

use super::text::{bytes, microseconds, or_dash, seconds, table, word};
use crate::engine::PathReport;
use crate::listing::{Counters, Status};
use netft_common::wire::Versions;
use std::fmt::Write;

pub(super) fn text(status: &Status) -> String {
    let mut out = String::new();
    let mut line = |name: &str, text: String| {
        let _ = writeln!(out, "{name:<11}{text}");
    };
    let Status { cluster, node, daemon, engine, adapter, .. } = status;
    line("cluster", format!("{} (id {}), {}", cluster.name, cluster.id, daemon.security_level));
    for (peer, level) in &daemon.other_levels {
        let own = daemon.security_level;
        line(
            "",
            format!(
                "! {peer} sends cluster traffic {level}, this node {own}: make security.level the same on both"
            ),
        );
    }
    for (peer, level) in &daemon.outdated_levels {
        line(
            "",
            format!(
                "! cluster traffic to {peer} is still sent {level}, until new keys are agreed on: if this lasts, something stops handshakes"
            ),
        );
    }
    if let Some(rotation) = &daemon.key_rotation {
        line("", format!("! {}", super::key::progress(rotation)));
    }
    let site = node.site.as_ref().map(|site| format!(", site {site}")).unwrap_or_default();
    line("node", format!("{} (id {}){site}: {}", node.name, node.id, word(node.state)));
    line(
        "netftd",
        format!(
            "{}, pid {}, running for {}, {}",
            daemon.version,
            daemon.pid,
            seconds(daemon.uptime_s),
            daemon.config_file
        ),
    );
    for other in &status.wire.refused {
        let who = other.node.as_deref().unwrap_or("a node");
        let theirs = Versions { oldest: other.oldest, newest: other.newest };
        let own = Versions { oldest: status.wire.oldest, newest: status.wire.newest };
        line(
            "",
            format!(
                "! {who} at {} speaks wire versions {theirs}, this node {own}: upgrade one of them",
                other.address
            ),
        );
    }
    let priority = match (engine.priority, engine.priority_configured) {
        (0, 0) => "ordinary scheduling".to_owned(),
        (0, wanted) => format!("ordinary scheduling (SCHED_FIFO {wanted} is configured)"),
        (has, wanted) if has == wanted => format!("SCHED_FIFO {has}"),
        (has, wanted) => format!("SCHED_FIFO {has} ({wanted} is configured)"),
    };
    let cpus = engine.cpus.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    let cpus = if cpus.is_empty() { "any CPU".to_owned() } else { format!("CPU {cpus}") };
    line("engine", format!("{}, {priority}, {cpus}", word(engine.wait)));
    line("", format!("late by {} at most, {} stalls", microseconds(engine.loop_gap_max_us), engine.stalls));
    #[expect(clippy::cast_precision_loss, reason = "shown with three digits")]
    let [stolen, waited] = [engine.stolen_us, engine.waited_us].map(|us| microseconds(us as f64));
    line("", format!("the hypervisor took {stolen} of its CPU, it waited {waited} for others"));
    for note in &engine.notes {
        line("", format!("! {note}"));
    }
    line("adapter", format!("{} {} MTU {}", adapter.name, adapter.adapter.mac, adapter.adapter.mtu));
    line("", format!("{} {}", adapter.adapter.ipv4, adapter.adapter.ipv6));
    line("peers", format!("{} of {} up", status.peers.up, status.peers.total));
    line("routes", format!("{} of {} up", status.routes.up, status.routes.total));
    let rtt = &status.rtt;
    let part = |us: Option<f64>| or_dash(us.map(microseconds));
    let parts =
        format!("half <= {}, 99% <= {}, all <= {}", part(rtt.p50_us), part(rtt.p99_us), part(rtt.max_us));
    line(
        "round trip",
        if rtt.samples == 0 { "none yet".into() } else { format!("{parts} ({} heartbeats)", rtt.samples) },
    );
    let data = &status.data;
    let way = |frames: u64, count: u64| format!("{frames} frames ({})", bytes(count));
    line(
        "traffic",
        format!(
            "sent {}, received {}",
            way(data.frames_sent, data.bytes_sent),
            way(data.frames_received, data.bytes_received)
        ),
    );
    line(
        "policy",
        format!(
            "{}: {} frames sent twice, {} again, {} given up",
            word(data.policy),
            data.duplicated,
            data.replayed,
            data.keep_overflow + data.keep_expired
        ),
    );
    out.push('\n');
    out += &interfaces(status);
    // The first hello of a session is always unfresh: it brings the challenge that the next one answers.
    let worrying = |name: &str| name.contains("reject") && name != "hello_reject_unfresh";
    out += &nonzero("packets rejected", &status.counters, worrying);
    out += &nonzero("frames dropped", &data.drops, |_| true);
    out
}

fn interfaces(status: &Status) -> String {
    let mut rows = Vec::new();
    for interface in &status.interfaces {
        let first = interface.addresses.first().cloned();
        rows.push(vec![
            interface.name.clone(),
            word(interface.link),
            word(interface.xdp),
            or_dash(interface.path.as_ref().map(ways)),
            or_dash(first),
        ]);
        for address in interface.addresses.iter().skip(1) {
            rows.push(vec![String::new(), String::new(), String::new(), String::new(), address.clone()]);
        }
    }
    let mut out = table(&["interface", "link", "xdp", "data by", "addresses"], rows);
    for interface in &status.interfaces {
        if let Some(note) = &interface.note {
            let _ = writeln!(out, "! {note}");
        }
        if let Some(path) = &interface.path {
            let _ = writeln!(out, "{}: {}", interface.name, path.why);
        }
    }
    out
}

/// How data travels on an interface: one word if both directions agree.
fn ways(path: &PathReport) -> String {
    if path.receive == path.transmit {
        word(path.receive)
    } else {
        format!("in {}, out {}", word(path.receive), word(path.transmit))
    }
}

fn nonzero(title: &str, counters: &Counters, wanted: fn(&str) -> bool) -> String {
    let found: Vec<_> = counters.iter().filter(|(name, count)| **count > 0 && wanted(name)).collect();
    let mut out = String::new();
    if !found.is_empty() {
        let _ = writeln!(out, "\n{title}");
        for (name, count) in found {
            let _ = writeln!(out, "  {name} {count}");
        }
    }
    out
}
