//! A lane: one thread's share of the sessions.

mod batch;
mod dispatcher;
mod driver;
mod lag;
mod reservations;
mod subscription_batch;
mod subscription_table;

use std::cell::{Cell, RefCell, RefMut};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use pushonce_core::{FetchError, Position, StartFrom, SubscribeAck, SubscribeOptions, Topic};

pub use driver::LaneDriver;
pub use lag::{LagScan, SessionLag};
pub use subscription_table::SessionKey;

use crate::dirty_topics::DirtyTopics;
use crate::{FrameSink, Hub, WireFormat};
use reservations::Reservation;
use subscription_table::SubscriptionTable;

/// The handle of a lane, through which sessions are opened, subscribed and closed. Cheap to clone; it stays
/// on its thread.
///
/// These calls offer no frames: all frames are offered by the [`LaneDriver`].
#[derive(Clone)]
pub struct Lane {
    shared: Rc<LaneShared>,
}

struct LaneShared {
    hub: Hub,
    /// Borrowed for the length of a call or of a turn of the driver, never across an await.
    table: RefCell<SubscriptionTable>,
    dirty_topics: Arc<DirtyTopics>,
    /// The longest time that a change waited since [`Lane::take_lag_max`] was last called.
    lag_max: Cell<Duration>,
    /// Minimum pause of `latest` subscriptions after each message.
    latest_min_interval: Cell<Duration>,
}

/// Why a subscription was rejected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubscribeError {
    /// The session is subscribed to the topic, or is subscribing to it.
    #[error("this session is already subscribed to the topic; unsubscribe first")]
    AlreadySubscribed,
    /// The session has the maximum number of subscriptions.
    #[error(
        "a session can subscribe to at most {max} topics; unsubscribe from one or open another session"
    )]
    TooManySubscriptions {
        /// The maximum number of subscriptions of a session.
        max: usize,
    },
    /// The history or the topic itself is unavailable.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// The session was closed, or the subscription cancelled, before it was established.
    #[error("the session was closed or unsubscribed before the subscription was established")]
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

    /// Opens a session. Its frames are encoded as `wire` and offered to `sink`, which is borrowed only
    /// while the driver runs.
    pub fn open_session(&self, wire: WireFormat, sink: Rc<RefCell<dyn FrameSink>>) -> SessionKey {
        self.table().open_session(wire, sink)
    }

    /// Subscribes a session to a topic, starting at `from`. Frames are sent after [`Lane::start_delivery`]
    /// and carry `token`. Cancel safe: dropping the future leaves no subscription.
    ///
    /// Without `options.delivery` every message is delivered: the caller applies the default of the
    /// namespace. With `latest` or a rate, the newest message of the requested history comes first. With
    /// `report_audience` the session is sent the cluster-wide number of subscribers whenever it changes, at
    /// most once a second.
    ///
    /// # Errors
    /// [`SubscribeError`]; the session is unchanged in that case.
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
        let _guard = ReservationGuard { lane: self, reservation };
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

    /// Starts the delivery of a subscription. Call it once the reply to the subscriber is queued, so that
    /// no message overtakes the reply. The initial gap, if any, comes first.
    pub fn start_delivery(&self, session: SessionKey, topic: &Topic) {
        self.table().start_delivery(session, topic);
        self.shared.dirty_topics.wake();
    }

    /// Ends a subscription, established or not. Returns its token; `None` if there is none. No frame of the
    /// topic is offered to the session afterwards.
    pub fn unsubscribe(&self, session: SessionKey, topic: &Topic) -> Option<u32> {
        self.table().unsubscribe(session, topic)
    }

    /// Marks a blocked sink as writable: all subscriptions of the session continue from their cursors.
    pub fn on_writable(&self, session: SessionKey) {
        if self.table().unblock_session(session) {
            self.shared.dirty_topics.wake();
        }
    }

    /// The position of each started subscription, with its token, for heartbeats: the newest position that
    /// the sink accepted, or the start. Subscriptions of stale topics are omitted.
    pub fn positions(&self, session: SessionKey) -> Vec<(u32, Topic, Position)> {
        self.table().positions(session)
    }

    /// The topics of all subscriptions of a session, established or not.
    pub fn topics(&self, session: SessionKey) -> Vec<Topic> {
        self.table().topics(session)
    }

    /// The longest time from a change of a topic to the end of its walk over the subscribers, since the
    /// last call.
    pub fn take_lag_max(&self) -> Duration {
        self.shared.lag_max.take()
    }

    /// Sets the minimum pause of `latest` subscriptions after each message. Zero restores the pause that
    /// each subscription requested.
    pub fn set_latest_min_interval(&self, interval: Duration) {
        self.shared.latest_min_interval.set(interval);
    }

    /// Sets the label by which the caller finds a session of [`Lane::scan_lag`]. It is 0 before.
    pub fn set_label(&self, session: SessionKey, label: u32) {
        if let Some(session) = self.table().session(session) {
            session.label = label;
        }
    }

    /// Continues a search for slow sessions with the next `subscriptions_max` subscriptions. Returns whether the search
    /// is complete. 10,000 subscriptions that are up to date take 0.9 ms in an unoptimized build.
    pub fn scan_lag(&self, scan: &mut LagScan, subscriptions_max: usize) -> bool {
        self.table().scan_lag(scan, subscriptions_max)
    }

    /// Closes a session and removes all its subscriptions immediately.
    pub fn close_session(&self, session: SessionKey) {
        self.table().close_session(session);
    }
}

/// Releases the reservation of a subscription when its set-up ends, successful or not.
struct ReservationGuard<'a> {
    lane: &'a Lane,
    reservation: Reservation,
}

impl Drop for ReservationGuard<'_> {
    fn drop(&mut self) {
        self.lane.table().release_reservation(self.reservation);
    }
}
