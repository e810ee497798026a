//! The deadlines of a lane's connections, behind one timer.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// Most deadlines move a little later with every packet. One that moves later by less than this is not
/// rescheduled: the timer fires early, and is set again then. The difference between the deadline of an
/// acknowledgement and the next keepalive is larger.
const RESCHEDULE_MIN: Duration = Duration::from_secs(1);

/// At most one deadline per connection, in order.
#[derive(Default)]
pub(crate) struct Timers {
    deadlines: BTreeSet<(Instant, usize)>,
}

/// The scheduled deadline of one connection, if any.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ConnectionTimer(Option<Instant>);

impl Timers {
    /// The earliest deadline.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// Has `connection` expire no later than `deadline`, and at most a second earlier.
    pub(crate) fn set(
        &mut self,
        connection: usize,
        timer: &mut ConnectionTimer,
        deadline: Instant,
    ) {
        let must_reschedule = |current| deadline < current || deadline > current + RESCHEDULE_MIN;
        if timer.0.is_none_or(must_reschedule) {
            self.clear(connection, timer);
            self.deadlines.insert((deadline, connection));
            timer.0 = Some(deadline);
        }
    }

    /// Removes the deadline of the connection.
    pub(crate) fn clear(&mut self, connection: usize, timer: &mut ConnectionTimer) {
        if let Some(deadline) = timer.0.take() {
            self.deadlines.remove(&(deadline, connection));
        }
    }

    /// A connection whose deadline has passed. It stays expired until [`Timers::clear`].
    pub(crate) fn next_expired(&self, now: Instant) -> Option<usize> {
        let (deadline, connection) = self.deadlines.first()?;
        (*deadline <= now).then_some(*connection)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn connection_expires_at_its_earliest_deadline() {
        let (mut timers, start) = (Timers::default(), Instant::now());
        let after = |ms| start + Duration::from_millis(ms);
        let (mut one, mut other) = (ConnectionTimer::default(), ConnectionTimer::default());
        for ms in [30, 50, 20, 40] {
            timers.set(1, &mut one, after(ms));
        }
        timers.set(2, &mut other, after(25));
        assert_eq!(timers.next_deadline(), Some(after(20)));
        assert_eq!(timers.next_expired(after(19)), None);
        assert_eq!(timers.next_expired(after(20)), Some(1));
        timers.clear(1, &mut one);
        assert_eq!(timers.next_expired(after(60)), Some(2));
        timers.clear(2, &mut other);
        assert_eq!(timers.next_deadline(), None);
    }

    #[test]
    fn deadline_moved_far_later_is_rescheduled() {
        let (mut timers, mut timer, start) =
            (Timers::default(), ConnectionTimer::default(), Instant::now());
        timers.set(0, &mut timer, start);
        timers.set(0, &mut timer, start + 2 * RESCHEDULE_MIN);
        assert_eq!(timers.next_deadline(), Some(start + 2 * RESCHEDULE_MIN));
    }

    #[test]
    fn connection_has_one_entry_after_many_deadline_changes() {
        let (mut timers, mut timer, start) =
            (Timers::default(), ConnectionTimer::default(), Instant::now());
        for ms in [5, 9_000, 2, 7, 1, 3_000, 0] {
            timers.set(0, &mut timer, start + Duration::from_millis(ms));
            assert_eq!(timers.deadlines.len(), 1);
        }
    }
}
