//! Three nodes with sixteen groups that are all killed and started again, over and over, under load.
//!
//! Claims: each time every group has a leader again and all its replicas become level, within a bound
//! that no election alone can reach; and what was acknowledged before is there after.

#![allow(clippy::unwrap_used, reason = "a test says no more than that it failed")]

#[allow(dead_code, reason = "not every story needs all of it")]
mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::join_all;
use pushonce_consensus::{AddressBook, Group, GroupId, Settings, Status};
use pushonce_core::NodeId;
use support::*;
use tempfile::TempDir;

const GROUPS: u32 = 16;

/// For how long there are restarts, and how many there are at least.
const TIME: Duration = Duration::from_secs(12);
const ROUNDS_MIN: usize = 3;

/// An election takes two seconds; this is for a machine that has much else to do.
const LEVEL_MAX: Duration = Duration::from_secs(30);

/// The replicas of one node, by group.
struct Hosted {
    node: Node,
    groups: Vec<(Group, Sum)>,
}

async fn start(dir: Arc<TempDir>, id: u64, book: &AddressBook, settings: &Settings) -> Hosted {
    let node = Node::start_in(dir, id, book, settings.clone()).await;
    let mut groups = vec![(node.group.clone(), node.sum.clone())];
    for id in 2..=GROUPS {
        let sum = Sum::default();
        groups.push((node.engine.start(GroupId(id), sum.clone()).await.unwrap(), sum));
    }
    Hosted { node, groups }
}

async fn reached(group: &Group, what: &str, is: impl FnMut(&Status) -> bool) -> Status {
    let mut status = group.status();
    match tokio::time::timeout(LEVEL_MAX, status.wait_for(is)).await {
        Ok(Ok(status)) => status.clone(),
        _ => panic!("{}: not {what}: {:?}", group.id(), group.status().borrow()),
    }
}

/// All three replicas of a group have applied the same, and everything.
async fn is_level(replicas: &[&(Group, Sum)]) {
    let leads = replicas.iter().map(|(group, _)| {
        Box::pin(async move { reached(group, "led", |status| status.leads).await.term })
    });
    let (_, leader, _) = futures::future::select_all(leads).await;
    let led = &replicas[leader].0;
    let all = reached(led, "applied", |it| it.leads && it.applied == it.last_log).await.applied;
    for (group, _) in replicas {
        reached(group, "level", |status| status.applied >= all).await;
    }
}

/// Publishes to each group until it is told to stop; how many were acknowledged.
async fn load(replicas: Vec<Group>, stop: tokio_util::sync::CancellationToken) -> u64 {
    let mut acknowledged = 0;
    while !stop.is_cancelled() {
        for group in &replicas {
            if group.leads().is_some() && group.propose(entry(1, 300)).await.is_ok() {
                acknowledged += 1;
            }
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    acknowledged
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_every_restart_of_all_under_load_all_are_level_and_nothing_is_lost() {
    let settings = Settings { log_bytes_max: 30_000, log_bytes_kept: 5_000, ..quick() };
    let book = AddressBook::default();
    let mut nodes = Vec::new();
    for id in 1..=3 {
        nodes.push(start(Arc::new(TempDir::new().unwrap()), id, &book, &settings).await);
    }
    for nth in 0..GROUPS as usize {
        let first = &nodes[0].groups[nth].0;
        first.initialize().await.unwrap();
        reached(first, "led", |status| status.leads).await;
        for id in [2, 3] {
            first.add_learner(NodeId(id)).await.unwrap();
        }
        first.change_voters(ids(&[1, 2, 3])).await.unwrap();
    }
    let mut acknowledged = vec![0; GROUPS as usize];
    let (begun, mut rounds) = (Instant::now(), 0);
    while begun.elapsed() < TIME || rounds < ROUNDS_MIN {
        let stop = tokio_util::sync::CancellationToken::new();
        let loads: Vec<_> = (0..GROUPS as usize)
            .map(|nth| {
                let replicas = nodes.iter().map(|it| it.groups[nth].0.clone()).collect();
                tokio::spawn(load(replicas, stop.clone()))
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(300)).await;
        let mut dirs = Vec::new();
        for Hosted { node, .. } in nodes.drain(..) {
            dirs.push((node.id.0, node.kill().await));
        }
        stop.cancel();
        for (nth, load) in loads.into_iter().enumerate() {
            acknowledged[nth] += load.await.unwrap();
        }
        for (id, dir) in dirs {
            nodes.push(start(dir, id, &book, &settings).await);
        }
        let replicas = |nth: usize| nodes.iter().map(|it| &it.groups[nth]).collect::<Vec<_>>();
        let groups: Vec<_> = (0..GROUPS as usize).map(replicas).collect();
        join_all(groups.iter().map(|replicas| is_level(replicas))).await;
        for (replicas, acknowledged) in groups.iter().zip(&acknowledged) {
            let seen = replicas.iter().map(|(_, sum)| sum.0.lock().unwrap().len() as u64);
            let seen: Vec<_> = seen.collect();
            assert!(seen.iter().all(|seen| seen >= acknowledged), "{seen:?} of {acknowledged}");
            assert!(seen.iter().all(|it| *it == seen[0]), "replicas differ: {seen:?}");
        }
        rounds += 1;
    }
    // How much a busy machine takes in between is not the claim.
    assert!(acknowledged.iter().sum::<u64>() > 10, "there was no load");
}
