//! Ends the sessions of a lane whose token has expired or was revoked, whose key was removed, or that reached the
//! maximum age, and the subscriptions to namespaces that are no longer open to everyone.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::time::Duration;

use pushonce_auth::AccessControl;
use pushonce_core::{ClusterView, Timestamp};
use tokio::sync::watch;

use crate::deadlines::{Deadlines, DueReason};

/// Minimum number of sessions that one tick ends or compares with changed revocations.
const CHECKS_PER_TICK_MIN: usize = 256;

/// In how many ticks all sessions can be checked. Ticks are at most 98 ms apart: about two seconds, so that a
/// revocation ends sessions within five, the time in which it reaches every node included. Sessions whose
/// tokens expire at the same moment end over the same time, so that they do not all reconnect at once.
const TICKS_PER_SWEEP: usize = 20;

/// Subscriptions that one tick compares with changed namespaces, where a session counts as one more: about a
/// microsecond each, so that a lane stops for some 16 ms. A session may have 1,000: a number of sessions would be no
/// bound. 200,000 sessions with one subscription each are checked within three seconds.
const SUBSCRIPTIONS_PER_TICK: usize = 16_384;

/// The deadlines of the sessions of a lane, and the view with which they were compared.
pub(crate) struct AccessWatch {
    deadlines: RefCell<Deadlines>,
    view: RefCell<watch::Receiver<Arc<ClusterView>>>,
    seen: RefCell<Arc<ClusterView>>,
    /// Notifies of changes of the keys of issuers.
    keys: RefCell<watch::Receiver<()>>,
    /// The sessions with a token, after a change of the revocations or the keys.
    sweep: Cell<Sweep>,
    /// The first slot whose session was not checked since the namespaces changed.
    next_slot: Cell<Option<usize>>,
    /// Whether subscriptions depend on the namespaces: not on a node without issuers.
    checks_subscriptions: bool,
}

/// The comparison of all sessions with changed revocations and keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Sweep {
    /// All sessions were compared.
    #[default]
    Done,
    /// The sessions up to this one were compared. `changed`: they have changed since the sweep began,
    /// so another one follows. Without it, frequent changes would never let a sweep reach the last session.
    Running { after: Option<usize>, changed: bool },
}

/// A session to end or to check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AccessCheck {
    /// The token may be expired or revoked, or its key removed.
    Token,
    /// The session has reached the maximum age.
    Age,
}

impl AccessWatch {
    pub(crate) fn new(access: &AccessControl) -> AccessWatch {
        let view = access.view();
        let seen = view.borrow().clone();
        AccessWatch {
            deadlines: RefCell::default(),
            view: RefCell::new(view),
            seen: RefCell::new(seen),
            keys: RefCell::new(access.key_changes()),
            sweep: Cell::default(),
            next_slot: Cell::default(),
            checks_subscriptions: !access.is_open(),
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
    /// revocations or the keys, the next part of all sessions with a token.
    pub(crate) fn tick(&self, now: Timestamp) -> Vec<(usize, AccessCheck)> {
        let mut deadlines = self.deadlines.borrow_mut();
        let per_tick = (deadlines.len() / TICKS_PER_SWEEP).max(CHECKS_PER_TICK_MIN);
        let mut due = Vec::new();
        while due.len() < per_tick
            && let Some((session, reason)) = deadlines.pop_due(now)
        {
            let check = match reason {
                DueReason::Token => AccessCheck::Token,
                DueReason::Age => AccessCheck::Age,
            };
            due.push((session, check));
        }
        let is_changed = self.apply_view() | self.have_keys_changed();
        let sweep = match self.sweep.get() {
            Sweep::Done if is_changed => Sweep::Running { after: None, changed: false },
            Sweep::Done => Sweep::Done,
            Sweep::Running { after, changed } => {
                Sweep::Running { after, changed: changed || is_changed }
            }
        };
        self.sweep.set(sweep);
        if let Sweep::Running { after, changed } = sweep {
            let sessions = deadlines.with_token_after(after, per_tick);
            self.sweep.set(match sessions.last() {
                Some(&last) => Sweep::Running { after: Some(last), changed },
                None if changed => Sweep::Running { after: None, changed: false },
                None => Sweep::Done,
            });
            due.extend(sessions.into_iter().map(|session| (session, AccessCheck::Token)));
        }
        due
    }

    /// After a change of the namespaces, checks the subscriptions of the next part of all sessions, which are in the
    /// first `slots` slots. `check` returns how many subscriptions the session in a slot has.
    pub(crate) fn sweep_subscriptions(&self, slots: usize, mut check: impl FnMut(usize) -> usize) {
        let Some(mut slot) = self.next_slot.get() else { return };
        let mut checked = 0;
        while slot < slots && checked < SUBSCRIPTIONS_PER_TICK {
            checked += 1 + check(slot);
            slot += 1;
        }
        self.next_slot.set((slot < slots).then_some(slot));
    }

    fn have_keys_changed(&self) -> bool {
        let mut keys = self.keys.borrow_mut();
        // Without a sender, on a node without issuers, nothing changes.
        let have_changed = keys.has_changed().unwrap_or(false);
        keys.mark_unchanged();
        have_changed
    }

    /// Compares the newest view with the one before. Returns whether the revocations have changed.
    fn apply_view(&self) -> bool {
        let mut view = self.view.borrow_mut();
        if !view.has_changed().unwrap_or(false) {
            return false;
        }
        let newest = view.borrow_and_update().clone();
        let before = self.seen.replace(newest.clone());
        // By revision: a namespace may have been open between the two views. An operator changes namespaces
        // rarely, so a sweep in progress may begin again.
        if self.checks_subscriptions && before.namespaces.revision != newest.namespaces.revision {
            self.next_slot.set(Some(0));
        }
        before.revocations != newest.revocations
    }
}

#[cfg(test)]
mod tests {
    use pushonce_core::{ClusterId, RevokedTokens};

    use super::*;

    const LATER: Timestamp = Timestamp(u64::MAX);

    fn watch_of(sessions: usize) -> (AccessWatch, watch::Sender<Arc<ClusterView>>) {
        let (sender, view) = watch::channel(Arc::new(ClusterView::unknown(ClusterId(1))));
        let access_watch = AccessWatch {
            checks_subscriptions: true,
            ..AccessWatch::new(&AccessControl::open(view))
        };
        (0..sessions).for_each(|session| access_watch.set_token(session, LATER));
        (access_watch, sender)
    }

    fn revoke(sender: &watch::Sender<Arc<ClusterView>>, id: &str) {
        sender.send_modify(|view| {
            let revocations = Arc::make_mut(&mut Arc::make_mut(view).revocations);
            revocations.revoke(RevokedTokens::WithId(id.to_owned()), LATER).unwrap();
        });
    }

    fn checked(access_watch: &AccessWatch) -> Vec<usize> {
        access_watch.tick(Timestamp(0)).into_iter().map(|(session, _)| session).collect()
    }

    #[test]
    fn change_of_the_revocations_checks_every_session_with_a_token_once() {
        let (access_watch, sender) = watch_of(10_000);
        assert!(checked(&access_watch).is_empty());
        revoke(&sender, "t1");
        let first = checked(&access_watch);
        assert_eq!(first.len(), 10_000 / TICKS_PER_SWEEP);
        let rest = (0..2 * TICKS_PER_SWEEP).flat_map(|_| checked(&access_watch));
        let all: Vec<_> = first.into_iter().chain(rest).collect();
        assert_eq!(all, (0..10_000).collect::<Vec<_>>());
    }

    #[test]
    fn change_of_the_keys_checks_every_session_with_a_token_once() {
        let (mut access_watch, _view) = watch_of(1_000);
        let (keys, receiver) = watch::channel(());
        access_watch.keys = RefCell::new(receiver);
        assert!(checked(&access_watch).is_empty());
        keys.send_replace(());
        let all: Vec<_> = (0..20).flat_map(|_| checked(&access_watch)).collect();
        assert_eq!(all, (0..1_000).collect::<Vec<_>>());
    }

    /// The slots that one tick checks, of sessions with this many subscriptions.
    fn swept(access_watch: &AccessWatch, slots: usize, subscriptions: usize) -> Vec<usize> {
        let mut swept = Vec::new();
        access_watch.tick(Timestamp(0));
        access_watch.sweep_subscriptions(slots, |slot| {
            swept.push(slot);
            subscriptions
        });
        swept
    }

    #[test]
    fn change_of_the_namespaces_checks_every_session_once() {
        let (access_watch, sender) = watch_of(0);
        assert!(swept(&access_watch, 100_000, 1).is_empty());
        sender.send_modify(|view| Arc::make_mut(view).namespaces.revision += 1);
        let checked: Vec<_> = (0..50).flat_map(|_| swept(&access_watch, 100_000, 1)).collect();
        assert_eq!(checked, (0..100_000).collect::<Vec<_>>());
    }

    #[test]
    fn work_of_a_tick_is_bounded_in_subscriptions() {
        let (access_watch, sender) = watch_of(0);
        sender.send_modify(|view| Arc::make_mut(view).namespaces.revision += 1);
        let counts = (0..100).map(|_| swept(&access_watch, 256, 1_000).len());
        let counts: Vec<_> = counts.take_while(|&count| count > 0).collect();
        assert_eq!(counts.iter().sum::<usize>(), 256);
        let most = counts.iter().max().expect("a tick") * 1_001;
        assert!(most < SUBSCRIPTIONS_PER_TICK + 1_001, "{most} in one tick");
    }

    #[test]
    fn another_change_of_the_cluster_checks_no_session() {
        let (access_watch, sender) = watch_of(10);
        sender.send_modify(|view| Arc::make_mut(view).version += 1);
        assert!(checked(&access_watch).is_empty());
        assert!(swept(&access_watch, 10, 1).is_empty());
    }

    #[test]
    fn changes_at_every_tick_still_reach_the_last_session() {
        let (access_watch, sender) = watch_of(10_000);
        let checked: Vec<_> = (0..50)
            .flat_map(|change| {
                revoke(&sender, &change.to_string());
                checked(&access_watch)
            })
            .collect();
        assert!(checked.contains(&9_999));
    }

    #[test]
    fn tokens_that_expire_together_end_over_two_seconds() {
        let (access_watch, _sender) = watch_of(0);
        (0..10_000).for_each(|session| access_watch.set_token(session, Timestamp(1)));
        let counts: Vec<_> = (0..200)
            .map(|_| access_watch.tick(Timestamp(1)).len())
            .take_while(|&n| n > 0)
            .collect();
        assert_eq!(counts.iter().sum::<usize>(), 10_000);
        assert!(counts.iter().all(|&count| count <= 10_000 / TICKS_PER_SWEEP));
    }
}
