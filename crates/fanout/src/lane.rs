//! One thread's share of the sessions.

mod batch;
mod driver;
mod portion;
mod post;
mod roster;

use std::cell::{Cell, RefCell, RefMut};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use pushonce_core::{FetchError, From, Options, Position, Topic};

pub use driver::Driver;
pub use roster::SessionKey;

use crate::wakes::Wakes;
use crate::{Hub, Outlet, Subscribed, Wire};
use roster::{Roster, Ticket};

/// A lane's handle: sessions come, subscribe and go by it. Cheap to clone; it stays on its thread.
///
/// Nothing is offered from within these calls: all frames flow in the [`Driver`].
#[derive(Clone)]
pub struct Lane {
    shared: Rc<Shared>,
}

struct Shared {
    hub: Hub,
    /// Borrowed for the length of a call or of a driver's turn, never over an await.
    roster: RefCell<Roster>,
    wakes: Arc<Wakes>,
    /// The longest that news has waited, since this was asked last.
    lag: Cell<Duration>,
    /// The shortest rest of those who take the newest alone.
    widened: Cell<Duration>,
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
    TooMany {
        /// The bound.
        max: usize,
    },
    /// The past that was asked for, or the topic itself, cannot be had.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// The session closed, or withdrew the subscription, while it was being made.
    #[error("the session closed or withdrew the subscription while it was being made")]
    Gone,
}

impl Lane {
    pub(crate) fn new(hub: Hub) -> (Lane, Driver) {
        let roster = RefCell::new(Roster::new(hub.clone()));
        let (wakes, lag, widened) = (Arc::default(), Cell::default(), Cell::default());
        let lane = Lane { shared: Rc::new(Shared { hub, roster, wakes, lag, widened }) };
        (lane.clone(), Driver::new(lane))
    }

    fn roster(&self) -> RefMut<'_, Roster> {
        self.shared.roster.borrow_mut()
    }

    /// Takes a session in. Its frames are of `wire` and go to `outlet`, which the lane borrows
    /// while the driver runs and at no other time.
    pub fn open(&self, wire: Wire, outlet: Rc<RefCell<dyn Outlet>>) -> SessionKey {
        self.roster().open(wire, outlet)
    }

    /// Subscribes a session to a topic, from where it wants. Frames flow after [`Lane::start`], and
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
        from: From,
        options: Options,
    ) -> Result<Subscribed, SubscribeError> {
        let hub = &self.shared.hub.shared;
        let ticket = self.roster().reserve(session, &topic, hub.config.subscriptions_max)?;
        let _opening = Opening { lane: self, session, ticket };
        let begun = hub.begin(&topic, from).await?;
        let subscribed = begun.start.answer();
        let wakes = &self.shared.wakes;
        let seated = self.roster().enter(session, ticket, token, &options, begun, wakes);
        if seated { Ok(subscribed) } else { Err(SubscribeError::Gone) }
    }

    /// Lets the frames of a subscription flow: to be called when the answer to the subscriber is on
    /// its way, so that no message overtakes it. A gap that was found comes first.
    pub fn start(&self, session: SessionKey, topic: &Topic) {
        self.roster().start(session, topic);
        self.shared.wakes.nudge();
    }

    /// Ends a subscription, or one that is being made. Says whether there was one. Nothing of the
    /// topic is offered to the session after this.
    pub fn unsubscribe(&self, session: SessionKey, topic: &Topic) -> bool {
        self.roster().unsubscribe(session, topic)
    }

    /// A blocked outlet has room: all subscriptions of the session go on from their cursors.
    pub fn writable(&self, session: SessionKey) {
        if self.roster().unblock(session) {
            self.shared.wakes.nudge();
        }
    }

    /// How far each started subscription was brought, for heartbeats, with its token: the newest
    /// position that the outlet has taken, or where the subscription began. Those of topics that are
    /// stale are left out.
    pub fn positions(&self, session: SessionKey) -> Vec<(u32, Topic, Position)> {
        self.roster().positions(session)
    }

    /// The longest that news of a topic has waited for its walk over the subscribers to end, since this
    /// was asked last.
    pub fn take_lag(&self) -> Duration {
        self.shared.lag.take()
    }

    /// From now on those who take the newest alone rest at least so long after each message. Zero: as
    /// long as they asked for.
    pub fn widen(&self, rest: Duration) {
        self.shared.widened.set(rest);
    }

    /// Forgets a session and all its subscriptions, at once.
    pub fn close(&self, session: SessionKey) {
        self.roster().close(session);
    }
}

/// A subscription that is being made. However that ends, the reservation ends with it.
struct Opening<'a> {
    lane: &'a Lane,
    session: SessionKey,
    ticket: Ticket,
}

impl Drop for Opening<'_> {
    fn drop(&mut self) {
        self.lane.roster().release(self.session, self.ticket);
    }
}
