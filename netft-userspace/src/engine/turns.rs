//! Which interface may get its XDP program attached in another way now. For that moment nobody answers heartbeats on it and
//! its routes may go down, so interfaces take turns: the next one only when the routes of the one before are up again, and
//! only if every peer has another way meanwhile. Bounded: a wish is carried out in the end, whatever is down.

use netft_core::types::{InterfaceNumber, Nanos, NodeId, Slot};
use std::collections::BTreeMap;

/// How long routes must be up, and the last turn be over: peers see them come up at nearly the same time, not at the same.
const SETTLED_NS: Nanos = 100_000_000;
/// The longest that an interface waits for its turn.
const LIMIT_NS: Nanos = 3_000_000_000;
/// Between looks while one waits.
pub const LOOK_NS: Nanos = 10_000_000;

/// A route as it is now.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    /// The route.
    pub slot: Slot,
    /// To whom.
    pub peer: NodeId,
    /// By which interface.
    pub interface: InterfaceNumber,
    /// Since when it has been up; `None` = it is down.
    pub up_since_ns: Option<Nanos>,
    /// When the newest heartbeat was sent that is known to have arrived.
    pub proof_ns: Nanos,
    /// How long after it another one should have.
    pub patience_ns: Nanos,
}

impl Seen {
    fn is_settled(&self, now: Nanos) -> bool {
        self.up_since_ns.is_some_and(|since_ns| now >= since_ns + SETTLED_NS)
    }

    /// Not only for all that the detector has found out so far.
    fn works(&self, now: Nanos) -> bool {
        self.is_settled(now) && now <= self.proof_ns + self.patience_ns
    }
}

/// The interface whose turn was last.
#[derive(Debug)]
struct Turn {
    at_ns: Nanos,
    /// Its routes that were up before.
    routes: Vec<Slot>,
}

impl Turn {
    fn is_over(&self, now: Nanos, routes: &[Seen]) -> bool {
        let is_back = |slot: &Slot| {
            let seen = routes.iter().find(|seen| seen.slot == *slot);
            // One that was taken out doesn't come back.
            seen.is_none_or(|seen| seen.is_settled(now) && seen.proof_ns > self.at_ns)
        };
        now >= self.at_ns + LIMIT_NS || now >= self.at_ns + SETTLED_NS && self.routes.iter().all(is_back)
    }
}

/// Whose turn it is.
#[derive(Debug, Default)]
pub struct Turns {
    last: Option<Turn>,
    /// Who waits, and since when.
    waiting: BTreeMap<InterfaceNumber, Nanos>,
}

impl Turns {
    /// All wishes are told again: who doesn't repeat one has none any more.
    pub fn ask_again(&mut self) -> BTreeMap<InterfaceNumber, Nanos> {
        std::mem::take(&mut self.waiting)
    }

    /// `interface` waits, `since_ns`.
    pub fn wait(&mut self, interface: InterfaceNumber, since_ns: Nanos) {
        self.waiting.insert(interface, since_ns);
    }

    /// Whether `interface`, which has waited since `since_ns`, may have its turn. `routes` = all there are, or `None` while
    /// they aren't all known yet.
    pub fn may(
        &self,
        interface: InterfaceNumber,
        since_ns: Nanos,
        now: Nanos,
        routes: Option<&[Seen]>,
    ) -> bool {
        let Some(routes) = routes else {
            let last_ns = self.last.as_ref().map_or(0, |last| last.at_ns);
            return now >= since_ns.max(last_ns) + LIMIT_NS;
        };
        let here = |seen: &&Seen| seen.interface == interface;
        // A peer that has one way only would be lost whenever the turn is.
        let is_spare = |seen: &Seen| {
            let mut others = routes.iter().filter(|other| other.peer == seen.peer && !here(other)).peekable();
            others.peek().is_none() || others.any(|other| other.works(now))
        };
        let up_here = routes.iter().filter(here).filter(|seen| seen.up_since_ns.is_some());
        self.last.as_ref().is_none_or(|last| last.is_over(now, routes))
            && (now >= since_ns + LIMIT_NS || up_here.clone().all(is_spare))
    }

    /// `interface` is having its turn: `routes` are those before.
    pub fn take(&mut self, interface: InterfaceNumber, at_ns: Nanos, routes: &[Seen]) {
        let up_here = routes.iter().filter(|seen| seen.interface == interface && seen.up_since_ns.is_some());
        self.last = Some(Turn { at_ns, routes: up_here.map(|seen| seen.slot).collect() });
    }

    /// Whether somebody waits.
    pub fn is_waited_for(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Whether one of those that wait may have its turn.
    pub fn is_due(&self, now: Nanos, routes: Option<&[Seen]>) -> bool {
        self.waiting.iter().any(|(interface, since_ns)| self.may(*interface, *since_ns, now, routes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Nanos = 1_000_000;

    fn interface(number: u8) -> InterfaceNumber {
        InterfaceNumber::new(number).unwrap()
    }

    /// Routes to `peers` peers over `interfaces` interfaces, all up and proven at `now`.
    fn routes(peers: u16, interfaces: u8, now: Nanos) -> Vec<Seen> {
        let of = |peer: u16, number: u8| Seen {
            slot: Slot::new(u32::from(peer) * 8 + u32::from(number)).unwrap(),
            peer: NodeId::new(peer).unwrap(),
            interface: interface(number),
            up_since_ns: Some(0),
            proof_ns: now,
            patience_ns: 5 * MS,
        };
        (1..=peers).flat_map(|peer| (0..interfaces).map(move |number| of(peer, number))).collect()
    }

    #[test]
    fn the_second_interface_waits_until_the_routes_of_the_first_are_up_again() {
        let begin = 1000 * MS;
        let mut turns = Turns::default();
        assert!(turns.may(interface(0), begin, begin, Some(&routes(2, 2, begin))));
        turns.take(interface(0), begin, &routes(2, 2, begin));
        let may = |turns: &Turns, now: Nanos, up_since_ns: Option<Nanos>, proof_ns: Nanos| {
            let mut routes = routes(2, 2, now);
            (routes[0].up_since_ns, routes[0].proof_ns) = (up_since_ns, proof_ns);
            turns.may(interface(1), begin, now, Some(&routes))
        };
        assert!(!may(&turns, begin + MS, Some(0), begin - 1), "nobody knows yet");
        assert!(!may(&turns, begin + 50 * MS, Some(0), begin + 49 * MS), "a peer may be later");
        assert!(may(&turns, begin + 100 * MS, Some(0), begin + 99 * MS), "it never went down");
        assert!(!may(&turns, begin + 500 * MS, None, begin - 1), "it is down");
        assert!(!may(&turns, begin + 500 * MS, Some(begin + 450 * MS), begin + 499 * MS), "it just came up");
        assert!(may(&turns, begin + 550 * MS, Some(begin + 450 * MS), begin + 549 * MS));
        assert!(may(&turns, begin + 3000 * MS, None, begin - 1), "in the end");
    }

    #[test]
    fn no_peer_loses_its_last_way_unless_it_has_no_other_at_all() {
        let begin = 1000 * MS;
        let turns = Turns::default();
        let may = |now: Nanos, routes: &[Seen]| turns.may(interface(0), begin, now, Some(routes));
        assert!(may(begin, &routes(3, 1, begin)), "there is one network");
        let mut two = routes(3, 2, begin);
        two[5].up_since_ns = None;
        assert!(!may(begin, &two), "the third peer's other route is down");
        assert!(may(begin + 3000 * MS, &two), "in the end");
        two[4].up_since_ns = None;
        assert!(may(begin, &two), "the third peer is lost anyway");
        let mut silent = routes(3, 2, begin);
        silent[1].proof_ns = begin - 6 * MS;
        assert!(!may(begin, &silent), "the first peer's other route is about to go down");
    }

    #[test]
    fn nothing_is_done_while_the_routes_are_not_known() {
        let mut turns = Turns::default();
        assert!(!turns.may(interface(0), 0, 2999 * MS, None));
        assert!(turns.may(interface(0), 0, 3000 * MS, None));
        turns.take(interface(0), 3000 * MS, &[]);
        assert!(!turns.may(interface(1), 0, 5999 * MS, None), "one after the other then as well");
        assert!(turns.may(interface(1), 0, 6000 * MS, None));
        let mut turns = Turns::default();
        turns.wait(interface(0), 0);
        assert!(turns.is_waited_for() && !turns.is_due(MS, None) && turns.is_due(MS, Some(&[])));
        assert_eq!(turns.ask_again().len(), 1);
        assert!(!turns.is_waited_for() && !turns.is_due(MS, Some(&[])));
    }
}
