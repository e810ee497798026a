//! Set-up: one node under load, with viewers.
//! Fault: none but a changing cluster: two nodes join, then two more; then two are removed, the one
//! that made the cluster among them.
//! Claim: the control group has as many voters as nodes, 1, 3, 5 and 3; nothing is lost, doubled or
//! out of order on the way, for those who watch and for those who come late.

use std::collections::HashMap;

use pushonce_client::Transport;
use pushonce_cluster_tests::{Cluster, EXPELLED, Load, Sent, Viewer, secs, until};
use pushonce_core::From;

#[tokio::test(flavor = "multi_thread")]
async fn from_one_to_three_to_five_to_three_nothing_is_lost() {
    let mut cluster = Cluster::of(1).start().await;
    let grown = Watched::at(&cluster, 0, "grow");
    let mut load = cluster.streams(0, &grown.topics);
    load.goes_on(5, secs(10)).await;
    for size in [3, 5] {
        for _ in 0..2 {
            cluster.join("");
        }
        cluster.settled(size).await;
        voters(&cluster, 1, size).await;
        load.goes_on(10, secs(10)).await;
    }
    let logs = grown.check(load).await;

    let shrunk = Watched::at(&cluster, 1, "shrink");
    let mut load = cluster.streams(1, &shrunk.topics);
    for leaves in [0, 4] {
        load.goes_on(10, secs(10)).await;
        cluster.remove(leaves).await.ok();
        assert_eq!(cluster.ended(leaves).await.code(), Some(EXPELLED));
    }
    cluster.settled(3).await;
    voters(&cluster, 1, 3).await;
    load.goes_on(10, secs(10)).await;

    for (topic, sent) in logs.into_iter().chain(shrunk.check(load).await) {
        for node in cluster.running() {
            let mut late = cluster.viewer(node, Transport::Ws, &topic, From::Start);
            Sent::check(&sent, &late.up_to(Sent::last(&sent), secs(10)).await);
        }
    }
}

/// Some topics, and whoever watches them from the beginning.
struct Watched {
    topics: Vec<String>,
    viewers: HashMap<String, Viewer>,
}

impl Watched {
    fn at(cluster: &Cluster, node: usize, name: &str) -> Watched {
        let topics: Vec<_> = (0..4).map(|n| format!("{name}/{n}")).collect();
        let viewer = |topic: &String| cluster.viewer(node, Transport::Ws, topic, From::Start);
        let viewers = topics.iter().map(|topic| (topic.clone(), viewer(topic))).collect();
        Watched { topics, viewers }
    }

    /// Ends the load. All of it was placed, and every viewer has seen all of it.
    async fn check(mut self, load: Load) -> HashMap<String, Vec<Sent>> {
        let logs = load.end().await;
        for (topic, sent) in &logs {
            assert!(sent.iter().all(|sent| sent.outcome.is_ok()), "{topic}: {sent:?}");
            let viewer = self.viewers.get_mut(topic).expect("each has its viewer");
            Sent::check(sent, &viewer.up_to(Sent::last(sent), secs(10)).await);
        }
        logs
    }
}

/// Waits until the control group has `n` voters and nobody else.
async fn voters(cluster: &Cluster, asked: usize, n: usize) {
    until(&format!("{n} voters of the control group"), secs(30), async || {
        let status = cluster.status(asked).await?;
        match (status.control_voters.len(), status.control_learners.len()) {
            (voters, 0) if voters == n => Ok(()),
            (voters, learners) => Err(format!("{voters} voters, {learners} learners")),
        }
    })
    .await;
}
