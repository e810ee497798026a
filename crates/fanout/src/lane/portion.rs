//! What one subscription is offered, and how far it moves by what of it was taken.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;

use super::batch::{Batch, Known};
use super::roster::{Session, Subscription};
use crate::Run;
use crate::feed::Feed;
use crate::hub::Shared;
use crate::metrics::Meters;

/// Which of its parts is the batch.
const BATCH: usize = 1;

/// Nothing is moved until frames of it are taken.
pub(super) struct Portion {
    batch: Rc<Batch>,
    /// Boxed because hardly any portion has some.
    aside: Option<Box<Aside>>,
}

/// Frames that are of no message.
struct Aside {
    /// Before the batch: the gap that was found when the subscription began.
    gap: Option<Bytes>,
    /// Behind it: how the topic stands, for one who is level then and does not know.
    standing: Option<Bytes>,
    /// The last: how many watch, for one who is level then, asked, and does not know.
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
        known: &mut Known,
        shared: &Shared,
    ) -> Portion {
        let shape = subscription.shape(session.wire);
        let batch = Rc::clone(known.get(shape, subscription.cursor, feed, shared));
        let mut portion = Portion { batch, aside: None };
        let Portion { batch, .. } = &portion;
        let sum = subscription.audience.and(batch.audience.as_ref());
        let sum = sum.filter(|sum| subscription.audience != Some(sum.sessions) && !batch.more);
        let stands = subscription.standing == batch.standing || batch.more;
        if subscription.gap.is_some() || sum.is_some() || !stands {
            let (wire, topic, encode) = (session.wire, &feed.topic, &*shared.encode);
            let reached = batch.ends.last().copied().unwrap_or(subscription.cursor);
            let aside = Aside {
                gap: subscription.gap.as_ref().map(|gap| encode.gap(wire, topic, gap)),
                standing: (!stands).then(|| encode.standing(wire, topic, batch.standing, reached)),
                audience: sum.map(|sum| sum.frame(wire, topic, encode)),
            };
            portion.aside = Some(Box::new(aside));
        }
        portion
    }

    /// Whether something came since it was made.
    pub(super) fn is_old(&self, feed: &Feed) -> bool {
        self.batch.is_old(feed)
    }

    /// How many frames.
    pub(super) fn len(&self) -> usize {
        self.parts().iter().map(|frames| frames.len()).sum()
    }

    pub(super) fn runs(&self, token: u32) -> [Run<'_>; 4] {
        let mut runs = self.parts().map(|frames| Run { token, frames, joined: None });
        runs[BATCH].joined = self.batch.joined.get();
        runs
    }

    fn parts(&self) -> [&[Bytes]; 4] {
        let Some(Aside { gap, standing, audience }) = self.aside.as_deref() else {
            return [&[], &self.batch.frames, &[], &[]];
        };
        [gap.as_slice(), &self.batch.frames, standing.as_slice(), audience.as_slice()]
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
