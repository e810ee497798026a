//! Selection of the members that vote in the control group.

use std::collections::BTreeSet;

use pushonce_core::{ClusterView, Member, NodeId};

/// The members that should vote, the preferred leader first: one of up to two active core members, three of
/// up to four, five of more. Empty when there is no candidate.
///
/// Two voters would be worse than one (both must be up), and more than five cost every commit more than
/// they save. Current voters keep their vote where possible, first of all the leader, because each change
/// is a risk. A free place goes to a reachable member of the zone, then of the region, with the fewest
/// voters, so that votes are spread over failure domains.
pub fn select_voters(
    view: &ClusterView,
    current: &BTreeSet<NodeId>,
    leader: NodeId,
    reachable: &BTreeSet<NodeId>,
) -> Vec<NodeId> {
    let mut candidates = view.placement_candidates();
    let voter_count = voter_count(candidates.len());
    let mut chosen: Vec<&Member> = Vec::with_capacity(voter_count);
    while chosen.len() < voter_count {
        let rank = |m: &Member| {
            let in_zone = count_matching(&chosen, |c| (&c.region, &c.zone) == (&m.region, &m.zone));
            let in_region = count_matching(&chosen, |c| c.region == m.region);
            let is_alive = m.id == leader || reachable.contains(&m.id);
            (m.id != leader, !current.contains(&m.id), !is_alive, in_zone, in_region, m.id)
        };
        let best_id = candidates.values().map(|&m| rank(m)).min().map(|rank| rank.5);
        let Some(member) = best_id.and_then(|id| candidates.remove(&id)) else { break };
        chosen.push(member);
    }
    chosen.into_iter().map(|m| m.id).collect()
}

fn voter_count(candidates: usize) -> usize {
    match candidates {
        0..=2 => candidates.min(1),
        3..=4 => 3,
        _ => 5,
    }
}

fn count_matching(members: &[&Member], predicate: impl Fn(&Member) -> bool) -> usize {
    members.iter().filter(|m| predicate(m)).count()
}

#[cfg(test)]
mod tests {
    use pushonce_core::MemberState;

    use super::*;
    use crate::state::state_test::view_with_labels;

    fn ids<C: FromIterator<NodeId>>(ids: &[u64]) -> C {
        ids.iter().copied().map(NodeId).collect()
    }

    fn choose(view: &ClusterView, present: &[u64], leader: u64, living: &[u64]) -> Vec<NodeId> {
        select_voters(view, &ids(present), NodeId(leader), &ids(living))
    }

    #[test]
    fn cluster_has_one_three_or_five_voters() {
        for (members, voters) in [(1, 1), (2, 1), (3, 3), (4, 3), (5, 5), (6, 5), (20, 5)] {
            let labels = vec![("", ""); members];
            assert_eq!(
                choose(&view_with_labels(&labels), &[1], 1, &[]).len(),
                voters,
                "{members} members"
            );
        }
    }

    #[test]
    fn current_voters_keep_their_vote_and_the_leader_comes_first() {
        let view = view_with_labels(
            &[("eu", "a"), ("eu", "a"), ("eu", "a"), ("eu", "b"), ("us", "a")][..4],
        );
        assert_eq!(choose(&view, &[1, 2, 3], 2, &[1, 2, 3, 4]), ids::<Vec<_>>(&[2, 1, 3]));
    }

    #[test]
    fn unreachable_voter_keeps_its_vote_and_unreachable_candidate_waits() {
        let view = view_with_labels(&[("", ""); 5][..4]);
        assert_eq!(choose(&view, &[1, 2, 3], 1, &[1, 4]), ids::<Vec<_>>(&[1, 2, 3]));
        assert_eq!(choose(&view, &[1], 1, &[1, 3, 4]), ids::<Vec<_>>(&[1, 3, 4]));
    }

    #[test]
    fn free_places_go_to_zones_then_to_regions_without_a_voter() {
        let view = view_with_labels(&[("eu", "a"), ("eu", "a"), ("eu", "b"), ("us", "a")]);
        assert_eq!(choose(&view, &[1], 1, &[1, 2, 3, 4]), ids::<Vec<_>>(&[1, 4, 3]));
    }

    #[test]
    fn only_active_core_members_vote() {
        let mut view = view_with_labels(&[("", ""); 5]);
        view.members.get_mut(&NodeId(2)).unwrap().state = MemberState::Joining;
        view.members.get_mut(&NodeId(3)).unwrap().roles.core = false;
        assert_eq!(choose(&view, &[1], 1, &[1, 2, 3, 4, 5]), ids::<Vec<_>>(&[1, 4, 5]));
    }

    #[test]
    fn removed_leader_is_not_selected() {
        let mut view = view_with_labels(&[("", ""); 4]);
        view.members.remove(&NodeId(1));
        assert_eq!(choose(&view, &[1, 2, 3], 1, &[1, 2, 3, 4]), ids::<Vec<_>>(&[2, 3, 4]));
    }
}
