//! Set-up: three nodes, with publishers at each: some wait for every message, some send streams.
//! Fault: `kill -9` of the owner of their topics, which is also some publishers' own node; again when
//! it is back, for another owner.
//! Claim: every acknowledged message stands exactly once, at the place that was told, in the order of
//! the sending; one of unknown outcome at most once. Publishing goes on after each kill.

use std::collections::HashMap;
use std::time::Duration;

use pushonce_client::Transport;
use pushonce_cluster_tests::{Cluster, Sent, secs};
use pushonce_core::From;

/// For what takes a second or two, on a machine that has other things to do.
const LIMIT: Duration = secs(30);

#[tokio::test(flavor = "multi_thread")]
async fn streams_and_calls_outlive_the_owners_of_their_topics() {
    let mut cluster = Cluster::of(3).start().await;
    for round in ["first", "second"] {
        kill_an_owner(&mut cluster, round).await;
    }
}

async fn kill_an_owner(cluster: &mut Cluster, round: &str) {
    let topics = |kind: String| (0..2).map(|n| format!("{round}/{kind}/{n}")).collect::<Vec<_>>();
    let mut loads = Vec::new();
    for i in 0..3 {
        loads.push(cluster.streams(i, &topics(format!("stream{i}"))));
        loads.push(cluster.load(i, &topics(format!("call{i}"))));
    }
    for load in &mut loads {
        load.goes_on(5, LIMIT).await;
    }
    let victim = cluster.owner(&format!("{round}/stream0/0")).await;
    cluster.kill(victim);
    for load in &mut loads {
        load.goes_on(5, LIMIT).await;
    }
    let mut sent: HashMap<String, Vec<Sent>> = HashMap::new();
    for load in loads {
        sent.extend(load.end().await);
    }
    let asked = (victim + 1) % 3;
    for (topic, sent) in &sent {
        let mut viewer = cluster.viewer(asked, Transport::Ws, topic, From::Start);
        Sent::check(sent, &viewer.up_to(Sent::last(sent), LIMIT).await);
    }
    cluster.restart(victim);
    cluster.settled(3).await;
}
