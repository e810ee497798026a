//! One node with a topic that is not used any more, and no publish that would produce an entry.
//!
//! Claims: the owner drops the topic nevertheless, and only when it is empty and has been unused for as
//! long as its namespace specifies. A recreated topic has a higher epoch, and an old cursor gets a gap.

#![allow(clippy::unwrap_used, reason = "a failed test may panic")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use pushonce_consensus::{ConsensusSettings, PeerAddresses};
use pushonce_core::{
    Gap, GapReason, History, HistoryRange, Namespace, Namespaces, Offset, Position, Term,
    Timestamp, Topic,
};
use support::{Node, publish};
use tokio::sync::watch;

mod support;

const AGE_MS: u64 = 60_000;
const EXPIRE_AFTER_MS: u64 = 600_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_shard_drops_an_unused_topic_and_an_old_cursor_gets_a_gap() {
    let now = Arc::new(AtomicU64::new(1_790_000_000_000));
    let clock = now.clone();
    let clock = Arc::new(move || Timestamp(clock.load(Ordering::Relaxed)));
    let history =
        History { age_max_ms: AGE_MS, expire_after_ms: EXPIRE_AFTER_MS, ..History::default() };
    let default = Namespace { history, ..Namespace::default() };
    let namespaces = Namespaces { revision: 1, default, ..Namespaces::default() };
    let known = watch::channel(support::settings(namespaces)).1;
    let (dir, addresses) = (support::dir(), PeerAddresses::default());
    let node = Node::start_with(1, &dir, &addresses, ConsensusSettings::lan(), known, clock).await;
    node.shard.group().initialize().await.unwrap();
    node.claim_after(Term(0)).await;
    let topic = Topic::new("match/57").unwrap();
    let first = node.shard.publish(publish(topic.clone(), "goal!".to_owned())).await.unwrap();
    let count = || node.shard.topic_stats(&topic).map(|info| info.count);
    let wait_for_count = async |wanted| {
        while count() != wanted {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };

    now.fetch_add(AGE_MS + 1, Ordering::Relaxed);
    wait_for_count(Some(0)).await;
    now.fetch_add(EXPIRE_AFTER_MS, Ordering::Relaxed);
    wait_for_count(None).await;

    let again = node.shard.publish(publish(topic.clone(), "again".to_owned())).await.unwrap();
    assert!(again.position.epoch > first.position.epoch);
    assert_eq!(again.position.offset, Offset(1));
    let page = node.shard.fetch_history(&topic, HistoryRange::After(first.position)).unwrap();
    let to = Position { offset: Offset(0), ..again.position };
    let gap = Gap { from: first.position.next(), to, reason: GapReason::Epoch };
    assert_eq!((page.gap, page.messages.len()), (Some(gap), 1));
    node.stop().await;
}
