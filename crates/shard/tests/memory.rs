//! Three nodes and a namespace that lives in the owner's memory.
//!
//! Claims: its messages are acknowledged and delivered without a log entry; the next owner starts a higher
//! epoch, and a reader with a position of the previous one gets a gap; a namespace that moves back to the
//! log starts after its messages in memory.

#![allow(clippy::unwrap_used, reason = "a failed test may panic")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures::StreamExt;
use futures::future::{join_all, select_all};
use futures::stream::FuturesOrdered;
use pushonce_consensus::{ConsensusSettings, PeerAddresses};
use pushonce_core::{
    Durability, Gap, GapReason, HistoryRange, Namespace, Namespaces, Offset, Position,
    PublishError, Term, Timestamp, Topic, test_util,
};
use pushonce_shard::ShardSettings;
use support::{Node, publish};
use tempfile::TempDir;
use tokio::sync::watch;

mod support;

fn topic() -> Topic {
    test_util::topic("chat/7")
}

fn namespaces(revision: u64, durability: Durability) -> Option<Arc<ShardSettings>> {
    let chat = Namespace { durability, ..Namespace::default() };
    let named = BTreeMap::from([("chat".to_owned(), chat)]);
    let drop_stored = match durability {
        Durability::Memory => ["chat".to_owned()].into(),
        Durability::Replicated => BTreeSet::new(),
    };
    support::settings(Namespaces { revision, named, drop_stored, ..Namespaces::default() })
}

/// Three voting replicas, and the sender of the settings that decide the durability of `chat`.
async fn start_three_nodes() -> (Vec<Node>, watch::Sender<Option<Arc<ShardSettings>>>, [TempDir; 3])
{
    let (dirs, addresses) =
        ([support::dir(), support::dir(), support::dir()], PeerAddresses::default());
    let (settings, known) = watch::channel(namespaces(1, Durability::Memory));
    // On a busy machine one slow fsync is enough to lose a lease of 400 ms.
    let (election_min, election_max) = (Duration::from_millis(1_500), Duration::from_secs(3));
    let times = ConsensusSettings { election_min, election_max, ..ConsensusSettings::lan() };
    let mut nodes = Vec::new();
    for (id, dir) in (1..).zip(&dirs) {
        let clock = Arc::new(|| Timestamp(1_790_000_000_000));
        let node = Node::start_with(id, dir, &addresses, times.clone(), known.clone(), clock);
        nodes.push(node.await);
    }
    support::form_group(&nodes).await;
    (nodes, settings, dirs)
}

/// The node that owns the shard in a later term than `after`.
async fn owner(nodes: &[Node], after: Term) -> (usize, Term) {
    let claims = nodes.iter().map(|node| Box::pin(node.claim_after(after)));
    let (term, nth, _) = select_all(claims).await;
    (nth, term)
}

async fn publish_text(node: &Node, text: &str) -> Result<(Position, Durability), PublishError> {
    let placed = node.shard.publish(publish(topic(), text.to_owned())).await?;
    Ok((placed.position, placed.durability))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_messages_are_delivered_without_log_entries_and_lost_with_their_owner() {
    let (mut nodes, _settings, _dirs) = start_three_nodes().await;
    let (first, term) = owner(&nodes, Term(0)).await;
    let (before, mut last) = (nodes[first].log_end().await, Position::ZERO);
    for nth in 0..200 {
        let (position, durability) = publish_text(&nodes[first], &nth.to_string()).await.unwrap();
        assert!(position.follows(last), "{position} after {last}");
        assert_eq!(durability, Durability::Memory);
        last = position;
    }
    assert_eq!(nodes[first].log_end().await, before);
    let delivered: Vec<_> =
        nodes[first].delivered.all().iter().map(|(_, m)| m.position.offset).collect();
    assert!((1..=200).map(Offset).eq(delivered));
    let page = nodes[first].shard.fetch_history(&topic(), HistoryRange::Last(3)).unwrap();
    assert_eq!((page.head, page.messages.len()), (last, 3));
    let listed = nodes[first].shard.list_topics("chat/", None, 10);
    assert_eq!((listed.len(), listed[0].head), (1, last));

    nodes.remove(first).stop().await;
    let (second, _) = owner(&nodes, term).await;
    let page = nodes[second].shard.fetch_history(&topic(), HistoryRange::After(last)).unwrap();
    let gap = page.gap.unwrap();
    assert_eq!((gap.from, gap.reason, page.messages.len()), (last.next(), GapReason::Epoch, 0));
    assert!(gap.to.epoch > last.epoch);
    let (position, durability) = publish_text(&nodes[second], "again").await.unwrap();
    assert!(position.follows(gap.to) && durability == Durability::Memory);
    join_all(nodes.into_iter().map(Node::stop)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn namespace_moves_between_memory_and_log_with_increasing_epochs() {
    let (nodes, settings, _dirs) = start_three_nodes().await;
    let (nth, _) = owner(&nodes, Term(0)).await;
    let (mut last, mut epochs) = (Position::ZERO, Vec::new());
    for (revision, expected) in
        (2..).zip([Durability::Memory, Durability::Replicated, Durability::Memory])
    {
        settings.send_replace(namespaces(revision, expected));
        // The owner takes some milliseconds to learn the new settings.
        loop {
            let (position, durability) = publish_text(&nodes[nth], "x").await.unwrap();
            assert!(position > last, "{position} after {last}");
            if position.epoch != last.epoch {
                let page =
                    nodes[nth].shard.fetch_history(&topic(), HistoryRange::After(last)).unwrap();
                // The next change of the namespace may come between the publish and the read.
                let is_expected_gap = |gap: Gap| {
                    let begins = (gap.from, gap.reason) == (last.next(), GapReason::Epoch);
                    begins && gap.to.epoch >= position.epoch && gap.to.offset == Offset(0)
                };
                assert!(page.gap.map_or(last == Position::ZERO, is_expected_gap), "{:?}", page.gap);
                epochs.push(position.epoch);
            }
            last = position;
            if durability == expected {
                break;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    assert!(epochs.len() >= 3 && epochs.is_sorted(), "{epochs:?}");
    join_all(nodes.into_iter().map(Node::stop)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn publishes_in_flight_keep_their_order_across_durability_changes() {
    let (nodes, settings, _dirs) = start_three_nodes().await;
    let (nth, _) = owner(&nodes, Term(0)).await;
    // As in a publish stream, many publishes are in flight, ordered by their first polls.
    let mut in_flight = FuturesOrdered::new();
    let (mut last, mut published) = (Position::ZERO, 0);
    let durabilities = [Durability::Replicated, Durability::Memory].into_iter().cycle().take(8);
    for (revision, expected) in (2..).zip(durabilities) {
        settings.send_replace(namespaces(revision, expected));
        let known_at = published;
        loop {
            while in_flight.len() < 64 {
                let mut next = Box::pin(publish_text(&nodes[nth], "x"));
                let answer = futures::poll!(&mut next);
                in_flight.push_back(async move {
                    match answer {
                        Poll::Ready(answer) => answer,
                        Poll::Pending => next.await,
                    }
                });
                published += 1;
            }
            let (position, durability) = in_flight.next().await.unwrap().unwrap();
            assert!(position > last, "{position} after {last}");
            last = position;
            if durability == expected {
                break;
            }
            assert!(published < known_at + 10_000, "the durability stays {durability:?}");
        }
    }
    drop(in_flight);
    join_all(nodes.into_iter().map(Node::stop)).await;
}
