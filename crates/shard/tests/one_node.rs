//! One node: a shard on a real log on disk.

#![allow(clippy::unwrap_used, reason = "a failed test may panic")]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::future::join_all;
use pushonce_consensus::{ConsensusSettings, DiskSpace, PeerAddresses};
use pushonce_core::{
    Acknowledgement, Durability, FetchError, GapReason, HistoryPage, HistoryRange, Message,
    Namespace, Namespaces, OverloadReason, Position, Publish, PublishError, PublishRejection, Term,
    Timestamp, Topic, TopicLimit, TopicRemoval,
};
use support::{Node, keyed, publish};
use tempfile::TempDir;
use tokio::sync::watch;

mod support;

const TOPICS: usize = 7;

/// Starts node 1 as the only replica and waits until it owns the shard.
async fn owner(dir: &TempDir, settings: ConsensusSettings) -> Node {
    let node = Node::start(1, dir, &PeerAddresses::default(), settings).await;
    node.shard.group().initialize().await.unwrap();
    node.claim_after(Term(0)).await;
    node
}

async fn publish_all(
    node: &Node,
    messages: std::ops::Range<usize>,
) -> Vec<(Topic, Acknowledgement)> {
    let publish = |nth| async move {
        let placed = node.shard.publish(message(nth)).await.unwrap();
        (topic(nth), placed)
    };
    join_all(messages.map(publish)).await
}

fn pages(node: &Node) -> Vec<HistoryPage> {
    (0..TOPICS)
        .map(|nth| node.shard.fetch_history(&topic(nth), HistoryRange::All).unwrap())
        .collect()
}

fn topic(nth: usize) -> Topic {
    Topic::new(&format!("match/{}", nth % TOPICS)).unwrap()
}

fn message(nth: usize) -> Publish {
    publish(topic(nth), format!("message {nth}"))
}

fn positions(messages: &[Arc<Message>]) -> Vec<Position> {
    messages.iter().map(|message| message.position).collect()
}

/// Whether the positions are `1..=count` of one epoch.
fn is_contiguous(positions: &[Position]) -> bool {
    let epoch = positions[0].epoch;
    (1..).zip(positions).all(|(offset, &position)| position == Position::new(epoch.0, offset))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_publishes_get_unique_positions_and_are_delivered_in_order() {
    let dir = support::dir();
    let node = owner(&dir, ConsensusSettings::lan()).await;
    let placed = publish_all(&node, 0..1_000).await;

    let mut acknowledged = BTreeMap::<_, Vec<_>>::new();
    for (topic, placed) in placed {
        acknowledged.entry(topic).or_default().push(placed.position);
    }
    assert_eq!(acknowledged.values().map(Vec::len).sum::<usize>(), 1_000);
    let mut delivered = BTreeMap::<_, Vec<_>>::new();
    for (topic, message) in node.delivered.all() {
        delivered.entry(topic).or_default().push(message);
    }
    for (topic, mut positions) in acknowledged {
        positions.sort();
        assert!(is_contiguous(&positions), "{topic}: {positions:?}");
        assert_eq!(
            self::positions(&delivered[&topic]),
            positions,
            "{topic} was delivered out of order"
        );
        assert_eq!(
            node.shard.fetch_history(&topic, HistoryRange::All).unwrap().messages,
            delivered[&topic]
        );
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn history_and_next_offset_survive_a_restart() {
    let dir = support::dir();
    let node = owner(&dir, ConsensusSettings::lan()).await;
    publish_all(&node, 0..50).await;
    let before = pages(&node);
    node.stop().await;

    let node = owner(&dir, ConsensusSettings::lan()).await;
    assert_eq!(pages(&node), before);
    let (topic, placed) = publish_all(&node, 50..51).await.remove(0);
    let head = before[50 % TOPICS].head;
    assert_eq!(placed.position, head.next());
    let remaining = node.shard.fetch_history(&topic, HistoryRange::After(head)).unwrap();
    assert_eq!((positions(&remaining.messages), remaining.gap), (vec![head.next()], None));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn log_truncated_behind_snapshots_restores_the_same_state() {
    let settings =
        ConsensusSettings { log_bytes_max: 4 << 10, log_bytes_kept: 0, ..ConsensusSettings::lan() };
    let dir = support::dir();
    let node = owner(&dir, settings.clone()).await;
    for round in 0..20 {
        publish_all(&node, round * 50..(round + 1) * 50).await;
    }
    let first = node.shard.publish(keyed(topic(0), "k", "goal")).await.unwrap();
    for round in 0..20 {
        publish_all(&node, round * 50..(round + 1) * 50).await;
    }
    let before = pages(&node);
    node.stop().await;

    let node = owner(&dir, settings).await;
    assert_eq!(pages(&node), before);
    assert_eq!(node.shard.publish(keyed(topic(0), "k", "goal")).await, Ok(first));
    assert_eq!(pages(&node), before, "a repeat was placed again");
    node.stop().await;
}

#[tokio::test]
async fn replica_that_does_not_lead_rejects_publishes_and_delivers_nothing() {
    let dir = support::dir();
    let node = Node::start(1, &dir, &PeerAddresses::default(), ConsensusSettings::lan()).await;
    let rejection = node.shard.publish(message(0)).await;
    assert_eq!(rejection, Err(PublishError::Rejected(PublishRejection::NotOwner { owner: None })));
    let page = node.shard.fetch_history(&topic(0), HistoryRange::All);
    assert!(matches!(page, Err(FetchError::Unavailable(_))));
    assert!(node.shard.claim().borrow().is_none());
    assert!(node.delivered.all().is_empty());
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopped_shard_rejects_publishes() {
    let dir = support::dir();
    let node = owner(&dir, ConsensusSettings::lan()).await;
    let shard = node.shard.clone();
    node.shutdown.cancel();
    let rejection = loop {
        // A message queued before the loop stopped may still be committed.
        if let Err(error) = shard.publish(message(0)).await {
            break error;
        }
    };
    assert!(
        matches!(rejection, PublishError::Rejected(PublishRejection::Unavailable(_))),
        "{rejection}"
    );
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn node_with_a_full_disk_rejects_publishes_serves_history_and_recovers() {
    let (dir, free) = (support::dir(), Arc::new(AtomicU64::new(u64::MAX)));
    let probed = free.clone();
    let disk_probe =
        move |_: &Path| Ok(DiskSpace { free: probed.load(Ordering::SeqCst), total: u64::MAX });
    let addresses = PeerAddresses::default();
    let node =
        Node::start_with_disk(1, &dir, &addresses, ConsensusSettings::lan(), Arc::new(disk_probe))
            .await;
    node.shard.group().initialize().await.unwrap();
    node.claim_after(Term(0)).await;
    publish_all(&node, 0..5).await;
    let before = pages(&node);

    free.store(1 << 20, Ordering::SeqCst);
    let mut next = 5;
    let rejection = loop {
        match node.shard.publish(message(next)).await {
            Ok(_) => next += 1,
            Err(rejection) => break rejection,
        }
    };
    assert!(
        matches!(&rejection, PublishError::Rejected(PublishRejection::Overloaded(OverloadReason::DiskFull(full)))
        if full.free >> 20 == 1 && full.dir == dir.path())
    );
    assert!(pages(&node).iter().zip(&before).all(|(now, before)| now.head >= before.head));

    free.store(u64::MAX, Ordering::SeqCst);
    while node.shard.publish(message(next)).await.is_err() {}
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn namespace_topic_limit_holds_after_a_restart() {
    let (dir, addresses) = (support::dir(), PeerAddresses::default());
    let limited = Namespace { topics_max: 2, ..Namespace::default() };
    let named = [("match".to_owned(), limited)].into();
    let bounded = Namespaces { revision: 1, named, ..Namespaces::default() };
    let (settings_tx, namespaces) = watch::channel(support::settings(bounded));
    let clock = Arc::new(|| Timestamp(1_790_000_000_000));
    let node = Node::start_with(
        1,
        &dir,
        &addresses,
        ConsensusSettings::lan(),
        namespaces.clone(),
        clock.clone(),
    )
    .await;
    node.shard.group().initialize().await.unwrap();
    let term = node.claim_after(Term(0)).await;
    publish_all(&node, 0..2).await;
    assert_topic_limit_rejection(&node).await;
    // Existing topics still accept messages, and so do other namespaces.
    publish_all(&node, 0..2).await;
    node.shard.publish(publish(Topic::new("chat/7").unwrap(), "hello".to_owned())).await.unwrap();
    node.stop().await;

    let node =
        Node::start_with(1, &dir, &addresses, ConsensusSettings::lan(), namespaces, clock).await;
    node.claim_after(term).await;
    assert_topic_limit_rejection(&node).await;
    settings_tx
        .send_replace(support::settings(Namespaces { revision: 2, ..Namespaces::default() }));
    // The owner takes some milliseconds to propose the settings.
    while node.shard.publish(message(2)).await.is_err() {
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn removed_messages_are_gone_and_make_room_for_topics_also_after_a_restart() {
    let (dir, addresses) = (support::dir(), PeerAddresses::default());
    let limited = Namespace { topics_max: 2, ..Namespace::default() };
    let in_memory = Namespace { durability: Durability::Memory, ..Namespace::default() };
    let named = [("match".to_owned(), limited), ("live".to_owned(), in_memory)].into();
    let bounded = Namespaces { revision: 1, named, ..Namespaces::default() };
    let namespaces = watch::channel(support::settings(bounded)).1;
    let clock = Arc::new(|| Timestamp(1_790_000_000_000));
    let lan = ConsensusSettings::lan;
    let node =
        Node::start_with(1, &dir, &addresses, lan(), namespaces.clone(), clock.clone()).await;
    node.shard.group().initialize().await.unwrap();
    let term = node.claim_after(Term(0)).await;
    publish_all(&node, 0..2).await;
    let live = Topic::new("live/1").unwrap();
    let in_memory = node.shard.publish(publish(live.clone(), "hello".to_owned())).await.unwrap();

    let (purged, deleted) = (message(0).topic, message(1).topic);
    let before = node.shard.fetch_history(&purged, HistoryRange::All).unwrap().head;
    let removed = node.shard.remove(purged.clone(), TopicRemoval::Purge).await.unwrap().unwrap();
    assert_eq!((removed.head, removed.count), (before, 1));
    assert!(node.shard.remove(deleted.clone(), TopicRemoval::Delete).await.unwrap().is_some());
    assert!(node.shard.remove(live.clone(), TopicRemoval::Delete).await.unwrap().is_some());
    assert_eq!(node.shard.remove(deleted.clone(), TopicRemoval::Delete).await.unwrap(), None);

    for topic in [&purged, &deleted, &live] {
        assert_eq!(node.shard.fetch_history(topic, HistoryRange::All).unwrap().messages, []);
    }
    let listed = node.shard.list_topics("", None, 10);
    assert_eq!(listed.iter().map(|stats| &stats.topic).collect::<Vec<_>>(), [&purged]);
    let resumed = HistoryRange::After(in_memory.position);
    let gap = node.shard.fetch_history(&live, resumed).unwrap().gap;
    assert_eq!(gap.map(|gap| gap.reason), Some(GapReason::Epoch));
    let again = node.shard.publish(publish(live.clone(), "again".to_owned())).await.unwrap();
    assert!(again.position > in_memory.position);
    node.stop().await;

    let node = Node::start_with(1, &dir, &addresses, lan(), namespaces, clock).await;
    node.claim_after(term).await;
    for (topic, head) in [(&purged, before), (&deleted, before)] {
        let page = node.shard.fetch_history(topic, HistoryRange::After(head)).unwrap();
        assert_eq!(page.messages, []);
        assert_eq!(page.gap.map(|gap| gap.reason), Some(GapReason::Epoch), "{topic}");
    }
    // The deleted topic no longer counts.
    node.shard.publish(message(2)).await.unwrap();
    node.stop().await;
}

async fn assert_topic_limit_rejection(node: &Node) {
    let rejection = node.shard.publish(message(2)).await.unwrap_err();
    assert!(!rejection.is_retryable(), "{rejection}");
    assert!(
        matches!(&rejection, PublishError::Rejected(PublishRejection::TooManyTopics(TopicLimit::Namespace { topic, max: 2 }))
            if topic.namespace() == "match"),
        "{rejection}"
    );
}
