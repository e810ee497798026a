//! Set-up: three nodes, and subscribers that have received a part of a topic.
//! Fault: the connection of a subscriber is cut; the node of a subscriber is stopped.
//! Claim: a subscriber that reconnects, to the same node or to another, receives exactly the missed messages.
//! Every start position is honoured; expired messages are reported as a gap, and a position that never
//! existed is rejected.

use pushonce_client::{ErrorCode, ServerAddress, Transport};
use pushonce_cluster_tests::{ProcessCluster, TcpProxy, TestSubscriber, secs};
use pushonce_core::{GapReason, History, Position, StartFrom};

#[tokio::test(flavor = "multi_thread")]
async fn reconnecting_subscriber_receives_exactly_the_missed_messages() {
    let mut cluster = ProcessCluster::with_nodes(3).start().await;
    for transport in [Transport::Ws, Transport::Grpc] {
        resumes_at_the_same_node_after_a_connection_loss(&cluster, transport).await;
    }
    from_now_resumes_at_the_first_session_position(&cluster).await;
    every_start_position_delivers_from_its_place(&cluster).await;
    future_position_is_rejected(&cluster).await;
    expired_messages_are_reported_as_a_gap(&cluster).await;
    resumes_at_another_node_when_its_node_is_stopped(&mut cluster).await;
}

async fn resumes_at_the_same_node_after_a_connection_loss(
    cluster: &ProcessCluster,
    transport: Transport,
) {
    let topic = format!("cut/{transport:?}");
    let (proxy, server) = proxy_to(cluster, transport).await;
    let mut viewer = TestSubscriber::new(vec![server], transport, &topic, StartFrom::Start);
    viewer.wait_subscribed(secs(5)).await;
    let before = cluster.publish_numbers(0, &topic, 0..10).await;
    assert_eq!(viewer.next_messages(10, secs(5)).await, before);

    proxy.cut();
    viewer.wait_disconnected(secs(5)).await;
    let meanwhile = cluster.publish_numbers(0, &topic, 10..30).await;
    proxy.restore();

    assert_eq!(viewer.next_messages(20, secs(10)).await, meanwhile);
    let after = cluster.publish_numbers(0, &topic, 30..31).await;
    assert_eq!(viewer.next_messages(1, secs(5)).await, after);
}

/// A subscriber that has received no message resumes at the position of its first `Subscribed` reply.
async fn from_now_resumes_at_the_first_session_position(cluster: &ProcessCluster) {
    cluster.publish_numbers(0, "cut/now", 0..3).await;
    let (proxy, server) = proxy_to(cluster, Transport::Ws).await;
    let mut viewer = TestSubscriber::new(vec![server], Transport::Ws, "cut/now", StartFrom::Now);
    viewer.wait_subscribed(secs(5)).await;

    proxy.cut();
    viewer.wait_disconnected(secs(5)).await;
    let meanwhile = cluster.publish_numbers(0, "cut/now", 3..5).await;
    proxy.restore();

    assert_eq!(viewer.next_messages(2, secs(10)).await, meanwhile);
}

async fn every_start_position_delivers_from_its_place(cluster: &ProcessCluster) {
    let log = cluster.publish_numbers(0, "begin", 0..20).await;
    let starts = [
        (StartFrom::Start, 0),
        (StartFrom::Last(3), 17),
        (StartFrom::Last(1_000), 0),
        (StartFrom::Position(log[4].0), 5),
        (StartFrom::Position(Position::ZERO), 0),
        (StartFrom::Position(log[19].0), 20),
        (StartFrom::Now, 20),
    ];
    let mut viewers = Vec::new();
    for (from, first) in starts {
        for transport in [Transport::Ws, Transport::Quic, Transport::Grpc] {
            let viewer = cluster.subscriber(viewers.len() % 3, transport, "begin", from);
            viewers.push((viewer, from, first));
        }
    }
    for (viewer, from, _) in &mut viewers {
        assert_eq!(viewer.wait_subscribed(secs(5)).await, log[19].0, "{from:?}");
    }
    let expected = [log, cluster.publish_numbers(0, "begin", 20..21).await].concat();
    for (viewer, from, first) in &mut viewers {
        let received = viewer.next_messages(expected.len() - *first, secs(5)).await;
        assert_eq!(received, expected[*first..], "{from:?}");
    }
}

async fn future_position_is_rejected(cluster: &ProcessCluster) {
    let log = cluster.publish_numbers(0, "future", 0..3).await;
    let head = log[2].0;
    let later = Position { epoch: pushonce_core::Epoch(head.epoch.0 + 1), ..head };
    for position in [head.next(), later] {
        for transport in [Transport::Ws, Transport::Quic, Transport::Grpc] {
            let from = StartFrom::Position(position);
            let mut viewer = cluster.subscriber(1, transport, "future", from);
            let (code, message) = viewer.wait_rejected(secs(5)).await;
            assert_eq!(code, ErrorCode::FuturePosition, "{transport:?}");
            assert!(message.contains(&position.to_string()), "{message}");
            assert!(message.contains("start from"), "{message}");
        }
    }
}

async fn expired_messages_are_reported_as_a_gap(cluster: &ProcessCluster) {
    let history_count = History::default().count_max as usize;
    let log = cluster.publish_numbers(0, "long", 0..history_count as u32 + 200).await;
    let (expired, kept) = log.split_at(200);
    for i in cluster.running_nodes() {
        for transport in [Transport::Ws, Transport::Quic, Transport::Grpc] {
            let from = StartFrom::Position(log[99].0);
            let mut viewer = cluster.subscriber(i, transport, "long", from);
            let gap = viewer.next_gap(secs(10)).await;
            assert_eq!((gap.from, gap.to), (log[100].0, expired[199].0));
            assert_eq!(gap.reason, GapReason::Expired);
            assert_eq!(viewer.next_messages(kept.len(), secs(10)).await, kept);

            let mut from_start = cluster.subscriber(i, transport, "long", StartFrom::Start);
            assert_eq!(from_start.next_messages(kept.len(), secs(10)).await, kept);
        }
    }
}

async fn resumes_at_another_node_when_its_node_is_stopped(cluster: &mut ProcessCluster) {
    let mut viewers = Vec::new();
    for transport in [Transport::Ws, Transport::Quic, Transport::Grpc] {
        let mut viewer = cluster.subscriber(1, transport, "stopped", StartFrom::Start);
        viewer.wait_subscribed(secs(5)).await;
        viewers.push(viewer);
    }
    let before = cluster.publish_numbers(0, "stopped", 0..10).await;
    assert!(cluster.stop(1).await.success(), "the node exits cleanly");
    let log = [before, cluster.publish_numbers(0, "stopped", 10..30).await].concat();

    for viewer in &mut viewers {
        assert_eq!(viewer.next_messages(30, secs(15)).await, log);
    }
}

/// A proxy to the first node's listener for a transport, and the server address of the proxy.
async fn proxy_to(cluster: &ProcessCluster, transport: Transport) -> (TcpProxy, ServerAddress) {
    let ports = cluster.node(0).ports;
    let (target, scheme) = match transport {
        Transport::Grpc => (ports.grpc, "http"),
        _ => (ports.http, "ws"),
    };
    let proxy = TcpProxy::start(target).await;
    let server = format!("{scheme}://{}", proxy.address).parse().expect("a valid address");
    (proxy, server)
}
