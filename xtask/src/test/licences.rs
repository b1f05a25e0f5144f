//! Licences of all dependencies against the list in deny.toml. With cargo-deny on PATH its whole check runs too
//! (advisories, duplicates, sources); it needs a database from the network, so it isn't required.

use anyhow::{Context, Result, bail};
use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

/// Runs the check.
pub fn check(root: &Path) -> Result<()> {
    let policy = std::fs::read_to_string(root.join("deny.toml")).context("reading deny.toml")?;
    let allowed = allowed(&policy)?;
    let output = Command::new("cargo")
        .args(["metadata", "--format-version=1", "--locked"])
        .current_dir(root)
        .output()
        .context("running cargo metadata")?;
    if !output.status.success() {
        bail!("cargo metadata failed: {}", String::from_utf8_lossy(&output.stderr));
    }
    let metadata: serde_json::Value =
        serde_json::from_slice(&output.stdout).context("cargo metadata's output")?;
    let mut wrong = Vec::new();
    let packages = metadata["packages"].as_array().cloned().unwrap_or_default();
    for package in &packages {
        let licence = package["license"].as_str().unwrap_or("none");
        if !satisfied(licence, &allowed) {
            wrong.push(format!("{} {}: {licence}", package["name"], package["version"]));
        }
    }
    if !wrong.is_empty() {
        bail!("licences that deny.toml doesn't allow:\n{}", wrong.join("\n"));
    }
    println!("{} packages, every licence is allowed", packages.len());
    if Command::new("cargo-deny").arg("--version").output().is_err() {
        println!("cargo-deny is not on PATH: advisories were not checked");
        return Ok(());
    }
    let status = Command::new("cargo").args(["deny", "check"]).current_dir(root).status();
    if !status.context("running cargo deny")?.success() {
        bail!("`cargo deny check` failed");
    }
    Ok(())
}

/// The `allow` list of the `[licenses]` table.
fn allowed(policy: &str) -> Result<BTreeSet<String>> {
    let table = policy.split("[licenses]").nth(1).context("deny.toml has no [licenses]")?;
    let list = table.split_once("allow = [").and_then(|(_, rest)| rest.split_once(']'));
    let (list, _) = list.context("deny.toml's [licenses] has no `allow = [...]`")?;
    Ok(list
        .split(',')
        .map(|name| name.trim().trim_matches('"').to_string())
        .filter(|n| !n.is_empty())
        .collect())
}

/// Whether an SPDX expression can be met. Each alternative of a top-level OR must have all its AND parts allowed;
/// parentheses bind tighter and are taken out first.
fn satisfied(expression: &str, allowed: &BTreeSet<String>) -> bool {
    let expression = expression.replace('/', " OR ");
    if let Some(open) = expression.rfind('(')
        && let Some(length) = expression[open..].find(')')
    {
        let inner = satisfied(&expression[open + 1..open + length], allowed);
        let word = if inner { "@yes" } else { "@no" };
        let rest = &expression[open + length + 1..];
        return satisfied(&format!("{}{word}{rest}", &expression[..open]), allowed);
    }
    expression.split(" OR ").any(|alternative| {
        alternative.split(" AND ").map(str::trim).all(|name| name == "@yes" || allowed.contains(name))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_are_understood() {
        let allowed = allowed("[licenses]\nallow = [\n  \"MIT\", \"Unicode-3.0\",\n]").unwrap();
        for (expression, expected) in [
            ("MIT", true),
            ("MIT OR GPL-3.0", true),
            ("MIT/Apache-2.0", true),
            ("GPL-3.0", false),
            ("(MIT OR Apache-2.0) AND Unicode-3.0", true),
            ("(GPL-2.0 OR Apache-2.0) AND Unicode-3.0", false),
            ("none", false),
        ] {
            assert_eq!(satisfied(expression, &allowed), expected, "{expression}");
        }
    }
}
