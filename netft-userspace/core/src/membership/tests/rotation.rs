//! Another cluster secret, with losses, cuts, crashes and nodes that aren't there.

use super::super::*;
use super::world::*;
use crate::keys::{Keyring, Secret, SecretId};
use crate::types::Nanos;
use netft_common::wire::{HELLO_TAG_LEN, Handshake, Hello, kind};

const RANDOM: [u8; 32] = [0x77; 32];

fn id(secret: &Secret) -> SecretId {
    Keyring::new(secret, 7).id()
}

fn old() -> SecretId {
    id(&Secret::new(SECRET).unwrap())
}

/// What a host accepts once it is started again, whatever happens to it now.
pub(super) fn on_disk(host: &Host) -> Vec<SecretId> {
    let current = host.disk.secret.as_ref().map_or_else(old, id);
    let next = host.disk.next.map(|next| id(&Secret::of_random(&next.offer.secret)));
    std::iter::once(current).chain(next).collect()
}

/// Whatever somebody signs with, everybody else accepts, also after a crash.
fn assert_all_understand_each_other(world: &World) {
    for (from, sender) in world.hosts.iter().enumerate() {
        let signs = sender.membership.secret();
        for (to, receiver) in world.hosts.iter().enumerate() {
            let accepts = receiver.membership.speaker.keyrings.of(signs).is_some();
            assert!(accepts || !receiver.on, "{}: host {to} refuses what host {from} signs", world.now);
            assert!(on_disk(receiver).contains(&signs), "{}: host {to} would refuse {from}", world.now);
        }
        assert!(!world.kinds(from).contains(&"wrong-secret"), "{}: {from}", world.now);
    }
}

pub(super) fn run(world: &mut World, span: Nanos) {
    let step = 3 * MS;
    for _ in 0..span.div_ceil(step) {
        world.run(step.min(span));
        assert_all_understand_each_other(world);
    }
}

pub(super) fn started(nodes: u16, seed: u64) -> World {
    let mut world = World::new(nodes, 2, seed);
    world.start_all();
    world.run(2 * SECOND);
    world.all_up();
    world.run(SECOND);
    world
}

pub(super) fn rotate(world: &mut World, host: usize) -> Result<SecretId, RotationRefused> {
    let random = [world.draw(256).to_le_bytes()[0]; 32];
    let started = world.hosts[host].membership.rotate_secret(random);
    world.drain(host);
    started
}

fn abort(world: &mut World, host: usize) -> Result<(), RotationRefused> {
    let aborted = world.hosts[host].membership.abort_rotation();
    world.drain(host);
    aborted
}

/// Whether everybody has this secret alone.
pub(super) fn all_have(world: &World, secret: SecretId) -> bool {
    world.hosts.iter().filter(|host| host.on).all(|host| {
        let rings = &host.membership.speaker.keyrings;
        rings.primary.id() == secret
            && rings.other.is_none()
            && host.membership.rotation().is_none()
            && on_disk(host) == [secret]
    })
}

pub(super) fn waits_for(world: &World, host: usize) -> Vec<String> {
    let rotation = world.hosts[host].membership.rotation();
    rotation.unwrap_or_else(|| panic!("none is under way: {:?}", world.kinds(host))).waits_for
}

pub(super) fn back(world: &mut World, host: usize) {
    world.hosts[host].on = true;
    world.restart(host);
    world.set_routes(host, crate::types::RouteState::Up);
}

fn remove(world: &mut World, from: usize, peer: &str) {
    let mut config = world.hosts[from].membership.config().clone();
    config.peers.remove(peer);
    let now = world.now;
    world.hosts[from].membership.reconfigure(now, config).unwrap();
    world.drain(from);
}

#[test]
fn one_command_replaces_the_secret_everywhere_and_the_old_one_is_refused_at_the_end() {
    for seed in 0..12 {
        let mut world = started(3, seed);
        world.delay_ns = 10_000..5 * MS;
        (world.loss_percent, world.duplicate_percent) = (seed % 3 * 20, seed % 2 * 20);
        let epochs = |world: &World| {
            let peers = world.hosts.iter().flat_map(|host| host.membership.peers());
            peers.map(|peer| peer.keys.unwrap().epoch).collect::<Vec<_>>()
        };
        let before = epochs(&world);
        let host = usize::try_from(seed % 3).unwrap();
        let secret = rotate(&mut world, host).unwrap();
        assert_ne!(secret, old());
        run(&mut world, 20 * SECOND);
        assert!(all_have(&world, secret), "seed {seed}");
        world.loss_percent = 0;
        run(&mut world, 5 * SECOND);
        for (one, other) in [(0, 1), (0, 2), (1, 2)] {
            assert_eq!(world.agreed(one, other), Ok(2), "seed {seed}");
        }
        assert!(epochs(&world).iter().all(|epoch| !before.contains(epoch)), "keys from the new secret");
        for host in 0..3 {
            let told = ["secret-offered", "secret-switched", "secret-replaced"];
            let kinds = world.kinds(host);
            let kinds: Vec<_> = kinds.into_iter().filter(|kind| kind.starts_with("secret-")).collect();
            assert_eq!(kinds, told, "seed {seed}");
        }
        // Who has the old secret only is a stranger.
        let refused = world.counter(0, "hello_reject_tag");
        world.hosts[2].disk = Disk::default();
        world.reboot(2, 99);
        world.run(SECOND);
        assert!(world.counter(0, "hello_reject_tag") > refused);
        assert!(world.kinds(0).contains(&"wrong-secret"));
    }
}

#[test]
fn what_travels_is_not_the_secret_and_means_nothing_a_second_time() {
    let mut world = started(2, 1);
    world.seen.clear();
    let secret = world.hosts[0].membership.rotate_secret(RANDOM).unwrap();
    world.drain(0);
    run(&mut world, 10 * SECOND);
    assert!(all_have(&world, secret));
    let offers: Vec<Datagram> = world
        .seen
        .iter()
        .filter(|datagram| {
            datagram.bytes[5] == kind::HANDSHAKE
                && bytemuck::pod_read_unaligned::<Handshake>(&datagram.bytes[..size_of::<Handshake>()]).step
                    == 3
        })
        .cloned()
        .collect();
    assert!(!offers.is_empty());
    let shows = |datagram: &Datagram| datagram.bytes.windows(32).any(|bytes| bytes == RANDOM);
    assert!(!world.seen.iter().any(shows));
    let steps = world.counter(1, "hello_reject_tag");
    for offer in &offers {
        world.send(offer.clone());
    }
    world.run(100 * MS);
    // Signed with a secret that is good no longer.
    assert_eq!(world.counter(1, "hello_reject_tag"), steps + offers.len() as u64);
}

#[test]
fn offers_that_were_recorded_bring_nothing_back_after_an_abort() {
    let mut world = started(3, 1);
    world.hosts[2].on = false;
    world.seen.clear();
    rotate(&mut world, 0).unwrap();
    run(&mut world, 2 * SECOND);
    assert_eq!(waits_for(&world, 0), ["n3"]);
    let recorded = world.seen.clone();
    abort(&mut world, 0).unwrap();
    run(&mut world, 3 * SECOND);
    assert_eq!(world.hosts[1].membership.rotation(), None, "the others give it up as well");
    for datagram in recorded {
        world.send(datagram);
    }
    run(&mut world, SECOND);
    assert_eq!(world.hosts[1].membership.rotation(), None);
    assert!(all_have(&world, old()));
}

#[test]
fn a_node_that_is_down_is_waited_for_and_named() {
    for first_down in [true, false] {
        let mut world = started(3, 1);
        if first_down {
            world.hosts[2].on = false;
        }
        let secret = rotate(&mut world, 0).unwrap();
        if !first_down {
            // It has the new secret, and goes before it signs with it.
            while world.hosts[2].disk.next.is_none() {
                world.run(MS / 100);
            }
            world.hosts[2].on = false;
        }
        run(&mut world, 30 * SECOND);
        assert_eq!(waits_for(&world, 0), ["n3"]);
        assert_ne!(world.hosts[0].disk.next, None, "both secrets are good");
        let again = world.hosts[1].membership.rotate_secret(RANDOM).unwrap_err();
        assert!(again.to_string().contains("started on n1"), "{again}");
        back(&mut world, 2);
        run(&mut world, 15 * SECOND);
        assert!(all_have(&world, secret));
        assert_eq!(world.agreed(0, 2), Ok(2));
    }
}

#[test]
fn who_is_removed_from_the_configuration_is_not_waited_for() {
    for gone in [2, 0] {
        let mut world = started(3, 1);
        let secret = rotate(&mut world, 0).unwrap();
        // Everybody has it, and the one that goes, goes before anybody can have switched.
        while world.hosts.iter().any(|host| host.disk.next.is_none()) {
            world.run(MS / 100);
        }
        world.hosts[gone].on = false;
        run(&mut world, 10 * SECOND);
        let name = format!("n{}", gone + 1);
        for host in (0..3).filter(|host| *host != gone) {
            assert_eq!(waits_for(&world, host), std::slice::from_ref(&name), "{gone}");
        }
        for host in (0..3).filter(|host| *host != gone) {
            remove(&mut world, host, &name);
        }
        world.run(15 * SECOND);
        assert!(all_have(&world, secret), "{gone}");
    }
}

#[test]
fn only_where_it_was_started_a_rotation_is_aborted_and_only_before_anybody_switched() {
    let mut world = started(3, 1);
    assert_eq!(abort(&mut world, 0), Err(RotationRefused::None));
    world.hosts[2].on = false;
    rotate(&mut world, 0).unwrap();
    run(&mut world, 3 * SECOND);
    let elsewhere = abort(&mut world, 1).unwrap_err();
    assert_eq!(elsewhere, RotationRefused::Elsewhere { started_by: "n1".to_owned() });
    abort(&mut world, 0).unwrap();
    run(&mut world, 3 * SECOND);
    assert!(all_have(&world, old()));
    assert!(world.kinds(1).contains(&"rotation-aborted"));
    // Another one, from elsewhere; the node that was down never knew of the first.
    back(&mut world, 2);
    let secret = rotate(&mut world, 1).unwrap();
    while world.hosts[1].membership.secret() != secret {
        world.run(MS / 100);
    }
    assert_eq!(abort(&mut world, 1), Err(RotationRefused::Switched));
    run(&mut world, 15 * SECOND);
    assert!(all_have(&world, secret));
}

#[test]
fn two_rotations_at_once_are_told_of_and_one_is_aborted() {
    let mut world = started(3, 1);
    let one = rotate(&mut world, 0).unwrap();
    rotate(&mut world, 1).unwrap();
    run(&mut world, 5 * SECOND);
    assert!(world.kinds(0).contains(&"rotation-contested") && world.kinds(1).contains(&"rotation-contested"));
    assert!((0..3).all(|host| world.hosts[host].membership.secret() == old()));
    abort(&mut world, 1).unwrap();
    run(&mut world, 15 * SECOND);
    assert!(all_have(&world, one));
}

#[test]
fn a_full_disk_holds_a_rotation_up_and_breaks_nothing() {
    let mut world = started(3, 1);
    world.hosts[2].disk.full = true;
    rotate(&mut world, 2).unwrap();
    assert_eq!(world.hosts[2].membership.rotation(), None, "nothing was started");
    let secret = rotate(&mut world, 0).unwrap();
    run(&mut world, 5 * SECOND);
    assert_eq!(waits_for(&world, 0), ["n3"]);
    world.hosts[2].disk.full = false;
    while world.hosts[2].membership.secret() != secret {
        run(&mut world, MS);
    }
    // And at the end.
    world.hosts[2].disk.full = true;
    run(&mut world, 10 * SECOND);
    assert!(world.hosts[2].membership.rotation().is_some());
    world.hosts[2].disk.full = false;
    run(&mut world, 10 * SECOND);
    assert!(all_have(&world, secret));
}

#[test]
fn crashes_cuts_and_restarts_at_any_time_leave_a_cluster_that_finishes() {
    let (mut finished, mut aborted, mut crashes) = (0, 0, 0);
    for seed in 0..24 {
        let mut world = started(3, seed);
        world.delay_ns = 10_000..3 * MS;
        world.loss_percent = seed % 3 * 15;
        world.disk_ns = seed % 2 * 300 * MS;
        let mut last = None;
        for _ in 0..14 {
            let (pause, host) = (world.draw(900), usize::try_from(world.draw(3)).unwrap());
            match world.draw(8) {
                0 | 1 => last = rotate(&mut world, host).ok().or(last),
                2 => aborted += u32::from(abort(&mut world, host).is_ok()),
                3 => {
                    let when = if world.draw(2) == 0 { Crash::BeforeWriting } else { Crash::AfterWriting };
                    world.hosts[host].disk.crash = Some(when);
                }
                4 if world.hosts[host].on => {
                    world.restart(host);
                    world.set_routes(host, crate::types::RouteState::Up);
                }
                5 => world.cut = [1, 2].into(),
                6 => world.cut.clear(),
                _ => world.hosts[host].on = false,
            }
            run(&mut world, pause * MS);
            for host in 0..3 {
                if !world.hosts[host].on && world.draw(2) == 0 {
                    crashes += 1;
                    back(&mut world, host);
                }
            }
        }
        world.cut.clear();
        world.loss_percent = 0;
        for host in 0..3 {
            world.hosts[host].disk.crash = None;
            if !world.hosts[host].on {
                back(&mut world, host);
            }
        }
        run(&mut world, 10 * SECOND);
        // If two were started at once, one must be given up; whoever may.
        for host in 0..3 {
            let contested = world.hosts[host].membership.rotation().is_some();
            if contested && abort(&mut world, host).is_ok() {
                run(&mut world, 20 * SECOND);
            }
        }
        run(&mut world, 10 * SECOND);
        let secret = world.hosts[0].membership.secret();
        assert!(all_have(&world, secret), "seed {seed}");
        for (one, other) in [(0, 1), (0, 2), (1, 2)] {
            assert_eq!(world.agreed(one, other), Ok(2), "seed {seed}");
        }
        finished += u32::from(secret != old());
    }
    println!("{finished} finished, {aborted} aborted, {crashes} restarts");
    assert!(finished > 10 && aborted > 1 && crashes > 30, "{finished} {aborted} {crashes}");
}

/// Rotated at n1: n1 and n2 sign with the new secret, and n3 goes down before it does.
fn switched_without_the_third() -> (World, SecretId) {
    let mut world = started(3, 1);
    let secret = rotate(&mut world, 0).unwrap();
    while world.hosts[0].membership.secret() != secret {
        world.run(MS / 100);
    }
    world.hosts[2].on = false;
    assert_eq!(world.hosts[2].disk.next.unwrap().phase, Phase::Offered);
    run(&mut world, 5 * SECOND);
    assert_eq!(world.hosts[1].membership.secret(), secret);
    (world, secret)
}

/// Its disk has the secret of the beginning, as an installation copied it.
fn reinstall(world: &mut World, host: usize, nonce: u8) {
    world.hosts[host].disk = Disk::default();
    world.hosts[host].on = true;
    world.reboot(host, nonce);
    for other in (0..3).filter(|other| *other != host) {
        world.set_routes(other, crate::types::RouteState::Down);
    }
    world.run(SECOND);
    world.all_up();
}

#[test]
fn a_secret_that_others_sign_with_is_never_lost_with_a_disk() {
    let (mut world, secret) = switched_without_the_third();
    reinstall(&mut world, 0, 99);
    world.run(5 * SECOND);
    // Who signs with it already has offered it, so there is no way back.
    assert_eq!(waits_for(&world, 0), ["n3"]);
    assert_eq!(abort(&mut world, 0), Err(RotationRefused::Switched));
    back(&mut world, 2);
    world.run(20 * SECOND);
    assert!(all_have(&world, secret));
    assert!(!world.kinds(2).contains(&"rotation-aborted"));

    // The two that would give it up meet without the one that signs with it.
    let (mut world, secret) = switched_without_the_third();
    world.hosts[1].on = false;
    back(&mut world, 2);
    reinstall(&mut world, 0, 99);
    world.run(5 * SECOND);
    assert_eq!(world.hosts[2].membership.rotation(), None, "it can't know better");
    back(&mut world, 1);
    world.run(20 * SECOND);
    assert!(all_have(&world, secret));

    // And the one that lost it is another one.
    let (mut world, secret) = switched_without_the_third();
    reinstall(&mut world, 2, 98);
    world.run(20 * SECOND);
    assert!(all_have(&world, secret));
    for (one, other) in [(0, 1), (0, 2), (1, 2)] {
        assert_eq!(world.agreed(one, other), Ok(2));
    }
}

/// The newest hello from n3 to n1, changed and signed with the old secret.
fn forged(world: &World, change: impl Fn(&mut Hello)) -> Datagram {
    let between = |datagram: &&Datagram| {
        (datagram.from, datagram.to, datagram.bytes[5]) == (v4(3, 1), v4(1, 1), kind::HELLO)
    };
    let mut datagram = world.seen.iter().rev().find(between).unwrap().clone();
    let (message, _) = datagram.bytes.split_at_mut(size_of::<Hello>());
    let mut hello: Hello = bytemuck::pod_read_unaligned(message);
    change(&mut hello);
    message.copy_from_slice(bytemuck::bytes_of(&hello));
    let end = datagram.bytes.len() - HELLO_TAG_LEN;
    let ring = Keyring::new(&Secret::new(SECRET).unwrap(), 7);
    let tag = ring.hello_tag(datagram.from, datagram.to, &datagram.bytes[..end]);
    datagram.bytes[end..].copy_from_slice(&tag);
    datagram
}

#[test]
fn the_old_secret_is_not_enough_to_say_that_a_node_has_the_new_one() {
    let mut world = started(3, 1);
    world.hosts[2].on = false;
    let secret = rotate(&mut world, 0).unwrap();
    run(&mut world, 2 * SECOND);
    let told = |datagram: &Datagram| -> Hello {
        bytemuck::pod_read_unaligned(&datagram.bytes[..size_of::<Hello>()])
    };
    let mut seen = world.seen.iter().filter(|datagram| datagram.bytes[5] == kind::HELLO).map(told);
    let genuine = seen.rfind(|hello| hello.header.source == 1 && hello.other_secret != 0).unwrap();
    for (made, other) in (1..).zip([secret.0, old().0, genuine.other_secret, 1, u64::MAX]) {
        let hello = forged(&world, |hello| {
            hello.header.sequence = world.now - SECOND + made;
            hello.other_secret = other;
        });
        let now = world.now;
        let taken = world.hosts[0].membership.handle_frame(now, hello.to, hello.from, &hello.bytes);
        assert_eq!(taken, Ok(()), "else this test shows nothing");
        world.drain(0);
        assert_eq!(
            (waits_for(&world, 0), world.hosts[0].membership.secret()),
            (vec!["n3".to_owned()], old())
        );
    }
    // Nor to make others deaf to the real one.
    for sequence in [u64::MAX, world.now + 5 * SECOND] {
        let hello = forged(&world, |hello| hello.header.sequence = sequence);
        let now = world.now;
        let taken = world.hosts[0].membership.handle_frame(now, hello.to, hello.from, &hello.bytes);
        assert_eq!(taken, Err(HelloReject::Unfresh));
    }
    back(&mut world, 2);
    run(&mut world, 15 * SECOND);
    assert!(all_have(&world, secret));
}

#[test]
fn where_it_was_started_it_ends_last() {
    for seed in 0..6 {
        let mut world = started(3, seed);
        world.loss_percent = seed % 3 * 20;
        world.disk_ns = seed % 2 * 100 * MS;
        let secret = rotate(&mut world, 0).unwrap();
        while world.hosts[2].membership.secret() != secret {
            run(&mut world, MS);
        }
        world.hosts[2].disk.full = true;
        run(&mut world, 10 * SECOND);
        assert_eq!(waits_for(&world, 0), ["n3"], "it accepts the old one still");
        world.hosts[2].disk.full = false;
        while world.hosts[0].membership.rotation().is_some() {
            run(&mut world, MS);
        }
        assert!(all_have(&world, secret), "seed {seed}");
    }
}

#[test]
fn nothing_is_started_while_a_node_could_not_write() {
    let mut world = started(3, 1);
    let set = |world: &mut World, key_file| {
        let now = world.now;
        world.hosts[2].membership.set_key_file(now, key_file);
        world.drain(2);
        world.run(SECOND);
    };
    set(&mut world, KeyFile::Fixed);
    let refused = rotate(&mut world, 0).unwrap_err();
    assert_eq!(refused, RotationRefused::Fixed { nodes: "n3".to_owned() });
    world.run(5 * SECOND);
    assert!(all_have(&world, old()));
    set(&mut world, KeyFile::Writable);
    let secret = rotate(&mut world, 0).unwrap();
    run(&mut world, 15 * SECOND);
    assert!(all_have(&world, secret));
}
