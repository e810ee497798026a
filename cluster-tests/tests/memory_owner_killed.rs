//! Set-up: three nodes, a namespace with durability `memory`, subscribers on all nodes by every transport.
//! Fault: `kill -9` of the topic's owner.
//! Claim: acknowledgements report `memory`. As soon as there is a new owner, every subscriber receives a gap
//! with reason `epoch`, even if nothing is published, and delivery resumes without repeated or earlier
//! messages.

use pushonce_client::{SubscriberEvent, Transport};
use pushonce_cluster_tests::{
    ProcessCluster, ReceivedMessage, TestSubscriber, WebSocketClient, cli::pushonce, secs,
    text_message, wait_until,
};
use pushonce_core::{Durability, GapReason, Position, StartFrom};

const TOPIC: &str = "pulse/1";

/// On a busy machine, owners may change by themselves, and messages in memory are lost. Up to this many
/// rounds are published until every subscriber has received a whole round.
const ROUNDS_MAX: usize = 5;

#[tokio::test(flavor = "multi_thread")]
async fn subscribers_get_an_epoch_gap_when_the_owner_of_memory_messages_is_killed() {
    let mut cluster = ProcessCluster::with_nodes(3).start().await;
    set_memory_durability(&cluster).await;
    let owner = cluster.owner_of(TOPIC).await;
    let other = (owner + 1) % 3;
    let mut viewers = Vec::new();
    for i in cluster.running_nodes() {
        for transport in [Transport::Ws, Transport::Quic, Transport::Grpc] {
            let mut viewer = cluster.subscriber(i, transport, TOPIC, StartFrom::Now);
            let reached = viewer.wait_subscribed(secs(10)).await;
            viewers.push((viewer, reached));
        }
    }
    let position_before = publish_until_all_receive_a_round(&cluster, other, &mut viewers).await;

    cluster.kill(owner);
    for (viewer, reached) in &mut viewers {
        let gap = viewer.next_gap(secs(30)).await;
        assert_eq!((gap.from, gap.reason), (reached.next(), GapReason::Epoch), "{gap}");
        assert!(gap.to.epoch > reached.epoch, "{gap}");
        *reached = gap.to;
    }
    let position_after = publish_until_all_receive_a_round(&cluster, other, &mut viewers).await;
    assert_old_position_gets_gap(&cluster, other, position_before, position_after).await;
}

/// Publishes rounds through `node` until all subscribers have received a whole round; returns its last
/// position.
async fn publish_until_all_receive_a_round(
    cluster: &ProcessCluster,
    node: usize,
    viewers: &mut [(TestSubscriber, Position)],
) -> Position {
    let publisher = cluster.publisher(node);
    for round in 0..ROUNDS_MAX {
        let mut log: Vec<ReceivedMessage> = Vec::new();
        for nth in 0..5 {
            let line = format!("{round}/{nth}");
            if let Ok(placed) = publisher.publish(text_message(TOPIC, &line)).await {
                log.push((placed.position, line));
            }
        }
        let Some(&(last, _)) = log.last() else { continue };
        let mut all_received = log.len() == 5;
        for (viewer, reached) in viewers.iter_mut() {
            all_received &= messages_up_to(viewer, reached, last).await == log;
        }
        if all_received {
            return last;
        }
    }
    panic!("no round of {ROUNDS_MAX} was received as a whole by every subscriber");
}

/// Sets the durability, and waits until the owner has it and acknowledgements report it.
async fn set_memory_durability(cluster: &ProcessCluster) {
    let server = format!("http://{}", cluster.node(2).ports.grpc);
    let set = ["namespace", "set", "pulse", "--durability", "memory", "--server", &server];
    assert!(pushonce(set, "").await.expect_success().contains("memory"));
    wait_until("an acknowledgement reports memory", secs(10), async || {
        let acknowledgement = cluster.publisher(1).publish(text_message(TOPIC, "warming up")).await;
        match acknowledgement.map(|acknowledgement| acknowledgement.durability) {
            Ok(Durability::Memory) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    let mut socket = WebSocketClient::open(cluster.node(0).ports.http, "").await;
    let publish = format!(r#"{{"id":1,"publish":{{"topic":"{TOPIC}","data":"warm"}}}}"#);
    let answer = socket.request(&publish).await;
    assert_eq!(answer["published"]["durability"], "memory", "{answer}");
}

async fn assert_old_position_gets_gap(
    cluster: &ProcessCluster,
    node: usize,
    old_position: Position,
    last_position: Position,
) {
    let mut late_viewer =
        cluster.subscriber(node, Transport::Ws, TOPIC, StartFrom::Position(old_position));
    let gap = late_viewer.next_gap(secs(10)).await;
    assert_eq!((gap.from, gap.reason), (old_position.next(), GapReason::Epoch));
    let mut reached = gap.to;
    messages_up_to(&mut late_viewer, &mut reached, last_position).await;
}

/// Reads up to `last`. Every message directly follows the previous one, or a gap with reason `epoch`.
async fn messages_up_to(
    viewer: &mut TestSubscriber,
    reached: &mut Position,
    last: Position,
) -> Vec<ReceivedMessage> {
    let mut received = Vec::new();
    while *reached < last {
        match viewer.next_event(secs(20)).await {
            SubscriberEvent::Gap { gap, .. } => {
                assert_eq!(gap.reason, GapReason::Epoch);
                assert!(gap.to > *reached, "{gap} after {reached}");
                *reached = gap.to;
            }
            SubscriberEvent::Message { message, .. } => {
                assert!(message.position.follows(*reached), "{} after {reached}", message.position);
                *reached = message.position;
                let text = String::from_utf8_lossy(&message.payload).into_owned();
                received.push((*reached, text));
            }
            SubscriberEvent::Rejected { code, message, .. } => panic!("rejected: {code} {message}"),
            _ => {}
        }
    }
    received
}
