//! Set-up: one node, and a stream of messages to it.
//! Fault: `kill -9` of the node while the stream goes on, and back on the same data.
//! Claim: every message stands once, in order, at the place that was acknowledged, and the publisher
//! did nothing for it.

use pushonce_client::Transport;
use pushonce_cluster_tests::{ProcessCluster, secs, text_message};
use pushonce_core::StartFrom;

const TOPIC: &str = "game/7";

#[tokio::test(flavor = "multi_thread")]
async fn stream_messages_are_stored_once_when_the_node_is_killed() {
    let mut cluster = ProcessCluster::with_nodes(1).start().await;
    let mut stream = cluster.publisher(0).stream().await.expect("a stream");
    let mut answers = Vec::new();
    for number in 0..600 {
        let line = number.to_string();
        answers.push((stream.send(text_message(TOPIC, &line)).await.expect("sent"), line));
        if number == 300 {
            cluster.kill(0);
            cluster.restart(0);
        }
    }
    let mut log = Vec::new();
    for (answer, line) in answers {
        log.push((answer.await.expect("an answer").expect("placed").position, line));
    }
    let mut viewer = cluster.subscriber(0, Transport::Ws, TOPIC, StartFrom::Start);
    assert_eq!(viewer.next_messages(log.len(), secs(10)).await, log);
}
