//! What one subscription is offered, and how far it moves by what of it was taken.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;

use super::batch::{Batch, Batches};
use super::roster::{Session, Subscription};
use crate::Run;
use crate::feed::Feed;
use crate::hub::Shared;
use crate::metrics::Meters;

/// Frames, in this order. Nothing is moved until they are taken.
pub(super) struct Portion {
    /// The gap that was found when the subscription began.
    gap: Option<Bytes>,
    batch: Rc<Batch>,
    /// How the topic stands, for one who is level then and does not know.
    standing: Option<Bytes>,
    /// How many watch, for one who is level then, asked, and does not know.
    audience: Option<Bytes>,
}

/// What follows for a subscription.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Settled {
    /// There may be more for it, and nothing stands in the way.
    pub(super) more: bool,
    /// It was brought on, and rests for so long.
    pub(super) rest: Option<Duration>,
    /// How many messages it took.
    pub(super) messages: usize,
}

impl Portion {
    /// What is due to a subscription.
    pub(super) fn of(
        subscription: &Subscription,
        session: &Session,
        feed: &Feed,
        batches: &mut Batches,
        shared: &Shared,
    ) -> Portion {
        let (wire, topic, encode) = (session.wire, &feed.topic, &*shared.encode);
        let gap = subscription.gap.as_ref().map(|gap| encode.gap(wire, topic, gap));
        let batch = batches.get(subscription.shape(wire), subscription.cursor, feed, shared);
        let (standing, reached) = (batch.standing, batch.ends.last());
        let reached = reached.copied().unwrap_or(subscription.cursor);
        let ignorant = !batch.more && subscription.standing != standing;
        let standing = ignorant.then(|| encode.standing(wire, topic, standing, reached));
        let sum = batch.audience.as_ref().filter(|sum| {
            !batch.more && subscription.audience.is_some_and(|told| told != sum.sessions)
        });
        let audience = sum.map(|sum| sum.frame(wire, topic, encode));
        Portion { gap, batch: Rc::clone(batch), standing, audience }
    }

    /// How many frames.
    pub(super) fn len(&self) -> usize {
        self.parts().iter().map(|frames| frames.len()).sum()
    }

    pub(super) fn runs(&self, token: u32) -> [Run<'_>; 4] {
        self.parts().map(|frames| Run { token, frames })
    }

    fn parts(&self) -> [&[Bytes]; 4] {
        let Portion { gap, batch, standing, audience } = self;
        [gap.as_slice(), &batch.frames, standing.as_slice(), audience.as_slice()]
    }

    /// Moves the subscription behind so many frames, which were taken; with the rest it may be blocked.
    /// `widened`: how long those who take the newest alone rest at least.
    pub(super) fn settle(
        &self,
        subscription: &mut Subscription,
        taken: usize,
        blocked: bool,
        widened: Duration,
        meters: &Meters,
    ) -> Settled {
        let mut left = taken;
        let [gap, batch, standing, audience] = self.parts().map(|frames| {
            let taken = frames.len().min(left);
            left -= taken;
            taken
        });
        if gap > 0
            && let Some(gap) = subscription.gap.take()
        {
            meters.gap(gap.reason);
        }
        let messages = self.bring_on(subscription, batch, meters);
        if standing > 0 {
            subscription.standing = self.batch.standing;
        }
        if audience > 0 {
            subscription.audience = self.batch.audience.as_ref().map(|sum| sum.sessions);
        }
        subscription.blocked = blocked;
        let more = self.batch.more && !blocked;
        if !more {
            subscription.hold = None;
        }
        let rest = subscription.rests_for(widened).filter(|_| batch > 0);
        Settled { more, rest, messages }
    }

    /// Moves the cursor behind so many frames of the batch. Says how many of these were messages.
    fn bring_on(&self, subscription: &mut Subscription, taken: usize, meters: &Meters) -> usize {
        let batch = &*self.batch;
        let Some(end) = taken.checked_sub(1).and_then(|last| batch.ends.get(last)) else {
            return 0;
        };
        if let Some(reason) = batch.gap {
            meters.gap(reason);
        }
        let messages = taken - usize::from(batch.gap.is_some());
        subscription.cursor = *end;
        subscription.has_last = messages > 0;
        messages
    }
}
