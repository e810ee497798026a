//! Set-up: three nodes, a namespace that lives in memory, viewers on all nodes by every transport.
//! Fault: `kill -9` of the topic's owner.
//! Claim: acknowledgements say `memory`. As soon as there is another owner everybody is told a gap of
//! reason `epoch`, though nobody publishes, and then goes on: never backwards, never twice.

use pushonce_client::{Event, Transport};
use pushonce_cluster_tests::{Cluster, Seen, Socket, Viewer, secs, text, tool::pushonce, until};
use pushonce_core::{Durability, From, GapReason, Position};

const TOPIC: &str = "pulse/1";

/// Owners may change by themselves on a busy machine, and then messages in memory are lost: so many
/// times one round after the other is published until everybody has seen all of one.
const ROUNDS: usize = 5;

#[tokio::test(flavor = "multi_thread")]
async fn everybody_is_told_and_goes_on() {
    let mut cluster = Cluster::of(3).start().await;
    keep_in_memory(&cluster).await;
    let owner = cluster.owner(TOPIC).await;
    let other = (owner + 1) % 3;
    let mut viewers = Vec::new();
    for i in cluster.running() {
        for transport in [Transport::Ws, Transport::Quic, Transport::Grpc] {
            let mut viewer = cluster.viewer(i, transport, TOPIC, From::Now);
            let reached = viewer.live(secs(10)).await;
            viewers.push((viewer, reached));
        }
    }
    let old = everybody_sees_a_round(&cluster, other, &mut viewers).await;

    cluster.kill(owner);
    for (viewer, reached) in &mut viewers {
        let gap = viewer.gap(secs(30)).await;
        assert_eq!((gap.from, gap.reason), (reached.next(), GapReason::Epoch), "{gap}");
        assert!(gap.to.epoch > reached.epoch, "{gap}");
        *reached = gap.to;
    }
    let last = everybody_sees_a_round(&cluster, other, &mut viewers).await;
    an_old_cursor_is_told_too(&cluster, other, old, last).await;
}

/// Publishes through the `at`th node. Says where the last message stands.
async fn everybody_sees_a_round(
    cluster: &Cluster,
    at: usize,
    viewers: &mut [(Viewer, Position)],
) -> Position {
    let publisher = cluster.publisher(at);
    for round in 0..ROUNDS {
        let mut log: Vec<Seen> = Vec::new();
        for nth in 0..5 {
            let line = format!("{round}/{nth}");
            if let Ok(placed) = publisher.publish(text(TOPIC, &line)).await {
                log.push((placed.position, line));
            }
        }
        let Some(&(last, _)) = log.last() else { continue };
        let mut whole = log.len() == 5;
        for (viewer, reached) in viewers.iter_mut() {
            whole &= up_to(viewer, reached, last).await == log;
        }
        if whole {
            return last;
        }
    }
    panic!("in {ROUNDS} rounds nobody saw all of one");
}

/// Waits until the owner has heard of it, and every door says so.
async fn keep_in_memory(cluster: &Cluster) {
    let server = format!("http://{}", cluster.node(2).ports.grpc);
    let set = ["namespace", "set", "pulse", "--durability", "memory", "--server", &server];
    assert!(pushonce(set, "").await.ok().contains("memory"));
    until("an acknowledgement says memory", secs(10), async || {
        let placed = cluster.publisher(1).publish(text(TOPIC, "warming up")).await;
        match placed.map(|placed| placed.durability) {
            Ok(Durability::Memory) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    let mut socket = Socket::open(cluster.node(0).ports.http, "").await;
    let publish = format!(r#"{{"id":1,"publish":{{"topic":"{TOPIC}","data":"warm"}}}}"#);
    let answer = socket.ask(&publish).await;
    assert_eq!(answer["published"]["durability"], "memory", "{answer}");
}

async fn an_old_cursor_is_told_too(cluster: &Cluster, at: usize, old: Position, last: Position) {
    let mut late = cluster.viewer(at, Transport::Ws, TOPIC, From::Position(old));
    let gap = late.gap(secs(10)).await;
    assert_eq!((gap.from, gap.reason), (old.next(), GapReason::Epoch));
    let mut reached = gap.to;
    up_to(&mut late, &mut reached, last).await;
}

/// Reads on up to `last`. Every message is the next, or a gap of reason `epoch` stands before it.
async fn up_to(viewer: &mut Viewer, reached: &mut Position, last: Position) -> Vec<Seen> {
    let mut seen = Vec::new();
    while *reached < last {
        match viewer.next(secs(20)).await {
            Event::Gap { gap, .. } => {
                assert_eq!(gap.reason, GapReason::Epoch);
                assert!(gap.to > *reached, "{gap} after {reached}");
                *reached = gap.to;
            }
            Event::Message { message, .. } => {
                assert!(message.position.follows(*reached), "{} after {reached}", message.position);
                *reached = message.position;
                let text = String::from_utf8_lossy(&message.payload).into_owned();
                seen.push((*reached, text));
            }
            Event::Refused { code, message } => panic!("refused: {code} {message}"),
            _ => {}
        }
    }
    seen
}
