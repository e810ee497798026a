//! Set-up: three nodes; viewers on all of them by WebSocket, QUIC and gRPC; four publishers on
//! different nodes that write to one topic at the same time, each without waiting for its answers.
//! Fault: none.
//! Claim: there is one log. Position to payload is one function for every viewer, early or late; it
//! is what the publishers were told; and no publisher's own messages change places.

use pushonce_cluster_tests::{Cluster, Seen, secs, text};
use pushonce_core::From;

const TOPIC: &str = "game/7";
const PUBLISHERS: usize = 4;
const EACH: usize = 100;

#[tokio::test(flavor = "multi_thread")]
async fn position_to_payload_is_one_function() {
    let cluster = Cluster::of(3).start().await;
    let mut viewers = cluster.viewers(TOPIC, From::Now).await;

    let told = futures::future::join_all((0..PUBLISHERS).map(|p| publish(&cluster, p))).await;

    for own in &told {
        assert!(own.is_sorted(), "its messages changed places: {own:?}");
    }
    let mut log = told.concat();
    log.sort();
    let last = log.last().expect("something was published").0;
    assert_eq!(last.offset.0 as usize, log.len(), "no place is left empty");
    for viewer in &mut viewers {
        assert_eq!(viewer.up_to(last, secs(5)).await, log);
    }
    for viewer in &mut cluster.viewers(TOPIC, From::Start).await {
        assert_eq!(viewer.up_to(last, secs(5)).await, log, "a late viewer");
    }
}

/// What one publisher was told, in the order in which it sent.
async fn publish(cluster: &Cluster, publisher: usize) -> Vec<Seen> {
    let mut stream = cluster.publisher(publisher % 3).stream().await.expect("a stream");
    let mut answers = Vec::new();
    for number in 0..EACH {
        let line = format!("{number} of {publisher}");
        answers.push((stream.send(text(TOPIC, &line)).await.expect("sent"), line));
    }
    let mut told = Vec::new();
    for (answer, line) in answers {
        told.push((answer.await.expect("an answer").expect("placed").position, line));
    }
    told
}
