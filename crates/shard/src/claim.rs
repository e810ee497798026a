//! When a leader may speak as the owner.

use pushonce_consensus::Status;
use pushonce_core::{Claim, NodeId, ShardId, Term};

/// Follows one group's status and tells when this node may answer for the shard.
///
/// Leading is not enough. A new leader holds everything its predecessors committed, but may not have
/// applied it yet; until then it would call a position that a subscriber holds one that was never
/// given out.
#[derive(Debug, Default)]
pub(crate) struct Lead {
    /// The term this node was first seen to lead, and the end of its log then.
    since: Option<(Term, u64)>,
}

impl Lead {
    /// Takes the next status. The term under which this node may speak now, if it may.
    pub(crate) fn observe(&mut self, status: &Status) -> Option<Term> {
        if !status.leads {
            return None;
        }
        let (term, end) = match self.since {
            Some(since) if since.0 == status.term => since,
            _ => *self.since.insert((status.term, status.last_log)),
        };
        (status.applied >= end).then_some(term)
    }
}

/// The claim of the owner `me` that leads under `term`.
///
/// A membership that is not committed yet may be undone, and a node that reads in a claim that it is
/// out deletes its replica: so until the membership is applied here, the claim goes on naming the one
/// `before`, if that was of the same term, or there is none.
pub(crate) fn of(
    shard: ShardId,
    me: NodeId,
    term: Term,
    status: &Status,
    before: Option<Claim>,
) -> Option<Claim> {
    if status.applied < status.membership {
        return before.filter(|known| known.term == term);
    }
    Some(Claim {
        shard,
        owner: me,
        term,
        membership: status.membership,
        voters: status.voters.iter().copied().collect(),
        learners: status.learners.iter().copied().collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leading(term: u64, last_log: u64, applied: u64) -> Status {
        Status { leads: true, term: Term(term), last_log, applied, ..Status::default() }
    }

    #[test]
    fn a_new_leader_is_silent_until_it_has_applied_what_it_found() {
        let mut lead = Lead::default();
        assert_eq!(lead.observe(&Status::default()), None);
        assert_eq!(lead.observe(&leading(3, 10, 7)), None);
        assert_eq!(lead.observe(&leading(3, 12, 9)), None);
        assert_eq!(lead.observe(&leading(3, 14, 10)), Some(Term(3)));
    }

    #[test]
    fn entries_that_keep_coming_do_not_silence_it_again() {
        let mut lead = Lead::default();
        assert_eq!(lead.observe(&leading(3, 10, 10)), Some(Term(3)));
        assert_eq!(lead.observe(&leading(3, 99, 50)), Some(Term(3)));
    }

    #[test]
    fn a_lapsed_lease_silences_and_a_later_term_begins_anew() {
        let mut lead = Lead::default();
        assert_eq!(lead.observe(&leading(3, 10, 10)), Some(Term(3)));
        assert_eq!(lead.observe(&Status { leads: false, ..leading(3, 10, 10) }), None);
        assert_eq!(lead.observe(&leading(3, 10, 10)), Some(Term(3)));
        assert_eq!(lead.observe(&leading(5, 20, 15)), None);
        assert_eq!(lead.observe(&leading(5, 20, 20)), Some(Term(5)));
    }

    #[test]
    fn a_claim_names_the_group_as_it_is() {
        let voters = [NodeId(1), NodeId(3)];
        let status = Status {
            membership: 8,
            voters: voters.into(),
            learners: [NodeId(4)].into(),
            ..leading(3, 10, 10)
        };
        let claim = of(ShardId(7), NodeId(1), Term(3), &status, None).expect("it is committed");
        assert_eq!((claim.owner, claim.term, claim.membership), (NodeId(1), Term(3), 8));
        assert_eq!((claim.voters, claim.learners), (voters.to_vec(), vec![NodeId(4)]));
    }

    #[test]
    fn a_membership_that_may_be_undone_is_not_claimed() {
        let claim = |membership, applied, before| {
            let status =
                Status { membership, voters: [NodeId(1)].into(), ..leading(3, 12, applied) };
            of(ShardId(7), NodeId(1), Term(3), &status, before)
        };
        let settled = claim(8, 10, None);
        assert!(settled.is_some());
        assert_eq!(claim(12, 11, settled.clone()), settled, "the one before stands");
        assert_eq!(claim(12, 11, None), None);
        let older = settled.map(|known| Claim { term: Term(2), ..known });
        assert_eq!(claim(12, 11, older), None, "not that of another term");
        assert_eq!(claim(12, 12, None).map(|c| c.membership), Some(12));
    }
}
