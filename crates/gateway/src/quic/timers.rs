//! When the connections of a lane want to be looked at: one timer for all.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// Mostly the deadline of a connection moves a little away with every packet, and a deadline that
/// moves by less than this is not followed: the moment comes too early then, and the next one is
/// set. From the deadline of an acknowledgement to the next sign of life it is more.
const FOLLOWED: Duration = Duration::from_secs(1);

/// One moment of each connection.
#[derive(Default)]
pub(super) struct Timers {
    moments: BTreeSet<(Instant, usize)>,
}

/// The moment of one connection, if it has one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Alarm(Option<Instant>);

impl Timers {
    /// The next moment at all.
    pub(super) fn next(&self) -> Option<Instant> {
        self.moments.first().map(|(moment, _)| *moment)
    }

    /// Has `connection` looked at no later than `deadline`, and not much earlier.
    pub(super) fn set(&mut self, connection: usize, alarm: &mut Alarm, deadline: Instant) {
        let follows = |moment| deadline < moment || deadline > moment + FOLLOWED;
        if alarm.0.is_none_or(follows) {
            self.clear(connection, alarm);
            self.moments.insert((deadline, connection));
            alarm.0 = Some(deadline);
        }
    }

    /// The connection has no moment any more.
    pub(super) fn clear(&mut self, connection: usize, alarm: &mut Alarm) {
        if let Some(moment) = alarm.0.take() {
            self.moments.remove(&(moment, connection));
        }
    }

    /// A connection whose moment has come. It has it until it is [cleared](Timers::clear).
    pub(super) fn due(&self, now: Instant) -> Option<usize> {
        let (moment, connection) = self.moments.first()?;
        (*moment <= now).then_some(*connection)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_connection_is_looked_at_at_its_earliest_deadline() {
        let (mut timers, start) = (Timers::default(), Instant::now());
        let after = |ms| start + Duration::from_millis(ms);
        let (mut one, mut other) = (Alarm::default(), Alarm::default());
        for ms in [30, 50, 20, 40] {
            timers.set(1, &mut one, after(ms));
        }
        timers.set(2, &mut other, after(25));
        assert_eq!(timers.next(), Some(after(20)));
        assert_eq!(timers.due(after(19)), None);
        assert_eq!(timers.due(after(20)), Some(1));
        timers.clear(1, &mut one);
        assert_eq!(timers.due(after(60)), Some(2));
        timers.clear(2, &mut other);
        assert_eq!(timers.next(), None);
    }

    #[test]
    fn a_deadline_that_moves_far_away_is_followed() {
        let (mut timers, mut alarm, start) = (Timers::default(), Alarm::default(), Instant::now());
        timers.set(0, &mut alarm, start);
        timers.set(0, &mut alarm, start + 2 * FOLLOWED);
        assert_eq!(timers.next(), Some(start + 2 * FOLLOWED));
    }

    #[test]
    fn a_connection_has_one_moment_however_often_its_deadline_moves() {
        let (mut timers, mut alarm, start) = (Timers::default(), Alarm::default(), Instant::now());
        for ms in [5, 9_000, 2, 7, 1, 3_000, 0] {
            timers.set(0, &mut alarm, start + Duration::from_millis(ms));
            assert_eq!(timers.moments.len(), 1);
        }
    }
}
