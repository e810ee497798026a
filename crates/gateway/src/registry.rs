//! The sessions of a lane in one table, so that no session needs its own timer.

use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

use pushonce_fanout::ChunkedSlab;

use crate::access_watch::AccessCheck;
use crate::slow_sessions::SessionDescription;

/// Number of ticks per heartbeat interval. Each session has its heartbeat at one of them: ten thousand
/// sessions are forty per tick, ten ticks a second, instead of all at once. Clients that connected together
/// get different ticks.
const TICKS_PER_INTERVAL: usize = 256;

/// Minimum time over which drained clients disconnect or reconnect, in milliseconds: their new server
/// performs a handshake for each of them.
const RECONNECT_SPREAD_MS: u32 = 2_000;

/// Number of slots of a drain period. Each session is drained in one of them.
pub(crate) const DRAIN_SLOTS: u32 = 1 << 16;

/// How many of the [`DRAIN_SLOTS`] are due when `elapsed` of the drain period has passed.
pub(crate) fn drain_slots_due(elapsed: Duration, period: Duration) -> u32 {
    let slots = elapsed.as_nanos() * u128::from(DRAIN_SLOTS) / period.as_nanos().max(1);
    if period.is_zero() {
        DRAIN_SLOTS
    } else {
        u32::try_from(slots).map_or(DRAIN_SLOTS, |slots| slots.min(DRAIN_SLOTS))
    }
}

/// Minimum time after which a session that an overloaded node closed may reconnect, in milliseconds; the
/// maximum is twice this time. It is long enough to see whether closing sessions helped.
const SHED_RETRY_MIN_MS: u32 = 10_000;

/// A value below `max` for `index`. Fibonacci hashing spreads neighbours far apart without randomness.
fn spread(index: usize, max: u32) -> u32 {
    let hash = u64::from((index as u32).wrapping_mul(0x9e37_79b9) >> 16);
    ((hash * u64::from(max)) >> 16) as u32
}

/// A session as its lane sees it.
pub(crate) trait RegisteredSession {
    /// Handles the end of a heartbeat interval.
    fn on_interval(self: Rc<Self>);

    /// Whether [`RegisteredSession::on_half_interval`] is to be called.
    fn needs_half_intervals(&self) -> bool {
        false
    }

    /// Handles the middle of a heartbeat interval.
    fn on_half_interval(self: Rc<Self>) {}

    /// Closes the session because the node is overloaded. The client may reconnect after `retry_after_ms`.
    fn shed(self: Rc<Self>, retry_after_ms: u32);

    /// Closes the session because the node shuts down. The client reconnects to another server within
    /// `reconnect_within_ms`.
    fn drain(self: Rc<Self>, reconnect_within_ms: u32);

    /// Describes the session to an operator.
    fn describe(&self) -> SessionDescription;

    /// Ends the subscriptions that are not granted any more. Returns how many the session had.
    fn check_subscriptions(self: Rc<Self>) -> usize;

    /// Closes the session if its token is expired or revoked, or if it has reached the maximum age.
    fn check_access(self: Rc<Self>, check: AccessCheck);
}

/// The slot of one session.
pub(crate) struct SessionSlot(usize);

impl SessionSlot {
    /// The index of the slot, which a later session may get again.
    pub(crate) fn index(&self) -> usize {
        self.0
    }
}

/// The sessions of one lane.
#[derive(Default)]
pub(crate) struct SessionRegistry {
    sessions: RefCell<ChunkedSlab<Rc<dyn RegisteredSession>>>,
    /// Number of sessions that need half intervals.
    half_interval_sessions: Cell<usize>,
    tick_index: Cell<usize>,
}

impl SessionRegistry {
    pub(crate) fn insert(&self, session: Rc<dyn RegisteredSession>) -> SessionSlot {
        let needing = usize::from(session.needs_half_intervals());
        self.half_interval_sessions.set(self.half_interval_sessions.get() + needing);
        SessionSlot(self.sessions.borrow_mut().insert(session))
    }

    pub(crate) fn remove(&self, SessionSlot(index): SessionSlot) {
        let removed = self.sessions.borrow_mut().remove(index);
        let needing = usize::from(removed.is_some_and(|session| session.needs_half_intervals()));
        self.half_interval_sessions.set(self.half_interval_sessions.get() - needing);
    }

    /// The number of slots, used or not.
    pub(crate) fn slots(&self) -> usize {
        self.sessions.borrow().index_bound()
    }

    /// The session in a slot.
    pub(crate) fn get(&self, index: usize) -> Option<Rc<dyn RegisteredSession>> {
        self.sessions.borrow().get(index).cloned()
    }

    /// The interval between calls of [`SessionRegistry::tick`] at which each session has one heartbeat per
    /// `interval`.
    pub(crate) fn tick_interval(interval: Duration) -> Duration {
        (interval / TICKS_PER_INTERVAL as u32).max(Duration::from_millis(1))
    }

    /// Runs the next tick: calls [`RegisteredSession::on_interval`] of the sessions that are due, and
    /// [`RegisteredSession::on_half_interval`] of those whose interval is half over.
    pub(crate) fn tick(&self) {
        if self.half_interval_sessions.get() > 0 {
            let half = (self.tick_index.get() + TICKS_PER_INTERVAL / 2) % TICKS_PER_INTERVAL;
            let sessions = self.sessions_in_group(half, TICKS_PER_INTERVAL).into_iter();
            sessions
                .filter(|session| session.needs_half_intervals())
                .for_each(RegisteredSession::on_half_interval);
        }
        for session in self.advance_tick() {
            session.on_interval();
        }
    }

    /// Runs the next tick of an overloaded lane: closes the sessions that are due, one in
    /// [`TICKS_PER_INTERVAL`] of all, and returns their number.
    pub(crate) fn shed(&self) -> usize {
        let due_sessions = self.advance_tick();
        let count = due_sessions.len();
        for (index, session) in due_sessions.into_iter().enumerate() {
            session.shed(SHED_RETRY_MIN_MS + spread(index, SHED_RETRY_MIN_MS));
        }
        count
    }

    fn advance_tick(&self) -> Vec<Rc<dyn RegisteredSession>> {
        let tick = self.tick_index.get();
        self.tick_index.set((tick + 1) % TICKS_PER_INTERVAL);
        self.sessions_in_group(tick, TICKS_PER_INTERVAL)
    }

    /// Drains the sessions of these slots. The slots are spread over `period`; if that is shorter than
    /// [`RECONNECT_SPREAD_MS`], the reconnects are spread over the rest of it.
    pub(crate) fn drain(&self, slots: Range<u32>, period: Duration) {
        let covered = u32::try_from(period.as_millis()).unwrap_or(u32::MAX);
        let spread_ms = RECONNECT_SPREAD_MS.saturating_sub(covered);
        let sessions = self.sessions.borrow();
        let is_due = |&(index, _): &(usize, _)| slots.contains(&spread(index, DRAIN_SLOTS));
        // Cloned, because a session may remove itself while it is drained.
        let due_sessions: Vec<_> = sessions
            .iter()
            .filter(is_due)
            .map(|(index, session)| (index, session.clone()))
            .collect();
        drop(sessions);
        for (index, session) in due_sessions {
            session.drain(spread(index, spread_ms));
        }
    }

    /// Whether the lane has no sessions.
    pub(crate) fn is_empty(&self) -> bool {
        self.sessions.borrow().is_empty()
    }

    /// Returns every `step`th session from `first`, cloned because a session may remove itself when it is
    /// called.
    fn sessions_in_group(&self, first: usize, step: usize) -> Vec<Rc<dyn RegisteredSession>> {
        let sessions = self.sessions.borrow();
        let indexes = (first..sessions.index_bound()).step_by(step);
        indexes.filter_map(|index| sessions.get(index).cloned()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct CountingSession {
        intervals: Cell<usize>,
        half_intervals: Cell<usize>,
        drained: Cell<usize>,
        reconnect_within_ms: Cell<u32>,
        shed_retry_ms: Cell<u32>,
    }

    impl RegisteredSession for CountingSession {
        fn on_interval(self: Rc<Self>) {
            self.intervals.set(self.intervals.get() + 1);
        }

        fn needs_half_intervals(&self) -> bool {
            true
        }

        fn on_half_interval(self: Rc<Self>) {
            self.half_intervals.set(self.half_intervals.get() + 1);
        }

        fn shed(self: Rc<Self>, retry_after_ms: u32) {
            self.shed_retry_ms.set(retry_after_ms);
        }

        fn drain(self: Rc<Self>, reconnect_within_ms: u32) {
            self.drained.set(self.drained.get() + 1);
            self.reconnect_within_ms.set(reconnect_within_ms);
        }

        fn describe(&self) -> SessionDescription {
            let transport = crate::metrics::TransportKind::WebSocket;
            SessionDescription { transport, address: None, subject: None }
        }

        fn check_subscriptions(self: Rc<Self>) -> usize {
            0
        }

        fn check_access(self: Rc<Self>, _: AccessCheck) {}
    }

    fn insert_sessions(registry: &SessionRegistry, count: usize) -> Vec<Rc<CountingSession>> {
        let sessions: Vec<_> = (0..count).map(|_| Rc::new(CountingSession::default())).collect();
        for session in &sessions {
            registry.insert(session.clone());
        }
        sessions
    }

    #[test]
    fn each_session_gets_one_heartbeat_per_interval_spread_over_ticks() {
        let registry = SessionRegistry::default();
        let sessions = insert_sessions(&registry, 1_000);
        registry.tick();
        let at_once: usize = sessions.iter().map(|session| session.intervals.get()).sum();
        assert_eq!(at_once, 4);
        (1..TICKS_PER_INTERVAL).for_each(|_| registry.tick());
        assert!(sessions.iter().all(|session| session.intervals.get() == 1));
        assert!(sessions.iter().all(|session| session.half_intervals.get() == 1));
    }

    #[test]
    fn overloaded_lane_sheds_few_sessions_per_tick_with_retry_after_ten_to_twenty_seconds() {
        let registry = SessionRegistry::default();
        let sessions = insert_sessions(&registry, 1_000);
        assert_eq!(registry.shed(), 4);
        let times: Vec<_> = sessions.iter().map(|session| session.shed_retry_ms.get()).collect();
        let retry_times = || times.iter().filter(|&&ms| ms > 0);
        assert_eq!(retry_times().count(), 4);
        assert!(retry_times().all(|ms| (SHED_RETRY_MIN_MS..2 * SHED_RETRY_MIN_MS).contains(ms)));
    }

    #[test]
    fn each_session_is_drained_once_and_evenly_over_the_period() {
        let registry = SessionRegistry::default();
        let sessions = insert_sessions(&registry, 1_000);
        let within = Duration::from_secs(4);
        let (mut notified, mut drained) = (0, 0);
        for step in 1..=10_u32 {
            let due = drain_slots_due(within * step / 10, within);
            registry.drain(notified..due, within);
            notified = due;
            let drained_now = sessions.iter().filter(|session| session.drained.get() == 1).count();
            assert!(
                (80..120).contains(&(drained_now - drained)),
                "{} in step {step}",
                drained_now - drained
            );
            drained = drained_now;
        }
        assert_eq!(drained, 1_000);
        assert_eq!(drain_slots_due(within * 2, within), DRAIN_SLOTS);
        assert_eq!(drain_slots_due(Duration::ZERO, Duration::ZERO), DRAIN_SLOTS);
    }

    #[test]
    fn reconnects_of_drained_sessions_are_spread_over_time() {
        let registry = SessionRegistry::default();
        let sessions = insert_sessions(&registry, 100);
        registry.drain(0..DRAIN_SLOTS, Duration::ZERO);
        let delays: Vec<_> =
            sessions.iter().map(|session| session.reconnect_within_ms.get()).collect();
        assert!(delays.iter().all(|&ms| ms < RECONNECT_SPREAD_MS));
        assert!(
            (40..60).contains(&delays.iter().filter(|&&ms| ms < RECONNECT_SPREAD_MS / 2).count())
        );
    }
}
