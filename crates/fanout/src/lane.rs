//! One thread's share of the sessions.

mod batch;
mod dispatcher;
mod driver;
mod subscription_batch;
mod subscription_table;

use std::cell::{Cell, RefCell, RefMut};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use pushonce_core::{FetchError, Position, StartFrom, SubscribeOptions, Topic};

pub use driver::LaneDriver;
pub use subscription_table::SessionKey;

use crate::dirty_topics::DirtyTopics;
use crate::{FrameSink, Hub, SubscribeAck, WireFormat};
use subscription_table::{Reservation, SubscriptionTable};

/// A lane's handle: sessions come, subscribe and go by it. Cheap to clone; it stays on its thread.
///
/// Nothing is offered from within these calls: all frames flow in the [`LaneDriver`].
#[derive(Clone)]
pub struct Lane {
    shared: Rc<LaneShared>,
}

struct LaneShared {
    hub: Hub,
    /// Borrowed for the length of a call or of a driver's turn, never over an await.
    table: RefCell<SubscriptionTable>,
    dirty_topics: Arc<DirtyTopics>,
    /// The longest that news has waited, since this was asked last.
    lag_max: Cell<Duration>,
    /// The shortest rest of those who take the newest alone.
    latest_min_interval: Cell<Duration>,
}

/// Why a subscription was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubscribeError {
    /// The session has a subscription of this topic, or is about to.
    #[error("this session is subscribed to the topic already; unsubscribe first")]
    AlreadySubscribed,
    /// The session has all the subscriptions it may have.
    #[error(
        "a session may subscribe to {max} topics; unsubscribe from one or open another session"
    )]
    TooManySubscriptions {
        /// The bound.
        max: usize,
    },
    /// The past that was asked for, or the topic itself, cannot be had.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// The session closed, or withdrew the subscription, while it was being made.
    #[error("the session closed or withdrew the subscription while it was being made")]
    Cancelled,
}

impl Lane {
    pub(crate) fn new(hub: Hub) -> (Lane, LaneDriver) {
        let table = RefCell::new(SubscriptionTable::new(hub.clone()));
        let (dirty_topics, lag_max, latest_min_interval) =
            (Arc::default(), Cell::default(), Cell::default());
        let lane = Lane {
            shared: Rc::new(LaneShared { hub, table, dirty_topics, lag_max, latest_min_interval }),
        };
        (lane.clone(), LaneDriver::new(lane))
    }

    fn table(&self) -> RefMut<'_, SubscriptionTable> {
        self.shared.table.borrow_mut()
    }

    /// Takes a session in. Its frames are of `wire` and go to `sink`, which the lane borrows
    /// while the driver runs and at no other time.
    pub fn open_session(&self, wire: WireFormat, sink: Rc<RefCell<dyn FrameSink>>) -> SessionKey {
        self.table().open_session(wire, sink)
    }

    /// Subscribes a session to a topic, from where it wants. Frames flow after [`Lane::start_delivery`], and
    /// bear `token`. Dropped while it waits, it leaves nothing behind.
    ///
    /// Where `options` name no delivery it is `all`: what a namespace says is the caller's to know.
    /// Under `latest` and `rate` the newest message of the past that is asked for comes first. With
    /// `audience` it is told how many watch the topic in the whole cluster, whenever that changes, once a
    /// second at most.
    ///
    /// # Errors
    /// [`SubscribeError`]; nothing was changed then.
    pub async fn subscribe(
        &self,
        session: SessionKey,
        token: u32,
        topic: Topic,
        from: StartFrom,
        options: SubscribeOptions,
    ) -> Result<SubscribeAck, SubscribeError> {
        let hub = &self.shared.hub.shared;
        let subscriptions_max = hub.config.subscriptions_max;
        let reservation = self.table().reserve(session, token, &topic, subscriptions_max)?;
        let _guard = ReservationGuard { lane: self, session, reservation };
        let prepared = hub.prepare(&topic, from).await?;
        let ack = prepared.start.to_ack();
        let dirty_topics = &self.shared.dirty_topics;
        let inserted = self.table().insert_subscription(
            session,
            reservation,
            token,
            &options,
            prepared,
            dirty_topics,
        );
        if inserted { Ok(ack) } else { Err(SubscribeError::Cancelled) }
    }

    /// Lets the frames of a subscription flow: to be called when the answer to the subscriber is on
    /// its way, so that no message overtakes it. A gap that was found comes first.
    pub fn start_delivery(&self, session: SessionKey, topic: &Topic) {
        self.table().start_delivery(session, topic);
        self.shared.dirty_topics.wake();
    }

    /// Ends a subscription, or one that is being made. Returns its token; `None` if there is none. Nothing
    /// of the topic is offered to the session afterwards.
    pub fn unsubscribe(&self, session: SessionKey, topic: &Topic) -> Option<u32> {
        self.table().unsubscribe(session, topic)
    }

    /// A blocked outlet has room: all subscriptions of the session go on from their cursors.
    pub fn on_writable(&self, session: SessionKey) {
        if self.table().unblock_session(session) {
            self.shared.dirty_topics.wake();
        }
    }

    /// How far each started subscription was brought, for heartbeats, with its token: the newest
    /// position that the outlet has taken, or where the subscription began. Those of topics that are
    /// stale are left out.
    pub fn positions(&self, session: SessionKey) -> Vec<(u32, Topic, Position)> {
        self.table().positions(session)
    }

    /// The longest that news of a topic has waited for its walk over the subscribers to end, since this
    /// was asked last.
    pub fn take_lag_max(&self) -> Duration {
        self.shared.lag_max.take()
    }

    /// From now on those who take the newest alone rest at least so long after each message. Zero: as
    /// long as they asked for.
    pub fn set_latest_min_interval(&self, interval: Duration) {
        self.shared.latest_min_interval.set(interval);
    }

    /// Forgets a session and all its subscriptions, at once.
    pub fn close_session(&self, session: SessionKey) {
        self.table().close_session(session);
    }
}

/// A subscription that is being made. However that ends, the reservation ends with it.
struct ReservationGuard<'a> {
    lane: &'a Lane,
    session: SessionKey,
    reservation: Reservation,
}

impl Drop for ReservationGuard<'_> {
    fn drop(&mut self) {
        self.lane.table().release_reservation(self.session, self.reservation);
    }
}
