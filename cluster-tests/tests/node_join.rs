//! Set-up: three nodes under load, with subscribers.
//! Fault: only membership changes: a fourth node joins; one is killed while it joins; nodes restart with
//! their data, without it, and with the data of another cluster.
//! Claim: about a quarter of the owners move, all of them to the new node, and no message is lost, duplicated
//! or reordered meanwhile; the control group has three voters. A node id is never reused, and a node that may
//! not join receives the reason.

use std::collections::BTreeMap;

use pushonce_client::Transport;
use pushonce_cluster_tests::{ProcessCluster, SentMessage, secs};
use pushonce_core::StartFrom;

#[tokio::test(flavor = "multi_thread")]
async fn fourth_node_takes_a_quarter_of_the_shards_without_message_loss() {
    let mut cluster = ProcessCluster::with_nodes(3).start().await;
    let topics: Vec<_> = (0..8).map(|n| format!("game/{n}")).collect();
    let mut viewers = BTreeMap::new();
    for (i, topic) in topics.iter().enumerate() {
        viewers.insert(topic, cluster.subscriber(i % 3, Transport::Ws, topic, StartFrom::Start));
    }
    let mut load = cluster.start_load(0, &topics);
    load.wait_acknowledged(10, secs(30)).await;
    let before = shard_owners(&cluster).await;

    let fourth = cluster.join("");
    cluster.wait_settled(4).await;
    load.wait_acknowledged(10, secs(30)).await;

    let id = cluster.node_id(0, fourth).await;
    let after = shard_owners(&cluster).await;
    let moved: Vec<_> = after.iter().filter(|&(shard, owner)| before[shard] != *owner).collect();
    assert!((2..=6).contains(&moved.len()), "{moved:?} of {} moved", after.len());
    assert!(moved.iter().all(|&(_, owner)| *owner == id), "{moved:?} should be at n{id}");
    let status = cluster.status(fourth).await.expect("the node answers");
    assert_eq!((status.control_voters.len(), status.control_learners.len()), (3, 1));

    for (topic, sent) in load.stop().await {
        assert!(sent.iter().all(|sent| sent.outcome.is_ok()), "{topic}: {sent:?}");
        let viewer = viewers.get_mut(&topic).expect("each topic has a subscriber");
        SentMessage::check_log(
            &sent,
            &viewer.messages_up_to(SentMessage::last_position(&sent), secs(5)).await,
        );
        let mut late_viewer = cluster.subscriber(fourth, Transport::Quic, &topic, StartFrom::Start);
        SentMessage::check_log(
            &sent,
            &late_viewer.messages_up_to(SentMessage::last_position(&sent), secs(5)).await,
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn node_ids_are_never_reused() {
    let mut cluster = ProcessCluster::with_nodes(3).start().await;
    node_killed_while_joining_keeps_its_id(&mut cluster).await;
    restarted_node_keeps_its_id(&mut cluster).await;
    known_name_with_an_empty_directory_is_rejected(&mut cluster).await;
    directory_of_another_cluster_stays_in_its_cluster(&cluster).await;
    new_node_gets_a_new_id(&mut cluster).await;
}

async fn node_killed_while_joining_keeps_its_id(cluster: &mut ProcessCluster) {
    let fourth = cluster.join("");
    let id = cluster.node_id(0, fourth).await;
    cluster.kill(fourth);
    cluster.restart(fourth);
    cluster.wait_settled(4).await;
    assert_eq!(cluster.node_id(0, fourth).await, id);
    assert_eq!(cluster.status(0).await.expect("the node answers").members.len(), 4);
}

async fn restarted_node_keeps_its_id(cluster: &mut ProcessCluster) {
    let id = cluster.node_id(0, 3).await;
    assert!(cluster.stop(3).await.success());
    cluster.restart(3);
    cluster.wait_settled(4).await;
    assert_eq!(cluster.node_id(3, 3).await, id);
}

async fn known_name_with_an_empty_directory_is_rejected(cluster: &mut ProcessCluster) {
    cluster.kill(3);
    cluster.node(3).wipe();
    cluster.restart(3);
    assert_eq!(cluster.wait_exit(3).await.code(), Some(1));
    let log = cluster.node(3).log_text();
    for words in ["does not let this node join", "node-3", "choose another --name"] {
        assert!(log.contains(words), "{words:?} is not in: {log}");
    }
}

async fn directory_of_another_cluster_stays_in_its_cluster(cluster: &ProcessCluster) {
    let mut other = ProcessCluster::with_nodes(1).start().await;
    let other_cluster_id = cluster.status(0).await.expect("the node answers").cluster_id;
    let own_cluster_id = other.status(0).await.expect("the node answers").cluster_id;
    assert!(other.stop(0).await.success());
    let ports = other.node(0).ports;
    other.node_mut(0).set_addresses(ports, &[cluster.ports(0).peer]);
    other.restart(0);
    other.wait_settled(1).await;
    assert_eq!(other.status(0).await.expect("the node answers").cluster_id, own_cluster_id);
    let log = other.node(0).log_text();
    let names_both_clusters =
        |line: &&str| line.contains(&own_cluster_id) && line.contains(&other_cluster_id);
    assert!(log.lines().any(|line| names_both_clusters(&line)), "{log}");
}

async fn new_node_gets_a_new_id(cluster: &mut ProcessCluster) {
    let members_before = cluster.status(0).await.expect("the node answers").members;
    let fifth = cluster.join("");
    let id = cluster.node_id(0, fifth).await;
    assert!(
        members_before.iter().all(|member| member.id < id),
        "n{id} is not newer than {members_before:?}"
    );
}

/// The owner of each shard, as node 0 reports it.
async fn shard_owners(cluster: &ProcessCluster) -> BTreeMap<u32, u64> {
    let status = cluster.status(0).await.expect("the node answers");
    status.shards.iter().map(|shard| (shard.id, shard.owner)).collect()
}
