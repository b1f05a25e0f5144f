//! `cargo xtask bench`: measurements with bounds. The exit status says whether every bound held; the full form leaves
//! its numbers in `docs/measurements/`.

mod bulk;
mod detect;
mod flood;
mod frames;
mod loss;
mod owners;
mod record;
mod reply;
mod scale;
mod security;
mod sim;
mod stats;
mod traffic;

use crate::lab;
use crate::test::workspace_root;
use anyhow::{Result, bail};
use record::PartRecord;
use std::path::PathBuf;

/// Command line.
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    bench: Bench,
}

#[derive(clap::Subcommand)]
enum Bench {
    /// How fast failures are seen, and that none is seen which isn't there.
    Detect(Options),
    /// Hostile packets at full speed: nothing goes down, everything is counted.
    Flood(Options),
    /// Frames a second over `netft0`, what they cost, and where they are lost, for each data path.
    Frames(Options),
    /// What a silent cut of the active route costs a UDP flow and a TCP stream.
    Loss(Options),
    /// Who owns a VIP, in virtual time: 100 000 seeds, never two owners.
    Owners(Options),
    /// Round trip of a heartbeat answered in XDP, against an echo in userspace.
    Reply(Options),
    /// What a heartbeat costs as peers grow.
    Scale(Options),
    /// Attackers beside TCP, every parser under mutations, changes of keys under traffic, system calls per frame.
    Security(Options),
    /// Clusters in virtual time: thousands of seeds, hundreds of hours, no property broken.
    Sim(Options),
    /// TCP and request latency over `netft0`, beside the bare cable, VXLAN and a tunnel in userspace.
    Traffic(Options),
}

/// Options that every measurement has.
#[derive(Clone, Debug, clap::Args)]
struct Options {
    /// At most 20 seconds: the form that the tests run.
    #[arg(long)]
    short: bool,
    /// Only this part (may be given more than once).
    #[arg(long, value_name = "PART")]
    part: Vec<String>,
    /// Where the JSON goes; by default docs/measurements/, in the short form target/measurements/.
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// What a measurement stands on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ground {
    /// A lab, in real time: one measurement at a time.
    Lab,
    /// Virtual time: it needs only processors.
    Nothing,
}

/// Length of a measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// What the figures in the documentation come from.
    Full,
    /// At most 20 seconds.
    Short,
}

impl Form {
    /// What a bound on speed is in this form. The short one runs among the tests, where the machine may be busy: it
    /// asserts behaviour (counts are exact) and order (XDP is faster than an echo).
    fn limit(self, full: f64) -> f64 {
        const SHORT_FORM_SLACK: f64 = 1.6;
        match self {
            Form::Full => full,
            Form::Short => full * SHORT_FORM_SLACK,
        }
    }
}

/// A part that can be chosen.
struct Part {
    name: &'static str,
    run: fn(Form) -> Result<PartRecord>,
    /// Whether the short form has it.
    short: bool,
}

/// Runs it.
pub fn run(args: Args) -> Result<()> {
    match args.bench {
        Bench::Detect(options) => run_parts("detect", &options, detect::PARTS, Ground::Lab),
        Bench::Flood(options) => run_parts("flood", &options, flood::PARTS, Ground::Lab),
        Bench::Frames(options) => run_parts("frames", &options, frames::PARTS, Ground::Lab),
        Bench::Loss(options) => run_parts("loss", &options, loss::PARTS, Ground::Lab),
        Bench::Owners(options) => run_parts("owners", &options, owners::PARTS, Ground::Nothing),
        Bench::Reply(options) => run_parts("reply", &options, reply::PARTS, Ground::Lab),
        Bench::Scale(options) => run_parts("scale", &options, scale::PARTS, Ground::Lab),
        Bench::Security(options) => run_parts("security", &options, security::PARTS, Ground::Lab),
        Bench::Sim(options) => run_parts("sim", &options, sim::PARTS, Ground::Nothing),
        Bench::Traffic(options) => run_parts("traffic", &options, traffic::PARTS, Ground::Lab),
    }
}

fn run_parts(name: &'static str, options: &Options, parts: &[Part], ground: Ground) -> Result<()> {
    if let Some(unknown) = options.part.iter().find(|wanted| !parts.iter().any(|part| part.name == *wanted)) {
        let names: Vec<_> = parts.iter().map(|part| part.name).collect();
        bail!("bench {name} has no part {unknown:?}: choose from {}", names.join(", "));
    }
    let form = if options.short { Form::Short } else { Form::Full };
    let chosen = parts.iter().filter(|part| match options.part.is_empty() {
        true => form == Form::Full || part.short,
        false => options.part.iter().any(|wanted| part.name == wanted),
    });
    let folder = if form == Form::Full { "docs/measurements" } else { "target/measurements" };
    let path =
        options.output.clone().unwrap_or_else(|| workspace_root().join(folder).join(format!("{name}.json")));
    let order: Vec<_> = parts.iter().map(|part| part.name).collect();
    let mut records = Vec::new();
    if ground == Ground::Lab {
        lab::build()?;
    }
    for part in chosen {
        // Taken before the part's clock and monitor start: waiting for it is no part of the measurement.
        let _lock = match ground {
            Ground::Lab => Some(lab::timing_lock()?),
            Ground::Nothing => None,
        };
        let record = (part.run)(form)?;
        record::keep(&path, name, &order, &record)?;
        records.push(record);
    }
    println!("\nwritten: {}", path.display());
    record::judge(&records, form)
}
