//! Whether AF_XDP works on one interface: only what is seen to arrive proves it, in each direction by itself.
//!
//! Probes are solicited from peers whose heartbeats complete, sent by the kernel's socket and by AF_XDP in turn. Anything
//! authentic that comes out of an AF_XDP socket proves receiving; an answer to a probe that was sent by AF_XDP, however
//! it comes, proves transmitting. Proof that isn't renewed while the peers live is void.

use netft_core::types::Nanos;

/// Between probes while something is unproven or doubtful.
const EAGER_NS: Nanos = 100_000_000;
/// Between probes while all is well.
const CALM_NS: Nanos = 500_000_000;
/// After this many without a proof, at the eager pace or slower, the path is taken for dead.
const PATIENCE: u32 = 4;
/// After so many vain probes nothing is hoped for soon: probes go on at the calm pace.
const FORLORN: u32 = 20;
/// Proofs in a row that a path needs after it failed once.
const AFTER_FAILURE: u32 = 10;

/// How a probe is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// The kernel's UDP socket.
    Kernel,
    /// AF_XDP.
    Bypass,
}

/// Evidence for one direction.
#[derive(Clone, Copy, Debug)]
struct Proof {
    holds: bool,
    /// Probes since the last evidence.
    vain: u32,
    /// Pieces of evidence since the last failure, and how many it takes.
    run: u32,
    needed: u32,
}

impl Proof {
    const NONE: Self = Self { holds: false, vain: 0, run: 0, needed: 1 };

    fn seen(&mut self) {
        self.vain = 0;
        self.run = self.run.saturating_add(1);
        self.holds |= self.run >= self.needed;
    }

    fn asked(&mut self) {
        self.vain = self.vain.saturating_add(1);
    }

    fn judge(&mut self) {
        if self.vain > PATIENCE {
            self.run = 0;
            if self.holds {
                (self.holds, self.needed) = (false, AFTER_FAILURE);
            }
        }
    }
}

/// One interface.
#[derive(Debug)]
pub struct Prover {
    receive: Proof,
    transmit: Proof,
    due_ns: Nanos,
    turn: By,
    /// Of the last probe; starts at the time, so that an earlier life's answers are old.
    number: Nanos,
}

impl Prover {
    /// Nothing is known.
    pub fn new(now: Nanos) -> Self {
        Self { receive: Proof::NONE, transmit: Proof::NONE, due_ns: now, turn: By::Bypass, number: now }
    }

    /// Whether frames that peers send arrive in our sockets.
    pub fn receives(&self) -> bool {
        self.receive.holds
    }

    /// Whether frames that we send by AF_XDP arrive.
    pub fn transmits(&self) -> bool {
        self.transmit.holds
    }

    /// Whether a direction was tried in vain, rather than not yet.
    pub fn is_refuted(&self) -> bool {
        let refuted = |proof: &Proof| !proof.holds && proof.vain > PATIENCE;
        refuted(&self.receive) || refuted(&self.transmit)
    }

    /// Something authentic arrived in one of the interface's sockets.
    pub fn received(&mut self) {
        self.receive.seen();
    }

    /// A probe of this interface was answered.
    pub fn answered(&mut self, number: u64) {
        // Old answers prove nothing about now; numbers of an earlier life neither.
        let (sent, by) = (number >> 1, if number & 1 == 1 { By::Bypass } else { By::Kernel });
        let recent = self.number.checked_sub(sent).is_some_and(|age| age < u64::from(PATIENCE));
        if by == By::Bypass && recent {
            self.transmit.seen();
        }
    }

    /// When [`Self::poll`] wants to be called.
    pub fn due_ns(&self) -> Nanos {
        self.due_ns
    }

    /// A probe to solicit now, and its number; `reachable` = there is a peer that must answer it. If there is none, then
    /// nothing can be learnt, and nothing is doubted.
    pub fn poll(&mut self, now: Nanos, reachable: bool) -> Option<(By, u64)> {
        if now < self.due_ns {
            return None;
        }
        if !reachable {
            self.due_ns = now + EAGER_NS;
            return None;
        }
        self.receive.judge();
        self.transmit.judge();
        let doubtful = |proof: &Proof| proof.vain < FORLORN && (proof.vain > 0 || !proof.holds);
        let eager = doubtful(&self.receive) || doubtful(&self.transmit);
        self.due_ns = now + if eager { EAGER_NS } else { CALM_NS };
        self.number += 1;
        let by = self.turn;
        self.receive.asked();
        self.turn = match by {
            By::Kernel => By::Bypass,
            By::Bypass => {
                self.transmit.asked();
                By::Kernel
            }
        };
        Some((by, self.number << 1 | u64::from(by == By::Bypass)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs for a while; `works` = (receiving, transmitting). Every probe is answered, as the peer's are.
    fn run(prover: &mut Prover, now: &mut Nanos, seconds: u64, works: (bool, bool), reachable: bool) -> u32 {
        let end = *now + seconds * 1_000_000_000;
        let mut probes = 0;
        while *now < end {
            *now = prover.due_ns().max(*now + 1);
            let Some((by, number)) = prover.poll(*now, reachable) else { continue };
            probes += 1;
            if by == By::Kernel || works.1 {
                prover.answered(number);
                if works.0 {
                    prover.received();
                }
            }
        }
        probes
    }

    fn state(prover: &Prover) -> (bool, bool) {
        (prover.receives(), prover.transmits())
    }

    #[test]
    fn what_arrives_proves_each_direction_by_itself() {
        for works in [(true, true), (true, false), (false, true), (false, false)] {
            let mut now = 0;
            let mut prover = Prover::new(now);
            assert_eq!(state(&prover), (false, false));
            run(&mut prover, &mut now, 1, works, true);
            assert_eq!(state(&prover), works);
            // It stays so, and costs little.
            let probes = run(&mut prover, &mut now, 60, works, true);
            assert_eq!(state(&prover), works);
            assert!(probes < 250, "{probes} probes in a minute");
        }
    }

    #[test]
    fn a_path_that_stops_working_is_left_within_seconds_and_taken_again_after_a_run() {
        for broken in [(false, true), (true, false), (false, false)] {
            let mut now = 0;
            let mut prover = Prover::new(now);
            run(&mut prover, &mut now, 5, (true, true), true);
            run(&mut prover, &mut now, 3, broken, true);
            assert_eq!(state(&prover), broken);
            run(&mut prover, &mut now, 10, (true, true), true);
            assert_eq!(state(&prover), (true, true));
            let mut flaky = Prover::new(now);
            run(&mut flaky, &mut now, 5, (true, true), true);
            run(&mut flaky, &mut now, 5, broken, true);
            for _ in 0..5 {
                flaky.received();
            }
            assert_eq!(state(&flaky), broken, "a few frames are not enough after a failure");
        }
    }

    #[test]
    fn without_anybody_to_answer_nothing_is_doubted() {
        let mut now = 0;
        let mut prover = Prover::new(now);
        run(&mut prover, &mut now, 2, (true, true), true);
        assert_eq!(run(&mut prover, &mut now, 60, (false, false), false), 0);
        assert_eq!(state(&prover), (true, true));
    }

    #[test]
    fn an_answer_from_another_time_proves_nothing() {
        let mut now = 0;
        let mut prover = Prover::new(now);
        run(&mut prover, &mut now, 2, (false, false), true);
        prover.answered(1);
        prover.answered(u64::MAX);
        assert_eq!(state(&prover), (false, false));
    }
}
