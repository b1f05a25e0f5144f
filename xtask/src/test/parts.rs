//! The parts of `cargo xtask test`, in order, as a table.

use super::process::Privilege;
use super::{check_nothing_forgotten, licences, links};
use anyhow::Result;
use std::path::Path;
use std::time::Duration;

/// One part.
pub struct Part {
    /// As given to `--only`.
    pub name: &'static str,
    /// What it checks.
    pub what: &'static str,
    /// How long it should take on two cores from a clean clone, in seconds.
    pub budget_s: u64,
    /// What to do when it fails.
    pub remedy: &'static str,
    /// What it runs.
    pub steps: &'static [Step],
}

impl Part {
    /// When it counts as hung.
    pub fn limit(&self) -> Duration {
        Duration::from_secs(self.budget_s * 3 + 60)
    }
}

/// One thing that a part runs.
pub enum Step {
    /// cargo with these arguments.
    Cargo {
        /// After `cargo`.
        arguments: &'static [&'static str],
        /// Whose rights the built programs get.
        privilege: Privilege,
        /// Extra environment.
        environment: &'static [(&'static str, &'static str)],
    },
    /// A check of our own, given the root of the checkout.
    Call(fn(&Path) -> Result<()>),
}

const fn cargo(arguments: &'static [&'static str]) -> Step {
    Step::Cargo { arguments, privilege: Privilege::User, environment: &[] }
}

/// Stable clippy knows no `core` for eBPF; with release's `panic = "abort"` the programs are as good as host programs.
const EBPF_CLIPPY: &[&str] = &[
    "clippy",
    "--release",
    "--locked",
    "--manifest-path",
    "netft-ebpf/Cargo.toml",
    "--workspace",
    "--all-targets",
    "--",
    "-D",
    "warnings",
];

/// All parts. `--workspace` everywhere: selecting one package would unify features differently and build twice.
pub const PARTS: &[Part] = &[
    Part {
        name: "fmt",
        what: "rustfmt agrees, in the workspace and in netft-ebpf",
        budget_s: 10,
        remedy: "run `cargo fmt --all`, and again in netft-ebpf",
        steps: &[
            cargo(&["fmt", "--all", "--check"]),
            cargo(&["fmt", "--all", "--check", "--manifest-path", "netft-ebpf/Cargo.toml"]),
        ],
    },
    Part {
        name: "links",
        what: "links and anchors in README.md and docs/ lead somewhere; no test target is forgotten",
        budget_s: 1,
        remedy: "correct the link, or add the target to xtask/src/test/parts.rs",
        steps: &[Step::Call(links::check), Step::Call(check_nothing_forgotten)],
    },
    Part {
        name: "licences",
        what: "every dependency's licence is on deny.toml's list",
        budget_s: 5,
        remedy: "use another library, or add the licence to deny.toml after reading it",
        steps: &[Step::Call(licences::check)],
    },
    Part {
        name: "clippy",
        what: "clippy finds nothing in any target, nor in the eBPF programs, looked at as if for the host",
        budget_s: 150,
        remedy: "do what clippy says; an exception is an `#[expect(lint, reason = \"...\")]`",
        steps: &[
            cargo(&["clippy", "--release", "--workspace", "--all-targets", "--", "-D", "warnings"]),
            cargo(EBPF_CLIPPY),
        ],
    },
    Part {
        name: "build",
        what: "everything builds",
        budget_s: 240,
        remedy: "see the compiler's message",
        steps: &[cargo(&["build", "--release", "--workspace", "--all-targets"])],
    },
    Part {
        name: "unit",
        what: "unit tests of the libraries and programs",
        budget_s: 60,
        remedy: "repeat one with `cargo test --release --workspace --lib --bins NAME`",
        steps: &[Step::Cargo {
            arguments: &["test", "--release", "--workspace", "--lib", "--bins"],
            privilege: Privilege::Root,
            environment: &[],
        }],
    },
    Part {
        name: "sim",
        what: "clusters in virtual time, with faults from a seed; every property notices a broken detector",
        budget_s: 90,
        remedy: "see the failure again with the command it printed; it leads to a case that was cut down",
        steps: &[cargo(&["test", "--release", "--workspace", "--test", "sim", "--test", "teeth"])],
    },
    Part {
        name: "owners",
        what: "who owns a VIP, in virtual time, with faults from a seed; every rule that is left out is missed",
        budget_s: 120,
        remedy: "see the failure again with the command it printed; it leads to a case that was cut down",
        steps: &[cargo(&["test", "--release", "--workspace", "--test", "owners", "--test", "owners-teeth"])],
    },
    Part {
        name: "consensus",
        what: "nodes of consensus on loopback and real disks: elections, members, kill -9, full disk, lost stores",
        budget_s: 60,
        remedy: "repeat with `cargo test --release --workspace --test cluster`",
        steps: &[cargo(&["test", "--release", "--workspace", "--test", "cluster"])],
    },
    Part {
        name: "ebpf",
        what: "the committed eBPF objects are what the sources make",
        budget_s: 300,
        remedy: "run `cargo xtask build-ebpf` and commit netft-ebpf/prebuilt",
        steps: &[cargo(&["xtask", "build-ebpf", "--check"])],
    },
    Part {
        name: "bpf",
        what: "the eBPF programs in this kernel: every verdict and every reject reason",
        budget_s: 30,
        remedy: "repeat with `cargo test --release --workspace --test bpf`",
        steps: &[Step::Cargo {
            arguments: &["test", "--release", "--workspace", "--test", "bpf"],
            privilege: Privilege::Root,
            environment: &[],
        }],
    },
    Part {
        name: "engine",
        what: "two engines in namespaces: they find, lose and leave each other, and allocate nothing once they run",
        budget_s: 30,
        remedy: "repeat with `cargo test --release --workspace --test engine --test waste`",
        steps: &[Step::Cargo {
            arguments: &["test", "--release", "--workspace", "--test", "engine", "--test", "waste"],
            privilege: Privilege::Root,
            environment: &[],
        }],
    },
    Part {
        name: "fuzz",
        what: "mutations of well-formed bytes into every parser, the same ones every time",
        budget_s: 60,
        remedy: "the failing input is printed; make it a unit test, then mend the parser",
        steps: &[Step::Cargo {
            arguments: &["test", "--release", "--workspace", "--test", "fuzz"],
            privilege: Privilege::User,
            environment: &[("NETFT_FUZZ_ROUNDS", "15")],
        }],
    },
    Part {
        name: "docs",
        what: "rustdoc builds without a warning",
        budget_s: 60,
        remedy: "do what rustdoc says",
        steps: &[Step::Cargo {
            arguments: &["doc", "--release", "--workspace", "--no-deps"],
            privilege: Privilege::User,
            environment: &[("RUSTDOCFLAGS", "-D warnings")],
        }],
    },
    Part {
        name: "lab",
        what: "the real thing in network namespaces, one test after the other",
        budget_s: 420,
        remedy: "repeat one with `cargo test --release --workspace --test lab NAME`; `cargo xtask lab down` cleans up",
        steps: &[Step::Cargo {
            arguments: &["test", "--release", "--workspace", "--test", "lab", "--", "--test-threads=1"],
            privilege: Privilege::Root,
            environment: &[],
        }],
    },
    Part {
        name: "demo",
        what: "the demo: every stage seen, every flow alive",
        budget_s: 60,
        remedy: "repeat with `cargo xtask demo`, and look at target/demo.svg",
        steps: &[cargo(&["xtask", "demo", "--name", "test-demo"])],
    },
    Part {
        name: "bench",
        what: "the short forms of the measurements, with their bounds",
        budget_s: 175,
        remedy: "repeat the one that failed, like `cargo xtask bench detect --short`, on a machine that does nothing else",
        steps: &[
            cargo(&["xtask", "bench", "reply", "--short"]),
            cargo(&["xtask", "bench", "detect", "--short"]),
            cargo(&["xtask", "bench", "flood", "--short"]),
            cargo(&["xtask", "bench", "frames", "--short"]),
            cargo(&["xtask", "bench", "loss", "--short"]),
            cargo(&["xtask", "bench", "owners", "--short"]),
            cargo(&["xtask", "bench", "scale", "--short"]),
            cargo(&["xtask", "bench", "security", "--short"]),
            cargo(&["xtask", "bench", "sim", "--short"]),
            cargo(&["xtask", "bench", "traffic", "--short"]),
        ],
    },
];
