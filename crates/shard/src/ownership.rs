//! When a leader acts as the owner of the shard.

use pushonce_consensus::GroupStatus;
use pushonce_core::{NodeId, OwnershipClaim, ShardId, Term};

/// Follows the status of one group and decides when this node is ready to own the shard.
///
/// Leading is not enough. A new leader holds everything its predecessors committed, but may not have
/// applied it yet. Until then it would reject a valid position of a subscriber as never assigned.
#[derive(Debug, Default)]
pub(crate) struct LeadershipTracker {
    /// The first term in which this node was seen to lead, and the end of its log at that moment.
    led_since: Option<(Term, u64)>,
}

impl LeadershipTracker {
    /// Follows the next status. Returns the term in which this node is ready, if it is.
    pub(crate) fn observe(&mut self, status: &GroupStatus) -> Option<Term> {
        if !status.is_leader {
            return None;
        }
        let (term, end) = match self.led_since {
            Some(since) if since.0 == status.term => since,
            _ => *self.led_since.insert((status.term, status.last_log_index)),
        };
        (status.applied_index >= end).then_some(term)
    }
}

/// The claim of the owner `me` that leads in `term`.
///
/// A membership that is not committed may be rolled back, and a node that sees in a claim that it was
/// removed deletes its replica. So until the membership is applied here, the `previous` claim stays if it
/// is of the same term; otherwise there is none.
pub(crate) fn build_claim(
    shard: ShardId,
    me: NodeId,
    term: Term,
    status: &GroupStatus,
    previous: Option<OwnershipClaim>,
) -> Option<OwnershipClaim> {
    if status.applied_index < status.membership_index {
        return previous.filter(|known| known.term == term);
    }
    Some(OwnershipClaim {
        shard,
        owner: me,
        term,
        membership_index: status.membership_index,
        voters: status.voters.iter().copied().collect(),
        learners: status.learners.iter().copied().collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leading(term: u64, last_log: u64, applied: u64) -> GroupStatus {
        GroupStatus {
            is_leader: true,
            term: Term(term),
            last_log_index: last_log,
            applied_index: applied,
            ..GroupStatus::default()
        }
    }

    #[test]
    fn new_leader_is_not_ready_until_it_has_applied_its_log() {
        let mut tracker = LeadershipTracker::default();
        assert_eq!(tracker.observe(&GroupStatus::default()), None);
        assert_eq!(tracker.observe(&leading(3, 10, 7)), None);
        assert_eq!(tracker.observe(&leading(3, 12, 9)), None);
        assert_eq!(tracker.observe(&leading(3, 14, 10)), Some(Term(3)));
    }

    #[test]
    fn new_entries_do_not_revoke_a_ready_leader() {
        let mut tracker = LeadershipTracker::default();
        assert_eq!(tracker.observe(&leading(3, 10, 10)), Some(Term(3)));
        assert_eq!(tracker.observe(&leading(3, 99, 50)), Some(Term(3)));
    }

    #[test]
    fn expired_lease_revokes_and_a_later_term_starts_over() {
        let mut tracker = LeadershipTracker::default();
        assert_eq!(tracker.observe(&leading(3, 10, 10)), Some(Term(3)));
        assert_eq!(tracker.observe(&GroupStatus { is_leader: false, ..leading(3, 10, 10) }), None);
        assert_eq!(tracker.observe(&leading(3, 10, 10)), Some(Term(3)));
        assert_eq!(tracker.observe(&leading(5, 20, 15)), None);
        assert_eq!(tracker.observe(&leading(5, 20, 20)), Some(Term(5)));
    }

    #[test]
    fn claim_lists_the_current_voters_and_learners() {
        let voters = [NodeId(1), NodeId(3)];
        let status = GroupStatus {
            membership_index: 8,
            voters: voters.into(),
            learners: [NodeId(4)].into(),
            ..leading(3, 10, 10)
        };
        let claim = build_claim(ShardId(7), NodeId(1), Term(3), &status, None)
            .expect("the membership is committed");
        assert_eq!((claim.owner, claim.term, claim.membership_index), (NodeId(1), Term(3), 8));
        assert_eq!((claim.voters, claim.learners), (voters.to_vec(), vec![NodeId(4)]));
    }

    #[test]
    fn uncommitted_membership_is_not_claimed() {
        let claim = |membership, applied, previous| {
            let status = GroupStatus {
                membership_index: membership,
                voters: [NodeId(1)].into(),
                ..leading(3, 12, applied)
            };
            build_claim(ShardId(7), NodeId(1), Term(3), &status, previous)
        };
        let committed = claim(8, 10, None);
        assert!(committed.is_some());
        assert_eq!(claim(12, 11, committed.clone()), committed, "the previous claim stays");
        assert_eq!(claim(12, 11, None), None);
        let older = committed.map(|known| OwnershipClaim { term: Term(2), ..known });
        assert_eq!(claim(12, 11, older), None, "a claim of another term does not stay");
        assert_eq!(claim(12, 12, None).map(|c| c.membership_index), Some(12));
    }
}
