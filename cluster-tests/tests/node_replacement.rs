//! Set-up: three nodes under load.
//! Fault: a node is killed and its disk is lost; a new node joins and the dead one is removed; then another
//! of the first three nodes is killed.
//! Claim: publishing continues except during elections. Once the cluster has settled, the new node has the
//! data of the lost one: the cluster survives the second kill, and no acknowledged message is missing at any
//! node.

use pushonce_client::Transport;
use pushonce_cluster_tests::{ProcessCluster, SentMessage, secs};
use pushonce_core::StartFrom;

#[tokio::test(flavor = "multi_thread")]
async fn new_node_replaces_a_node_that_lost_its_disk() {
    let mut cluster = ProcessCluster::with_nodes(3).start().await;
    let topics: Vec<_> = (0..4).map(|n| format!("game/{n}")).collect();
    let mut load = cluster.start_stream_load(1, &topics);
    load.wait_acknowledged(10, secs(30)).await;

    cluster.kill(0);
    cluster.node(0).wipe();
    load.wait_acknowledged(5, secs(30)).await;
    let new = cluster.join("");
    cluster.remove(0).await.expect_success();
    cluster.wait_settled(3).await;
    let status = cluster.status(new).await.expect("the node answers");
    let voters = &status.control_voters;
    assert_eq!((voters.len(), status.control_learners.len()), (3, 0), "{voters:?}");
    let under_replicated = status.shards.iter().find(|shard| shard.voters.len() != 3);
    assert_eq!(under_replicated, None, "a shard has fewer than three replicas");

    cluster.kill(2);
    load.wait_acknowledged(10, secs(30)).await;

    for (topic, sent) in load.stop().await {
        for node in cluster.running_nodes() {
            let mut late_viewer = cluster.subscriber(node, Transport::Ws, &topic, StartFrom::Start);
            SentMessage::check_log(
                &sent,
                &late_viewer.messages_up_to(SentMessage::last_position(&sent), secs(10)).await,
            );
        }
    }
}
