//! How large packets a route carries: found by probes of the size in question, answered by small ones. What both interfaces
//! claim is tried first and believed until it is refuted; then the largest size that gets through is searched for.
//!
//! A switch that drops what it finds too long tells nobody, so silence decides, and only where a small probe is answered
//! meanwhile: else the peer or the whole route is silent, and nothing is learnt.

use crate::types::Nanos;

/// Below this nobody searches: IPv6 ends there (RFC 8200, section 5).
pub const SMALLEST: u16 = 1280;
/// How long an answer may take, beyond a round trip, in nanoseconds.
const ANSWER_NS: Nanos = 50_000_000;
/// Unanswered probes of one size that refute it.
const TRIES: u8 = 3;
/// Between looks at a route by which nobody could answer.
const HOLD_NS: Nanos = 1_000_000_000;
/// Between looks whether what was found still holds.
const AGAIN_NS: Nanos = 5_000_000_000;
/// The search ends when it is so close, in bytes.
const CLOSE_ENOUGH: u16 = 4;

/// What is being found out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Does the largest size still get through?
    Largest,
    /// It doesn't; does what was found before?
    Known,
    /// It doesn't; is the peer there at all? `high` doesn't get through.
    Smallest { high: u16 },
    /// Between the largest size that is known to get through and the smallest that isn't.
    Between { low: u16, high: u16 },
}

/// One route's. Sizes are of whole IP packets, in bytes. Owned by one thread.
#[derive(Clone, Copy, Debug)]
pub struct PathMtu {
    largest: u16,
    carried: u16,
    stage: Stage,
    /// The size under test and how often it was asked for; 0 = none is.
    size: u16,
    tries: u8,
    due_ns: Nanos,
}

impl PathMtu {
    /// Of a route between interfaces that claim to carry `largest`, which is believed at first.
    pub fn new(now: Nanos, largest: u16) -> Self {
        let largest = largest.max(SMALLEST);
        Self { largest, carried: largest, stage: Stage::Largest, size: 0, tries: 0, due_ns: now }
    }

    /// The interfaces claim something else.
    pub fn set_largest(&mut self, now: Nanos, largest: u16) {
        if self.largest != largest.max(SMALLEST) {
            *self = Self::new(now, largest);
        }
    }

    /// The route came up: it may lead another way now.
    pub fn look_again(&mut self, now: Nanos) {
        self.due_ns = self.due_ns.min(now);
    }

    /// The largest size that is taken to get through.
    pub fn carried(&self) -> u16 {
        self.carried
    }

    /// When to call [`Self::poll`] next.
    pub fn due_ns(&self) -> Nanos {
        self.due_ns
    }

    /// The size of a probe to send now. Call it only while the route is up and its peer can answer; else nothing is
    /// learnt, and [`Self::hold`] is right.
    pub fn poll(&mut self, now: Nanos) -> Option<u16> {
        if now < self.due_ns {
            return None;
        }
        if self.size != 0 && self.tries >= TRIES {
            self.refuted(now);
            if now < self.due_ns {
                return None;
            }
        }
        self.size = match self.stage {
            Stage::Largest => self.largest,
            Stage::Known => self.carried,
            Stage::Smallest { .. } => SMALLEST,
            Stage::Between { low, high } => low + (high - low) / 2,
        };
        self.tries += 1;
        self.due_ns = now.saturating_add(ANSWER_NS);
        Some(self.size)
    }

    /// Nobody could answer now: what was asked meanwhile doesn't count.
    pub fn hold(&mut self, now: Nanos) {
        self.tries = 0;
        self.due_ns = now.saturating_add(HOLD_NS);
    }

    /// A probe of this size was answered.
    pub fn answered(&mut self, now: Nanos, size: u16) {
        if size != self.size {
            // An answer to something older; that size got through then.
            return;
        }
        (self.size, self.tries) = (0, 0);
        match self.stage {
            Stage::Largest => self.settle(now, self.largest),
            Stage::Known => self.settle(now, self.carried),
            Stage::Smallest { high } => self.narrow(now, SMALLEST, high),
            Stage::Between { high, .. } => self.narrow(now, size, high),
        }
    }

    fn refuted(&mut self, now: Nanos) {
        let size = std::mem::replace(&mut self.size, 0);
        self.tries = 0;
        match self.stage {
            Stage::Largest if self.carried < self.largest => self.stage = Stage::Known,
            Stage::Largest if self.largest > SMALLEST => self.stage = Stage::Smallest { high: self.largest },
            Stage::Known if self.carried > SMALLEST => self.stage = Stage::Smallest { high: self.carried },
            // Nothing gets through: it isn't the size.
            Stage::Largest | Stage::Known | Stage::Smallest { .. } => {
                self.stage = Stage::Largest;
                self.due_ns = now.saturating_add(AGAIN_NS);
            }
            Stage::Between { low, .. } => self.narrow(now, low, size),
        }
    }

    /// `low` gets through and `high` doesn't.
    fn narrow(&mut self, now: Nanos, low: u16, high: u16) {
        if high - low <= CLOSE_ENOUGH {
            self.settle(now, low);
            return;
        }
        // What was believed until now is refuted; what is proven holds meanwhile.
        if self.carried >= high || self.carried < low {
            self.carried = low;
        }
        (self.stage, self.due_ns) = (Stage::Between { low, high }, now);
    }

    fn settle(&mut self, now: Nanos, carried: u16) {
        self.carried = carried;
        self.stage = Stage::Largest;
        self.due_ns = now.saturating_add(AGAIN_NS);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRIP_NS: Nanos = 200_000;

    /// A path that carries so much, and a peer that may be silent.
    struct Path {
        carries: u16,
        silent: bool,
    }

    /// Lets time pass; says how many probes were sent.
    fn run(mtu: &mut PathMtu, now: &mut Nanos, path: &Path, span_ns: Nanos) -> u32 {
        let (end, mut probes) = (*now + span_ns, 0);
        while mtu.due_ns() < end {
            *now = mtu.due_ns().max(*now);
            if let Some(size) = mtu.poll(*now) {
                probes += 1;
                if size <= path.carries && !path.silent {
                    *now += TRIP_NS;
                    mtu.answered(*now, size);
                }
            }
        }
        *now = end;
        probes
    }

    const S: Nanos = 1_000_000_000;

    #[test]
    fn what_interfaces_claim_is_believed_and_confirmed_with_few_probes() {
        let (mut mtu, mut now) = (PathMtu::new(0, 9000), 0);
        assert_eq!(mtu.carried(), 9000);
        let probes = run(&mut mtu, &mut now, &Path { carries: 9000, silent: false }, 60 * S);
        assert_eq!(mtu.carried(), 9000);
        assert!(probes <= 13, "{probes}");
    }

    #[test]
    fn a_narrow_path_is_measured_within_seconds_and_known_to_be_narrow_within_one() {
        for carries in [1280, 1400, 1492, 1500, 4000, 8996] {
            let (mut mtu, mut now) = (PathMtu::new(0, 9000), 0);
            let path = Path { carries, silent: false };
            run(&mut mtu, &mut now, &path, S / 2);
            assert!(mtu.carried() <= carries, "{} of {carries}", mtu.carried());
            run(&mut mtu, &mut now, &path, 3 * S);
            assert!(
                (carries - CLOSE_ENOUGH..=carries).contains(&mtu.carried()),
                "{} of {carries}",
                mtu.carried()
            );
            // It stays so while the largest is tried again and again.
            let found = mtu.carried();
            let probes = (0..60).map(|_| {
                let probes = run(&mut mtu, &mut now, &path, S);
                assert_eq!(mtu.carried(), found);
                probes
            });
            assert!(probes.sum::<u32>() <= 12 * 4 + 4);
        }
    }

    #[test]
    fn a_path_that_changes_is_followed_in_both_directions() {
        let (mut mtu, mut now) = (PathMtu::new(0, 1500), 0);
        run(&mut mtu, &mut now, &Path { carries: 1500, silent: false }, 10 * S);
        run(&mut mtu, &mut now, &Path { carries: 1400, silent: false }, 10 * S);
        assert!((1396..=1400).contains(&mtu.carried()), "{}", mtu.carried());
        run(&mut mtu, &mut now, &Path { carries: 1500, silent: false }, 10 * S);
        assert_eq!(mtu.carried(), 1500);
        mtu.set_largest(now, 4000);
        run(&mut mtu, &mut now, &Path { carries: 4000, silent: false }, S);
        assert_eq!(mtu.carried(), 4000);
    }

    #[test]
    fn silence_of_everything_says_nothing_about_sizes() {
        let (mut mtu, mut now) = (PathMtu::new(0, 1500), 0);
        let probes = run(&mut mtu, &mut now, &Path { carries: 1500, silent: true }, 30 * S);
        assert_eq!(mtu.carried(), 1500);
        assert!(probes <= 6 * 7, "{probes}");
        mtu.hold(now);
        assert_eq!(mtu.poll(now), None);
    }

    #[test]
    fn a_single_lost_probe_changes_nothing() {
        let mut mtu = PathMtu::new(0, 1500);
        for _ in 0..100 {
            let now = mtu.due_ns();
            assert_eq!(mtu.poll(now), Some(1500), "lost");
            let now = mtu.due_ns();
            assert_eq!(mtu.poll(now), Some(1500));
            mtu.answered(now, 1500);
            assert_eq!(mtu.carried(), 1500);
        }
    }

    #[test]
    fn a_route_that_came_up_is_looked_at_at_once() {
        let (mut mtu, mut now) = (PathMtu::new(0, 1500), 0);
        run(&mut mtu, &mut now, &Path { carries: 1500, silent: false }, S);
        assert_eq!(mtu.poll(now), None);
        mtu.look_again(now);
        assert_eq!(mtu.poll(now), Some(1500));
    }
}
