//! From events and flow logs to a timeline.

use super::stages::{Report, Scene};
use super::terminal::millis;
use super::timeline::{Fault, FlowLane, Lane, Nanos, Shade, Timeline};
use crate::cluster::{far_end, network_of};
use crate::traffic::FlowLog;
use netft_userspace::listing::Event;

/// Shorter stretches without an arrival at 1 kHz are ordinary jitter.
const OUTAGE_NS: Nanos = 4_000_000;

/// The whole story until `ended`.
pub fn timeline(scene: &Scene<'_>, reports: &[Report], ended: Nanos) -> Timeline {
    let [n1, n2] = scene.watches.each_ref().map(|watch| watch.since(0));
    let began = n1.iter().chain(&n2).map(|event| event.boottime_ns).min().unwrap_or(ended);
    let networks = 1..=scene.lab.shape().networks;
    let routes = |events: &[Event], from: &str, to: &str| -> Vec<Lane> {
        networks.clone().map(|network| route_lane(events, from, to, network)).collect()
    };
    let pairs = [routes(&n1, "n1", "n2"), routes(&n1, "n1", "n3"), routes(&n2, "n2", "n3")].concat();
    let engines = vec![node_lane(&n2, "n1"), node_lane(&n1, "n2"), node_lane(&n1, "n3")];
    let flow = |label: &str, log: &FlowLog| FlowLane {
        label: label.to_string(),
        outages: log.outages(OUTAGE_NS),
        arrivals: log.arrivals_ns(),
    };
    Timeline {
        title: "netft: one fault after the other, one connection all along".into(),
        subtitle: "Three nodes, two networks, a heartbeat every 1 ms on every route. In the close-ups every stroke is \
                   one record that arrived."
            .into(),
        began,
        ended,
        groups: vec![("routes".into(), pairs), ("engines, seen by peers".into(), engines)],
        flows: vec![flow("UDP n1 → n2", scene.udp.log()), flow("TCP n1 → n2", scene.tcp.log())],
        faults: (0..reports.len()).filter_map(|index| fault(reports, index)).collect(),
    }
}

fn fault(reports: &[Report], index: usize) -> Option<Fault> {
    let report = reports.get(index)?;
    let played = report.played.as_ref()?;
    let close_up = played.close_up.as_ref()?;
    // What doesn't end by itself is ended by the next stage.
    let next = reports.get(index + 1).and_then(|next| next.played.as_ref()).map(|next| next.at_ns);
    let longest = report.udp.longest_outage_ns.max(report.tcp.longest_outage_ns);
    let seen = played.seen.zip(played.seen_after_ns());
    Some(Fault {
        name: report.name.to_string(),
        what: format!("{}: {}", report.name, played.done),
        began: played.at_ns,
        ended: played.over_ns.or(next).unwrap_or(played.at_ns),
        detected: seen.map(|((at, what), took)| (at, format!("{what} after {}", millis(took)))),
        close_up: close_up.at_least_ns.max(longest * 5 / 4),
        lanes: close_up.lanes.map(str::to_string).to_vec(),
        verdict: format!(
            "longest gap: UDP {}, TCP {} · UDP lost {} of {}",
            millis(report.udp.longest_outage_ns),
            millis(report.tcp.longest_outage_ns),
            report.udp.lost,
            report.udp.sent,
        ),
    })
}

/// States of the route between two nodes over one network, and when it was the one that carried traffic.
fn route_lane(events: &[Event], from: &str, to: &str, network: u32) -> Lane {
    let (mut up, mut active) = (false, false);
    let mut changes = Vec::new();
    for event in events {
        let over = |route: &str| far_end(route).and_then(network_of) == Some(network);
        match event.kind.as_str() {
            "route" if peer_of(&event.subject) == to && over(&event.subject) => {
                up = event.new.as_deref() == Some("up");
            }
            "active-route" if event.subject == to => active = event.new.as_deref().is_some_and(over),
            _ => continue,
        }
        let shade = match (up, active) {
            (true, true) => Shade::Active,
            (true, false) => Shade::Up,
            (false, _) => Shade::Down,
        };
        if changes.last().is_none_or(|(_, last)| *last != shade) {
            changes.push((event.boottime_ns, shade));
        }
    }
    Lane { label: format!("{from} – {to}  net{network}"), changes }
}

fn node_lane(events: &[Event], node: &str) -> Lane {
    let of_node = events.iter().filter(|event| event.kind == "node" && event.subject == node);
    let changes = of_node.map(|event| {
        let shade = match event.new.as_deref() {
            Some("up") => Shade::Up,
            Some("engine-stalled") => Shade::Stalled,
            _ => Shade::Down,
        };
        (event.boottime_ns, shade)
    });
    Lane { label: node.to_string(), changes: changes.collect() }
}

/// The peer of a route as events name it: `PEER LOCAL -> REMOTE`.
fn peer_of(route: &str) -> &str {
    route.split(' ').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(at: Nanos, kind: &str, subject: &str, new: &str) -> Event {
        Event {
            sequence: at,
            time: String::new(),
            boottime_ns: at,
            kind: kind.into(),
            subject: subject.into(),
            old: None,
            new: Some(new.into()),
            reason: String::new(),
            evidence: Default::default(),
        }
    }

    #[test]
    fn a_lane_follows_state_and_traffic() {
        let first = "n2 10.77.1.1 -> 10.77.1.2";
        let second = "n2 10.77.2.1 -> 10.77.2.2";
        let events = [
            event(1, "route", first, "up"),
            event(2, "route", second, "up"),
            event(3, "active-route", "n2", first),
            event(4, "route", first, "down"),
            event(5, "active-route", "n2", second),
        ];
        let changes = |network| route_lane(&events, "n1", "n2", network).changes;
        assert_eq!(changes(1), [(1, Shade::Up), (3, Shade::Active), (4, Shade::Down)]);
        assert_eq!(changes(2), [(2, Shade::Up), (5, Shade::Active)]);
    }
}
