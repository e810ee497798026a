//! Set-up: one node under load, with subscribers.
//! Fault: only membership changes: two nodes join, then two more; then two are removed, including the node
//! that initialized the cluster.
//! Claim: the control group has as many voters as the cluster has nodes, 1, 3, 5 and 3; no message is lost,
//! duplicated or reordered, for live and for late subscribers.

use std::collections::HashMap;

use pushonce_client::Transport;
use pushonce_cluster_tests::{
    EXIT_REMOVED, ProcessCluster, PublishLoad, SentMessage, TestSubscriber, secs, wait_until,
};
use pushonce_core::StartFrom;

#[tokio::test(flavor = "multi_thread")]
async fn resizing_from_1_to_3_to_5_to_3_nodes_loses_no_message() {
    let mut cluster = ProcessCluster::with_nodes(1).start().await;
    let grown = WatchedTopics::subscribe(&cluster, 0, "grow");
    let mut load = cluster.start_stream_load(0, &grown.topics);
    load.wait_acknowledged(5, secs(30)).await;
    for size in [3, 5] {
        for _ in 0..2 {
            cluster.join("");
        }
        cluster.wait_settled(size).await;
        wait_voters(&cluster, 1, size).await;
        load.wait_acknowledged(10, secs(30)).await;
    }
    let logs = grown.check(load).await;

    let shrunk = WatchedTopics::subscribe(&cluster, 1, "shrink");
    let mut load = cluster.start_stream_load(1, &shrunk.topics);
    for removed in [0, 4] {
        load.wait_acknowledged(10, secs(30)).await;
        cluster.remove(removed).await.expect_success();
        assert_eq!(cluster.wait_exit(removed).await.code(), Some(EXIT_REMOVED));
    }
    cluster.wait_settled(3).await;
    wait_voters(&cluster, 1, 3).await;
    load.wait_acknowledged(10, secs(30)).await;

    for (topic, sent) in logs.into_iter().chain(shrunk.check(load).await) {
        for node in cluster.running_nodes() {
            let mut late_viewer = cluster.subscriber(node, Transport::Ws, &topic, StartFrom::Start);
            SentMessage::check_log(
                &sent,
                &late_viewer.messages_up_to(SentMessage::last_position(&sent), secs(10)).await,
            );
        }
    }
}

/// Some topics, each with a subscriber from the start.
struct WatchedTopics {
    topics: Vec<String>,
    viewers: HashMap<String, TestSubscriber>,
}

impl WatchedTopics {
    fn subscribe(cluster: &ProcessCluster, node: usize, name: &str) -> WatchedTopics {
        let topics: Vec<_> = (0..4).map(|n| format!("{name}/{n}")).collect();
        let viewer =
            |topic: &String| cluster.subscriber(node, Transport::Ws, topic, StartFrom::Start);
        let viewers = topics.iter().map(|topic| (topic.clone(), viewer(topic))).collect();
        WatchedTopics { topics, viewers }
    }

    /// Stops the load. All of it must be acknowledged, and every subscriber must receive all of it.
    async fn check(mut self, load: PublishLoad) -> HashMap<String, Vec<SentMessage>> {
        let logs = load.stop().await;
        for (topic, sent) in &logs {
            assert!(sent.iter().all(|sent| sent.outcome.is_ok()), "{topic}: {sent:?}");
            let viewer = self.viewers.get_mut(topic).expect("each topic has a subscriber");
            SentMessage::check_log(
                sent,
                &viewer.messages_up_to(SentMessage::last_position(sent), secs(10)).await,
            );
        }
        logs
    }
}

/// Waits until the control group has `n` voters and no learner.
async fn wait_voters(cluster: &ProcessCluster, queried: usize, n: usize) {
    wait_until(&format!("{n} voters of the control group"), secs(30), async || {
        let status = cluster.status(queried).await?;
        match (status.control_voters.len(), status.control_learners.len()) {
            (voters, 0) if voters == n => Ok(()),
            (voters, learners) => Err(format!("{voters} voters, {learners} learners")),
        }
    })
    .await;
}
