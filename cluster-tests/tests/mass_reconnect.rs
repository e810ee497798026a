//! Set-up: three nodes, and 300 subscribers of a topic at a node that does not own it.
//! Fault: all of them lose their connection at once; messages are published meanwhile.
//! Claim: every subscriber resumes with exactly the missed messages, and their node fetches these only a few
//! times from the owner, independent of the number of subscribers.

use futures::future::join_all;
use pushonce_client::{ServerAddress, Transport};
use pushonce_cluster_tests::{ProcessCluster, TcpProxy, TestSubscriber, secs};
use pushonce_core::StartFrom;

const VIEWERS: usize = 300;
const TOPIC: &str = "storm/score";

/// The maximum number of fetches for a topic to which all subscribers reconnect: one page, and further ones
/// for messages that arrive during a fetch.
const FETCHES_MAX: u64 = 5;

#[tokio::test(flavor = "multi_thread")]
async fn mass_reconnect_resumes_every_viewer_with_few_fetches_from_the_owner() {
    let cluster = ProcessCluster::with_nodes(3).start().await;
    let edge = (cluster.owner_of(TOPIC).await + 1) % 3;
    cluster.publish_numbers(0, TOPIC, 0..3).await;
    let proxy = TcpProxy::start(cluster.ports(edge).http).await;
    let server: ServerAddress = format!("ws://{}", proxy.address).parse().expect("a valid address");
    let viewer =
        |_| TestSubscriber::new(vec![server.clone()], Transport::Ws, TOPIC, StartFrom::Last(1));
    let mut viewers: Vec<_> = (0..VIEWERS).map(viewer).collect();
    for viewer in &mut viewers {
        viewer.next_messages(1, secs(10)).await;
    }
    let fetches_before = cluster.metric_sum("pushonce_fanout_fetches_total", &[]).await;
    assert!(fetches_before > 0, "the edge has fetched the earlier messages from the owner");

    proxy.cut();
    join_all(viewers.iter_mut().map(|viewer| viewer.wait_disconnected(secs(10)))).await;
    let missed = cluster.publish_numbers(0, TOPIC, 3..8).await;
    proxy.restore();
    for received in
        join_all(viewers.iter_mut().map(|viewer| viewer.next_messages(5, secs(20)))).await
    {
        assert_eq!(received, missed);
    }

    let fetches = cluster.metric_sum("pushonce_fanout_fetches_total", &[]).await - fetches_before;
    // There is no fetch if a subscriber reconnects before the edge has noticed that the last one
    // disconnected.
    assert!(fetches <= FETCHES_MAX, "{fetches} fetches for {VIEWERS} subscribers");
}
