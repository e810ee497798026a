//! Set-up: a node in one region and two in another, so that there is an owner, the head of a region,
//! and an edge behind it; a topic with some messages.
//! Fault: clients that come with every kind of position, on every way in, at every node.
//! Claim: the table of `proto/README.md`. A position that was given out gets exactly the rest, also one
//! that the client's node has not heard of yet; any other gets a gap or an error, never old or wrong
//! messages, and never silence.

use pushonce_client::{ErrorCode, Event, Transport};
use pushonce_cluster_tests::{Cluster, Seen, Socket, secs, text};
use pushonce_core::{From, Gap, GapReason, Position};

const TRANSPORTS: [Transport; 3] = [Transport::Ws, Transport::Quic, Transport::Grpc];

/// What a position gets.
#[derive(Clone, Copy, Debug)]
enum Answer {
    /// The messages after the first so many.
    Rest(usize),
    /// A gap of another epoch, then everything.
    Gap,
    /// `future_position`.
    Never,
}

#[tokio::test(flavor = "multi_thread")]
async fn every_position_gets_the_answer_that_is_published() {
    let cluster = Cluster::regions().region("eu", 1).region("us", 2).start().await;
    let log = cluster.publish(0, "judged", 0..5).await;
    let epoch = log[0].0.epoch.0;
    let table = [
        (Position::new(epoch, 3), Answer::Rest(3)),
        (Position::new(epoch, 5), Answer::Rest(5)),
        (Position::new(epoch, 0), Answer::Rest(0)),
        (Position::ZERO, Answer::Rest(0)),
        (Position::new(epoch - 1, 3), Answer::Gap),
        (Position::new(epoch - 1, u64::MAX), Answer::Gap),
        (Position::new(epoch, 6), Answer::Never),
        (Position::new(epoch, u64::MAX), Answer::Never),
        (Position::new(epoch + 1, 1), Answer::Never),
        (Position::new(u64::MAX, 0), Answer::Never),
        (Position::new(0, 5), Answer::Never),
    ];
    for node in 0..3 {
        // Somebody else watches already, or nobody does: the answer is the same.
        for watched in [false, true] {
            let _other = match watched {
                true => Some(cluster.viewer(node, Transport::Ws, "judged", From::Now)),
                false => None,
            };
            for (position, answer) in table {
                for transport in TRANSPORTS {
                    judge(&cluster, node, transport, position, answer, &log).await;
                }
            }
        }
    }
    of_a_topic_that_does_not_exist(&cluster).await;
    by_hand(&cluster, &log).await;
    acknowledged_a_moment_ago(&cluster).await;
}

async fn judge(
    cluster: &Cluster,
    node: usize,
    transport: Transport,
    position: Position,
    answer: Answer,
    log: &[Seen],
) {
    let case = format!("{position} at node {node} by {transport:?}");
    let mut viewer = cluster.viewer(node, transport, "judged", From::Position(position));
    if let Answer::Never = answer {
        let (code, message) = viewer.refused(secs(10)).await;
        assert_eq!(code, ErrorCode::FuturePosition, "{case}: {message}");
        return;
    }
    let recovered = loop {
        match viewer.next(secs(10)).await {
            Event::Subscribed { recovered, .. } => break recovered,
            Event::Connected { .. } => {}
            other => panic!("{case}: {other:?}"),
        }
    };
    assert_eq!(recovered, matches!(answer, Answer::Rest(_)), "{case}");
    let rest = match answer {
        Answer::Rest(seen) => &log[seen..],
        Answer::Gap | Answer::Never => {
            let to = Position::new(log[0].0.epoch.0, 0);
            let gap = Gap { from: position.next(), to, reason: GapReason::Epoch };
            assert_eq!(viewer.gap(secs(10)).await, gap, "{case}");
            log
        }
    };
    assert_eq!(viewer.messages(rest.len(), secs(10)).await, rest, "{case}");
}

async fn of_a_topic_that_does_not_exist(cluster: &Cluster) {
    for node in 0..3 {
        for transport in TRANSPORTS {
            let from = From::Position(Position::new(3, 1));
            let mut viewer = cluster.viewer(node, transport, "nowhere", from);
            assert_eq!(viewer.refused(secs(10)).await.0, ErrorCode::FuturePosition);
            let from = From::Position(Position::ZERO);
            let mut viewer = cluster.viewer(node, transport, "nowhere", from);
            assert_eq!(viewer.live(secs(10)).await, Position::ZERO);
        }
    }
}

/// JSON, in a frame and in the address.
async fn by_hand(cluster: &Cluster, log: &[Seen]) {
    let http = cluster.ports(2).http;
    let third = log[2].0;
    let mut socket = Socket::open(http, &format!("?topic=judged&from={third}")).await;
    let answer = socket.hear().await.expect("an answer");
    assert_eq!(answer["subscribed"]["recovered"], true, "{answer}");
    assert_eq!(socket.messages(2).await, &log[3..]);

    let mut socket = Socket::open(http, &format!("?topic=judged&from={}:9", third.epoch.0)).await;
    let answer = socket.hear().await.expect("an answer");
    assert_eq!(answer["error"]["code"], "future_position", "{answer}");
    for text in ["12", "a:b", "-1:2", "1:99999999999999999999"] {
        let request = format!(
            r#"{{"id":1,"subscribe":{{"topic":"judged","from":{{"position":"{text}"}}}}}}"#
        );
        let answer = socket.ask(&request).await;
        assert_eq!(answer["error"]["code"], "bad_position", "{text}: {answer}");
    }
}

/// The owner has acknowledged it, and the node that is asked may not have heard of it.
async fn acknowledged_a_moment_ago(cluster: &Cluster) {
    let publisher = cluster.publisher(0);
    for round in 0..5 {
        let mut viewers = Vec::new();
        let placed = publisher.publish(text("moment", &format!("a{round}"))).await.expect("placed");
        for node in 0..3 {
            for transport in TRANSPORTS {
                let from = From::Position(placed.position);
                viewers.push(cluster.viewer(node, transport, "moment", from));
            }
        }
        for viewer in &mut viewers {
            viewer.live(secs(10)).await;
        }
        let line = format!("b{round}");
        let next = publisher.publish(text("moment", &line)).await.expect("placed").position;
        for viewer in &mut viewers {
            assert_eq!(viewer.message(secs(10)).await, (next, line.clone()));
        }
    }
}
