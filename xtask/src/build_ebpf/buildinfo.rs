//! `netft-ebpf/prebuilt/BUILDINFO`: from which sources and with which tools the committed objects were made.

use super::toolchain::Toolchain;
use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// The file's content, TOML.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BuildInfo {
    /// As `rustc --version` says, without the name.
    pub rustc: String,
    /// rustc's LLVM.
    pub llvm: String,
    /// As `bpf-linker --version` says.
    pub linker: String,
    /// SHA-256 over the sources' names and hashes below.
    pub hash: String,
    /// SHA-256 of each object, by file name.
    pub objects: BTreeMap<String, String>,
    /// SHA-256 of each source file, by path in the checkout.
    pub sources: BTreeMap<String, String>,
}

impl BuildInfo {
    /// Of objects that were just built.
    pub fn new(
        toolchain: &Toolchain,
        root: &Path,
        sources: &[PathBuf],
        objects: &[(&str, Vec<u8>)],
    ) -> Result<Self> {
        let mut hashes = BTreeMap::new();
        for source in sources {
            hashes.insert(source.display().to_string(), hash_file(&root.join(source))?);
        }
        Ok(Self {
            rustc: toolchain.rustc_version.clone(),
            llvm: toolchain.llvm.clone(),
            linker: toolchain.linker_version.clone(),
            hash: hash_all(&hashes),
            objects: objects.iter().map(|(name, bytes)| (format!("{name}.bpf.o"), hash(bytes))).collect(),
            sources: hashes,
        })
    }

    /// From the file.
    pub fn read(path: &Path) -> Result<Self> {
        let remedy = "run `cargo xtask build-ebpf` and commit netft-ebpf/prebuilt";
        let text =
            std::fs::read_to_string(path).with_context(|| format!("reading {}: {remedy}", path.display()))?;
        toml::from_str(&text).with_context(|| format!("{} isn't as it was written: {remedy}", path.display()))
    }

    /// To the file.
    pub fn write(&self, path: &Path) -> Result<()> {
        let text = toml::to_string(self).context("writing BUILDINFO as TOML")?;
        let text = format!(
            "# Made by `cargo xtask build-ebpf`; checked by `cargo xtask build-ebpf --check`.\n{text}"
        );
        std::fs::write(path, text).with_context(|| format!("writing {}", path.display()))
    }

    /// Whether these tools are the ones that must make the same bits.
    pub fn is_made_by(&self, toolchain: &Toolchain) -> bool {
        (&self.rustc, &self.llvm, &self.linker)
            == (&toolchain.rustc_version, &toolchain.llvm, &toolchain.linker_version)
    }

    /// Every source is as it was.
    pub fn check_sources(&self, root: &Path) -> Result<()> {
        if self.hash != hash_all(&self.sources) {
            bail!(
                "BUILDINFO was edited by hand: run `cargo xtask build-ebpf` and commit netft-ebpf/prebuilt"
            );
        }
        let mut changed = Vec::new();
        for (source, expected) in &self.sources {
            if hash_file(&root.join(source)).ok().as_ref() != Some(expected) {
                changed.push(source.as_str());
            }
        }
        if !changed.is_empty() {
            bail!(
                "the committed eBPF objects are older than {}: run `cargo xtask build-ebpf` and commit \
                 netft-ebpf/prebuilt",
                changed.join(", ")
            );
        }
        Ok(())
    }

    /// Every object is as it was.
    pub fn check_objects(&self, prebuilt: &Path) -> Result<()> {
        for (name, expected) in &self.objects {
            if hash_file(&prebuilt.join(name))? != *expected {
                bail!(
                    "{} isn't the one that BUILDINFO names: run `cargo xtask build-ebpf` and commit \
                     netft-ebpf/prebuilt",
                    prebuilt.join(name).display()
                );
            }
        }
        Ok(())
    }
}

fn hash_file(path: &Path) -> Result<String> {
    Ok(hash(&std::fs::read(path).with_context(|| format!("reading {}", path.display()))?))
}

fn hash_all(hashes: &BTreeMap<String, String>) -> String {
    let mut text = String::new();
    for (name, hash) in hashes {
        text.push_str(&format!("{hash}  {name}\n"));
    }
    hash(text.as_bytes())
}

fn hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::new(), |mut text, byte| {
        // Writing to a string can't fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
