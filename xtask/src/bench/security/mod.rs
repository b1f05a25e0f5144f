//! `bench security`: an attacker on the network beside a TCP stream, every parser under mutations, changes of keys under
//! traffic, and the system calls that a frame costs.

mod attack;
mod calls;
mod changes;
mod fuzz;

use super::Part;

/// Parts of `bench security`. The short form of `fuzz` is among the tests; `calls` doesn't hold its bound yet (`docs/measurements`).
pub(super) const PARTS: &[Part] = &[
    Part { name: "attack", run: attack::run, short: true },
    Part { name: "rekey", run: changes::rekey, short: true },
    Part { name: "calls", run: calls::run, short: false },
    Part { name: "fuzz", run: fuzz::run, short: false },
];
