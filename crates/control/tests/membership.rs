//! Membership changes of a cluster of real engines over loopback: growth, removal and moves.

#[cfg(test)]
mod support;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use pushonce_consensus::GroupId;
use pushonce_control::{CommandError, CommandRejection, JoinCommand};
use pushonce_core::{ClusterView, MemberState, NodeId, Placement, ShardId};
use support::{
    ControlTestCluster, CountingMachine, ids, join_command, profile, propose_until_stopped,
    reconcile_group, wait_for,
};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Whether all members are active and the committed placement is that of the ring.
fn settled(members: usize) -> impl Fn(&ClusterView) -> bool {
    move |view| {
        view.members.len() == members
            && view.members.values().all(|m| m.state == MemberState::Active)
            && view.placement.replicas == Placement::compute(view)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn joined_nodes_all_vote_and_see_the_same_view() {
    let cluster = ControlTestCluster::new();
    let first = cluster.bootstrap().await;
    let second = cluster.join(&first, "n2").await;
    second.view(|_| true).await;
    // n2 forwards the command to the leader.
    let third = cluster.join(&second, "n3").await;
    assert_eq!((second.id, third.id), (NodeId(2), NodeId(3)));

    let view = first.view(settled(3)).await;
    assert!(view.shards.ids().all(|shard| view.placement.replicas_of(shard).len() == 3));
    assert!(view.placement.version <= 3, "at most one placement for each join");
    for node in [&first, &second, &third] {
        wait_for(node.control.status(), |s| s.voters == ids(&[1, 2, 3]) && !s.is_joint).await;
        assert_eq!(node.view(settled(3)).await, view);
    }

    for node in [first, second, third] {
        cluster.kill(node).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cluster_survives_the_loss_of_its_leader_and_a_new_node_replaces_it() {
    let cluster = ControlTestCluster::new();
    let first = cluster.bootstrap().await;
    let second = cluster.join(&first, "n2").await;
    let third = cluster.join(&first, "n3").await;
    wait_for(third.control.status(), |s| s.voters == ids(&[1, 2, 3]) && !s.is_joint).await;

    cluster.kill(first).await;
    let fourth = cluster.join(&third, "n4").await;
    assert_eq!(fourth.id, NodeId(4));
    let active = |view: &ClusterView| view.placement_candidates().contains_key(&NodeId(4));
    fourth.view(active).await;
    let status = wait_for(second.control.status(), |s| s.learners == ids(&[4])).await;
    assert_eq!(status.voters, ids(&[1, 2, 3]), "an unreachable voter keeps its vote");

    // The operator removes the lost node.
    second.control.remove(NodeId(1)).await.unwrap();
    wait_for(third.control.status(), |s| s.voters == ids(&[2, 3, 4]) && !s.is_joint).await;
    fourth.view(settled(3)).await;

    // Of two members, one votes and the other remains a learner.
    third.control.remove(NodeId(4)).await.unwrap();
    for node in [&second, &third] {
        wait_for(node.control.status(), |s| s.voters.len() == 1 && s.learners.len() == 1).await;
        node.view(settled(2)).await;
    }
    for node in [second, third, fourth] {
        cluster.kill(node).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rejected_join_returns_the_reason_and_a_moved_node_is_known_at_its_new_address() {
    let cluster = ControlTestCluster::new();
    let first = cluster.bootstrap().await;
    let second = cluster.join(&first, "n2").await;
    second.view(settled(2)).await;

    let name_of_another = second.control.join(join_command("other", profile("n1", "there:7091")));
    assert!(matches!(
        name_of_another.await,
        Err(CommandError::Rejected(CommandRejection::NameLooksLikeId { .. }))
    ));

    let moved = profile("n2", "there:7091");
    let announcement =
        JoinCommand { log: Some(second.engine.log_mark()), ..join_command("n2", moved.clone()) };
    second.control.announce(announcement.clone()).await.unwrap();
    let seen = first.view(|view| view.members[&NodeId(2)].addresses.peer == "there:7091").await;
    second.control.announce(announcement).await.unwrap();
    assert_eq!(first.view(|_| true).await, seen, "a repeated announcement makes no new version");

    first.control.remove(NodeId(2)).await.unwrap();
    wait_for(first.control.status(), |status| status.learners.is_empty()).await;
    let again = first.control.join(join_command("n2", moved)).await;
    assert_eq!(again, Err(CommandError::Rejected(CommandRejection::Removed(NodeId(2)))));
    cluster.kill(second).await;
    cluster.kill(first).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restarted_node_keeps_its_state_and_continues() {
    let cluster = ControlTestCluster::new();
    let first = cluster.bootstrap().await;
    let second = cluster.join(&first, "n2").await;
    let view = second.view(settled(2)).await;
    let (first, second) = (cluster.kill(first).await, cluster.kill(second).await);

    let second = cluster.restart(NodeId(2), second).await;
    assert_eq!(second.view(|_| true).await.cluster, view.cluster);
    let first = cluster.restart(NodeId(1), first).await;
    let third = cluster.join(&first, "n3").await;
    assert_eq!(third.id, NodeId(3));
    second.view(settled(3)).await;
    for node in [first, second, third] {
        cluster.kill(node).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn busy_shard_moves_between_nodes_without_loss() {
    let cluster = ControlTestCluster::new();
    let mut first = cluster.bootstrap().await;
    let mut second = cluster.join(&first, "n2").await;
    let mut third = cluster.join(&first, "n3").await;
    let (desired, _) = watch::channel(vec![NodeId(1)]);
    let move_permits = Arc::new(Semaphore::new(1));
    let shard = GroupId::shard(ShardId(0));
    let mut groups = Vec::new();
    let counts: [CountingMachine; 3] = Default::default();
    for (node, count) in [&mut first, &mut second, &mut third].into_iter().zip(&counts) {
        let group = node.engine.start(shard, count.clone()).await.unwrap();
        reconcile_group(node, &group, &cluster, &desired, &move_permits);
        groups.push(group);
    }
    groups[0].initialize().await.unwrap();
    wait_for(groups[0].status(), |status| status.is_leader).await;
    let stop = CancellationToken::new();
    let mut load = JoinSet::new();
    for group in groups.iter().cycle().take(12) {
        load.spawn(propose_until_stopped(group.clone(), stop.clone()));
    }

    desired.send(ids(&[1, 2, 3]).into_iter().collect()).unwrap();
    wait_for(groups[0].status(), |s| s.voters == ids(&[1, 2, 3]) && !s.is_joint && s.is_leader)
        .await;
    desired.send(vec![NodeId(2), NodeId(3)]).unwrap();
    wait_for(groups[1].status(), |s| s.voters == ids(&[2, 3]) && !s.is_joint && s.is_leader).await;
    desired.send(vec![NodeId(3), NodeId(1), NodeId(2)]).unwrap();
    wait_for(groups[2].status(), |s| s.voters == ids(&[1, 2, 3]) && !s.is_joint && s.is_leader)
        .await;

    stop.cancel();
    let outcomes = load.join_all().await;
    let done: u64 = outcomes.iter().map(|outcomes| outcomes.done).sum();
    let unknown: u64 = outcomes.iter().map(|outcomes| outcomes.unknown).sum();
    let last = wait_for(groups[2].status(), |status| status.applied_index == status.last_log_index)
        .await
        .applied_index;
    for (group, count) in groups.iter().zip(counts) {
        wait_for(group.status(), |status| status.applied_index >= last).await;
        // The status of this replica or of the leader may lag behind for a moment.
        let applied = || count.0.load(Ordering::SeqCst);
        let caught_up = async {
            while applied() < done {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let _ = tokio::time::timeout(Duration::from_secs(8), caught_up).await;
        let applied = applied();
        assert!((done..=done + unknown).contains(&applied), "{applied} of {done} + {unknown}");
    }
    assert!(done > 0);
    for node in [first, second, third] {
        cluster.kill(node).await;
    }
}
