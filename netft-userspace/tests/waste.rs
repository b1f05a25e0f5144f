//! No waste: once the engine runs, heartbeats and frames allocate nothing on any of its threads. Needs root.

#![expect(clippy::unwrap_used, reason = "a test: every failure should end it where it happens")]

use netft_common::map::{KeySet, SlotConfig};
use netft_common::wire::Versions;
use netft_core::detect::{DampingConfig, DetectorConfig};
use netft_core::keys::{Directions, SessionKeys};
use netft_core::membership::{Adapter, Interface, RouteInstall};
use netft_core::session::LiveKeys;
use netft_core::types::{Level, NodeId, RouteClass, RouteState, Slot, Timing, address_bytes};
use netft_userspace::engine::{
    DataWay, DatapathOptions, Engine, EngineOptions, EngineStats, PathWish, StopMode, Wait,
};
use netft_userspace::sys::allocator::{Counting, allocations};
use netft_userspace::{netlink, sys};
use std::collections::BTreeMap;
use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

#[global_allocator]
static COUNTING: Counting = Counting;

const PATIENCE: Duration = Duration::from_secs(15);
/// Both must have happened on each node, at each level.
const HEARTBEATS: u64 = 2_000;
const FRAMES: u64 = 2_000;
const INTERFACE: &str = "net1";
/// Queues of the interfaces, and so data threads with AF_XDP, if there are so many CPUs.
const QUEUES: usize = 2;
/// Pairs of ports, which spread over the queues: so many that they don't happen to share one.
const FLOWS: u16 = 32;

struct Node {
    id: u16,
    namespace: File,
    pin_dir: PathBuf,
    engine: Option<Engine>,
}

impl Node {
    fn new(id: u16) -> Self {
        sys::unshare_network().unwrap();
        let namespace = File::open("/proc/thread-self/ns/net").unwrap();
        let pin_dir = PathBuf::from(format!("/sys/fs/bpf/netft/waste-{}-{id}", std::process::id()));
        Self { id, namespace, pin_dir, engine: None }
    }

    fn enter(&self) {
        sys::enter_network(self.namespace.as_fd()).unwrap();
    }

    fn ip(&self, command: &str) {
        self.enter();
        let status = Command::new("ip").args(command.split_whitespace()).status().unwrap();
        assert!(status.success(), "ip {command}");
    }

    async fn start(&mut self, path: PathWish) {
        self.enter();
        let options = EngineOptions {
            cluster_id: 7,
            node_id: NodeId::new(self.id).unwrap(),
            versions: Versions::OURS,
            pin_dir: self.pin_dir.clone(),
            priority: Some(60),
            cpus: vec![usize::from(self.id) % 2],
            wait: Wait::Sleep,
            adapter_name: "netft0".to_owned(),
            adapter: adapter(self.id),
            detector: DetectorConfig {
                up_run: 3,
                fail_back_hold_ns: 100_000_000,
                engine_timeout_ns: 250_000_000,
                damping: DampingConfig::default(),
            },
            datapath: DatapathOptions { path, ..DatapathOptions::default() },
            left_addresses: Vec::new(),
            log_packets: false,
        };
        let mut engine = Engine::start(options).await.unwrap();
        let interface = interface().await;
        engine.set_interfaces(std::slice::from_ref(&interface), sys::boottime());
        let peer = 3 - self.id;
        for family in 0..2 {
            engine.set_route(&route(self.id, family, &interface)).await.unwrap();
        }
        engine.set_session(NodeId::new(peer).unwrap(), &session(self.id, 99, Level::Signed));
        engine.set_peer_adapter(NodeId::new(peer).unwrap(), adapter(peer)).await.unwrap();
        self.engine = Some(engine);
    }

    fn engine(&self) -> &Engine {
        self.engine.as_ref().unwrap()
    }

    /// Whether data goes the way that it will go.
    fn is_settled(&mut self, way: DataWay) -> bool {
        // The control thread's work, also more queues of the adapter in this namespace.
        self.enter();
        let engine = self.engine.as_mut().unwrap();
        while engine.try_recv().is_some() {}
        engine.paths().iter().all(|path| (path.receive, path.transmit) == (way, way))
    }

    fn is_up(&self) -> bool {
        let views = self.engine().route_views();
        views.len() == 2 && views.iter().all(|view| view.state == RouteState::Up)
    }
}

/// Hardware address of a node's interface.
fn mac(id: u16) -> [u8; 6] {
    [0x02, 0, 0, 0, 8, u8::try_from(id).unwrap()]
}

fn adapter(id: u16) -> Adapter {
    let last = u8::try_from(id).unwrap();
    Adapter {
        mac: [0x02, 0, 0, 0, 9, last],
        ipv4: Ipv4Addr::new(169, 254, 79, last),
        ipv6: Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 9, id),
        mtu: 1386,
    }
}

fn address(id: u16, family: u16) -> IpAddr {
    match family {
        0 => Ipv4Addr::new(10, 89, 0, u8::try_from(id).unwrap()).into(),
        _ => Ipv6Addr::new(0xfd89, 0, 0, 0, 0, 0, 0, id).into(),
    }
}

/// Keys of data, as a handshake would make them.
fn session(id: u16, epoch: u32, level: Level) -> LiveKeys {
    let node = |id| NodeId::new(id).unwrap();
    let both = Directions { send: level, receive: level };
    let keys = SessionKeys::of_secret(b"a secret", node(id), node(3 - id), both);
    LiveKeys { current: Some(SessionKeys { epoch, ..keys }), other: None }
}

fn route(id: u16, family: u16, interface: &Interface) -> RouteInstall {
    let peer = 3 - id;
    let key = |from: u16| [u64::from(from) << 32 | 0x5eed, u64::from(family)];
    RouteInstall {
        slot: Slot::new(family.into()).unwrap(),
        config: SlotConfig {
            generation: 1,
            remote_slot: family.into(),
            peer,
            interface: interface.number.get().into(),
            lives: 1,
            local: address_bytes(address(id, family)),
            remote: address_bytes(address(peer, family)),
            keys: [KeySet::sending(99, key(id), key(peer)), KeySet::default()],
        },
        class: RouteClass::SameSubnet,
        // Lenient: allocations are counted, not milliseconds.
        timing: Timing { delay_ns: 1_000_000, threshold: 100 },
        network: "Cluster Network 1".to_owned(),
        metric: 40_000 + u32::from(family),
        mtu: interface.mtu,
        remote_mac: Some(mac(peer)),
    }
}

async fn interface() -> Interface {
    let mut monitor = netlink::Monitor::new(vec!["netft0".to_owned()]).unwrap();
    let deadline = Instant::now() + PATIENCE;
    loop {
        let listing = monitor.next().await.unwrap();
        let found = listing.interfaces.into_iter().find(|interface| interface.name == INTERFACE);
        if let Some(found) = found {
            return found;
        }
        assert!(Instant::now() < deadline, "{INTERFACE} isn't listed");
    }
}

/// A socket on each `netft0` for every flow, connected to the other.
fn sockets(nodes: &[Node; 2]) -> Vec<[UdpSocket; 2]> {
    let bind = |ports: [u16; 2]| {
        let bound = [0, 1].map(|index: usize| {
            nodes[index].enter();
            let socket = UdpSocket::bind((adapter(nodes[index].id).ipv4, ports[index])).unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            socket
        });
        bound[0].connect((adapter(2).ipv4, ports[1])).unwrap();
        bound[1].connect((adapter(1).ipv4, ports[0])).unwrap();
        bound
    };
    (0..FLOWS).map(|flow| bind([4000 + flow, 5000 + flow])).collect()
}

/// Sends one small and one large frame each way in every flow.
fn exchange(flows: &[[UdpSocket; 2]], buffer: &mut [u8; 2000]) {
    for sockets in flows {
        for (from, to) in [(0, 1), (1, 0)] {
            for length in [60, 1386 - 28] {
                assert_eq!(sockets[from].send(&buffer[..length]).unwrap(), length);
                assert_eq!(sockets[to].recv(buffer).unwrap(), length);
            }
        }
    }
}

/// Heartbeats and frames that a node has sent.
fn work(node: &Node) -> [u64; 2] {
    let stats = node.engine().stats();
    [stats.requests, stats.frames_sent]
}

/// All frames between two moments went by AF_XDP, or none, and with AF_XDP each thread had some.
fn check_way(before: &EngineStats, after: &EngineStats, way: DataWay, threads: usize) {
    let grown = |word: fn(&EngineStats) -> u64| word(after) - word(before);
    let by_xdp = [grown(|stats| stats.bypass_sent), grown(|stats| stats.bypass_received)];
    if way == DataWay::Socket {
        assert_eq!(by_xdp, [0, 0]);
        return;
    }
    assert_eq!(by_xdp, [grown(|stats| stats.frames_sent), grown(|stats| stats.frames_received)]);
    assert_eq!(after.data_threads.len(), threads);
    for (before, after) in before.data_threads.iter().zip(&after.data_threads) {
        assert!(after.xdp_sent > before.xdp_sent + 100, "{before:?} {after:?}");
        assert!(after.xdp_received > before.xdp_received + 100, "{before:?} {after:?}");
    }
}

#[test]
fn heartbeats_and_frames_allocate_nothing() {
    // One after the other: all threads of this process are counted.
    for (path, way) in [(PathWish::Socket, DataWay::Socket), (PathWish::Xdp, DataWay::Xdp)] {
        // The namespaces end with this thread and the files.
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(story(path, way));
        })
        .join()
        .unwrap();
    }
}

async fn story(path: PathWish, way: DataWay) {
    let mut nodes = [Node::new(1), Node::new(2)];
    let other = format!("/proc/{}/fd/{}", std::process::id(), nodes[1].namespace.as_raw_fd());
    let queues = format!("numtxqueues {QUEUES} numrxqueues {QUEUES}");
    nodes[0]
        .ip(&format!("link add {INTERFACE} {queues} type veth peer name {INTERFACE} {queues} netns {other}"));
    for node in &nodes {
        let [.., last] = mac(node.id);
        node.ip(&format!("link set {INTERFACE} address 02:00:00:00:08:{last:02x}"));
        node.ip(&format!("address add {}/24 dev {INTERFACE}", address(node.id, 0)));
        node.ip(&format!("address add {}/64 dev {INTERFACE} nodad", address(node.id, 1)));
        node.ip(&format!("link set {INTERFACE} up"));
    }
    for node in &mut nodes {
        node.start(path).await;
    }
    let deadline = Instant::now() + PATIENCE;
    while !nodes.iter().all(Node::is_up) || !nodes.iter_mut().all(|node| node.is_settled(way)) {
        let paths: Vec<_> = nodes.iter().map(|node| node.engine().paths()).collect();
        assert!(Instant::now() < deadline, "the routes don't come up, or data goes otherwise: {paths:#?}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let flows = sockets(&nodes);
    let mut buffer = [0x5a; 2000];
    (0..10).for_each(|_| exchange(&flows, &mut buffer));

    let threads = match way {
        DataWay::Socket => 1,
        _ => QUEUES.min(sys::allowed_cpus().len()),
    };
    let stats = [0, 1].map(|index: usize| nodes[index].engine().stats());
    // From here on this thread only uses sockets and atomics, and no other one but the engines' has anything to do.
    let before: BTreeMap<i32, u64> = allocations().into_iter().collect();
    for (epoch, level) in (100..).zip([Level::Clear, Level::Encrypted, Level::Signed]) {
        for node in &mut nodes {
            let (id, peer) = (node.id, NodeId::new(3 - node.id).unwrap());
            node.engine.as_mut().unwrap().set_session(peer, &session(id, epoch, level));
        }
        let began = [work(&nodes[0]), work(&nodes[1])];
        let deadline = Instant::now() + PATIENCE;
        loop {
            exchange(&flows, &mut buffer);
            let done = nodes.iter().zip(began).all(|(node, [heartbeats, frames])| {
                let [more_heartbeats, more_frames] = work(node);
                more_heartbeats >= heartbeats + HEARTBEATS && more_frames >= frames + FRAMES
            });
            if done {
                break;
            }
            let now = [work(&nodes[0]), work(&nodes[1])];
            assert!(Instant::now() < deadline, "{level}: {began:?} became {now:?}");
        }
    }
    let after = allocations();

    assert!(nodes.iter().all(Node::is_up), "all this time");
    let own = std::fs::read_link("/proc/thread-self").unwrap();
    let own: i32 = own.file_name().unwrap().to_string_lossy().parse().unwrap();
    let name = |thread: i32| {
        std::fs::read_to_string(format!("/proc/self/task/{thread}/comm"))
            .unwrap_or_default()
            .trim()
            .to_owned()
    };
    let named: Vec<_> = after.iter().map(|(thread, count)| (name(*thread), *thread, *count)).collect();
    let data = (0..threads).map(|thread| format!("netft-data-{thread}"));
    for engine in data.chain(["netft-detect".to_owned()]) {
        assert_eq!(named.iter().filter(|(name, ..)| *name == engine).count(), 2, "{engine}: {named:?}");
    }
    for (node, before) in nodes.iter().zip(&stats) {
        check_way(before, &node.engine().stats(), way, threads);
    }
    let wasteful: Vec<_> = named
        .iter()
        .filter(|(_, thread, _)| *thread != own)
        .map(|(name, thread, count)| (name, count - before.get(thread).copied().unwrap_or(0)))
        .filter(|(_, more)| *more > 0)
        .collect();
    assert!(wasteful.is_empty(), "allocations by thread: {wasteful:?}");

    for node in &mut nodes {
        node.enter();
        node.engine.take().unwrap().stop(StopMode::Clean).await.unwrap();
    }
}
