//! Keeps what strangers can provoke from filling the log: one event per kind and subject and minute.

use crate::types::Nanos;
use std::collections::BTreeMap;

/// One event per this span.
const SPAN_NS: Nanos = 60_000_000_000;
/// Subjects remembered at once; more than these are not told.
const LIMIT: usize = 64;

/// What was told lately.
#[derive(Debug, Default)]
pub struct Notices {
    told: BTreeMap<(&'static str, String), Nanos>,
}

impl Notices {
    /// Whether to tell now; if so, it is remembered.
    pub fn tell(&mut self, now: Nanos, kind: &'static str, subject: String) -> bool {
        self.told.retain(|_, at| now.saturating_sub(*at) < SPAN_NS);
        if self.told.len() >= LIMIT || self.told.contains_key(&(kind, subject.clone())) {
            return false;
        }
        self.told.insert((kind, subject), now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_told_once_a_minute_and_strangers_are_bounded() {
        let mut notices = Notices::default();
        assert!(notices.tell(0, "a", "x".to_owned()));
        assert!(!notices.tell(1, "a", "x".to_owned()));
        assert!(notices.tell(1, "b", "x".to_owned()));
        assert!(notices.tell(SPAN_NS, "a", "x".to_owned()));
        assert_eq!((0..1000).filter(|i| notices.tell(SPAN_NS, "c", i.to_string())).count(), LIMIT - 2);
    }
}
