//! `bench reply`: how long until a heartbeat comes back, when XDP answers it and when a UDP echo in userspace does.
//!
//! One lab without daemons: a client in n1, the answering side in n2, a wire between. The client sends the same 88
//! bytes through the same socket API to both; XDP also checks and makes a SipHash tag, the echo does nothing. All
//! variants take turns in rounds, so that whatever the machine does meanwhile hits all of them.

mod client;
mod echo;
mod responder;
mod wire;

use super::record::{Bound, Findings, PartRecord, measure};
use super::stats::Summary;
use super::{Form, Part};
use crate::interrupt;
use crate::lab::stress::{Kind, Stress};
use crate::lab::{LabGuard, Options};
use anyhow::Result;
use client::Client;
pub(in crate::bench) use client::pin;
use echo::Echo;
use responder::Responder;
use serde_json::json;
use std::time::{Duration, Instant};
use wire::Wire;

/// The project's bound: XDP's median over the echo's.
const RATIO_LIMIT: f64 = 0.6;

/// Parts of `bench reply`.
pub(super) const PARTS: &[Part] = &[
    Part { name: "idle", run: idle, short: true },
    Part { name: "switched", run: switched, short: false },
    Part { name: "cpu", run: cpu, short: false },
    Part { name: "timers", run: timers, short: false },
    Part { name: "fifo", run: fifo, short: false },
];

/// How a thread waits for a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wait {
    /// In the kernel.
    Block,
    /// By asking over and over.
    Spin,
}

/// How the kernel schedules a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    Ordinary,
    /// SCHED_FIFO 55: above the hogs, below netft.
    Prompt,
}

/// Who sends and who answers.
struct Variant {
    name: &'static str,
    client: Wait,
    /// `None` = XDP.
    echo: Option<(Wait, Class)>,
    samples: Vec<u64>,
    lost: u64,
}

impl Variant {
    const fn new(name: &'static str, client: Wait, echo: Option<(Wait, Class)>) -> Self {
        Self { name, client, echo, samples: Vec::new(), lost: 0 }
    }
}

/// With both ends spinning the ratio is reported, not judged: docs/decisions/0004-which-echo.md.
fn idle(form: Form) -> Result<PartRecord> {
    measure(
        "idle",
        "nothing else runs; a client that blocks and one that spins, one veth pair to the answering side",
        |_| take_turns(form, Wire::Direct, Class::Ordinary, variants(), &[(0, 1), (0, 2)]),
    )
}

/// Through a bridge, whose own time is the same for everybody, so that ratios say less: bounds only against an echo
/// that blocks, as a service does.
fn switched(form: Form) -> Result<PartRecord> {
    measure(
        "switched",
        "the same through the lab's switch: a bridge, and a program at each of its ports",
        |_| take_turns(form, Wire::Switched, Class::Ordinary, variants(), &[(0, 1)]),
    )
}

fn variants() -> Vec<Variant> {
    use Class::Ordinary;
    use Wait::{Block, Spin};
    vec![
        Variant::new("xdp, client blocks", Block, None),
        Variant::new("echo blocks, client blocks", Block, Some((Block, Ordinary))),
        Variant::new("echo spins, client blocks", Block, Some((Spin, Ordinary))),
        Variant::new("xdp, client spins", Spin, None),
        Variant::new("echo spins, client spins", Spin, Some((Spin, Ordinary))),
    ]
}

fn cpu(form: Form) -> Result<PartRecord> {
    under("cpu", "two busy threads on every core", Kind::Cpu, form)
}

fn timers(form: Form) -> Result<PartRecord> {
    under("timers", "a storm of timers on every core", Kind::Timers, form)
}

fn fifo(form: Form) -> Result<PartRecord> {
    under("fifo", "a SCHED_FIFO hog on every core, busy for 90 % of the time", Kind::Fifo, form)
}

/// Under load the client runs above the load, so that the answer is measured and not the client.
fn under(name: &'static str, what: &'static str, kind: Kind, form: Form) -> Result<PartRecord> {
    measure(name, what, |_| {
        let variants = vec![
            Variant::new("xdp", Wait::Block, None),
            Variant::new("echo with FIFO 55", Wait::Block, Some((Wait::Block, Class::Prompt))),
            Variant::new("echo", Wait::Block, Some((Wait::Block, Class::Ordinary))),
        ];
        let _stress = Stress::start(kind)?;
        take_turns(form, Wire::Direct, Class::Prompt, variants, &[(0, 1), (0, 2)])
    })
}

fn take_turns(
    form: Form,
    wire: Wire,
    client_class: Class,
    mut variants: Vec<Variant>,
    pairs: &[(usize, usize)],
) -> Result<Findings> {
    let (budget, burst) = match form {
        Form::Full => (Duration::from_secs(30), 200),
        Form::Short => (Duration::from_secs(4), 50),
    };
    let name = LabGuard::unique_name("reply");
    interrupt::take_down(&name)?;
    let lab = LabGuard::up(&Options::new(&name, 2, 1).daemon_less())?;
    wire.lay(&lab)?;
    let responder = Responder::attach(&lab, wire)?;
    let echoes = variants
        .iter()
        .map(|variant| variant.echo.map(|(wait, class)| Echo::start(&lab, wire, wait, class)).transpose())
        .collect::<Result<Vec<_>>>()?;
    let mut client = Client::open(&lab, wire, &responder)?;
    let samples = std::thread::scope(|scope| {
        let worker = scope.spawn(|| -> Result<Vec<Variant>> {
            client::settle(client_class)?;
            let end = Instant::now() + budget;
            let mut warm = false;
            while Instant::now() < end {
                for (variant, echo) in variants.iter_mut().zip(&echoes) {
                    let turn = match echo {
                        None => client.heartbeats(variant.client, burst)?,
                        Some(echo) => echo.during(|port| client.echoes(variant.client, port, burst))?,
                    };
                    // The first round resolves neighbours and wakes everything up.
                    if warm {
                        variant.lost += turn.lost;
                        variant.samples.extend(turn.round_trips_ns);
                    }
                }
                warm = true;
            }
            Ok(variants)
        });
        worker.join().unwrap_or_else(|_| Err(anyhow::anyhow!("the client panicked")))
    })?;
    Ok(findings(form, &samples, pairs, &responder.mode))
}

fn findings(form: Form, variants: &[Variant], pairs: &[(usize, usize)], mode: &str) -> Findings {
    let summaries: Vec<Summary> = variants.iter().map(|variant| Summary::micros(&variant.samples)).collect();
    let mut findings = Findings::default();
    let mut results = serde_json::Map::new();
    results.insert("xdp_mode".into(), json!(mode));
    findings.lines.push(format!(
        "{:<28} {:>8} {:>10} {:>10} {:>12}   ({mode} XDP)",
        "round trip in µs", "samples", "median", "p99", "max"
    ));
    for (variant, summary) in variants.iter().zip(&summaries) {
        let Summary { count, median, p99, max, .. } = summary;
        let name = variant.name;
        findings.lines.push(format!("{name:<28} {count:>8} {median:>10.2} {p99:>10.2} {max:>12.2}"));
        results.insert(name.into(), json!({ "round_trip_us": summary, "lost": variant.lost }));
    }
    // Each echo, next to the XDP reply to a client that waits like its own.
    let mut ratios = serde_json::Map::new();
    for (at, echo) in variants.iter().enumerate().filter(|(_, variant)| variant.echo.is_some()) {
        let xdp =
            variants.iter().position(|xdp| xdp.echo.is_none() && xdp.client == echo.client).unwrap_or(0);
        let ratio = summaries[xdp].median / summaries[at].median;
        let what = format!("median of \"{}\" / \"{}\"", variants[xdp].name, echo.name);
        if pairs.contains(&(xdp, at)) {
            findings.bounds.push(Bound::at_most(&what, ratio, form.limit(RATIO_LIMIT)));
        } else {
            findings.lines.push(format!("{what}: {ratio:.3}, not judged"));
        }
        ratios.insert(what, json!(ratio));
    }
    results.insert("ratios".into(), ratios.into());
    findings.results = results.into();
    findings
}
