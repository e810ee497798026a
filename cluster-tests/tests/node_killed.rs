//! Set-up: three nodes under load through two of them, with subscribers on all by WebSocket, QUIC and gRPC.
//! Fault: `kill -9` of the owner of a topic; of the leader of the control group; of the node of the
//! publishers and subscribers.
//! Claim: publishing and delivery resume within a few seconds. Every acknowledged message is in the log once,
//! at its acknowledged position; a message of unknown outcome once or not at all. Subscribers of the killed
//! node resume at another node without missing messages, and the killed node catches up after its restart.

use std::collections::HashMap;
use std::time::Duration;

use pushonce_client::Transport;
use pushonce_cluster_tests::{ProcessCluster, SentMessage, secs};
use pushonce_core::StartFrom;
use tokio::time::Instant;

/// The time for the election of a new owner and for a publisher to fall back to another node.
const PUBLISH_TIMEOUT: Duration = secs(6);

/// The same, and the time for a subscriber to detect by missing heartbeats that its node is down.
const DELIVERY_TIMEOUT: Duration = secs(15);

#[tokio::test(flavor = "multi_thread")]
async fn publishing_and_delivery_resume_when_the_topic_owner_is_killed() {
    let mut cluster = ProcessCluster::with_nodes(3).start().await;
    let victim = cluster.owner_of("owner/0").await;
    kill_under_load(&mut cluster, victim, "owner").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn publishing_and_delivery_resume_when_the_control_leader_is_killed() {
    let mut cluster = ProcessCluster::with_nodes(3).start().await;
    let leader = cluster.status(1).await.expect("the node answers").control_leader;
    let victim = cluster.node_index(1, leader).await.expect("a node of this test");
    kill_under_load(&mut cluster, victim, "control").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn publishing_and_delivery_resume_when_two_nodes_are_killed_in_turn() {
    let mut cluster = ProcessCluster::with_nodes(3).start().await;
    for victim in [2, 1] {
        kill_under_load(&mut cluster, victim, &format!("any{victim}")).await;
    }
}

/// Half of the publishers use the victim, half another node.
async fn kill_under_load(cluster: &mut ProcessCluster, victim: usize, name: &str) {
    let other = (victim + 1) % 3;
    let topics =
        |location: &str| (0..4).map(|n| format!("{name}/{location}/{n}")).collect::<Vec<_>>();
    let (victim_topics, other_topics) = (topics("there"), topics("elsewhere"));
    let mut viewers = HashMap::new();
    for topic in victim_topics.iter().chain(&other_topics) {
        viewers.insert(topic.clone(), cluster.subscribers(topic, StartFrom::Start).await);
    }
    let mut loads =
        [cluster.start_load(victim, &victim_topics), cluster.start_load(other, &other_topics)];
    for load in &mut loads {
        load.wait_acknowledged(5, secs(30)).await;
    }

    let killed = Instant::now();
    cluster.kill(victim);
    for load in &mut loads {
        load.wait_acknowledged(5, PUBLISH_TIMEOUT).await;
    }
    let [victim_load, other_load] = loads;
    let sent: HashMap<_, _> =
        victim_load.stop().await.into_iter().chain(other_load.stop().await).collect();

    for (topic, sent) in &sent {
        for viewer in viewers.get_mut(topic).expect("each topic has subscribers") {
            let time_left = DELIVERY_TIMEOUT.saturating_sub(killed.elapsed());
            SentMessage::check_log(
                sent,
                &viewer.messages_up_to(SentMessage::last_position(sent), time_left).await,
            );
        }
    }
    cluster.restart(victim);
    cluster.wait_settled(3).await;
    for (topic, sent) in &sent {
        let mut late_viewer = cluster.subscriber(victim, Transport::Ws, topic, StartFrom::Start);
        SentMessage::check_log(
            sent,
            &late_viewer.messages_up_to(SentMessage::last_position(sent), secs(5)).await,
        );

        let log = cluster.publish_numbers(victim, topic, 0..3).await;
        for viewer in viewers.get_mut(topic).into_iter().flatten().chain([&mut late_viewer]) {
            assert_eq!(viewer.next_messages(3, secs(5)).await, log);
        }
    }
}
