//! What happened: events, route histories, and one log line for each change.

use super::link_word;
use crate::listing::{Clock, Event, Events, HistoryRecord, Versioned, us};
use crate::pressure::Taken;
use netft_core::detect::RouteRecord;
use netft_core::membership::MembershipEvent;
use netft_core::ownership::Why;
use netft_core::types::{LinkState, Nanos, NodeState};
use serde::Serialize;
use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use tokio::sync::broadcast;

/// Events a follower may be behind.
const FOLLOW_BEHIND: usize = 1024;
/// Events a follower is shown to begin with.
const FOLLOW_SHOWN: usize = 10;
/// Routes whose history is kept: those of removed routes stay until others need the place.
const HISTORIES_MAX: usize = 2048;
/// Own stalls are told at most this often; all are counted.
const STALL_TELL_NS: Nanos = 1_000_000_000;

/// What a slot stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RouteName {
    /// The peer's name.
    pub peer: String,
    /// Own endpoint.
    pub local: IpAddr,
    /// The peer's endpoint.
    pub remote: IpAddr,
}

impl RouteName {
    /// The endpoints.
    pub fn pair(&self) -> String {
        format!("{} -> {}", self.local, self.remote)
    }
}

/// How loud a note is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Note {
    /// As it should be.
    Info,
    /// Somebody should look.
    Warning,
}

/// The daemon's memory.
pub(super) struct Record {
    events: VecDeque<(u64, Event)>,
    event_limit: usize,
    next_sequence: u64,
    live: broadcast::Sender<Arc<str>>,
    /// By endpoints: after a restart a peer's name may be known later than its routes.
    histories: BTreeMap<(IpAddr, IpAddr), VecDeque<RouteRecord>>,
    history_limit: usize,
    stalls_untold: u32,
    stall_gap_max_ns: Nanos,
    stall_told_ns: Nanos,
}

/// An event in the making.
struct New<'a> {
    at_ns: Nanos,
    kind: &'a str,
    subject: &'a str,
    old: Option<String>,
    new: Option<String>,
    reason: String,
    evidence: BTreeMap<String, f64>,
}

impl Record {
    /// Empty, with these limits.
    pub fn new(event_limit: usize, history_limit: usize) -> Self {
        Self {
            events: VecDeque::new(),
            event_limit,
            next_sequence: 1,
            live: broadcast::Sender::new(FOLLOW_BEHIND),
            histories: BTreeMap::new(),
            history_limit,
            stalls_untold: 0,
            stall_gap_max_ns: 0,
            stall_told_ns: 0,
        }
    }

    /// Other limits; what is too much is forgotten, oldest first.
    pub fn limit(&mut self, events: usize, history: usize) {
        (self.event_limit, self.history_limit) = (events, history);
        self.events.drain(..self.events.len().saturating_sub(events));
        for records in self.histories.values_mut() {
            records.drain(..records.len().saturating_sub(history));
        }
    }

    /// A route changed its state.
    pub fn route(&mut self, name: Option<RouteName>, record: &RouteRecord) {
        let subject = match &name {
            Some(name) => format!("{} {}", name.peer, name.pair()),
            None => format!("node {} slot {}", record.peer, record.slot.get()),
        };
        let mut evidence = BTreeMap::from([
            ("sent".to_owned(), count(record.sent)),
            ("completed".to_owned(), count(record.completed)),
            ("misses".to_owned(), f64::from(record.misses)),
            ("threshold".to_owned(), f64::from(record.threshold)),
        ]);
        let ages = [
            ("evidence_age_us", record.evidence_age_ns),
            ("silence_us", record.silence_ns),
            ("stalled_us", record.stalled_ns),
        ];
        let ages =
            ages.into_iter().filter_map(|(name, ns)| Some((name.to_owned(), age_us(ns, record.at_ns)?)));
        evidence.extend(ages);
        self.tell(New {
            at_ns: record.at_ns,
            kind: "route",
            subject: &subject,
            old: Some(word(record.old)),
            new: Some(word(record.new)),
            reason: word(record.reason),
            evidence,
        });
        if let Some(name) = name {
            let pair = (name.local, name.remote);
            if self.histories.len() >= HISTORIES_MAX && !self.histories.contains_key(&pair) {
                self.histories.pop_first();
            }
            let records = self.histories.entry(pair).or_default();
            records.push_back(*record);
            records.drain(..records.len().saturating_sub(self.history_limit));
        }
    }

    /// Cluster traffic to a peer moved.
    pub fn active(&mut self, at_ns: Nanos, peer: &str, old: Option<String>, new: Option<String>) {
        let reason = if new.is_some() { "traffic-moved" } else { "no-route" };
        let evidence = BTreeMap::new();
        self.tell(New {
            at_ns,
            kind: "active-route",
            subject: peer,
            old,
            new,
            reason: reason.into(),
            evidence,
        });
    }

    /// A peer changed its state.
    pub fn node(&mut self, at_ns: Nanos, peer: &str, old: NodeState, new: NodeState, tick_age_ns: Nanos) {
        let reason = match new {
            NodeState::Up => "engine-ticks",
            NodeState::EngineStalled => "no-tick",
            NodeState::Leaving => "goodbye",
            NodeState::Down => "no-route",
        };
        let evidence =
            age_us(tick_age_ns, at_ns).map(|age| ("tick_age_us".to_owned(), age)).into_iter().collect();
        let (old, new) = (Some(word(old)), Some(word(new)));
        self.tell(New { at_ns, kind: "node", subject: peer, old, new, reason: reason.into(), evidence });
    }

    /// The detection thread was late. `taken` is asked what its CPU did since the last event of this kind.
    pub fn stall(&mut self, at_ns: Nanos, gap_ns: Nanos, taken: impl FnOnce() -> Taken) {
        self.stalls_untold += 1;
        self.stall_gap_max_ns = self.stall_gap_max_ns.max(gap_ns);
        if self.stall_told_ns != 0 && at_ns < self.stall_told_ns + STALL_TELL_NS {
            return;
        }
        let taken = taken();
        #[expect(clippy::cast_precision_loss, reason = "exact up to 285 years")]
        let number = |us: u64| us as f64;
        let evidence = BTreeMap::from([
            ("gap_us".to_owned(), us(self.stall_gap_max_ns)),
            ("stalls".to_owned(), f64::from(self.stalls_untold)),
            ("stolen_us".to_owned(), number(taken.stolen_us)),
            ("waited_us".to_owned(), number(taken.waited_us)),
        ]);
        (self.stall_told_ns, self.stalls_untold, self.stall_gap_max_ns) = (at_ns, 0, 0);
        let reason = "the detection thread was late: it got no CPU in time".into();
        self.tell(New {
            at_ns,
            kind: "engine-stall",
            subject: "engine",
            old: None,
            new: None,
            reason,
            evidence,
        });
    }

    /// An interface appeared, changed its link or vanished.
    pub fn interface(&mut self, name: &str, old: Option<LinkState>, new: Option<LinkState>) {
        let reason = match (old, new) {
            (None, _) => "found",
            (_, None) => "vanished",
            _ => "link-changed",
        };
        let state = |link: Option<LinkState>| link.map(|link| link_word(link).to_owned());
        self.tell(New {
            at_ns: crate::sys::boottime(),
            kind: "interface",
            subject: name,
            old: state(old),
            new: state(new),
            reason: reason.into(),
            evidence: BTreeMap::new(),
        });
    }

    /// A VIP has another owner.
    pub fn vip(&mut self, name: &str, old: Option<String>, new: Option<String>, why: Why) {
        let at_ns = crate::sys::boottime();
        let (reason, evidence) = (word(why), BTreeMap::new());
        self.tell(New { at_ns, kind: "vip", subject: name, old, new, reason, evidence });
    }

    /// An address of a VIP was added to an interface of this node, or removed.
    pub fn vip_address(&mut self, address: &str, old: Option<String>, new: Option<String>) {
        let at_ns = crate::sys::boottime();
        let reason = if new.is_some() { "taken" } else { "released" };
        let (reason, evidence) = (reason.to_owned(), BTreeMap::new());
        self.tell(New { at_ns, kind: "vip-address", subject: address, old, new, reason, evidence });
    }

    /// Membership has something to say.
    pub fn membership(&mut self, event: &MembershipEvent) {
        self.tell(New {
            at_ns: crate::sys::boottime(),
            kind: event.kind(),
            subject: &event.subject(),
            old: event.before(),
            new: event.after(),
            reason: event.reason(),
            evidence: BTreeMap::new(),
        });
    }

    /// A sentence.
    pub fn note(&mut self, level: Note, kind: &str, subject: &str, text: &str) {
        let at_ns = crate::sys::boottime();
        let event = self.keep(New {
            at_ns,
            kind,
            subject,
            old: None,
            new: None,
            reason: text.into(),
            evidence: BTreeMap::new(),
        });
        match level {
            Note::Info => tracing::info!(kind = event.kind, subject = event.subject, "{text}"),
            Note::Warning => tracing::warn!(kind = event.kind, subject = event.subject, "{text}"),
        }
    }

    /// Keeps an event and writes its log line.
    fn tell(&mut self, new: New<'_>) {
        let event = self.keep(new);
        let evidence: Vec<String> =
            event.evidence.iter().map(|(name, value)| format!("{name}={value}")).collect();
        tracing::info!(
            kind = event.kind,
            subject = event.subject,
            old = event.old.as_deref().unwrap_or("-"),
            new = event.new.as_deref().unwrap_or("-"),
            evidence = evidence.join(" "),
            boottime_ns = event.boottime_ns,
            "{}",
            event.reason
        );
    }

    fn keep(&mut self, new: New<'_>) -> Event {
        let unix_ns = Clock::now().unix_ns(new.at_ns);
        let event = Event {
            sequence: self.next_sequence,
            time: crate::listing::format_time(unix_ns),
            boottime_ns: new.at_ns,
            kind: new.kind.to_owned(),
            subject: new.subject.to_owned(),
            old: new.old,
            new: new.new,
            reason: new.reason,
            evidence: new.evidence,
        };
        self.next_sequence += 1;
        if self.events.len() >= self.event_limit {
            self.events.pop_front();
        }
        self.events.push_back((unix_ns, event.clone()));
        if self.live.receiver_count() > 0
            && let Ok(text) = serde_json::to_string(&Versioned::new(Events { events: vec![event.clone()] }))
        {
            let _ = self.live.send(text.into());
        }
        event
    }

    /// Events after a moment; a follower who names none gets the newest few.
    pub fn since(&self, since_unix_ns: Option<u64>, follow: bool) -> Events {
        let skip = match since_unix_ns {
            None if follow => self.events.len().saturating_sub(FOLLOW_SHOWN),
            _ => 0,
        };
        let after = since_unix_ns.unwrap_or(0);
        let events = self.events.iter().skip(skip).filter(|(unix_ns, _)| *unix_ns >= after);
        Events { events: events.map(|(_, event)| event.clone()).collect() }
    }

    /// Events to come.
    pub fn subscribe(&self) -> broadcast::Receiver<Arc<str>> {
        self.live.subscribe()
    }

    /// A route's history, oldest first.
    pub fn history(&self, local: IpAddr, remote: IpAddr, clock: Clock) -> Vec<HistoryRecord> {
        let records = self.histories.get(&(local, remote)).into_iter().flatten();
        records
            .map(|record| HistoryRecord {
                time: clock.format(record.at_ns),
                boottime_ns: record.at_ns,
                old: record.old,
                new: record.new,
                reason: record.reason,
                sent: record.sent,
                completed: record.completed,
                misses: record.misses,
                threshold: record.threshold,
                evidence_age_us: age_us(record.evidence_age_ns, record.at_ns),
                silence_us: age_us(record.silence_ns, record.at_ns),
            })
            .collect()
    }
}

/// An age as of `at_ns`; things that never happened are as old as the clock, or older: no number then.
fn age_us(age_ns: Nanos, at_ns: Nanos) -> Option<f64> {
    (age_ns < at_ns).then(|| us(age_ns))
}

#[expect(clippy::cast_precision_loss, reason = "counts beyond 2^53 take 285 years at 1 µs each")]
fn count(value: u64) -> f64 {
    value as f64
}

/// A state or reason as JSON writes it.
fn word(value: impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use netft_core::types::{NodeId, RouteReason, RouteState, Slot};

    fn name(last: u8) -> RouteName {
        let local = IpAddr::from([10, 0, 0, 1]);
        RouteName { peer: format!("n{last}"), local, remote: IpAddr::from([10, 0, 0, last]) }
    }

    fn down(at_ns: Nanos) -> RouteRecord {
        RouteRecord {
            at_ns: at_ns + 10_000_000,
            slot: Slot::new(3).unwrap(),
            peer: NodeId::new(2).unwrap(),
            old: RouteState::Up,
            new: RouteState::Down,
            reason: RouteReason::RxOnly,
            sent: 100,
            completed: 94,
            misses: 5,
            threshold: 5,
            evidence_age_ns: 5_100_000,
            silence_ns: Nanos::MAX,
            stalled_ns: 0,
        }
    }

    #[test]
    fn events_and_histories_are_bounded_and_oldest_go_first() {
        let mut record = Record::new(16, 3);
        for at_ns in 1..=40 {
            record.route(Some(name(2)), &down(at_ns));
        }
        let events = record.since(None, false).events;
        assert_eq!(events.iter().map(|e| e.sequence).collect::<Vec<_>>(), (25..=40).collect::<Vec<_>>());
        let kept: Vec<Nanos> = record
            .history(name(2).local, name(2).remote, Clock::at(0, 0))
            .iter()
            .map(|record| record.boottime_ns)
            .collect();
        assert_eq!(kept, [10_000_038, 10_000_039, 10_000_040]);
        record.limit(4, 1);
        assert_eq!(record.since(None, false).events.len(), 4);
        assert_eq!(record.history(name(2).local, name(2).remote, Clock::at(0, 0)).len(), 1);
    }

    #[test]
    fn a_route_event_says_what_and_why() {
        let mut record = Record::new(16, 3);
        record.route(Some(name(2)), &down(1));
        let event = &record.since(None, false).events[0];
        assert_eq!(event.kind, "route");
        assert_eq!(event.subject, "n2 10.0.0.1 -> 10.0.0.2");
        assert_eq!((event.old.as_deref(), event.new.as_deref()), (Some("up"), Some("down")));
        assert_eq!(event.reason, "rx-only");
        assert_eq!(event.evidence["evidence_age_us"], 5100.0);
        assert!(!event.evidence.contains_key("silence_us"), "never is no number");
    }

    #[test]
    fn stalls_are_told_once_a_second() {
        let mut record = Record::new(16, 3);
        for at_ns in [1, 2, 3, STALL_TELL_NS + 5] {
            record.stall(at_ns, at_ns * 1000, || Taken { stolen_us: 10_000, waited_us: 7 });
        }
        let events = record.since(None, false).events;
        let stalls: Vec<f64> = events.iter().map(|event| event.evidence["stalls"]).collect();
        assert_eq!(stalls, [1.0, 3.0]);
        assert_eq!((events[0].evidence["stolen_us"], events[0].evidence["waited_us"]), (10_000.0, 7.0));
    }

    #[test]
    fn followers_get_new_events() {
        let mut record = Record::new(16, 3);
        let mut live = record.subscribe();
        record.note(Note::Info, "daemon", "n1", "started");
        let line = live.try_recv().unwrap();
        assert!(line.starts_with("{\"version\":1,\"events\":[{\"sequence\":1,"), "{line}");
    }
}
