//! A log that went back in time, a lease that others respect, and a group that is begun anew.

#![allow(clippy::unwrap_used, reason = "a test says no more than that it failed")]

#[allow(dead_code, reason = "not every story needs all of it")]
mod support;

use std::time::Duration;

use pushonce_consensus::{AddressBook, Machine, Offline};
use pushonce_core::{ClusterTimes, ConsensusTimes, NodeId};
use support::*;
use tokio::time::{Instant, sleep, timeout};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_log_was_put_back_is_told_so_and_takes_no_part() {
    let (mut nodes, book) = cluster(3, &quick()).await;
    let dir = nodes.pop().unwrap().kill().await;
    let (log, copy) = (dir.path().join("raft.redb"), dir.path().join("copy"));
    std::fs::copy(&log, &copy).unwrap();
    let third = Node::start_in(dir, 3, &book, quick()).await;
    let leader = leader(&nodes).await;
    leader.group.propose(entry(7, 8)).await.unwrap();
    third.sees([7]).await;
    // What nobody has heard of may be lost. A status that is a moment old would call the third level
    // before it has answered.
    sleep(Duration::from_millis(300)).await;
    level(leader, 3).await;
    assert_eq!(third.engine.rolled_back(), None, "a restart with its log is no step back");

    let dir = third.kill().await;
    std::fs::copy(&copy, &log).unwrap();
    let third = Node::start_in(dir, 3, &book, quick()).await;
    let told = async {
        while third.engine.rolled_back().is_none() {
            sleep(Duration::from_millis(20)).await;
        }
    };
    assert!(timeout(Duration::from_secs(8), told).await.is_ok(), "nobody has told it");
    assert!(third.engine.rolled_back().unwrap().contains("cluster remove n3"));

    // The other two are a majority, and it gets nothing of what they write.
    leader.group.propose(entry(8, 8)).await.unwrap();
    assert!(third.seen().len() < 2, "it has {:?}", third.seen());

    // A restart makes its log no newer, whoever is there to tell.
    let dir = third.kill().await;
    let third = Node::start_in(dir, 3, &AddressBook::default(), quick()).await;
    assert!(third.engine.rolled_back().is_some_and(|why| why.contains("cluster remove n3")));
    assert!(third.group.propose(entry(9, 8)).await.is_err());
    for node in nodes.into_iter().chain([third]) {
        node.kill().await;
    }
}

/// Without the hold a new leader is there after 1.65 s.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_elects_nobody_for_as_long_as_another_node_may_trust_its_lease() {
    let (mut nodes, _) = cluster(3, &quick()).await;
    let (current, next) = (ConsensusTimes::LAN, Some(ConsensusTimes::WAN));
    let times = ClusterTimes { version: 2, current, next };
    nodes.iter().for_each(|node| node.engine.set_times(&times));
    sleep(Duration::from_millis(300)).await;
    let first = nodes.remove(0);
    let killed = Instant::now();
    first.kill().await;

    let second = leader(&nodes).await;
    let hold = times.hold() - Duration::from_millis(500);
    assert!(killed.elapsed() > hold, "{} leads after {:?}", second.id, killed.elapsed());
    for node in nodes {
        node.kill().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_that_lost_its_majority_is_begun_anew_above_everything_it_had() {
    let (mut nodes, book) = cluster(3, &quick()).await;
    for n in 1..=3 {
        leader(&nodes).await.group.propose(entry(n, 8)).await.unwrap();
    }
    let third = nodes.pop().unwrap();
    third.sees([1, 2, 3]).await;
    for node in nodes {
        node.kill().await;
    }
    let dir = third.kill().await;

    let mut offline = Offline::open(dir.path(), CLUSTER, NodeId(3)).unwrap();
    assert_eq!(offline.groups().unwrap(), [GROUP]);
    let mut sum = Sum::default();
    let found = offline.replay(GROUP, &mut sum).unwrap();
    assert_eq!(*sum.0.lock().unwrap(), [1, 2, 3]);
    assert_eq!(found.voters, [ids(&[1, 2, 3])]);
    let at = found.next_history();
    assert!(at.term > found.term && at.index > found.last, "{at:?} is not above what there was");
    let later = found.history_after(1);
    assert!(later.term > at.term && later.index > at.index, "{later:?} is not above {at:?}");
    offline.begin_anew(GROUP, at, sum.snapshot()).unwrap();
    offline.commit().unwrap();

    let third = Node::start_in(dir, 3, &AddressBook::default(), quick()).await;
    let status = third.until("leads alone", |status| status.leads).await;
    assert!(status.term > at.term && status.last_log > at.index, "{status:?}");
    assert_eq!(status.voters, ids(&[3]));
    third.group.propose(entry(4, 8)).await.unwrap();
    third.sees([1, 2, 3, 4]).await;

    // And again from its own log, with a new follower that gets the whole of it.
    let third = Node::start_in(third.kill().await, 3, &book, quick()).await;
    third.until("leads again", |status| status.leads).await;
    third.sees([1, 2, 3, 4]).await;
    let fourth = Node::start(4, &book, quick()).await;
    third.group.add_learner(fourth.id).await.unwrap();
    fourth.sees([1, 2, 3, 4]).await;
    for node in [third, fourth] {
        node.kill().await;
    }
}
