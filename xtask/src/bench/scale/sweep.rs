//! One look at all routes: measured by criterion, in the crate that is built for speed.

use crate::bench::Form;
use crate::test::workspace_root;
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::fs;
use std::process::Command;

/// Its name in `benches/detector.rs`.
const GROUP: &str = "detector, judgement sweep with nothing due";
const BENCH: &str = "1000 routes";

/// The median of one sweep.
pub(super) fn median_ns(form: Form) -> Result<f64> {
    let root = workspace_root();
    let folder = root.join("target/criterion");
    let seconds = if form == Form::Full { ["3", "10"] } else { ["0.5", "1"] };
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command
        .args(["bench", "--quiet", "--workspace", "--bench", "detector", "--", "--noplot", "--quiet"])
        .args(["--warm-up-time", seconds[0], "--measurement-time", seconds[1]])
        .arg(format!("{GROUP}/{BENCH}"))
        .env("CRITERION_HOME", &folder)
        .current_dir(&root);
    let output = command.output().context("cargo can't be started")?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "the criterion bench failed: {}", complaint.trim());
    let path = folder.join(GROUP).join(BENCH).join("new/estimates.json");
    let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let estimates: Value = serde_json::from_str(&text).context("criterion's estimates")?;
    estimates["median"]["point_estimate"].as_f64().context("criterion gives no median")
}
