use super::*;
use crate::leave::leave_test::{LeaveFixture, ids};

/// Five members and two shards of three replicas each, with these nodes reachable.
fn five_members(reachable: &[u64]) -> LeaveFixture {
    LeaveFixture::new(&[&[1, 2, 3], &[3, 4, 5]], &[1, 2, 3], reachable)
}

fn find(fixture: &LeaveFixture, leader: Option<u64>) -> Vec<ClusterProblem> {
    find_problems(&fixture.observed(), leader.map(NodeId), &BTreeMap::new())
}

fn kinds(found: &[ClusterProblem]) -> Vec<&'static str> {
    found.iter().map(ClusterProblem::kind).collect()
}

#[test]
fn healthy_cluster_has_no_problem() {
    assert_eq!(find(&five_members(&[1, 2, 3, 4, 5]), Some(1)), []);
}

#[test]
fn dead_follower_leaves_shards_with_too_few_copies() {
    let found = find(&five_members(&[1, 2, 3, 4]), Some(1));
    let few = ClusterProblem::TooFewCopies { shards: vec![ShardId(1)], least: 2, wanted: 3 };
    assert_eq!(found, [few, ClusterProblem::UnreachableMembers { nodes: vec![NodeId(5)] }]);
    assert!(found.iter().all(|problem| problem.severity() == Severity::Degraded));
    let text = found[0].to_string();
    assert!(text.starts_with("s1 has fewer than 3 live copies (minimum 2)"), "{text}");
}

#[test]
fn unreachable_owner_is_reported_before_missing_copies() {
    let found = find(&five_members(&[1, 2, 4, 5]), Some(1));
    assert_eq!(kinds(&found), ["shards_without_owner", "too_few_copies", "members_unreachable"]);
    assert_eq!(found[0].severity(), Severity::Unavailable);
}

#[test]
fn lost_majority_is_reported_with_the_unreachable_nodes() {
    let found = find(&five_members(&[1, 2, 3]), Some(1));
    let lost =
        ClusterProblem::ShardsWithoutMajority { shards: vec![ShardId(1)], missing: ids(&[4, 5]) };
    assert_eq!(found[0], lost);
    assert!(found[0].to_string().contains("s1 cannot be published to while n4, n5"));
}

#[test]
fn control_group_without_leader_or_majority_is_reported() {
    let all = five_members(&[1, 2, 3, 4, 5]);
    assert_eq!(kinds(&find(&all, None)), ["control_without_leader"]);
    let lost = find(&five_members(&[1, 4, 5]), Some(1));
    assert_eq!(lost[0], ClusterProblem::ControlWithoutMajority { missing: ids(&[2, 3]) });
}

#[test]
fn half_of_the_voters_is_not_a_majority() {
    let fixture = LeaveFixture::new(&[&[1, 2]], &[1, 2], &[1]);
    let found = find(&fixture, Some(1));
    assert_eq!(kinds(&found)[..2], ["control_without_majority", "shards_without_majority"]);
}

#[test]
fn one_node_has_fewer_copies_than_configured() {
    let mut fixture = LeaveFixture::new(&[&[1]], &[1], &[1]);
    fixture.view.members.retain(|&node, _| node == NodeId(1));
    assert_eq!(kinds(&find(&fixture, Some(1))), ["too_few_copies"]);
    fixture.view.replicas = 1;
    assert_eq!(find(&fixture, Some(1)), []);
}

#[test]
fn many_shards_are_counted_and_every_kind_is_listed() {
    let shards: Vec<_> = (0..64).map(ShardId).collect();
    let text = ClusterProblem::ShardsWithoutOwner { shards }.to_string();
    assert!(text.contains("64 shards (s0, s1, s2, …)"), "{text}");
    let all = [five_members(&[1]), five_members(&[1, 2, 4, 5])];
    for problem in all.iter().flat_map(|fixture| find(fixture, None)) {
        assert!(ClusterProblem::KINDS.contains(&problem.kind()));
    }
}

#[test]
fn lagging_voter_degrades_the_cluster_and_a_joining_replica_does_not() {
    let fixture = five_members(&[1, 2, 3, 4, 5]);
    let lagging = |of: &[(u16, u64)]| {
        let lagging = of.iter().map(|&(shard, node)| (ShardId(shard), NodeId(node))).collect();
        find_problems(&fixture.observed(), Some(NodeId(1)), &lagging)
    };
    let found = lagging(&[(0, 2), (1, 4)]);
    let shards = vec![ShardId(0), ShardId(1)];
    assert_eq!(found, [ClusterProblem::LaggingReplicas { shards, nodes: ids(&[2, 4]) }]);
    assert_eq!(found[0].severity(), Severity::Degraded);
    assert!(found[0].to_string().starts_with("the replicas of s0, s1 on n2, n4 lack"));
    assert_eq!(lagging(&[(0, 5)]), [], "n5 has no vote in s0");
}
