//! A log that was rolled back, the vote hold, and the recovery of a group without a majority.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

#[allow(dead_code, reason = "not every test uses all of it")]
mod support;

use std::time::Duration;

use pushonce_consensus::{OfflineStore, PeerAddresses, StateMachine};
use pushonce_core::{ClusterTimes, ConsensusTimes, NodeId};
use support::*;
use tokio::time::{Instant, sleep, timeout};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn node_with_rolled_back_log_is_detected_and_excluded() {
    let (mut nodes, addresses) = start_cluster(3, &fast_settings()).await;
    let dir = nodes.pop().unwrap().kill().await;
    let (log, copy) = (dir.path().join("raft.redb"), dir.path().join("copy"));
    std::fs::copy(&log, &copy).unwrap();
    let third = RaftTestNode::start_in(dir, 3, &addresses, fast_settings()).await;
    let leader = wait_leader(&nodes).await;
    leader.group.propose(entry(7, 8)).await.unwrap();
    third.wait_seen([7]).await;
    // Only commits that a peer knows of are detected. A status that is a moment old would count node 3 as
    // caught up before it has answered.
    sleep(Duration::from_millis(300)).await;
    wait_caught_up(leader, 3).await;
    assert_eq!(
        third.engine.rollback_reason(),
        None,
        "a restart with its own log is not a rollback"
    );

    let dir = third.kill().await;
    std::fs::copy(&copy, &log).unwrap();
    let third = RaftTestNode::start_in(dir, 3, &addresses, fast_settings()).await;
    let detected = async {
        while third.engine.rollback_reason().is_none() {
            sleep(Duration::from_millis(20)).await;
        }
    };
    assert!(
        timeout(Duration::from_secs(8), detected).await.is_ok(),
        "the rollback was not detected"
    );
    assert!(third.engine.rollback_reason().unwrap().contains("cluster remove n3"));

    // The other two are a majority, and node 3 receives nothing that they write.
    leader.group.propose(entry(8, 8)).await.unwrap();
    assert!(third.applied_numbers().len() < 2, "it has {:?}", third.applied_numbers());

    // The rollback stays detected after a restart, even without peers.
    let dir = third.kill().await;
    let third = RaftTestNode::start_in(dir, 3, &PeerAddresses::default(), fast_settings()).await;
    assert!(
        third.engine.rollback_reason().is_some_and(|reason| reason.contains("cluster remove n3"))
    );
    assert!(third.group.propose(entry(9, 8)).await.is_err());
    for node in nodes.into_iter().chain([third]) {
        node.kill().await;
    }
}

/// Without the hold a new leader is elected after 1.65 s.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_leader_is_elected_only_after_vote_hold_expires() {
    let (mut nodes, _) = start_cluster(3, &fast_settings()).await;
    let (current, next) = (ConsensusTimes::LAN, Some(ConsensusTimes::WAN));
    let times = ClusterTimes { version: 2, current, next };
    nodes.iter().for_each(|node| node.engine.set_times(&times));
    sleep(Duration::from_millis(300)).await;
    let first = nodes.remove(0);
    let killed = Instant::now();
    first.kill().await;

    let second = wait_leader(&nodes).await;
    let hold = times.vote_holdoff() - Duration::from_millis(500);
    assert!(killed.elapsed() > hold, "{} leads after {:?}", second.id, killed.elapsed());
    for node in nodes {
        node.kill().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn group_without_majority_is_recovered_above_its_old_history() {
    let (mut nodes, addresses) = start_cluster(3, &fast_settings()).await;
    for n in 1..=3 {
        wait_leader(&nodes).await.group.propose(entry(n, 8)).await.unwrap();
    }
    let third = nodes.pop().unwrap();
    third.wait_seen([1, 2, 3]).await;
    for node in nodes {
        node.kill().await;
    }
    let dir = third.kill().await;

    let mut offline = OfflineStore::open(dir.path(), CLUSTER, NodeId(3)).unwrap();
    assert_eq!(offline.groups().unwrap(), [GROUP]);
    let mut sum = SumMachine::default();
    let offline_group = offline.replay(GROUP, &mut sum).unwrap();
    assert_eq!(*sum.0.lock().unwrap(), [1, 2, 3]);
    assert_eq!(offline_group.voters, [ids(&[1, 2, 3])]);
    let at = offline_group.new_history_start();
    assert!(
        at.term > offline_group.term && at.index > offline_group.last_index,
        "{at:?} is not above the old history"
    );
    let later = offline_group.new_history_start_after(1);
    assert!(later.term > at.term && later.index > at.index, "{later:?} is not above {at:?}");
    offline.force_new_group(GROUP, at, sum.snapshot()).unwrap();
    offline.commit().unwrap();

    let third = RaftTestNode::start_in(dir, 3, &PeerAddresses::default(), fast_settings()).await;
    let status = third.wait_status("leads alone", |status| status.is_leader).await;
    assert!(status.term > at.term && status.last_log_index > at.index, "{status:?}");
    assert_eq!(status.voters, ids(&[3]));
    third.group.propose(entry(4, 8)).await.unwrap();
    third.wait_seen([1, 2, 3, 4]).await;

    // It restarts from its own log, and a new follower receives all of it.
    let third = RaftTestNode::start_in(third.kill().await, 3, &addresses, fast_settings()).await;
    third.wait_status("leads again", |status| status.is_leader).await;
    third.wait_seen([1, 2, 3, 4]).await;
    let fourth = RaftTestNode::start(4, &addresses, fast_settings()).await;
    third.group.add_learner(fourth.id).await.unwrap();
    fourth.wait_seen([1, 2, 3, 4]).await;
    for node in [third, fourth] {
        node.kill().await;
    }
}
