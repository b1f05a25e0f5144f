//! What the detection thread publishes about routes and itself, without locks: a table that it alone writes, guarded
//! by a sequence that is odd while it does (a seqlock). Readers try again; the writer never waits.

use netft_core::detect::{Detector, DetectorCounters, Histogram, RouteView};
use netft_core::types::{Nanos, NodeId, RouteReason, RouteState, Slot};
use std::sync::atomic::{AtomicU64, Ordering, fence};

/// Words that one route takes.
const ROUTE_WORDS: usize = 10;
/// Words before the routes: how many there are, the detector's counters, the histogram.
const HEAD_WORDS: usize = 1 + 6 + Histogram::BUCKETS;

/// A copy of everything published.
#[derive(Clone, Debug, Default)]
pub struct Views {
    /// Every watched route.
    pub routes: Vec<RouteView>,
    /// The detector's counters.
    pub counters: DetectorCounters,
    /// Round trips: upper bound of a bucket in nanoseconds and samples in it, empty ones left out.
    pub rtt: Vec<(Nanos, u64)>,
}

/// The table.
#[derive(Debug)]
pub struct ViewTable {
    sequence: AtomicU64,
    words: Box<[AtomicU64]>,
}

impl ViewTable {
    /// Room for `capacity` routes.
    pub fn new(capacity: usize) -> Self {
        let words = (0..HEAD_WORDS + capacity * ROUTE_WORDS).map(|_| AtomicU64::new(0)).collect();
        Self { sequence: AtomicU64::new(0), words }
    }

    /// Publishes. One thread only; allocates nothing.
    pub fn publish(&self, detector: &Detector) {
        let sequence = self.sequence.load(Ordering::Relaxed);
        self.sequence.store(sequence.wrapping_add(1), Ordering::Relaxed);
        fence(Ordering::Release);
        let put = |index: usize, word: u64| self.words[index].store(word, Ordering::Relaxed);
        let counters = detector.counters();
        put(1, counters.stalls);
        put(2, counters.postponed_verdicts);
        put(3, counters.worst_stall_ns);
        put(4, counters.requests);
        put(5, counters.merged_events);
        put(6, counters.receive_stalls);
        for (index, count) in detector.rtt_histogram().buckets().iter().enumerate() {
            put(7 + index, *count);
        }
        let mut count = 0;
        let capacity = (self.words.len() - HEAD_WORDS) / ROUTE_WORDS;
        for view in detector.views().take(capacity) {
            let at = HEAD_WORDS + count * ROUTE_WORDS;
            for (offset, word) in encode(&view).into_iter().enumerate() {
                put(at + offset, word);
            }
            count += 1;
        }
        put(0, count as u64);
        self.sequence.store(sequence.wrapping_add(2), Ordering::Release);
    }

    /// Copies what was published last. Any thread.
    pub fn read(&self) -> Views {
        loop {
            let before = self.sequence.load(Ordering::Acquire);
            let get = |index: usize| self.words[index].load(Ordering::Relaxed);
            let count =
                usize::try_from(get(0)).unwrap_or(0).min((self.words.len() - HEAD_WORDS) / ROUTE_WORDS);
            let counters = DetectorCounters {
                stalls: get(1),
                postponed_verdicts: get(2),
                worst_stall_ns: get(3),
                requests: get(4),
                merged_events: get(5),
                receive_stalls: get(6),
            };
            let buckets =
                (0..Histogram::BUCKETS).map(|index| (Histogram::upper_bound(index), get(7 + index)));
            let rtt = buckets.filter(|(_, count)| *count > 0).collect();
            let route = |index: usize| {
                decode(std::array::from_fn(|offset| get(HEAD_WORDS + index * ROUTE_WORDS + offset)))
            };
            let routes: Option<Vec<RouteView>> = (0..count).map(route).collect();
            fence(Ordering::Acquire);
            let unchanged = before.is_multiple_of(2) && self.sequence.load(Ordering::Relaxed) == before;
            // What doesn't decode was torn.
            if let Some(routes) = routes.filter(|_| unchanged) {
                return Views { routes, counters, rtt };
            }
            std::thread::yield_now();
        }
    }
}

const STATES: [RouteState; 3] = [RouteState::Up, RouteState::Down, RouteState::AdminDown];
const REASONS: [RouteReason; 13] = [
    RouteReason::Starting,
    RouteReason::HeartbeatsComplete,
    RouteReason::HeartbeatsMissed,
    RouteReason::RxOnly,
    RouteReason::TxOnly,
    RouteReason::CarrierLost,
    RouteReason::AdminDown,
    RouteReason::PeerCarrierLost,
    RouteReason::PeerAdminDown,
    RouteReason::PeerLeft,
    RouteReason::Adopted,
    RouteReason::Removed,
    RouteReason::Damped,
];

fn encode(view: &RouteView) -> [u64; ROUTE_WORDS] {
    let state = STATES.iter().position(|state| *state == view.state).unwrap_or(STATES.len()) as u64;
    let reason = REASONS.iter().position(|reason| *reason == view.reason).unwrap_or(REASONS.len()) as u64;
    [
        u64::from(view.slot.get()) | u64::from(view.peer.get()) << 16 | state << 32 | reason << 40,
        u64::from(view.misses),
        view.since_ns,
        view.srtt_ns,
        view.sent,
        view.completed,
        view.heard_ns,
        view.peer_tick_ns,
        view.flaps_milli,
        view.damped_left_ns,
    ]
}

fn decode(words: [u64; ROUTE_WORDS]) -> Option<RouteView> {
    let [
        first,
        misses,
        since_ns,
        srtt_ns,
        sent,
        completed,
        heard_ns,
        peer_tick_ns,
        flaps_milli,
        damped_left_ns,
    ] = words;
    Some(RouteView {
        slot: Slot::new(u32::try_from(first & 0xffff).ok()?)?,
        peer: NodeId::new(u16::try_from(first >> 16 & 0xffff).ok()?)?,
        state: *STATES.get(usize::try_from(first >> 32 & 0xff).ok()?)?,
        reason: *REASONS.get(usize::try_from(first >> 40 & 0xff).ok()?)?,
        misses: u32::try_from(misses).ok()?,
        since_ns,
        srtt_ns,
        sent,
        completed,
        heard_ns,
        peer_tick_ns,
        flaps_milli,
        damped_left_ns,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_view_survives_the_table() {
        for (index, reason) in REASONS.into_iter().enumerate() {
            let view = RouteView {
                slot: Slot::new(1023).unwrap(),
                peer: NodeId::new(255).unwrap(),
                state: STATES[index % 3],
                reason,
                since_ns: 1 << 60,
                misses: u32::MAX,
                srtt_ns: 2,
                sent: 3,
                completed: 4,
                heard_ns: 5,
                peer_tick_ns: 6,
                flaps_milli: 7,
                damped_left_ns: 8,
            };
            assert_eq!(decode(encode(&view)), Some(view));
        }
    }
}
