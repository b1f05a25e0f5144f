//! Ways to leave out a rule on purpose, so that a test can show that the simulation notices. The switches exist only in the
//! crate `netft-owners-teeth`, which compiles these sources with `netft_sabotage`; elsewhere nothing is broken.

/// Which rule to leave out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sabotage {
    /// Rule 1: losses that are in the log but not committed don't stop a voter from vouching.
    VouchesUntilCommitted,
    /// Rule 1: a voter that starts vouches before it knows its log.
    VouchesFromTheStart,
    /// Rule 4: no margin for clocks.
    NoMargin,
    /// Rule 5: handovers use a shorter lease at once.
    ShorterLeaseAtOnce,
    /// Rule 7: the new owner doesn't wait.
    TakesAtOnce,
    /// Rule 7: an owner says that it released before it did.
    ReleasesEarly,
    /// Rule 7: one report is enough.
    OneReport,
    /// Rule 7: a report counts at once: nobody waits for the lease.
    NoLease,
    /// Rule 8: a voter that lost its reading says that it never vouched.
    ForgetsReadings,
    /// Rule 9: only the last owner is asked.
    OnlyTheLastOwner,
    /// Rule 11: every vote request is heeded.
    HeedsEveryVote,
    /// Rule 13: voters change whenever somebody wants it.
    ChangesAtWill,
    /// Rule 14: a store that was emptied votes and vouches.
    TrustsEmptyStores,
    /// Rule 14: a node that doesn't apply is as good as any.
    TrustsSleepers,
    /// Rule 14: what a node said once counts for good.
    TrustsSilence,
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
