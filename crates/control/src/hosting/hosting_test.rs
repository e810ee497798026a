use pushonce_core::{Claim, ShardCount, Term};

use super::*;
use crate::state::state_test::view_of;

const ME: NodeId = NodeId(2);
const SHARD: ShardId = ShardId(0);

/// One shard, held by `table`.
fn view(table: &[u64]) -> ClusterView {
    let mut view = view_of(&[("", ""); 4]);
    view.shards = ShardCount::new(1).unwrap();
    view.placement.replicas = vec![table.iter().copied().map(NodeId).collect()];
    view
}

fn owners(claims: &[(u64, u64, &[u64], &[u64])]) -> Owners {
    let ids = |ids: &[u64]| ids.iter().copied().map(NodeId).collect();
    let mut owners = Owners::default();
    for &(term, owner, voters, learners) in claims {
        owners.hear(Claim {
            shard: SHARD,
            owner: NodeId(owner),
            term: Term(term),
            membership: 1,
            voters: ids(voters),
            learners: ids(learners),
        });
    }
    owners
}

fn hosted(hosted: bool) -> BTreeMap<ShardId, Option<u64>> {
    hosted.then_some((SHARD, None)).into_iter().collect()
}

fn starts(table: &[u64], owners: &Owners, founding: bool) -> bool {
    let hosting = plan(ME, &view(table), owners, &hosted(false), founding);
    assert!(hosting.drop.is_empty(), "what is not hosted cannot be dropped");
    !hosting.start.is_empty()
}

fn drops(table: &[u64], owners: &Owners, founding: bool) -> bool {
    let hosting = plan(ME, &view(table), owners, &hosted(true), founding);
    assert!(hosting.start.is_empty(), "what is hosted cannot be started");
    !hosting.drop.is_empty()
}

#[test]
fn a_listed_shard_is_started_and_another_is_not() {
    assert!(starts(&[1, 2], &owners(&[]), false));
    assert!(!starts(&[1, 3], &owners(&[]), false));
}

#[test]
fn a_founder_starts_every_shard() {
    let view = view_of(&[("", ""); 1]);
    let hosting = plan(NodeId(1), &view, &Owners::default(), &BTreeMap::new(), true);
    assert_eq!(hosting.start, view.shards.ids().collect::<Vec<_>>());
    assert!(starts(&[1], &owners(&[]), true));
}

#[test]
fn a_replica_the_group_still_has_is_started_though_the_table_has_moved_on() {
    assert!(starts(&[1, 3], &owners(&[(1, 1, &[1, 2], &[])]), false));
    assert!(starts(&[1, 3], &owners(&[(1, 1, &[1], &[2])]), false));
}

#[test]
fn a_replica_is_dropped_when_table_and_group_both_are_without_it() {
    assert!(drops(&[1, 3], &owners(&[(4, 3, &[1, 3], &[])]), false));
}

#[test]
fn without_a_claim_nothing_is_dropped() {
    assert!(!drops(&[1, 3], &owners(&[]), false));
}

#[test]
fn a_replica_that_is_listed_or_still_named_stays() {
    assert!(!drops(&[1, 2], &owners(&[(4, 1, &[1], &[])]), false));
    assert!(!drops(&[1, 3], &owners(&[(4, 1, &[1, 2], &[])]), false));
    assert!(!drops(&[1, 3], &owners(&[(4, 1, &[1], &[2])]), false));
    assert!(!drops(&[1, 3], &owners(&[(4, 2, &[1, 3], &[])]), false), "the owner itself stays");
}

#[test]
fn of_two_claims_the_higher_term_decides() {
    let mine_then_theirs = owners(&[(4, 2, &[1, 2], &[]), (5, 1, &[1, 3], &[])]);
    assert!(drops(&[1, 3], &mine_then_theirs, false));
    let theirs_is_old = owners(&[(5, 2, &[1, 2], &[]), (4, 1, &[1, 3], &[])]);
    assert!(!drops(&[1, 3], &theirs_is_old, false));
}

#[test]
fn what_a_founder_has_dropped_it_does_not_start_again() {
    let moved = owners(&[(4, 3, &[1, 3], &[])]);
    assert!(drops(&[1, 3], &moved, true));
    assert!(!starts(&[1, 3], &moved, true));
}

#[test]
fn an_old_claim_does_not_drop_a_replica_that_knows_better() {
    let owners = owners(&[(2, 1, &[1, 3], &[])]);
    let drops_knowing = |known| {
        let hosted = BTreeMap::from([(SHARD, known)]);
        !plan(ME, &view(&[1, 3]), &owners, &hosted, false).drop.is_empty()
    };
    assert!(drops_knowing(None));
    assert!(drops_knowing(Some(0)), "the claim is of membership 1");
    assert!(!drops_knowing(Some(1)));
    assert!(!drops_knowing(Some(7)));
}
