//! When the sessions of a lane must end: their tokens expire, or they reach the maximum age. Pure.
//!
//! One set for all sessions of a lane, so that no session has a timer. A session without a token and without a
//! maximum age is not in it.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use pushonce_core::Timestamp;

/// Why a session has to be checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DueReason {
    /// Its token has expired.
    Token,
    /// It has reached the maximum age.
    Age,
}

/// The deadlines of the sessions of one lane, which are named by the indexes of their slots.
#[derive(Default)]
pub(crate) struct Deadlines {
    by_session: BTreeMap<usize, SessionDeadlines>,
    by_time: BTreeSet<(Timestamp, usize)>,
}

#[derive(Clone, Copy, Default)]
struct SessionDeadlines {
    token: Option<Timestamp>,
    age: Option<Timestamp>,
}

impl SessionDeadlines {
    fn first(self) -> Option<Timestamp> {
        self.token.into_iter().chain(self.age).min()
    }
}

impl Deadlines {
    /// Sets when the token of a session expires, in place of its token before.
    pub(crate) fn set_token(&mut self, session: usize, at: Timestamp) {
        self.change(session, |deadlines| deadlines.token = Some(at));
    }

    /// Sets when a session reaches the maximum age.
    pub(crate) fn set_age(&mut self, session: usize, at: Timestamp) {
        self.change(session, |deadlines| deadlines.age = Some(at));
    }

    /// Removes a session.
    pub(crate) fn remove(&mut self, session: usize) {
        if let Some(at) = self.by_session.remove(&session).and_then(SessionDeadlines::first) {
            self.by_time.remove(&(at, session));
        }
    }

    /// Removes a deadline that has passed at `now`, and returns its session.
    pub(crate) fn pop_due(&mut self, now: Timestamp) -> Option<(usize, DueReason)> {
        let &(at, session) = self.by_time.first().filter(|(at, _)| *at <= now)?;
        let mut reason = DueReason::Age;
        self.change(session, |deadlines| {
            if deadlines.token == Some(at) {
                reason = DueReason::Token;
                deadlines.token = None;
            } else {
                deadlines.age = None;
            }
        });
        Some((session, reason))
    }

    /// The next sessions with a token after `session`, at most `count_max`.
    pub(crate) fn with_token_after(&self, session: Option<usize>, count_max: usize) -> Vec<usize> {
        let from = session.map_or(Bound::Unbounded, Bound::Excluded);
        let sessions = self.by_session.range((from, Bound::Unbounded));
        let with_token = sessions.filter(|(_, deadlines)| deadlines.token.is_some());
        with_token.map(|(&session, _)| session).take(count_max).collect()
    }

    /// The number of sessions with a deadline.
    pub(crate) fn len(&self) -> usize {
        self.by_session.len()
    }

    fn change(&mut self, session: usize, change: impl FnOnce(&mut SessionDeadlines)) {
        let deadlines = self.by_session.entry(session).or_default();
        if let Some(at) = deadlines.first() {
            self.by_time.remove(&(at, session));
        }
        change(deadlines);
        match deadlines.first() {
            Some(at) => drop(self.by_time.insert((at, session))),
            None => drop(self.by_session.remove(&session)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_are_due_in_the_order_of_their_deadlines_and_once() {
        let mut deadlines = Deadlines::default();
        deadlines.set_token(1, Timestamp(30));
        deadlines.set_token(2, Timestamp(10));
        deadlines.set_age(3, Timestamp(20));
        assert_eq!(deadlines.pop_due(Timestamp(9)), None);
        assert_eq!(deadlines.pop_due(Timestamp(25)), Some((2, DueReason::Token)));
        assert_eq!(deadlines.pop_due(Timestamp(25)), Some((3, DueReason::Age)));
        assert_eq!(deadlines.pop_due(Timestamp(25)), None);
        assert_eq!(deadlines.len(), 1);
    }

    #[test]
    fn renewed_token_replaces_the_deadline_and_the_age_stays() {
        let mut deadlines = Deadlines::default();
        deadlines.set_age(1, Timestamp(40));
        deadlines.set_token(1, Timestamp(10));
        deadlines.set_token(1, Timestamp(50));
        assert_eq!(deadlines.pop_due(Timestamp(39)), None);
        assert_eq!(deadlines.pop_due(Timestamp(49)), Some((1, DueReason::Age)));
        assert_eq!(deadlines.pop_due(Timestamp(49)), None);
        assert_eq!(deadlines.pop_due(Timestamp(50)), Some((1, DueReason::Token)));
        assert_eq!((deadlines.pop_due(Timestamp(99)), deadlines.len()), (None, 0));
    }

    #[test]
    fn removed_session_is_not_due_and_its_slot_can_be_used_again() {
        let mut deadlines = Deadlines::default();
        deadlines.set_token(1, Timestamp(10));
        deadlines.remove(1);
        deadlines.remove(1);
        assert_eq!((deadlines.pop_due(Timestamp(99)), deadlines.len()), (None, 0));
        deadlines.set_token(1, Timestamp(200));
        assert_eq!(deadlines.pop_due(Timestamp(99)), None);
    }

    #[test]
    fn sessions_with_a_token_are_listed_in_pieces() {
        let mut deadlines = Deadlines::default();
        (0..5).for_each(|session| deadlines.set_token(session, Timestamp(1)));
        deadlines.set_age(9, Timestamp(1));
        assert_eq!(deadlines.with_token_after(None, 3), [0, 1, 2]);
        assert_eq!(deadlines.with_token_after(Some(2), 3), [3, 4]);
        assert!(deadlines.with_token_after(Some(4), 3).is_empty());
    }
}
