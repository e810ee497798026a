//! Set-up: three nodes, and viewers that saw a part of a topic.
//! Fault: the wire of a viewer is cut; the node of a viewer is stopped.
//! Claim: whoever comes back, to the same node or to another, sees exactly the rest. Every beginning
//! means what it says; what history no longer has is told as a gap, and a position that was never
//! given out is refused.

use pushonce_client::{ErrorCode, Server, Transport};
use pushonce_cluster_tests::{Cluster, Viewer, Wire, secs};
use pushonce_core::{From, GapReason, History, Position};

#[tokio::test(flavor = "multi_thread")]
async fn whoever_comes_back_sees_exactly_the_rest() {
    let mut cluster = Cluster::of(3).start().await;
    for transport in [Transport::Ws, Transport::Grpc] {
        over_the_same_wire_to_the_same_node(&cluster, transport).await;
    }
    from_now_counts_from_the_first_session(&cluster).await;
    every_beginning_means_what_it_says(&cluster).await;
    a_position_in_the_future_is_refused(&cluster).await;
    what_history_has_forgotten_is_a_gap(&cluster).await;
    at_another_node_when_its_own_is_stopped(&mut cluster).await;
}

async fn over_the_same_wire_to_the_same_node(cluster: &Cluster, transport: Transport) {
    let topic = format!("cut/{transport:?}");
    let (wire, server) = wire(cluster, transport).await;
    let mut viewer = Viewer::of(vec![server], transport, &topic, From::Start);
    viewer.live(secs(5)).await;
    let before = cluster.publish(0, &topic, 0..10).await;
    assert_eq!(viewer.messages(10, secs(5)).await, before);

    wire.cut();
    viewer.disconnected(secs(5)).await;
    let meanwhile = cluster.publish(0, &topic, 10..30).await;
    wire.mend();

    assert_eq!(viewer.messages(20, secs(10)).await, meanwhile);
    let after = cluster.publish(0, &topic, 30..31).await;
    assert_eq!(viewer.messages(1, secs(5)).await, after);
}

/// Without a message seen there is still a place to go on from: where the topic stood at first.
async fn from_now_counts_from_the_first_session(cluster: &Cluster) {
    cluster.publish(0, "cut/now", 0..3).await;
    let (wire, server) = wire(cluster, Transport::Ws).await;
    let mut viewer = Viewer::of(vec![server], Transport::Ws, "cut/now", From::Now);
    viewer.live(secs(5)).await;

    wire.cut();
    viewer.disconnected(secs(5)).await;
    let meanwhile = cluster.publish(0, "cut/now", 3..5).await;
    wire.mend();

    assert_eq!(viewer.messages(2, secs(10)).await, meanwhile);
}

async fn every_beginning_means_what_it_says(cluster: &Cluster) {
    let log = cluster.publish(0, "begin", 0..20).await;
    let places = [
        (From::Start, 0),
        (From::Last(3), 17),
        (From::Last(1_000), 0),
        (From::Position(log[4].0), 5),
        (From::Position(Position::ZERO), 0),
        (From::Position(log[19].0), 20),
        (From::Now, 20),
    ];
    let mut viewers = Vec::new();
    for (from, first) in places {
        for transport in [Transport::Ws, Transport::Quic, Transport::Grpc] {
            let viewer = cluster.viewer(viewers.len() % 3, transport, "begin", from);
            viewers.push((viewer, from, first));
        }
    }
    for (viewer, from, _) in &mut viewers {
        assert_eq!(viewer.live(secs(5)).await, log[19].0, "{from:?}");
    }
    let whole = [log, cluster.publish(0, "begin", 20..21).await].concat();
    for (viewer, from, first) in &mut viewers {
        let rest = viewer.messages(whole.len() - *first, secs(5)).await;
        assert_eq!(rest, whole[*first..], "{from:?}");
    }
}

async fn a_position_in_the_future_is_refused(cluster: &Cluster) {
    let log = cluster.publish(0, "future", 0..3).await;
    let head = log[2].0;
    let later = Position { epoch: pushonce_core::Epoch(head.epoch.0 + 1), ..head };
    for position in [head.next(), later] {
        for transport in [Transport::Ws, Transport::Quic, Transport::Grpc] {
            let from = From::Position(position);
            let mut viewer = cluster.viewer(1, transport, "future", from);
            let (code, message) = viewer.refused(secs(5)).await;
            assert_eq!(code, ErrorCode::FuturePosition, "{transport:?}");
            assert!(message.contains(&position.to_string()), "{message}");
            assert!(message.contains("begin from"), "{message}");
        }
    }
}

async fn what_history_has_forgotten_is_a_gap(cluster: &Cluster) {
    let kept = History::default().count_max as usize;
    let log = cluster.publish(0, "long", 0..kept as u32 + 200).await;
    let (forgotten, rest) = log.split_at(200);
    for i in cluster.running() {
        for transport in [Transport::Ws, Transport::Quic, Transport::Grpc] {
            let from = From::Position(log[99].0);
            let mut viewer = cluster.viewer(i, transport, "long", from);
            let gap = viewer.gap(secs(10)).await;
            assert_eq!((gap.from, gap.to), (log[100].0, forgotten[199].0));
            assert_eq!(gap.reason, GapReason::Expired);
            assert_eq!(viewer.messages(rest.len(), secs(10)).await, rest);

            let mut all = cluster.viewer(i, transport, "long", From::Start);
            assert_eq!(all.messages(rest.len(), secs(10)).await, rest);
        }
    }
}

async fn at_another_node_when_its_own_is_stopped(cluster: &mut Cluster) {
    let mut viewers = Vec::new();
    for transport in [Transport::Ws, Transport::Quic, Transport::Grpc] {
        let mut viewer = cluster.viewer(1, transport, "stopped", From::Start);
        viewer.live(secs(5)).await;
        viewers.push(viewer);
    }
    let before = cluster.publish(0, "stopped", 0..10).await;
    assert!(cluster.stop(1).await.success(), "it ends cleanly");
    let log = [before, cluster.publish(0, "stopped", 10..30).await].concat();

    for viewer in &mut viewers {
        assert_eq!(viewer.messages(30, secs(15)).await, log);
    }
}

/// A wire to the first node's door for a transport, and the address of its near end.
async fn wire(cluster: &Cluster, transport: Transport) -> (Wire, Server) {
    let ports = cluster.node(0).ports;
    let (door, scheme) = match transport {
        Transport::Grpc => (ports.grpc, "http"),
        _ => (ports.http, "ws"),
    };
    let wire = Wire::to(door).await;
    let server = format!("{scheme}://{}", wire.address).parse().expect("a good address");
    (wire, server)
}
