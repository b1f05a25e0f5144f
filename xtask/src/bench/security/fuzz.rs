//! Every parser of bytes that nobody vouches for, under libFuzzer: as many at once as there are CPUs (`docs/fuzzing.md`).

use crate::bench::Form;
use crate::bench::record::{Bound, Findings, PartRecord, measure_once};
use crate::test::workspace_root;
use anyhow::{Context, Result, ensure};
use serde_json::json;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// Each is a binary of `tests/fuzz/libfuzzer` and a folder of `tests/fuzz/corpus`.
const PARSERS: [&str; 7] = ["frame", "handshake", "hello", "data", "packet", "control", "config"];
/// How long each is searched; `NETFT_FUZZ_MINUTES` changes it.
const MINUTES: u64 = 10;
const SHORT: Duration = Duration::from_secs(2);
const TRIPLE: &str = "x86_64-unknown-linux-gnu";
/// What libFuzzer needs to see, without a nightly compiler.
const INSTRUMENTATION: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1";

/// What came of one parser.
struct Searched {
    parser: &'static str,
    executions: u64,
    /// Inputs that reached something new.
    new_inputs: u64,
    /// What libFuzzer said of a crash, a hang or too much memory; empty = nothing of the sort.
    complaint: String,
}

/// The part.
pub(super) fn run(form: Form) -> Result<PartRecord> {
    measure_once("fuzz", "every parser of unauthenticated bytes under libFuzzer", |_| {
        let span = match form {
            Form::Full => Duration::from_secs(60 * minutes()?),
            Form::Short => SHORT,
        };
        let folder = workspace_root().join("tests/fuzz/libfuzzer");
        build(&folder)?;
        let (next, done) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        std::thread::scope(|scope| {
            let search = || -> Result<()> {
                while let Some(parser) = PARSERS.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let searched = search(&folder, parser, span)?;
                    println!("  {}", searched.line());
                    done.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(searched);
                }
                Ok(())
            };
            let searching: Vec<_> = (0..cpus).map(|_| scope.spawn(search)).collect();
            searching.into_iter().try_for_each(|thread| {
                thread.join().unwrap_or_else(|_| Err(anyhow::anyhow!("a search panicked")))
            })
        })?;
        let done = done.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        let rows: Vec<_> = done
            .iter()
            .map(|one| {
                json!({
                    "parser": one.parser,
                    "executions": one.executions,
                    "new_inputs": one.new_inputs,
                    "complaint": one.complaint,
                })
            })
            .collect();
        let failed = done.iter().filter(|one| !one.complaint.is_empty()).count();
        Ok(Findings {
            results: json!({ "seconds_each": span.as_secs(), "parsers": rows }),
            bounds: vec![
                Bound::none("parsers not searched", PARSERS.len() - done.len()),
                Bound::none("parsers that crashed, hung or took too much memory", failed),
            ],
            lines: done.iter().map(Searched::line).collect(),
        })
    })
}

fn minutes() -> Result<u64> {
    let Ok(text) = std::env::var("NETFT_FUZZ_MINUTES") else { return Ok(MINUTES) };
    text.parse().with_context(|| format!("NETFT_FUZZ_MINUTES={text} is no number of minutes"))
}

fn build(folder: &Path) -> Result<()> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--release", "--locked", "--quiet", "--target", TRIPLE]).current_dir(folder);
    let status = cargo.env("RUSTFLAGS", INSTRUMENTATION).status().context("starting cargo")?;
    ensure!(status.success(), "the targets of tests/fuzz/libfuzzer can't be built: see above");
    Ok(())
}

/// Searches one parser, from the committed corpus and what earlier searches found.
fn search(folder: &Path, parser: &'static str, span: Duration) -> Result<Searched> {
    let found = workspace_root().join("target/fuzz").join(parser);
    fs::create_dir_all(&found).with_context(|| format!("making {}", found.display()))?;
    let mut program = Command::new(folder.join("target").join(TRIPLE).join("release").join(parser));
    program
        .arg(format!("-max_total_time={}", span.as_secs()))
        .args(["-print_final_stats=1", "-verbosity=0", "-timeout=10", "-rss_limit_mb=2048"])
        .arg(format!("-artifact_prefix={}/", found.parent().unwrap_or(&found).join(parser).display()))
        .arg(&found)
        .arg(folder.join("../corpus").join(parser))
        .stdin(Stdio::null());
    let output = program.output().with_context(|| format!("starting the target {parser}"))?;
    let text = String::from_utf8_lossy(&output.stderr);
    let stat = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix("stat::")?.strip_prefix(name));
        line.and_then(|rest| rest.trim_start_matches(':').trim().parse().ok()).unwrap_or(0)
    };
    let complaint = match output.status.success() {
        true => String::new(),
        false => {
            let telling = |line: &&str| {
                line.contains("panicked") || line.contains("ERROR") || line.contains("Test unit")
            };
            let lines: Vec<_> = text.lines().filter(telling).collect();
            format!("{}: {}", output.status, lines.join("; "))
        }
    };
    let searched = Searched {
        parser,
        executions: stat("number_of_executed_units"),
        new_inputs: stat("new_units_added"),
        complaint,
    };
    ensure!(
        searched.executions > 0 || !searched.complaint.is_empty(),
        "the target {parser} ran nothing:\n{text}"
    );
    Ok(searched)
}

impl Searched {
    fn line(&self) -> String {
        let Self { parser, executions, new_inputs, complaint } = self;
        let verdict = if complaint.is_empty() { "no complaint" } else { complaint };
        format!("{parser}: {executions} executions, {new_inputs} new inputs, {verdict}")
    }
}
