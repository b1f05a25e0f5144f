//! Keys are replaced, and levels changed on one node after the other, while traffic flows: nothing is lost for it, nothing
//! refused, no route goes down.
//!
//! Losses are judged by UDP alone. Beside TCP at full speed queues overflow on a machine with everything on two cores, with
//! changes or without: that is only reported.

use crate::bench::Form;
use crate::bench::bulk::Bulk;
use crate::bench::detect::bed::Bed;
use crate::bench::frames::switch::{is_at, secure};
use crate::bench::record::{Bound, Findings, PartRecord, measure_once};
use crate::cluster::{self, ask};
use crate::lab::Lab;
use crate::traffic::{Flow, FlowReport, FlowSpec, boottime_ns};
use anyhow::{Context, Result, ensure};
use netft_core::types::Level;
use netft_userspace::control::Request;
use netft_userspace::listing::Nodes;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Of the stream's throughput without new keys, so much must be left with some each second.
const TCP_LEFT: f64 = 0.7;
/// While levels change, the stream may stand still for so long: two of TCP's shortest retransmission timeouts.
const STALL_MS: f64 = 400.0;
/// How long what was sent may be under way.
const UNDER_WAY: Duration = Duration::from_millis(100);
/// How long nodes have different levels, and then the same.
const MIXED: Duration = Duration::from_millis(150);

/// A stretch of time.
struct Stretch {
    name: &'static str,
    flow: FlowReport,
    /// Beside TCP: throughput, and the longest time in which nothing arrived.
    tcp: Option<(f64, u64)>,
    refused: BTreeMap<String, u64>,
    changes: u64,
    downs: usize,
}

/// New keys.
pub(super) fn rekey(form: Form) -> Result<PartRecord> {
    let what =
        "new keys every second: 1000 UDP packets a second, and in the full form beside TCP at full speed";
    measure_once("rekey", what, |_| {
        let span = Duration::from_secs(if form == Form::Full { 60 } else { 4 });
        let bed = Bed::make(2, 2, &["security.rekey=\"1s\""])?;
        let flow = flow(&bed.lab, span)?;
        let renewing = || {
            let before = renewals(&bed.lab)?;
            std::thread::sleep(span);
            Ok(renewals(&bed.lab)? - before)
        };
        let mut stretches = vec![stretch("UDP alone", &bed, &flow, None, renewing)?];
        if form == Form::Full {
            let bulk = bulk(&bed.lab)?;
            stretches.push(stretch("beside TCP", &bed, &flow, Some(&bulk), renewing)?);
            for node in cluster::nodes(&bed.lab) {
                cluster::change(&bed.lab, &node, "security.rekey=\"10m\"")?;
            }
            let keeping = || {
                std::thread::sleep(span);
                Ok(0)
            };
            stretches.push(stretch("beside TCP, without changes", &bed, &flow, Some(&bulk), keeping)?);
        }
        let mut findings = findings(&stretches);
        for renewed in stretches.iter().take(2) {
            // Both nodes count each: half of one a second.
            let wanted = count(span.as_secs()) / count(renewed.changes.max(1));
            let what = format!("{}: renewals wanted / seen", renewed.name);
            findings.bounds.push(Bound::at_most(&what, wanted, 1.0));
        }
        if let [_, Stretch { tcp: Some((with, _)), .. }, Stretch { tcp: Some((without, _)), .. }] =
            stretches[..]
        {
            let what = "TCP without / with new keys";
            findings.bounds.push(Bound::at_most(what, without / with.max(f64::EPSILON), 1.0 / TCP_LEFT));
        }
        Ok(findings)
    })
}

/// Other levels.
pub(super) fn levels(form: Form) -> Result<PartRecord> {
    let what = "the level changes, on one node after the other: 1000 UDP packets a second, and in the full form beside TCP";
    measure_once("levels", what, |_| {
        let rounds = if form == Form::Full { 20 } else { 2 };
        let bed = Bed::make(2, 2, &[])?;
        let flow = flow(&bed.lab, Duration::from_secs(2 * rounds))?;
        let changing = || change_levels(&bed.lab, rounds);
        let mut stretches = vec![stretch("UDP alone", &bed, &flow, None, changing)?];
        if form == Form::Full {
            let bulk = bulk(&bed.lab)?;
            stretches.push(stretch("beside TCP", &bed, &flow, Some(&bulk), changing)?);
        }
        let mut findings = findings(&stretches);
        for Stretch { name, tcp, .. } in &stretches {
            if let Some((_, stall_ns)) = tcp {
                let what = format!("{name}: longest stall of TCP, ms");
                let stall_ms = Duration::from_nanos(*stall_ns).as_secs_f64() * 1e3;
                findings.bounds.push(Bound::at_most(&what, stall_ms, STALL_MS));
            }
        }
        Ok(findings)
    })
}

/// Each round: all levels, n1 first, so that both nodes send at different ones for a while. Says how often a node changed.
fn change_levels(lab: &Lab, rounds: u64) -> Result<u64> {
    let mut changes = 0;
    for level in [Level::Encrypted, Level::Clear, Level::Signed].repeat(usize::try_from(rounds)?) {
        for node in cluster::nodes(lab) {
            cluster::change(lab, &node, &format!("security.level={:?}", level.to_string()))?;
            changes += 1;
            let began = Instant::now();
            // It sends at the new level before the next one is told.
            while !is_at(lab, &node, level)? {
                ensure!(began.elapsed() < Duration::from_secs(5), "{node} doesn't send at level {level}");
                std::thread::sleep(Duration::from_millis(5));
            }
            std::thread::sleep(MIXED.saturating_sub(began.elapsed()));
        }
        // And each knows that the other does.
        secure(lab, level)?;
    }
    Ok(changes)
}

fn flow(lab: &Lab, span: Duration) -> Result<Flow> {
    let destination = cluster::adapter(lab, "n2")?.ipv4.into();
    let flow = Flow::udp(lab, &FlowSpec::kilohertz("n1", "n2", destination, span * 8))?;
    ensure!(flow.wait_for_arrival(boottime_ns(), Duration::from_secs(5)), "nothing arrives");
    Ok(flow)
}

fn bulk(lab: &Lab) -> Result<Bulk> {
    let bulk = Bulk::start(lab, "n1", "n2")?;
    std::thread::sleep(Duration::from_millis(500));
    Ok(bulk)
}

/// What becomes of traffic while `work` goes on, which says how many changes there were.
fn stretch(
    name: &'static str,
    bed: &Bed,
    flow: &Flow,
    bulk: Option<&Bulk>,
    work: impl FnOnce() -> Result<u64>,
) -> Result<Stretch> {
    let bytes = || bulk.map_or(0, Bulk::bytes);
    let refused = refused(&bed.lab)?;
    let (from_ns, before) = (boottime_ns(), bytes());
    let changes = work()?;
    let (to_ns, moved) = (boottime_ns(), bytes() - before);
    std::thread::sleep(UNDER_WAY);
    let more = self::refused(&bed.lab)?.into_iter().map(|(name, count)| {
        let before = refused.get(&name).copied().unwrap_or(0);
        (name, count - before)
    });
    #[expect(clippy::cast_precision_loss, reason = "some gigabytes, some seconds")]
    let gbits = moved as f64 * 8.0 / (to_ns - from_ns) as f64;
    Ok(Stretch {
        name,
        flow: flow.report(from_ns, to_ns),
        tcp: bulk.map(|bulk| anyhow::Ok((gbits, bulk.stall_ns(from_ns, to_ns)?))).transpose()?,
        refused: more.filter(|(_, count)| *count > 0).collect(),
        changes,
        downs: bed.downs_since(from_ns).len(),
    })
}

/// Bounds that hold for all: nothing refused, nothing twice, nothing down; without TCP nothing lost.
fn findings(stretches: &[Stretch]) -> Findings {
    let mut findings = Findings::default();
    let mut rows = Vec::new();
    for Stretch { name, flow, tcp, refused, changes, downs } in stretches {
        let FlowReport { sent, lost, duplicated, reordered, .. } = flow;
        let tcp_said = tcp.map_or(String::new(), |(gbits, stall_ns)| {
            let stall_ms = Duration::from_nanos(stall_ns).as_secs_f64() * 1e3;
            format!("; TCP {gbits:.2} Gbit/s, longest stall {stall_ms:.1} ms")
        });
        findings.lines.push(format!(
            "{name}: {changes} changes; {sent} UDP packets, {lost} lost, {duplicated} twice, {reordered} out of order\
             {tcp_said}; refused: {refused:?}"
        ));
        rows.push(json!({
            "traffic": name,
            "changes": changes,
            "flow": flow,
            "tcp_gbit_per_s": tcp.map(|(gbits, _)| gbits),
            "tcp_longest_stall_us": tcp.map(|(_, stall_ns)| stall_ns / 1000),
            "refused": refused,
            "route_downs": downs,
        }));
        let mut bound = |what: &str, measured: f64| {
            findings.bounds.push(Bound::at_most(&format!("{name}: {what}"), measured, 0.0));
        };
        if tcp.is_none() {
            bound("UDP packets lost", count(*lost));
        }
        bound("UDP packets delivered twice", count(*duplicated));
        bound("messages refused for their keys, tag or sequence", count(refused.values().sum()));
        bound("routes down", count(*downs as u64));
    }
    findings.results = Value::from(rows);
    findings
}

#[expect(clippy::cast_precision_loss, reason = "small counts")]
fn count(count: u64) -> f64 {
    count as f64
}

/// What was refused for its keys, its tag, its checksum or its sequence, on all nodes.
fn refused(lab: &Lab) -> Result<BTreeMap<String, u64>> {
    const NAMES: [&str; 6] = [
        "reject_epoch",
        "reject_tag",
        "data_reject_epoch",
        "data_reject_tag",
        "data_reject_checksum",
        "data_reject_replay",
    ];
    let mut all = BTreeMap::new();
    for node in cluster::nodes(lab) {
        let status = cluster::status(lab, &node)?;
        for (name, count) in status.counters.into_iter().chain(status.data.drops) {
            if NAMES.contains(&name.as_str()) {
                *all.entry(name).or_default() += count;
            }
        }
    }
    Ok(all)
}

/// How often keys were replaced, as both nodes count.
fn renewals(lab: &Lab) -> Result<u64> {
    let mut sum = 0;
    for node in cluster::nodes(lab) {
        let listed: Nodes = ask(lab, &node, Request::Nodes)?;
        let peers = listed.nodes.into_iter().filter(|listed| !listed.local);
        for peer in peers {
            sum +=
                peer.session.with_context(|| format!("{node} has no session with {}", peer.name))?.renewals;
        }
    }
    Ok(sum)
}
