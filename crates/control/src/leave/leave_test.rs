use proptest::prelude::*;
use pushonce_core::{Claim, ShardCount, Term};

use super::*;
use crate::state::state_test::view_of;

/// A cluster of five, of which these live; one shard a group of voters.
pub(crate) struct World {
    pub(crate) view: ClusterView,
    owners: Owners,
    control: Vec<NodeId>,
    reachable: BTreeSet<NodeId>,
}

impl World {
    pub(crate) fn of(groups: &[&[u64]], control: &[u64], living: &[u64]) -> World {
        let mut view = view_of(&[("", ""); 5]);
        view.shards = ShardCount::new(groups.len() as u16).unwrap();
        let mut owners = Owners::default();
        for (shard, voters) in view.shards.ids().zip(groups) {
            owners.hear(Claim {
                shard,
                owner: NodeId(voters[0]),
                term: Term(1),
                membership: 1,
                voters: ids(voters),
                learners: vec![],
            });
        }
        World { view, owners, control: ids(control), reachable: ids(living) }
    }

    pub(crate) fn seen(&self) -> Seen<'_> {
        let World { view, owners, control, reachable } = self;
        Seen { view, owners, control, reachable }
    }

    fn may_remove(&self, node: u64) -> Result<(), Objection> {
        may_remove(&self.seen(), NodeId(node), false)
    }

    fn forced(&self, node: u64) -> Result<(), Objection> {
        may_remove(&self.seen(), NodeId(node), true)
    }
}

pub(crate) fn ids<C: FromIterator<NodeId>>(ids: &[u64]) -> C {
    ids.iter().copied().map(NodeId).collect()
}

fn groups(shards: &[u16], control: bool) -> Groups {
    Groups { shards: shards.iter().copied().map(ShardId).collect(), control }
}

const NODE: NodeId = NodeId(3);

#[test]
fn a_dead_node_of_a_healthy_cluster_may_go() {
    let world = World::of(&[&[1, 2, 3], &[3, 4, 5]], &[1, 2, 3], &[1, 2, 4, 5]);
    assert_eq!(world.may_remove(3), Ok(()));
}

#[test]
fn a_living_node_gives_away_what_it_holds_first_unless_that_is_not_meant() {
    let world = World::of(&[&[1, 2, 3], &[1, 4, 5]], &[1, 2, 3], &[1, 2, 3, 4, 5]);
    let groups = groups(&[0], true);
    let objection = world.may_remove(3).unwrap_err();
    assert_eq!(objection, Objection::StillHolds { node: NODE, groups });
    let said = objection.to_string();
    assert!(said.contains("still in the control group, s0: drain it first"), "{said}");
    assert_eq!(world.forced(3), Ok(()));
    let empty = World::of(&[&[1, 2, 4]], &[1, 2, 4], &[1, 2, 3, 4, 5]);
    assert_eq!(empty.may_remove(3), Ok(()));
}

#[test]
fn a_shard_keeps_a_majority_of_the_living_or_the_operator_is_told_what_it_costs() {
    let world = World::of(&[&[1, 2, 3], &[3, 4, 5]], &[1, 4, 5], &[1, 4, 5]);
    let (groups, missing) = (groups(&[0], false), ids(&[2]));
    let objection = world.may_remove(3).unwrap_err();
    assert_eq!(objection, Objection::NoMajority { node: NODE, groups, missing });
    let said = objection.to_string();
    assert!(said.contains("no majority of s0 while n2 cannot be reached"), "{said}");
    assert_eq!(world.forced(3), Ok(()));
}

#[test]
fn the_control_group_keeps_a_majority_too() {
    let world = World::of(&[&[1, 4, 5]], &[1, 2, 3], &[1, 4, 5]);
    let (groups, missing) = (groups(&[], true), ids(&[2]));
    assert_eq!(world.may_remove(3), Err(Objection::NoMajority { node: NODE, groups, missing }));
}

#[test]
fn the_only_copy_is_not_given_up_even_by_force() {
    let world = World::of(&[&[3], &[1, 4, 5]], &[1, 4, 5], &[1, 2, 4, 5]);
    let only = Objection::OnlyCopy { node: NODE, groups: groups(&[0], false) };
    assert_eq!(world.may_remove(3), Err(only.clone()));
    assert_eq!(world.forced(3), Err(only));
}

#[test]
fn who_is_gone_may_go_again_and_a_stranger_is_told_apart() {
    let mut world = World::of(&[&[1, 2, 4]], &[1, 2, 4], &[1, 2, 4, 5]);
    world.view.members.remove(&NODE);
    assert_eq!(world.may_remove(3), Ok(()));
    assert_eq!(world.may_remove(9), Err(Objection::NotAMember(NodeId(9))));
}

#[test]
fn draining_that_leaves_too_few_copies_needs_force() {
    let world = World::of(&[&[1, 2, 3]], &[1, 2, 3], &[1, 2, 3, 4, 5]);
    assert_eq!(may_drain(&world.seen(), NODE, false), Ok(()));
    // One of the others is down, and one more drains.
    let mut world = World::of(&[&[1, 2, 3]], &[1, 2, 3], &[1, 2, 3, 4]);
    world.view.members.get_mut(&NodeId(4)).unwrap().state = MemberState::Draining;
    let objection = Objection::TooFewCopies { node: NODE, left: 2, wanted: 3 };
    assert_eq!(may_drain(&world.seen(), NODE, false), Err(objection.clone()));
    assert!(objection.to_string().contains("let another node join first"), "{objection}");
    assert_eq!(may_drain(&world.seen(), NODE, true), Ok(()));
    assert_eq!(may_drain(&world.seen(), NodeId(4), false), Ok(()), "it drains already");
}

#[test]
fn node_that_holds_no_shards_may_always_be_drained() {
    let mut world = World::of(&[&[1, 2]], &[1, 2], &[1, 2, 3, 4, 5]);
    world.view.members.retain(|node, _| node.0 <= 3);
    world.view.members.get_mut(&NODE).unwrap().roles.core = false;
    assert_eq!(may_drain(&world.seen(), NODE, false), Ok(()));
}

fn nodes(least: usize) -> impl Strategy<Value = Vec<u64>> {
    prop::collection::btree_set(1..=5u64, least..=5)
        .prop_map(|nodes| nodes.into_iter().collect::<Vec<_>>())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn no_removal_that_nobody_forced_takes_a_majority_from_a_group_that_has_one(
        shards in prop::collection::vec(nodes(1), 1..4),
        control in nodes(1),
        living in nodes(0),
        node in 1..=5u64,
        force in any::<bool>(),
    ) {
        let shards: Vec<_> = shards.iter().map(Vec::as_slice).collect();
        let world = World::of(&shards, &control, &living);
        if may_remove(&world.seen(), NodeId(node), force).is_err() {
            return Ok(());
        }
        for voters in shards.iter().copied().chain([control.as_slice()]) {
            let others: Vec<_> = voters.iter().filter(|&&voter| voter != node).collect();
            prop_assert!(!others.is_empty(), "n{node} had the only copy");
            let alive = others.iter().filter(|other| living.contains(other)).count();
            let decides = alive > voters.len() / 2;
            prop_assert!(decides || force || others.len() == voters.len());
        }
    }
}
