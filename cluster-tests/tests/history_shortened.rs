//! Set-up: three nodes, each with a live subscriber of one topic, so that every edge has its messages in
//! memory; the history of the topic's namespace is then shortened.
//! Fault: later readers, on every transport, at every node.
//! Claim: no reader receives more than the namespace now allows, and a resume from an older position gets a
//! gap. The live subscribers are not affected.

use pushonce_client::Transport;
use pushonce_cluster_tests::cli::pushonce;
use pushonce_cluster_tests::{ProcessCluster, http_client, secs, wait_until};
use pushonce_core::{Gap, GapReason, Position, StartFrom};

const TOPIC: &str = "short/a";
const TRANSPORTS: [Transport; 3] = [Transport::Ws, Transport::Quic, Transport::Grpc];

#[tokio::test(flavor = "multi_thread")]
async fn shortened_history_applies_to_new_readers_at_every_node() {
    let cluster = ProcessCluster::with_nodes(3).start().await;
    let mut watchers = cluster.subscribers(TOPIC, StartFrom::Now).await;
    let log = cluster.publish_numbers(0, TOPIC, 0..9).await;
    for watcher in &mut watchers {
        assert_eq!(watcher.next_messages(log.len(), secs(20)).await, log);
    }
    let server = format!("http://{}", cluster.ports(0).grpc);
    let set = ["namespace", "set", "short", "--history-count", "2", "--server", &server];
    pushonce(set, "").await.expect_success();
    for node in 0..3 {
        let http = cluster.ports(node).http;
        wait_until(&format!("node {node} has the settings"), secs(20), async || {
            let page = http_client::get(http, "/topics/short/a?last=9", &[]).await?;
            let count = page.body.matches("\"position\"").count();
            if count == 2 { Ok(()) } else { Err(format!("{count} messages: {}", page.body)) }
        })
        .await;
        for transport in TRANSPORTS {
            for from in [StartFrom::Start, StartFrom::Last(5)] {
                let mut reader = cluster.subscriber(node, transport, TOPIC, from);
                assert_eq!(reader.next_messages(2, secs(20)).await, log[7..], "{from:?} at {node}");
            }
            let last_read = log[3].0;
            let mut reader =
                cluster.subscriber(node, transport, TOPIC, StartFrom::Position(last_read));
            let to = Position { offset: log[6].0.offset, ..last_read };
            let gap = Gap { from: last_read.next(), to, reason: GapReason::Expired };
            assert_eq!(reader.next_gap(secs(20)).await, gap, "at {node} by {transport:?}");
            assert_eq!(reader.next_messages(2, secs(20)).await, log[7..]);
        }
    }
    let more = cluster.publish_numbers(1, TOPIC, 9..15).await;
    for watcher in &mut watchers {
        assert_eq!(
            watcher.next_messages(more.len(), secs(20)).await,
            more,
            "delivered live, each once"
        );
    }
}
