//! What is due at a cursor, as frames; and one offer of it.

use std::sync::Arc;

use bytes::Bytes;
use pushonce_core::{GapReason, Position};

use super::roster::{Base, Session, Shape, Subscription};
use crate::audience::Sum;
use crate::feed::Feed;
use crate::hub::Shared;
use crate::{Closed, Standing};

/// The most messages of one offer. Enough that a write of small frames is bounded by bytes and not
/// by calls; few enough that one subscriber's past does not hold up the others' present.
const MESSAGES_MAX: usize = 64;

/// What came of an offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing was due.
    Level,
    /// All that was offered was taken.
    Taken {
        /// There may be more: what was offered was as much as one offer takes.
        more: bool,
    },
    /// The rest waits for the outlet.
    Blocked,
    /// The session is over.
    Closed,
}

/// Frames that follow a cursor.
struct Batch {
    shape: Shape,
    after: Position,
    frames: Vec<Bytes>,
    /// The cursor behind each frame.
    ends: Vec<Position>,
    /// Of the first frame, if that tells a gap.
    gap: Option<GapReason>,
    more: bool,
    /// What holds once all of it was shown.
    standing: Standing,
    audience: Option<Arc<Sum>>,
}

/// The batches of one look at one topic. Subscribers that keep up all stand at the same cursor, so
/// the ring is asked once for all of them. Kept no longer than one look: what comes later is told to
/// the lane again.
#[derive(Default)]
pub(super) struct Batches {
    /// Which topic, by its index in the lane.
    topic: usize,
    /// The newest of each shape in use.
    known: Vec<Batch>,
}

impl Batches {
    pub(super) fn clear(&mut self) {
        self.known.clear();
    }

    /// Makes them those of `topic`.
    pub(super) fn of(&mut self, topic: usize) -> &mut Batches {
        if self.topic != topic {
            self.clear();
            self.topic = topic;
        }
        self
    }

    fn get(&mut self, shape: Shape, after: Position, feed: &Feed, shared: &Shared) -> &Batch {
        let index = match self.known.iter().position(|batch| batch.shape == shape) {
            Some(index) if self.known[index].after == after => index,
            Some(index) => {
                self.known[index] = Batch::make(shape, after, feed, shared);
                index
            }
            None => {
                self.known.push(Batch::make(shape, after, feed, shared));
                self.known.len() - 1
            }
        };
        &self.known[index]
    }
}

impl Batch {
    fn make(shape: Shape, after: Position, feed: &Feed, shared: &Shared) -> Batch {
        let Shape { wire, base, pick } = shape;
        let (due, standing, audience) = {
            let state = feed.state();
            let due = pick.due(&state, after, MESSAGES_MAX).unwrap_or_default();
            (due, state.standing(), state.audience().cloned())
        };
        // The topic's lock is free again: frames are made beside the relay's task, not before it.
        let encode = &*shared.encode;
        let gap = due.gap.map(|gap| (encode.gap(wire, &feed.topic, &gap), gap.to));
        let mut before = due.before.filter(|_| base == Base::Held);
        let messages = due.entries.iter().map(|entry| {
            let frame = match &before {
                Some(before) => entry.difference(before, wire, &feed.topic, encode),
                None => entry.frame(wire, &feed.topic, encode),
            };
            before = (base != Base::Unwanted).then(|| Arc::clone(&entry.message));
            (frame, entry.message.position)
        });
        let (frames, ends) = gap.into_iter().chain(messages).unzip();
        let more = due.entries.len() == MESSAGES_MAX;
        let gap = due.gap.map(|gap| gap.reason);
        Batch { shape, after, frames, ends, gap, more, standing, audience }
    }
}

/// Offers a subscription what is due to it, and moves its cursor behind what was taken.
pub(super) fn offer(
    subscription: &mut Subscription,
    session: &Session,
    feed: &Feed,
    batches: &mut Batches,
    shared: &Shared,
) -> Step {
    let step = match tell_gap(subscription, session, feed, shared) {
        Some(step) => step,
        None => {
            let shape = subscription.shape(session.wire);
            let batch = batches.get(shape, subscription.cursor, feed, shared);
            let standing = batch.standing;
            let audience = subscription.audience.and_then(|_| batch.audience.clone());
            match offer_batch(subscription, session, batch, shared) {
                step @ (Step::Level | Step::Taken { more: false }) => {
                    tell_standing(subscription, session, standing, feed, shared)
                        .or_else(|| tell_audience(subscription, session, audience, feed, shared))
                        .unwrap_or(step)
                }
                step => step,
            }
        }
    };
    if matches!(step, Step::Level | Step::Taken { more: false } | Step::Blocked) {
        subscription.hold = None;
    }
    subscription.blocked = step == Step::Blocked;
    step
}

/// Tells the gap that was found when the subscription began. None: there is none (any more).
fn tell_gap(
    subscription: &mut Subscription,
    session: &Session,
    feed: &Feed,
    shared: &Shared,
) -> Option<Step> {
    let gap = subscription.gap.as_ref()?;
    let frame = shared.encode.gap(session.wire, &feed.topic, gap);
    match write(subscription.token, session, &[frame]) {
        Err(Closed) => Some(Step::Closed),
        Ok((0, _)) => Some(Step::Blocked),
        Ok((_, blocked)) => {
            shared.table.meters.gap(gap.reason);
            subscription.gap = None;
            blocked.then_some(Step::Blocked)
        }
    }
}

/// Tells one who is level how the topic stands, unless it knows.
fn tell_standing(
    subscription: &mut Subscription,
    session: &Session,
    standing: Standing,
    feed: &Feed,
    shared: &Shared,
) -> Option<Step> {
    if subscription.standing == standing {
        return None;
    }
    let frame = shared.encode.standing(session.wire, &feed.topic, standing, subscription.cursor);
    match write(subscription.token, session, &[frame]) {
        Err(Closed) => Some(Step::Closed),
        Ok((0, _)) => Some(Step::Blocked),
        Ok((_, blocked)) => {
            subscription.standing = standing;
            blocked.then_some(Step::Blocked)
        }
    }
}

/// Tells one who is level, and asked, how many watch, unless it knows.
fn tell_audience(
    subscription: &mut Subscription,
    session: &Session,
    audience: Option<Arc<Sum>>,
    feed: &Feed,
    shared: &Shared,
) -> Option<Step> {
    let sum = audience.filter(|sum| subscription.audience != Some(sum.sessions))?;
    let frame = sum.frame(session.wire, &feed.topic, &*shared.encode);
    match write(subscription.token, session, &[frame]) {
        Err(Closed) => Some(Step::Closed),
        Ok((0, _)) => Some(Step::Blocked),
        Ok((_, blocked)) => {
            subscription.audience = Some(sum.sessions);
            blocked.then_some(Step::Blocked)
        }
    }
}

fn offer_batch(
    subscription: &mut Subscription,
    session: &Session,
    batch: &Batch,
    shared: &Shared,
) -> Step {
    if batch.frames.is_empty() {
        return Step::Level;
    }
    let Ok((taken, blocked)) = write(subscription.token, session, &batch.frames) else {
        return Step::Closed;
    };
    let Some(end) = taken.checked_sub(1).and_then(|last| batch.ends.get(last)) else {
        return Step::Blocked;
    };
    let messages = taken - usize::from(batch.gap.is_some());
    subscription.cursor = *end;
    subscription.has_last = messages > 0;
    shared.table.meters.deliveries.increment(messages as u64);
    if let Some(reason) = batch.gap {
        shared.table.meters.gap(reason);
    }
    if blocked { Step::Blocked } else { Step::Taken { more: batch.more } }
}

/// How many were taken, and whether the outlet is blocked now. An outlet that the gateway holds
/// borrowed takes nothing, as if it were blocked.
fn write(token: u32, session: &Session, frames: &[Bytes]) -> Result<(usize, bool), Closed> {
    let Ok(mut outlet) = session.outlet.try_borrow_mut() else { return Ok((0, true)) };
    let offered = outlet.offer(token, frames)?;
    let taken = offered.taken.min(frames.len());
    Ok((taken, offered.blocked || taken < frames.len()))
}
