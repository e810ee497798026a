//! Until when a leader may count on nobody else leading: from when the requests were sent that a
//! quorum of the voters has answered.
//!
//! openraft keeps such a time too, but it finds the request that an answer belongs to by where its
//! entries end, and several that are on their way may end at the same place. To a leader that slept,
//! and woke to the answers to what it had said before, it counts them for what it says now: a lease
//! that the leader does not have. So each request here brings the time when it was sent itself.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pushonce_core::{NodeId, Term};

use crate::clock::BootTime;

/// The right to lead for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lease {
    pub(crate) term: Term,
    pub(crate) until: BootTime,
}

/// Who has answered the leader of a term, and when it was asked that. Clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Followers(Arc<Mutex<Heard>>);

#[derive(Debug, Default)]
struct Heard {
    term: Term,
    /// When the latest request was sent that the node has answered.
    asked: BTreeMap<NodeId, BootTime>,
}

impl Followers {
    /// A node has answered, as a follower in `term`, what it was sent at `asked`.
    pub(crate) fn answered(&self, term: Term, node: NodeId, asked: BootTime) {
        let mut heard = self.lock();
        if term > heard.term {
            *heard = Heard { term, asked: BTreeMap::new() };
        }
        if term == heard.term {
            let latest = heard.asked.entry(node).or_insert(asked);
            *latest = asked.max(*latest);
        }
    }

    /// Since when no quorum of the voters can have followed anybody but `me` in `term`: in a joint
    /// configuration, none of either half. `me` always follows itself.
    pub(crate) fn since<'a>(
        &self,
        term: Term,
        me: NodeId,
        now: BootTime,
        configs: impl IntoIterator<Item = &'a BTreeSet<u64>>,
    ) -> Option<BootTime> {
        let heard = self.lock();
        let asked = |node: NodeId| match node {
            node if node == me => Some(now),
            node if heard.term == term => heard.asked.get(&node).copied(),
            _ => None,
        };
        let of_quorum = |voters: &BTreeSet<u64>| {
            let times = || voters.iter().filter_map(|voter| asked(NodeId(*voter)));
            let by_then = |time: &BootTime| times().filter(|other| other >= time).count();
            // Few voters, and asked for every publish: counted on the spot, without a list.
            times().filter(|time| by_then(time) > voters.len() / 2).max()
        };
        configs.into_iter().map(of_quorum).reduce(Option::min).flatten()
    }

    /// Who of `nodes` has answered `me` nothing in `term` that was asked after `since`.
    pub(crate) fn silent(
        &self,
        term: Term,
        me: NodeId,
        since: BootTime,
        nodes: impl Iterator<Item = NodeId>,
    ) -> BTreeSet<NodeId> {
        let heard = self.lock();
        let lately = |node: &NodeId| heard.asked.get(node).is_some_and(|&asked| asked > since);
        let speaks = |node: &NodeId| *node == me || heard.term == term && lately(node);
        nodes.filter(|node| !speaks(node)).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Heard> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const ME: NodeId = NodeId(1);
    const TERM: Term = Term(7);

    /// A leader among `voters`, and a clock to count seconds with.
    struct Leader {
        followers: Followers,
        start: BootTime,
    }

    impl Leader {
        fn new() -> Leader {
            Leader { followers: Followers::default(), start: BootTime::now() }
        }

        fn at(&self, second: u64) -> BootTime {
            self.start + Duration::from_secs(second)
        }

        fn heard(self, node: u64, asked: u64) -> Leader {
            self.followers.answered(TERM, NodeId(node), self.at(asked));
            self
        }

        /// The second since which it has its lease, looked at in second 9.
        fn since(&self, configs: &[&[u64]]) -> Option<u64> {
            let configs: Vec<BTreeSet<u64>> =
                configs.iter().map(|voters| voters.iter().copied().collect()).collect();
            let since = self.followers.since(TERM, ME, self.at(9), &configs);
            since.map(|since| (since - self.start).as_secs())
        }
    }

    #[test]
    fn an_old_answer_that_comes_late_counts_from_when_it_was_asked() {
        let woken = Leader::new().heard(2, 1).heard(3, 1);
        assert_eq!(woken.since(&[&[1, 2, 3]]), Some(1));
    }

    #[test]
    fn the_latest_question_counts_whatever_the_order_of_the_answers() {
        assert_eq!(Leader::new().heard(2, 5).heard(2, 3).since(&[&[1, 2, 3]]), Some(5));
    }

    #[test]
    fn a_majority_must_have_answered_and_the_leader_is_one_of_it() {
        assert_eq!(Leader::new().since(&[&[1, 2, 3]]), None);
        assert_eq!(Leader::new().heard(2, 3).since(&[&[1, 2, 3]]), Some(3));
        assert_eq!(Leader::new().heard(2, 3).heard(3, 4).since(&[&[1, 2, 3]]), Some(4));
        let of_five = Leader::new().heard(2, 3).heard(3, 5);
        assert_eq!(of_five.since(&[&[1, 2, 3, 4, 5]]), Some(3));
        assert_eq!(Leader::new().heard(2, 3).since(&[&[1, 2]]), Some(3), "of two, both");
    }

    #[test]
    fn who_votes_alone_needs_nobody() {
        assert_eq!(Leader::new().since(&[&[1]]), Some(9));
    }

    #[test]
    fn who_is_no_voter_counts_for_nothing() {
        assert_eq!(Leader::new().heard(4, 8).since(&[&[1, 2, 3]]), None);
        assert_eq!(Leader::new().heard(2, 8).since(&[&[2, 3, 4]]), None, "nor does the leader");
    }

    #[test]
    fn a_joint_configuration_needs_a_majority_of_both_halves() {
        let leader = Leader::new().heard(2, 5).heard(4, 3);
        assert_eq!(leader.since(&[&[1, 2, 3], &[1, 4, 5]]), Some(3));
        assert_eq!(leader.since(&[&[1, 2, 3], &[1, 5, 6]]), None);
    }

    #[test]
    fn who_has_not_answered_for_long_is_silent() {
        let leader = Leader::new().heard(2, 5).heard(3, 2);
        let silent = |term, since| {
            let nodes = (1..=4).map(NodeId);
            let silent = leader.followers.silent(term, ME, leader.at(since), nodes);
            silent.into_iter().map(|node| node.0).collect::<Vec<_>>()
        };
        assert_eq!(silent(TERM, 1), [4]);
        assert_eq!(silent(TERM, 4), [3, 4]);
        assert_eq!(silent(Term(8), 1), [2, 3, 4], "it has just been elected");
    }

    #[test]
    fn answers_of_one_term_say_nothing_about_another() {
        let leader = Leader::new().heard(2, 5);
        let voters = BTreeSet::from([1, 2, 3]);
        assert_eq!(leader.followers.since(Term(8), ME, leader.at(9), [&voters]), None);
        leader.followers.answered(Term(8), NodeId(3), leader.at(6));
        leader.followers.answered(TERM, NodeId(2), leader.at(8));
        assert_eq!(leader.followers.since(TERM, ME, leader.at(9), [&voters]), None);
        assert_eq!(
            leader.followers.since(Term(8), ME, leader.at(9), [&voters]),
            Some(leader.at(6))
        );
    }
}
