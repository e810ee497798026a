//! Answers joins that change nothing without an entry in the log.
//!
//! A node asks at its start and while it has no link, several nodes at once and again and again. Every entry is
//! written by every node, so only the first of equal requests is proposed.

use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use pushonce_consensus::{GroupStatus, RaftGroup};
use pushonce_core::Term;

use crate::ControlCommand;
use crate::replica::AppliedState;

/// Sets the answers of the group. The state of a leader has everything that was answered before, once it has
/// applied what its log had when it was elected.
pub(crate) fn answer_repeated_joins(group: &RaftGroup, state: AppliedState) {
    let (status, lead) = (group.status(), Mutex::new(LeaderState::default()));
    let leading = group.clone();
    group.answer_without_entry(move |entry: &Bytes| {
        let (version, command) = ControlCommand::decode(entry).ok()?;
        let ControlCommand::Join(joining) = command else { return None };
        let term = leading.leader_term()?;
        let index = {
            let mut lead = lead.lock().unwrap_or_else(PoisonError::into_inner);
            lead.readable_index(term, &status.borrow())?
        };
        let reply = state.get().reply_to_repeated_join(index, &joining)?;
        // The lease may have ended while the state was read.
        (leading.leader_term() == Some(term)).then(|| reply.encode(version))
    });
}

/// From where on the state of a leader is complete.
#[derive(Debug, Default)]
struct LeaderState {
    /// The first term in which this node was seen to lead, and the end of its log at that moment.
    led_since: Option<(Term, u64)>,
}

impl LeaderState {
    /// The index up to which the state is applied, if it has everything that earlier leaders committed.
    fn readable_index(&mut self, term: Term, status: &GroupStatus) -> Option<u64> {
        if !status.is_leader || status.term != term {
            return None;
        }
        let end = match self.led_since {
            Some((led, end)) if led == term => end,
            _ => self.led_since.insert((term, status.last_log_index)).1,
        };
        (status.applied_index >= end).then_some(status.applied_index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leading(term: u64, last_log_index: u64, applied_index: u64) -> GroupStatus {
        let (term, is_leader) = (Term(term), true);
        GroupStatus { term, is_leader, last_log_index, applied_index, ..GroupStatus::default() }
    }

    #[test]
    fn leader_answers_only_after_it_has_applied_its_log() {
        let mut lead = LeaderState::default();
        assert_eq!(lead.readable_index(Term(3), &GroupStatus::default()), None);
        assert_eq!(
            lead.readable_index(Term(3), &leading(2, 9, 9)),
            None,
            "a status of an earlier term"
        );
        assert_eq!(lead.readable_index(Term(3), &leading(3, 12, 9)), None);
        assert_eq!(lead.readable_index(Term(3), &leading(3, 14, 11)), None);
        assert_eq!(lead.readable_index(Term(3), &leading(3, 15, 12)), Some(12));
        assert_eq!(lead.readable_index(Term(4), &leading(4, 20, 15)), None);
    }
}
