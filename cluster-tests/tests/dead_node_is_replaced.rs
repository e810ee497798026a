//! Set-up: three nodes under load.
//! Fault: one is killed and its disk is lost; a new one joins and the dead one is removed; then another
//! of the first three is killed.
//! Claim: publishing goes on all the time but for an election. Once the cluster has settled the new node
//! has what the lost one had: the cluster bears the second death, and nothing acknowledged is missing
//! anywhere.

use pushonce_client::Transport;
use pushonce_cluster_tests::{Cluster, Sent, secs};
use pushonce_core::From;

#[tokio::test(flavor = "multi_thread")]
async fn a_new_node_takes_the_place_of_one_that_lost_its_disk() {
    let mut cluster = Cluster::of(3).start().await;
    let topics: Vec<_> = (0..4).map(|n| format!("game/{n}")).collect();
    let mut load = cluster.streams(1, &topics);
    load.goes_on(10, secs(10)).await;

    cluster.kill(0);
    cluster.node(0).wipe();
    load.goes_on(5, secs(10)).await;
    let new = cluster.join("");
    cluster.remove(0).await.ok();
    cluster.settled(3).await;
    let status = cluster.status(new).await.expect("it answers");
    let voters = &status.control_voters;
    assert_eq!((voters.len(), status.control_learners.len()), (3, 0), "{voters:?}");
    let lacking = status.shards.iter().find(|shard| shard.voters.len() != 3);
    assert_eq!(lacking, None, "every shard has its three replicas");

    cluster.kill(2);
    load.goes_on(10, secs(10)).await;

    for (topic, sent) in load.end().await {
        for node in cluster.running() {
            let mut late = cluster.viewer(node, Transport::Ws, &topic, From::Start);
            Sent::check(&sent, &late.up_to(Sent::last(&sent), secs(10)).await);
        }
    }
}
