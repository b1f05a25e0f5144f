//! What the shell around core and fence must do in the right way; it can be told to do it wrongly.

/// What to do wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shell {
    /// Rule 4: the clock stands still in suspend.
    ClockStopsInSuspend,
    /// Rule 14: an emptied store takes and acknowledges entries that are meant for the one before.
    AppendsToAnotherStore,
}

/// Whether it is done wrongly.
#[cfg(not(netft_sabotage))]
#[inline(always)]
pub(crate) const fn broken(_how: Shell) -> bool {
    false
}

#[cfg(netft_sabotage)]
thread_local! {
    static BROKEN: std::cell::Cell<Option<Shell>> = const { std::cell::Cell::new(None) };
}

/// Does something wrong on this thread, or nothing.
#[cfg(netft_sabotage)]
pub fn sabotage(how: Option<Shell>) {
    BROKEN.set(how);
}

/// Whether it is done wrongly.
#[cfg(netft_sabotage)]
pub(crate) fn broken(how: Shell) -> bool {
    BROKEN.get() == Some(how)
}
