//! Keys are replaced while TCP and UDP flow: nothing is lost for it, nothing refused, no route goes down.

use crate::bench::Form;
use crate::bench::bulk::Bulk;
use crate::bench::detect::bed::Bed;
use crate::bench::record::{Bound, Findings, PartRecord, measure_once};
use crate::cluster::{self, ask};
use crate::lab::Lab;
use crate::traffic::{Flow, FlowReport, FlowSpec, boottime_ns};
use anyhow::{Context, Result, ensure};
use netft_userspace::control::Request;
use netft_userspace::listing::Nodes;
use serde_json::json;
use std::collections::BTreeMap;
use std::time::Duration;

/// Of the stream's throughput without changes, so much must be left with one each second.
const TCP_LEFT: f64 = 0.7;
/// How long what was sent may be under way.
const UNDER_WAY: Duration = Duration::from_millis(100);

/// A stretch of time.
struct Stretch {
    flow: FlowReport,
    gbits: f64,
    stall_ns: u64,
    refused: BTreeMap<String, u64>,
    renewals: u64,
    downs: usize,
}

/// The part.
pub(super) fn rekey(form: Form) -> Result<PartRecord> {
    let what = "new keys every second, beside TCP at full speed and 1000 UDP packets a second, against none";
    measure_once("rekey", what, |_| {
        let span = Duration::from_secs(if form == Form::Full { 60 } else { 3 });
        let bed = Bed::make(2, 2, &[])?;
        let destination = cluster::adapter(&bed.lab, "n2")?.ipv4.into();
        let flow = Flow::udp(&bed.lab, &FlowSpec::kilohertz("n1", "n2", destination, span * 4))?;
        ensure!(flow.wait_for_arrival(boottime_ns(), Duration::from_secs(5)), "nothing arrives");
        let bulk = Bulk::start(&bed.lab, "n1", "n2")?;
        std::thread::sleep(Duration::from_millis(500));
        let calm = stretch(&bed, &flow, &bulk, span)?;
        for node in cluster::nodes(&bed.lab) {
            cluster::change(&bed.lab, &node, "security.rekey=\"1s\"")?;
        }
        let changing = stretch(&bed, &flow, &bulk, span)?;
        Ok(findings(&calm, &changing, span, form))
    })
}

fn stretch(bed: &Bed, flow: &Flow, bulk: &Bulk, span: Duration) -> Result<Stretch> {
    let (refused, renewals) = (refused(&bed.lab)?, renewals(&bed.lab)?);
    let (from_ns, bytes) = (boottime_ns(), bulk.bytes());
    std::thread::sleep(span);
    let (to_ns, bytes) = (boottime_ns(), bulk.bytes() - bytes);
    std::thread::sleep(UNDER_WAY);
    let refused_after = self::refused(&bed.lab)?;
    let more = refused_after.into_iter().map(|(name, count)| {
        let before = refused.get(&name).copied().unwrap_or(0);
        (name, count - before)
    });
    #[expect(clippy::cast_precision_loss, reason = "some gigabytes, some seconds")]
    let gbits = bytes as f64 * 8.0 / (to_ns - from_ns) as f64;
    Ok(Stretch {
        flow: flow.report(from_ns, to_ns),
        gbits,
        stall_ns: bulk.stall_ns(from_ns, to_ns)?,
        refused: more.filter(|(_, count)| *count > 0).collect(),
        renewals: self::renewals(&bed.lab)? - renewals,
        downs: bed.downs_since(from_ns).len(),
    })
}

fn findings(calm: &Stretch, changing: &Stretch, span: Duration, form: Form) -> Findings {
    let mut findings = Findings::default();
    for (stretch, what) in [(calm, "without"), (changing, "with")] {
        let FlowReport { sent, lost, duplicated, reordered, .. } = stretch.flow;
        findings.lines.push(format!(
            "{what} changes: {} renewals; {sent} UDP packets, {lost} lost, {duplicated} twice, {reordered} out of order; TCP \
             {:.2} Gbit/s, longest stall {:.1} ms; refused: {:?}",
            stretch.renewals,
            stretch.gbits,
            Duration::from_nanos(stretch.stall_ns).as_secs_f64() * 1e3,
            stretch.refused
        ));
    }
    let json = |stretch: &Stretch| {
        json!({
            "renewals": stretch.renewals,
            "flow": stretch.flow,
            "tcp_gbit_per_s": stretch.gbits,
            "tcp_longest_stall_us": stretch.stall_ns / 1000,
            "refused": stretch.refused,
            "route_downs": stretch.downs,
        })
    };
    findings.results = json!({ "seconds": span.as_secs(), "calm": json(calm), "changing": json(changing) });
    #[expect(clippy::cast_precision_loss, reason = "small counts")]
    let count = |count: u64| count as f64;
    // Both nodes count each: half of one a second.
    let wanted = span.as_secs();
    let refused: u64 = changing.refused.values().sum();
    findings.bounds = vec![
        Bound::at_most("renewals wanted / seen", count(wanted) / count(changing.renewals.max(1)), 1.0),
        Bound::at_most(
            "UDP packets lost, against those lost without",
            count(changing.flow.lost),
            count(calm.flow.lost),
        ),
        Bound::at_most("UDP packets delivered twice", count(changing.flow.duplicated), 0.0),
        Bound::at_most("messages refused for their keys, tag or sequence", count(refused), 0.0),
        Bound::none("routes down", changing.downs),
        Bound::at_most(
            "TCP without / with changes",
            calm.gbits / changing.gbits.max(f64::EPSILON),
            form.limit(1.0 / TCP_LEFT),
        ),
    ];
    findings
}

/// What was refused for its keys, its tag or its sequence, on all nodes.
fn refused(lab: &Lab) -> Result<BTreeMap<String, u64>> {
    const NAMES: [&str; 5] =
        ["reject_epoch", "reject_tag", "data_reject_epoch", "data_reject_tag", "data_reject_replay"];
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
