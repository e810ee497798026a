//! Set-up: three nodes; subscribers on all of them by WebSocket, QUIC and gRPC; four publishers at different
//! nodes that send to one topic at the same time, without waiting for acknowledgements.
//! Fault: none.
//! Claim: there is one log. Every subscriber, live or late, receives the same payload at each position; the
//! positions match the acknowledgements; and the messages of each publisher stay in order.

use pushonce_cluster_tests::{ProcessCluster, ReceivedMessage, secs, text_message};
use pushonce_core::StartFrom;

const TOPIC: &str = "game/7";
const PUBLISHERS: usize = 4;
const MESSAGES_PER_PUBLISHER: usize = 100;

#[tokio::test(flavor = "multi_thread")]
async fn all_viewers_see_the_same_order_with_concurrent_publishers() {
    let cluster = ProcessCluster::with_nodes(3).start().await;
    let mut viewers = cluster.subscribers(TOPIC, StartFrom::Now).await;

    let acknowledged =
        futures::future::join_all((0..PUBLISHERS).map(|p| publish_stream(&cluster, p))).await;

    for publisher_log in &acknowledged {
        assert!(
            publisher_log.is_sorted(),
            "messages of a publisher were reordered: {publisher_log:?}"
        );
    }
    let mut log = acknowledged.concat();
    log.sort();
    let last = log.last().expect("at least one message was published").0;
    assert_eq!(last.offset.0 as usize, log.len(), "every offset is used");
    for viewer in &mut viewers {
        assert_eq!(viewer.messages_up_to(last, secs(5)).await, log);
    }
    for viewer in &mut cluster.subscribers(TOPIC, StartFrom::Start).await {
        assert_eq!(viewer.messages_up_to(last, secs(5)).await, log, "a late subscriber");
    }
}

/// Publishes on a stream; returns the acknowledged messages in sending order.
async fn publish_stream(cluster: &ProcessCluster, publisher: usize) -> Vec<ReceivedMessage> {
    let mut stream = cluster.publisher(publisher % 3).stream().await.expect("open a stream");
    let mut answers = Vec::new();
    for number in 0..MESSAGES_PER_PUBLISHER {
        let line = format!("{number} of {publisher}");
        answers.push((stream.send(text_message(TOPIC, &line)).await.expect("send"), line));
    }
    let mut acknowledged = Vec::new();
    for (answer, line) in answers {
        acknowledged.push((answer.await.expect("acknowledged").position, line));
    }
    acknowledged
}
