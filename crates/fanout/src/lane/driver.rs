//! The loop that brings frames to a lane's sessions.

use std::collections::VecDeque;
use std::future::pending;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::Lane;
use super::post::Post;
use super::roster::{Local, Roster, Subscription};
use crate::feed::Feed;

/// How many offers are made before the runtime may do something else. An offer is mostly a write of
/// some 4 µs: sockets wait at most a millisecond to be read. More would make them wait; fewer would
/// poll the sockets more often than there is news. What is gathered for a session counts by the topic.
const OFFERS_PER_TURN: usize = 256;

/// How many of a turn's offers go to those who catch up, so that they cannot starve the walks.
const READY_PER_TURN: usize = OFFERS_PER_TURN / 2;

/// Runs a lane. One a lane, on the lane's thread.
pub struct Driver {
    lane: Lane,
    /// Topics that were told since the last turn; empty between turns.
    told: VecDeque<usize>,
    /// Topics to walk, in the order in which they were told, and since when. At most one entry a topic
    /// but for stale ones of topics that left, whose walk finds nothing due.
    due: VecDeque<(usize, Instant)>,
    walk: Option<Walk>,
    post: Post,
}

/// A walk over the subscribers of a topic, as far as it got.
struct Walk {
    topic: usize,
    /// What the topic was when the walk began: its index may be another's by now.
    feed: Arc<Feed>,
    changes: u64,
    next: usize,
    /// Since when its news waits.
    since: Instant,
}

impl Driver {
    pub(super) fn new(lane: Lane) -> Driver {
        let (told, due) = (VecDeque::new(), VecDeque::new());
        let post = Post::new(Rc::clone(&lane.shared));
        Driver { lane, told, due, walk: None, post }
    }

    /// Offers frames until `shutdown`. Sessions stay open then: closing them is their owner's.
    pub async fn run(mut self, shutdown: CancellationToken) {
        while !shutdown.is_cancelled() {
            if self.turn() {
                tokio::task::yield_now().await;
                continue;
            }
            tokio::select! {
                biased;
                () = shutdown.cancelled() => {}
                () = self.lane.shared.wakes.wait() => {}
                () = self.rest() => {}
            }
        }
    }

    /// Waits until a subscription has rested, if any rests.
    async fn rest(&self) {
        let until = self.lane.roster().rouses_at();
        match until {
            Some(until) => sleep_until(until).await,
            None => pending().await,
        }
    }

    /// Makes as many offers as a turn may. Says whether more is due.
    fn turn(&mut self) -> bool {
        let lane = self.lane.clone();
        let now = Instant::now();
        lane.shared.wakes.take(&mut self.told);
        let mut roster = lane.roster();
        for topic in self.told.drain(..) {
            roster.mark(topic, true);
            self.due.push_back((topic, now));
        }
        roster.rouse(now);
        let topics = self.due.len() + usize::from(self.walk.is_some());
        self.post.begin(topics + roster.ready.len() > 1);
        let mut offers = self.go_on(&mut roster);
        while offers < OFFERS_PER_TURN && self.next_walk(&roster) {
            offers += self.walk_on(&mut roster, OFFERS_PER_TURN - offers);
        }
        self.post.end(&mut roster);
        self.tell_lag(now);
        self.walk.is_some() || !self.due.is_empty() || !roster.ready.is_empty()
    }

    /// How long what waits has waited by now.
    fn tell_lag(&self, now: Instant) {
        let walked = self.walk.as_ref().map(|walk| walk.since);
        let oldest = walked.into_iter().chain(self.due.front().map(|(_, since)| *since)).min();
        let lag = &self.lane.shared.lag;
        lag.set(lag.get().max(oldest.map_or(Duration::ZERO, |since| now - since)));
    }

    /// Serves those that go on by themselves, each at most once a turn. Returns how many.
    fn go_on(&mut self, roster: &mut Roster) -> usize {
        let (waiting, mut offers) = (roster.ready.len(), 0);
        for _ in 0..waiting {
            if offers >= READY_PER_TURN {
                break;
            }
            // One that has gone counts, or many of them would make a turn long.
            let next = roster.next_ready();
            offers += next.map_or(1, |(topic, entry)| self.post.serve(roster, topic, entry));
        }
        offers
    }

    /// Makes sure that there is a walk. Says no when no topic is due.
    fn next_walk(&mut self, roster: &Roster) -> bool {
        while self.walk.is_none() {
            let Some((topic, since)) = self.due.pop_front() else { return false };
            let Some(local) = roster.topics.get(topic) else { continue };
            let feed = Arc::clone(local.seat.feed());
            let changes = feed.state().changes();
            self.walk = Some(Walk { topic, feed, changes, next: 0, since });
            self.post.look(topic);
        }
        true
    }

    /// Goes on with the walk for at most so many offers. Returns how many were made.
    fn walk_on(&mut self, roster: &mut Roster, offers_max: usize) -> usize {
        let Some(mut walk) = self.walk.take() else { return 0 };
        let mut offers = 0;
        while offers < offers_max {
            let Some(entry) = walk.next(roster) else {
                self.end_walk(roster, &walk);
                // A walk without offers counts as one, as above.
                return offers.max(1);
            };
            offers += self.post.serve(roster, walk.topic, entry);
        }
        self.walk = Some(walk);
        offers
    }

    fn end_walk(&mut self, roster: &mut Roster, walk: &Walk) {
        if walk.must_repeat(roster) {
            self.due.push_back((walk.topic, Instant::now()));
        } else {
            // A topic that has taken its index meanwhile is walked over all the same.
            roster.mark(walk.topic, false);
        }
    }
}

impl Walk {
    fn local<'a>(&self, roster: &'a Roster) -> Option<&'a Local> {
        roster.topics.get(self.topic).filter(|local| Arc::ptr_eq(local.seat.feed(), &self.feed))
    }

    /// The next subscription that may be offered something. None: the walk is over.
    fn next(&mut self, roster: &Roster) -> Option<usize> {
        let local = self.local(roster)?;
        let entry = (self.next..local.subscriptions.capacity())
            .find(|&entry| local.subscriptions.get(entry).is_some_and(Subscription::flows))?;
        self.next = entry + 1;
        Some(entry)
    }

    /// Ends the walk. Says whether something came while it went on, so that it must be made again.
    fn must_repeat(&self, roster: &Roster) -> bool {
        self.local(roster).is_some_and(|local| !local.seat.looked(self.changes))
    }
}
