//! Nodes whose disks fill up.
//!
//! Expected: a follower without space rejects publishes, and the others continue without it; it still votes
//! and follows its leader, so that another failure costs no more than an election; it catches up by itself
//! once there is space; and of two nodes without space one takes over with everything that was acknowledged
//! and commits the entries of earlier terms.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

#[allow(dead_code, reason = "not every test uses all of it")]
mod support;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use pushonce_consensus::{DiskSpace, HostHooks, PeerAddresses};
use support::*;
use tempfile::TempDir;

const PLENTY: u64 = 1 << 40;

/// A disk whose free space is set by the test.
#[derive(Clone)]
struct FakeDisk(Arc<AtomicU64>);

impl FakeDisk {
    fn hooks(&self) -> HostHooks {
        let free = Arc::clone(&self.0);
        let probe =
            move |_: &Path| Ok(DiskSpace { free: free.load(Ordering::SeqCst), total: 2 * PLENTY });
        let on_fatal = |reason: &str| panic!("the disk failed: {reason}");
        HostHooks { disk_space: Arc::new(probe), on_fatal: Arc::new(on_fatal) }
    }

    async fn set_free(&self, node: &RaftTestNode, free: u64) {
        self.0.store(free, Ordering::SeqCst);
        while node.engine.check_disk_space().is_ok() != (free == PLENTY) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn follower_with_full_disk_votes_and_catches_up_when_space_is_freed() {
    let (addresses, disk) = (PeerAddresses::default(), FakeDisk(Arc::new(PLENTY.into())));
    let mut nodes = Vec::new();
    for id in [1, 2] {
        nodes.push(RaftTestNode::start(id, &addresses, fast_settings()).await);
    }
    let dir = Arc::new(TempDir::new().unwrap());
    nodes.push(
        RaftTestNode::start_with_hooks(disk.hooks(), dir, 3, &addresses, fast_settings()).await,
    );
    form_group(&nodes).await;
    wait_caught_up(&nodes[0], 3).await;

    disk.set_free(&nodes[2], 0).await;
    let full = nodes[2].group.check_disk_space().unwrap_err().to_string();
    assert!(full.contains("has 0 MiB left") && full.contains("--disk-reserve"), "{full}");
    for n in 1..=10 {
        nodes[0].group.propose(entry(n, 1000)).await.unwrap();
    }
    let all = nodes[0].group.status().borrow().last_log_index;
    nodes[1].wait_applied(all).await;
    assert!(nodes[2].applied_numbers().is_empty(), "it accepted publishes without space");
    assert!(nodes[0].group.leader_term().is_some());

    // Its vote is needed now, and it gives it.
    nodes.remove(0).kill().await;
    nodes[0].wait_status("leads", |status| status.is_leader).await;
    // The new leader needs a majority for the entries of earlier terms, and for no others.
    nodes[1].wait_seen(1..=10).await;
    assert!(nodes[1].group.check_disk_space().is_err());

    disk.set_free(&nodes[1], PLENTY).await;
    let sum = nodes[0].group.propose(entry(11, 8)).await.unwrap();
    assert_eq!(number(&sum), (1..=11).sum::<u64>());
    let all = nodes[0].group.status().borrow().applied_index;
    nodes[1].wait_applied(all).await;
    nodes[1].wait_status("caught up", |status| status.applied_index == status.last_log_index).await;
    nodes[1].wait_seen(1..=11).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_leader_applies_earlier_entries_although_remaining_majority_has_full_disks() {
    let addresses = PeerAddresses::default();
    let mut nodes = vec![RaftTestNode::start(1, &addresses, fast_settings()).await];
    let disks = [2, 3].map(|id| (id, FakeDisk(Arc::new(PLENTY.into()))));
    for (id, disk) in &disks {
        let dir = Arc::new(TempDir::new().unwrap());
        nodes.push(
            RaftTestNode::start_with_hooks(disk.hooks(), dir, *id, &addresses, fast_settings())
                .await,
        );
    }
    form_group(&nodes).await;
    wait_caught_up(&nodes[0], 2).await;
    wait_caught_up(&nodes[0], 3).await;

    // Node 2 does not have the entries acknowledged now. Node 3 has them, and then no space either.
    disks[0].1.set_free(&nodes[1], 0).await;
    for n in 1..=10 {
        nodes[0].group.propose(entry(n, 1000)).await.unwrap();
    }
    let all = nodes[0].group.status().borrow().last_log_index;
    nodes[2].wait_applied(all).await;
    assert!(nodes[1].applied_numbers().is_empty());
    disks[1].1.set_free(&nodes[2], 0).await;
    nodes.remove(0).kill().await;

    let new = wait_leader(&nodes).await;
    assert_eq!(new.id.0, 3, "the other node lacks acknowledged entries");
    new.wait_status("answers for the past", |status| {
        status.is_leader && status.applied_index > all
    })
    .await;
    for node in &nodes {
        node.wait_seen(1..=10).await;
    }
    assert!(nodes[0].group.check_disk_space().is_err(), "there is no room for publishes");
    let sum = nodes[1].group.propose_essential(entry(11, 8)).await.unwrap();
    assert_eq!(number(&sum), (1..=11).sum::<u64>(), "the essential entry of a new owner");
}
