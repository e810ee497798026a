//! A shard's replicas, one restarted from snapshot and log, one that got the log, one that got a
//! snapshot, with snapshots taken wherever the log happened to have grown enough.
//!
//! Claim: their states are equal, and equal to what the same entries make without any snapshot.

#![allow(clippy::unwrap_used, reason = "tests say what they expect")]

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use pushonce_consensus::{ConsensusSettings, GroupStatus, PeerAddresses};
use pushonce_core::{NodeId, Term, Topic};
use support::{Node, publish};

mod support;

/// What is published between two restarts: topics and sizes.
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
    let book = PeerAddresses::default();
    let dirs = [support::dir(), support::dir(), support::dir()];
    let mut owner = Node::start(1, &dirs[0], &book, settings.clone()).await;
    owner.shard.group().initialize().await.unwrap();
    owner.claim_after(Term(0)).await;
    // This one follows from the first entry on, and never takes a snapshot.
    let replay = ConsensusSettings { log_bytes_max: u64::MAX, ..settings.clone() };
    let follower = Node::start(2, &dirs[1], &book, replay.clone()).await;
    owner.shard.group().add_learner(NodeId(2)).await.unwrap();
    for phase in &phases {
        publish_phase(&owner, phase).await;
        let expected = owner.shard.digest();
        owner.stop().await;
        owner = Node::start(1, &dirs[0], &book, settings.clone()).await;
        owner.claim_after(Term(0)).await;
        assert_eq!(owner.shard.digest(), expected, "snapshot and log make another state");
    }
    let late_learner = Node::start(3, &dirs[2], &book, settings).await;
    owner.shard.group().add_learner(NodeId(3)).await.unwrap();
    publish_phase(&owner, &phases[0]).await;

    let log_end = owner.log_end().await;
    wait_applied(&owner, log_end).await;
    for node in [&follower, &late_learner] {
        wait_applied(node, log_end).await;
        assert_eq!(node.shard.digest(), owner.shard.digest(), "{} differs", node.id);
    }
    // Restored by the log alone.
    follower.stop().await;
    let replayed = Node::start(2, &dirs[1], &book, replay).await;
    wait_applied(&replayed, log_end).await;
    assert_eq!(replayed.shard.digest(), owner.shard.digest(), "the log makes another state");
    for node in [replayed, late_learner, owner] {
        node.stop().await;
    }
}

#[test]
fn replicas_are_equal_whether_restored_from_log_or_snapshot() {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    // Few, since each starts nodes on real disks; the state machine alone has its own tests.
    let config = Config { cases: 4, max_shrink_iters: 8, ..Config::default() };
    TestRunner::new(config)
        .run(&(phases(), 4_000..60_000_u64), |(phases, log_bytes_max)| {
            runtime.block_on(assert_replicas_converge(phases, log_bytes_max));
            Ok(())
        })
        .unwrap();
}
