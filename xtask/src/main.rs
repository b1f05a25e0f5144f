//! `cargo xtask`: everything a developer runs.

use clap::{Parser, Subcommand};

/// Build, try, test and measure netft.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Show netft at work in a three-node lab: traffic, cuts, failover times.
    Demo(xtask::demo::Args),
    /// Run every check: fmt, clippy, unit, simulation, eBPF, fuzz, lab, docs.
    Test(xtask::test::Args),
    /// Measure, side by side with rivals; bounds decide the exit status.
    Bench(xtask::bench::Args),
    /// Build and drive a cluster of network namespaces.
    Lab(xtask::lab::Args),
    /// Rebuild the eBPF objects, or check that the committed ones are fresh.
    BuildEbpf(xtask::build_ebpf::Args),
}

fn main() -> anyhow::Result<()> {
    let task = Cli::parse().task;
    if matches!(task, Task::Demo(_) | Task::Bench(_) | Task::Lab(_)) {
        xtask::privilege::ensure_root()?;
    }
    match task {
        Task::Demo(args) => xtask::demo::run(args),
        Task::Test(args) => xtask::test::run(args),
        Task::Bench(args) => xtask::bench::run(args),
        Task::Lab(args) => xtask::lab::run(args),
        Task::BuildEbpf(args) => xtask::build_ebpf::run(args),
    }
}
