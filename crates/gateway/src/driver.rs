//! Does what the session decides: the thin loop around [`Session`], the same for every transport.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::channel::mpsc::{self, UnboundedSender};
use futures::future::LocalBoxFuture;
use pushonce_core::{
    Acknowledgement, Delivery, Position, Publish, PublishError, StartFrom, SubscribeOptions, Topic,
};
use pushonce_fanout::{FrameSink, SessionKey, WireFormat};
use pushonce_proto::client::{ClientRequest, InvalidFrame, ServerEvent};
use pushonce_proto::close::{self, CloseCode};

use crate::encoder;
use crate::lane::LaneState;
use crate::liveness::{Activity, KeepaliveAction, Liveness};
use crate::metrics::{self, TransportKind};
use crate::registry::{RegisteredSession, SessionSlot};
use crate::rejection::{self, SubscribeRejection};
use crate::session::{self, Session, SessionEffect, SessionInput, SubscriptionGrant};

/// How a session is heard and answered. Everything but [`SessionTransport::open`] returns at once.
pub(crate) trait SessionTransport: 'static {
    /// Which door it is.
    const KIND: TransportKind;

    /// What its frames are.
    fn wire(&self) -> WireFormat;

    /// Where the hub's frames go.
    fn sink(&self) -> Rc<RefCell<dyn FrameSink>>;

    /// Whether messages may go as datagrams.
    fn supports_datagrams(&self) -> bool {
        false
    }

    /// Makes a way for the frames of a subscription, where each has its own; its messages may go as
    /// datagrams, if they are wanted. Where `delivery` is not every message, little may wait behind it:
    /// what was sent cannot be replaced by what is newer.
    fn open_subscription(
        &self,
        token: u32,
        topic: &Topic,
        delivery: Delivery,
        datagrams: bool,
    ) -> LocalBoxFuture<'static, Result<(), StreamUnavailable>>;

    /// The subscription is over.
    fn close_subscription(&self, token: u32);

    /// Queues answers to requests, whole as they go onto the wire.
    fn reply(&self, frames: Bytes);

    /// Queues the heartbeat: each position, of a subscription known by its token, behind every frame
    /// that it counts.
    fn send_heartbeat(&self, positions: Vec<(u32, Topic, Position)>);

    /// Asks whether the other side is there.
    fn send_ping(&self);

    /// Ends the session once what is queued was sent.
    fn close(&self, close: &'static CloseCode, reason: &str);

    /// What happened since this was asked last.
    fn take_activity(&self) -> Activity;
}

/// The client does not let a subscription have the stream it needs.
pub(crate) struct StreamUnavailable;

/// A session at its lane.
pub(crate) struct SessionDriver<T: SessionTransport> {
    lane: Rc<LaneState>,
    transport: T,
    key: SessionKey,
    session: RefCell<Session>,
    /// Where its publishes go, while there are any. No longer than the session's limits let it get.
    publish_sender: RefCell<Option<UnboundedSender<Publish>>>,
    liveness: Cell<Liveness>,
    slot: Cell<Option<SessionSlot>>,
}

impl<T: SessionTransport> SessionDriver<T> {
    /// Seats a session at the lane. [`SessionDriver::end`] must follow.
    pub(crate) fn start(lane: Rc<LaneState>, transport: T) -> Rc<SessionDriver<T>> {
        let key = lane.fanout.open_session(transport.wire(), transport.sink());
        let metrics = lane.metrics.for_transport(T::KIND);
        metrics.accepted.increment(1);
        metrics.sessions.increment(1.0);
        let driver = Rc::new(SessionDriver {
            key,
            transport,
            session: RefCell::new(Session::new(lane.limits.clone())),
            publish_sender: RefCell::default(),
            liveness: Cell::default(),
            slot: Cell::new(None),
            lane,
        });
        driver.slot.set(Some(driver.lane.sessions.insert(driver.clone())));
        if driver.lane.draining.is_cancelled() {
            // It came through the door while the others were told to go.
            driver.clone().drain(0);
        }
        driver
    }

    /// The transport is gone: nobody is left to answer. What was to be published still is. Twice is
    /// once.
    pub(crate) fn stop(&self) {
        self.publish_sender.take();
        if let Some(slot) = self.slot.take() {
            self.lane.sessions.remove(slot);
            self.lane.fanout.close_session(self.key);
            self.lane.metrics.for_transport(T::KIND).sessions.decrement(1.0);
        }
    }

    pub(crate) fn transport(&self) -> &T {
        &self.transport
    }

    pub(crate) fn lane(&self) -> &LaneState {
        &self.lane
    }

    /// A frame came, or what should have been one.
    pub(crate) fn on_request(self: &Rc<Self>, request: Result<ClientRequest, InvalidFrame>) {
        self.lane.metrics.for_transport(T::KIND).frames_in.increment(1);
        self.handle_input(SessionInput::Request(request));
    }

    /// The session is to end from this side.
    pub(crate) fn close(self: &Rc<Self>, close: &'static CloseCode, reason: impl Into<String>) {
        self.handle_input(SessionInput::Close(close, reason.into()));
    }

    /// A way out that was blocked has room again.
    pub(crate) fn on_writable(&self) {
        self.lane.fanout.on_writable(self.key);
    }

    fn handle_input(self: &Rc<Self>, input: SessionInput) {
        let effects = self.session.borrow_mut().on_input(input);
        for effect in effects {
            self.perform(effect);
        }
    }

    /// Answers that came together: what they have the session say goes out together as well.
    fn on_publish_results(self: &Rc<Self>, results: Vec<Result<Acknowledgement, PublishError>>) {
        let mut replies = Vec::new();
        for result in results {
            let effects = self.session.borrow_mut().on_input(SessionInput::Published(result));
            for effect in effects {
                match effect {
                    SessionEffect::Reply(event) => replies.extend_from_slice(&self.encode(&event)),
                    effect => self.perform(effect),
                }
            }
        }
        if !replies.is_empty() {
            self.transport.reply(replies.into());
        }
    }

    fn perform(self: &Rc<Self>, effect: SessionEffect) {
        match effect {
            SessionEffect::Reply(event) => self.reply(&event),
            SessionEffect::Subscribe { token, topic, from, options } => {
                self.subscribe(token, topic, from, options);
            }
            SessionEffect::StartDelivery(topic) => {
                self.lane.fanout.start_delivery(self.key, &topic)
            }
            SessionEffect::Unsubscribe { id, topic } => {
                let token = self.lane.fanout.unsubscribe(self.key, &topic);
                if let Some(token) = token {
                    self.transport.close_subscription(token);
                }
                self.reply(&session::unsubscribe_reply(id, topic, token.is_some()));
            }
            SessionEffect::Publish(publish) => self.publish(publish),
            SessionEffect::PublishesDone => drop(self.publish_sender.take()),
            SessionEffect::Close(close, reason) => {
                metrics::count_closed(close);
                self.transport.close(close, &reason);
            }
        }
    }

    fn reply(&self, event: &ServerEvent) {
        self.transport.reply(self.encode(event));
    }

    fn encode(&self, event: &ServerEvent) -> Bytes {
        if let ServerEvent::Error { code, .. } = event {
            metrics::count_error(*code);
        }
        let wire = self.transport.wire();
        let payload = encoder::encoding(wire).encode_event(event);
        encoder::wrap(wire, &payload)
    }

    fn publish(self: &Rc<Self>, publish: Publish) {
        let mut sender_slot = self.publish_sender.borrow_mut();
        let sender = sender_slot.get_or_insert_with(|| self.start_publishing());
        // Nobody takes it when the lane ends, and then nobody waits for the answer.
        let _ = sender.unbounded_send(publish);
    }

    fn start_publishing(self: &Rc<Self>) -> UnboundedSender<Publish> {
        let (sender, receiver) = mpsc::unbounded();
        let results = self.lane.publisher.publish_ordered(receiver.boxed_local());
        let mut batches = results.ready_chunks(self.lane.limits.publishes_max);
        let driver = self.clone();
        self.lane.spawn(async move {
            while let Some(batch) = batches.next().await {
                driver.on_publish_results(batch);
            }
        });
        sender
    }

    fn subscribe(
        self: &Rc<Self>,
        token: u32,
        topic: Topic,
        from: StartFrom,
        options: SubscribeOptions,
    ) {
        let driver = self.clone();
        self.lane.spawn(async move {
            let result = driver.try_subscribe(token, &topic, from, options).await;
            driver.handle_input(SessionInput::Subscribed(topic, result));
        });
    }

    /// The hub first: a way that was made for a subscription which is then refused would come to
    /// the client as one that begins and ends for no reason.
    async fn try_subscribe(
        &self,
        token: u32,
        topic: &Topic,
        from: StartFrom,
        options: SubscribeOptions,
    ) -> Result<SubscriptionGrant, SubscribeRejection> {
        if let Some(rejection) = rejection::check_topic(topic) {
            return Err(rejection);
        }
        let fanout = &self.lane.fanout;
        let granted = self.lane.grant_delivery(topic, options.delivery);
        let delivery = granted.map_err(|error| rejection::from_rate_limit(&error))?;
        let supports_datagrams = self.transport.supports_datagrams();
        if options.use_datagrams
            && let Some(rejection) =
                rejection::check_datagrams(&options, delivery, supports_datagrams)
        {
            return Err(rejection);
        }
        let options = SubscribeOptions { delivery: Some(delivery), ..options };
        let subscribed = fanout.subscribe(self.key, token, topic.clone(), from, options).await;
        let subscribed = subscribed.map_err(|error| rejection::from_hub(&error))?;
        if let Err(StreamUnavailable) =
            self.transport.open_subscription(token, topic, delivery, options.use_datagrams).await
        {
            fanout.unsubscribe(self.key, topic);
            return Err(rejection::stream_unavailable());
        }
        Ok(SubscriptionGrant { subscribed, delivery })
    }

    fn send_goaway(&self, reconnect_within_ms: u32, retry_after_ms: u32, reason: &str) {
        self.reply(&ServerEvent::Goaway {
            after_ms: reconnect_within_ms,
            retry_after_ms,
            reason: reason.to_owned(),
        });
    }

    fn send_heartbeat(&self) {
        self.transport.send_heartbeat(self.lane.fanout.positions(self.key));
    }
}

impl<T: SessionTransport> RegisteredSession for SessionDriver<T> {
    fn on_interval(self: Rc<Self>) {
        let mut liveness = self.liveness.get();
        let action = liveness.on_interval(self.transport.take_activity());
        self.liveness.set(liveness);
        match action {
            KeepaliveAction::SendHeartbeat => self.send_heartbeat(),
            KeepaliveAction::SendHeartbeatAndPing => {
                self.send_heartbeat();
                self.transport.send_ping();
            }
            KeepaliveAction::Wait => {}
            KeepaliveAction::CloseIdle => {
                self.close(&close::IDLE, "nothing was heard of this client")
            }
            KeepaliveAction::CloseSlow => {
                self.close(&close::SLOW, "this client does not read what it is sent")
            }
        }
    }

    fn shed(self: Rc<Self>, retry_after_ms: u32) {
        let reason = "the server has more than it can bear; try another, or this one later";
        self.send_goaway(0, retry_after_ms, reason);
        self.close(&close::OVERLOADED, reason);
    }

    fn drain(self: Rc<Self>, reconnect_within_ms: u32) {
        self.send_goaway(reconnect_within_ms, 0, "the server is going away");
        self.close(&close::GOING_AWAY, "the server is going away");
    }
}

#[cfg(test)]
#[path = "driver/driver_test.rs"]
mod driver_test;
