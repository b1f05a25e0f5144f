//! Two engines in two network namespaces of their own, joined by two veth pairs: XDP answers, routes come up, frames
//! cross, a lost carrier moves traffic, a restart is not noticed, and a clean stop leaves nothing. Needs root.

#![expect(clippy::unwrap_used, reason = "a test: every failure should end it where it happens")]

use netft_common::map::{KeySet, NodeConfig, SlotConfig};
use netft_common::wire::Versions;
use netft_core::detect::{DampingConfig, DetectorConfig, DetectorEvent};
use netft_core::keys::{Directions, SessionKeys};
use netft_core::membership::{Adapter, Interface, RouteInstall};
use netft_core::session::LiveKeys;
use netft_core::types::{
    Level, LinkState, NodeId, RouteClass, RouteReason, RouteState, Slot, Timing, address_bytes,
};
use netft_userspace::engine::{
    DatapathOptions, Engine, EngineInput, EngineOptions, InterfaceReport, StopMode, Wait, XdpMode,
};
use netft_userspace::{netlink, sys};
use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(10);
const NETWORKS: u16 = 2;

/// One node: its namespace and its engine.
struct Node {
    id: u16,
    namespace: File,
    pin_dir: PathBuf,
    engine: Option<Engine>,
    events: Vec<DetectorEvent>,
}

impl Node {
    fn new(id: u16) -> Self {
        sys::unshare_network().unwrap();
        let namespace = File::open("/proc/thread-self/ns/net").unwrap();
        let pin_dir = PathBuf::from(format!("/sys/fs/bpf/netft/test-{}-{id}", std::process::id()));
        Self { id, namespace, pin_dir, engine: None, events: Vec::new() }
    }

    fn enter(&self) {
        sys::enter_network(self.namespace.as_fd()).unwrap();
    }

    fn ip(&self, command: &str) {
        self.enter();
        run("ip", command);
    }

    fn adapter(&self) -> Adapter {
        adapter(self.id)
    }

    fn options(&self) -> EngineOptions {
        EngineOptions {
            cluster_id: 7,
            node_id: NodeId::new(self.id).unwrap(),
            versions: Versions::OURS,
            pin_dir: self.pin_dir.clone(),
            priority: Some(60),
            cpus: vec![usize::from(self.id) % 2],
            wait: Wait::Sleep,
            adapter_name: "netft0".to_owned(),
            adapter: self.adapter(),
            detector: DetectorConfig {
                up_run: 3,
                fail_back_hold_ns: 100_000_000,
                engine_timeout_ns: 250_000_000,
                damping: DampingConfig::default(),
            },
            datapath: DatapathOptions::default(),
            left_addresses: Vec::new(),
            log_packets: false,
        }
    }

    async fn start(&mut self) -> Vec<InterfaceReport> {
        self.enter();
        let mut engine = Engine::start(self.options()).await.unwrap();
        let interfaces = interfaces().await;
        assert_eq!(interfaces.len(), usize::from(NETWORKS), "{interfaces:?}");
        let reports = engine.set_interfaces(&interfaces, sys::boottime());
        for network in 1..=NETWORKS {
            let interface = interfaces.iter().find(|i| i.name == format!("net{network}")).unwrap();
            engine.set_route(&route(self.id, network, interface)).await.unwrap();
        }
        let peer = 3 - self.id;
        engine.set_session(NodeId::new(peer).unwrap(), &session(self.id, 99));
        engine.set_peer_adapter(NodeId::new(peer).unwrap(), adapter(peer)).await.unwrap();
        self.engine = Some(engine);
        reports
    }

    fn engine(&mut self) -> &mut Engine {
        self.engine.as_mut().unwrap()
    }

    /// All numbers, for messages.
    fn numbers(&self) -> String {
        let engine = self.engine.as_ref().unwrap();
        format!("node {}: {:?}\n{:?}\n{:?}", self.id, self.events, engine.counters(), engine.stats())
    }

    /// Takes in what the engine has to say until `done`, given all route states, says so.
    async fn until(&mut self, what: &str, done: impl Fn(&Self, &[RouteState]) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let states: Vec<RouteState> = self.engine().route_views().iter().map(|view| view.state).collect();
            while let Some(input) = self.engine().try_recv() {
                if let EngineInput::Detector(event) = input {
                    self.events.push(event);
                }
            }
            if done(self, &states) {
                return;
            }
            assert!(Instant::now() < deadline, "{what} didn't happen: {states:?}\n{}", self.numbers());
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    async fn until_all_up(&mut self) {
        let all = usize::from(NETWORKS);
        self.until("all routes up", |_, states| {
            states.len() == all && states.iter().all(|state| *state == RouteState::Up)
        })
        .await;
    }

    fn downs(&self) -> Vec<RouteReason> {
        let down = |event: &DetectorEvent| match event {
            DetectorEvent::Route(record) if record.old == RouteState::Up => Some(record.reason),
            _ => None,
        };
        self.events.iter().filter_map(down).collect()
    }
}

fn run(program: &str, arguments: &str) {
    let status = Command::new(program).args(arguments.split_whitespace()).status().unwrap();
    assert!(status.success(), "{program} {arguments}");
}

fn adapter(id: u16) -> Adapter {
    let last = u8::try_from(id).unwrap();
    Adapter {
        mac: [0x02, 0, 0, 0, 7, last],
        ipv4: Ipv4Addr::new(169, 254, 77, last),
        ipv6: Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 7, id),
        mtu: 1386,
    }
}

fn address(id: u16, network: u16) -> IpAddr {
    let [id8, network8] = [id, network].map(|number| u8::try_from(number).unwrap());
    // One network over IPv6, the other over IPv4.
    if network == 1 {
        Ipv4Addr::new(10, 88, network8, id8).into()
    } else {
        Ipv6Addr::new(0xfd88, network, 0, 0, 0, 0, 0, id).into()
    }
}

/// Keys of data, as a handshake would make them.
fn session(id: u16, epoch: u32) -> LiveKeys {
    let node = |id| NodeId::new(id).unwrap();
    let signed = Directions { send: Level::Signed, receive: Level::Signed };
    let keys = SessionKeys::of_secret(b"a secret", node(id), node(3 - id), signed);
    LiveKeys { current: Some(SessionKeys { epoch, ..keys }), other: None }
}

/// What membership would make of hellos: slot = network number, the same at both ends.
fn route(id: u16, network: u16, interface: &Interface) -> RouteInstall {
    let peer = 3 - id;
    let key = |from: u16| [u64::from(from) << 32 | 0x5eed, u64::from(network)];
    RouteInstall {
        slot: Slot::new(network.into()).unwrap(),
        config: SlotConfig {
            generation: u32::from(network) + 1,
            remote_slot: network.into(),
            peer,
            interface: interface.number.get().into(),
            lives: 1,
            local: address_bytes(address(id, network)),
            remote: address_bytes(address(peer, network)),
            keys: [KeySet::sending(99, key(id), key(peer)), KeySet::default()],
        },
        class: RouteClass::SameSubnet,
        remote_mac: None,
        timing: Timing { delay_ns: 5_000_000, threshold: 20 },
        network: format!("Cluster Network {network}"),
        metric: 40_000 + u32::from(network),
        mtu: interface.mtu,
    }
}

async fn interfaces() -> Vec<Interface> {
    let mut monitor = netlink::Monitor::new(vec!["netft0".to_owned()]).unwrap();
    let deadline = Instant::now() + PATIENCE;
    loop {
        // Until the addresses of all of them are there.
        let interfaces = monitor.next().await.unwrap().interfaces;
        if interfaces.len() == usize::from(NETWORKS) || Instant::now() > deadline {
            return interfaces;
        }
    }
}

/// Sends `count` datagrams of `size` bytes from one node to the other over `netft0`, and waits until they arrived.
fn exchange(from: &Node, to: &Node, source: IpAddr, destination: IpAddr, size: usize, count: usize) {
    let scope = |node: &Node, ip: IpAddr, port: u16| {
        node.enter();
        match ip {
            IpAddr::V4(_) => std::net::SocketAddr::new(ip, port),
            IpAddr::V6(v6) => {
                let ifindex = std::fs::read_to_string("/proc/thread-self/net/if_inet6").unwrap();
                let line = ifindex.lines().find(|line| line.ends_with("netft0")).unwrap();
                let index = u32::from_str_radix(line.split_whitespace().nth(1).unwrap(), 16).unwrap();
                std::net::SocketAddrV6::new(v6, port, 0, index).into()
            }
        }
    };
    let bind = scope(to, destination, 4000);
    let receiver = UdpSocket::bind(bind).unwrap();
    receiver.set_read_timeout(Some(PATIENCE)).unwrap();
    let bind = scope(from, source, 0);
    let sender = UdpSocket::bind(bind).unwrap();
    let target = scope(from, destination, 4000);
    let mut buffer = vec![0; 2000];
    for number in 0..count {
        let payload = vec![u8::try_from(number % 256).unwrap(); size];
        sender.send_to(&payload, target).unwrap();
        let (length, _) = receiver.recv_from(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], &payload[..]);
    }
}

#[test]
fn two_engines_find_lose_keep_and_leave_each_other() {
    // The namespaces end with this thread and the files.
    std::thread::spawn(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(story());
    })
    .join()
    .unwrap();
}

async fn story() {
    let mut a = Node::new(1);
    let mut b = Node::new(2);
    for network in 1..=NETWORKS {
        let other = format!("/proc/{}/fd/{}", std::process::id(), b.namespace.as_raw_fd());
        a.ip(&format!("link add net{network} type veth peer name net{network} netns {other}"));
        for node in [&a, &b] {
            let prefix = if network == 1 { "24" } else { "64 nodad" };
            node.ip(&format!("address add {}/{prefix} dev net{network}", address(node.id, network)));
            node.ip(&format!("link set net{network} up"));
        }
    }

    for node in [&mut a, &mut b] {
        for report in node.start().await {
            assert_eq!((report.mode, report.note), (XdpMode::Native, None));
        }
        assert_eq!(node.engine().notes(), Vec::<String>::new());
    }
    a.until_all_up().await;
    b.until_all_up().await;
    let nonce = a.engine().boot_nonce();
    assert_ne!(nonce, [0; 16]);

    // Frames cross, both families, both ways, small and as large as they get.
    let (one, two) = (a.adapter(), b.adapter());
    assert_eq!(a.engine().adapter_mtu(), 1386);
    exchange(&a, &b, one.ipv4.into(), two.ipv4.into(), 1386 - 28, 20);
    exchange(&b, &a, two.ipv6.into(), one.ipv6.into(), 1386 - 48, 20);

    // Broadcasts reach every peer.
    b.enter();
    let everybody = UdpSocket::bind("0.0.0.0:4001").unwrap();
    everybody.set_read_timeout(Some(PATIENCE)).unwrap();
    a.enter();
    let sender = UdpSocket::bind((one.ipv4, 0)).unwrap();
    sender.set_broadcast(true).unwrap();
    sender.send_to(b"all", "169.254.255.255:4001").unwrap();
    assert_eq!(everybody.recv_from(&mut [0; 16]).unwrap().0, 3);

    // A lost carrier is acted on at once at both ends, and traffic goes on.
    a.ip("link set net1 down");
    let gone = |node: &Node, _: &[RouteState]| !node.downs().is_empty();
    a.until("net1 down", gone).await;
    b.until("net1 down at the peer", gone).await;
    assert_eq!(a.downs(), [RouteReason::AdminDown]);
    exchange(&a, &b, one.ipv4.into(), two.ipv4.into(), 100, 20);
    a.ip("link set net1 up");
    a.until_all_up().await;
    b.until_all_up().await;

    // A restart without goodbye: the peer's routes stay up, ours are taken over.
    let quiet = b.downs().len();
    a.engine.take().unwrap().stop(StopMode::Keep).await.unwrap();
    tokio::time::sleep(Duration::from_millis(150)).await;
    a.events.clear();
    for report in a.start().await {
        assert_eq!((report.mode, report.note), (XdpMode::Native, None));
    }
    assert_eq!(a.engine().boot_nonce(), nonce, "the maps were taken over");
    a.until_all_up().await;
    tokio::time::sleep(Duration::from_millis(150)).await;
    b.until_all_up().await;
    a.until_all_up().await;
    assert_eq!(b.downs().len(), quiet, "{:?}", b.events);
    assert_eq!(a.downs(), []);
    exchange(&b, &a, two.ipv4.into(), one.ipv4.into(), 1000, 20);

    // A second daemon on the same pins is refused.
    let locked = Engine::start(EngineOptions { adapter_name: "other0".to_owned(), ..a.options() }).await;
    assert!(locked.unwrap_err().to_string().contains("belongs to another netftd"));

    // An adapter that somebody deletes comes back.
    a.ip("link delete netft0");
    let deadline = Instant::now() + PATIENCE;
    while !matches!(a.engine().try_recv(), Some(EngineInput::Note(note)) if note.contains("made again")) {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    exchange(&a, &b, one.ipv6.into(), two.ipv6.into(), 1000, 20);

    for node in [&mut a, &mut b] {
        let counters = node.engine().counters();
        let rejected: Vec<_> =
            counters.iter().filter(|(name, count)| name.starts_with("reject") && *count > 0).collect();
        println!("{}", node.numbers());
        assert!(rejected.iter().all(|(name, _)| *name == "reject_slot"), "{rejected:?}");
        node.enter();
        node.engine.take().unwrap().stop(StopMode::Clean).await.unwrap();
        assert!(!node.pin_dir.exists());
        let links = Command::new("ip").arg("link").output().unwrap();
        let links = String::from_utf8(links.stdout).unwrap();
        assert!(!links.contains("netft0") && !links.contains("xdp"), "{links}");
    }
    assert_eq!(interfaces().await[0].link, LinkState::Up);
}

#[test]
fn what_cannot_be_used_is_refused_in_a_sentence_and_left_alone() {
    std::thread::spawn(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(refusals());
    })
    .join()
    .unwrap();
}

async fn refusals() {
    let node = Node::new(3);
    let refused = async |options: EngineOptions| Engine::start(options).await.unwrap_err().to_string();
    let dotted = refused(EngineOptions { pin_dir: "/sys/fs/bpf/netft/a.b".into(), ..node.options() }).await;
    assert!(dotted.contains("has a dot"), "{dotted}");
    let elsewhere = refused(EngineOptions { pin_dir: "/tmp/netft-pins".into(), ..node.options() }).await;
    assert!(elsewhere.contains("not on a BPF file system"), "{elsewhere}");
    let name = "a-name-that-is-too-long".to_owned();
    let unnamed = refused(EngineOptions { adapter_name: name, ..node.options() }).await;
    assert!(unnamed.contains("cannot make the adapter"), "{unnamed}");
    assert!(!node.pin_dir.exists(), "a start that fails leaves nothing behind");

    // Somebody else's program stays, ours doesn't get on that interface, but on the other one.
    node.ip("link add net1 type veth peer name net2");
    for network in 1..=NETWORKS {
        node.ip(&format!("address add 10.88.{network}.3/24 dev net{network}"));
        node.ip(&format!("link set net{network} up"));
    }
    let mut foreign = aya::Ebpf::load(FOREIGN).unwrap();
    let name =
        foreign.programs().find(|(_, p)| matches!(p, aya::programs::Program::Xdp(_))).unwrap().0.to_owned();
    let program: &mut aya::programs::Xdp = foreign.program_mut(&name).unwrap().try_into().unwrap();
    program.load().unwrap();
    let link = program.attach("net1", aya::programs::XdpMode::Driver).unwrap();
    let mut engine = Engine::start(node.options()).await.unwrap();
    let reports = engine.set_interfaces(&interfaces().await, sys::boottime());
    let one = report(&reports, "net1");
    assert_eq!(one.mode, XdpMode::None);
    let note = one.note.clone().unwrap();
    assert!(note.contains("another XDP program is attached") && note.contains(&name), "{note}");
    let two = report(&reports, "net2");
    assert_eq!((two.mode, &two.note), (XdpMode::Native, &None));
    program.detach(link).unwrap();
    let reports = engine.set_interfaces(&interfaces().await, sys::boottime());
    let one = report(&reports, "net1");
    assert_eq!((one.mode, &one.note), (XdpMode::Native, &None), "tried again");

    // Pins of another layout, or of another node, are replaced.
    let nonce = engine.boot_nonce();
    engine.stop(StopMode::Keep).await.unwrap();
    let pinned = aya::maps::MapData::from_pin(node.pin_dir.join("NODE")).unwrap();
    let mapped = netft_userspace::mmap::Mapped::<NodeConfig>::new(pinned.fd().as_fd(), 1).unwrap();
    mapped.store(0, &NodeConfig { layout: 1000, ..mapped.load(0) });
    let engine = Engine::start(node.options()).await.unwrap();
    assert!(engine.notes().iter().any(|note| note.contains("layout 1000")), "{:?}", engine.notes());
    assert_ne!(engine.boot_nonce(), nonce);
    engine.stop(StopMode::Keep).await.unwrap();
    let other = EngineOptions { cluster_id: 8, ..node.options() };
    let engine = Engine::start(other).await.unwrap();
    assert!(engine.notes().iter().any(|note| note.contains("of cluster 7")), "{:?}", engine.notes());
    engine.stop(StopMode::Clean).await.unwrap();
    assert!(!node.pin_dir.exists());

    // A veth whose peer has a large MTU takes no native XDP.
    node.ip("link set net2 mtu 9000");
    let mut engine = Engine::start(node.options()).await.unwrap();
    let reports = engine.set_interfaces(&interfaces().await, sys::boottime());
    let one = report(&reports, "net1");
    assert_eq!(one.mode, XdpMode::Generic);
    let note = one.note.clone().unwrap();
    assert!(
        note.starts_with("net1: no native XDP in driver veth (") && note.ends_with("using generic mode"),
        "{note}"
    );
    engine.stop(StopMode::Clean).await.unwrap();
}

fn report<'a>(reports: &'a [InterfaceReport], name: &str) -> &'a InterfaceReport {
    reports.iter().find(|report| report.name == name).unwrap()
}

static FOREIGN: &[u8] = aya::include_bytes_aligned!("../../netft-ebpf/prebuilt/lab.bpf.o");
