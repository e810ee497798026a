//! Set-up: one node, and a publish stream to it.
//! Fault: `kill -9` of the node during the stream, and a restart with the same data.
//! Claim: every message is stored once, in order, at its acknowledged position, without any action of the
//! publisher.

use pushonce_client::Transport;
use pushonce_cluster_tests::{ProcessCluster, secs, text_message};
use pushonce_core::StartFrom;

const TOPIC: &str = "game/7";

#[tokio::test(flavor = "multi_thread")]
async fn stream_messages_are_stored_once_when_the_node_is_killed() {
    let mut cluster = ProcessCluster::with_nodes(1).start().await;
    let mut stream = cluster.publisher(0).stream().await.expect("open a stream");
    let mut answers = Vec::new();
    for number in 0..600 {
        let line = number.to_string();
        answers.push((stream.send(text_message(TOPIC, &line)).await.expect("send"), line));
        if number == 300 {
            cluster.kill(0);
            cluster.restart(0);
        }
    }
    let mut log = Vec::new();
    for (answer, line) in answers {
        log.push((answer.await.expect("acknowledged").position, line));
    }
    let mut viewer = cluster.subscriber(0, Transport::Ws, TOPIC, StartFrom::Start);
    assert_eq!(viewer.next_messages(log.len(), secs(10)).await, log);
}
