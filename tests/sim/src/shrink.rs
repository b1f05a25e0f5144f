//! From a case that fails to a small one that fails in the same way.

use crate::{Broken, Case, FaultKind, Property, Simulator};
use std::path::{Path, PathBuf};

/// Runs that cutting down may take.
const TRIES: usize = 400;

/// A case that was cut down, and how it fails.
#[derive(Clone, Debug)]
pub struct Shrunk {
    /// The smallest found.
    pub case: Case,
    /// How it fails.
    pub broken: Broken,
    /// Runs that it took.
    pub tries: usize,
}

struct Search<'a> {
    simulator: &'a mut Simulator,
    property: Property,
    best: Case,
    broken: Broken,
    tries: usize,
}

/// Leaves out of a failing case what isn't needed for it to break the same property: time, faults, nodes and networks,
/// losses and jitter, drift.
pub fn shrink(simulator: &mut Simulator, case: &Case, broken: &Broken) -> Shrunk {
    let property = broken.property;
    let (best, broken) = (case.clone(), broken.clone());
    let mut search = Search { simulator, property, best, broken, tries: 0 };
    search.cut_off();
    search.drop_faults();
    search.drop_nodes();
    search.simplify();
    search.drop_faults();
    search.shorten();
    search.cut_off();
    Shrunk { case: search.best, broken: search.broken, tries: search.tries }
}

impl Search<'_> {
    /// Keeps a candidate if it breaks the same property.
    fn offer(&mut self, candidate: Case) -> bool {
        if self.tries >= TRIES || candidate == self.best {
            return false;
        }
        self.tries += 1;
        match self.simulator.run(&candidate) {
            Err(broken) if broken.property == self.property => {
                (self.best, self.broken) = (candidate, broken);
                true
            }
            _ => false,
        }
    }

    fn with(&mut self, change: impl FnOnce(&mut Case)) -> bool {
        let mut candidate = self.best.clone();
        change(&mut candidate);
        self.offer(candidate)
    }

    /// Nothing after the failure matters.
    fn cut_off(&mut self) {
        let at_ns = self.broken.at_ns;
        self.with(|case| {
            case.faults.retain(|fault| fault.at_ns <= at_ns);
            case.length_ns = case.length_ns.min(at_ns);
        });
    }

    /// Halves, quarters, … single ones (delta debugging: Zeller and Hildebrandt, 2002).
    fn drop_faults(&mut self) {
        let mut chunk = self.best.faults.len().div_ceil(2);
        while chunk > 0 {
            let mut from = 0;
            while from < self.best.faults.len() {
                let to = (from + chunk).min(self.best.faults.len());
                if !self.with(|case| drop(case.faults.drain(from..to))) {
                    from = to;
                }
            }
            chunk = if chunk == 1 { 0 } else { chunk.div_ceil(2) };
        }
    }

    /// The last node and the last network go, as long as no fault concerns them.
    fn drop_nodes(&mut self) {
        while self.best.nodes > 2
            && self.with(|case| {
                case.nodes -= 1;
                let nodes = case.nodes;
                case.faults.retain(|fault| fault.kind.node() < nodes);
            })
        {}
        while self.best.networks > 1
            && self.with(|case| {
                case.networks -= 1;
                let networks = case.networks;
                case.faults.retain(|fault| fault.kind.network().is_none_or(|network| network < networks));
            })
        {}
    }

    fn simplify(&mut self) {
        let changes: [fn(&mut Case); 8] = [
            |case| case.preempt_per_million = 0,
            |case| case.loss_per_million = 0,
            |case| case.duplicates_per_million = 0,
            |case| case.jitter_ns = 0,
            |case| case.drift_ppm = 0,
            |case| case.flap_limit = 0,
            |case| {
                for fault in &mut case.faults {
                    if let FaultKind::Cut { tx, rx, .. } = &mut fault.kind {
                        (*tx, *rx) = (true, true);
                    }
                }
            },
            |case| {
                for fault in &mut case.faults {
                    if let FaultKind::Restart { node } = fault.kind {
                        fault.kind = FaultKind::Stall { node };
                    }
                }
            },
        ];
        for change in changes {
            self.with(change);
        }
    }

    /// Faults begin earlier, by as much as there is nothing before the first.
    fn shorten(&mut self) {
        for keep_ns in [30_000_000, 100_000_000] {
            let Some(first) = self.best.faults.first().copied() else { return };
            let Some(by_ns) = first.at_ns.checked_sub(keep_ns) else { return };
            if self.with(|case| {
                case.faults.iter_mut().for_each(|fault| fault.at_ns -= by_ns);
                case.length_ns = case.length_ns.saturating_sub(by_ns);
            }) {
                return;
            }
        }
    }
}

impl Case {
    /// As text.
    pub fn to_text(&self) -> String {
        serde_json::to_string_pretty(self).unwrap_or_default() + "\n"
    }

    /// From text.
    ///
    /// # Errors
    /// What is wrong with it, in a sentence.
    pub fn from_text(text: &str) -> Result<Self, String> {
        serde_json::from_str(text).map_err(|error| format!("that is no case of the simulation: {error}"))
    }
}

/// Cuts a failing case down, writes it into `folder`, and says what failed and how to see it again, by one command.
pub fn report(simulator: &mut Simulator, case: &Case, broken: &Broken, folder: &Path) -> String {
    let shrunk = shrink(simulator, case, broken);
    let file: PathBuf = folder.join(format!("{}-{:x}.json", case.plan, case.seed));
    let written = std::fs::create_dir_all(folder).and_then(|()| std::fs::write(&file, shrunk.case.to_text()));
    let where_to = match written {
        Ok(()) => file.display().to_string(),
        Err(error) => format!("({} can't be written: {error})\n{}", file.display(), shrunk.case.to_text()),
    };
    format!(
        "{broken}\ncut down from {} faults on {} nodes to {} on {}, in {} runs: {}\nsee it again, with every event: \
         NETFT_SIM_CASE={where_to} cargo test --release --workspace --test sim replay -- --nocapture",
        case.faults.len(),
        case.nodes,
        shrunk.case.faults.len(),
        shrunk.case.nodes,
        shrunk.tries,
        shrunk.broken,
    )
}
