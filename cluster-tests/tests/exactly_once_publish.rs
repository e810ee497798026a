//! Set-up: three nodes with publishers at each: some wait for every acknowledgement, some use streams.
//! Fault: `kill -9` of the owner of their topics, which is also the node of some publishers; repeated for
//! another owner after its restart.
//! Claim: every acknowledged message is stored exactly once, at its acknowledged position and in sending
//! order; a message of unknown outcome at most once. Publishing continues after each kill.

use std::collections::HashMap;
use std::time::Duration;

use pushonce_client::Transport;
use pushonce_cluster_tests::{ProcessCluster, SentMessage, secs};
use pushonce_core::StartFrom;

/// For operations that take a second or two, on a busy machine.
const TIMEOUT: Duration = secs(30);

#[tokio::test(flavor = "multi_thread")]
async fn each_message_is_stored_once_when_topic_owners_are_killed() {
    let mut cluster = ProcessCluster::with_nodes(3).start().await;
    for round in ["first", "second"] {
        kill_owner_under_load(&mut cluster, round).await;
    }
}

async fn kill_owner_under_load(cluster: &mut ProcessCluster, round: &str) {
    let topics = |kind: String| (0..2).map(|n| format!("{round}/{kind}/{n}")).collect::<Vec<_>>();
    let mut loads = Vec::new();
    for i in 0..3 {
        loads.push(cluster.start_stream_load(i, &topics(format!("stream{i}"))));
        loads.push(cluster.start_load(i, &topics(format!("call{i}"))));
    }
    for load in &mut loads {
        load.wait_acknowledged(5, TIMEOUT).await;
    }
    let victim = cluster.owner_of(&format!("{round}/stream0/0")).await;
    cluster.kill(victim);
    for load in &mut loads {
        load.wait_acknowledged(5, TIMEOUT).await;
    }
    let mut sent: HashMap<String, Vec<SentMessage>> = HashMap::new();
    for load in loads {
        sent.extend(load.stop().await);
    }
    let queried = (victim + 1) % 3;
    for (topic, sent) in &sent {
        let mut viewer = cluster.subscriber(queried, Transport::Ws, topic, StartFrom::Start);
        SentMessage::check_log(
            sent,
            &viewer.messages_up_to(SentMessage::last_position(sent), TIMEOUT).await,
        );
    }
    cluster.restart(victim);
    cluster.wait_settled(3).await;
}
