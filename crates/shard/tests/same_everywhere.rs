//! Replicas of a shard that reach their state in different ways: one restarted from snapshot and log, one
//! that received the log, one that received a snapshot. Snapshots are taken wherever the log has grown
//! enough.
//!
//! Claim: their states are equal, and equal to the state of the same entries without a snapshot.

#![allow(clippy::unwrap_used, reason = "a failed test may panic")]

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use pushonce_consensus::{ConsensusSettings, GroupStatus, PeerAddresses};
use pushonce_core::{NodeId, Term, Topic};
use support::{Node, publish};

mod support;

/// The messages published between two restarts: topics and sizes.
type PublishPhase = Vec<(usize, usize)>;

fn phases() -> impl Strategy<Value = Vec<PublishPhase>> {
    let message = (0..40_usize, 1..3_000_usize);
    prop::collection::vec(prop::collection::vec(message, 1..60), 2..4)
}

async fn publish_phase(node: &Node, phase: &PublishPhase) {
    for (topic, size) in phase {
        let topic = Topic::new(&format!("match/{topic}")).unwrap();
        node.shard.publish(publish(topic, "x".repeat(*size))).await.unwrap();
    }
}

async fn wait_applied(node: &Node, index: u64) {
    let mut status = node.shard.group().status();
    status.wait_for(|status: &GroupStatus| status.applied_index >= index).await.unwrap();
}

async fn assert_replicas_converge(phases: Vec<PublishPhase>, log_bytes_max: u64) {
    let settings =
        ConsensusSettings { log_bytes_max, log_bytes_kept: 0, ..ConsensusSettings::lan() };
    let addresses = PeerAddresses::default();
    let dirs = [support::dir(), support::dir(), support::dir()];
    let mut owner = Node::start(1, &dirs[0], &addresses, settings.clone()).await;
    owner.shard.group().initialize().await.unwrap();
    owner.claim_after(Term(0)).await;
    // This replica follows from the first entry on, and never takes a snapshot.
    let replay = ConsensusSettings { log_bytes_max: u64::MAX, ..settings.clone() };
    let follower = Node::start(2, &dirs[1], &addresses, replay.clone()).await;
    owner.shard.group().add_learner(NodeId(2)).await.unwrap();
    for phase in &phases {
        publish_phase(&owner, phase).await;
        let expected = owner.shard.digest();
        owner.stop().await;
        owner = Node::start(1, &dirs[0], &addresses, settings.clone()).await;
        owner.claim_after(Term(0)).await;
        assert_eq!(owner.shard.digest(), expected, "snapshot and log restored another state");
    }
    let late_learner = Node::start(3, &dirs[2], &addresses, settings).await;
    owner.shard.group().add_learner(NodeId(3)).await.unwrap();
    publish_phase(&owner, &phases[0]).await;

    let log_end = owner.log_end().await;
    wait_applied(&owner, log_end).await;
    for node in [&follower, &late_learner] {
        wait_applied(node, log_end).await;
        assert_eq!(node.shard.digest(), owner.shard.digest(), "the state of {} differs", node.id);
    }
    // Restored from the log alone.
    follower.stop().await;
    let replayed = Node::start(2, &dirs[1], &addresses, replay).await;
    wait_applied(&replayed, log_end).await;
    assert_eq!(replayed.shard.digest(), owner.shard.digest(), "the log restored another state");
    for node in [replayed, late_learner, owner] {
        node.stop().await;
    }
}

#[test]
fn replicas_are_equal_whether_restored_from_log_or_snapshot() {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    // Few cases, since each starts nodes on real disks; the state machine has its own tests.
    let config = Config { cases: 4, max_shrink_iters: 8, ..Config::default() };
    TestRunner::new(config)
        .run(&(phases(), 4_000..60_000_u64), |(phases, log_bytes_max)| {
            runtime.block_on(assert_replicas_converge(phases, log_bytes_max));
            Ok(())
        })
        .unwrap();
}
