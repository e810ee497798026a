//! Set-up: three nodes, publishes, and subscribers over WebSocket and QUIC.
//! Fault: none.
//! Claim: every metric that a node exposes has a help text and is listed in `METRICS.md`; those that follow a
//! message through the cluster are recorded.

use pushonce_client::Transport;
use pushonce_cluster_tests::{ProcessCluster, http_client, secs, wait_until};
use pushonce_core::StartFrom;

const REFERENCE: &str = include_str!("../../crates/pushonce/METRICS.md");
const TOPIC: &str = "game/1";

/// The series that must be above zero on at least one node.
const FED_SERIES: &[&str] = &[
    "pushonce_relay_round_trip_seconds_count",
    "pushonce_fanout_delivery_seconds_count",
    r#"pushonce_fanout_delivery_lag_seconds_count{owner="local"}"#,
    r#"pushonce_fanout_delivery_lag_seconds_count{owner="remote"}"#,
    r#"pushonce_fanout_subscriptions{transport="websocket"}"#,
    r#"pushonce_fanout_subscriptions{transport="quic"}"#,
    r#"pushonce_publish_grpc_seconds_count{call="stream"}"#,
    "pushonce_history_bytes",
    "pushonce_consensus_log_bytes",
    "pushonce_disk_used_bytes",
];

#[tokio::test(flavor = "multi_thread")]
async fn every_exposed_metric_has_a_help_text_and_is_documented() {
    let cluster = ProcessCluster::with_nodes(3).start().await;
    cluster.publish_numbers(0, TOPIC, 0..10).await;
    let transports = [Transport::Ws, Transport::Ws, Transport::Quic];
    let mut subscribers = Vec::new();
    for (node, transport) in transports.into_iter().enumerate() {
        let mut subscriber = cluster.subscriber(node, transport, TOPIC, StartFrom::Start);
        subscriber.next_messages(10, secs(10)).await;
        subscribers.push(subscriber);
    }
    for series in FED_SERIES {
        // The lag of a remote owner is known once the round trip to it is.
        wait_until(series, secs(10), async || {
            cluster.publish_numbers(0, TOPIC, 10..11).await;
            let sum = sum_of_nodes(&cluster, series).await;
            if sum > 0.0 { Ok(()) } else { Err(format!("{series} is {sum} on all nodes")) }
        })
        .await;
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

/// The sum of the lines that begin with `series`, over all nodes.
async fn sum_of_nodes(cluster: &ProcessCluster, series: &str) -> f64 {
    let mut sum = 0.0;
    for node in 0..3 {
        let page = http_client::get(cluster.ports(node).http, "/metrics", &[]).await;
        let page = page.expect("metrics").body;
        let lines = page.lines().filter(|line| line.starts_with(series));
        let values = lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
        sum += values.sum::<f64>();
    }
    sum
}
