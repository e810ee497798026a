//! Three nodes, publishers that never pause, and an owner that transfers leadership twice and is then
//! stopped.
//!
//! Claims: every acknowledged message is in the history of the last owner exactly once, at the acknowledged
//! position; every publish completes; a subscriber that listens to an owner and then reads a page from it
//! misses nothing as long as that node is the owner.

#![allow(clippy::unwrap_used, reason = "a failed test may panic")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::{join_all, select_all};
use pushonce_consensus::{ConsensusSettings, PeerAddresses};
use pushonce_core::{
    Acknowledgement, HistoryRange, InvalidPublish, Message, Position, PublishError, Term, Topic,
    test_util,
};
use pushonce_shard::Handle;
use support::{Node, keyed, publish};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

mod support;

const PUBLISHERS: usize = 12;

fn topic() -> Topic {
    test_util::topic("match/57")
}

/// The term of one owner: the number of messages its listener had at the start, and the head of the page
/// read then.
struct OwnerTerm<'a> {
    node: &'a Node,
    term: Term,
    start_index: usize,
    head: Position,
}

impl OwnerTerm<'_> {
    /// Waits until a node owns the shard in a later term than `after`, then reads a page from it.
    async fn begin(nodes: &[Node], after: Term) -> OwnerTerm<'_> {
        let claims = nodes.iter().map(|node| Box::pin(node.claim_after(after)));
        let (term, nth, _) = select_all(claims).await;
        let node = &nodes[nth];
        let start_index = node.delivered.all().len();
        let head = node.shard.fetch_history(&topic(), HistoryRange::All).unwrap().head;
        OwnerTerm { node, term, start_index, head }
    }

    /// Waits for messages. Those that are not in the page must follow it without a hole.
    async fn assert_no_missed_messages(&self) {
        while self.node.delivered.all().len() < self.start_index + 100 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let mut reached = self.head;
        for (_, message) in &self.node.delivered.all()[self.start_index..] {
            if message.position > reached {
                assert!(message.position.follows(reached), "{} after {reached}", message.position);
                reached = message.position;
            }
        }
        assert!(reached > self.head);
    }
}

/// Publishes one message after another to the node that accepts it, until `end`. Returns the acknowledged
/// messages.
async fn publish_until_cancelled(
    name: usize,
    nodes: Vec<Handle>,
    end: CancellationToken,
) -> Vec<(String, Acknowledgement)> {
    let (mut acknowledged, mut node_index) = (Vec::new(), 0);
    let mut payloads = (0..).map(|nth| format!("{name}/{nth}"));
    let mut payload = payloads.next().unwrap();
    while !end.is_cancelled() {
        let outcome =
            nodes[node_index % nodes.len()].publish(publish(topic(), payload.clone())).await;
        if let Err(PublishError::Rejected(_)) = outcome {
            node_index += 1;
            tokio::time::sleep(Duration::from_millis(1)).await;
            continue;
        }
        acknowledged.extend(outcome.ok().map(|placed| (payload, placed)));
        payload = payloads.next().unwrap();
    }
    acknowledged
}

async fn start_three_nodes() -> (Vec<Node>, [tempfile::TempDir; 3]) {
    let (dirs, addresses) =
        ([support::dir(), support::dir(), support::dir()], PeerAddresses::default());
    let settings =
        ConsensusSettings { proposal_deadline: Duration::from_secs(2), ..ConsensusSettings::lan() };
    let mut nodes = Vec::new();
    for (id, dir) in (1..).zip(&dirs) {
        nodes.push(Node::start(id, dir, &addresses, settings.clone()).await);
    }
    support::form_group(&nodes).await;
    (nodes, dirs)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_messages_survive_owner_changes_and_listeners_miss_nothing() {
    let (mut nodes, _dirs) = start_three_nodes().await;
    let (end, mut publishers) = (CancellationToken::new(), JoinSet::new());
    let handles: Vec<_> = nodes.iter().map(|node| node.shard.clone()).collect();
    for name in 0..PUBLISHERS {
        publishers.spawn(publish_until_cancelled(name, handles.clone(), end.clone()));
    }

    let mut tenure = OwnerTerm::begin(&nodes, Term(0)).await;
    for _ in 0..2 {
        tenure.assert_no_missed_messages().await;
        let other = nodes.iter().find(|node| node.id != tenure.node.id).unwrap();
        // The result does not matter: some node becomes the owner.
        let _ = tenure.node.shard.group().transfer_leadership(other.id).await;
        tenure = OwnerTerm::begin(&nodes, tenure.term).await;
    }
    tenure.assert_no_missed_messages().await;

    let (owner, term) = (tenure.node.id, tenure.term);
    let stopped = nodes.extract_if(.., |node| node.id == owner).next().unwrap();
    stopped.stop().await;
    let tenure = OwnerTerm::begin(&nodes, term).await;
    tenure.assert_no_missed_messages().await;

    end.cancel();
    let acknowledged: Vec<_> = publishers.join_all().await.into_iter().flatten().collect();
    assert_retained(
        &acknowledged,
        &tenure.node.shard.fetch_history(&topic(), HistoryRange::All).unwrap().messages,
    );
    join_all(nodes.into_iter().map(Node::stop)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn repeated_key_gets_the_first_ack_from_the_next_owner() {
    let (mut nodes, _dirs) = start_three_nodes().await;
    let tenure = OwnerTerm::begin(&nodes, Term(0)).await;
    let first = tenure.node.shard.publish(keyed(topic(), "k", "goal")).await.unwrap();
    tenure.node.shard.publish(publish(topic(), "another".to_owned())).await.unwrap();

    let (owner, term) = (tenure.node.id, tenure.term);
    let stopped = nodes.extract_if(.., |node| node.id == owner).next().unwrap();
    stopped.stop().await;
    let tenure = OwnerTerm::begin(&nodes, term).await;
    let next = &tenure.node.shard;
    assert_eq!(next.publish(keyed(topic(), "k", "goal")).await, Ok(first));
    let conflict = next.publish(keyed(topic(), "k", "foul")).await;
    assert_eq!(conflict, Err(InvalidPublish::KeyReused.into()));
    assert_eq!(next.fetch_history(&topic(), HistoryRange::All).unwrap().messages.len(), 2);
    let delivered = tenure.node.delivered.all();
    assert!(delivered[tenure.start_index..].is_empty(), "a repeat was delivered: {delivered:?}");
    join_all(nodes.into_iter().map(Node::stop)).await;
}

fn assert_retained(acknowledged: &[(String, Acknowledgement)], log: &[Arc<Message>]) {
    assert!(!acknowledged.is_empty());
    let mut places = BTreeMap::<String, Vec<Position>>::new();
    for message in log {
        let payload = String::from_utf8(message.payload.to_vec()).unwrap();
        places.entry(payload).or_default().push(message.position);
    }
    for (payload, placed) in acknowledged {
        assert_eq!(places[payload], [placed.position], "{payload}");
    }
    assert!(log.windows(2).all(|two| two[1].position.follows(two[0].position)));
}
