//! Super-packets: bulk traffic over `netft0` arrives unharmed, in few calls, and with right checksums where it goes on.

use crate::support::{PATIENCE, cluster, eventually, options, output_of};
use netft_userspace::engine::DataWay;
use netft_userspace::sys::device::{TapFrames, TapQueues, open_tap};
use netft_userspace::sys::socket::{
    BATCH, Batch, MAX_MESSAGE, Run, SocketAddress, receive_merged, send_runs,
};
use netft_userspace::sys::{poll, poll_in};
use nix::net::if_::if_nametoindex;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV6, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use xtask::cluster::{adapter, status};
use xtask::lab::Lab;

/// Bytes of a stream: some thousand frames.
const STREAM: usize = 12_000_000;

/// With the adapter as scope where the address needs one. Call it in a host.
fn scoped(address: IpAddr, port: u16) -> anyhow::Result<SocketAddr> {
    Ok(match address {
        IpAddr::V6(v6) if v6.is_unicast_link_local() => {
            SocketAddrV6::new(v6, port, 0, if_nametoindex("netft0")?).into()
        }
        other => SocketAddr::new(other, port),
    })
}

/// Byte `at` of a stream; no frame looks like another.
fn content(stream: usize, at: usize) -> u8 {
    let word = (at / 8 + stream).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    word.to_le_bytes()[at % 8]
}

/// One stream from one host to an address of the other, looked at byte by byte.
fn stream(lab: &Lab, number: usize, from: &str, to: &str, address: IpAddr) {
    let listener = lab.enter(to, || Ok(TcpListener::bind(scoped(address, 0)?)?)).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::scope(|scope| {
        let sender = scope.spawn(|| {
            let mut stream = lab.enter(from, || Ok(TcpStream::connect(scoped(address, port)?)?)).unwrap();
            stream.set_write_timeout(Some(PATIENCE)).unwrap();
            let bytes: Vec<u8> = (0..STREAM).map(|at| content(number, at)).collect();
            stream.write_all(&bytes).unwrap();
        });
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let (mut buffer, mut at) = (vec![0; 1 << 18], 0);
        loop {
            let length = stream.read(&mut buffer).unwrap();
            if length == 0 {
                break;
            }
            for byte in &buffer[..length] {
                assert_eq!(
                    *byte,
                    content(number, at),
                    "byte {at} of stream {number} from {from} to {address}"
                );
                at += 1;
            }
        }
        assert_eq!(at, STREAM, "from {from} to {address}");
        sender.join().unwrap();
    });
}

/// Streams of both families in both directions, all at once.
fn streams(lab: &Lab) {
    std::thread::scope(|scope| {
        for (number, (from, to)) in [("n1", "n2"), ("n2", "n1")].into_iter().enumerate() {
            let peer = adapter(lab, to).unwrap();
            scope.spawn(move || stream(lab, number, from, to, peer.ipv4.into()));
            scope.spawn(move || stream(lab, number + 2, from, to, peer.ipv6.into()));
        }
    });
}

/// Frames that a node has taken in, and packets that its `netft0` was given for them.
fn given(lab: &Lab, node: &str) -> (u64, u64) {
    let frames = status(lab, node).unwrap().data.frames_received;
    let table = output_of(lab, node, &["cat", "/proc/net/dev"]);
    let line = table.lines().find_map(|line| line.trim().strip_prefix("netft0:")).unwrap();
    (frames, line.split_whitespace().nth(1).unwrap().parse().unwrap())
}

#[test]
fn tcp_at_full_speed_is_whole_in_both_directions_on_every_path() {
    let paths = [("socket", DataWay::Socket), ("xdp", DataWay::Xdp), ("xdp-generic", DataWay::XdpGeneric)];
    for (path, way) in paths {
        let lab = cluster(&options(2, 1).set(&format!("datapath.path=\"{path}\"")).unwrap());
        crate::datapath::everywhere(&lab, way);
        let before = ["n1", "n2"].map(|node| given(&lab, node));
        streams(&lab);
        for (node, before) in ["n1", "n2"].into_iter().zip(before) {
            let after = given(&lab, node);
            let (frames, packets) = (after.0 - before.0, after.1 - before.1);
            println!("{path} {node}: {frames} frames in {packets} packets");
            assert!(frames >= 2 * STREAM as u64 / 1400, "{path} {node}: {frames} frames");
            // Acknowledgements are never merged.
            assert!(packets * 2 <= frames, "{path} {node}: {frames} frames in {packets} packets");
        }
    }
}

#[test]
fn tcp_is_whole_at_every_level_whichever_ways_both_ends_use() {
    for level in ["clear", "encrypted"] {
        let settings = options(2, 1).set("datapath.path=\"xdp\"").unwrap();
        let lab = cluster(&settings.set(&format!("security.level=\"{level}\"")).unwrap());
        crate::datapath::everywhere(&lab, DataWay::Xdp);
        streams(&lab);
        // What n1 receives comes from the stack of this host, with partial checksums; n2's kernel looks at those of n1.
        crate::datapath::reload_with(&lab, "n2", "socket");
        eventually("n2 uses sockets", PATIENCE, || {
            let interfaces = status(&lab, "n2").unwrap().interfaces;
            let paths = interfaces.into_iter().filter_map(|interface| interface.path);
            paths.into_iter().all(|path| path.transmit == DataWay::Socket).then_some(())
        });
        streams(&lab);
        for node in ["n1", "n2"] {
            let drops = status(&lab, node).unwrap().data.drops;
            for reason in ["data_reject_tag", "data_reject_checksum", "data_reject_malformed"] {
                assert_eq!(drops[reason], 0, "{level} {node} {reason}");
            }
        }
    }
}

#[test]
fn larger_frames_are_cut_and_merged_as_well() {
    let lab = cluster(&options(2, 1));
    let ordinary = adapter(&lab, "n1").unwrap().mtu;
    for (host, device) in [("n1", "net1"), ("n2", "net1")] {
        output_of(&lab, host, &["ip", "link", "set", device, "mtu", "3000"]);
    }
    let widen = "ip link set n1-net1 mtu 3000 && ip link set n2-net1 mtu 3000 && ip link set client-net1 mtu 3000 && ip link set net1 mtu 3000";
    lab.enter_switch(|| {
        let done = std::process::Command::new("sh").args(["-c", widen]).status()?;
        anyhow::ensure!(done.success(), "{widen}");
        Ok(())
    })
    .unwrap();
    for node in ["n1", "n2"] {
        eventually("netft0 has larger frames", PATIENCE, || {
            (adapter(&lab, node).unwrap().mtu == ordinary + 1500).then_some(())
        });
    }
    streams(&lab);
}

/// Everything that arrives, until it is `count` datagrams.
fn collect(socket: &UdpSocket, count: usize) -> Vec<Vec<u8>> {
    let mut batch = Batch::new(MAX_MESSAGE);
    let mut found = Vec::new();
    while found.len() < count {
        let ready = poll(&mut [poll_in(socket.as_fd())], Some(1_000_000_000)).unwrap();
        if ready == 0 {
            break;
        }
        let received = batch.receive(socket.as_fd()).unwrap_or(0);
        for index in 0..received.min(BATCH) {
            found.extend(batch.message(index).datagrams().map(|datagram| datagram.to_vec()));
        }
    }
    found
}

#[test]
fn divided_datagrams_arrive_as_what_they_are() {
    let lab = cluster(&options(3, 1));
    let peer = adapter(&lab, "n2").unwrap();
    let own = adapter(&lab, "n1").unwrap();
    // 40 datagrams and a shorter one, in one call.
    let bytes: Vec<u8> = (0..40 * 1200 + 77).map(|at| content(9, at)).collect();
    let expected: Vec<Vec<u8>> = bytes.chunks(1200).map(<[u8]>::to_vec).collect();
    let exchange = |target: SocketAddress, source: IpAddr, receivers: &[UdpSocket]| {
        let sender = lab.enter("n1", || Ok(UdpSocket::bind(scoped(source, 0)?)?)).unwrap();
        for _ in 0..20 {
            let run = Run { bytes: &bytes, segment: 1200, remote: &target };
            let (sent, error) = send_runs(sender.as_fd(), std::iter::once(run));
            assert_eq!(sent, 1, "{error:?}");
            for receiver in receivers {
                assert!(collect(receiver, expected.len()) == expected, "{target:?} from {source}");
            }
        }
    };
    for prepare in [|_: &UdpSocket| {}, |socket: &UdpSocket| receive_merged(socket.as_fd()).unwrap()] {
        let four = lab.enter("n2", || Ok(UdpSocket::bind((peer.ipv4, 0))?)).unwrap();
        prepare(&four);
        let target = SocketAddress::new(peer.ipv4.into(), four.local_addr().unwrap().port());
        exchange(target, own.ipv4.into(), &[four]);
    }
    // To everybody: in each of both copies.
    let group = Ipv4Addr::new(239, 77, 0, 2);
    output_of(&lab, "n1", &["ip", "route", "add", "239.77.0.0/16", "dev", "netft0"]);
    let members = ["n2", "n3"].map(|node| {
        let socket = lab.enter(node, || Ok(UdpSocket::bind(("0.0.0.0", 7778))?)).unwrap();
        socket.join_multicast_v4(&group, &adapter(&lab, node).unwrap().ipv4).unwrap();
        socket
    });
    exchange(SocketAddress::new(group.into(), 7778), own.ipv4.into(), &members);
}

/// A cable that looks at checksums: TAP devices without offloads in n2 and the client, so that the kernels on both ends
/// complete and check them, and in between everything is looked at once more.
struct Beyond {
    taps: [File; 2],
    stop: AtomicBool,
    seen: AtomicU64,
}

impl Beyond {
    fn new(lab: &Lab) -> Self {
        let open =
            |host| lab.enter(host, || Ok(open_tap("beyond", TapQueues::Single, TapFrames::Bare)?)).unwrap();
        Self { taps: ["n2", "client"].map(open), stop: AtomicBool::new(false), seen: AtomicU64::new(0) }
    }

    fn carry(&self, mut from: &File, mut to: &File) {
        let mut frame = vec![0; 70_000];
        while !self.stop.load(Ordering::Acquire) {
            poll(&mut [poll_in(from.as_fd())], Some(10_000_000)).unwrap();
            while let Ok(length) = from.read(&mut frame) {
                assert!(length <= 1514, "a frame of {length} bytes");
                if let Some(protocol) = protocol_if_right(&frame[..length]) {
                    self.seen.fetch_add(u64::from(protocol == 6), Ordering::Relaxed);
                }
                // What there is no room for is lost, as on any wire.
                let _ = to.write(&frame[..length]);
            }
        }
    }
}

/// RFC 1071 as plainly as can be.
fn plain_sum(parts: &[&[u8]]) -> u16 {
    let mut sum = 0u32;
    for pair in parts.concat().chunks(2) {
        sum += u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).unwrap()
}

/// The protocol of a TCP or UDP frame, whose checksums are right.
fn protocol_if_right(frame: &[u8]) -> Option<u8> {
    let (protocol, addresses, transport) = match frame[12..14] {
        [0x08, 0x00] => (frame[23], &frame[26..34], &frame[34..]),
        [0x86, 0xdd] => (frame[20], &frame[22..54], &frame[54..]),
        _ => return None,
    };
    if !matches!(protocol, 6 | 17) {
        return None;
    }
    if frame[13] == 0 {
        assert_eq!(plain_sum(&[&frame[14..34]]), 0xffff, "IPv4 header");
        assert_eq!(usize::from(u16::from_be_bytes([frame[16], frame[17]])), frame.len() - 14);
    }
    let length = u16::try_from(transport.len()).unwrap().to_be_bytes();
    assert_eq!(plain_sum(&[addresses, &[0, protocol], &length, transport]), 0xffff, "protocol {protocol}");
    Some(protocol)
}

#[test]
fn what_goes_on_beyond_netft0_has_right_checksums_both_ways() {
    for (path, way) in [("socket", DataWay::Socket), ("xdp", DataWay::Xdp)] {
        let options = options(2, 1).set(&format!("datapath.path=\"{path}\"")).unwrap();
        // netft keeps off what lies beyond.
        let options = options.set("network.beyond={match=[\"beyond\"], role=0}").unwrap();
        let lab = cluster(&options);
        crate::datapath::everywhere(&lab, way);
        let beyond = Beyond::new(&lab);
        // 1 = netft0 of n1 and n2, 2 = beyond it.
        for (host, device, subnet, number) in [
            ("n1", "netft0", 1, 1),
            ("n2", "netft0", 1, 2),
            ("n2", "beyond", 2, 1),
            ("client", "beyond", 2, 2),
        ] {
            let (v4, v6) = (format!("10.99.{subnet}.{number}/24"), format!("fd99:{subnet}::{number}/64"));
            output_of(&lab, host, &["ip", "address", "add", &v4, "dev", device]);
            output_of(&lab, host, &["ip", "address", "add", &v6, "dev", device, "nodad"]);
            output_of(&lab, host, &["ip", "link", "set", device, "up"]);
        }
        for (host, far, near) in [("n1", 2, "1::2"), ("client", 1, "2::1")] {
            let (v4, via) = (format!("10.99.{far}.0/24"), format!("10.99.{}", near.replace("::", ".")));
            output_of(&lab, host, &["ip", "route", "add", &v4, "via", &via]);
            let (v6, via) = (format!("fd99:{far}::/64"), format!("fd99:{near}"));
            output_of(&lab, host, &["ip", "route", "add", &v6, "via", &via]);
        }
        for key in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
            lab.enter("n2", || Ok(std::fs::write(format!("/proc/sys/net/{key}"), "1")?)).unwrap();
        }
        std::thread::scope(|scope| {
            scope.spawn(|| beyond.carry(&beyond.taps[0], &beyond.taps[1]));
            scope.spawn(|| beyond.carry(&beyond.taps[1], &beyond.taps[0]));
            let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                for (from, to, v4, v6) in
                    [("n1", "client", "10.99.2.2", "fd99:2::2"), ("client", "n1", "10.99.1.1", "fd99:1::1")]
                {
                    stream(&lab, 5, from, to, v4.parse().unwrap());
                    stream(&lab, 6, from, to, v6.parse().unwrap());
                }
            }));
            beyond.stop.store(true, Ordering::Release);
            done.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        });
        assert!(beyond.seen.load(Ordering::Relaxed) > 4 * STREAM as u64 / 1500, "the streams came by it");
    }
}
