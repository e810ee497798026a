//! One node, a real log on a real disk, and the shard on top of it.

#![allow(clippy::unwrap_used, reason = "tests say what they expect")]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::future::join_all;
use pushonce_consensus::{AddressBook, Room, Settings};
use pushonce_core::{
    FetchError, Message, Namespace, Namespaces, Page, Placed, Position, Publish, PublishError,
    Refusal, Term, Timestamp, Topic, Want,
};
use support::{Node, keyed, publish};
use tempfile::TempDir;
use tokio::sync::watch;

mod support;

const TOPICS: usize = 7;

/// Node 1, alone and the owner.
async fn owner(dir: &TempDir, settings: Settings) -> Node {
    let node = Node::start(1, dir, &AddressBook::default(), settings).await;
    node.shard.group().initialize().await.unwrap();
    node.claim_after(Term(0)).await;
    node
}

async fn publish_all(node: &Node, messages: std::ops::Range<usize>) -> Vec<(Topic, Placed)> {
    let publish = |nth| async move {
        let placed = node.shard.publish(message(nth)).await.unwrap();
        (topic(nth), placed)
    };
    join_all(messages.map(publish)).await
}

fn pages(node: &Node) -> Vec<Page> {
    (0..TOPICS).map(|nth| node.shard.page(&topic(nth), Want::All).unwrap()).collect()
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

/// `1..=count` of one epoch.
fn is_contiguous(positions: &[Position]) -> bool {
    let epoch = positions[0].epoch;
    (1..).zip(positions).all(|(offset, &position)| position == Position::new(epoch.0, offset))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_at_once_get_every_position_once_and_are_handed_on_in_order() {
    let dir = support::dir();
    let node = owner(&dir, Settings::lan()).await;
    let placed = publish_all(&node, 0..1_000).await;

    let mut acknowledged = BTreeMap::<_, Vec<_>>::new();
    for (topic, placed) in placed {
        acknowledged.entry(topic).or_default().push(placed.position);
    }
    assert_eq!(acknowledged.values().map(Vec::len).sum::<usize>(), 1_000);
    let mut heard = BTreeMap::<_, Vec<_>>::new();
    for (topic, message) in node.heard.all() {
        heard.entry(topic).or_default().push(message);
    }
    for (topic, mut positions) in acknowledged {
        positions.sort();
        assert!(is_contiguous(&positions), "{topic}: {positions:?}");
        assert_eq!(
            self::positions(&heard[&topic]),
            positions,
            "{topic} was handed on out of order"
        );
        assert_eq!(node.shard.page(&topic, Want::All).unwrap().messages, heard[&topic]);
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_restart_history_is_back_and_the_next_offset_is_the_next() {
    let dir = support::dir();
    let node = owner(&dir, Settings::lan()).await;
    publish_all(&node, 0..50).await;
    let before = pages(&node);
    node.stop().await;

    let node = owner(&dir, Settings::lan()).await;
    assert_eq!(pages(&node), before);
    let (topic, placed) = publish_all(&node, 50..51).await.remove(0);
    let head = before[50 % TOPICS].head;
    assert_eq!(placed.position, head.next());
    let rest = node.shard.page(&topic, Want::After(head)).unwrap();
    assert_eq!((positions(&rest.messages), rest.gap), (vec![head.next()], None));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_was_cut_behind_snapshots_restores_the_same() {
    let settings = Settings { log_bytes_max: 4 << 10, log_bytes_kept: 0, ..Settings::lan() };
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
    assert_eq!(pages(&node), before, "a repeat was placed");
    node.stop().await;
}

#[tokio::test]
async fn a_replica_that_leads_nothing_refuses_and_hands_nothing_on() {
    let dir = support::dir();
    let node = Node::start(1, &dir, &AddressBook::default(), Settings::lan()).await;
    let refused = node.shard.publish(message(0)).await;
    assert_eq!(refused, Err(PublishError::Refused(Refusal::NotOwner { owner: None })));
    let page = node.shard.page(&topic(0), Want::All);
    assert!(matches!(page, Err(FetchError::Unavailable(_))));
    assert!(node.shard.claim().borrow().is_none());
    assert!(node.heard.all().is_empty());
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shard_that_stopped_running_refuses_what_still_comes() {
    let dir = support::dir();
    let node = owner(&dir, Settings::lan()).await;
    let shard = node.shard.clone();
    node.shutdown.cancel();
    let refused = loop {
        // What was queued before the loop saw its end may still be committed.
        if let Err(error) = shard.publish(message(0)).await {
            break error;
        }
    };
    assert!(matches!(refused, PublishError::Refused(Refusal::Unavailable(_))), "{refused}");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_without_room_refuses_publishes_answers_for_the_past_and_resumes_by_itself() {
    let (dir, free) = (support::dir(), Arc::new(AtomicU64::new(u64::MAX)));
    let probed = free.clone();
    let room = move |_: &Path| Ok(Room { free: probed.load(Ordering::SeqCst), total: u64::MAX });
    let book = AddressBook::default();
    let node = Node::start_with_room(1, &dir, &book, Settings::lan(), Arc::new(room)).await;
    node.shard.group().initialize().await.unwrap();
    node.claim_after(Term(0)).await;
    publish_all(&node, 0..5).await;
    let before = pages(&node);

    free.store(1 << 20, Ordering::SeqCst);
    let mut more = 5;
    let refused = loop {
        match node.shard.publish(message(more)).await {
            Ok(_) => more += 1,
            Err(refused) => break refused,
        }
    };
    assert!(matches!(&refused, PublishError::Refused(Refusal::Overloaded(why))
        if why.contains("has 1 MiB left") && why.contains(dir.path().to_str().unwrap())));
    assert!(pages(&node).iter().zip(&before).all(|(now, before)| now.head >= before.head));

    free.store(u64::MAX, Ordering::SeqCst);
    while node.shard.publish(message(more)).await.is_err() {}
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_takes_no_more_topics_than_it_may_also_after_a_restart() {
    let (dir, book) = (support::dir(), AddressBook::default());
    let two = Namespace { topics_max: 2, ..Namespace::default() };
    let named = [("match".to_owned(), two)].into();
    let bounded = Namespaces { revision: 1, named, ..Namespaces::default() };
    let (change, namespaces) = watch::channel(support::settings(bounded));
    let clock = Arc::new(|| Timestamp(1_790_000_000_000));
    let node =
        Node::start_with(1, &dir, &book, Settings::lan(), namespaces.clone(), clock.clone()).await;
    node.shard.group().initialize().await.unwrap();
    let term = node.claim_after(Term(0)).await;
    publish_all(&node, 0..2).await;
    refused_for_topics(&node).await;
    // Those that are there go on, and so do other namespaces.
    publish_all(&node, 0..2).await;
    node.shard.publish(publish(Topic::new("chat/7").unwrap(), "hello".to_owned())).await.unwrap();
    node.stop().await;

    let node = Node::start_with(1, &dir, &book, Settings::lan(), namespaces, clock).await;
    node.claim_after(term).await;
    refused_for_topics(&node).await;
    change.send_replace(support::settings(Namespaces { revision: 2, ..Namespaces::default() }));
    // The owner takes some milliseconds to propose them.
    while node.shard.publish(message(2)).await.is_err() {
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    node.stop().await;
}

async fn refused_for_topics(node: &Node) {
    let refused = node.shard.publish(message(2)).await.unwrap_err();
    assert!(!refused.retryable(), "{refused}");
    assert!(
        matches!(&refused, PublishError::Refused(Refusal::TooManyTopics(why))
            if why.contains("may have 2") && why.contains("namespace set match --topics-max")),
        "{refused}"
    );
}
