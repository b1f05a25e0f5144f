//! Ways to break the fence on purpose, so that a test can show that the simulation notices. The switches exist only in the
//! crate `netft-owners-teeth`, which compiles these sources with `netft_sabotage`; elsewhere nothing is broken.

/// Which rule to leave out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sabotage {
    /// Rule 1: a vouch counts whatever has been applied.
    VouchesForAnything,
    /// Rule 2: leases count from the arrival of a vouch, not from what it answers.
    CountsFromArrival,
    /// Rule 3: evidence never grows old.
    LeasesNeverEnd,
    /// Rule 3: one vouching voter will do.
    OneIsEnough,
    /// Rule 3: this node counts itself whatever its log says.
    AlwaysVouchesForItself,
    /// Rule 3: the engine needn't tick.
    TrustsFrozenEngines,
}

/// Whether this rule is left out.
#[cfg(not(netft_sabotage))]
#[inline(always)]
pub(super) const fn broken(_rule: Sabotage) -> bool {
    false
}

#[cfg(netft_sabotage)]
thread_local! {
    static BROKEN: std::cell::Cell<Option<Sabotage>> = const { std::cell::Cell::new(None) };
}

/// Leaves a rule out on this thread, or none.
#[cfg(netft_sabotage)]
pub fn sabotage(rule: Option<Sabotage>) {
    BROKEN.set(rule);
}

/// Whether this rule is left out.
#[cfg(netft_sabotage)]
pub(super) fn broken(rule: Sabotage) -> bool {
    BROKEN.get() == Some(rule)
}
