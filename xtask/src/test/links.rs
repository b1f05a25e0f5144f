//! Checks that relative links in the Markdown files lead to files, and their anchors to headings, that exist.

use anyhow::{Context, Result, bail};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Checks README.md and everything below docs/.
pub fn check(root: &Path) -> Result<()> {
    let mut files = vec![root.join("README.md")];
    collect(&root.join("docs"), &mut files)?;
    let mut wrong = Vec::new();
    for file in &files {
        let text = std::fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
        for target in targets(&text) {
            if let Some(why) = fault(file, &text, &target) {
                wrong.push(format!("{}: link to {target}: {why}", file.display()));
            }
        }
    }
    if !wrong.is_empty() {
        bail!("{}", wrong.join("\n"));
    }
    println!("{} files, every link leads somewhere", files.len());
    Ok(())
}

/// Names of the test targets in a manifest.
pub fn test_targets(manifest: &str) -> Vec<String> {
    let mut in_test = false;
    let mut names = Vec::new();
    for line in manifest.lines().map(str::trim) {
        if line.starts_with('[') {
            in_test = line == "[[test]]";
        } else if in_test
            && let Some(("name", value)) = line.split_once('=').map(|(k, v)| (k.trim(), v.trim()))
        {
            names.push(value.trim_matches('"').to_string());
        }
    }
    names
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(folder).with_context(|| format!("listing {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "md") {
            files.push(path);
        }
    }
    Ok(())
}

/// Why this link is wrong, if it is.
fn fault(file: &Path, text: &str, target: &str) -> Option<String> {
    if target.contains("://") || target.starts_with("mailto:") {
        return None;
    }
    let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
    let (linked, linked_text) = if path.is_empty() {
        (file.to_path_buf(), text.to_string())
    } else {
        let linked = file.parent().unwrap_or(Path::new(".")).join(path);
        if !linked.exists() {
            return Some("there is no such file".to_string());
        }
        let linked_text = std::fs::read_to_string(&linked).unwrap_or_default();
        (linked, linked_text)
    };
    let checked = !anchor.is_empty() && linked.extension().is_some_and(|extension| extension == "md");
    (checked && !anchors(&linked_text).contains(anchor)).then(|| "there is no such heading".to_string())
}

/// Targets of `[text](target)` and of `src="target"`, outside of code.
fn targets(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for line in prose(text) {
        for (opening, closing) in [("](", ')'), ("src=\"", '"'), ("href=\"", '"')] {
            let mut rest = line.as_str();
            while let Some(at) = rest.find(opening) {
                rest = &rest[at + opening.len()..];
                let Some(end) = rest.find(closing) else { break };
                found.push(rest[..end].split_whitespace().next().unwrap_or_default().to_string());
                rest = &rest[end..];
            }
        }
    }
    found.retain(|target| !target.is_empty());
    found
}

/// Lines outside of fenced blocks, with `code` blanked.
fn prose(text: &str) -> Vec<String> {
    let mut fenced = false;
    let mut lines = Vec::new();
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if !fenced {
            lines.push(line.split('`').step_by(2).collect::<Vec<_>>().join(" "));
        }
    }
    lines
}

/// Anchors as GitHub makes them from headings.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut fenced = false;
    let mut anchors = BTreeSet::new();
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        }
        if fenced || !line.starts_with('#') {
            continue;
        }
        let heading = line.trim_start_matches('#').trim().to_lowercase();
        let slug: String = heading
            .chars()
            .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
            .map(|c| if c == ' ' { '-' } else { c })
            .collect();
        anchors.insert(slug);
    }
    anchors
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_found_outside_of_code_only() {
        let text = "see [a](x.md#top) and `[b](no.md)`\n```\n[c](no.md)\n```\n<img src=\"p.svg\">";
        assert_eq!(targets(text), ["x.md#top", "p.svg"]);
    }

    #[test]
    fn headings_become_anchors() {
        assert!(anchors("## `netft0` and *what* it does").contains("netft0-and-what-it-does"));
    }

    #[test]
    fn a_link_to_nowhere_is_a_fault() {
        let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
        assert!(fault(&here, "", "nowhere.md").is_some());
        assert!(fault(&here, "", "Cargo.toml").is_none());
    }

    #[test]
    fn test_targets_are_named() {
        let manifest = "[lib]\nname = \"x\"\n[[test]]\nname = \"sim\"\npath = \"sim/main.rs\"\n";
        assert_eq!(test_targets(manifest), ["sim"]);
    }
}
