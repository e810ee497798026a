//! Tests of which shards a join and a leave may move.

use proptest::prelude::*;

use super::*;
use crate::{MemberState, Roles, ShardCount, test_util};

fn member_in(id: u64, region: &str, zone: &str) -> Member {
    Member { region: region.to_owned(), zone: zone.to_owned(), ..test_util::member(id) }
}

fn view(shards: u16, members: Vec<Member>) -> ClusterView {
    ClusterView { shards: ShardCount::new(shards).expect("not zero"), ..test_util::view(members) }
}

fn nodes(ids: impl IntoIterator<Item = u64>) -> Vec<Member> {
    ids.into_iter().map(test_util::member).collect()
}

#[test]
fn placement_of_three_nodes_is_stable() {
    let placement = Placement::compute(&view(8, nodes(1..=3)));
    assert_eq!(placement, GOLDEN_PLACEMENT.map(|list| list.map(NodeId).to_vec()));
}

const GOLDEN_PLACEMENT: [[u64; 3]; 8] =
    [[1, 3, 2], [1, 2, 3], [2, 3, 1], [3, 1, 2], [3, 2, 1], [1, 2, 3], [2, 1, 3], [1, 2, 3]];

#[test]
fn replicas_are_in_distinct_zones_when_there_are_enough_zones() {
    let members = (1..=6).map(|id| member_in(id, "eu", ["a", "b", "c"][id as usize % 3])).collect();
    let view = view(256, members);
    for list in Placement::compute(&view) {
        let mut zones: Vec<_> = list.iter().map(|id| &view.members[id].zone).collect();
        zones.sort_unstable();
        zones.dedup();
        assert_eq!(zones.len(), 3, "{list:?}");
    }
}

#[test]
fn region_spread_places_three_replicas_in_both_of_two_regions() {
    let members = (1..=6).map(|id| member_in(id, ["eu", "us"][id as usize % 2], "a")).collect();
    let mut view = view(256, members);
    view.spread = Spread::Regions;
    for list in Placement::compute(&view) {
        let first = &view.members[&list[0]].region;
        assert!(list.iter().any(|id| &view.members[id].region != first), "{list:?}");
    }
}

#[test]
fn edge_only_and_draining_nodes_get_no_shards() {
    let mut members = nodes(1..=4);
    members[1].roles = Roles { core: false, edge: true };
    members[2].state = MemberState::Draining;
    for list in Placement::compute(&view(64, members)) {
        assert!(!list.contains(&NodeId(2)) && !list.contains(&NodeId(3)), "{list:?}");
    }
}

proptest! {
    // A ring of a dozen nodes costs milliseconds in a debug build.
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn replica_lists_have_distinct_nodes_and_the_largest_possible_length(n in 1u64..12) {
        for list in Placement::compute(&view(64, nodes(1..=n))) {
            let mut distinct = list.clone();
            distinct.sort_unstable();
            distinct.dedup();
            prop_assert_eq!(distinct.len(), list.len());
            prop_assert_eq!(list.len() as u64, n.min(3));
        }
    }

    #[test]
    fn join_takes_its_share_of_the_shards_and_moves_no_other_shard(n in 2u64..12, id in 20u64..10_000) {
        let shards = 1024;
        let before = Placement::compute(&view(shards, nodes(1..=n)));
        let after = Placement::compute(&view(shards, nodes((1..=n).chain([id]))));
        let mut moved = 0.0;
        for (old, new) in before.iter().zip(&after) {
            if old[0] != new[0] {
                prop_assert_eq!(new[0], NodeId(id), "a shard moved between two old nodes");
                moved += 1.0;
            }
        }
        let share = moved / f64::from(shards) * (n + 1) as f64;
        prop_assert!((0.5..1.6).contains(&share), "{share} of 1/N");
    }

    #[test]
    fn leave_moves_only_the_shards_of_the_leaver_to_their_first_replica(n in 3u64..12, leaver in 1u64..12) {
        let leaver = NodeId(leaver % n + 1);
        let before = Placement::compute(&view(256, nodes(1..=n)));
        let remaining = nodes((1..=n).filter(|&id| NodeId(id) != leaver));
        let after = Placement::compute(&view(256, remaining));
        for (old, new) in before.iter().zip(&after) {
            if old[0] == leaver {
                prop_assert_eq!(new[0], old[1]);
            } else {
                prop_assert_eq!(new[0], old[0]);
            }
            if !old.contains(&leaver) {
                prop_assert_eq!(new, old);
            }
        }
    }
}
