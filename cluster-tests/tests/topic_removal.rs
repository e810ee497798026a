//! Set-up: three nodes; a replicated namespace and one in memory; a live subscriber of each topic at every node, so
//! that every node has the messages in memory.
//! Fault: an operator purges or deletes the topic, at any node.
//! Claim: every subscriber gets one gap, no reader at any node receives a removed message, a resume from before gets a
//! gap, and later messages have later positions and arrive at everyone.

use pushonce_client::Transport;
use pushonce_cluster_tests::cli::pushonce;
use pushonce_cluster_tests::{ProcessCluster, http_client, secs};
use pushonce_core::{GapReason, Position, StartFrom};

#[tokio::test(flavor = "multi_thread")]
async fn removed_messages_are_gone_at_every_node() {
    let cluster = ProcessCluster::with_nodes(3).start().await;
    let server = format!("http://{}", cluster.ports(0).grpc);
    let in_memory = ["namespace", "set", "live", "--durability", "memory", "--server", &server];
    pushonce(in_memory, "").await.expect_success();
    cluster.publish_numbers(0, "live/ready", 0..1).await;

    for (nth, (topic, command)) in
        [("chat/1", "purge"), ("chat/2", "delete"), ("live/1", "purge"), ("live/2", "delete")]
            .into_iter()
            .enumerate()
    {
        let mut watchers = cluster.subscribers(topic, StartFrom::Now).await;
        let log = cluster.publish_numbers(0, topic, 0..5).await;
        for watcher in &mut watchers {
            assert_eq!(watcher.next_messages(log.len(), secs(20)).await, log);
        }
        let server = format!("http://{}", cluster.ports(nth % 3).grpc);
        let removed = pushonce(["topic", command, topic, "--json", "--server", &server], "").await;
        let removed = removed.expect_success();
        assert!(removed.contains(r#""count":5"#), "{removed}");

        for watcher in &mut watchers {
            let gap = watcher.next_gap(secs(20)).await;
            assert_eq!(
                (gap.from, gap.reason),
                (log[4].0.next(), GapReason::Epoch),
                "{command} {topic}"
            );
        }
        for node in 0..3 {
            readers_find_nothing(&cluster, node, topic, log[1].0).await;
        }
        let more = cluster.publish_numbers(1, topic, 5..8).await;
        assert!(more[0].0 > log[4].0, "{} after {}", more[0].0, log[4].0);
        for watcher in &mut watchers {
            assert_eq!(
                watcher.next_messages(more.len(), secs(20)).await,
                more,
                "{command} {topic}"
            );
        }
        let again = pushonce(["topic", command, "never", "--server", &server], "").await;
        assert_eq!(again.expect_success(), "never: 0 messages, 0 bytes removed\n");
    }
}

/// A page, a reader from the start, and a resume from `before`.
async fn readers_find_nothing(
    cluster: &ProcessCluster,
    node: usize,
    topic: &str,
    before: Position,
) {
    let (http, path) = (cluster.ports(node).http, format!("/topics/{topic}"));
    // The gap arrives at the subscribers of the node before its page is checked, so the page is empty at once.
    let page = http_client::get(http, &path, &[]).await.expect("a response");
    assert_eq!(page.status, 404, "node {node}: {page:?}");
    let last = http_client::get(http, &format!("{path}?last=9"), &[]).await.expect("a response");
    assert!(!last.body.contains("position"), "node {node}: {}", last.body);
    let mut reader = cluster.subscriber(node, Transport::Ws, topic, StartFrom::Position(before));
    let gap = reader.next_gap(secs(20)).await;
    assert_eq!((gap.from, gap.reason), (before.next(), GapReason::Epoch), "at node {node}");
}
