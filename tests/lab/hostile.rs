//! What strangers on the network send to a running daemon: each frame is counted once, under its reason, and that is
//! all that happens.

use crate::support::{PATIENCE, cluster, downs, eventually, options, output_of, whole};
use netft_common::wire::{
    DATA_TAG_LEN, HELLO_TAG_LEN, Handshake, Header, Heartbeat, NOISE_LEN, VERSION, kind,
};
use netft_core::membership::HelloReject;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use xtask::cluster::{nodes, status};
use xtask::hostile::{ATTACKER, Ear, Message, Overheard, Path, Port, flipped, message};
use xtask::lab::{Lab, LabGuard, boottime_ns, build, timing_lock};

/// Frames of each sort: of hellos, all sorts together are fewer than a node takes at once.
const COUNT: u64 = 100;
/// Sent at a time: fewer than may wait for the daemon's threads, so that all are looked at.
const BURST: usize = 50;
const VICTIM: &str = "n1";
const IMPERSONATED: &str = "n2";
const NETWORK: &str = "net1";

#[test]
fn hostile_packets_over_ipv6_are_counted_and_change_nothing() {
    let _alone = timing_lock().unwrap();
    attack(&cluster(&options(3, 2)), "fd77:");
}

#[test]
fn hostile_packets_over_ipv4_are_counted_and_change_nothing() {
    let _alone = timing_lock().unwrap();
    build().unwrap();
    let lab = LabGuard::up(&options(3, 2).daemon_less()).unwrap();
    for node in nodes(&lab) {
        for network in ["net1", "net2"] {
            output_of(&lab, &node, &["ip", "-6", "address", "flush", "dev", network]);
        }
        lab.start(&node).unwrap();
    }
    whole(&lab);
    attack(&lab, "10.77.");
}

#[test]
fn refused_packets_are_logged_if_wanted_few_of_a_flood_and_each_is_told_of() {
    const FLOOD: u64 = 20_000;
    let _alone = timing_lock().unwrap();
    let lab = cluster(&options(2, 1).set("log.packets=true").unwrap());
    let overheard = Overheard::at(&lab, VICTIM, IMPERSONATED, NETWORK).unwrap();
    let port = Port::open(&lab, VICTIM, NETWORK).unwrap();
    let leg = &overheard.legs[0];
    let mut path = leg.spoofed();
    path.source = elsewhere(path.source);
    let frame = path.datagram(&leg.payload);
    let header = leg.header().unwrap();
    let line = format!(
        "XDP refused a frame: reject_source, kind 1 from {} (node {}) for slot {}, by interface ",
        path.source, header.source, header.slot
    );
    let lines = || log_of(&lab).lines().filter(|logged| logged.contains(&line)).count();
    assert!(port.send(&frame).unwrap());
    eventually(&line, PATIENCE, || (lines() == 1).then_some(()));

    let began_ns = boottime_ns();
    for _ in 0..FLOOD {
        while !port.send(&frame).unwrap() {}
    }
    eventually("every refused frame is told of", PATIENCE, || {
        let refused: u64 =
            counters(&lab).iter().filter(|(name, _)| name.starts_with("reject_")).map(|(_, n)| n).sum();
        (refused > FLOOD && told(&log_of(&lab)) == refused).then_some(())
    });
    let seconds = usize::try_from((boottime_ns() - began_ns) / 1_000_000_000).unwrap() + 2;
    assert!((2..=1 + 20 * seconds).contains(&lines()), "{} lines in {seconds} s", lines());
    assert_eq!(downs(&lab, began_ns), Vec::<String>::new());

    // The same program over again without the log, and then with it.
    let lines_before = lines();
    let file = lab.folder(VICTIM).unwrap().join("netft.toml");
    for (value, more) in [("false", 0), ("true", 1)] {
        let text = std::fs::read_to_string(&file).unwrap();
        let text: Vec<_> = text
            .lines()
            .map(|line| match line.split_once("packets = ") {
                Some((before, _)) => format!("{before}packets = {value}\n"),
                None => format!("{line}\n"),
            })
            .collect();
        std::fs::write(&file, text.concat()).unwrap();
        lab.kill(VICTIM).unwrap();
        lab.start(VICTIM).unwrap();
        whole(&lab);
        assert!(status(&lab, VICTIM).unwrap().daemon.adopted_routes > 0);
        let before = counters(&lab)["reject_source"];
        assert!(port.send(&frame).unwrap());
        eventually("it is counted", PATIENCE, || (counters(&lab)["reject_source"] > before).then_some(()));
        eventually(value, PATIENCE, || (lines() == lines_before + more).then_some(()));
    }
    assert_eq!(lines(), lines_before + 1, "one with it, none without");
    assert_eq!(downs(&lab, began_ns), Vec::<String>::new());
}

#[test]
fn frames_that_the_kernel_discards_keep_nobody_from_joining() {
    const FEW: usize = 20;
    let _alone = timing_lock().unwrap();
    let lab = cluster(&options(2, 2));
    let hello = Overheard::at(&lab, VICTIM, IMPERSONATED, NETWORK).unwrap().hello;
    // XDP lets hellos through, as many as there is room for. The kernel drops this one before any socket hears of it: over
    // IPv6, UDP must have a checksum (RFC 8200, section 8.1).
    let mut frame = hello.spoofed().datagram(&hello.payload);
    assert_eq!(frame[12..14], [0x86, 0xdd]);
    frame[14 + 40 + 6..][..2].fill(0);
    let port = Port::open(&lab, VICTIM, NETWORK).unwrap();
    lab.power_off(IMPERSONATED).unwrap();
    let before = counters(&lab);
    let sending = AtomicBool::new(true);
    let deadline = Instant::now() + 2 * PATIENCE;
    std::thread::scope(|scope| {
        let end = EndOnDrop(&sending);
        scope.spawn(|| {
            while sending.load(Ordering::Acquire) && Instant::now() < deadline {
                (0..FEW).for_each(|_| assert!(port.send(&frame).unwrap()));
                std::thread::sleep(Duration::from_millis(2));
            }
        });
        eventually("they use up the room", PATIENCE, || {
            (counters(&lab)["reject_backlog"] > before["reject_backlog"]).then_some(())
        });
        let mut last = (0, Instant::now());
        eventually("nobody is turned away any more", PATIENCE, || {
            let refused = counters(&lab)["reject_backlog"];
            if refused != last.0 {
                last = (refused, Instant::now());
            }
            (last.1.elapsed() > Duration::from_millis(700)).then_some(())
        });
        lab.power_on(IMPERSONATED).unwrap();
        whole(&lab);
        drop(end);
    });
}

fn log_of(lab: &Lab) -> String {
    std::fs::read_to_string(lab.folder(VICTIM).unwrap().join("netftd.log")).unwrap()
}

/// Of how many refused frames a log tells.
fn told(log: &str) -> u64 {
    let of = |line: &str| {
        let (_, rest) = line.split_once("XDP refused ")?;
        let number = rest.split_whitespace().next()?;
        if number == "a" { Some(1) } else { number.parse().ok() }
    };
    log.lines().filter_map(of).sum()
}

/// One sort of hostile frame.
struct Sort {
    what: &'static str,
    /// The counter that each of them adds one to.
    counter: &'static str,
    /// The n-th of them.
    make: Box<dyn Fn(u64) -> Vec<u8>>,
}

fn attack(lab: &Lab, prefix: &str) {
    let overheard = Overheard::at(lab, VICTIM, IMPERSONATED, NETWORK).unwrap();
    assert!(overheard.hello.path.source.to_string().starts_with(prefix), "{:?}", overheard.hello.path);
    let port = Port::open(lab, VICTIM, NETWORK).unwrap();
    let began_ns = boottime_ns();
    let rss_kib = resident_kib(lab);
    let listening = AtomicBool::new(true);
    let (mut sent_bytes, mut kinds) = (0, 0);
    let heard = std::thread::scope(|scope| {
        let listener = scope.spawn(|| listen(lab, &listening));
        // Also when an assertion fails here: the scope waits for its threads.
        let end = EndOnDrop(&listening);
        for sort in sorts(&overheard) {
            let before = counters(lab);
            let frames: Vec<_> = (0..COUNT).map(&sort.make).collect();
            for (number, burst) in (1..).zip(frames.chunks(BURST)) {
                for frame in burst {
                    assert!(port.send(frame).unwrap(), "{}: the wire takes it", sort.what);
                    sent_bytes += frame.len();
                }
                let wanted = before[sort.counter] + number * burst.len() as u64;
                let what = format!("{} {} are counted as {}", wanted, sort.what, sort.counter);
                eventually(&what, PATIENCE, || (counters(lab)[sort.counter] >= wanted).then_some(()));
            }
            let grown = grown(&before, &counters(lab));
            assert_eq!(grown, [(sort.counter.to_owned(), COUNT)], "{}", sort.what);
            kinds += 1;
        }
        drop(end);
        listener.join().unwrap()
    });
    assert!(kinds > 30);
    assert_eq!(heard.to_attacker, 0, "nothing is sent to where hostile frames came from");
    // Beside the hellos that are due anyway, one a second.
    let seconds = (boottime_ns() - began_ns) / 1_000_000_000 + 2;
    let due = usize::try_from(seconds).unwrap() * 1100;
    assert!(heard.answers < sent_bytes + due, "{} bytes answered with {}", sent_bytes, heard.answers);
    assert_eq!(downs(lab, began_ns), Vec::<String>::new());
    let grown_kib = resident_kib(lab).saturating_sub(rss_kib);
    assert!(grown_kib < 2048, "resident memory grew by {grown_kib} KiB");
    whole(lab);
}

struct EndOnDrop<'a>(&'a AtomicBool);

impl Drop for EndOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

/// Bytes that the victim sent meanwhile.
struct Heard {
    to_attacker: usize,
    /// Hellos to the impersonated, and complaints (ICMP) to anybody.
    answers: usize,
}

fn listen(lab: &Lab, listening: &AtomicBool) -> Heard {
    let mut ear = Ear::open(lab, VICTIM, NETWORK).unwrap();
    let mut heard = Heard { to_attacker: 0, answers: 0 };
    while listening.load(Ordering::Acquire) {
        let Some(frame) = ear.hear().unwrap() else { continue };
        if frame[..6] == ATTACKER {
            heard.to_attacker += frame.len();
        }
        let is_hello = message(frame)
            .and_then(|message| message.header())
            .is_some_and(|header| header.kind == kind::HELLO);
        if is_hello || is_complaint(frame) {
            heard.answers += frame.len();
        }
    }
    heard
}

/// Destination unreachable and its like, not neighbour discovery.
fn is_complaint(frame: &[u8]) -> bool {
    match frame[12..14] {
        [8, 0] => frame[23] == 1,
        [0x86, 0xdd] => frame[20] == 58 && frame[54] < 128,
        _ => false,
    }
}

/// Every counter of hostile things, wherever it is listed.
fn counters(lab: &Lab) -> BTreeMap<String, u64> {
    let status = status(lab, VICTIM).unwrap();
    let all = status.counters.into_iter().chain(status.data.drops);
    let ours = ["reject_", "hello_reject_", "handshake_reject_", "data_reject_", "hello_drop_"];
    all.filter(|(name, _)| ours.iter().any(|prefix| name.starts_with(prefix))).collect()
}

fn grown(before: &BTreeMap<String, u64>, after: &BTreeMap<String, u64>) -> Vec<(String, u64)> {
    let differences = after.iter().map(|(name, count)| (name.clone(), count - before[name]));
    differences.filter(|(_, more)| *more > 0).collect()
}

fn resident_kib(lab: &Lab) -> u64 {
    let pid = status(lab, VICTIM).unwrap().daemon.pid;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

/// Adds sorts that all travel as `message` did.
struct Sorts<'a> {
    list: Vec<Sort>,
    message: &'a Message,
    path: Path,
}

impl Sorts<'_> {
    fn add(
        &mut self,
        what: &'static str,
        counter: &'static str,
        make: impl Fn(&Message, u64) -> Vec<u8> + 'static,
    ) {
        let (message, path) = (self.message.clone(), self.path);
        let make = Box::new(move |number| path.datagram(&make(&message, number)));
        self.list.push(Sort { what, counter, make });
    }

    fn header(&mut self, what: &'static str, counter: &'static str, change: fn(&mut Header, u64)) {
        self.add(what, counter, move |message, number| message.with_header(|header| change(header, number)));
    }
}

fn sorts(overheard: &Overheard) -> Vec<Sort> {
    let mut list = Vec::new();
    for leg in &overheard.legs {
        list.extend(of_legs(leg));
    }
    list.extend(of_data(&overheard.data));
    list.extend(of_hellos(&overheard.hello));
    list
}

const HEADER: usize = size_of::<Header>();
const LEG: usize = size_of::<Heartbeat>();

fn of_legs(leg: &Message) -> Vec<Sort> {
    let mut sorts = Sorts { list: Vec::new(), message: leg, path: leg.spoofed() };
    sorts.add("legs replayed", "reject_replay", |leg, _| leg.payload.clone());
    sorts.add("legs cut short", "reject_truncated", |leg, number| {
        leg.payload[..12 + usize::try_from(number).unwrap() % (LEG - 12)].to_vec()
    });
    sorts.add("legs too long", "reject_truncated", |leg, number| {
        [&leg.payload[..], &vec![0x5a; 1 + usize::try_from(number).unwrap() * 6]].concat()
    });
    sorts.add("legs with a flipped bit", "reject_tag", |leg, number| flipped(&leg.payload, HEADER, number));
    sorts.header("legs of the future without the secret", "reject_tag", |header, number| {
        header.sequence += 1_000_000 + number;
    });
    sorts.header("legs of another version", "reject_version", |header, number| {
        header.version = if number % 2 == 0 { 0 } else { VERSION + 1 + (number % 250).to_le_bytes()[0] };
    });
    sorts.header("legs of an unknown kind", "reject_kind", |header, number| {
        header.kind = 64 + (number % 128).to_le_bytes()[0];
    });
    sorts.header("legs for another slot", "reject_slot", |header, number| {
        header.slot = 900 + u32::try_from(number).unwrap() * 1000;
    });
    sorts.header("legs from another node", "reject_source", |header, _| header.source = 3);
    sorts.header("legs for another node", "reject_destination", |header, _| header.destination = 3);
    sorts.header("legs of another session", "reject_epoch", |header, number| {
        header.key_epoch ^= 1 << (number % 32);
    });
    sorts.path.source = elsewhere(leg.path.source);
    sorts.add("legs from another address", "reject_source", |leg, _| leg.payload.clone());
    sorts.path = Path { vlan: Some(5), ..leg.spoofed() };
    sorts.add("tagged legs replayed", "reject_replay", |leg, _| leg.payload.clone());
    sorts.add("tagged legs with a flipped bit", "reject_tag", |leg, n| flipped(&leg.payload, HEADER, n));
    let (path, payload) = (leg.spoofed(), leg.payload.clone());
    let make = Box::new(move |_| path.first_fragment(&payload));
    sorts.list.push(Sort { what: "fragmented legs", counter: "reject_fragment", make });
    sorts.list
}

fn of_data(data: &Message) -> Vec<Sort> {
    const TAGGED: usize = HEADER + DATA_TAG_LEN;
    let mut sorts = Sorts { list: Vec::new(), message: data, path: data.spoofed() };
    sorts.add("data replayed", "data_reject_replay", |data, _| data.payload.clone());
    sorts.add("data cut in the tag", "data_reject_malformed", |data, number| {
        data.payload[..HEADER + usize::try_from(number).unwrap() % DATA_TAG_LEN].to_vec()
    });
    sorts.add("data cut in the header", "reject_truncated", |data, number| {
        data.payload[..12 + usize::try_from(number % 20).unwrap()].to_vec()
    });
    sorts.header("data without the secret", "data_reject_tag", |header, number| {
        header.sequence += 1_000_000_000 + number;
    });
    sorts.add("data with a flipped bit", "data_reject_tag", |data, number| {
        let fresh = data.with_header(|header| header.sequence += 2_000_000_000 + number);
        flipped(&fresh, TAGGED, number)
    });
    sorts.add("data too long", "data_reject_tag", |data, number| {
        let fresh = data.with_header(|header| header.sequence += 3_000_000_000 + number);
        [fresh, vec![0; 1200]].concat()
    });
    sorts.header("data of another version", "reject_version", |header, _| header.version = 9);
    sorts.header("data from another node", "data_reject_source", |header, number| {
        header.source = 9 + u16::try_from(number).unwrap();
    });
    sorts.header("data for another node", "data_reject_destination", |header, _| header.destination = 3);
    sorts.header("data that names another route", "data_reject_route", |header, number| {
        header.slot = 900 + u32::try_from(number).unwrap();
    });
    sorts.header("data of another session", "data_reject_epoch", |header, _| header.key_epoch ^= 1);
    sorts.header("data of another cluster", "data_reject_other_cluster", |header, _| header.cluster_id ^= 1);
    sorts.path.source = elsewhere(data.path.source);
    sorts.header("data from another address", "data_reject_route", |header, number| {
        header.sequence += 4_000_000_000 + number;
    });
    sorts.list
}

fn of_hellos(hello: &Message) -> Vec<Sort> {
    let reason = |reject: HelloReject| HelloReject::NAMES[reject as usize];
    let mut sorts = Sorts { list: Vec::new(), message: hello, path: hello.spoofed() };
    sorts.add("hellos replayed", reason(HelloReject::Old), |hello, _| hello.payload.clone());
    sorts.add("hellos cut short", reason(HelloReject::Malformed), |hello, number| {
        let room = hello.payload.len() - HEADER;
        hello.payload[..HEADER + usize::try_from(number).unwrap() % room].to_vec()
    });
    sorts.add("hellos too long", reason(HelloReject::Malformed), |hello, number| {
        [&hello.payload[..], &vec![0; 1 + usize::try_from(number).unwrap()]].concat()
    });
    sorts.add("hellos longer than any", "hello_drop_too_long", |hello, _| {
        [&hello.payload[..], &[0; 1000]].concat()
    });
    sorts.add("hellos with a flipped bit", reason(HelloReject::Tag), |hello, number| {
        flipped(&hello.payload, hello.payload.len() - HELLO_TAG_LEN, number)
    });
    sorts.header("hellos without the secret", reason(HelloReject::Tag), |header, number| {
        header.sequence += number + 1;
    });
    sorts.add("handshake steps without the secret", reason(HelloReject::Tag), |hello, number| {
        let step = Handshake {
            header: Header { kind: kind::HANDSHAKE, ..hello.header().unwrap() },
            boot_nonce: [7; 16],
            number,
            step: 1,
            reserved: 0,
            noise: [8; NOISE_LEN],
        };
        [bytemuck::bytes_of(&step), &[9; HELLO_TAG_LEN]].concat()
    });
    sorts.header("hellos of another version, without the secret", reason(HelloReject::Tag), |header, _| {
        header.version = 9
    });
    sorts.header("hellos of another cluster", reason(HelloReject::OtherCluster), |header, _| {
        header.cluster_id ^= 1;
    });
    sorts.path.source = elsewhere(hello.path.source);
    sorts.add("hellos from another address", reason(HelloReject::Tag), |hello, _| hello.payload.clone());
    sorts.list
}

/// Another host on the same network.
fn elsewhere(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(address) => {
            let [a, b, c, _] = address.octets();
            [a, b, c, 99].into()
        }
        IpAddr::V6(address) => {
            let mut segments = address.segments();
            segments[7] = 99;
            segments.into()
        }
    }
}
