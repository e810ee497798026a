//! Set-up: three nodes under load through two of them, with viewers on all by WebSocket, QUIC and
//! gRPC.
//! Fault: `kill -9` of the owner of a topic; of the leader of the control group; of the node that
//! the publishers and the viewers are at.
//! Claim: publishing and delivery go on within a few seconds. Every acknowledged message is in the
//! log once, at the place that was told; one of unknown outcome once or not at all. Viewers of the
//! dead node go on at another one without a hole, and the killed node comes back level.

use std::collections::HashMap;
use std::time::Duration;

use pushonce_client::Transport;
use pushonce_cluster_tests::{Cluster, Sent, secs};
use pushonce_core::From;
use tokio::time::Instant;

/// The election of a new owner, and a publisher that turns to another node.
const PUBLISHING: Duration = secs(6);

/// The same, and a viewer that has to find out by silence that its node is dead.
const DELIVERY: Duration = secs(15);

#[tokio::test(flavor = "multi_thread")]
async fn the_owner_of_a_topic_is_killed() {
    let mut cluster = Cluster::of(3).start().await;
    let victim = cluster.owner("owner/0").await;
    kill_under_load(&mut cluster, victim, "owner").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_leader_of_the_control_group_is_killed() {
    let mut cluster = Cluster::of(3).start().await;
    let leader = cluster.status(1).await.expect("it answers").control_leader;
    let victim = cluster.index_of(1, leader).await.expect("a node of this story");
    kill_under_load(&mut cluster, victim, "control").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_after_the_other_is_killed() {
    let mut cluster = Cluster::of(3).start().await;
    for victim in [2, 1] {
        kill_under_load(&mut cluster, victim, &format!("any{victim}")).await;
    }
}

/// Half of the publishers are at the victim, half at another node.
async fn kill_under_load(cluster: &mut Cluster, victim: usize, name: &str) {
    let other = (victim + 1) % 3;
    let topics = |at: &str| (0..4).map(|n| format!("{name}/{at}/{n}")).collect::<Vec<_>>();
    let (there, elsewhere) = (topics("there"), topics("elsewhere"));
    let mut viewers = HashMap::new();
    for topic in there.iter().chain(&elsewhere) {
        viewers.insert(topic.clone(), cluster.viewers(topic, From::Start).await);
    }
    let mut loads = [cluster.load(victim, &there), cluster.load(other, &elsewhere)];
    for load in &mut loads {
        load.goes_on(5, secs(5)).await;
    }

    let killed = Instant::now();
    cluster.kill(victim);
    for load in &mut loads {
        load.goes_on(5, PUBLISHING).await;
    }
    let [there, elsewhere] = loads;
    let sent: HashMap<_, _> = there.end().await.into_iter().chain(elsewhere.end().await).collect();

    for (topic, sent) in &sent {
        for viewer in viewers.get_mut(topic).expect("each has viewers") {
            let left = DELIVERY.saturating_sub(killed.elapsed());
            Sent::check(sent, &viewer.up_to(Sent::last(sent), left).await);
        }
    }
    cluster.restart(victim);
    cluster.settled(3).await;
    for (topic, sent) in &sent {
        let mut back = cluster.viewer(victim, Transport::Ws, topic, From::Start);
        Sent::check(sent, &back.up_to(Sent::last(sent), secs(5)).await);

        let log = cluster.publish(victim, topic, 0..3).await;
        for viewer in viewers.get_mut(topic).into_iter().flatten().chain([&mut back]) {
            assert_eq!(viewer.messages(3, secs(5)).await, log);
        }
    }
}
