//! Follows the events of one node's daemon, also across its restarts.

use crate::lab::Lab;
use anyhow::Result;
use netft_userspace::control::{Client, ClientError, Request};
use netft_userspace::listing::{Event, Events};
use std::net::IpAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A running watch. Its thread ends with the daemon, once this is dropped.
pub struct Watch {
    shared: Arc<Shared>,
}

struct Shared {
    events: Mutex<Vec<Event>>,
    news: Condvar,
    stop: AtomicBool,
}

impl Watch {
    /// Starts to follow the events of `node`.
    pub fn start(lab: &Lab, node: &str) -> Result<Self> {
        let socket = lab.folder(node)?.join("control.sock");
        let shared =
            Arc::new(Shared { events: Mutex::default(), news: Condvar::new(), stop: AtomicBool::new(false) });
        let follower = Arc::clone(&shared);
        std::thread::Builder::new()
            .name(format!("watch-{node}"))
            .spawn(move || follow(&socket, &follower))?;
        Ok(Self { shared })
    }

    /// The first event at or after `from_ns` (boottime) that `wanted` accepts; waits for it up to `patience`.
    pub fn wait(&self, from_ns: u64, patience: Duration, wanted: impl Fn(&Event) -> bool) -> Option<Event> {
        let deadline = Instant::now() + patience;
        let mut events = self.shared.events.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(found) = events.iter().find(|event| event.boottime_ns >= from_ns && wanted(event)) {
                return Some(found.clone());
            }
            let left = deadline.checked_duration_since(Instant::now())?;
            events = self.shared.news.wait_timeout(events, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// All events from `from_ns` on (boottime), in order of arrival.
    pub fn since(&self, from_ns: u64) -> Vec<Event> {
        let events = self.shared.events.lock().unwrap_or_else(PoisonError::into_inner);
        events.iter().filter(|event| event.boottime_ns >= from_ns).cloned().collect()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
    }
}

/// Whether `event` says that a route to `remote` became `state` (`up`, `down`, `admin-down`).
pub fn is_route(event: &Event, remote: IpAddr, state: &str) -> bool {
    event.kind == "route" && event.new.as_deref() == Some(state) && far_end(&event.subject) == Some(remote)
}

/// The remote address of a route as events name it: `PEER LOCAL -> REMOTE`.
pub fn far_end(route: &str) -> Option<IpAddr> {
    route.rsplit_once("-> ")?.1.trim().parse().ok()
}

/// Whether `event` says that `node` became `state` (`up`, `engine-stalled`, `leaving`, `down`).
pub fn is_node(event: &Event, node: &str, state: &str) -> bool {
    event.kind == "node" && event.subject == node && event.new.as_deref() == Some(state)
}

fn follow(socket: &Path, shared: &Shared) {
    while !shared.stop.load(Ordering::Acquire) {
        // A daemon that was killed is back in a moment; until then there is nothing to follow.
        let _ = follow_once(socket, shared);
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn follow_once(socket: &Path, shared: &Shared) -> Result<(), ClientError> {
    let mut client = Client::connect(socket)?;
    // From its first event on: what a daemon has to say about its own start is part of the story.
    client.send(Request::Events { since_unix_ns: Some(0), follow: true })?;
    while let Some(line) = client.next_line()? {
        let news = client.read::<Events>(&line)?.events;
        let mut events = shared.events.lock().unwrap_or_else(PoisonError::into_inner);
        for event in news {
            let known =
                |known: &Event| known.sequence == event.sequence && known.boottime_ns == event.boottime_ns;
            if !events.iter().rev().any(known) {
                events.push(event);
            }
        }
        drop(events);
        shared.news.notify_all();
        if shared.stop.load(Ordering::Acquire) {
            break;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(kind: &str, subject: &str, new: &str) -> Event {
        Event {
            sequence: 1,
            time: String::new(),
            boottime_ns: 1,
            kind: kind.into(),
            subject: subject.into(),
            old: None,
            new: Some(new.into()),
            reason: String::new(),
            evidence: Default::default(),
        }
    }

    #[test]
    fn a_route_event_is_told_by_its_whole_address() {
        let down = event("route", "n2 10.77.1.1 -> 10.77.1.2", "down");
        assert!(is_route(&down, "10.77.1.2".parse().unwrap(), "down"));
        assert!(!is_route(&down, "10.77.1.2".parse().unwrap(), "up"));
        assert!(!is_route(&down, "10.77.1.22".parse().unwrap(), "down"));
        let down = event("route", "n2 fd77:1::1 -> fd77:1::2", "down");
        assert!(is_route(&down, "fd77:1::2".parse().unwrap(), "down"));
    }

    #[test]
    fn a_node_event_is_told_by_name() {
        assert!(is_node(&event("node", "n2", "engine-stalled"), "n2", "engine-stalled"));
        assert!(!is_node(&event("node", "n21", "engine-stalled"), "n2", "engine-stalled"));
    }
}
