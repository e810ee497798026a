//! Real engines over loopback: how a cluster grows, shrinks and moves.

#[cfg(test)]
mod support;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use pushonce_consensus::GroupId;
use pushonce_control::{AskError, Joining, Refusal};
use pushonce_core::{ClusterView, MemberState, NodeId, Placement, ShardId};
use support::{Count, World, ids, joining, keep, profile, propose, until};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// All active, and the committed table is the ring's.
fn settled(members: usize) -> impl Fn(&ClusterView) -> bool {
    move |view| {
        view.members.len() == members
            && view.members.values().all(|m| m.state == MemberState::Active)
            && view.placement.replicas == Placement::propose(view)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_nodes_join_a_third_and_all_vote_and_see_the_same() {
    let world = World::new();
    let first = world.found().await;
    let second = world.join(&first, "n2").await;
    second.view(|_| true).await;
    // The second brings the question to the leader.
    let third = world.join(&second, "n3").await;
    assert_eq!((second.id, third.id), (NodeId(2), NodeId(3)));

    let view = first.view(settled(3)).await;
    assert!(view.shards.ids().all(|shard| view.placement.of(shard).len() == 3));
    assert!(view.placement.version <= 3, "a table for each join at most");
    for node in [&first, &second, &third] {
        until(node.control.status(), |s| s.voters == ids(&[1, 2, 3]) && !s.joint).await;
        assert_eq!(node.view(settled(3)).await, view);
    }

    for node in [first, second, third] {
        world.kill(node).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_leader_dies_the_others_go_on_and_the_next_takes_its_place() {
    let world = World::new();
    let first = world.found().await;
    let second = world.join(&first, "n2").await;
    let third = world.join(&first, "n3").await;
    until(third.control.status(), |s| s.voters == ids(&[1, 2, 3]) && !s.joint).await;

    world.kill(first).await;
    let fourth = world.join(&third, "n4").await;
    assert_eq!(fourth.id, NodeId(4));
    let active = |view: &ClusterView| view.shard_holders().contains_key(&NodeId(4));
    fourth.view(active).await;
    let status = until(second.control.status(), |s| s.learners == ids(&[4])).await;
    assert_eq!(status.voters, ids(&[1, 2, 3]), "a silent voter keeps its vote");

    // The operator gives it up.
    second.control.remove(NodeId(1)).await.unwrap();
    until(third.control.status(), |s| s.voters == ids(&[2, 3, 4]) && !s.joint).await;
    fourth.view(settled(3)).await;

    // Of two, one votes, and the other goes on following.
    third.control.remove(NodeId(4)).await.unwrap();
    for node in [&second, &third] {
        until(node.control.status(), |s| s.voters.len() == 1 && s.learners.len() == 1).await;
        node.view(settled(2)).await;
    }
    for node in [second, third, fourth] {
        world.kill(node).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_not_join_is_told_why_and_who_moved_is_known_at_its_new_address() {
    let world = World::new();
    let first = world.found().await;
    let second = world.join(&first, "n2").await;
    second.view(settled(2)).await;

    let taken = second.control.join(joining("other", profile("n1", "there:7091"))).await;
    assert!(matches!(taken, Err(AskError::Refused(Refusal::NameTaken { .. }))));

    let moved = profile("n2", "there:7091");
    let said = Joining { log: Some(second.engine.mark()), ..joining("n2", moved.clone()) };
    second.control.announce(said.clone()).await.unwrap();
    let seen = first.view(|view| view.members[&NodeId(2)].addresses.peer == "there:7091").await;
    second.control.announce(said).await.unwrap();
    assert_eq!(first.view(|_| true).await, seen, "what is known makes no new version");

    first.control.remove(NodeId(2)).await.unwrap();
    until(first.control.status(), |status| status.learners.is_empty()).await;
    let again = first.control.join(joining("n2", moved)).await;
    assert_eq!(again, Err(AskError::Refused(Refusal::Removed(NodeId(2)))));
    world.kill(second).await;
    world.kill(first).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_starts_again_knows_what_it_knew_and_goes_on() {
    let world = World::new();
    let first = world.found().await;
    let second = world.join(&first, "n2").await;
    let view = second.view(settled(2)).await;
    let (first, second) = (world.kill(first).await, world.kill(second).await);

    let second = world.again(NodeId(2), second).await;
    assert_eq!(second.view(|_| true).await.cluster, view.cluster);
    let first = world.again(NodeId(1), first).await;
    let third = world.join(&first, "n3").await;
    assert_eq!(third.id, NodeId(3));
    second.view(settled(3)).await;
    for node in [first, second, third] {
        world.kill(node).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_busy_shard_moves_from_node_to_node_and_loses_nothing() {
    let world = World::new();
    let mut first = world.found().await;
    let mut second = world.join(&first, "n2").await;
    let mut third = world.join(&first, "n3").await;
    let (wanted, _) = watch::channel(vec![NodeId(1)]);
    let moves = Arc::new(Semaphore::new(1));
    let shard = GroupId::shard(ShardId(0));
    let mut groups = Vec::new();
    let counts: [Count; 3] = Default::default();
    for (node, count) in [&mut first, &mut second, &mut third].into_iter().zip(&counts) {
        let group = node.engine.start(shard, count.clone()).await.unwrap();
        keep(node, &group, &world, &wanted, &moves);
        groups.push(group);
    }
    groups[0].initialize().await.unwrap();
    until(groups[0].status(), |status| status.leads).await;
    let stop = CancellationToken::new();
    let mut load = JoinSet::new();
    for group in groups.iter().cycle().take(12) {
        load.spawn(propose(group.clone(), stop.clone()));
    }

    wanted.send(ids(&[1, 2, 3]).into_iter().collect()).unwrap();
    until(groups[0].status(), |s| s.voters == ids(&[1, 2, 3]) && !s.joint && s.leads).await;
    wanted.send(vec![NodeId(2), NodeId(3)]).unwrap();
    until(groups[1].status(), |s| s.voters == ids(&[2, 3]) && !s.joint && s.leads).await;
    wanted.send(vec![NodeId(3), NodeId(1), NodeId(2)]).unwrap();
    until(groups[2].status(), |s| s.voters == ids(&[1, 2, 3]) && !s.joint && s.leads).await;

    stop.cancel();
    let outcomes = load.join_all().await;
    let done: u64 = outcomes.iter().map(|outcomes| outcomes.done).sum();
    let unknown: u64 = outcomes.iter().map(|outcomes| outcomes.unknown).sum();
    let last = until(groups[2].status(), |status| status.applied == status.last_log).await.applied;
    for (group, count) in groups.iter().zip(counts) {
        until(group.status(), |status| status.applied >= last).await;
        // Its status, or the leader's, may be a moment behind.
        let applied = || count.0.load(Ordering::SeqCst);
        let level = async {
            while applied() < done {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let _ = tokio::time::timeout(Duration::from_secs(8), level).await;
        let applied = applied();
        assert!((done..=done + unknown).contains(&applied), "{applied} of {done} + {unknown}");
    }
    assert!(done > 0);
    for node in [first, second, third] {
        world.kill(node).await;
    }
}
