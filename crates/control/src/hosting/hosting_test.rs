use pushonce_core::{OwnershipClaim, ShardCount, test_util};

use super::*;
use crate::state::state_test::view_with_labels;

const ME: NodeId = NodeId(2);
const SHARD: ShardId = ShardId(0);

/// One shard, placed on `placement`.
fn view(placement: &[u64]) -> ClusterView {
    let mut view = view_with_labels(&[("", ""); 4]);
    view.shards = ShardCount::new(1).unwrap();
    view.placement.replicas = vec![placement.iter().copied().map(NodeId).collect()];
    view
}

fn owners(claims: &[(u64, u64, &[u64], &[u64])]) -> ShardOwners {
    let ids = |ids: &[u64]| ids.iter().copied().map(NodeId).collect::<Vec<_>>();
    let claim = |&(term, owner, voters, learners): &(u64, u64, &[u64], &[u64])| OwnershipClaim {
        voters: ids(voters),
        learners: ids(learners),
        ..test_util::claim(SHARD.0, owner, term)
    };
    test_util::owners(claims.iter().map(claim))
}

fn hosted(hosted: bool) -> BTreeMap<ShardId, Option<u64>> {
    hosted.then_some((SHARD, None)).into_iter().collect()
}

fn is_started(placement: &[u64], owners: &ShardOwners, bootstrapping: bool) -> bool {
    let hosting = plan(ME, &view(placement), owners, &hosted(false), bootstrapping);
    assert!(hosting.remove.is_empty(), "a replica that is not hosted was removed");
    !hosting.start.is_empty()
}

fn is_removed(placement: &[u64], owners: &ShardOwners, bootstrapping: bool) -> bool {
    let hosting = plan(ME, &view(placement), owners, &hosted(true), bootstrapping);
    assert!(hosting.start.is_empty(), "a hosted replica was started");
    !hosting.remove.is_empty()
}

#[test]
fn placed_shard_is_started_and_another_is_not() {
    assert!(is_started(&[1, 2], &owners(&[]), false));
    assert!(!is_started(&[1, 3], &owners(&[]), false));
}

#[test]
fn first_node_starts_every_shard_while_bootstrapping() {
    let view = view_with_labels(&[("", ""); 1]);
    let hosting = plan(NodeId(1), &view, &ShardOwners::default(), &BTreeMap::new(), true);
    assert_eq!(hosting.start, view.shards.ids().collect::<Vec<_>>());
    assert!(is_started(&[1], &owners(&[]), true));
}

#[test]
fn replica_still_in_its_group_is_started_after_the_placement_moved_on() {
    assert!(is_started(&[1, 3], &owners(&[(1, 1, &[1, 2], &[])]), false));
    assert!(is_started(&[1, 3], &owners(&[(1, 1, &[1], &[2])]), false));
}

#[test]
fn replica_is_removed_when_placement_and_group_both_exclude_it() {
    assert!(is_removed(&[1, 3], &owners(&[(4, 3, &[1, 3], &[])]), false));
}

#[test]
fn nothing_is_removed_without_a_claim() {
    assert!(!is_removed(&[1, 3], &owners(&[]), false));
}

#[test]
fn placed_or_claimed_replica_stays() {
    assert!(!is_removed(&[1, 2], &owners(&[(4, 1, &[1], &[])]), false));
    assert!(!is_removed(&[1, 3], &owners(&[(4, 1, &[1, 2], &[])]), false));
    assert!(!is_removed(&[1, 3], &owners(&[(4, 1, &[1], &[2])]), false));
    assert!(!is_removed(&[1, 3], &owners(&[(4, 2, &[1, 3], &[])]), false), "the owner stays");
}

#[test]
fn claim_with_the_higher_term_wins() {
    let own_then_newer_claim = owners(&[(4, 2, &[1, 2], &[]), (5, 1, &[1, 3], &[])]);
    assert!(is_removed(&[1, 3], &own_then_newer_claim, false));
    let other_claim_is_older = owners(&[(5, 2, &[1, 2], &[]), (4, 1, &[1, 3], &[])]);
    assert!(!is_removed(&[1, 3], &other_claim_is_older, false));
}

#[test]
fn removed_replica_is_not_started_again_while_bootstrapping() {
    let moved = owners(&[(4, 3, &[1, 3], &[])]);
    assert!(is_removed(&[1, 3], &moved, true));
    assert!(!is_started(&[1, 3], &moved, true));
}

#[test]
fn old_claim_does_not_remove_a_replica_with_a_newer_membership() {
    let owners = owners(&[(2, 1, &[1, 3], &[])]);
    let is_removed_with_membership = |known| {
        let hosted = BTreeMap::from([(SHARD, known)]);
        !plan(ME, &view(&[1, 3]), &owners, &hosted, false).remove.is_empty()
    };
    assert!(is_removed_with_membership(None));
    assert!(is_removed_with_membership(Some(0)), "the claim has membership 1");
    assert!(!is_removed_with_membership(Some(1)));
    assert!(!is_removed_with_membership(Some(7)));
}

#[test]
fn replica_is_excluded_only_by_a_claim_of_another_node_that_does_not_name_it() {
    let excluded = |claims: &[(u64, u64, &[u64], &[u64])]| is_excluded(ME, &owners(claims), SHARD);
    assert!(!excluded(&[]), "there is no claim");
    assert!(!excluded(&[(1, 1, &[1, 2, 3], &[])]), "a voter");
    assert!(!excluded(&[(1, 1, &[1, 3], &[2])]), "a learner");
    assert!(!excluded(&[(1, 2, &[1, 3], &[])]), "the owner");
    assert!(excluded(&[(1, 1, &[1, 3, 4], &[])]));
}
