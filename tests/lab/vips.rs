//! VIPs as a client sees them: it asks every 0.2 ms, and a sniffer at its cable says who answered from which moment on.

use crate::support::{PATIENCE, cluster, eventually, logs, options, output_of, whole};
use anyhow::{Context, Result};
use netft_common::vip::speaker;
use netft_core::types::{Nanos, address_bytes};
use netft_userspace::control::Request;
use netft_userspace::listing::{Vip, Vips};
use netft_userspace::ownership::VipState;
use nix::sys::socket::{
    AddressFamily, LinkAddr, SockFlag, SockProtocol, SockType, bind, recvfrom, setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;
use xtask::cluster::{ask, nodes};
use xtask::lab::{Direction, Lab, LabGuard, Options, boottime_ns, timing_lock};

const MS: Nanos = 1_000_000;
const VIP: &str = "10.77.2.100";
const VIP6: &str = "fd77:2::100";
/// The daemon's default.
const ENGINE_TIMEOUT_NS: Nanos = 250 * MS;

/// Three nodes and one VIP, on the client's network; detection takes 50 ms, as other tests use the machine, too.
fn with_vip() -> Options {
    options(3, 2)
        .set(&format!("vip.web.addresses=[\"{VIP}/24\", \"{VIP6}/64\"]"))
        .and_then(|options| options.set("heartbeat.same_subnet.delay=\"10ms\""))
        .unwrap()
}

/// A cluster whose VIP is served, and who serves it.
fn served(options: &Options) -> (LabGuard, String) {
    let lab = cluster(options);
    let owner = owner_other_than(&lab, None);
    (lab, owner)
}

fn vip_at(lab: &Lab, node: &str) -> Option<Vip> {
    let vips: Vips = ask(lab, node, Request::Vips).ok()?;
    vips.vips.into_iter().find(|vip| vip.name == "web")
}

/// Waits until another node than `old` says that it serves the VIP itself.
fn owner_other_than(lab: &Lab, old: Option<&str>) -> String {
    let serves = |node: &String| {
        vip_at(lab, node).is_some_and(|vip| vip.local && vip.state == VipState::Served)
            && has_address(lab, node)
    };
    let find = || nodes(lab).into_iter().filter(|node| Some(node.as_str()) != old).find(serves);
    let deadline = std::time::Instant::now() + PATIENCE;
    loop {
        if let Some(owner) = find() {
            return owner;
        }
        if std::time::Instant::now() > deadline {
            let views: Vec<_> =
                nodes(lab).iter().map(|node| ask::<Vips>(lab, node, Request::Vips).ok()).collect();
            panic!("nobody serves the VIP: {views:#?}\n{}", logs(lab));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn has_address(lab: &Lab, node: &str) -> bool {
    let shown = output_of(lab, node, &["ip", "-oneline", "address", "show"]);
    shown.contains(&format!(" {VIP}/24 ")) && shown.contains(&format!(" {VIP6}/64 "))
}

fn has_no_address(lab: &Lab, node: &str) -> bool {
    let shown = output_of(lab, node, &["ip", "-oneline", "address", "show"]);
    !shown.contains(&format!(" {VIP}/")) && !shown.contains(&format!(" {VIP6}/"))
}

/// A socket on the VIP, whether or not the address is there.
fn on_vip(address: IpAddr) -> Result<UdpSocket> {
    let socket =
        socket2::Socket::new(socket2::Domain::for_address((address, 0).into()), socket2::Type::DGRAM, None)?;
    // Of IPv6 sockets as well.
    setsockopt(&socket, sockopt::IpFreebind, &true)?;
    socket.bind(&SocketAddr::new(address, 7000).into())?;
    Ok(socket.into())
}

/// An answer that the client got.
#[derive(Clone, Copy, Debug)]
struct Answer {
    asked_ns: Nanos,
    node: u8,
}

/// A frame that speaks for the VIP: when, and from which hardware address.
type Heard = (Nanos, [u8; 6]);

/// Everybody who answers for the VIP if he may, a client that asks every 0.2 ms, and a sniffer at its cable.
struct Client {
    over: Arc<AtomicBool>,
    answers: Arc<Mutex<Vec<Answer>>>,
    heard: Arc<Mutex<Vec<Heard>>>,
    macs: BTreeMap<String, [u8; 6]>,
    threads: Vec<JoinHandle<()>>,
}

impl Client {
    fn start(lab: &Lab, address: &str) -> Self {
        let vip: IpAddr = address.parse().unwrap();
        let over = Arc::new(AtomicBool::new(false));
        let mut threads = Vec::new();
        let mut macs = BTreeMap::new();
        for (number, node) in (1u8..).zip(nodes(lab)) {
            let server = lab.enter(&node, || on_vip(vip)).unwrap();
            server.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
            let over = Arc::clone(&over);
            threads.push(std::thread::spawn(move || answer(&server, number, &over)));
            let shown = output_of(lab, &node, &["cat", "/sys/class/net/net2/address"]);
            let bytes: Vec<u8> =
                shown.trim().split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
            macs.insert(node, bytes.try_into().unwrap());
        }
        let any: IpAddr = if vip.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
        let asker = lab.enter("client", || Ok(UdpSocket::bind(SocketAddr::new(any, 0))?)).unwrap();
        asker.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let listener = asker.try_clone().unwrap();
        let answers = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::new(Mutex::new(Vec::new()));
        threads.push({
            let over = Arc::clone(&over);
            std::thread::spawn(move || {
                while !over.load(Relaxed) {
                    let _ = asker.send_to(&boottime_ns().to_ne_bytes(), (vip, 7000));
                    std::thread::sleep(Duration::from_micros(200));
                }
            })
        });
        threads.push({
            let (over, answers) = (Arc::clone(&over), Arc::clone(&answers));
            std::thread::spawn(move || {
                let mut answer = [0; 9];
                while !over.load(Relaxed) {
                    if listener.recv(&mut answer).is_ok_and(|length| length == 9) {
                        let asked_ns = u64::from_ne_bytes(answer[..8].try_into().unwrap());
                        answers.lock().unwrap().push(Answer { asked_ns, node: answer[8] });
                    }
                }
            })
        });
        threads.push(sniff(lab, vip, &over, &heard).unwrap());
        let client = Self { over, answers, heard, macs, threads };
        client.is_answered_after(boottime_ns());
        client
    }

    /// Waits until something is answered that was asked after this moment; says by whom.
    fn is_answered_after(&self, at_ns: Nanos) -> String {
        let found = || {
            let answers = self.answers.lock().unwrap();
            answers.iter().rev().find(|answer| answer.asked_ns > at_ns).copied()
        };
        format!("n{}", eventually("the client is answered", PATIENCE, found).node)
    }

    /// Waits until something is answered by another node than this one.
    fn is_answered_by_another_than(&self, old: &str, from_ns: Nanos) -> String {
        let found = || {
            let answers = self.answers.lock().unwrap();
            let other = |answer: &&Answer| answer.asked_ns > from_ns && format!("n{}", answer.node) != old;
            answers.iter().rev().find(other).copied()
        };
        format!("n{}", eventually("another node answers the client", PATIENCE, found).node)
    }

    /// The longest time, around and after `from_ns`, in which nothing was asked that was answered.
    fn outage_ns(&self, from_ns: Nanos) -> Nanos {
        let mut asked: Vec<_> = self.answers.lock().unwrap().iter().map(|answer| answer.asked_ns).collect();
        asked.sort_unstable();
        let pairs = asked.windows(2).filter(|pair| pair[1] > from_ns);
        pairs.map(|pair| pair[1] - pair[0]).max().unwrap_or(Nanos::MAX)
    }

    /// Once another node has spoken for the VIP, `old` never did.
    fn heard_nothing_late_of(&self, old: &str, from_ns: Nanos) {
        let heard = self.heard.lock().unwrap();
        let own = self.macs[old];
        let first =
            heard.iter().position(|(at_ns, mac)| *at_ns > from_ns && *mac != own).expect("a new owner");
        let late: Vec<_> = heard[first..].iter().filter(|(_, mac)| *mac == own).collect();
        assert!(late.is_empty(), "{old} spoke {} times after the new owner: {late:?}", late.len());
    }

    fn stop(self) {
        self.over.store(true, Relaxed);
        self.threads.into_iter().for_each(|thread| thread.join().unwrap());
    }
}

fn answer(server: &UdpSocket, number: u8, over: &AtomicBool) {
    let mut question = [0; 16];
    while !over.load(Relaxed) {
        if let Ok((8, from)) = server.recv_from(&mut question) {
            question[8] = number;
            // The fence may be closed.
            let _ = server.send_to(&question[..9], from);
        }
    }
}

/// Every frame that reaches the client and speaks for the VIP, in order.
fn sniff(
    lab: &Lab,
    vip: IpAddr,
    over: &Arc<AtomicBool>,
    heard: &Arc<Mutex<Vec<Heard>>>,
) -> Result<JoinHandle<()>> {
    let tap = lab.enter("client", || {
        let tap = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::EthAll)?;
        let all = nix::ifaddrs::getifaddrs()?.find(|known| {
            known.interface_name == "net2"
                && known.address.is_some_and(|address| address.as_link_addr().is_some())
        });
        let address = all.and_then(|known| known.address?.as_link_addr().copied()).context("net2")?;
        bind(tap.as_raw_fd(), &address)?;
        setsockopt(&tap, sockopt::RcvBufForce, &(16 << 20))?;
        setsockopt(&tap, sockopt::ReceiveTimeout, &TimeVal::milliseconds(20))?;
        Ok(tap)
    })?;
    let wanted = address_bytes(vip);
    let (over, heard) = (Arc::clone(over), Arc::clone(heard));
    Ok(std::thread::spawn(move || {
        let mut frame = [0; 2048];
        while !over.load(Relaxed) {
            let Ok((length, Some(from))) = recvfrom::<LinkAddr>(tap.as_raw_fd(), &mut frame) else {
                continue;
            };
            let speaks = bytemuck::cast::<_, [u8; 16]>(speaker(&frame[..length]).header) == wanted;
            if from.pkttype() != nix::libc::PACKET_OUTGOING && speaks {
                let mac = frame[6..12].try_into().unwrap();
                heard.lock().unwrap().push((boottime_ns(), mac));
            }
        }
    }))
}

fn report(what: &str, client: &Client, from_ns: Nanos) {
    #[expect(clippy::cast_precision_loss, reason = "milliseconds for people")]
    let ms = client.outage_ns(from_ns) as f64 / 1e6;
    println!("{what}: the client had no answer for {ms:.1} ms");
}

#[test]
fn another_node_serves_a_vip_when_its_owner_loses_power() {
    let _alone = timing_lock().unwrap();
    // The default pace.
    let options = options(3, 2).set(&format!("vip.web.addresses=[\"{VIP}/24\", \"{VIP6}/64\"]")).unwrap();
    let (lab, owner) = served(&options);
    let client = Client::start(&lab, VIP);
    let off = lab.power_off(&owner).unwrap();
    let next = client.is_answered_by_another_than(&owner, off.after_ns);
    report("power failure, detection after 5 ms", &client, off.before_ns);
    client.heard_nothing_late_of(&owner, off.before_ns);
    assert_eq!(owner_other_than(&lab, Some(&owner)), next);

    // The node comes back, and nobody takes the VIP from the new owner.
    lab.power_on(&owner).unwrap();
    whole(&lab);
    let on_ns = boottime_ns();
    client.is_answered_after(on_ns);
    assert!(has_no_address(&lab, &owner));
    client.heard_nothing_late_of(&owner, off.before_ns);
    client.stop();
}

#[test]
fn another_node_serves_a_vip_when_its_owner_is_cut_off() {
    let (lab, owner) = served(&with_vip());
    let client = Client::start(&lab, VIP6);
    let cut = lab.cut(&owner, "net2", Direction::Both).unwrap();
    lab.cut(&owner, "net1", Direction::Both).unwrap();
    client.is_answered_by_another_than(&owner, cut.after_ns);
    report("silent cut, detection after 50 ms", &client, cut.before_ns);
    for network in ["net1", "net2"] {
        lab.heal(&owner, network, Direction::Both).unwrap();
    }
    whole(&lab);
    eventually("the old owner removes the address", PATIENCE, || has_no_address(&lab, &owner).then_some(()));
    client.is_answered_after(boottime_ns());
    client.heard_nothing_late_of(&owner, cut.before_ns);
    client.stop();
}

#[test]
fn a_vip_moves_when_an_administrator_says_so() {
    let (lab, mut owner) = served(&with_vip());
    let client = Client::start(&lab, VIP);
    // From every node, the leader among them.
    for asked in nodes(&lab) {
        let target = nodes(&lab).into_iter().find(|node| *node != owner).unwrap();
        let from_ns = boottime_ns();
        let moved = lab.netft(&asked, &["vip", "move", "web", &target]).unwrap();
        assert!(moved.status.success(), "{moved:?}\n{}", logs(&lab));
        assert_eq!(owner_other_than(&lab, Some(&owner)), target);
        assert_eq!(client.is_answered_by_another_than(&owner, from_ns), target);
        report("planned move", &client, from_ns);
        client.heard_nothing_late_of(&owner, from_ns);
        eventually("the old owner removes the address", PATIENCE, || {
            has_no_address(&lab, &owner).then_some(())
        });
        owner = target;
    }
    let refused = |arguments: &[&str]| {
        let output = lab.netft("n1", arguments).unwrap();
        assert!(!output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    assert!(refused(&["vip", "move", "web", "n9"]).contains("there is no node n9"));
    assert!(refused(&["vip", "move", "wep", "n1"]).contains("there is no VIP wep"));
    assert!(refused(&["vip", "remove", "web"]).contains("is in this node's configuration"));
    eventually("every node says so", PATIENCE, || {
        let shown = lab.netft("n1", &["vips"]).unwrap();
        let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
        (shown.contains("web") && shown.contains("moved") && shown.contains("served")).then_some(())
    });
    client.stop();
}

#[test]
fn a_frozen_owner_is_silent_from_the_engine_timeout_on_and_another_node_serves() {
    let _alone = timing_lock().unwrap();
    let (lab, owner) = served(&with_vip());
    let client = Client::start(&lab, VIP);
    let frozen = lab.freeze(&owner).unwrap();
    client.is_answered_by_another_than(&owner, frozen.after_ns);
    report("frozen owner, engine timeout 250 ms", &client, frozen.before_ns);
    {
        let own = client.macs[&owner];
        let heard = client.heard.lock().unwrap();
        let last_ns = heard.iter().filter(|(_, mac)| *mac == own).map(|(at_ns, _)| *at_ns).max().unwrap();
        // Ten milliseconds for the sniffer itself.
        assert!(
            last_ns < frozen.after_ns + ENGINE_TIMEOUT_NS + 10 * MS,
            "{} late",
            last_ns - frozen.after_ns
        );
    }
    assert!(has_address(&lab, &owner), "nobody could remove it there");
    lab.thaw(&owner).unwrap();
    whole(&lab);
    eventually("the old owner removes the address", PATIENCE, || has_no_address(&lab, &owner).then_some(()));
    client.is_answered_after(boottime_ns());
    client.heard_nothing_late_of(&owner, frozen.before_ns);
    client.stop();
}

/// In time it keeps the VIP, at the epoch that it had; later another node has it, and never both.
#[test]
fn a_killed_daemon_that_comes_back_costs_a_client_little() {
    let options = with_vip().set("engine.timeout=\"10s\"").unwrap();
    let (lab, owner) = served(&options);
    let before = vip_at(&lab, &owner).unwrap();
    let client = Client::start(&lab, VIP);
    let killed = lab.kill(&owner).unwrap();
    lab.start(&owner).unwrap();
    whole(&lab);
    let now = owner_other_than(&lab, None);
    client.is_answered_after(boottime_ns());
    report("killed and started again", &client, killed.before_ns);
    let after = vip_at(&lab, &now).unwrap();
    println!("{owner} had it, {now} has it, {:?}", after.why);
    if now == owner {
        assert_eq!(after.epoch, before.epoch, "nobody else ever owned it");
    } else {
        client.heard_nothing_late_of(&owner, killed.before_ns);
        eventually("the old owner removes the address", PATIENCE, || {
            has_no_address(&lab, &owner).then_some(())
        });
    }
    assert!(client.outage_ns(killed.before_ns) < 2_000 * MS, "{}", client.outage_ns(killed.before_ns));
    client.stop();
}

#[test]
fn a_clean_stop_gives_vips_to_others_and_leaves_nothing() {
    let (lab, owner) = served(&with_vip());
    let client = Client::start(&lab, VIP);
    let stopped = lab.stop(&owner).unwrap();
    client.is_answered_by_another_than(&owner, stopped.before_ns);
    report("clean stop", &client, stopped.before_ns);
    client.heard_nothing_late_of(&owner, stopped.before_ns);
    assert!(has_no_address(&lab, &owner));
    assert!(!lab.pins(&owner).unwrap().exists(), "no pins");
    client.stop();
}

#[test]
fn a_node_whose_store_was_emptied_stays_out_and_says_so() {
    let (lab, owner) = served(&with_vip());
    let other = nodes(&lab).into_iter().find(|node| *node != owner).unwrap();
    let leader = eventually("a leader", PATIENCE, || ask::<Vips>(&lab, &owner, Request::Vips).ok()?.leader);
    let lost = if other == leader { owner.clone() } else { other };
    lab.stop(&lost).unwrap();
    std::fs::remove_dir_all(lab.folder(&lost).unwrap().join("state/ownership")).unwrap();
    lab.start(&lost).unwrap();
    whole(&lab);
    let told = eventually("it says so", PATIENCE, || {
        let vips: Vips = ask(&lab, &lost, Request::Vips).ok()?;
        vips.trouble.filter(|trouble| trouble.contains("another store"))
    });
    println!("{told}");
    // The others go on.
    let owner = owner_other_than(&lab, Some(&lost));
    let target = nodes(&lab).into_iter().find(|node| *node != owner && *node != lost).unwrap();
    let moved = lab.netft(&owner, &["vip", "move", "web", &target]).unwrap();
    assert!(moved.status.success(), "{moved:?}\n{}", logs(&lab));
    assert_eq!(owner_other_than(&lab, Some(&owner)), target);
    let refused = lab.netft(&owner, &["vip", "move", "web", &lost]).unwrap();
    println!("{}", String::from_utf8_lossy(&refused.stderr));
}
