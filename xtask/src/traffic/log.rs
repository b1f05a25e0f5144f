//! What a flow sent and what arrived, record by record, and the verdict over any stretch of time.

use serde::Serialize;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// One record that arrived.
#[derive(Clone, Copy, Debug)]
struct Arrival {
    sequence: u64,
    at_ns: u64,
}

/// Filled by the flow's two threads, read by anyone at any time.
#[derive(Debug, Default)]
pub struct FlowLog {
    sent_ns: Mutex<Vec<u64>>,
    arrivals: Mutex<Vec<Arrival>>,
    faults: Mutex<Vec<String>>,
    stop: AtomicBool,
}

/// What happened to a flow between two moments.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct FlowReport {
    /// Records sent in that time.
    pub sent: u64,
    /// Of these, how many arrived (at any time), each counted once.
    pub received: u64,
    /// Of these, how many never arrived.
    pub lost: u64,
    /// Further copies that arrived in that time.
    pub duplicated: u64,
    /// Records that arrived in that time after one with a higher sequence number.
    pub reordered: u64,
    /// Longest time without an arrival, in nanoseconds.
    pub longest_outage_ns: u64,
    /// When it began, boottime.
    pub outage_began_ns: u64,
    /// Longest time between two sends: the sender's own hiccup, which an outage includes.
    pub longest_send_gap_ns: u64,
    /// What went wrong with the sockets, if anything did.
    pub faults: Vec<String>,
}

impl FlowLog {
    /// With room for `records`, so that nothing is allocated while measuring.
    pub(super) fn with_capacity(records: usize) -> Self {
        Self {
            sent_ns: Mutex::new(Vec::with_capacity(records)),
            arrivals: Mutex::new(Vec::with_capacity(records + records / 8)),
            ..Self::default()
        }
    }

    /// Notes the next send and returns its sequence number.
    pub(super) fn sending(&self, now_ns: u64) -> u64 {
        let mut sent = lock(&self.sent_ns);
        sent.push(now_ns);
        sent.len() as u64 - 1
    }

    pub(super) fn arrived(&self, sequence: u64, at_ns: u64) {
        lock(&self.arrivals).push(Arrival { sequence, at_ns });
    }

    /// Notes a fault; the same one is kept once.
    pub(super) fn fault(&self, what: String) {
        let mut faults = lock(&self.faults);
        if !faults.contains(&what) && faults.len() < 8 {
            faults.push(what);
        }
    }

    pub(super) fn stop(&self) {
        self.stop.store(true, Ordering::Release);
    }

    pub(super) fn stopped(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    /// Records that arrived so far.
    pub fn received_so_far(&self) -> usize {
        lock(&self.arrivals).len()
    }

    /// When the newest record arrived, boottime.
    pub fn last_arrival_ns(&self) -> Option<u64> {
        lock(&self.arrivals).last().map(|arrival| arrival.at_ns)
    }

    /// When records arrived, boottime, in order of arrival.
    pub fn arrivals_ns(&self) -> Vec<u64> {
        lock(&self.arrivals).iter().map(|arrival| arrival.at_ns).collect()
    }

    /// Arrival-free stretches longer than `longer_than_ns` in the whole log: (begin, end), boottime.
    pub fn outages(&self, longer_than_ns: u64) -> Vec<(u64, u64)> {
        let arrivals = lock(&self.arrivals);
        let pairs = arrivals.windows(2).map(|pair| (pair[0].at_ns, pair[1].at_ns));
        pairs.filter(|(begin, end)| end.saturating_sub(*begin) > longer_than_ns).collect()
    }

    /// The verdict over `from_ns..to_ns`. Give what was sent last some time to arrive before asking.
    pub fn report(&self, from_ns: u64, to_ns: u64) -> FlowReport {
        let sent = lock(&self.sent_ns);
        let first = sent.partition_point(|at| *at < from_ns);
        let last = sent.partition_point(|at| *at < to_ns);
        let mut report = FlowReport { sent: (last - first) as u64, ..FlowReport::default() };
        report.longest_send_gap_ns =
            sent[first..last].windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(0);

        let arrivals = lock(&self.arrivals);
        let mut seen = vec![false; last - first];
        let mut highest = None;
        let mut silent_since = from_ns;
        let mut silence_until = |until: u64, report: &mut FlowReport| {
            let silence = until.saturating_sub(silent_since);
            if silence > report.longest_outage_ns {
                (report.longest_outage_ns, report.outage_began_ns) = (silence, silent_since);
            }
            silent_since = silent_since.max(until);
        };
        for arrival in arrivals.iter() {
            let index =
                usize::try_from(arrival.sequence).ok().and_then(|sequence| sequence.checked_sub(first));
            let copy = index.and_then(|index| seen.get_mut(index)).map(|seen| std::mem::replace(seen, true));
            report.received += u64::from(copy == Some(false));
            report.duplicated += u64::from(copy == Some(true));
            if arrival.at_ns >= from_ns && arrival.at_ns < to_ns {
                report.reordered += u64::from(highest.is_some_and(|highest| arrival.sequence < highest));
                silence_until(arrival.at_ns, &mut report);
            }
            highest = highest.max(Some(arrival.sequence));
        }
        silence_until(to_ns, &mut report);
        report.lost = report.sent - report.received;
        report.faults = lock(&self.faults).clone();
        report
    }
}

/// A thread that panicked while it held the lock leaves whole records behind, so the data is still good.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loss_copies_and_outage_are_told_apart() {
        let log = FlowLog::default();
        for sent in 0..10 {
            log.sending(sent * 100);
        }
        for (sequence, at) in [(0, 10), (1, 110), (1, 120), (6, 610), (5, 620), (7, 710), (8, 810), (9, 910)]
        {
            log.arrived(sequence, at);
        }
        let report = log.report(0, 1000);
        assert_eq!((report.sent, report.received, report.lost), (10, 7, 3));
        assert_eq!((report.duplicated, report.reordered), (1, 1));
        assert_eq!((report.longest_outage_ns, report.outage_began_ns), (490, 120));
        assert_eq!(report.longest_send_gap_ns, 100);
        assert_eq!(log.outages(200), [(120, 610)]);
    }

    #[test]
    fn silence_up_to_the_end_counts() {
        let log = FlowLog::default();
        log.sending(100);
        log.arrived(0, 110);
        assert_eq!(log.report(100, 1000).longest_outage_ns, 890);
    }
}
