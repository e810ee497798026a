//! Nodes whose disks fill up.
//!
//! Claims: a follower without room takes nothing more that is published, and the others go on without
//! it; it votes and stays with its leader all the same, so that another death costs no more than an
//! election; it is level again once there is room, by itself; and of two that have no room one takes
//! over with all that was acknowledged, and answers for the past.

#![allow(clippy::unwrap_used, reason = "a test says no more than that it failed")]

#[allow(dead_code, reason = "not every story needs all of it")]
mod support;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use pushonce_consensus::{AddressBook, Outside, Room};
use support::*;
use tempfile::TempDir;

const PLENTY: u64 = 1 << 40;

/// A disk that has what it is told to have.
#[derive(Clone)]
struct Gauge(Arc<AtomicU64>);

impl Gauge {
    fn outside(&self) -> Outside {
        let free = Arc::clone(&self.0);
        let room =
            move |_: &Path| Ok(Room { free: free.load(Ordering::SeqCst), total: 2 * PLENTY });
        let fatal = |why: &str| panic!("the disk failed: {why}");
        Outside { room: Arc::new(room), fatal: Arc::new(fatal) }
    }

    async fn set(&self, node: &Node, free: u64) {
        self.0.store(free, Ordering::SeqCst);
        while node.engine.room().is_ok() != (free == PLENTY) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_without_room_takes_nothing_but_votes_and_catches_up_when_there_is_some() {
    let (book, gauge) = (AddressBook::default(), Gauge(Arc::new(PLENTY.into())));
    let mut nodes = Vec::new();
    for id in [1, 2] {
        nodes.push(Node::start(id, &book, quick()).await);
    }
    let dir = Arc::new(TempDir::new().unwrap());
    nodes.push(Node::start_on(gauge.outside(), dir, 3, &book, quick()).await);
    found(&nodes).await;
    level(&nodes[0], 3).await;

    gauge.set(&nodes[2], 0).await;
    let full = nodes[2].group.room().unwrap_err().to_string();
    assert!(full.contains("has 0 MiB left") && full.contains("--disk-reserve"), "{full}");
    for n in 1..=10 {
        nodes[0].group.propose(entry(n, 1000)).await.unwrap();
    }
    let all = nodes[0].group.status().borrow().last_log;
    nodes[1].applied(all).await;
    assert!(nodes[2].seen().is_empty(), "it took what it has no room for");
    assert!(nodes[0].group.leads().is_some());

    // Its vote is needed now, and given.
    nodes.remove(0).kill().await;
    nodes[0].until("leads", |status| status.leads).await;
    // The new leader needs a majority for what was acknowledged before, and for nothing else.
    nodes[1].sees(1..=10).await;
    assert!(nodes[1].group.room().is_err());

    gauge.set(&nodes[1], PLENTY).await;
    let sum = nodes[0].group.propose(entry(11, 8)).await.unwrap();
    assert_eq!(number(&sum), (1..=11).sum::<u64>());
    let all = nodes[0].group.status().borrow().applied;
    nodes[1].applied(all).await;
    nodes[1].until("level", |status| status.applied == status.last_log).await;
    nodes[1].sees(1..=11).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_leader_applies_the_past_although_the_majority_that_is_left_has_full_disks() {
    let book = AddressBook::default();
    let mut nodes = vec![Node::start(1, &book, quick()).await];
    let gauges = [2, 3].map(|id| (id, Gauge(Arc::new(PLENTY.into()))));
    for (id, gauge) in &gauges {
        let dir = Arc::new(TempDir::new().unwrap());
        nodes.push(Node::start_on(gauge.outside(), dir, *id, &book, quick()).await);
    }
    found(&nodes).await;
    level(&nodes[0], 2).await;
    level(&nodes[0], 3).await;

    // What is acknowledged now, the second does not have. The third has it, and then no room either.
    gauges[0].1.set(&nodes[1], 0).await;
    for n in 1..=10 {
        nodes[0].group.propose(entry(n, 1000)).await.unwrap();
    }
    let all = nodes[0].group.status().borrow().last_log;
    nodes[2].applied(all).await;
    assert!(nodes[1].seen().is_empty());
    gauges[1].1.set(&nodes[2], 0).await;
    nodes.remove(0).kill().await;

    let new = leader(&nodes).await;
    assert_eq!(new.id.0, 3, "the other lacks what was acknowledged");
    new.until("answers for the past", |status| status.leads && status.applied > all).await;
    for node in &nodes {
        node.sees(1..=10).await;
    }
    assert!(nodes[0].group.room().is_err(), "there is no room for publishes");
    let sum = nodes[1].group.propose_essential(entry(11, 8)).await.unwrap();
    assert_eq!(number(&sum), (1..=11).sum::<u64>(), "what a new owner begins with");
}
