/// Runs cases, one after the other, in the same memory.
pub struct Simulator {
    world: world::World,
    checks: checks::Checks,
}

impl Default for Simulator {
    fn default() -> Self {
        Self::new()
    }
}

impl Simulator {
    /// One that has run nothing yet.
    pub fn new() -> Self {
        Self { world: world::World::new(), checks: checks::Checks::default() }
    }

    /// Prints every event to standard error from now on.
    pub fn trace(&mut self) {
        self.world.trace = true;
    }

    /// From now on nothing else counts.
    pub fn watch_only(&mut self, property: Property) {
        self.checks.only = Some(property);
    }

    /// Runs a case to its end, or until a property breaks.
    ///
    /// # Errors
    /// What broke.
    pub fn run(&mut self, case: &Case) -> Result<Tally, Broken> {
        self.world.reset(case);
        self.checks.reset(case);
        self.world.run(&mut self.checks)?;
        let tally = self.checks.finish(&self.world);
        match self.checks.broken.take() {
            Some(broken) => Err(broken),
            None => Ok(tally),
        }
    }
}
