//! The fence at work: what a node says for a VIP reaches a client only while its engine ticks and a majority vouches. Nobody
//! closes it: no daemon knows of VIPs yet, so the test does once what consensus will do, and never again.

use crate::support::{PATIENCE, cluster, eventually, options, output_of, whole};
use anyhow::Result;
use netft_common::fence::{VipEntry, Voter, quorum, vip_flags};
use netft_core::ownership::VipId;
use netft_core::types::{Nanos, NodeId};
use netft_userspace::engine::fence::{Fence, FenceWords, FencedInterface};
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;
use xtask::cluster::{nodes, status};
use xtask::lab::{Direction, Lab, boottime_ns, timing_lock};

const MS: Nanos = 1_000_000;
const LEASE_NS: Nanos = 400 * MS;
/// The daemon's default.
const ENGINE_TIMEOUT_NS: Nanos = 250 * MS;

/// Speaks from an address every 0.5 ms, each time saying when, while a client listens.
struct Speech {
    over: Arc<AtomicBool>,
    /// When what the client heard last was said, and the newest of all.
    heard_ns: Arc<AtomicU64>,
    said: Arc<Mutex<Vec<Nanos>>>,
    threads: Vec<JoinHandle<()>>,
}

impl Speech {
    fn start(lab: &Lab, node: &str, vip: IpAddr, client: IpAddr) -> Self {
        let bind =
            |host: &str, address| lab.enter(host, || Ok(UdpSocket::bind(SocketAddr::new(address, 0))?));
        let listener = bind("client", client).unwrap();
        listener.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let target = listener.local_addr().unwrap();
        let speaker = bind(node, vip).unwrap();
        let over = Arc::new(AtomicBool::new(false));
        let heard_ns = Arc::new(AtomicU64::new(0));
        let said = Arc::new(Mutex::new(Vec::new()));
        let speaking = {
            let over = Arc::clone(&over);
            std::thread::spawn(move || {
                while !over.load(Relaxed) {
                    // The stamp is older than the look of the fence, never newer. A closed fence may be an error.
                    let _ = speaker.send_to(&boottime_ns().to_ne_bytes(), target);
                    std::thread::sleep(Duration::from_micros(500));
                }
            })
        };
        let listening = {
            let (over, heard_ns, said) = (Arc::clone(&over), Arc::clone(&heard_ns), Arc::clone(&said));
            std::thread::spawn(move || {
                let mut stamp = [0; 8];
                while !over.load(Relaxed) {
                    if listener.recv(&mut stamp).is_ok_and(|length| length == 8) {
                        let stamp_ns = u64::from_ne_bytes(stamp);
                        heard_ns.fetch_max(stamp_ns, Relaxed);
                        said.lock().unwrap().push(stamp_ns);
                    }
                }
            })
        };
        Self { over, heard_ns, said, threads: vec![speaking, listening] }
    }

    /// Waits until something is heard that was said after this moment.
    fn is_heard_after(&self, at_ns: Nanos) {
        eventually("the VIP is heard", PATIENCE, || (self.heard_ns.load(Relaxed) > at_ns).then_some(()));
    }

    /// Nothing has been heard yet, and nothing is for a while.
    fn is_silent_still(&self) {
        let until_ns = boottime_ns() + 200 * MS;
        eventually("a while has passed", PATIENCE, || (boottime_ns() > until_ns).then_some(()));
        assert_eq!(self.heard_ns.load(Relaxed), 0);
    }

    /// Nothing that was said at `silent_ns` or later is heard, for a while, and something was before that.
    fn is_silent_from(&self, silent_ns: Nanos) {
        eventually("half a second of silence", PATIENCE, || {
            (boottime_ns() > silent_ns + 500 * MS).then_some(())
        });
        let heard_ns = self.heard_ns.load(Relaxed);
        let late = heard_ns.saturating_sub(silent_ns);
        assert!(heard_ns < silent_ns, "heard {late} ns after it should have been silent");
        println!("silent {} µs before it had to be", (silent_ns - heard_ns) / 1_000);
    }

    fn stop(self) -> Vec<Nanos> {
        self.over.store(true, Relaxed);
        self.threads.into_iter().for_each(|thread| thread.join().unwrap());
        std::mem::take(&mut self.said.lock().unwrap())
    }
}

fn interface(lab: &Lab, node: &str, name: &str) -> FencedInterface {
    let shown = output_of(lab, node, &["ip", "-oneline", "link", "show", "dev", name]);
    let ifindex = shown.split(':').next().and_then(|index| index.parse().ok()).unwrap();
    FencedInterface { ifindex, name: name.to_owned() }
}

fn words(lab: &Lab, node: &str) -> FenceWords {
    FenceWords::open(&lab.pins(node).unwrap()).unwrap()
}

/// Fences interfaces of a node, as its engine will.
fn fence(lab: &Lab, node: &str, names: &[&str], adopt: impl FnOnce(Fence) -> Fence + Send) -> Fence {
    let interfaces: Vec<_> = names.iter().map(|name| interface(lab, node, name)).collect();
    let pins = lab.pins(node).unwrap();
    let set = || -> Result<Fence> {
        let (fence, notes) = Fence::adopt(&pins)?;
        assert_eq!(notes, Vec::<String>::new());
        let mut fence = adopt(fence);
        let without_xdp: BTreeSet<u32> = interfaces
            .iter()
            .filter(|interface| interface.name == "lo")
            .map(|interface| interface.ifindex)
            .collect();
        for report in fence.set(&interfaces, &without_xdp) {
            assert!(report.fenced && report.note.is_none(), "{report:?}");
        }
        Ok(fence)
    };
    lab.enter(node, set).unwrap()
}

#[test]
fn an_owner_falls_silent_by_itself_when_its_engine_stops_or_nobody_vouches() {
    let _alone = timing_lock().unwrap();
    let lab = cluster(&options(3, 2));
    let (vip, address): (VipId, IpAddr) = (VipId::new(0).unwrap(), "10.77.2.100".parse().unwrap());
    let own = NodeId::new(1).unwrap();
    let mut owner = words(&lab, "n1");
    owner.set_address(address, VipEntry { vip: 0, flags: vip_flags::INSTALLED }).unwrap();
    drop(fence(&lab, "n1", &["net1", "net2", "lo"], |fence| fence));
    output_of(&lab, "n1", &["ip", "address", "add", "10.77.2.100/24", "dev", "net2"]);

    // Nobody has said anything: closed, and open once this node owns the VIP and the others vouch for it.
    let speech = Speech::start(&lab, "n1", address, "10.77.2.200".parse().unwrap());
    speech.is_silent_still();
    let mut voters = [0; 9];
    for (word, node) in voters.iter_mut().zip(1..=3) {
        *word = Voter { node, sets: 1, lease_ns: LEASE_NS }.to_word();
    }
    owner.store_applied(7);
    owner.set_owner(vip, 3);
    owner.store_voters(&voters, quorum::MAJORITY);
    speech.is_silent_still();
    for node in nodes(&lab) {
        words(&lab, &node).store_vouch(own, 7);
    }
    speech.is_heard_after(0);
    assert_eq!((owner.check(vip), owner.applied(), owner.owned()), (Ok(()), 7, vec![(vip, 3)]));

    let frozen = lab.freeze("n1").unwrap();
    speech.is_silent_from(frozen.after_ns + ENGINE_TIMEOUT_NS);
    let thawed = lab.thaw("n1").unwrap();
    speech.is_heard_after(thawed.after_ns);

    let killed = lab.kill("n1").unwrap();
    speech.is_silent_from(killed.after_ns + ENGINE_TIMEOUT_NS);
    let started = lab.start("n1").unwrap();
    speech.is_heard_after(started.after_ns);
    whole(&lab);

    // The client still hears this node; the other two don't, nor each other.
    let cuts = ["n2", "n3"].map(|node| {
        ["net1", "net2"].map(|network| lab.cut(node, network, Direction::Both).unwrap().after_ns)
    });
    let cut_ns = cuts.into_iter().flatten().max().unwrap();
    speech.is_silent_from(cut_ns + LEASE_NS);
    for node in ["n2", "n3"] {
        for network in ["net1", "net2"] {
            lab.heal(node, network, Direction::Both).unwrap();
        }
    }
    speech.is_heard_after(cut_ns + LEASE_NS);

    // What the voters' logs take away closes it within the lease, too, though this node doesn't know.
    for node in ["n2", "n3"] {
        words(&lab, node).store_vouch(own, 8);
    }
    speech.is_silent_from(boottime_ns() + LEASE_NS);
    owner.store_applied(8);
    let applied_ns = boottime_ns();
    speech.is_heard_after(applied_ns);
    owner.clear_owner(vip);
    owner.flush().unwrap();
    speech.is_silent_from(boottime_ns());
    assert!(speech.stop().len() > 100);
    let counters = status(&lab, "n1").unwrap().counters;
    for counter in ["fence_engine_stalled", "fence_no_majority", "fence_not_owner"] {
        assert!(counters[counter] > 0, "{counter}: {counters:?}");
    }

    // A clean stop leaves nothing; the address goes first.
    output_of(&lab, "n1", &["ip", "address", "delete", "10.77.2.100/24", "dev", "net2"]);
    drop(owner);
    lab.stop("n1").unwrap();
    assert!(!lab.pins("n1").unwrap().exists(), "no pins");
}

#[test]
fn without_tcx_the_fence_stands_in_clsact_and_is_replaced_without_a_gap() {
    let lab = cluster(&options(2, 1));
    let (vip, address): (VipId, IpAddr) = (VipId::new(4).unwrap(), "10.77.1.100".parse().unwrap());
    let mut owner = words(&lab, "n1");
    owner.set_address(address, VipEntry { vip: 4, flags: vip_flags::INSTALLED }).unwrap();
    let first = fence(&lab, "n1", &["net1"], Fence::without_tcx);
    output_of(&lab, "n1", &["ip", "address", "add", "10.77.1.100/24", "dev", "net1"]);
    let speech = Speech::start(&lab, "n1", address, "10.77.1.200".parse().unwrap());
    speech.is_silent_still();
    drop(first);
    // Rule 15, so that nobody need vouch.
    let mut second = fence(&lab, "n1", &["net1"], Fence::without_tcx);
    owner.store_voters(&[0; 9], quorum::NONE);
    speech.is_silent_still();
    owner.set_owner(vip, 1);
    speech.is_heard_after(0);
    let shown = output_of(&lab, "n1", &["tc", "filter", "show", "dev", "net1", "egress"]);
    assert_eq!(shown.matches("direct-action").count(), 1, "{shown}");
    speech.stop();
    output_of(&lab, "n1", &["ip", "address", "delete", "10.77.1.100/24", "dev", "net1"]);
    lab.enter("n1", move || Ok(second.remove()?)).unwrap();
    let shown = output_of(&lab, "n1", &["tc", "filter", "show", "dev", "net1", "egress"]);
    assert!(!shown.contains("netft_out"), "{shown}");
}
