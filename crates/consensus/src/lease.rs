//! The lease of a leader. It begins when the requests were sent that a quorum of the voters has answered.
//!
//! openraft keeps such a time too, but it matches responses to requests by their last entry, and several
//! requests in flight may have the same one. A leader that was suspended would count responses to requests
//! from before the suspension for later requests, and assume a lease that it does not have. So each request
//! here records its own send time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pushonce_core::{NodeId, Term};

use crate::clock::BootTime;

/// The right to lead until a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lease {
    pub(crate) term: Term,
    pub(crate) expires_at: BootTime,
}

/// The responses of followers to the leader of a term, with the send times of the requests. Clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct FollowerAcks(Arc<Mutex<TermAcks>>);

#[derive(Debug, Default)]
struct TermAcks {
    term: Term,
    /// By node: the send time of the latest request that it has answered.
    sent_at: BTreeMap<NodeId, BootTime>,
}

impl FollowerAcks {
    /// Records that a node answered, as a follower in `term`, a request sent at `sent_at`.
    pub(crate) fn record_ack(&self, term: Term, node: NodeId, sent_at: BootTime) {
        let mut acks = self.lock();
        if term > acks.term {
            *acks = TermAcks { term, sent_at: BTreeMap::new() };
        }
        if term == acks.term {
            let latest = acks.sent_at.entry(node).or_insert(sent_at);
            *latest = sent_at.max(*latest);
        }
    }

    /// The start of the lease: since then a quorum of the voters can have followed no node but `me` in
    /// `term`. In a joint configuration this holds for both halves. `me` always follows itself.
    pub(crate) fn lease_start<'a>(
        &self,
        term: Term,
        me: NodeId,
        now: BootTime,
        configs: impl IntoIterator<Item = &'a BTreeSet<u64>>,
    ) -> Option<BootTime> {
        let acks = self.lock();
        let sent_at = |node: NodeId| match node {
            node if node == me => Some(now),
            node if acks.term == term => acks.sent_at.get(&node).copied(),
            _ => None,
        };
        let quorum_time = |voters: &BTreeSet<u64>| {
            let times = || voters.iter().filter_map(|voter| sent_at(NodeId(*voter)));
            let count_since = |time: &BootTime| times().filter(|other| other >= time).count();
            // There are few voters and this is called for every publish: counting needs no allocation.
            times().filter(|time| count_since(time) > voters.len() / 2).max()
        };
        configs.into_iter().map(quorum_time).reduce(Option::min).flatten()
    }

    /// The nodes of `nodes` that have answered no request of `me` in `term` sent after `since`.
    pub(crate) fn unresponsive(
        &self,
        term: Term,
        me: NodeId,
        since: BootTime,
        nodes: impl Iterator<Item = NodeId>,
    ) -> BTreeSet<NodeId> {
        let acks = self.lock();
        let is_recent =
            |node: &NodeId| acks.sent_at.get(node).is_some_and(|&sent_at| sent_at > since);
        let responds = |node: &NodeId| *node == me || acks.term == term && is_recent(node);
        nodes.filter(|node| !responds(node)).collect()
    }

    fn lock(&self) -> MutexGuard<'_, TermAcks> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const ME: NodeId = NodeId(1);
    const TERM: Term = Term(7);

    /// A leader whose clock counts seconds.
    struct Leader {
        acks: FollowerAcks,
        start: BootTime,
    }

    impl Leader {
        fn new() -> Leader {
            Leader { acks: FollowerAcks::default(), start: BootTime::now() }
        }

        fn at(&self, second: u64) -> BootTime {
            self.start + Duration::from_secs(second)
        }

        fn acked(self, node: u64, sent_at: u64) -> Leader {
            self.acks.record_ack(TERM, NodeId(node), self.at(sent_at));
            self
        }

        /// The second at which the lease begins, evaluated in second 9.
        fn lease_start(&self, configs: &[&[u64]]) -> Option<u64> {
            let configs: Vec<BTreeSet<u64>> =
                configs.iter().map(|voters| voters.iter().copied().collect()).collect();
            let start = self.acks.lease_start(TERM, ME, self.at(9), &configs);
            start.map(|since| (since - self.start).as_secs())
        }
    }

    #[test]
    fn late_ack_counts_from_request_send_time() {
        let woken = Leader::new().acked(2, 1).acked(3, 1);
        assert_eq!(woken.lease_start(&[&[1, 2, 3]]), Some(1));
    }

    #[test]
    fn latest_request_counts_regardless_of_ack_order() {
        assert_eq!(Leader::new().acked(2, 5).acked(2, 3).lease_start(&[&[1, 2, 3]]), Some(5));
    }

    #[test]
    fn lease_needs_acks_from_majority_including_leader() {
        assert_eq!(Leader::new().lease_start(&[&[1, 2, 3]]), None);
        assert_eq!(Leader::new().acked(2, 3).lease_start(&[&[1, 2, 3]]), Some(3));
        assert_eq!(Leader::new().acked(2, 3).acked(3, 4).lease_start(&[&[1, 2, 3]]), Some(4));
        let of_five = Leader::new().acked(2, 3).acked(3, 5);
        assert_eq!(of_five.lease_start(&[&[1, 2, 3, 4, 5]]), Some(3));
        assert_eq!(Leader::new().acked(2, 3).lease_start(&[&[1, 2]]), Some(3), "of two, both");
    }

    #[test]
    fn sole_voter_has_lease_without_acks() {
        assert_eq!(Leader::new().lease_start(&[&[1]]), Some(9));
    }

    #[test]
    fn acks_of_non_voters_are_ignored() {
        assert_eq!(Leader::new().acked(4, 8).lease_start(&[&[1, 2, 3]]), None);
        assert_eq!(
            Leader::new().acked(2, 8).lease_start(&[&[2, 3, 4]]),
            None,
            "the leader is not a voter either"
        );
    }

    #[test]
    fn joint_configuration_needs_majority_of_both_halves() {
        let leader = Leader::new().acked(2, 5).acked(4, 3);
        assert_eq!(leader.lease_start(&[&[1, 2, 3], &[1, 4, 5]]), Some(3));
        assert_eq!(leader.lease_start(&[&[1, 2, 3], &[1, 5, 6]]), None);
    }

    #[test]
    fn node_without_recent_ack_is_unresponsive() {
        let leader = Leader::new().acked(2, 5).acked(3, 2);
        let unresponsive = |term, since| {
            let nodes = (1..=4).map(NodeId);
            let unresponsive = leader.acks.unresponsive(term, ME, leader.at(since), nodes);
            unresponsive.into_iter().map(|node| node.0).collect::<Vec<_>>()
        };
        assert_eq!(unresponsive(TERM, 1), [4]);
        assert_eq!(unresponsive(TERM, 4), [3, 4]);
        assert_eq!(unresponsive(Term(8), 1), [2, 3, 4], "the leader was just elected");
    }

    #[test]
    fn acks_of_one_term_do_not_count_in_another() {
        let leader = Leader::new().acked(2, 5);
        let voters = BTreeSet::from([1, 2, 3]);
        assert_eq!(leader.acks.lease_start(Term(8), ME, leader.at(9), [&voters]), None);
        leader.acks.record_ack(Term(8), NodeId(3), leader.at(6));
        leader.acks.record_ack(TERM, NodeId(2), leader.at(8));
        assert_eq!(leader.acks.lease_start(TERM, ME, leader.at(9), [&voters]), None);
        assert_eq!(
            leader.acks.lease_start(Term(8), ME, leader.at(9), [&voters]),
            Some(leader.at(6))
        );
    }
}
