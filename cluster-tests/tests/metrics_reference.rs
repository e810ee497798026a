//! Set-up: three nodes, publishes, and subscribers over WebSocket and QUIC.
//! Fault: none.
//! Claim: every metric that a node exposes has a help text and is listed in `METRICS.md`.

use pushonce_client::Transport;
use pushonce_cluster_tests::{ProcessCluster, http_client, secs};
use pushonce_core::StartFrom;

const REFERENCE: &str = include_str!("../../crates/pushonce/METRICS.md");
const TOPIC: &str = "game/1";

#[tokio::test(flavor = "multi_thread")]
async fn every_exposed_metric_has_a_help_text_and_is_documented() {
    let cluster = ProcessCluster::with_nodes(3).start().await;
    cluster.publish_numbers(0, TOPIC, 0..10).await;
    for (node, transport) in [(1, Transport::Ws), (2, Transport::Quic)] {
        let mut subscriber = cluster.subscriber(node, transport, TOPIC, StartFrom::Start);
        subscriber.next_messages(10, secs(10)).await;
    }
    for node in 0..3 {
        let page = http_client::get(cluster.ports(node).http, "/metrics", &[]).await;
        let page = page.expect("metrics").body;
        let mut count = 0;
        for line in page.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
            let name = line.split(' ').next().unwrap_or_default();
            assert!(page.contains(&format!("# HELP {name} ")), "{name} has no help text");
            assert!(REFERENCE.contains(&format!("| `{name}` |")), "{name} is not in METRICS.md");
            count += 1;
        }
        assert!(count > 20, "{count} metrics: {page}");
    }
}
