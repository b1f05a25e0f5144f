use crate::children::Process;
use crate::rig::Folder;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// Of each node: it uses numbers of its own.
const VIPS: u16 = 340;

fn ports(count: usize) -> Vec<u16> {
    // Held at the same time, so that they differ.
    let listeners: Vec<_> = (0..count).map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    listeners.iter().map(|listener| listener.local_addr().unwrap().port()).collect()
}

#[derive(Default)]
struct Told {
    /// The next number of each node's that wasn't tried.
    next: [u16; 4],
    done: BTreeSet<u16>,
    highest: u64,
}

impl Told {
    fn hear(&mut self, id: u16, line: &str) {
        let words: Vec<_> = line.split(' ').collect();
        match words[..] {
            ["try", vip] => self.next[usize::from(id)] = vip.parse::<u16>().unwrap() + 1,
            ["done", vip, index] => {
                self.done.insert(vip.parse().unwrap());
                self.highest = self.highest.max(index.parse().unwrap());
            }
            _ => {}
        }
    }
}

#[test]
fn nothing_that_was_acknowledged_is_lost_by_kill_9() {
    let folder = Folder::new("kill");
    let ports = ports(3);
    let mut told = Told { next: [0, 1, VIPS, 2 * VIPS], ..Told::default() };
    let start = |id: u16, told: &Told| Process::start(&folder, id, &ports, told.next[usize::from(id)], 0);
    let mut nodes: Vec<Option<Process>> = (1..=3).map(|id| Some(start(id, &told))).collect();
    nodes.iter_mut().flatten().for_each(|node| node.order("write"));
    let end = Instant::now() + Duration::from_secs(9);
    let (mut kills, mut random) = (0, 0x2545_f491_4f6c_dd1d_u64);
    while Instant::now() < end {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        std::thread::sleep(Duration::from_millis(150 + random % 400));
        for (node, id) in nodes.iter().flatten().zip(1..) {
            node.lines.try_iter().for_each(|line| told.hear(id, &line));
        }
        let victim = usize::try_from(random >> 32).unwrap() % 3;
        let id = u16::try_from(victim).unwrap() + 1;
        let rest = nodes[victim].take().unwrap().kill();
        rest.iter().for_each(|line| told.hear(id, line));
        kills += 1;
        nodes.iter_mut().flatten().for_each(|node| node.order(&format!("down {id}")));
        std::thread::sleep(Duration::from_millis(random % 100));
        nodes[victim] = Some(start(id, &told));
        for node in nodes.iter_mut().flatten() {
            node.order(&format!("up {id}"));
            node.order("write");
        }
    }
    let at_kill = told.done.len();
    // All at once, as by a power failure of the rack; then they come back.
    for (node, id) in nodes.iter_mut().zip(1..) {
        let rest = node.take().unwrap().kill();
        rest.iter().for_each(|line| told.hear(id, line));
    }
    let mut nodes: Vec<_> = (1..=3).map(|id| start(id, &told)).collect();
    for (node, id) in nodes.iter_mut().zip(1_u16..) {
        let end = Instant::now() + crate::rig::SOON;
        loop {
            node.order("dump");
            let line = node.wait_for("state ");
            let words: Vec<_> = line.split(' ').collect();
            let index: u64 = words[1].parse().unwrap();
            if index < told.highest {
                assert!(Instant::now() < end, "node {id} is at {index}, {} was acknowledged", told.highest);
                std::thread::sleep(Duration::from_millis(20));
                continue;
            }
            let has: BTreeSet<u16> = words[2].split(',').filter_map(|vip| vip.parse().ok()).collect();
            let missing: Vec<_> = told.done.difference(&has).collect();
            assert!(missing.is_empty(), "node {id} lost {missing:?}");
            break;
        }
    }
    println!("{kills} kills, {} acknowledged entries, all there on every node", told.done.len());
    assert!(kills >= 5 && at_kill > 0 && told.done.len() >= 10, "{kills} kills, {} entries", told.done.len());
}

#[test]
fn a_full_disk_stops_its_node_with_a_clear_message_and_no_other() {
    let folder = Folder::new("full");
    let ports = ports(3);
    let limit = 400 << 10;
    let mut nodes: Vec<_> = [(1, 1, 0), (2, VIPS, 0), (3, 2 * VIPS, limit)]
        .map(|(id, first, limit)| Process::start(&folder, id, &ports, first, limit))
        .into();
    nodes.iter_mut().for_each(|node| node.order("write"));
    let trouble = nodes[2].wait_for("trouble ");
    println!("{trouble}");
    assert!(
        trouble.contains("the disk is full: this node stays out; make room, then restart netftd"),
        "{trouble}"
    );
    nodes.iter_mut().take(2).for_each(|node| node.order("down 3"));
    // The others go on: one of them leads, and more is done.
    for node in &nodes[..2] {
        node.lines.try_iter().for_each(drop);
    }
    let end = Instant::now() + crate::rig::SOON;
    let mut done = 0;
    while done < 5 {
        done += nodes[..2]
            .iter()
            .flat_map(|node| node.lines.try_iter())
            .filter(|line| line.starts_with("done"))
            .count();
        assert!(Instant::now() < end, "the others stopped as well");
        std::thread::sleep(Duration::from_millis(5));
    }
    // With room again it comes back with what it had.
    let third = nodes.pop().unwrap();
    third.kill();
    let mut third = Process::start(&folder, 3, &ports, 2 * VIPS + 100, 0);
    third.wait_for("started");
    nodes.iter_mut().for_each(|node| node.order("up 3"));
    nodes.iter_mut().for_each(|node| node.order("rest"));
    third.order("dump");
    let state = third.wait_for("state ");
    assert!(!state.is_empty());
}
