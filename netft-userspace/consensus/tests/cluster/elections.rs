use crate::rig::{Cluster, node, report, until, vip_entry};
use netft_consensus::ConsensusError;
use netft_core::ownership::Seen;
use std::time::{Duration, Instant};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_found_a_cluster_and_remember_what_they_decided() {
    let mut cluster = Cluster::started("remember", 3).await;
    let mut times = Vec::new();
    let mut last = cluster.write(vip_entry(1)).await;
    for number in 2..20 {
        let start = Instant::now();
        last = cluster.write(vip_entry(number)).await;
        times.push(start.elapsed());
    }
    report("a commit of three nodes", &mut times);
    for node in cluster.nodes.values() {
        let disk = node.status().disk;
        let mean = Duration::from_nanos(disk.total_ns / disk.commits.max(1));
        println!("a transaction on disk: mean {mean:.1?}, max {:.1?}", Duration::from_nanos(disk.max_ns));
    }
    cluster.applied(last).await;
    let states: Vec<_> = cluster.nodes.values().map(|node| node.state()).collect();
    assert!(states.iter().all(|state| state.vips.len() == 19 && *state == states[0]));
    assert_eq!(states[0].members.len(), 3);

    for id in 1..=3 {
        cluster.stop_silently(id).await;
    }
    for id in 1..=3 {
        cluster.start(id).await;
    }
    for id in 1..=3 {
        cluster.nodes.values().for_each(|other| other.peer(node(id), Seen::Up));
    }
    let next = cluster.write(vip_entry(20)).await;
    assert!(next.term > last.term);
    cluster.applied(next).await;
    assert!(cluster.nodes.values().all(|node| node.state().vips.len() == 20));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_nodes_stand_the_loss_of_two_and_decide_nothing_without_a_majority() {
    let mut cluster = Cluster::started("five", 5).await;
    cluster.write(vip_entry(1)).await;
    for _ in 0..2 {
        let leader = cluster.leader().await;
        cluster.stop(leader).await;
    }
    let before = cluster.write(vip_entry(2)).await;
    cluster.applied(before).await;

    let leader = cluster.leader().await;
    let follower = *cluster.nodes.keys().find(|id| **id != leader).unwrap();
    cluster.stop(follower).await;
    let refused = cluster.nodes[&leader].write(vip_entry(3)).await;
    assert!(matches!(refused, Err(ConsensusError::NoMajority | ConsensusError::NotLeader(_))), "{refused:?}");
    assert!(cluster.nodes.values().all(|node| node.status().applied == before));

    cluster.start(follower).await;
    let after = cluster.write(vip_entry(4)).await;
    cluster.applied(after).await;
    let states: Vec<_> = cluster.nodes.values().map(|node| node.state()).collect();
    assert!(states.iter().all(|state| state == &states[0] && state.vips.contains_key(&crate::rig::vip(4))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_detector_brings_a_new_leader_at_once() {
    let mut cluster = Cluster::started("detector", 3).await;
    let (mut elected, mut decided) = (Vec::new(), Vec::new());
    for round in 0..6 {
        let leader = cluster.leader().await;
        cluster.stop_silently(leader).await;
        // What detection takes: then openraft's own lease has passed.
        tokio::time::sleep(Duration::from_millis(6)).await;
        let start = Instant::now();
        cluster.down(leader);
        cluster.leader().await;
        elected.push(start.elapsed());
        cluster.write(vip_entry(round)).await;
        decided.push(start.elapsed());
        cluster.start(leader).await;
        let settled = cluster.write(vip_entry(round)).await;
        cluster.applied(settled).await;
    }
    println!("{elected:.1?}");
    report("from the verdict to a new leader", &mut elected);
    report("from the verdict to a commit", &mut decided);
    // The backstop alone would take half a second each time.
    assert!(elected[elected.len() / 2] < Duration::from_millis(400), "{elected:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_verdict_silence_brings_a_new_leader() {
    let mut cluster = Cluster::started("silence", 3).await;
    let leader = cluster.leader().await;
    let start = Instant::now();
    cluster.stop_silently(leader).await;
    cluster.leader().await;
    println!("from silence to a new leader: {:.1?}", start.elapsed());
    assert!(start.elapsed() > Duration::from_millis(300), "the backstop waits for half a second of silence");
    cluster.write(vip_entry(1)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_comes_back_does_not_depose_the_leader() {
    let mut cluster = Cluster::started("back", 3).await;
    for _ in 0..3 {
        let leader = cluster.leader().await;
        let term = cluster.nodes[&leader].status().term;
        let follower = *cluster.nodes.keys().find(|id| **id != leader).unwrap();
        cluster.stop(follower).await;
        let entry = cluster.write(vip_entry(1)).await;
        cluster.start(follower).await;
        cluster.applied(entry).await;
        let end = Instant::now() + Duration::from_millis(700);
        while Instant::now() < end {
            assert_eq!(cluster.nodes[&leader].status().term, term);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(cluster.leader().await, leader);
    }
}

/// Its term goes up, and with it the leader's next append to it is refused: that costs an election, whoever wins it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_verdict_of_one_node_costs_an_election_and_nothing_else() {
    let cluster = Cluster::started("wrong", 3).await;
    let leader = cluster.leader().await;
    cluster.write(vip_entry(1)).await;
    let term = cluster.nodes[&leader].status().term;
    let follower = *cluster.nodes.keys().find(|id| **id != leader).unwrap();
    cluster.nodes[&follower].peer(node(leader), Seen::Down);
    until("a new term", || (cluster.nodes[&follower].status().term > term).then_some(())).await;
    cluster.nodes[&follower].peer(node(leader), Seen::Up);
    let entry = cluster.write(vip_entry(2)).await;
    cluster.applied(entry).await;
    println!("after a wrong verdict of one node: {} more terms", entry.term - term);
    assert!(cluster.nodes.values().all(|node| node.state().vips.len() == 2));
}
