//! Ends the sessions of a lane whose token has expired or was revoked, or that reached the maximum age.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::time::Duration;

use pushonce_core::{ClusterView, Revocations, Timestamp};
use tokio::sync::watch;

use crate::deadlines::{Deadlines, DueReason};

/// Minimum number of sessions that one tick compares with changed revocations.
const CHECKS_PER_TICK_MIN: usize = 256;

/// In how many ticks all sessions are compared. Ticks are at most 98 ms apart: about two seconds, so that a
/// revocation ends sessions within five, the time in which it reaches every node included.
const TICKS_PER_SWEEP: usize = 20;

/// The deadlines of the sessions of a lane, and the revocations with which they were compared.
pub(crate) struct AccessWatch {
    deadlines: RefCell<Deadlines>,
    view: RefCell<watch::Receiver<Arc<ClusterView>>>,
    revocations: RefCell<Arc<Revocations>>,
    /// The last session that was compared, while a sweep is in progress.
    sweep: Cell<Option<SweepPosition>>,
}

#[derive(Clone, Copy)]
struct SweepPosition {
    after: Option<usize>,
    per_tick: usize,
}

/// A session to end or to check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AccessCheck {
    /// The token may be expired or revoked.
    Token,
    /// The session has reached the maximum age.
    Age,
}

impl AccessWatch {
    pub(crate) fn new(view: watch::Receiver<Arc<ClusterView>>) -> AccessWatch {
        let revocations = view.borrow().revocations.clone();
        AccessWatch {
            deadlines: RefCell::default(),
            view: RefCell::new(view),
            revocations: RefCell::new(revocations),
            sweep: Cell::new(None),
        }
    }

    /// Watches the token of a session until `until`.
    pub(crate) fn set_token(&self, session: usize, until: Timestamp) {
        self.deadlines.borrow_mut().set_token(session, until);
    }

    /// Ends a session at the maximum age, if there is one.
    pub(crate) fn set_age(&self, session: usize, now: Timestamp, age_max: Option<Duration>) {
        if let Some(age_max) = age_max {
            let age_ms = u64::try_from(age_max.as_millis()).unwrap_or(u64::MAX);
            let at = Timestamp(now.0.saturating_add(age_ms));
            self.deadlines.borrow_mut().set_age(session, at);
        }
    }

    /// Forgets a session.
    pub(crate) fn remove(&self, session: usize) {
        self.deadlines.borrow_mut().remove(session);
    }

    /// The sessions to check at this tick: those whose deadline has passed, and, after a change of the
    /// revocations, the next part of all sessions with a token.
    pub(crate) fn tick(&self, now: Timestamp) -> Vec<(usize, AccessCheck)> {
        let mut deadlines = self.deadlines.borrow_mut();
        let mut due = Vec::new();
        while let Some((session, reason)) = deadlines.pop_due(now) {
            let check = match reason {
                DueReason::Token => AccessCheck::Token,
                DueReason::Age => AccessCheck::Age,
            };
            due.push((session, check));
        }
        if self.revocations_changed() {
            let per_tick = (deadlines.len() / TICKS_PER_SWEEP).max(CHECKS_PER_TICK_MIN);
            self.sweep.set(Some(SweepPosition { after: None, per_tick }));
        }
        if let Some(SweepPosition { after, per_tick }) = self.sweep.get() {
            let sessions = deadlines.with_token_after(after, per_tick);
            let last = sessions.last().copied();
            self.sweep.set(last.map(|last| SweepPosition { after: Some(last), per_tick }));
            due.extend(sessions.into_iter().map(|session| (session, AccessCheck::Token)));
        }
        due
    }

    fn revocations_changed(&self) -> bool {
        let mut view = self.view.borrow_mut();
        if !view.has_changed().unwrap_or(false) {
            return false;
        }
        let newest = view.borrow_and_update().revocations.clone();
        let is_changed = *self.revocations.borrow() != newest;
        self.revocations.replace(newest);
        is_changed
    }
}
