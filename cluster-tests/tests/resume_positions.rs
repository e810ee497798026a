//! Set-up: a node in one region and two in another, so that there are an owner, a region head and an edge
//! behind it; a topic with some messages.
//! Fault: clients that subscribe with every kind of position, over every transport, at every node.
//! Claim: the table in `proto/README.md`. An existing position resumes with exactly the later messages, even
//! if the client's node does not know it yet; any other position gets a gap or an error, never wrong messages
//! and never silence.

use pushonce_client::{ErrorCode, SubscriberEvent, Transport};
use pushonce_cluster_tests::{
    ProcessCluster, ReceivedMessage, WebSocketClient, secs, text_message,
};
use pushonce_core::{Gap, GapReason, Position, StartFrom};

const TRANSPORTS: [Transport; 3] = [Transport::Ws, Transport::Quic, Transport::Grpc];

/// The expected result of a subscription after a position.
#[derive(Clone, Copy, Debug)]
enum ExpectedStart {
    /// The messages after the first `n`.
    ResumeAfter(usize),
    /// A gap with reason `epoch`, then all messages.
    Gap,
    /// The error `future_position`.
    FuturePosition,
}

#[tokio::test(flavor = "multi_thread")]
async fn every_position_gets_the_documented_answer() {
    let cluster = ProcessCluster::builder().region("eu", 1).region("us", 2).start().await;
    let log = cluster.publish_numbers(0, "judged", 0..5).await;
    let epoch = log[0].0.epoch.0;
    let table = [
        (Position::new(epoch, 3), ExpectedStart::ResumeAfter(3)),
        (Position::new(epoch, 5), ExpectedStart::ResumeAfter(5)),
        (Position::new(epoch, 0), ExpectedStart::ResumeAfter(0)),
        (Position::ZERO, ExpectedStart::ResumeAfter(0)),
        (Position::new(epoch - 1, 3), ExpectedStart::Gap),
        (Position::new(epoch - 1, u64::MAX), ExpectedStart::Gap),
        (Position::new(epoch, 6), ExpectedStart::FuturePosition),
        (Position::new(epoch, u64::MAX), ExpectedStart::FuturePosition),
        (Position::new(epoch + 1, 1), ExpectedStart::FuturePosition),
        (Position::new(u64::MAX, 0), ExpectedStart::FuturePosition),
        (Position::new(0, 5), ExpectedStart::FuturePosition),
    ];
    for node in 0..3 {
        // The result is the same whether the node already has a subscriber or not.
        for watched in [false, true] {
            let _other = match watched {
                true => Some(cluster.subscriber(node, Transport::Ws, "judged", StartFrom::Now)),
                false => None,
            };
            for (position, expected) in table {
                for transport in TRANSPORTS {
                    check_position(&cluster, node, transport, position, expected, &log).await;
                }
            }
        }
    }
    check_unknown_topic(&cluster).await;
    check_raw_frames(&cluster, &log).await;
    check_just_acknowledged_position(&cluster).await;
}

async fn check_position(
    cluster: &ProcessCluster,
    node: usize,
    transport: Transport,
    position: Position,
    expected: ExpectedStart,
    log: &[ReceivedMessage],
) {
    let case = format!("{position} at node {node} by {transport:?}");
    let mut viewer = cluster.subscriber(node, transport, "judged", StartFrom::Position(position));
    if let ExpectedStart::FuturePosition = expected {
        let (code, message) = viewer.wait_rejected(secs(10)).await;
        assert_eq!(code, ErrorCode::FuturePosition, "{case}: {message}");
        return;
    }
    let recovered = loop {
        match viewer.next_event(secs(10)).await {
            SubscriberEvent::Subscribed { recovered, .. } => break recovered,
            SubscriberEvent::Connected { .. } => {}
            other => panic!("{case}: {other:?}"),
        }
    };
    assert_eq!(recovered, matches!(expected, ExpectedStart::ResumeAfter(_)), "{case}");
    let remaining = match expected {
        ExpectedStart::ResumeAfter(count) => &log[count..],
        ExpectedStart::Gap | ExpectedStart::FuturePosition => {
            let to = Position::new(log[0].0.epoch.0, 0);
            let gap = Gap { from: position.next(), to, reason: GapReason::Epoch };
            assert_eq!(viewer.next_gap(secs(10)).await, gap, "{case}");
            log
        }
    };
    assert_eq!(viewer.next_messages(remaining.len(), secs(10)).await, remaining, "{case}");
}

async fn check_unknown_topic(cluster: &ProcessCluster) {
    for node in 0..3 {
        for transport in TRANSPORTS {
            let from = StartFrom::Position(Position::new(3, 1));
            let mut viewer = cluster.subscriber(node, transport, "nowhere", from);
            assert_eq!(viewer.wait_rejected(secs(10)).await.0, ErrorCode::FuturePosition);
            let from = StartFrom::Position(Position::ZERO);
            let mut viewer = cluster.subscriber(node, transport, "nowhere", from);
            assert_eq!(viewer.wait_subscribed(secs(10)).await, Position::ZERO);
        }
    }
}

/// Positions in JSON frames and in the query of the URL.
async fn check_raw_frames(cluster: &ProcessCluster, log: &[ReceivedMessage]) {
    let http = cluster.ports(2).http;
    let third_position = log[2].0;
    let mut socket =
        WebSocketClient::open(http, &format!("?topic=judged&from={third_position}")).await;
    let answer = socket.next_frame().await.expect("a reply");
    assert_eq!(answer["subscribed"]["recovered"], true, "{answer}");
    assert_eq!(socket.next_messages(2).await, &log[3..]);

    let mut socket =
        WebSocketClient::open(http, &format!("?topic=judged&from={}:9", third_position.epoch.0))
            .await;
    let answer = socket.next_frame().await.expect("a reply");
    assert_eq!(answer["error"]["code"], "future_position", "{answer}");
    for text in ["12", "a:b", "-1:2", "1:99999999999999999999"] {
        let request = format!(
            r#"{{"id":1,"subscribe":{{"topic":"judged","from":{{"position":"{text}"}}}}}}"#
        );
        let answer = socket.request(&request).await;
        assert_eq!(answer["error"]["code"], "bad_position", "{text}: {answer}");
    }
}

/// Subscribes after a position that was just acknowledged, which the queried node may not know yet.
async fn check_just_acknowledged_position(cluster: &ProcessCluster) {
    let publisher = cluster.publisher(0);
    for round in 0..5 {
        let mut viewers = Vec::new();
        let acknowledgement = publisher
            .publish(text_message("moment", &format!("a{round}")))
            .await
            .expect("acknowledged");
        for node in 0..3 {
            for transport in TRANSPORTS {
                let from = StartFrom::Position(acknowledgement.position);
                viewers.push(cluster.subscriber(node, transport, "moment", from));
            }
        }
        for viewer in &mut viewers {
            viewer.wait_subscribed(secs(10)).await;
        }
        let line = format!("b{round}");
        let next =
            publisher.publish(text_message("moment", &line)).await.expect("acknowledged").position;
        for viewer in &mut viewers {
            assert_eq!(viewer.next_message(secs(10)).await, (next, line.clone()));
        }
    }
}
