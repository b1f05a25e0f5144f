//! Random sequences of cut, heal, unplug and plug that always leave one path: a TCP stream and a UDP flow live on.

use super::bed::{Bed, End};
use super::random::Random;
use crate::bench::Form;
use crate::bench::record::{Bound, Findings, PartRecord, measure_once};
use crate::bench::stats::Summary;
use crate::cluster;
use crate::lab::Direction;
use crate::traffic::{Flow, FlowReport, FlowSpec, boottime_ns};
use anyhow::{Result, bail};
use serde_json::json;
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

const NETWORKS: u32 = 2;
const STEPS: u64 = 6;
/// A flow that stays away longer did not survive.
const OUT_LIMIT: Duration = Duration::from_secs(1);
/// An outage longer than four detection times is told with what was done then.
const NOTABLE_NS: u64 = 20_000_000;
/// How much of what happened around it is told.
const BEFORE_NS: u64 = 60_000_000;
const AFTER_NS: u64 = 10_000_000;
const UP_PATIENCE: Duration = Duration::from_secs(30);

/// What is wrong with a path, and at which end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Fault {
    network: u32,
    node: &'static str,
    kind: FaultKind,
}

/// Something that was done.
struct Step {
    at_ns: u64,
    what: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FaultKind {
    Cut(Direction),
    Unplugged,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { network, node, kind } = self;
        write!(f, "{kind:?} {node} net{network}")
    }
}

/// Runs it.
pub(super) fn run(form: Form) -> Result<PartRecord> {
    measure_once(
        "survive",
        "random cuts, unplugs and repairs that leave one path; 1 kHz UDP and TCP over netft0",
        |_| survive(form),
    )
}

fn survive(form: Form) -> Result<Findings> {
    let sequences: u64 = if form == Form::Full { 100 } else { 2 };
    let bed = Bed::make(2, NETWORKS, &[])?;
    let destination = cluster::adapter(&bed.lab, "n2")?.ipv4.into();
    let spec = FlowSpec::kilohertz("n1", "n2", destination, Duration::from_secs(1200));
    let (udp, tcp) = (Flow::udp(&bed.lab, &spec)?, Flow::tcp(&bed.lab, &spec)?);
    std::thread::sleep(Duration::from_millis(200));
    let began_ns = boottime_ns();
    let (mut udp_outages, mut tcp_outages, mut lost, mut steps) = (Vec::new(), Vec::new(), 0, 0);
    let (mut broken, mut slow) = (Vec::new(), Vec::new());
    for seed in 1..=sequences {
        let from_ns = boottime_ns();
        let drops_before = drops(&bed)?;
        let done = one_sequence(&bed, seed)?;
        steps += done.len();
        std::thread::sleep(Duration::from_millis(50));
        let to_ns = boottime_ns();
        std::thread::sleep(Duration::from_millis(50));
        let (udp_report, tcp_report) = (udp.report(from_ns, to_ns), tcp.report(from_ns, to_ns));
        lost += udp_report.lost;
        let drops_after = drops(&bed)?;
        for (what, report) in [("UDP", &udp_report), ("TCP", &tcp_report)] {
            let text = || {
                format!(
                    "seed {seed}: {what} {}; drops {}",
                    told(report, &done, &bed),
                    grown(&drops_before, &drops_after)
                )
            };
            if Duration::from_nanos(report.longest_outage_ns) > OUT_LIMIT || !report.faults.is_empty() {
                broken.push(text());
            } else if report.longest_outage_ns > NOTABLE_NS && slow.len() < 20 {
                slow.push(text());
            }
        }
        udp_outages.push(udp_report.longest_outage_ns);
        tcp_outages.push(tcp_report.longest_outage_ns);
    }
    let whole = udp.report(began_ns, boottime_ns());
    let (udp_times, tcp_times) = (Summary::micros(&udp_outages), Summary::micros(&tcp_outages));
    let mut findings = Findings {
        results: json!({
            "sequences": sequences,
            "steps": steps,
            "longest_udp_outage_per_sequence_us": udp_times,
            "longest_tcp_stall_per_sequence_us": tcp_times,
            "slow": slow,
            "udp_sent": whole.sent,
            "udp_lost": lost,
            "udp_duplicated": whole.duplicated,
            "udp_reordered": whole.reordered,
        }),
        ..Findings::default()
    };
    findings
        .lines
        .push(format!("{sequences} sequences, {steps} steps; UDP: {} sent, {lost} lost", whole.sent));
    for (what, times) in [("UDP", udp_times), ("TCP", tcp_times)] {
        findings.lines.push(format!(
            "longest time without {what} per sequence: median {:.1} ms, max {:.1} ms",
            times.median / 1e3,
            times.max / 1e3
        ));
    }
    findings.lines.extend(broken.iter().chain(&slow).cloned());
    findings.bounds.push(Bound::none("flows that broke or stayed out for more than 1 s", broken.len()));
    Ok(findings)
}

/// Frames that the nodes' data threads dropped, by node and reason, and heartbeats that their kernels refused.
fn drops(bed: &Bed) -> Result<BTreeMap<String, u64>> {
    let mut all = BTreeMap::new();
    for (node, _) in &bed.watches {
        let status = cluster::status(&bed.lab, node)?;
        let reasons = status.data.drops.into_iter().chain(status.counters);
        all.extend(reasons.map(|(reason, count)| (format!("{node} {reason}"), count)));
    }
    Ok(all)
}

/// What grew, in words.
fn grown(before: &BTreeMap<String, u64>, after: &BTreeMap<String, u64>) -> String {
    let telling = |name: &str| !name.contains(" leg") && !name.contains(" passed");
    let more = after.iter().filter(|(name, _)| telling(name)).filter_map(|(name, count)| {
        let more = count - before.get(name).copied().unwrap_or(0).min(*count);
        (more > 0).then(|| format!("{name} {more}"))
    });
    more.collect::<Vec<_>>().join(", ")
}

/// An outage in words, with the steps around it.
fn told(report: &FlowReport, done: &[Step], bed: &Bed) -> String {
    let ms = |nanos: u64| nanos / 1_000_000;
    let (began, length) = (report.outage_began_ns, report.longest_outage_ns);
    let mut story: Vec<(u64, String)> = done.iter().map(|step| (step.at_ns, step.what.clone())).collect();
    for (node, watch) in &bed.watches {
        let events = watch.since(began.saturating_sub(BEFORE_NS)).into_iter();
        story.extend(events.map(|event| {
            let new = event.new.unwrap_or_default();
            (event.boottime_ns, format!("[{node}: {} {} {new} {}]", event.kind, event.subject, event.reason))
        }));
    }
    story.retain(|(at, _)| at + BEFORE_NS > began && *at < began + length + AFTER_NS);
    story.sort();
    let steps: Vec<String> = story
        .into_iter()
        .map(|(at, what)| {
            let sign = if at < began { '-' } else { '+' };
            format!("{sign}{} ms {what}", ms(at.abs_diff(began)))
        })
        .collect();
    format!(
        "out for {} ms, sender's own gap {} ms; {}; faults {:?}",
        ms(length),
        ms(report.longest_send_gap_ns),
        steps.join(", "),
        report.faults
    )
}

/// Some steps, then everything whole again. Returns what was done.
fn one_sequence(bed: &Bed, seed: u64) -> Result<Vec<Step>> {
    let mut random = Random::new(seed);
    let mut faults: Vec<Fault> = Vec::new();
    let mut done = Vec::new();
    for _ in 0..STEPS {
        let at_ns = boottime_ns();
        let repair =
            !faults.is_empty() && (random.below(2) == 0 || hit_networks(&faults) + 1 >= NETWORKS as usize);
        if repair {
            let index = usize::try_from(random.below(faults.len() as u64))?;
            let fault = faults.swap_remove(index);
            mend(bed, fault, &faults)?;
            done.push(Step { at_ns, what: format!("mended {fault}") });
        } else {
            // Another fault on a path that is already hit, or on one that isn't, as long as one stays whole.
            let Some(fault) = draw(&mut random, &faults) else { continue };
            apply(bed, fault)?;
            faults.push(fault);
            done.push(Step { at_ns, what: fault.to_string() });
        }
        std::thread::sleep(Duration::from_millis(random.below(40)));
    }
    while let Some(fault) = faults.pop() {
        let at_ns = boottime_ns();
        mend(bed, fault, &faults)?;
        done.push(Step { at_ns, what: format!("mended {fault}") });
    }
    Ok(done)
}

fn hit_networks(faults: &[Fault]) -> usize {
    (1..=NETWORKS).filter(|network| faults.iter().any(|fault| fault.network == *network)).count()
}

fn draw(random: &mut Random, faults: &[Fault]) -> Option<Fault> {
    let directions = [Direction::Both, Direction::Tx, Direction::Rx];
    let kinds = directions.map(FaultKind::Cut).into_iter().chain([FaultKind::Unplugged]);
    let all = kinds.flat_map(|kind| {
        (1..=NETWORKS).flat_map(move |network| ["n1", "n2"].map(|node| Fault { network, node, kind }))
    });
    let possible: Vec<Fault> = all
        .filter(|fault| {
            let same_place =
                faults.iter().any(|other| other.network == fault.network && other.node == fault.node);
            let spares_one = hit_networks(&[faults, &[*fault]].concat()) < NETWORKS as usize;
            spares_one && !same_place
        })
        .collect();
    random.pick(&possible).copied()
}

fn apply(bed: &Bed, Fault { network, node, kind }: Fault) -> Result<()> {
    let network = format!("net{network}");
    match kind {
        FaultKind::Cut(direction) => bed.lab.cut(node, &network, direction)?,
        FaultKind::Unplugged => bed.lab.unplug(node, &network)?,
    };
    Ok(())
}

/// Mends one fault. If its path is whole then, waits until both ends say so: only a path that is up is one.
fn mend(bed: &Bed, fault: Fault, left: &[Fault]) -> Result<()> {
    let Fault { network, node, kind } = fault;
    let name = format!("net{network}");
    match kind {
        FaultKind::Cut(direction) => bed.lab.heal(node, &name, direction)?,
        FaultKind::Unplugged => bed.lab.plug(node, &name)?,
    };
    if left.iter().any(|other| other.network == network) {
        return Ok(());
    }
    // A fault that was mended before anybody noticed leaves a route that never went down.
    std::thread::sleep(Duration::from_millis(20));
    let began = std::time::Instant::now();
    loop {
        let ends: Vec<End> = bed.ends("n1", network)?;
        let mut down = None;
        for end in ends {
            let routes = cluster::routes(&bed.lab, &end.node)?;
            let up = routes
                .iter()
                .any(|route| route.remote == end.remote && route.state == netft_core::types::RouteState::Up);
            if !up {
                down = Some(end.route());
            }
        }
        match down {
            None => return Ok(()),
            Some(route) if began.elapsed() > UP_PATIENCE => bail!("{route} over {name} doesn't come back"),
            Some(_) => std::thread::sleep(Duration::from_millis(2)),
        }
    }
}
