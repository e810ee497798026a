//! Set-up: three nodes with messages in every shard; then a cluster of 64 shards.
//! Fault: `kill -9` of all nodes at once and a restart, twice; a node joins with only the edge role.
//! Claim: acknowledged messages are kept, and no replica moves: after a restart, no node acts on an outdated
//! shard table. The joined node learns the owner of every shard.

use pushonce_client::Transport;
use pushonce_cluster_tests::{ProcessCluster, http_client, secs, wait_until};
use pushonce_core::StartFrom;

#[tokio::test(flavor = "multi_thread")]
async fn restart_of_all_nodes_loses_no_message_and_moves_no_replica() {
    let mut cluster = ProcessCluster::with_nodes(3).start().await;
    let topics: Vec<_> = (0..24).map(|n| format!("cut/{n}")).collect();
    let mut logs = Vec::new();
    for topic in &topics {
        logs.push(cluster.publish_numbers(0, topic, 0..3).await);
    }
    let moves_before = count_replica_moves(&cluster);

    for _ in 0..2 {
        (0..3).for_each(|i| cluster.kill(i));
        (0..3).for_each(|i| cluster.restart(i));
        cluster.wait_settled(3).await;
    }

    for (i, (topic, log)) in topics.iter().zip(&logs).enumerate() {
        let mut viewer = cluster.subscriber(i % 3, Transport::Ws, topic, StartFrom::Start);
        assert_eq!(&viewer.next_messages(log.len(), secs(5)).await, log);
    }
    assert_eq!(count_replica_moves(&cluster), moves_before, "the number of replica moves");
}

/// The number of log lines about removed voters and transferred replicas.
fn count_replica_moves(cluster: &ProcessCluster) -> usize {
    let is_move =
        |line: &&str| line.contains("removing voter ") || line.contains("gave a replica away");
    (0..3).map(|i| cluster.node(i).log_text().lines().filter(is_move).count()).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn node_that_joins_a_cluster_of_64_shards_learns_every_owner() {
    let mut cluster = ProcessCluster::with_nodes(1).flags(&["--shards", "64"]).start().await;
    let edge = cluster.join_with("", &["--roles", "edge"]);
    let http = cluster.ports(edge).http;
    wait_until("the edge node is ready", secs(20), async || {
        let ready = http_client::get(http, "/health/ready", &[]).await?;
        if ready.status == 200 { Ok(()) } else { Err(ready.json().to_string()) }
    })
    .await;
}
