//! Keys of sessions: agreed on, renewed and lost, on networks that lose, repeat and reorder.

use super::world::*;
use crate::session::LiveKeys;
use crate::types::{Nanos, NodeId, NodeState, RouteState};
use netft_common::wire::{Header, kind};

/// What was sent with, and when.
#[derive(Clone, Copy)]
struct Sent {
    at_ns: Nanos,
    from: usize,
    to: usize,
    epoch: u32,
}

/// Looks at all pairs again and again: what one sends now or has under way, the other accepts.
struct Watch {
    /// How long a datagram is under way at most.
    under_way_ns: Nanos,
    heartbeats: Vec<Sent>,
    data: Vec<Sent>,
    /// What hosts had forgotten when their daemons started, and when that was.
    forgotten: Vec<(usize, u32)>,
    started_ns: Vec<Nanos>,
}

impl Watch {
    fn new(world: &World) -> Self {
        let (heartbeats, data, forgotten) = (Vec::new(), Vec::new(), Vec::new());
        let started_ns = vec![0; world.hosts.len()];
        Self { under_way_ns: world.delay_ns.end, heartbeats, data, forgotten, started_ns }
    }

    fn look(&mut self, world: &World) {
        let now = world.now;
        let id = |host: usize| world.hosts[host].membership.config().id;
        for from in 0..world.hosts.len() {
            for to in (0..world.hosts.len()).filter(|to| *to != from) {
                let routes = world.hosts[from].routes.values().filter(|r| r.config.peer == id(to).get());
                for keys in routes.filter_map(|route| route.config.sending()) {
                    self.heartbeats.push(Sent { at_ns: now, from, to, epoch: keys.epoch });
                }
                let session = world.hosts[from].sessions.get(&id(to));
                if let Some(keys) = session.and_then(|session| session.current) {
                    self.data.push(Sent { at_ns: now, from, to, epoch: keys.epoch });
                }
            }
        }
        for list in [&mut self.heartbeats, &mut self.data] {
            list.retain(|sent| sent.at_ns + self.under_way_ns >= now);
            list.dedup_by_key(|sent| (sent.at_ns, sent.from, sent.to, sent.epoch));
        }
        for sent in &self.heartbeats {
            let mut routes = world.hosts[sent.to].routes.values();
            let good = routes.all(|route| {
                route.config.peer != id(sent.from).get() || route.config.keys_of(sent.epoch).is_some()
            });
            assert!(good, "{now}: heartbeats of {} with {:#x} are lost", id(sent.from), sent.epoch);
        }
        // Who has lost its keys says so, and gets new ones.
        let known = |sent: &&Sent| {
            sent.at_ns > self.started_ns[sent.to] && !self.forgotten.contains(&(sent.to, sent.epoch))
        };
        for sent in self.data.iter().filter(known) {
            let session = world.hosts[sent.to].sessions.get(&id(sent.from));
            let Some(LiveKeys { current: Some(current), other }) = session else { continue };
            let good = current.epoch == sent.epoch || other.is_some_and(|other| other.epoch == sent.epoch);
            assert!(good, "{now}: data of {} with {:#x} is lost", id(sent.from), sent.epoch);
        }
    }

    /// The daemon of a host restarts; its routes stay up.
    fn restart(&mut self, world: &mut World, host: usize) {
        let keys = world.hosts[host].sessions.values().flat_map(|keys| [keys.current, keys.other]);
        self.forgotten.extend(keys.flatten().map(|keys| (host, keys.epoch)));
        world.restart(host);
        self.started_ns[host] = world.now;
        world.set_routes(host, RouteState::Up);
    }

    /// Runs for a while, looking every half millisecond.
    fn run(&mut self, world: &mut World, span: Nanos) {
        for _ in 0..span / (MS / 2) {
            world.run(MS / 2);
            self.look(world);
        }
    }
}

fn renewals(world: &World, host: usize) -> Vec<u64> {
    let peers = world.hosts[host].membership.peers();
    peers.iter().map(|peer| peer.keys.map_or(0, |keys| keys.renewals)).collect()
}

fn with_period(nodes: u16, networks: u8, seed: u64, key_period_ns: Nanos) -> World {
    let mut world = World::new(nodes, networks, seed);
    for host in 0..usize::from(nodes) {
        let mut config = world.hosts[host].membership.config().clone();
        config.key_period_ns = key_period_ns;
        let now = world.now;
        world.hosts[host].membership.reconfigure(now, config).unwrap();
    }
    world
}

#[test]
fn until_there_is_a_session_a_peer_hears_hellos_and_handshakes_alone() {
    let mut world = World::new(2, 2, 1);
    // Nothing but hellos gets through: the handshake never ends.
    world.start_all();
    for _ in 0..200 {
        world.drop_kind(kind::HANDSHAKE);
        world.run(MS / 100);
    }
    for host in &world.hosts {
        assert_eq!(host.routes.len(), 2, "routes are known");
        assert!(host.routes.values().all(|route| route.config.sending().is_none()));
        assert!(host.sessions.values().all(|keys| keys.current.is_none()));
        assert!(host.membership.peers()[0].keys.is_none());
    }
    world.run(200 * MS);
    assert_eq!(world.agreed(0, 1), Ok(2));
    assert!(world.kinds(0).contains(&"session-opened") && world.kinds(1).contains(&"session-opened"));
}

#[test]
fn keys_are_renewed_in_time_and_nothing_that_is_under_way_is_lost() {
    for seed in 0..20 {
        let mut world = with_period(3, 2, seed, 3 * SECOND);
        world.delay_ns = 10_000..20 * MS;
        (world.loss_percent, world.duplicate_percent) = (seed % 4 * 15, seed % 3 * 20);
        world.start_all();
        let mut watch = Watch::new(&world);
        watch.run(&mut world, 2 * SECOND);
        world.all_up();
        watch.run(&mut world, 18 * SECOND);
        for host in 0..3 {
            assert!(renewals(&world, host).iter().all(|count| (2..8).contains(count)), "seed {seed}");
        }
        world.loss_percent = 0;
        watch.run(&mut world, 4 * SECOND);
        for (one, other) in [(0, 1), (0, 2), (1, 2)] {
            assert_eq!(world.agreed(one, other), Ok(2), "seed {seed} {one} {other}");
        }
    }
}

#[test]
fn restarts_at_any_time_lose_no_heartbeat_and_end_in_agreement() {
    for seed in 0..60 {
        let mut world = with_period(2, 2, seed, 2 * SECOND);
        world.delay_ns = 10_000..2 * MS;
        world.loss_percent = seed % 3 * 10;
        world.start_all();
        let mut watch = Watch::new(&world);
        watch.run(&mut world, SECOND);
        world.all_up();
        for _ in 0..6 {
            let (pause, who) = (world.draw(3_000), world.draw(2));
            watch.run(&mut world, pause * MS);
            let host = usize::try_from(who).unwrap();
            watch.restart(&mut world, host);
        }
        world.loss_percent = 0;
        watch.run(&mut world, 5 * SECOND);
        assert_eq!(world.agreed(0, 1), Ok(2), "seed {seed}");
    }
}

#[test]
fn both_may_restart_at_once() {
    for seed in 0..20 {
        let mut world = World::new(2, 2, seed);
        world.delay_ns = 10_000..2 * MS;
        world.start_all();
        world.run(SECOND);
        world.all_up();
        let mut watch = Watch::new(&world);
        watch.look(&world);
        for host in 0..2 {
            watch.restart(&mut world, host);
        }
        watch.run(&mut world, 4 * SECOND);
        assert_eq!(world.agreed(0, 1), Ok(2), "seed {seed}");
    }
}

#[test]
fn keys_of_before_a_restart_open_no_data_after_it() {
    let mut world = World::new(2, 1, 1);
    world.start_all();
    world.run(SECOND);
    world.all_up();
    let peer = NodeId::new(2).unwrap();
    let old = world.hosts[0].sessions[&peer].current.unwrap();
    world.restart(0);
    world.set_routes(0, RouteState::Up);
    for _ in 0..100 {
        let live = world.hosts[0].sessions.get(&peer).cloned().unwrap_or_default();
        assert!([live.current, live.other].into_iter().flatten().all(|keys| keys.epoch != old.epoch));
        world.run(MS);
    }
    assert_eq!(world.agreed(0, 1), Ok(1));
}

#[test]
fn a_peer_that_is_worn_out_gets_new_keys_whoever_starts() {
    for host in 0..2 {
        let mut world = World::new(2, 2, 1);
        world.start_all();
        world.run(2 * SECOND);
        world.all_up();
        let peer = NodeId::new(if host == 0 { 2 } else { 1 }).unwrap();
        let now = world.now;
        world.hosts[host].membership.renew(now, peer);
        world.drain(host);
        let mut watch = Watch::new(&world);
        watch.run(&mut world, 5 * SECOND);
        assert_eq!((renewals(&world, 0), renewals(&world, 1)), (vec![1], vec![1]), "host {host}");
        assert_eq!(world.agreed(0, 1), Ok(2));
    }
}

#[test]
fn a_rebooted_peer_gets_keys_of_its_own() {
    let mut world = World::new(2, 2, 1);
    world.start_all();
    world.run(SECOND);
    world.all_up();
    let old = world.hosts[0].sessions[&NodeId::new(2).unwrap()].current.unwrap();
    world.reboot(1, 99);
    world.set_routes(0, RouteState::Down);
    world.run(100 * MS);
    assert_eq!(world.agreed(0, 1), Ok(2));
    let new = world.hosts[0].sessions[&NodeId::new(2).unwrap()].clone();
    assert_ne!(new.current.unwrap().epoch, old.epoch);
    assert_eq!(new.other, None, "the other life's are good for nothing");
    for route in world.hosts[0].routes.values() {
        assert!(route.config.keys_of(old.epoch).is_none());
    }
}

#[test]
fn replayed_handshakes_change_nothing() {
    let mut world = with_period(2, 2, 1, 5 * SECOND);
    world.start_all();
    world.run(SECOND);
    world.all_up();
    // After the second handshake, and after the first one's keys are forgotten.
    world.run(8 * SECOND);
    let is_step = |datagram: &&Datagram| {
        let header: Header = bytemuck::pod_read_unaligned(&datagram.bytes[..32]);
        header.kind == kind::HANDSHAKE
    };
    let steps: Vec<Datagram> = world.seen.iter().filter(is_step).cloned().collect();
    assert!(steps.len() >= 2 * 2 * 2, "{}", steps.len());
    let keys = |world: &World| {
        let of = |host: &Host| (host.routes.clone(), host.sessions.clone());
        world.hosts.iter().map(of).collect::<Vec<_>>()
    };
    let (before, sent) = (keys(&world), world.seen.len());
    for _ in 0..100 {
        for datagram in &steps {
            world.send(datagram.clone());
        }
    }
    world.run(100 * MS);
    assert_eq!(before, keys(&world));
    let rejects = ["handshake_reject_old", "handshake_reject_unexpected", "handshake_reject_busy"];
    let rejected: u64 = (0..2).flat_map(|host| rejects.map(|name| world.counter(host, name))).sum();
    assert!(rejected > 500, "{rejected}");
    // The last one may be answered again, in case its answer was lost: some tens of times at once.
    assert!(world.seen.len() - sent < 64, "{}", world.seen.len() - sent);
    let mut watch = Watch::new(&world);
    watch.run(&mut world, 5 * SECOND);
    assert_eq!(world.agreed(0, 1), Ok(2));
}

#[test]
fn steps_without_the_secret_or_a_session_cost_nothing_and_are_not_answered() {
    let mut world = World::new(2, 1, 1);
    world.start_all();
    world.run(SECOND);
    let is_step = |datagram: &&Datagram| datagram.bytes.len() == netft_common::handshake::LEN;
    let step = world.seen.iter().find(is_step).unwrap().clone();
    let mut fresh = World::new(2, 1, 1);
    fresh.interfaces(1);
    while fresh.hosts[1].membership.poll_transmit().is_some() {}
    let now = fresh.now;
    for number in 0..10_000_u32 {
        let mut bytes = step.bytes.clone();
        // Authentic, but there is no session yet; then with another number, and so without a good authenticator.
        if number > 0 {
            bytes[48..52].copy_from_slice(&number.to_le_bytes());
        }
        assert!(fresh.hosts[1].membership.handle_frame(now, step.to, step.from, &bytes).is_err());
    }
    assert_eq!(fresh.hosts[1].membership.poll_transmit(), None);
    assert_eq!(fresh.hosts[1].membership.poll_command(), None);
    assert_eq!(fresh.counter(1, "handshake_reject_unexpected"), 1);
    assert_eq!(fresh.counter(1, "hello_reject_tag"), 9_999);
}

#[test]
fn a_peer_whose_daemon_is_away_keeps_its_routes_for_as_long_as_configured_and_no_longer() {
    let mut world = World::new(2, 2, 1);
    for host in 0..2 {
        let mut config = world.hosts[host].membership.config().clone();
        config.absence_ns = 30 * SECOND;
        world.hosts[host].membership.reconfigure(world.now, config).unwrap();
    }
    world.start_all();
    world.run(SECOND);
    world.all_up();
    world.run(SECOND);
    let away = |world: &mut World, state| {
        let now = world.now;
        world.hosts[0].membership.handle_peer(now, NodeId::new(2).unwrap(), state);
    };
    world.hosts[1].on = false;
    // Away, back in time, and away again: only the last time counts.
    away(&mut world, NodeState::EngineStalled);
    world.run(29 * SECOND);
    away(&mut world, NodeState::Up);
    world.run(SECOND);
    away(&mut world, NodeState::EngineStalled);
    world.run(29 * SECOND);
    assert_eq!(world.hosts[0].routes.len(), 2);
    assert!(!world.kinds(0).contains(&"peer-absent"));
    world.run(2 * SECOND);
    assert!(world.hosts[0].routes.is_empty() && world.hosts[0].sessions.is_empty());
    assert_eq!(world.kinds(0).iter().filter(|kind| **kind == "peer-absent").count(), 1);
    // The next daemon over the same maps.
    world.hosts[1].on = true;
    world.restart(1);
    world.run(3 * SECOND);
    assert_eq!(world.agreed(0, 1), Ok(2));
}
