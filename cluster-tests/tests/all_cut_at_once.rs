//! Set-up: three nodes with messages in every shard; then a wide cluster of 64 shards.
//! Fault: `kill -9` of all at once, and back, twice; a node that joins with only the edge role.
//! Claim: what was acknowledged is there, and no replica moves: after a restart nobody acts on the
//! table of shards that was before the last one. The joiner learns the owner of every shard.

use pushonce_client::Transport;
use pushonce_cluster_tests::{Cluster, secs, until, web};
use pushonce_core::From;

#[tokio::test(flavor = "multi_thread")]
async fn after_a_restart_of_all_nothing_is_lost_and_no_replica_moves() {
    let mut cluster = Cluster::of(3).start().await;
    let topics: Vec<_> = (0..24).map(|n| format!("cut/{n}")).collect();
    let mut logs = Vec::new();
    for topic in &topics {
        logs.push(cluster.publish(0, topic, 0..3).await);
    }
    let moves = moved(&cluster);

    for _ in 0..2 {
        (0..3).for_each(|i| cluster.kill(i));
        (0..3).for_each(|i| cluster.restart(i));
        cluster.settled(3).await;
    }

    for (i, (topic, log)) in topics.iter().zip(&logs).enumerate() {
        let mut viewer = cluster.viewer(i % 3, Transport::Ws, topic, From::Start);
        assert_eq!(&viewer.messages(log.len(), secs(5)).await, log);
    }
    assert_eq!(moved(&cluster), moves, "replicas left their groups");
}

/// How often a voter was taken out of its group, or a replica given away, by the nodes' own words.
fn moved(cluster: &Cluster) -> usize {
    let left = |line: &&str| line.contains(" leaves ") || line.contains("gave a replica away");
    (0..3).map(|i| cluster.node(i).log().lines().filter(left).count()).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_joins_a_wide_cluster_learns_every_owner() {
    let mut cluster = Cluster::of(1).flags(&["--shards", "64"]).start().await;
    let edge = cluster.join_with("", &["--roles", "edge"]);
    let http = cluster.ports(edge).http;
    until("the edge node is ready", secs(20), async || {
        let ready = web::get(http, "/health/ready", &[]).await?;
        if ready.status == 200 { Ok(()) } else { Err(ready.json().to_string()) }
    })
    .await;
}
