//! `cargo xtask test`: every check there is, in the order in which a mistake is cheapest to find.
//!
//! A part that can't run (no privilege, no tool, no toolchain) fails and says what to do; nothing is skipped.

mod licences;
mod links;
mod needs;
mod parts;
mod process;

use anyhow::{Context, Result, bail};
use parts::{PARTS, Part, Step};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Command line.
#[derive(clap::Args)]
pub struct Args {
    /// Run only this part (may be given more than once; see --list).
    #[arg(long, value_name = "PART")]
    only: Vec<String>,
    /// List the parts and what they check.
    #[arg(long)]
    list: bool,
}

/// A part that ran, for the table.
struct Outcome {
    part: &'static Part,
    took: Duration,
    error: Option<anyhow::Error>,
}

/// Runs the parts; the first that fails ends the run.
pub fn run(args: Args) -> Result<()> {
    if args.list {
        for part in PARTS {
            println!("{:<10} {}", part.name, part.what);
        }
        return Ok(());
    }
    let chosen = choose(&args.only)?;
    let root = workspace_root();
    let started = Instant::now();
    needs::provide()?;
    let mut outcomes = Vec::new();
    for part in chosen {
        println!("\n=== {}: {}", part.name, part.what);
        let began = Instant::now();
        let error = run_part(&root, part).err();
        let failed = error.is_some();
        outcomes.push(Outcome { part, took: began.elapsed(), error });
        if failed {
            break;
        }
    }
    print_table(&outcomes, started.elapsed());
    match outcomes.into_iter().find_map(|outcome| Some((outcome.part, outcome.error?))) {
        Some((part, error)) => {
            Err(error.context(format!("{} failed; to mend it: {}", part.name, part.remedy)))
        }
        None => Ok(()),
    }
}

/// The checkout this binary was built from.
pub fn workspace_root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map_or_else(|| PathBuf::from("."), Path::to_path_buf)
}

fn choose(only: &[String]) -> Result<Vec<&'static Part>> {
    for name in only {
        if !PARTS.iter().any(|part| part.name == name) {
            let names: Vec<_> = PARTS.iter().map(|part| part.name).collect();
            bail!("there is no part called {name:?}: choose from {}", names.join(", "));
        }
    }
    Ok(PARTS.iter().filter(|part| only.is_empty() || only.iter().any(|name| name == part.name)).collect())
}

fn run_part(root: &Path, part: &Part) -> Result<()> {
    let deadline = Instant::now() + part.limit();
    for step in part.steps {
        match step {
            Step::Cargo { arguments, privilege, environment } => {
                process::cargo(root, arguments, *privilege, environment, deadline)?;
            }
            Step::Call(call) => call(root)?,
        }
    }
    Ok(())
}

fn print_table(outcomes: &[Outcome], total: Duration) {
    println!("\n{:<10} {:>8} {:>8}  result", "part", "seconds", "budget");
    for Outcome { part, took, error } in outcomes {
        let result = match error {
            Some(_) => "FAILED",
            None if took.as_secs() > part.budget_s => "ok, over budget",
            None => "ok",
        };
        println!("{:<10} {:>8.1} {:>8}  {result}", part.name, took.as_secs_f64(), part.budget_s);
    }
    println!(
        "{:<10} {:>8.1} {:>8}",
        "all",
        total.as_secs_f64(),
        PARTS.iter().map(|p| p.budget_s).sum::<u64>()
    );
    for part in PARTS {
        if !outcomes.iter().any(|outcome| outcome.part.name == part.name) {
            println!("{:<10} not run", part.name);
        }
    }
}

/// Every integration test must belong to a part, or it would rot unseen: the targets of the packages under `tests`, and
/// those that cargo finds by itself beside the daemon.
fn check_nothing_forgotten(root: &Path) -> Result<()> {
    let mut targets = Vec::new();
    for file in [
        "tests/Cargo.toml",
        "tests/sim/Cargo.toml",
        "tests/sim/teeth/Cargo.toml",
        "tests/owners/Cargo.toml",
        "tests/owners/teeth/Cargo.toml",
    ] {
        let manifest = std::fs::read_to_string(root.join(file)).with_context(|| format!("reading {file}"))?;
        targets.extend(links::test_targets(&manifest));
    }
    let folder = root.join("netft-userspace/tests");
    for entry in folder.read_dir().with_context(|| format!("reading {}", folder.display()))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "rs") {
            targets.extend(path.file_stem().map(|stem| stem.to_string_lossy().into_owned()));
        }
    }
    for target in targets {
        let covered = PARTS.iter().flat_map(|part| part.steps).any(|step| match step {
            Step::Cargo { arguments, .. } => {
                arguments.windows(2).any(|pair| pair == ["--test", target.as_str()])
            }
            Step::Call(_) => false,
        });
        if !covered {
            bail!("there is a test target {target:?} that no part of `cargo xtask test` runs");
        }
    }
    Ok(())
}
