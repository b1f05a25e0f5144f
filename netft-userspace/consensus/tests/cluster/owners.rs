use crate::rig::{Cluster, node, report, until, vip, vip_entry};
use std::time::Instant;

/// Rules 7 to 10, over consensus: commands come in order, and one owner follows the other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vip_is_assigned_moved_and_taken_from_the_dead() {
    let mut cluster = Cluster::started("owners", 3).await;
    cluster.write(vip_entry(7)).await;
    let leader = cluster.leader().await;
    let others: Vec<_> = cluster.nodes.keys().copied().filter(|id| *id != leader).collect();
    let (first, second) = (others[0], others[1]);

    cluster.nodes[&leader].assign(vip(7), Some(node(first)));
    until("the first owner", || cluster.nodes[&first].has_taken(vip(7)).then_some(())).await;

    let start = Instant::now();
    cluster.nodes[&leader].assign(vip(7), Some(node(second)));
    until("the second owner", || cluster.nodes[&second].has_taken(vip(7)).then_some(())).await;
    report("a planned move", &mut [start.elapsed()]);
    // Nobody vouches here, so the reports of the others may have been enough, and the release comes a little later.
    until("the release", || (!cluster.nodes[&first].has_taken(vip(7))).then_some(())).await;

    let log = cluster.recorders[&first].0.lock().unwrap().clone();
    let at = |what: &str| log.iter().rposition(|line| line == what);
    let (cleared, flushed) = (at("clear 7").unwrap(), at("flush").unwrap());
    let applied = log.iter().skip(flushed).position(|line| line.starts_with("applied")).unwrap();
    assert!(cleared < flushed && applied > 0, "{log:?}");

    let start = Instant::now();
    cluster.stop(second).await;
    cluster.nodes[&leader].assign(vip(7), Some(node(first)));
    until("an owner again", || cluster.nodes[&first].has_taken(vip(7)).then_some(())).await;
    report("a takeover from a dead owner, without its detection", &mut [start.elapsed()]);
    until("the end of the dead owner to be recorded", || {
        cluster.nodes[&leader].state().vips[&vip(7)].earlier.is_empty().then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_voter_stops_vouching_before_it_acknowledges_a_loss() {
    let cluster = Cluster::started("vouching", 3).await;
    cluster.write(vip_entry(3)).await;
    let leader = cluster.leader().await;
    cluster.nodes[&leader].assign(vip(3), Some(node(1)));
    until("an owner", || cluster.nodes[&1].has_taken(vip(3)).then_some(())).await;
    cluster.nodes[&leader].assign(vip(3), Some(node(2)));
    until("the next owner", || cluster.nodes[&2].has_taken(vip(3)).then_some(())).await;
    let loss = cluster.nodes[&leader].state().taken[&node(1)];
    cluster.applied(cluster.nodes[&leader].status().applied).await;
    for (id, recorder) in &cluster.recorders {
        let log = recorder.0.lock().unwrap().clone();
        let stored = log.iter().position(|line| *line == format!("vouch 1 {loss}"));
        let applied = log.iter().position(|line| {
            line.strip_prefix("applied ").is_some_and(|index| index.parse::<u64>().unwrap() >= loss)
        });
        assert!(stored.is_some() && stored < applied, "node {id}: {log:?}");
    }
}
