//! The routes to one peer, as a transmitter that spreads flows over them sees them.

use super::flow::mix;
use crate::types::Slot;

/// Flows are spread over routes whose metrics are less than this above the lowest that is up.
pub const SPREAD_WITHIN: u32 = 16;

/// One route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outlet {
    /// Its slot.
    pub slot: Slot,
    /// Its network's metric.
    pub metric: u32,
}

/// All routes to a peer, best first. Changes allocate, choosing doesn't.
#[derive(Clone, Debug, Default)]
pub struct Outlets {
    sorted: Vec<Outlet>,
}

impl Outlets {
    /// A route, or another metric of one.
    pub fn set(&mut self, outlet: Outlet) {
        self.remove(outlet.slot);
        let at = self.sorted.partition_point(|other| key(other) < key(&outlet));
        self.sorted.insert(at, outlet);
    }

    /// A route is gone.
    pub fn remove(&mut self, slot: Slot) {
        self.sorted.retain(|outlet| outlet.slot != slot);
    }

    /// The route of a flow ([`super::flow_of`]) among those that `is_usable`. While it stays usable the flow stays on it:
    /// each flow gives every route a mark and takes the highest, so a route that dies moves its own flows alone, and one
    /// that comes up takes no more than its share (rendezvous hashing, Thaler and Ravishankar 1998).
    pub fn spread(&self, flow: u64, is_usable: impl Fn(Slot) -> bool) -> Option<Slot> {
        let mut chosen: Option<(u64, Slot)> = None;
        let mut best = None;
        for outlet in self.sorted.iter().filter(|outlet| is_usable(outlet.slot)) {
            if outlet.metric - *best.get_or_insert(outlet.metric) >= SPREAD_WITHIN {
                break;
            }
            let mark = mix(flow ^ mix(u64::from(outlet.slot.get())));
            if chosen.is_none_or(|(highest, _)| mark > highest) {
                chosen = Some((mark, outlet.slot));
            }
        }
        chosen.map(|(_, slot)| slot)
    }
}

fn key(outlet: &Outlet) -> (u32, Slot) {
    (outlet.metric, outlet.slot)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLOWS: u64 = 4096;

    fn slot(index: u32) -> Slot {
        Slot::new(index).unwrap()
    }

    fn outlets(metrics: &[u32]) -> Outlets {
        let mut outlets = Outlets::default();
        for (index, metric) in (0..).zip(metrics) {
            outlets.set(Outlet { slot: slot(index), metric: *metric });
        }
        outlets
    }

    fn chosen(outlets: &Outlets, is_usable: impl Fn(Slot) -> bool) -> Vec<Option<Slot>> {
        (0..FLOWS).map(|flow| outlets.spread(mix(flow), &is_usable)).collect()
    }

    fn share(chosen: &[Option<Slot>], index: u32) -> usize {
        chosen.iter().filter(|choice| **choice == Some(slot(index))).count()
    }

    #[test]
    fn flows_are_spread_evenly_over_routes_less_than_16_apart_and_over_no_others() {
        let outlets = outlets(&[36_800, 36_815, 36_816, 80_000]);
        let all = chosen(&outlets, |_| true);
        for near in 0..2 {
            assert!((1900..2200).contains(&share(&all, near)), "{}", share(&all, near));
        }
        assert_eq!(share(&all, 2) + share(&all, 3), 0);
        // Without the best one the next sets the measure.
        let rest = chosen(&outlets, |other| other != slot(0));
        assert!(share(&rest, 1) > 1900 && share(&rest, 2) > 1900);
        assert_eq!(share(&rest, 0) + share(&rest, 3), 0);
    }

    #[test]
    fn a_dead_route_moves_its_own_flows_alone_and_gets_them_back() {
        let mut outlets = outlets(&[100, 101, 102]);
        let before = chosen(&outlets, |_| true);
        let during = chosen(&outlets, |other| other != slot(1));
        for (old, new) in before.iter().zip(&during) {
            assert_eq!(old != new, *old == Some(slot(1)));
        }
        assert_eq!(chosen(&outlets, |_| true), before);
        outlets.remove(slot(1));
        assert_eq!(chosen(&outlets, |_| true), during);
    }

    #[test]
    fn another_metric_counts_at_once_and_without_a_usable_route_there_is_none() {
        let mut outlets = outlets(&[100, 101]);
        outlets.set(Outlet { slot: slot(0), metric: 4000 });
        assert_eq!(share(&chosen(&outlets, |_| true), 1), 4096);
        assert_eq!(outlets.spread(7, |_| false), None);
        assert_eq!(Outlets::default().spread(7, |_| true), None);
    }

    #[test]
    fn the_highest_metrics_do_not_overflow() {
        let outlets = outlets(&[u32::MAX]);
        assert_eq!(outlets.spread(7, |_| true), Some(slot(0)));
    }
}
