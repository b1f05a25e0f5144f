//! `bench security`: an attacker on the network beside a TCP stream, every parser under mutations, changes of keys and levels
//! under traffic, and the system calls that a frame costs.

mod attack;
mod calls;
mod changes;
mod fuzz;

use super::Part;

/// Parts of `bench security`. `fuzz` needs a compiler for a minute first; what it does is, with the same inputs every time, among
/// the tests anyway.
pub(super) const PARTS: &[Part] = &[
    Part { name: "attack", run: attack::run, short: true },
    Part { name: "rekey", run: changes::rekey, short: true },
    Part { name: "levels", run: changes::levels, short: true },
    Part { name: "calls", run: calls::run, short: false },
    Part { name: "fuzz", run: fuzz::run, short: false },
];
