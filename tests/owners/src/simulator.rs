/// Runs cases.
#[derive(Clone, Copy, Debug, Default)]
pub struct Simulator {
    /// Prints every event to standard error.
    pub trace: bool,
    /// If set, nothing else counts.
    pub only: Option<Property>,
}

impl Simulator {
    /// Runs a case to its end, or until a property breaks.
    ///
    /// # Errors
    /// What broke.
    pub fn run(&self, case: &Case) -> Result<Tally, Broken> {
        let mut world = world::World::new(case);
        world.trace = self.trace;
        let mut checks = checks::Checks::new(case, self.only);
        world.run(&mut checks)?;
        Ok(checks.finish(&world))
    }

    /// Leaves out of a failing case what isn't needed for it to break the same property: faults, noise, VIPs.
    pub fn shrink(&self, case: &Case, broken: &Broken) -> (Case, Broken) {
        let (mut best, mut known) = (case.clone(), broken.clone());
        let mut offer = |candidate: Case, best: &mut Case| match self.run(&candidate) {
            Err(broken) if broken.property == known.property && candidate != *best => {
                (*best, known) = (candidate, broken);
                true
            }
            _ => false,
        };
        let simpler: [fn(&mut Case); 6] = [
            |case| case.preempt_per_million = 0,
            |case| case.late_per_million = 0,
            |case| case.twice_per_million = 0,
            |case| case.slew_ppm = 0,
            |case| case.jitter_ns = 5_000,
            |case| case.vips = 1,
        ];
        // Halves, quarters, … single ones (delta debugging: Zeller and Hildebrandt, 2002).
        for _ in 0..2 {
            let mut chunk = best.faults.len().div_ceil(2);
            while chunk > 0 {
                let mut from = 0;
                while from < best.faults.len() {
                    let to = (from + chunk).min(best.faults.len());
                    let mut candidate = best.clone();
                    candidate.faults.drain(from..to);
                    if !offer(candidate, &mut best) {
                        from = to;
                    }
                }
                chunk = if chunk == 1 { 0 } else { chunk.div_ceil(2) };
            }
            for change in simpler {
                let mut candidate = best.clone();
                change(&mut candidate);
                let fits = |fault: &Fault| !matches!(fault.kind, FaultKind::Move { vip, .. } if vip >= candidate.vips);
                if candidate.faults.iter().all(fits) {
                    offer(candidate, &mut best);
                }
            }
        }
        (best, known)
    }

    /// Cuts a failing case down, writes it into `folder`, and says what failed and how to see it again.
    pub fn report(&self, case: &Case, broken: &Broken, folder: &std::path::Path) -> String {
        let (small, how) = self.shrink(case, broken);
        let file = folder.join(format!("owners-{}-{:x}.json", case.plan, case.seed));
        let written = std::fs::create_dir_all(folder).and_then(|()| std::fs::write(&file, small.to_text()));
        let place = match written {
            Ok(()) => file.display().to_string(),
            Err(error) => format!("({} can't be written: {error})\n{}", file.display(), small.to_text()),
        };
        format!(
            "{broken}\ncut down from {} faults to {}: {how}\nsee it again, with every event: NETFT_OWNERS_CASE={place} \
             cargo test --release --workspace --test owners replay -- --nocapture",
            case.faults.len(),
            small.faults.len(),
        )
    }
}
