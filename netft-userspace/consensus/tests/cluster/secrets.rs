use crate::rig::{Cluster, SOON, node, until, vip_entry};
use std::sync::{Arc, Mutex};
use std::time::Instant;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_another_secret_is_refused_and_counted() {
    let mut cluster = Cluster::started("secret", 3).await;
    cluster.stop(3).await;
    cluster.secret = "another secret, just as long as that";
    cluster.start(3).await;
    until("a refusal", || (cluster.nodes[&1].status().refused.handshake > 0).then_some(())).await;
    let entry = cluster.nodes[&cluster.leader_of_voters().await].write(vip_entry(1)).await.unwrap();
    assert!(cluster.nodes[&3].status().last < entry);
}

/// Whoever doesn't know the secret costs a bounded amount of work, and the cluster goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_garbage_and_silence_are_turned_away() {
    let cluster = Cluster::started("garbage", 2).await;
    let address = *cluster.addresses.values().next().unwrap();
    let mut silent = Vec::new();
    for round in 0..200_u32 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        match round % 3 {
            0 => silent.push(stream),
            1 => drop(stream.write_all(&[0xff; 512]).await),
            _ => {
                let mut message = vec![60, 0];
                message.extend([9; 60]);
                drop(stream.write_all(&message).await);
            }
        }
    }
    let refused = until("the refusals", || {
        let refused = cluster.nodes[&1].status().refused;
        (refused.handshake + refused.busy >= 190).then_some(refused)
    })
    .await;
    println!("{refused:?}");
    cluster.write(vip_entry(1)).await;

    // Who says nothing is closed.
    let start = Instant::now();
    for mut stream in silent {
        let mut nothing = [0; 1];
        assert!(!matches!(stream.read(&mut nothing).await, Ok(1)));
    }
    assert!(start.elapsed() < SOON);

    // Other addresses than those of members are closed before anything is computed.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.77:0".parse().unwrap()).unwrap();
    let mut stream = socket.connect(address).await.unwrap();
    let mut nothing = [0; 1];
    assert!(!matches!(stream.read(&mut nothing).await, Ok(1)));
    until("a stranger", || (cluster.nodes[&1].status().refused.stranger == 1).then_some(())).await;
}

/// Between two nodes; keeps what the first connection brought from the one that connected.
struct Tap {
    heard: Arc<Mutex<Vec<u8>>>,
    connections: Arc<Mutex<usize>>,
}

async fn tap(listener: TcpListener, to: std::net::SocketAddr) -> Tap {
    let tap = Tap { heard: Arc::default(), connections: Arc::default() };
    let (heard, connections) = (tap.heard.clone(), tap.connections.clone());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            *connections.lock().unwrap() += 1;
            let first = *connections.lock().unwrap() == 1;
            let onward = TcpStream::connect(to).await.unwrap();
            let (mut from, mut back) = stream.into_split();
            let (mut other, mut on) = onward.into_split();
            tokio::spawn(async move { drop(tokio::io::copy(&mut other, &mut back).await) });
            let heard = heard.clone();
            tokio::spawn(async move {
                let mut bytes = [0; 4096];
                while let Ok(len @ 1..) = from.read(&mut bytes).await {
                    if first {
                        heard.lock().unwrap().extend(&bytes[..len]);
                    }
                    if on.write_all(&bytes[..len]).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    tap
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replayed_handshake_does_not_end_the_connection_of_whom_it_pretends_to_be() {
    let cluster = Cluster::started("replay", 3).await;
    let leader = cluster.leader().await;
    let follower = if leader == 1 { 2 } else { 1 };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let place = listener.local_addr().unwrap();
    let target = cluster.addresses[&node(follower)];
    let tap = tap(listener, target).await;
    cluster.nodes[&leader].set_address(node(follower), Some(place));
    cluster.write(vip_entry(1)).await;
    until("what the leader says", || (tap.heard.lock().unwrap().len() > 500).then_some(())).await;
    let heard = tap.heard.lock().unwrap().clone();
    let handshake = 2 + usize::from(u16::from_le_bytes([heard[0], heard[1]]));
    for bytes in [&heard[..handshake], &heard[..]] {
        let before = cluster.nodes[&follower].status().refused.handshake;
        let mut stream = TcpStream::connect(target).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        until("the refusal", || (cluster.nodes[&follower].status().refused.handshake > before).then_some(()))
            .await;
    }
    cluster.write(vip_entry(2)).await;
    assert_eq!(*tap.connections.lock().unwrap(), 1, "the leader had to connect again");
}
