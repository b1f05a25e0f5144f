use crate::rig::{Cluster, node, place, until, vip, vip_entry};
use netft_core::ownership::Standing;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_join_and_leave_a_cluster_that_goes_on() {
    let mut cluster = Cluster::started("join", 3).await;
    cluster.write(vip_entry(1)).await;
    cluster.start(4).await;
    let leader = cluster.leader_of_voters().await;
    cluster.nodes[&leader].add(node(4), place(Standing::Active)).await.unwrap();
    let entry = cluster.write(vip_entry(2)).await;
    cluster.applied(entry).await;
    assert!(cluster.nodes[&4].status().voters.first.contains(node(4)));

    // Four voters stand the loss of one only: two of the others must acknowledge.
    let away = (1..=3).find(|id| *id != leader).unwrap();
    cluster.nodes[&leader].remove(node(away)).await.unwrap();
    cluster.stop(away).await;
    let voters = cluster.nodes[&leader].status().voters;
    assert!(voters.second.is_empty() && voters.first.len() == 3 && !voters.first.contains(node(away)));
    assert!(!cluster.nodes[&leader].state().members.contains_key(&node(away)));
    let entry = cluster.write(vip_entry(3)).await;
    cluster.applied(entry).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_removed_is_drained_first_and_gives_its_vips_away() {
    let cluster = Cluster::started("drain", 3).await;
    cluster.write(vip_entry(5)).await;
    let leader = cluster.leader().await;
    let others: Vec<_> = (1..=3).filter(|id| *id != leader).collect();
    let (away, heir) = (others[0], others[1]);
    cluster.nodes[&leader].assign(vip(5), Some(node(away)));
    until("an owner", || cluster.nodes[&away].has_taken(vip(5)).then_some(())).await;
    let standing = || cluster.nodes[&leader].state().members[&node(away)].standing;
    let policy = async {
        until("the node to be drained", || (standing() == Standing::Drained).then_some(())).await;
        cluster.nodes[&leader].assign(vip(5), Some(node(heir)));
    };
    let (removed, ()) = tokio::join!(cluster.nodes[&leader].remove(node(away)), policy);
    removed.unwrap();
    let state = cluster.nodes[&leader].state();
    assert!(!state.members.contains_key(&node(away)));
    assert_eq!(state.vips[&vip(5)].owner, Some(node(heir)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_lost_its_store_stays_out_until_it_is_added_again() {
    let mut cluster = Cluster::started("lost", 3).await;
    cluster.write(vip_entry(1)).await;
    let leader = cluster.leader().await;
    let lost = (1..=3).find(|id| *id != leader).unwrap();
    cluster.stop(lost).await;
    std::fs::remove_dir_all(cluster.store(lost)).unwrap();
    cluster.start(lost).await;
    let trouble = until("the node to hear of it", || cluster.nodes[&lost].status().trouble).await;
    assert!(
        trouble.contains("stays out") && trouble.contains("removed from the cluster and added again"),
        "{trouble}"
    );

    // The others go on, and it neither votes nor founds anything, though it may be the lowest.
    cluster.nodes[&leader].write(vip_entry(2)).await.unwrap();
    let status = cluster.nodes[&lost].status();
    assert_eq!((status.last.index, status.leader), (0, None));

    let refused = cluster.nodes[&leader].add(node(lost), place(Standing::Active)).await.unwrap_err();
    assert!(refused.to_string().contains("remove it first"), "{refused}");
    cluster.nodes[&leader].remove(node(lost)).await.unwrap();
    cluster.nodes[&leader].add(node(lost), place(Standing::Active)).await.unwrap();
    let entry = cluster.write(vip_entry(3)).await;
    cluster.applied(entry).await;
    until("its trouble to end", || cluster.nodes[&lost].status().trouble.is_none().then_some(())).await;
    assert!(cluster.nodes[&lost].status().voters.first.contains(node(lost)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_witness_makes_the_majority_of_two_nodes() {
    let mut cluster = Cluster::new("witness", 3);
    cluster.founders.insert(node(3), place(Standing::Witness));
    for id in 1..=3 {
        cluster.start(id).await;
    }
    cluster.leader().await;
    let entry = cluster.write(vip_entry(1)).await;
    cluster.applied(entry).await;
    assert_eq!(cluster.nodes[&1].state().members[&node(3)].standing, Standing::Witness);
    cluster.stop(1).await;
    let entry = cluster.write(vip_entry(2)).await;
    cluster.applied(entry).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn snapshots_keep_the_log_short_and_bring_new_nodes_up_to_date() {
    let mut cluster = Cluster::new("snapshots", 2);
    cluster.snapshot_entries = 20;
    for id in 1..=2 {
        cluster.start(id).await;
    }
    cluster.leader().await;
    let mut last = cluster.write(vip_entry(0)).await;
    for number in 1..70 {
        last = cluster.write(vip_entry(number)).await;
    }
    cluster.applied(last).await;
    cluster.start(3).await;
    let leader = cluster.leader_of_voters().await;
    cluster.nodes[&leader].add(node(3), place(Standing::Active)).await.unwrap();
    until("the snapshot", || (cluster.nodes[&3].state().vips.len() == 70).then_some(())).await;
    assert_eq!(cluster.nodes[&3].state().members.len(), 3);

    for id in 1..=3 {
        cluster.stop_silently(id).await;
    }
    for id in 1..=3 {
        cluster.start(id).await;
        cluster.nodes.values().for_each(|other| {
            (1..=3).for_each(|peer| other.peer(node(peer), netft_core::ownership::Seen::Up))
        });
    }
    let entry = cluster.write(vip_entry(70)).await;
    cluster.applied(entry).await;
    assert!(cluster.nodes.values().all(|node| node.state().vips.len() == 71));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_disagree_on_who_founds_found_nothing() {
    let mut cluster = Cluster::new("disagree", 3);
    cluster.start(2).await;
    cluster.founders.remove(&node(3));
    cluster.start(1).await;
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    assert!(cluster.nodes.values().all(|node| node.status().last.index == 0));
}

impl Cluster {
    /// The leader by those that have one: a node that hasn't joined knows none.
    pub async fn leader_of_voters(&self) -> u16 {
        until("a leader", || {
            self.nodes.iter().find(|(id, other)| other.status().leader == Some(node(**id))).map(|(id, _)| *id)
        })
        .await
    }
}
