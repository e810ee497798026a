//! What goes out in one turn: to each session by one offer, however many of its topics have news.
//!
//! Where several topics have news in a turn, a session that has several subscriptions is gathered for:
//! all of its portions, as handles of frames that the rings hold, wait until the turn ends and are
//! offered together then. A cursor moves behind what was taken and no further, so that a session whose
//! socket is full still stores nothing. Everybody else is offered a portion as it is found.

use std::rc::Rc;

use tokio::time::Instant;

use super::Shared;
use super::batch::Batches;
use super::portion::{Portion, Settled};
use super::roster::{Roster, Session, SessionKey};
use crate::{Closed, Offered, Run};

pub(super) struct Post {
    lane: Rc<Shared>,
    batches: Batches,
    /// More than one topic may have news in this turn.
    several: bool,
    /// In the order in which they were found. As many as a turn has offers at most, and a session's
    /// topics once more; none between turns.
    gathered: Vec<Parcel>,
    /// The rest of the topics of the session that is gathered for; empty otherwise.
    rest: Vec<(usize, usize)>,
    /// Messages that were taken in this turn.
    delivered: usize,
}

/// A portion and whose it is.
struct Parcel {
    key: SessionKey,
    /// The topic's index, and the subscription's there.
    topic: usize,
    entry: usize,
    token: u32,
    portion: Portion,
}

/// What became of a portion.
enum Served {
    /// It waits for the end of the turn, with the token of its subscription.
    Gathered(u32, Portion),
    Settled(Settled),
    /// The session is over.
    Over,
}

impl Post {
    pub(super) fn new(lane: Rc<Shared>) -> Post {
        let (batches, gathered, rest) = Default::default();
        Post { lane, batches, several: false, gathered, rest, delivered: 0 }
    }

    /// Begins a turn, in which `several` topics may have news or one.
    pub(super) fn begin(&mut self, several: bool) {
        self.several = several;
    }

    /// Begins a walk over a topic.
    pub(super) fn look(&mut self, topic: usize) {
        self.batches.of(topic).forget();
    }

    /// Offers a subscription what is due to it; or gathers that, and whatever else is due to its
    /// session. Says how many topics' worth of offers that was.
    pub(super) fn serve(&mut self, roster: &mut Roster, topic: usize, entry: usize) -> usize {
        let before = self.gathered.len();
        self.serve_one(roster, topic, entry);
        if let Some(Parcel { key, .. }) = self.gathered.get(before) {
            let mut rest = std::mem::take(&mut self.rest);
            roster.list_news(*key, &mut rest);
            for (other, entry) in rest.drain(..).filter(|(other, _)| *other != topic) {
                self.serve_one(roster, other, entry);
            }
            self.rest = rest;
        }
        (self.gathered.len() - before).max(1)
    }

    fn serve_one(&mut self, roster: &mut Roster, topic: usize, entry: usize) {
        let Post { lane, batches, several, .. } = self;
        let (hub, widened) = (&lane.hub.shared, lane.widened.get());
        let served = roster.with(topic, entry, |subscription, session, feed| {
            if subscription.gathered {
                subscription.passed = true;
                return Served::Settled(Settled::default());
            }
            if !subscription.flows() {
                return Served::Settled(Settled::default());
            }
            let portion = Portion::of(subscription, session, feed, batches.of(topic), hub);
            let (token, count) = (subscription.token, portion.len());
            subscription.gathered = *several && session.has_several() && count > 0;
            if subscription.gathered {
                return Served::Gathered(token, portion);
            }
            match offer(session, &portion.runs(token)) {
                Ok(Offered { taken, blocked }) => {
                    let blocked = blocked || taken < count;
                    let meters = &hub.table.meters;
                    Served::Settled(portion.settle(subscription, taken, blocked, widened, meters))
                }
                Err(Closed) => Served::Over,
            }
        });
        match served {
            Some((key, Served::Gathered(token, portion))) => {
                self.gathered.push(Parcel { key, topic, entry, token, portion });
            }
            Some((key, Served::Settled(settled))) => self.conclude(roster, key, topic, settled),
            Some((key, Served::Over)) => roster.close(key),
            None => {}
        }
    }

    /// Ends a turn: what was gathered goes out.
    pub(super) fn end(&mut self, roster: &mut Roster) {
        self.batches.clear();
        let mut gathered = std::mem::take(&mut self.gathered);
        // Of one session they stay in their order.
        gathered.sort_by_key(|parcel| parcel.key);
        for parcels in gathered.chunk_by(|a, b| a.key == b.key) {
            self.bring(roster, parcels);
        }
        gathered.clear();
        self.gathered = gathered;
        let delivered = std::mem::take(&mut self.delivered) as u64;
        self.lane.hub.shared.table.meters.deliveries.increment(delivered);
    }

    /// Offers a session its parcels: all at once, and those behind one that is blocked each by itself,
    /// for they may have a way of their own.
    fn bring(&mut self, roster: &mut Roster, parcels: &[Parcel]) {
        let (mut left, mut count) = (parcels, parcels.len());
        while let Some(first) = left.first() {
            let runs: Vec<_> = left[..count].iter().flat_map(Parcel::runs).collect();
            match roster.session(first.key).map(|session| offer(session, &runs)) {
                Some(Ok(offered)) => {
                    let settled = self.settle(roster, &left[..count], offered);
                    left = &left[settled..];
                    count = 1;
                }
                Some(Err(Closed)) => return roster.close(first.key),
                None => return,
            }
        }
    }

    /// Moves subscriptions behind what was taken, up to one that is blocked. Says how many that were.
    fn settle(&mut self, roster: &mut Roster, parcels: &[Parcel], offered: Offered) -> usize {
        let mut left = offered.taken;
        for (index, parcel) in parcels.iter().enumerate() {
            let taken = left.min(parcel.portion.len());
            left -= taken;
            let blocked = taken < parcel.portion.len() || (left == 0 && offered.blocked);
            self.settle_one(roster, parcel, taken, blocked);
            if blocked {
                return index + 1;
            }
        }
        parcels.len()
    }

    fn settle_one(&mut self, roster: &mut Roster, parcel: &Parcel, taken: usize, blocked: bool) {
        let Parcel { topic, entry, portion, .. } = parcel;
        let (widened, meters) = (self.lane.widened.get(), &self.lane.hub.shared.table.meters);
        let settled = roster.with(*topic, *entry, |subscription, _, feed| {
            subscription.gathered = false;
            let mut settled = portion.settle(subscription, taken, blocked, widened, meters);
            // Nobody else would look again.
            settled.more |= std::mem::take(&mut subscription.passed) && portion.is_old(feed);
            settled
        });
        if let Some((key, settled)) = settled {
            self.conclude(roster, key, *topic, settled);
        }
    }

    fn conclude(&mut self, roster: &mut Roster, key: SessionKey, topic: usize, settled: Settled) {
        let Settled { messages, more, rest } = settled;
        self.delivered += messages;
        if let Some(rest) = rest {
            roster.lay_down(key, topic, Instant::now() + rest);
        }
        if more {
            roster.queue(key, topic);
        }
    }
}

impl Parcel {
    fn runs(&self) -> [Run<'_>; 4] {
        self.portion.runs(self.token)
    }
}

/// One offer, unless it is of nothing. An outlet that the gateway holds borrowed takes nothing, as if it
/// were blocked.
fn offer(session: &Session, runs: &[Run<'_>]) -> Result<Offered, Closed> {
    if runs.iter().all(|run| run.frames.is_empty()) {
        return Ok(Offered { taken: 0, blocked: false });
    }
    match session.outlet.try_borrow_mut() {
        Ok(mut outlet) => outlet.offer(runs),
        Err(_) => Ok(Offered { taken: 0, blocked: true }),
    }
}
