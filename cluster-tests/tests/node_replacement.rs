//! Set-up: three nodes under load.
//! Fault: one is killed and its disk is lost; a new one joins and the dead one is removed; then another
//! of the first three is killed.
//! Claim: publishing goes on all the time but for an election. Once the cluster has settled the new node
//! has what the lost one had: the cluster bears the second death, and nothing acknowledged is missing
//! anywhere.

use pushonce_client::Transport;
use pushonce_cluster_tests::{ProcessCluster, SentMessage, secs};
use pushonce_core::StartFrom;

#[tokio::test(flavor = "multi_thread")]
async fn new_node_replaces_a_node_that_lost_its_disk() {
    let mut cluster = ProcessCluster::with_nodes(3).start().await;
    let topics: Vec<_> = (0..4).map(|n| format!("game/{n}")).collect();
    let mut load = cluster.start_stream_load(1, &topics);
    load.wait_acknowledged(10, secs(10)).await;

    cluster.kill(0);
    cluster.node(0).wipe();
    load.wait_acknowledged(5, secs(10)).await;
    let new = cluster.join("");
    cluster.remove(0).await.expect_success();
    cluster.wait_settled(3).await;
    let status = cluster.status(new).await.expect("it answers");
    let voters = &status.control_voters;
    assert_eq!((voters.len(), status.control_learners.len()), (3, 0), "{voters:?}");
    let under_replicated = status.shards.iter().find(|shard| shard.voters.len() != 3);
    assert_eq!(under_replicated, None, "every shard has its three replicas");

    cluster.kill(2);
    load.wait_acknowledged(10, secs(10)).await;

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
