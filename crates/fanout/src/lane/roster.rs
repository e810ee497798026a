//! The sessions of a lane and their subscriptions, found from either side without a search over the
//! other.

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use litemap::LiteMap;
use pushonce_core::{Gap, Options, Position, Topic, Watching};
use slab::Slab;
use tokio::time::Instant;

use super::SubscribeError;
use crate::begin::Begun;
use crate::feed::{Feed, Hold, Seat};
use crate::pick::{Pick, Rest};
use crate::table::Interest;
use crate::wakes::Wakes;
use crate::{Hub, Outlet, Standing, Wire};

/// A session of a lane. Never given out twice by the same lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionKey {
    index: usize,
    /// Tells a session from an earlier one that had the same index.
    serial: u64,
}

/// A subscription that is being made.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Ticket(u64);

pub(super) struct Roster {
    hub: Hub,
    sessions: Slab<Session>,
    pub(super) topics: Slab<Local>,
    by_name: HashMap<Topic, usize>,
    /// Subscriptions that go on by themselves, each at most once: new ones, those that were
    /// blocked, and those with more due than one offer takes.
    pub(super) ready: VecDeque<(SessionKey, usize)>,
    /// Subscriptions that rest, and until when. One that ends meanwhile leaves its entry behind, for a
    /// second at most.
    resting: BinaryHeap<Reverse<(Instant, SessionKey, usize)>>,
    serials: u64,
}

pub(super) struct Session {
    serial: u64,
    pub(super) wire: Wire,
    pub(super) outlet: Rc<RefCell<dyn Outlet>>,
    /// By topic index, the subscription's index there.
    /// Mostly one, a thousand at most: a hash table would be the largest part of an idle session.
    subscriptions: LiteMap<usize, usize>,
    opening: Vec<(Topic, Ticket)>,
}

/// A topic in this lane.
pub(super) struct Local {
    pub(super) seat: Seat,
    /// It waits to be walked over, or is being.
    pub(super) has_news: bool,
    pub(super) subscriptions: Slab<Subscription>,
    interest: Interest,
}

/// A cursor. What is due to it is in the topic's ring, not here.
pub(super) struct Subscription {
    session: usize,
    pub(super) token: u32,
    started: bool,
    pub(super) blocked: bool,
    /// Had its share of messages for now.
    rests: bool,
    pub(super) pick: Pick,
    pub(super) rest: Rest,
    /// Stands in `ready`.
    queued: bool,
    /// What is due to it goes out at the end of this turn.
    pub(super) gathered: bool,
    /// It was looked at again meanwhile.
    pub(super) passed: bool,
    pub(super) cursor: Position,
    /// Whether a message may come as its difference from the one before.
    delta: bool,
    /// The last thing it was sent was the message at its cursor.
    pub(super) has_last: bool,
    /// What it was told last.
    pub(super) standing: Standing,
    /// How many it was told that watch, if it wants to know. At first none, which is never so.
    pub(super) audience: Option<u64>,
    /// To be told first; boxed because hardly any subscription has one.
    pub(super) gap: Option<Box<Gap>>,
    /// Until it is level or blocked for the first time.
    pub(super) hold: Option<Hold>,
}

/// What a subscriber can do with a message's difference from the one at its cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Base {
    /// It did not ask for such.
    Unwanted,
    /// Nothing: it does not have that message.
    Missing,
    /// It makes the message of it.
    Held,
}

/// What frames a subscription is offered: the same for all of the same shape at the same cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) wire: Wire,
    pub(super) base: Base,
    pub(super) pick: Pick,
}

impl Subscription {
    pub(super) fn shape(&self, wire: Wire) -> Shape {
        Shape { wire, base: self.base(), pick: self.pick }
    }

    fn base(&self) -> Base {
        match self.delta {
            false => Base::Unwanted,
            true if self.has_last => Base::Held,
            true => Base::Missing,
        }
    }

    /// Whether frames may be offered.
    pub(super) fn flows(&self) -> bool {
        self.started && !self.blocked && !self.rests
    }

    /// How long it rests after a message, if at all; at least `widened` if it takes the newest alone.
    pub(super) fn rests_for(&self, widened: Duration) -> Option<Duration> {
        let widened = if self.pick == Pick::Every { Duration::ZERO } else { widened };
        Some(self.rest.time().max(widened)).filter(|rest| !rest.is_zero())
    }

    /// What it counts for.
    fn watching(&self) -> Watching {
        Watching { sessions: 1, asks: self.audience.is_some() }
    }
}

impl Session {
    /// Whether more than one topic may have news for it.
    pub(super) fn has_several(&self) -> bool {
        self.subscriptions.len() > 1
    }

    /// Forgets what is being made. Says whether there was such a one.
    fn give_up(&mut self, is_it: impl Fn(&(Topic, Ticket)) -> bool) -> bool {
        let before = self.opening.len();
        self.opening.retain(|opening| !is_it(opening));
        // There is none most of the time.
        self.opening.shrink_to_fit();
        self.opening.len() < before
    }
}

impl Roster {
    pub(super) fn new(hub: Hub) -> Roster {
        Roster {
            hub,
            sessions: Slab::new(),
            topics: Slab::new(),
            by_name: HashMap::new(),
            ready: VecDeque::new(),
            resting: BinaryHeap::new(),
            serials: 0,
        }
    }

    fn serial(&mut self) -> u64 {
        self.serials += 1;
        self.serials
    }

    pub(super) fn session(&mut self, key: SessionKey) -> Option<&mut Session> {
        self.sessions.get_mut(key.index).filter(|session| session.serial == key.serial)
    }

    pub(super) fn open(&mut self, wire: Wire, outlet: Rc<RefCell<dyn Outlet>>) -> SessionKey {
        let serial = self.serial();
        let session = Session {
            serial,
            wire,
            outlet,
            subscriptions: LiteMap::with_capacity(1),
            opening: Vec::new(),
        };
        self.hub.shared.table.meters.sessions.increment(1.0);
        SessionKey { index: self.sessions.insert(session), serial }
    }

    /// Keeps a place for a subscription that is being made.
    pub(super) fn reserve(
        &mut self,
        key: SessionKey,
        topic: &Topic,
        max: usize,
    ) -> Result<Ticket, SubscribeError> {
        let ticket = Ticket(self.serial());
        let local = self.by_name.get(topic).copied();
        let session = self.session(key).ok_or(SubscribeError::Gone)?;
        let subscribed = local.is_some_and(|local| session.subscriptions.contains_key(&local));
        if subscribed || session.opening.iter().any(|(opening, _)| opening == topic) {
            return Err(SubscribeError::AlreadySubscribed);
        }
        if session.subscriptions.len() + session.opening.len() >= max {
            return Err(SubscribeError::TooMany { max });
        }
        session.opening.push((topic.clone(), ticket));
        Ok(ticket)
    }

    /// Gives the place up. Says whether it was still kept.
    pub(super) fn release(&mut self, key: SessionKey, ticket: Ticket) -> bool {
        let Some(session) = self.session(key) else { return false };
        session.give_up(|(_, opening)| *opening == ticket)
    }

    /// Enters a subscription that was made. Says no when its place was given up meanwhile.
    pub(super) fn enter(
        &mut self,
        key: SessionKey,
        ticket: Ticket,
        token: u32,
        options: &Options,
        begun: Begun,
        wakes: &Arc<Wakes>,
    ) -> bool {
        if !self.release(key, ticket) {
            return false;
        }
        let Begun { interest, hold, start } = begun;
        let local = self.local(interest, wakes);
        let subscription = Subscription {
            session: key.index,
            token,
            started: false,
            blocked: false,
            rests: false,
            pick: Pick::of(options),
            rest: Rest::of(options),
            queued: false,
            gathered: false,
            passed: false,
            cursor: start.cursor,
            delta: options.delta,
            has_last: false,
            standing: Standing::Live,
            audience: options.audience.then_some(0),
            gap: start.gap.map(Box::new),
            hold: Some(hold),
        };
        self.topics[local].interest.seat(subscription.watching());
        let entry = self.topics[local].subscriptions.insert(subscription);
        if let Some(session) = self.session(key) {
            session.subscriptions.insert(local, entry);
        }
        self.hub.shared.table.meters.subscriptions.increment(1.0);
        true
    }

    /// The topic's place in this lane; taken with its first subscriber. Later ones need no interest
    /// of their own.
    fn local(&mut self, interest: Interest, wakes: &Arc<Wakes>) -> usize {
        let topic = interest.feed().topic.clone();
        if let Some(local) = self.by_name.get(&topic) {
            return *local;
        }
        let vacant = self.topics.vacant_entry();
        let local = vacant.key();
        let seat = interest.feed().sit(Arc::clone(wakes), local);
        vacant.insert(Local { seat, has_news: false, subscriptions: Slab::new(), interest });
        self.by_name.insert(topic, local);
        local
    }

    /// Where a session's subscription stands in the topic at `local`.
    fn entry(&mut self, key: SessionKey, local: usize) -> Option<usize> {
        self.session(key)?.subscriptions.get(&local).copied()
    }

    fn subscription(&mut self, key: SessionKey, local: usize) -> Option<&mut Subscription> {
        let entry = self.entry(key, local)?;
        self.topics.get_mut(local)?.subscriptions.get_mut(entry)
    }

    /// Does something with a subscription of the topic at `local`, and says whose it is.
    pub(super) fn with<T>(
        &mut self,
        local: usize,
        entry: usize,
        act: impl FnOnce(&mut Subscription, &Session, &Feed) -> T,
    ) -> Option<(SessionKey, T)> {
        let local = self.topics.get_mut(local)?;
        let subscription = local.subscriptions.get_mut(entry)?;
        let session = self.sessions.get(subscription.session)?;
        let key = SessionKey { index: subscription.session, serial: session.serial };
        Some((key, act(subscription, session, local.seat.feed())))
    }

    pub(super) fn start(&mut self, key: SessionKey, topic: &Topic) {
        let Some(local) = self.by_name.get(topic).copied() else { return };
        if let Some(subscription) = self.subscription(key, local) {
            subscription.started = true;
            self.queue(key, local);
        }
    }

    /// Has a subscription go on by itself.
    pub(super) fn queue(&mut self, key: SessionKey, local: usize) {
        let Some(subscription) = self.subscription(key, local) else { return };
        if !subscription.queued {
            subscription.queued = true;
            self.ready.push_back((key, local));
        }
    }

    /// The next that goes on by itself: the topic's index, and its own there. None when none
    /// waits, or the one that did has gone.
    pub(super) fn next_ready(&mut self) -> Option<(usize, usize)> {
        let (key, local) = self.ready.pop_front()?;
        let entry = self.entry(key, local)?;
        self.topics.get_mut(local)?.subscriptions.get_mut(entry)?.queued = false;
        Some((local, entry))
    }

    /// A topic has news to be walked over with, or no more.
    pub(super) fn mark(&mut self, topic: usize, has_news: bool) {
        if let Some(local) = self.topics.get_mut(topic) {
            local.has_news = has_news;
        }
    }

    /// Adds where a session has subscriptions of topics with news: each topic's index, and its own there.
    pub(super) fn list_news(&self, key: SessionKey, list: &mut Vec<(usize, usize)>) {
        let Some(session) = self.sessions.get(key.index) else { return };
        let has_news = |topic: usize| self.topics.get(topic).is_some_and(|local| local.has_news);
        let all = session.subscriptions.iter().map(|(topic, entry)| (*topic, *entry));
        list.extend(all.filter(|(topic, _)| has_news(*topic)));
    }

    /// Has a subscription rest.
    pub(super) fn lay_down(&mut self, key: SessionKey, local: usize, until: Instant) {
        if let Some(subscription) = self.subscription(key, local) {
            subscription.rests = true;
            self.resting.push(Reverse((until, key, local)));
        }
    }

    /// Has those go on that have rested until `now`.
    pub(super) fn rouse(&mut self, now: Instant) {
        while self.rouses_at().is_some_and(|at| at <= now)
            && let Some(Reverse((_, key, local))) = self.resting.pop()
        {
            if let Some(subscription) = self.subscription(key, local) {
                subscription.rests = false;
                self.queue(key, local);
            }
        }
    }

    /// When the next has rested.
    pub(super) fn rouses_at(&self) -> Option<Instant> {
        self.resting.peek().map(|Reverse((until, ..))| *until)
    }

    /// Says whether anything was blocked.
    pub(super) fn unblock(&mut self, key: SessionKey) -> bool {
        let Some(session) = self.session(key) else { return false };
        let locals: Vec<usize> = session.subscriptions.keys().copied().collect();
        let mut any = false;
        for local in locals {
            let Some(subscription) = self.subscription(key, local) else { continue };
            if std::mem::take(&mut subscription.blocked) {
                any = true;
                self.queue(key, local);
            }
        }
        any
    }

    pub(super) fn positions(&mut self, key: SessionKey) -> Vec<(u32, Topic, Position)> {
        let Some(session) = self.session(key) else { return Vec::new() };
        let entries: Vec<_> = session.subscriptions.iter().map(|(l, e)| (*l, *e)).collect();
        let position = |(local, entry): (usize, usize)| {
            let local = self.topics.get(local)?;
            let subscription = local.subscriptions.get(entry)?;
            let feed = local.seat.feed();
            // With a gap to be told first, nothing was brought yet; and who cannot say whether there
            // is more does not speak of where the topic stands.
            let brought = subscription.started
                && subscription.gap.is_none()
                && subscription.standing == Standing::Live
                && feed.state().standing() == Standing::Live;
            brought.then(|| (subscription.token, feed.topic.clone(), subscription.cursor))
        };
        entries.into_iter().filter_map(position).collect()
    }

    pub(super) fn unsubscribe(&mut self, key: SessionKey, topic: &Topic) -> bool {
        let local = self.by_name.get(topic).copied();
        let Some(session) = self.session(key) else { return false };
        let opening = session.give_up(|(opening, _)| opening == topic);
        let entry = local.and_then(|local| Some((local, session.subscriptions.remove(&local)?)));
        if let Some((local, entry)) = entry {
            self.leave(local, entry);
        }
        opening || entry.is_some()
    }

    pub(super) fn close(&mut self, key: SessionKey) {
        if self.session(key).is_none() {
            return;
        }
        let session = self.sessions.remove(key.index);
        for (local, entry) in session.subscriptions {
            self.leave(local, entry);
        }
        self.hub.shared.table.meters.sessions.decrement(1.0);
    }

    /// Takes a subscription out of its topic; the last one takes the topic out of the lane.
    fn leave(&mut self, local: usize, entry: usize) {
        let Some(topic) = self.topics.get_mut(local) else { return };
        if let Some(left) = topic.subscriptions.try_remove(entry) {
            topic.interest.unseat(left.watching());
            self.hub.shared.table.meters.subscriptions.decrement(1.0);
        }
        if topic.subscriptions.is_empty() {
            let left = self.topics.remove(local);
            self.by_name.remove(&left.seat.feed().topic);
        }
    }
}
