use crate::rig::{Cluster, SOON, until, vip_entry};
use std::time::Instant;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

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
