use super::*;
use crate::leave::leave_test::{World, ids};

/// Five members, two shards of three replicas each, and these nodes within reach.
fn world(reachable: &[u64]) -> World {
    World::of(&[&[1, 2, 3], &[3, 4, 5]], &[1, 2, 3], reachable)
}

fn found(world: &World, leader: Option<u64>) -> Vec<Problem> {
    problems(&world.seen(), leader.map(NodeId), &BTreeMap::new())
}

fn kinds(found: &[Problem]) -> Vec<&'static str> {
    found.iter().map(Problem::kind).collect()
}

#[test]
fn healthy_cluster_has_no_problem() {
    assert_eq!(found(&world(&[1, 2, 3, 4, 5]), Some(1)), []);
}

#[test]
fn dead_follower_leaves_shards_with_too_few_copies() {
    let found = found(&world(&[1, 2, 3, 4]), Some(1));
    let few = Problem::TooFewCopies { shards: vec![ShardId(1)], least: 2, wanted: 3 };
    assert_eq!(found, [few, Problem::Unreachable { nodes: vec![NodeId(5)] }]);
    assert!(found.iter().all(|problem| problem.severity() == Severity::Degraded));
    let text = found[0].to_string();
    assert!(text.starts_with("s1 has fewer than 3 living copies (the least has 2)"), "{text}");
}

#[test]
fn dead_owner_is_worse_than_a_missing_copy() {
    let found = found(&world(&[1, 2, 4, 5]), Some(1));
    assert_eq!(kinds(&found), ["shards_without_owner", "too_few_copies", "members_unreachable"]);
    assert_eq!(found[0].severity(), Severity::Unavailable);
}

#[test]
fn lost_majority_is_told_with_the_nodes_that_must_come_back() {
    let found = found(&world(&[1, 2, 3]), Some(1));
    let lost = Problem::ShardsWithoutMajority { shards: vec![ShardId(1)], missing: ids(&[4, 5]) };
    assert_eq!(found[0], lost);
    assert!(found[0].to_string().contains("s1 cannot be published to while n4, n5"));
}

#[test]
fn control_group_without_leader_or_majority_is_told() {
    let all = world(&[1, 2, 3, 4, 5]);
    assert_eq!(kinds(&found(&all, None)), ["control_without_leader"]);
    let lost = found(&world(&[1, 4, 5]), Some(1));
    assert_eq!(lost[0], Problem::ControlWithoutMajority { missing: ids(&[2, 3]) });
}

#[test]
fn half_of_the_voters_is_no_majority() {
    let world = World::of(&[&[1, 2]], &[1, 2], &[1]);
    let found = found(&world, Some(1));
    assert_eq!(kinds(&found)[..2], ["control_without_majority", "shards_without_majority"]);
}

#[test]
fn one_node_has_fewer_copies_than_configured() {
    let mut world = World::of(&[&[1]], &[1], &[1]);
    world.view.members.retain(|&node, _| node == NodeId(1));
    assert_eq!(kinds(&found(&world, Some(1))), ["too_few_copies"]);
    world.view.replicas = 1;
    assert_eq!(found(&world, Some(1)), []);
}

#[test]
fn many_shards_are_counted_and_every_kind_is_listed() {
    let shards: Vec<_> = (0..64).map(ShardId).collect();
    let text = Problem::ShardsWithoutOwner { shards }.to_string();
    assert!(text.contains("64 shards (s0, s1, s2, …)"), "{text}");
    let all = [world(&[1]), world(&[1, 2, 4, 5])];
    for problem in all.iter().flat_map(|world| found(world, None)) {
        assert!(Problem::KINDS.contains(&problem.kind()));
    }
}

#[test]
fn replica_that_lags_degrades_the_cluster_and_one_on_its_way_in_does_not() {
    let world = world(&[1, 2, 3, 4, 5]);
    let lagging = |of: &[(u16, u64)]| {
        let lagging = of.iter().map(|&(shard, node)| (ShardId(shard), NodeId(node))).collect();
        problems(&world.seen(), Some(NodeId(1)), &lagging)
    };
    let found = lagging(&[(0, 2), (1, 4)]);
    let shards = vec![ShardId(0), ShardId(1)];
    assert_eq!(found, [Problem::ReplicasLag { shards, nodes: ids(&[2, 4]) }]);
    assert_eq!(found[0].severity(), Severity::Degraded);
    assert!(found[0].to_string().starts_with("the replicas of s0, s1 on n2, n4 lack"));
    assert_eq!(lagging(&[(0, 5)]), [], "n5 has no vote in s0");
}
