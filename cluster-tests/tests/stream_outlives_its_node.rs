//! Set-up: one node, and a stream of messages to it.
//! Fault: `kill -9` of the node while the stream goes on, and back on the same data.
//! Claim: every message stands once, in order, at the place that was acknowledged, and the publisher
//! did nothing for it.

use pushonce_client::Transport;
use pushonce_cluster_tests::{Cluster, secs, text};
use pushonce_core::From;

const TOPIC: &str = "game/7";

#[tokio::test(flavor = "multi_thread")]
async fn what_a_dead_node_may_have_placed_is_placed_once() {
    let mut cluster = Cluster::of(1).start().await;
    let mut stream = cluster.publisher(0).stream().await.expect("a stream");
    let mut answers = Vec::new();
    for number in 0..600 {
        let line = number.to_string();
        answers.push((stream.send(text(TOPIC, &line)).await.expect("sent"), line));
        if number == 300 {
            cluster.kill(0);
            cluster.restart(0);
        }
    }
    let mut log = Vec::new();
    for (answer, line) in answers {
        log.push((answer.await.expect("an answer").expect("placed").position, line));
    }
    let mut viewer = cluster.viewer(0, Transport::Ws, TOPIC, From::Start);
    assert_eq!(viewer.messages(log.len(), secs(10)).await, log);
}
