//! Set-up: two regions of two nodes each.
//! Fault: in one part, the subscribers' connections are cut repeatedly.
//! Claim: a message crosses between the regions once, independent of the number of nodes and subscribers on
//! the other side, and not at all without a subscriber there, according to the nodes' metric.

use pushonce_client::Transport;
use pushonce_cluster_tests::{ProcessCluster, TcpProxy, TestSubscriber, secs};
use pushonce_core::StartFrom;

const MESSAGES: u32 = 100;

#[tokio::test(flavor = "multi_thread")]
async fn message_crosses_between_regions_once() {
    let cluster = ProcessCluster::builder().region("eu", 2).region("us", 2).start().await;
    for (region, other) in [(0, 1), (1, 0)] {
        crosses_once_with_viewers_on_all_nodes(&cluster, region, other).await;
        crosses_once_with_reconnecting_viewers(&cluster, region, other).await;
        does_not_cross_without_remote_viewers(&cluster, region, other).await;
    }
}

async fn crosses_once_with_viewers_on_all_nodes(
    cluster: &ProcessCluster,
    region: usize,
    other: usize,
) {
    let (topic, owner) = topic_owned_in(cluster, region, "all").await;
    let mut viewers = cluster.subscribers(&topic, StartFrom::Now).await;
    let before = [
        region_deliveries(cluster, region, other).await,
        region_deliveries(cluster, other, region).await,
    ];

    let log = cluster.publish_numbers(owner, &topic, 0..MESSAGES).await;

    for viewer in &mut viewers {
        assert_eq!(viewer.next_messages(log.len(), secs(5)).await, log);
    }
    assert_eq!(region_deliveries(cluster, region, other).await - before[0], u64::from(MESSAGES));
    assert_eq!(
        region_deliveries(cluster, other, region).await - before[1],
        0,
        "no message crosses back"
    );
}

async fn crosses_once_with_reconnecting_viewers(
    cluster: &ProcessCluster,
    region: usize,
    other: usize,
) {
    let (topic, owner) = topic_owned_in(cluster, region, "back").await;
    let mut viewers = Vec::new();
    for i in nodes_of(other) {
        let proxy = TcpProxy::start(cluster.node(i).ports.http).await;
        let server = format!("ws://{}", proxy.address).parse().expect("a valid address");
        let mut viewer = TestSubscriber::new(vec![server], Transport::Ws, &topic, StartFrom::Start);
        viewer.wait_subscribed(secs(5)).await;
        viewers.push((viewer, proxy));
    }
    let before = region_deliveries(cluster, region, other).await;

    for part in 0..4 {
        let numbers = part * MESSAGES / 4..(part + 1) * MESSAGES / 4;
        let log = cluster.publish_numbers(owner, &topic, numbers).await;
        for (viewer, proxy) in &mut viewers {
            assert_eq!(viewer.next_messages(log.len(), secs(10)).await, log);
            proxy.cut();
            viewer.wait_disconnected(secs(5)).await;
            proxy.restore();
            viewer.wait_subscribed(secs(10)).await;
        }
    }

    assert_eq!(region_deliveries(cluster, region, other).await - before, u64::from(MESSAGES));
}

async fn does_not_cross_without_remote_viewers(
    cluster: &ProcessCluster,
    region: usize,
    other: usize,
) {
    let (topic, owner) = topic_owned_in(cluster, region, "near").await;
    let mut viewers = Vec::new();
    for i in nodes_of(region) {
        let mut viewer = cluster.subscriber(i, Transport::Ws, &topic, StartFrom::Now);
        viewer.wait_subscribed(secs(5)).await;
        viewers.push(viewer);
    }
    let before = region_deliveries(cluster, region, other).await;

    let log = cluster.publish_numbers(owner, &topic, 0..MESSAGES).await;

    for viewer in &mut viewers {
        assert_eq!(viewer.next_messages(log.len(), secs(5)).await, log);
    }
    assert_eq!(region_deliveries(cluster, region, other).await - before, 0);
}

const REGIONS: [&str; 2] = ["eu", "us"];

fn nodes_of(region: usize) -> std::ops::Range<usize> {
    region * 2..region * 2 + 2
}

/// A new topic that is owned by a node of a region, and that node.
async fn topic_owned_in(cluster: &ProcessCluster, region: usize, name: &str) -> (String, usize) {
    for n in 0..64 {
        let topic = format!("{name}/{}/{n}", REGIONS[region]);
        let owner = cluster.owner_of(&topic).await;
        if nodes_of(region).contains(&owner) {
            return (topic, owner);
        }
    }
    panic!("{} owns none of the topics", REGIONS[region])
}

/// The number of message copies sent from one region to the other.
async fn region_deliveries(cluster: &ProcessCluster, from: usize, to: usize) -> u64 {
    let from = format!("from_region=\"{}\"", REGIONS[from]);
    let to = format!("to_region=\"{}\"", REGIONS[to]);
    cluster
        .metric_sum("pushonce_relay_sent_messages_total", &[&from, &to, "kind=\"deliver\""])
        .await
}
