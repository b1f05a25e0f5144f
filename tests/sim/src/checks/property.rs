//! What can break, what did, and how often it was looked at.

use crate::types::Nanos;
use std::fmt;

/// What can be broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Property {
    /// A dead route is found within its bound, and a mended one comes back within its.
    Found,
    /// A live one is never accused by an engine that runs; and nobody is ever accused against the stamps.
    Accused,
    /// At most four legs per heartbeat, no bursts of them.
    Storm,
    /// Both ends agree within a bound.
    Agree,
    /// The active route is never one that the node knows down while another is up.
    Active,
    /// A direction that fails is named at both ends.
    Named,
    /// An engine that hangs is seen, and its return; one that runs is not suspected.
    Engine,
    /// Damping holds back as long as it says, and never the last route to a peer.
    Damping,
    /// No packet is lost with its route.
    Lost,
    /// None is given to the application twice.
    Twice,
    /// Events and views agree, nothing is lost, all comes back in the end.
    Whole,
}

/// A property that broke.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// Which.
    pub property: Property,
    /// When, in the simulation's time.
    pub at_ns: Nanos,
    /// What happened.
    pub what: String,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is broken after {} ns: {}", self.property, self.at_ns, self.what)
    }
}

/// How often each property was really looked at: a simulation that checks nothing proves nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    /// Routes that went down.
    pub downs: u64,
    /// Dead routes looked at when they had to be down.
    pub found: u64,
    /// Mended routes looked at when they had to be up.
    pub up: u64,
    /// One-way losses whose names were looked at, at both ends.
    pub named: u64,
    /// Times that the two ends of a route disagreed, and the longest of them, nanoseconds.
    pub disagreed: u64,
    /// See [`Self::disagreed`].
    pub longest_disagreement_ns: Nanos,
    /// Engines that had to be reported as stalled, and as back.
    pub stalled: u64,
    /// See [`Self::stalled`].
    pub back: u64,
    /// Legs sent.
    pub legs: u64,
    /// Looks at active routes.
    pub active: u64,
    /// Stalls that engines counted, and verdicts that they postponed.
    pub own_stalls: u64,
    /// See [`Self::own_stalls`].
    pub postponed: u64,
    /// Routes held back by damping.
    pub damped: u64,
    /// The largest time from a break to its verdict by an engine that wasn't away, in thousandths of the bound.
    pub worst_found: u64,
    /// Faults that began and ended.
    pub faults: u64,
    /// Packets sent, packets sent again because their route died, and copies that receivers dropped.
    pub packets: u64,
    /// See [`Self::packets`].
    pub replayed: u64,
    /// See [`Self::packets`].
    pub copies: u64,
    /// Simulated time.
    pub simulated_ns: Nanos,
}

impl Tally {
    /// Adds another one.
    pub fn add(&mut self, other: &Tally) {
        self.downs += other.downs;
        self.found += other.found;
        self.up += other.up;
        self.named += other.named;
        self.disagreed += other.disagreed;
        self.longest_disagreement_ns = self.longest_disagreement_ns.max(other.longest_disagreement_ns);
        self.stalled += other.stalled;
        self.back += other.back;
        self.legs += other.legs;
        self.active += other.active;
        self.own_stalls += other.own_stalls;
        self.postponed += other.postponed;
        self.damped += other.damped;
        self.worst_found = self.worst_found.max(other.worst_found);
        self.faults += other.faults;
        self.packets += other.packets;
        self.replayed += other.replayed;
        self.copies += other.copies;
        self.simulated_ns += other.simulated_ns;
    }
}
