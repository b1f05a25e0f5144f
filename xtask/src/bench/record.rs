//! What a measurement leaves behind: its bounds on the terminal, everything in a JSON file.

use super::Form;
use crate::traffic::{Monitor, MonitorReport};
use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::Value;
use std::path::Path;
use std::process::Command;

/// Above this share of stolen CPU time a run says more about the hypervisor than about netft.
const STEAL_LIMIT_PERCENT: f64 = 0.5;
/// Runs of one part, if the hypervisor keeps stealing.
const ATTEMPTS: u32 = 3;

/// One bound, and whether it held.
#[derive(Clone, Debug, Serialize)]
pub struct Bound {
    /// What is bounded, with its unit.
    pub what: String,
    /// What was measured.
    pub measured: f64,
    /// The most that is allowed.
    pub limit: f64,
    /// Whether it held.
    pub held: bool,
    /// Why the bound is held all the same, or where an excess came from; empty if there is nothing to say.
    pub explanation: String,
}

impl Bound {
    /// `measured` must not exceed `limit`.
    pub fn at_most(what: &str, measured: f64, limit: f64) -> Self {
        Self { what: what.to_string(), measured, limit, held: measured <= limit, explanation: String::new() }
    }

    /// Nothing of the sort may occur.
    pub fn none(what: &str, occurred: usize) -> Self {
        #[expect(clippy::cast_precision_loss, reason = "a small count")]
        Self::at_most(what, occurred as f64, 0.0)
    }

    /// As it is, with its explanation.
    pub fn explained(mut self, explanation: String) -> Self {
        self.explanation = explanation;
        self
    }
}

/// What a part measured.
#[derive(Debug, Default)]
pub struct Findings {
    /// Numbers, for the JSON file.
    pub results: Value,
    /// Bounds.
    pub bounds: Vec<Bound>,
    /// Lines for the terminal.
    pub lines: Vec<String>,
}

/// One part of a measurement, as kept.
#[derive(Debug, Serialize)]
pub struct PartRecord {
    /// Its name on the command line.
    name: &'static str,
    /// What it measures.
    what: &'static str,
    /// Whether every bound held.
    held: bool,
    bounds: Vec<Bound>,
    results: Value,
    /// Said while measuring.
    notes: Vec<String>,
    monitor: MonitorReport,
    /// How many runs were needed until the hypervisor kept still (or patience ended).
    attempts: u32,
    date: String,
    command: String,
    machine: Machine,
}

/// Where it was measured.
#[derive(Debug, Serialize)]
struct Machine {
    kernel: String,
    cpu: String,
    cores: usize,
    memory_mib: u64,
    hypervisor: String,
}

/// Measures one part under the gap monitor, again while too much time was stolen.
pub fn measure(
    name: &'static str,
    what: &'static str,
    part: impl FnMut(&Monitor) -> Result<Findings>,
) -> Result<PartRecord> {
    measure_up_to(ATTEMPTS, name, what, part)
}

/// Measures one part under the gap monitor, whatever the hypervisor does: for what must hold all the same.
pub fn measure_once(
    name: &'static str,
    what: &'static str,
    part: impl FnMut(&Monitor) -> Result<Findings>,
) -> Result<PartRecord> {
    measure_up_to(1, name, what, part)
}

fn measure_up_to(
    most: u32,
    name: &'static str,
    what: &'static str,
    mut part: impl FnMut(&Monitor) -> Result<Findings>,
) -> Result<PartRecord> {
    println!("\n{name}: {what}");
    let mut attempts = 0;
    loop {
        attempts += 1;
        let monitor = Monitor::start()?;
        let findings = part(&monitor).with_context(|| format!("measuring {name}"))?;
        let monitor = monitor.stop()?;
        let stolen = monitor.steal_percent > STEAL_LIMIT_PERCENT;
        if stolen && attempts < most {
            println!(
                "  {:.1} % of the CPU time was stolen by the hypervisor: once more",
                monitor.steal_percent
            );
            continue;
        }
        let mut notes = findings.lines;
        if stolen {
            notes.push(format!(
                "{:.1} % of the CPU time was stolen, in the last of {attempts} runs",
                monitor.steal_percent
            ));
        }
        notes.push(format!(
            "machine meanwhile: {:.2} % stolen, {:.1} % in softirqs, {:.0} % busy, longest gap {:.0} µs, {} above 1 ms",
            monitor.steal_percent,
            monitor.softirq_percent,
            monitor.busy_percent,
            monitor.longest_gap_us,
            monitor.gaps_over_1ms,
        ));
        notes.iter().for_each(|note| println!("  {note}"));
        for bound in &findings.bounds {
            let verdict = if bound.held { "held" } else { "NOT HELD" };
            let Bound { what, measured, limit, explanation, .. } = bound;
            println!("  {verdict}: {what} {measured:.3}, at most {limit:.3}");
            if !explanation.is_empty() {
                println!("        {explanation}");
            }
        }
        let Findings { results, bounds, .. } = findings;
        return Ok(PartRecord {
            name,
            what,
            held: bounds.iter().all(|bound| bound.held),
            bounds,
            results,
            notes,
            monitor,
            attempts,
            date: said_by("date", &["--utc", "+%F"]),
            command: format!("cargo xtask {}", std::env::args().skip(1).collect::<Vec<_>>().join(" ")),
            machine: Machine::here(),
        });
    }
}

/// Writes `part` into the file of its measurement. Other parts that are there already stay, so that a long
/// measurement can be made part by part.
pub fn keep(path: &Path, measurement: &str, order: &[&str], part: &PartRecord) -> Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    }
    let before =
        std::fs::read_to_string(path).ok().and_then(|text| serde_json::from_str::<Value>(&text).ok());
    let mut parts =
        before.and_then(|before| before.get("parts").and_then(Value::as_array).cloned()).unwrap_or_default();
    parts.retain(|kept| kept["name"] != part.name);
    parts.push(serde_json::to_value(part)?);
    parts.sort_by_key(|kept| order.iter().position(|name| kept["name"] == *name));
    parts.retain(|kept| order.iter().any(|name| kept["name"] == *name));
    let held = parts.iter().all(|kept| kept["held"] == true);
    let document = serde_json::json!({ "measurement": measurement, "held": held, "parts": parts });
    let text = serde_json::to_string_pretty(&document)? + "\n";
    std::fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}

/// Turns bounds that didn't hold into an error.
pub(super) fn judge(parts: &[PartRecord], form: Form) -> Result<()> {
    let broken: Vec<_> = parts
        .iter()
        .flat_map(|part| part.bounds.iter().map(move |bound| (part.name, bound)))
        .filter(|(_, bound)| !bound.held)
        .map(|(part, bound)| format!("{part}: {} {:.3} > {:.3}", bound.what, bound.measured, bound.limit))
        .collect();
    anyhow::ensure!(broken.is_empty(), "bounds that did not hold:\n  {}", broken.join("\n  "));
    match form {
        Form::Full => println!("every bound held"),
        Form::Short => println!("every bound of the short form held; the full form's are tighter"),
    }
    Ok(())
}

impl Machine {
    fn here() -> Self {
        let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let cpu = field(&cpuinfo, "model name");
        let flags = field(&cpuinfo, "flags");
        let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let memory = field(&meminfo, "MemTotal");
        let memory_kib: u64 = memory.split_whitespace().next().and_then(|kib| kib.parse().ok()).unwrap_or(0);
        let virtual_machine = flags.split_whitespace().any(|flag| flag == "hypervisor");
        Self {
            kernel: std::fs::read_to_string("/proc/sys/kernel/osrelease")
                .unwrap_or_default()
                .trim()
                .to_string(),
            cpu,
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory_mib: memory_kib / 1024,
            hypervisor: if virtual_machine { "virtual machine" } else { "none seen" }.to_string(),
        }
    }
}

fn field(text: &str, name: &str) -> String {
    let line = text.lines().find(|line| line.starts_with(name));
    line.and_then(|line| line.split_once(':')).map(|(_, value)| value.trim().to_string()).unwrap_or_default()
}

fn said_by(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_string()).unwrap_or_default()
}
