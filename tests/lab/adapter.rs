//! `netft0`: any protocol works over it, and it is nobody else's.

use crate::support::{PATIENCE, cluster, eventually, options, output_of, whole};
use netft_userspace::listing::Adapter;
use netft_userspace::sys::device::{Persistence, TapFrames, TapQueues, open_tap, persist_tap};
use nix::net::if_::if_nametoindex;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV6, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;
use xtask::cluster::{adapter, nodes, status};
use xtask::lab::Lab;

#[test]
fn ping_reaches_every_peer_up_to_the_full_mtu() {
    let lab = cluster(&options(3, 2));
    for (from, to) in [("n1", "n2"), ("n2", "n3"), ("n3", "n1")] {
        let peer = adapter(&lab, to).unwrap();
        let v4 = peer.ipv4.to_string();
        let v6 = format!("{}%netft0", peer.ipv6);
        // ICMP headers and IP headers come on top of what ping calls size.
        for (address, overhead) in [(&v4, 28), (&v6, 48)] {
            let size = (peer.mtu - overhead).to_string();
            for size in ["56", size.as_str()] {
                output_of(&lab, from, &["ping", "-c3", "-i0.05", "-W5", "-Mdo", "-s", size, address]);
            }
        }
    }
}

#[test]
fn tcp_carries_bytes_unharmed_in_both_families() {
    let lab = cluster(&options(2, 2));
    let peer = adapter(&lab, "n2").unwrap();
    for address in [IpAddr::V4(peer.ipv4), IpAddr::V6(peer.ipv6)] {
        let listener = lab.enter("n2", || Ok(TcpListener::bind(scoped(address, 0)?)?)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let sent: Vec<u8> =
            (0..4_000_000u32).map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes()[3]).collect();
        let expected = sent.clone();
        let sender = std::thread::scope(|scope| {
            let sender = scope.spawn(|| {
                let mut stream = lab.enter("n1", || Ok(TcpStream::connect(scoped(address, port)?)?))?;
                stream.set_write_timeout(Some(PATIENCE))?;
                stream.write_all(&sent)?;
                anyhow::Ok(())
            });
            let (mut stream, _) = listener.accept().unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let mut received = Vec::new();
            stream.read_to_end(&mut received).unwrap();
            assert!(received == expected, "{} of {} bytes, or not the same", received.len(), expected.len());
            sender.join().unwrap()
        });
        sender.unwrap();
    }
}

#[test]
fn udp_datagrams_larger_than_a_frame_arrive_whole() {
    let lab = cluster(&options(2, 2));
    let peer = adapter(&lab, "n2").unwrap();
    for address in [IpAddr::V4(peer.ipv4), IpAddr::V6(peer.ipv6)] {
        let receiver = socket(&lab, "n2", address);
        let target = receiver.local_addr().unwrap();
        let sender = lab.enter("n1", || Ok(UdpSocket::bind(scoped(any(address), 0)?)?)).unwrap();
        let target = lab.enter("n1", || scoped(target.ip(), target.port())).unwrap();
        let large: Vec<u8> = (0..9000u32).map(|i| i.to_le_bytes()[0]).collect();
        let mut buffer = [0; 10_000];
        let length = eventually("a large datagram", PATIENCE, || {
            sender.send_to(&large, target).unwrap();
            receiver.recv(&mut buffer).ok()
        });
        assert!(buffer[..length] == large[..]);
    }
}

#[test]
fn multicast_and_broadcast_reach_all_peers() {
    let lab = cluster(&options(3, 2));
    let group = Ipv4Addr::new(239, 77, 0, 1);
    let own = adapter(&lab, "n1").unwrap().ipv4;
    let receivers: Vec<(&str, UdpSocket)> = ["n2", "n3"]
        .into_iter()
        .map(|node| {
            let interface = adapter(&lab, node).unwrap().ipv4;
            let receiver = lab.enter(node, || Ok(UdpSocket::bind(("0.0.0.0", 7777))?)).unwrap();
            receiver.join_multicast_v4(&group, &interface).unwrap();
            receiver.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
            (node, receiver)
        })
        .collect();
    // Bound to the adapter's address; the group's route names the adapter.
    let sender = lab.enter("n1", || Ok(UdpSocket::bind((own, 0))?)).unwrap();
    sender.set_broadcast(true).unwrap();
    output_of(&lab, "n1", &["ip", "route", "add", "239.77.0.0/16", "dev", "netft0"]);
    for target in [group, Ipv4Addr::new(169, 254, 255, 255)] {
        for (node, receiver) in &receivers {
            eventually(&format!("{target} at {node}"), PATIENCE, || {
                sender.send_to(target.to_string().as_bytes(), (target, 7777)).unwrap();
                let mut buffer = [0; 64];
                let (length, from) = receiver.recv_from(&mut buffer).ok()?;
                (buffer[..length] == *target.to_string().as_bytes() && from.ip() == IpAddr::V4(own))
                    .then_some(())
            });
        }
    }
}

/// As on machines made from one image: the first interface has the MAC of somebody else's, from which both make the same
/// identity. (Frames go by the other network: a switch can't tell the two ports apart.)
#[test]
fn of_two_nodes_with_one_identity_the_higher_id_takes_another() {
    let lab = cluster(&options(2, 2));
    let mac_of =
        |node: &str| output_of(&lab, node, &["cat", "/sys/class/net/net1/address"]).trim().to_owned();
    let usual = adapter(&lab, "n1").unwrap();
    let mac = mac_of("n1");
    lab.stop("n2").unwrap();
    output_of(&lab, "n2", &["ip", "link", "set", "dev", "net1", "address", &mac]);
    lab.start("n2").unwrap();
    eventually("n2 has given way and can be reached", PATIENCE, || {
        let [own, other] = ["n1", "n2"].map(|node| adapter(&lab, node).unwrap());
        assert_eq!((own.mac.as_str(), own.ipv4), (usual.mac.as_str(), usual.ipv4), "n1 keeps its identity");
        let differs = own.mac != other.mac && own.ipv4 != other.ipv4 && own.ipv6 != other.ipv6;
        let target = other.ipv4.to_string();
        let ping = || lab.exec("n1", &["ping", "-c1", "-W1", &target]).unwrap().status.success();
        (differs && ping()).then_some(())
    });
}

#[test]
fn neighbours_are_known_without_asking() {
    let lab = cluster(&options(3, 1));
    for node in nodes(&lab) {
        let peers: Vec<Adapter> = nodes(&lab)
            .iter()
            .filter(|peer| **peer != node)
            .map(|peer| adapter(&lab, peer).unwrap())
            .collect();
        let listed = output_of(&lab, &node, &["ip", "neigh", "show", "dev", "netft0", "nud", "permanent"]);
        for peer in peers {
            for address in [peer.ipv4.to_string(), peer.ipv6.to_string()] {
                let entry = format!("{address} lladdr {}", peer.mac);
                assert!(listed.contains(&entry), "{node} lacks {entry:?}:\n{listed}");
            }
        }
    }
}

fn any(address: IpAddr) -> IpAddr {
    if address.is_ipv4() { [0; 4].into() } else { [0; 16].into() }
}

/// With the adapter as scope where the address needs one. Call it in a host.
fn scoped(address: IpAddr, port: u16) -> anyhow::Result<SocketAddr> {
    Ok(match address {
        IpAddr::V6(v6) if v6.is_unicast_link_local() => {
            SocketAddrV6::new(v6, port, 0, if_nametoindex("netft0")?).into()
        }
        other => SocketAddr::new(other, port),
    })
}

fn socket(lab: &Lab, host: &str, address: IpAddr) -> UdpSocket {
    let socket = lab.enter(host, || Ok(UdpSocket::bind(scoped(address, 0)?)?)).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    socket
}

/// A descriptor of a node's `netft0`, which is made if there is none.
fn tap(lab: &Lab, node: &str, queues: TapQueues) -> File {
    lab.enter(node, || Ok(open_tap("netft0", queues, TapFrames::Bare)?)).unwrap()
}

#[test]
fn an_adapter_with_a_single_queue_is_replaced() {
    let lab = cluster(&options(2, 1));
    lab.kill("n1").unwrap();
    // As an earlier version would have left it.
    output_of(&lab, "n1", &["ip", "link", "del", "netft0"]);
    persist_tap(&tap(&lab, "n1", TapQueues::Single), Persistence::Keep).unwrap();
    lab.start("n1").unwrap();
    whole(&lab);
    let peer = adapter(&lab, "n2").unwrap().ipv4.to_string();
    output_of(&lab, "n1", &["ping", "-c5", "-i0.01", "-W5", &peer]);
    let notes = status(&lab, "n1").unwrap().engine.notes;
    assert!(notes.iter().any(|note| note.contains("with a single queue: it was made anew")), "{notes:?}");
}

#[test]
fn an_adapter_of_single_frames_is_taken_over() {
    let lab = cluster(&options(2, 1));
    lab.kill("n1").unwrap();
    // Several queues, but no super-packets, as an earlier version would have left it.
    output_of(&lab, "n1", &["ip", "link", "del", "netft0"]);
    persist_tap(&tap(&lab, "n1", TapQueues::Multiple), Persistence::Keep).unwrap();
    let index = || lab.enter("n1", || Ok(if_nametoindex("netft0")?)).unwrap();
    let before = index();
    lab.start("n1").unwrap();
    whole(&lab);
    assert_eq!(index(), before, "nobody's routes or sockets lose their device");
    let peer = adapter(&lab, "n2").unwrap().ipv4.to_string();
    output_of(&lab, "n1", &["ping", "-c5", "-i0.01", "-W5", &peer]);
}

#[test]
fn an_adapter_that_another_program_uses_is_refused() {
    let lab = cluster(&options(2, 1));
    for queues in [TapQueues::Multiple, TapQueues::Single] {
        lab.kill("n1").unwrap();
        if queues == TapQueues::Single {
            output_of(&lab, "n1", &["ip", "link", "del", "netft0"]);
        }
        let other = tap(&lab, "n1", queues);
        let error = lab.start("n1").unwrap_err().to_string();
        assert!(error.contains("cannot make the adapter netft0") && error.contains("busy"), "{error}");
        drop(other);
        lab.start("n1").unwrap();
        whole(&lab);
    }
}
