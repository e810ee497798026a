//! Every session of a lane in one list, so that none needs a timer of its own.

use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

use slab::Slab;

/// A heartbeat interval is divided into this many turns, and each session has its beat in one of
/// them: ten thousand sessions are forty at a time, ten times a second, not all at once. Clients
/// that came together get different turns.
const TURNS: usize = 256;

/// Clients that must go do so, or are told to come back, spread over at least this time, in
/// milliseconds: their new server has a handshake to do for each of them.
const RETURN_SPREAD_MS: u32 = 2_000;

/// Moments at which sessions that must go are told so.
pub(crate) const DEPARTURES: u32 = 1 << 16;

/// How many of the [`DEPARTURES`] are over, so long after the first, when they are spread `within` some
/// time.
pub(crate) fn departed(elapsed: Duration, within: Duration) -> u32 {
    let over = elapsed.as_nanos() * u128::from(DEPARTURES) / within.as_nanos().max(1);
    if within.is_zero() {
        DEPARTURES
    } else {
        u32::try_from(over).map_or(DEPARTURES, |over| over.min(DEPARTURES))
    }
}

/// Those who are sent away by an overloaded node come back after this time at the earliest, and twice
/// it at the latest, in milliseconds: long enough to notice whether it helped.
const BACK_MS: u32 = 10_000;

/// A time below `max` for the `index`th of many, in milliseconds. Fibonacci hashing: neighbours are far
/// apart, and no randomness is needed for it.
fn spread(index: usize, max: u32) -> u32 {
    let hash = u64::from((index as u32).wrapping_mul(0x9e37_79b9) >> 16);
    ((hash * u64::from(max)) >> 16) as u32
}

/// What the lane asks of each of its sessions.
pub(crate) trait Member {
    /// A heartbeat interval has passed.
    fn beat(self: Rc<Self>);

    /// Take your leave for the node is overloaded; come back after this many milliseconds.
    fn shed(self: Rc<Self>, back_ms: u32);

    /// Take your leave; come back, to another server, after this many milliseconds.
    fn dismiss(self: Rc<Self>, after_ms: u32);
}

/// The place of one session.
pub(crate) struct Seat(usize);

/// The sessions of one lane.
#[derive(Default)]
pub(crate) struct Registry {
    members: RefCell<Slab<Rc<dyn Member>>>,
    turn: Cell<usize>,
}

impl Registry {
    pub(crate) fn take_seat(&self, member: Rc<dyn Member>) -> Seat {
        Seat(self.members.borrow_mut().insert(member))
    }

    pub(crate) fn leave_seat(&self, Seat(index): Seat) {
        self.members.borrow_mut().try_remove(index);
    }

    /// How often [`Registry::tick`] is to be called for each session to have one beat an interval.
    pub(crate) fn tick_every(interval: Duration) -> Duration {
        (interval / TURNS as u32).max(Duration::from_millis(1))
    }

    /// The next turn: its sessions have their beat.
    pub(crate) fn tick(&self) {
        for member in self.turn() {
            member.beat();
        }
    }

    /// The next turn: its sessions are sent away, one in [`TURNS`] of all. Says how many.
    pub(crate) fn shed(&self) -> usize {
        let members = self.turn();
        let count = members.len();
        for (index, member) in members.into_iter().enumerate() {
            member.shed(BACK_MS + spread(index, BACK_MS));
        }
        count
    }

    fn turn(&self) -> Vec<Rc<dyn Member>> {
        let turn = self.turn.get();
        self.turn.set((turn + 1) % TURNS);
        self.seated(turn, TURNS)
    }

    /// The sessions whose departure is one of these take their leave. The departures are spread `within`
    /// a time; what of [`RETURN_SPREAD_MS`] that does not cover, their return does.
    pub(crate) fn dismiss(&self, departures: Range<u32>, within: Duration) {
        let covered = u32::try_from(within.as_millis()).unwrap_or(u32::MAX);
        let rest = RETURN_SPREAD_MS.saturating_sub(covered);
        let members = self.members.borrow();
        let due = |&(seat, _): &(usize, _)| departures.contains(&spread(seat, DEPARTURES));
        // Copied out: a member may leave its seat while it is spoken to.
        let leaving: Vec<_> =
            members.iter().filter(due).map(|(seat, member)| (seat, member.clone())).collect();
        drop(members);
        for (seat, member) in leaving {
            member.dismiss(spread(seat, rest));
        }
    }

    /// Whether nobody has a seat.
    pub(crate) fn is_empty(&self) -> bool {
        self.members.borrow().is_empty()
    }

    /// Copied out: a member may leave its seat while it is spoken to.
    fn seated(&self, first: usize, step: usize) -> Vec<Rc<dyn Member>> {
        let members = self.members.borrow();
        let places = (first..members.capacity()).step_by(step);
        places.filter_map(|index| members.get(index).cloned()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Counted {
        beats: Cell<usize>,
        dismissed: Cell<usize>,
        back_after_ms: Cell<u32>,
        shed_for_ms: Cell<u32>,
    }

    impl Member for Counted {
        fn beat(self: Rc<Self>) {
            self.beats.set(self.beats.get() + 1);
        }

        fn shed(self: Rc<Self>, back_ms: u32) {
            self.shed_for_ms.set(back_ms);
        }

        fn dismiss(self: Rc<Self>, after_ms: u32) {
            self.dismissed.set(self.dismissed.get() + 1);
            self.back_after_ms.set(after_ms);
        }
    }

    fn seated(registry: &Registry, count: usize) -> Vec<Rc<Counted>> {
        let members: Vec<_> = (0..count).map(|_| Rc::new(Counted::default())).collect();
        for member in &members {
            registry.take_seat(member.clone());
        }
        members
    }

    #[test]
    fn each_session_has_one_beat_an_interval_and_no_turn_has_them_all() {
        let registry = Registry::default();
        let members = seated(&registry, 1_000);
        registry.tick();
        let at_once: usize = members.iter().map(|member| member.beats.get()).sum();
        assert_eq!(at_once, 4);
        (1..TURNS).for_each(|_| registry.tick());
        assert!(members.iter().all(|member| member.beats.get() == 1));
    }

    #[test]
    fn an_overloaded_lane_sends_a_few_away_at_a_time_for_ten_to_twenty_seconds() {
        let registry = Registry::default();
        let members = seated(&registry, 1_000);
        assert_eq!(registry.shed(), 4);
        let times: Vec<_> = members.iter().map(|member| member.shed_for_ms.get()).collect();
        let told = || times.iter().filter(|&&ms| ms > 0);
        assert_eq!(told().count(), 4);
        assert!(told().all(|ms| (BACK_MS..2 * BACK_MS).contains(ms)));
    }

    #[test]
    fn each_session_is_dismissed_once_and_evenly_over_the_time() {
        let registry = Registry::default();
        let members = seated(&registry, 1_000);
        let within = Duration::from_secs(4);
        let (mut told, mut gone) = (0, 0);
        for step in 1..=10_u32 {
            let due = departed(within * step / 10, within);
            registry.dismiss(told..due, within);
            told = due;
            let now = members.iter().filter(|member| member.dismissed.get() == 1).count();
            assert!((80..120).contains(&(now - gone)), "{} in step {step}", now - gone);
            gone = now;
        }
        assert_eq!(gone, 1_000);
        assert_eq!(departed(within * 2, within), DEPARTURES);
        assert_eq!(departed(Duration::ZERO, Duration::ZERO), DEPARTURES);
    }

    #[test]
    fn those_who_must_go_come_back_spread_over_time() {
        let registry = Registry::default();
        let members = seated(&registry, 100);
        registry.dismiss(0..DEPARTURES, Duration::ZERO);
        let after: Vec<_> = members.iter().map(|member| member.back_after_ms.get()).collect();
        assert!(after.iter().all(|&ms| ms < RETURN_SPREAD_MS));
        assert!((40..60).contains(&after.iter().filter(|&&ms| ms < RETURN_SPREAD_MS / 2).count()));
    }
}
