//! Set-up: one node with one lane, subscribers on every transport and a publisher.
//! Fault: event streams that never read while their topics have large messages, clients that send without end after
//! their request, and a storm of streams that are closed at once.
//! Claim: other clients are not affected, and memory and descriptors return to the baseline.

use pushonce_client::Publisher;
use pushonce_cluster_tests::hostile::{Bystanders, Footprint, Stranger};
use pushonce_cluster_tests::{ProcessCluster, text_message};

const STREAMS: usize = 40;

/// The topics that the hostile streams subscribe to.
const REQUEST: &str =
    "GET /sse?topic=flood/0&topic=flood/1&from=start HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// Publishes some MiB to the topics of the hostile streams.
async fn flood(publisher: &Publisher) {
    let text = "x".repeat(60_000);
    for n in 0..40 {
        let message = text_message(&format!("flood/{}", n % 2), &text);
        publisher.publish(message).await.expect("acknowledged");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_that_never_read_are_not_noticed_and_are_disconnected() {
    let cluster = ProcessCluster::with_nodes(1).flags(&["--session-heartbeat", "1s"]).start().await;
    let mut bystanders = Bystanders::connect(&cluster).await;
    bystanders.assert_served(3).await;
    let baseline = Footprint::of(cluster.node(0));
    let mut strangers = Vec::new();
    for _ in 0..STREAMS {
        let mut stranger = Stranger::connect(cluster.ports(0).http).await;
        assert!(stranger.send(REQUEST.as_bytes()).await);
        strangers.push(stranger);
    }
    let publisher = cluster.publisher(0);
    for _ in 0..5 {
        flood(&publisher).await;
        bystanders.assert_served(1).await;
    }
    // Without a read on their side: their descriptors are gone.
    baseline.wait_restored(cluster.node(0)).await;
    bystanders.assert_served(3).await;
    drop(strangers);
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_send_without_end_after_their_request_are_disconnected() {
    let cluster = ProcessCluster::with_nodes(1).start().await;
    let mut bystanders = Bystanders::connect(&cluster).await;
    bystanders.assert_served(3).await;
    let baseline = Footprint::of(cluster.node(0));
    let mut attackers = tokio::task::JoinSet::new();
    for _ in 0..STREAMS {
        let http = cluster.ports(0).http;
        attackers.spawn(async move {
            let mut stranger = Stranger::connect(http).await;
            assert!(stranger.send(REQUEST.as_bytes()).await);
            while stranger.send(&[b'x'; 16 << 10]).await {}
        });
    }
    while !attackers.is_empty() {
        bystanders.assert_served(1).await;
        while attackers.try_join_next().is_some_and(|result| result.is_ok()) {}
    }
    bystanders.assert_served(3).await;
    baseline.wait_restored(cluster.node(0)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn storm_of_streams_that_end_at_once_is_not_noticed() {
    let cluster = ProcessCluster::with_nodes(1).start().await;
    let mut bystanders = Bystanders::connect(&cluster).await;
    bystanders.assert_served(3).await;
    let baseline = Footprint::of(cluster.node(0));
    for _ in 0..20 {
        for _ in 0..STREAMS {
            let mut stranger = Stranger::connect(cluster.ports(0).http).await;
            stranger.send(REQUEST.as_bytes()).await;
            stranger.reset();
        }
        bystanders.assert_served(1).await;
    }
    baseline.wait_restored(cluster.node(0)).await;
}
