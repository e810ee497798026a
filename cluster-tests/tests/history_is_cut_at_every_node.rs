//! Set-up: three nodes, each with a watcher of one topic, so that every edge has its messages at hand; the
//! history of the topic's namespace is then made shorter.
//! Fault: readers that come afterwards, on every way in, at every node.
//! Claim: none of them sees more than the namespace allows now, and a resume from before it is told of a gap.
//! The watchers go on as they were.

use pushonce_client::Transport;
use pushonce_cluster_tests::tool::pushonce;
use pushonce_cluster_tests::{Cluster, secs, until, web};
use pushonce_core::{From, Gap, GapReason, Position};

const TOPIC: &str = "short/a";
const TRANSPORTS: [Transport; 3] = [Transport::Ws, Transport::Quic, Transport::Grpc];

#[tokio::test(flavor = "multi_thread")]
async fn readers_see_no_more_than_the_namespace_allows_at_every_node() {
    let cluster = Cluster::of(3).start().await;
    let mut watchers = cluster.viewers(TOPIC, From::Now).await;
    let log = cluster.publish(0, TOPIC, 0..9).await;
    for watcher in &mut watchers {
        assert_eq!(watcher.messages(log.len(), secs(20)).await, log);
    }
    let server = format!("http://{}", cluster.ports(0).grpc);
    let set = ["namespace", "set", "short", "--history-count", "2", "--server", &server];
    pushonce(set, "").await.ok();
    for node in 0..3 {
        let http = cluster.ports(node).http;
        until(&format!("node {node} knows the settings"), secs(20), async || {
            let page = web::get(http, "/topics/short/a?last=9", &[]).await?;
            let count = page.body.matches("\"position\"").count();
            if count == 2 { Ok(()) } else { Err(format!("{count} messages: {}", page.body)) }
        })
        .await;
        for transport in TRANSPORTS {
            for from in [From::Start, From::Last(5)] {
                let mut reader = cluster.viewer(node, transport, TOPIC, from);
                assert_eq!(reader.messages(2, secs(20)).await, log[7..], "{from:?} at {node}");
            }
            let reached = log[3].0;
            let mut reader = cluster.viewer(node, transport, TOPIC, From::Position(reached));
            let to = Position { offset: log[6].0.offset, ..reached };
            let gap = Gap { from: reached.next(), to, reason: GapReason::Expired };
            assert_eq!(reader.gap(secs(20)).await, gap, "at {node} by {transport:?}");
            assert_eq!(reader.messages(2, secs(20)).await, log[7..]);
        }
    }
    let more = cluster.publish(1, TOPIC, 9..15).await;
    for watcher in &mut watchers {
        assert_eq!(watcher.messages(more.len(), secs(20)).await, more, "delivered live, each once");
    }
}
