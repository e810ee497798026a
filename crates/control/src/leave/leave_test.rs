use proptest::prelude::*;
use pushonce_core::{OwnershipClaim, ShardCount, test_util};

use super::*;
use crate::state::state_test::view_with_labels;

/// A cluster of five members with one shard for each group of voters, and the reachable nodes.
pub(crate) struct LeaveFixture {
    pub(crate) view: ClusterView,
    owners: ShardOwners,
    control: Vec<NodeId>,
    reachable: BTreeSet<NodeId>,
}

impl LeaveFixture {
    pub(crate) fn new(groups: &[&[u64]], control: &[u64], living: &[u64]) -> LeaveFixture {
        let mut view = view_with_labels(&[("", ""); 5]);
        view.shards = ShardCount::new(groups.len() as u16).unwrap();
        let claims = view.shards.ids().zip(groups).map(|(shard, voters)| OwnershipClaim {
            voters: ids(voters),
            ..test_util::claim(shard.0, voters[0], 1)
        });
        let owners = test_util::owners(claims);
        LeaveFixture { view, owners, control: ids(control), reachable: ids(living) }
    }

    pub(crate) fn observed(&self) -> ClusterObservation<'_> {
        let LeaveFixture { view, owners, control, reachable } = self;
        ClusterObservation { view, owners, control, reachable }
    }

    fn check_remove(&self, node: u64) -> Result<(), LeaveRejection> {
        check_remove(&self.observed(), NodeId(node), false)
    }

    fn check_forced_remove(&self, node: u64) -> Result<(), LeaveRejection> {
        check_remove(&self.observed(), NodeId(node), true)
    }
}

pub(crate) fn ids<C: FromIterator<NodeId>>(ids: &[u64]) -> C {
    ids.iter().copied().map(NodeId).collect()
}

fn groups(shards: &[u16], control: bool) -> GroupSet {
    GroupSet { shards: shards.iter().copied().map(ShardId).collect(), control }
}

const NODE: NodeId = NodeId(3);

#[test]
fn unreachable_node_of_a_healthy_cluster_can_be_removed() {
    let fixture = LeaveFixture::new(&[&[1, 2, 3], &[3, 4, 5]], &[1, 2, 3], &[1, 2, 4, 5]);
    assert_eq!(fixture.check_remove(3), Ok(()));
}

#[test]
fn reachable_node_must_be_drained_before_its_removal_unless_forced() {
    let fixture = LeaveFixture::new(&[&[1, 2, 3], &[1, 4, 5]], &[1, 2, 3], &[1, 2, 3, 4, 5]);
    let groups = groups(&[0], true);
    let rejection = fixture.check_remove(3).unwrap_err();
    assert_eq!(rejection, LeaveRejection::StillHoldsReplicas { node: NODE, groups });
    let text = rejection.to_string();
    assert!(text.contains("still in the control group, s0: drain it first"), "{text}");
    assert_eq!(fixture.check_forced_remove(3), Ok(()));
    let empty = LeaveFixture::new(&[&[1, 2, 4]], &[1, 2, 4], &[1, 2, 3, 4, 5]);
    assert_eq!(empty.check_remove(3), Ok(()));
}

#[test]
fn removal_that_loses_a_shard_majority_is_rejected_unless_forced() {
    let fixture = LeaveFixture::new(&[&[1, 2, 3], &[3, 4, 5]], &[1, 4, 5], &[1, 4, 5]);
    let (groups, missing) = (groups(&[0], false), ids(&[2]));
    let rejection = fixture.check_remove(3).unwrap_err();
    assert_eq!(rejection, LeaveRejection::NoMajority { node: NODE, groups, missing });
    let text = rejection.to_string();
    assert!(text.contains("no majority of s0 while n2 cannot be reached"), "{text}");
    assert_eq!(fixture.check_forced_remove(3), Ok(()));
}

#[test]
fn removal_that_loses_the_control_majority_is_rejected() {
    let fixture = LeaveFixture::new(&[&[1, 4, 5]], &[1, 2, 3], &[1, 4, 5]);
    let (groups, missing) = (groups(&[], true), ids(&[2]));
    assert_eq!(
        fixture.check_remove(3),
        Err(LeaveRejection::NoMajority { node: NODE, groups, missing })
    );
}

#[test]
fn only_copy_is_not_removed_even_by_force() {
    let fixture = LeaveFixture::new(&[&[3], &[1, 4, 5]], &[1, 4, 5], &[1, 2, 4, 5]);
    let only = LeaveRejection::OnlyCopy { node: NODE, groups: groups(&[0], false) };
    assert_eq!(fixture.check_remove(3), Err(only.clone()));
    assert_eq!(fixture.check_forced_remove(3), Err(only));
}

#[test]
fn removed_node_can_be_removed_again_and_an_unknown_one_is_rejected() {
    let mut fixture = LeaveFixture::new(&[&[1, 2, 4]], &[1, 2, 4], &[1, 2, 4, 5]);
    fixture.view.members.remove(&NODE);
    assert_eq!(fixture.check_remove(3), Ok(()));
    assert_eq!(fixture.check_remove(9), Err(LeaveRejection::NotAMember(NodeId(9))));
}

#[test]
fn drain_that_leaves_too_few_copies_requires_force() {
    let fixture = LeaveFixture::new(&[&[1, 2, 3]], &[1, 2, 3], &[1, 2, 3, 4, 5]);
    assert_eq!(check_drain(&fixture.observed(), NODE, false), Ok(()));
    // One of the other members is down, and another one drains.
    let mut fixture = LeaveFixture::new(&[&[1, 2, 3]], &[1, 2, 3], &[1, 2, 3, 4]);
    fixture.view.members.get_mut(&NodeId(4)).unwrap().state = MemberState::Draining;
    let rejection = LeaveRejection::TooFewCopies { node: NODE, left: 2, wanted: 3 };
    assert_eq!(check_drain(&fixture.observed(), NODE, false), Err(rejection.clone()));
    assert!(rejection.to_string().contains("join another node first"), "{rejection}");
    assert_eq!(check_drain(&fixture.observed(), NODE, true), Ok(()));
    assert_eq!(
        check_drain(&fixture.observed(), NodeId(4), false),
        Ok(()),
        "it is draining already"
    );
}

#[test]
fn node_without_shards_can_always_be_drained() {
    let mut fixture = LeaveFixture::new(&[&[1, 2]], &[1, 2], &[1, 2, 3, 4, 5]);
    fixture.view.members.retain(|node, _| node.0 <= 3);
    fixture.view.members.get_mut(&NODE).unwrap().roles.core = false;
    assert_eq!(check_drain(&fixture.observed(), NODE, false), Ok(()));
}

fn nodes(least: usize) -> impl Strategy<Value = Vec<u64>> {
    prop::collection::btree_set(1..=5u64, least..=5)
        .prop_map(|nodes| nodes.into_iter().collect::<Vec<_>>())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn unforced_removal_never_takes_the_majority_from_a_group(
        shards in prop::collection::vec(nodes(1), 1..4),
        control in nodes(1),
        living in nodes(0),
        node in 1..=5u64,
        force in any::<bool>(),
    ) {
        let shards: Vec<_> = shards.iter().map(Vec::as_slice).collect();
        let fixture = LeaveFixture::new(&shards, &control, &living);
        if check_remove(&fixture.observed(), NodeId(node), force).is_err() {
            return Ok(());
        }
        for voters in shards.iter().copied().chain([control.as_slice()]) {
            let others: Vec<_> = voters.iter().filter(|&&voter| voter != node).collect();
            prop_assert!(!others.is_empty(), "n{node} has the only copy");
            let alive = others.iter().filter(|other| living.contains(other)).count();
            let decides = alive > voters.len() / 2;
            prop_assert!(decides || force || others.len() == voters.len());
        }
    }
}
