//! Three nodes with sixteen groups that are killed together and restarted repeatedly under load.
//!
//! Expected: each time every group has a leader again and all its replicas catch up, within a generous bound;
//! and no acknowledged entry is lost.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

#[allow(dead_code, reason = "not every test uses all of it")]
mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::join_all;
use pushonce_consensus::{ConsensusSettings, GroupId, GroupStatus, PeerAddresses, RaftGroup};
use pushonce_core::NodeId;
use support::*;
use tempfile::TempDir;

const GROUPS: u32 = 16;

/// How long the restarts continue, and their minimum number.
const TEST_DURATION: Duration = Duration::from_secs(12);
const ROUNDS_MIN: usize = 3;

/// An election takes two seconds; this allows for a busy machine.
const CATCH_UP_TIME_MAX: Duration = Duration::from_secs(30);

/// The replicas of one node, by group.
struct NodeReplicas {
    node: RaftTestNode,
    groups: Vec<(RaftGroup, SumMachine)>,
}

async fn start_node(
    dir: Arc<TempDir>,
    id: u64,
    addresses: &PeerAddresses,
    settings: &ConsensusSettings,
) -> NodeReplicas {
    let node = RaftTestNode::start_in(dir, id, addresses, settings.clone()).await;
    let mut groups = vec![(node.group.clone(), node.sum.clone())];
    for id in 2..=GROUPS {
        let sum = SumMachine::default();
        groups.push((node.engine.start(GroupId(id), sum.clone()).await.unwrap(), sum));
    }
    NodeReplicas { node, groups }
}

async fn wait_for(
    group: &RaftGroup,
    description: &str,
    condition: impl FnMut(&GroupStatus) -> bool,
) -> GroupStatus {
    let mut status = group.status();
    match tokio::time::timeout(CATCH_UP_TIME_MAX, status.wait_for(condition)).await {
        Ok(Ok(status)) => status.clone(),
        _ => panic!("{}: not {description}: {:?}", group.id(), group.status().borrow()),
    }
}

/// Waits until all three replicas of a group have applied the whole log.
async fn wait_all_caught_up(replicas: &[&(RaftGroup, SumMachine)]) {
    let leads = replicas.iter().map(|(group, _)| {
        Box::pin(async move { wait_for(group, "led", |status| status.is_leader).await.term })
    });
    let (_, leader, _) = futures::future::select_all(leads).await;
    let led = &replicas[leader].0;
    let all = wait_for(led, "applied", |it| it.is_leader && it.applied_index == it.last_log_index)
        .await
        .applied_index;
    for (group, _) in replicas {
        wait_for(group, "caught up", |status| status.applied_index >= all).await;
    }
}

/// Publishes to each group until it is stopped. Returns the number of acknowledged entries.
async fn load(replicas: Vec<RaftGroup>, stop: tokio_util::sync::CancellationToken) -> u64 {
    let mut acknowledged = 0;
    while !stop.is_cancelled() {
        for group in &replicas {
            if group.leader_term().is_some() && group.propose(entry(1, 300)).await.is_ok() {
                acknowledged += 1;
            }
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    acknowledged
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_replicas_catch_up_without_loss_after_repeated_restarts_under_load() {
    let settings =
        ConsensusSettings { log_bytes_max: 30_000, log_bytes_kept: 5_000, ..fast_settings() };
    let addresses = PeerAddresses::default();
    let mut nodes = Vec::new();
    for id in 1..=3 {
        nodes.push(start_node(Arc::new(TempDir::new().unwrap()), id, &addresses, &settings).await);
    }
    for nth in 0..GROUPS as usize {
        let first = &nodes[0].groups[nth].0;
        first.initialize().await.unwrap();
        wait_for(first, "led", |status| status.is_leader).await;
        for id in [2, 3] {
            first.add_learner(NodeId(id)).await.unwrap();
        }
        first.change_voters(ids(&[1, 2, 3])).await.unwrap();
    }
    let mut acknowledged = vec![0; GROUPS as usize];
    let (started, mut rounds) = (Instant::now(), 0);
    while started.elapsed() < TEST_DURATION || rounds < ROUNDS_MIN {
        let stop = tokio_util::sync::CancellationToken::new();
        let loads: Vec<_> = (0..GROUPS as usize)
            .map(|nth| {
                let replicas = nodes.iter().map(|it| it.groups[nth].0.clone()).collect();
                tokio::spawn(load(replicas, stop.clone()))
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(300)).await;
        let mut dirs = Vec::new();
        for NodeReplicas { node, .. } in nodes.drain(..) {
            dirs.push((node.id.0, node.kill().await));
        }
        stop.cancel();
        for (nth, load) in loads.into_iter().enumerate() {
            acknowledged[nth] += load.await.unwrap();
        }
        for (id, dir) in dirs {
            nodes.push(start_node(dir, id, &addresses, &settings).await);
        }
        let replicas = |nth: usize| nodes.iter().map(|it| &it.groups[nth]).collect::<Vec<_>>();
        let groups: Vec<_> = (0..GROUPS as usize).map(replicas).collect();
        join_all(groups.iter().map(|replicas| wait_all_caught_up(replicas))).await;
        for (replicas, acknowledged) in groups.iter().zip(&acknowledged) {
            let seen = replicas.iter().map(|(_, sum)| sum.0.lock().unwrap().len() as u64);
            let seen: Vec<_> = seen.collect();
            assert!(seen.iter().all(|seen| seen >= acknowledged), "{seen:?} of {acknowledged}");
            assert!(seen.iter().all(|it| *it == seen[0]), "replicas differ: {seen:?}");
        }
        rounds += 1;
    }
    // The amount is not checked, because it depends on the load of the machine.
    assert!(acknowledged.iter().sum::<u64>() > 10, "there was no load");
}
