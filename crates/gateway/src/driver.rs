//! Performs the effects of the pure [`Session`], the same way for every transport.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::channel::mpsc::{self, UnboundedSender};
use futures::future::LocalBoxFuture;
use futures::{FutureExt as _, StreamExt as _};
use pushonce_auth::{AccessError, Action, Caller, PublishDoor, audit};
use pushonce_core::{
    AccessToken, Acknowledgement, CallerKey, ClientAddress, Delivery, Position, Publish,
    PublishError, StartFrom, SubscribeOptions, Topic,
};
use pushonce_fanout::{FrameSink, SessionKey, WireFormat};
use pushonce_listener::Holding;
use pushonce_proto::client::{ClientCommand, ClientRequest, InvalidFrame, ServerEvent};
use pushonce_proto::close::{self, CloseCode};
use tokio::time::Instant;

use crate::access_watch::AccessCheck;
use crate::lane::LaneState;
use crate::limits::RateExceeded;
use crate::liveness::{Activity, KeepaliveAction, Liveness};
use crate::metrics::{self, TransportKind, TransportMetrics};
use crate::registry::{RegisteredSession, SessionSlot};
use crate::rejection::{self, SubscribeRejection};
use crate::session::{
    self, AccessGate as _, ReceiveState, Session, SessionEffect, SessionInput, SubscriptionGrant,
};
use crate::slow_sessions::SessionDescription;
use crate::work::{self, WorkMeter};
use crate::{Config, encoder};

/// The transport of one session. Every method except [`SessionTransport::open_subscription`] returns at once.
pub(crate) trait SessionTransport: 'static {
    /// The kind of transport, for metrics.
    fn kind(&self) -> TransportKind;

    /// The format of the frames on this transport.
    fn wire(&self) -> WireFormat;

    /// The sink that receives the frames of the hub.
    fn sink(&self) -> Rc<RefCell<dyn FrameSink>>;

    /// Whether messages can be sent as datagrams.
    fn supports_datagrams(&self) -> bool {
        false
    }

    /// Opens the stream of a subscription on transports that use one stream per subscription. With
    /// `datagrams`, messages may be sent as datagrams. If `delivery` is not [`Delivery::All`], the transport
    /// must buffer little: a message that was sent can no longer be replaced by a newer one.
    ///
    /// # Errors
    /// [`StreamUnavailable`] when the client does not allow another stream.
    fn open_subscription(
        &self,
        token: u32,
        topic: &Topic,
        delivery: Delivery,
        datagrams: bool,
    ) -> LocalBoxFuture<'static, Result<(), StreamUnavailable>>;

    /// Releases the resources of a subscription.
    fn close_subscription(&self, token: u32);

    /// The maximum age of the session, if there is one.
    fn age_max(&self, config: &Config) -> Option<Duration> {
        config.session_age_max
    }

    /// Queues a reply to a request, or an event of the session.
    fn reply_event(&self, event: &ServerEvent) {
        self.reply(encode(self.wire(), event));
    }

    /// Queues replies to requests, as complete encoded frames.
    fn reply(&self, frames: Bytes);

    /// Queues the heartbeat. The position of each subscription, identified by its token, must follow every
    /// frame that the position covers.
    fn send_heartbeat(&self, positions: Vec<(u32, Topic, Position)>);

    /// Whether [`SessionTransport::on_half_interval`] is to be called.
    fn needs_half_intervals(&self) -> bool {
        false
    }

    /// Handles the middle of a heartbeat interval.
    fn on_half_interval(&self) {}

    /// Sends a ping to check that the client is alive.
    fn send_ping(&self);

    /// Receives again after [`ReceiveState::Waiting`]. A transport that receives no frames has nothing to do.
    fn resume_receiving(&self) {}

    /// Ends the session after all queued frames were sent.
    fn close(&self, close: &'static CloseCode, reason: &str);

    /// The address of the client, if the connection still has one.
    fn remote_address(&self) -> Option<SocketAddr>;

    /// Returns the activity since the previous call.
    fn take_activity(&self) -> Activity;
}

/// The client does not allow the stream that a subscription needs.
pub(crate) struct StreamUnavailable;

/// The id of the next session in log lines, unique in this process. Only sessions that are logged have one.
pub(crate) fn next_session_id() -> u64 {
    static LAST_ID: AtomicU64 = AtomicU64::new(0);
    LAST_ID.fetch_add(1, Ordering::Relaxed) + 1
}

/// Drives one session on its lane.
pub(crate) struct SessionDriver<T: SessionTransport> {
    lane: Rc<LaneState>,
    transport: T,
    key: SessionKey,
    address: ClientAddress,
    session: RefCell<Session>,
    work: Cell<WorkMeter>,
    /// The queue of publishes, while any are pending. The limits of the session bound its length.
    publish_sender: RefCell<Option<UnboundedSender<Publish>>>,
    liveness: Cell<Liveness>,
    slot: Cell<Option<SessionSlot>>,
}

impl<T: SessionTransport> SessionDriver<T> {
    /// Registers a session with the lane. The caller must call [`SessionDriver::stop`] at the end.
    pub(crate) fn start(
        lane: Rc<LaneState>,
        transport: T,
        address: ClientAddress,
    ) -> Rc<SessionDriver<T>> {
        let key = lane.fanout.open_session(transport.wire(), transport.sink());
        let metrics = lane.metrics.for_transport(transport.kind());
        metrics.accepted.increment(1);
        metrics.sessions.increment(1.0);
        tracing::debug!("session opened");
        let driver = Rc::new(SessionDriver {
            key,
            transport,
            address,
            work: Cell::default(),
            session: RefCell::new(Session::new(lane.limits.clone())),
            publish_sender: RefCell::default(),
            liveness: Cell::default(),
            slot: Cell::new(None),
            lane,
        });
        let slot = driver.lane.sessions.insert(driver.clone());
        driver.lane.watch_age(slot.index(), driver.transport.age_max(&driver.lane.config));
        let label = u32::try_from(slot.index()).unwrap_or(u32::MAX);
        driver.lane.fanout.set_label(driver.key, label);
        driver.slot.set(Some(slot));
        if driver.lane.draining.is_cancelled() {
            // The session was accepted while the lane was already draining.
            driver.clone().drain(0);
        }
        driver
    }

    /// Unregisters the session after its transport closed. Pending publishes are still sent. Idempotent.
    pub(crate) fn stop(&self) {
        self.publish_sender.take();
        if let Some(slot) = self.slot.take() {
            self.lane.access_watch.remove(slot.index());
            self.lane.sessions.remove(slot);
            self.lane.fanout.close_session(self.key);
            tracing::debug!("session closed");
            self.metrics().sessions.decrement(1.0);
        }
    }

    pub(crate) fn transport(&self) -> &T {
        &self.transport
    }

    pub(crate) fn lane(&self) -> &LaneState {
        &self.lane
    }

    fn metrics(&self) -> &TransportMetrics {
        self.lane.metrics.for_transport(self.transport.kind())
    }

    /// The caller that limits are charged to: the address, until a token with a subject was verified.
    fn caller_key(&self) -> CallerKey {
        let session = self.session.borrow();
        let address = CallerKey::Address(self.address);
        session.caller().map_or(address, |caller| caller.key(self.address))
    }

    /// A publish that the session will refuse takes no part in the rates: their errors show the settings of the
    /// namespace.
    fn check_rate(&self, command: &ClientCommand) -> Result<(), RateExceeded> {
        let LaneState { client_limits, access, .. } = &*self.lane;
        match command {
            ClientCommand::Publish(publish) if self.may_publish(&publish.topic) => {
                Ok(client_limits.check_publish(&publish.topic, self.caller_key(), access)?)
            }
            ClientCommand::Subscribe { .. } => {
                let now = std::time::Instant::now();
                Ok(client_limits.caller_rates.check_subscribe(self.caller_key(), now)?)
            }
            ClientCommand::Publish(_)
            | ClientCommand::Unsubscribe { .. }
            | ClientCommand::Authenticate { .. } => Ok(()),
        }
    }

    fn may_publish(&self, topic: &Topic) -> bool {
        let session = self.session.borrow();
        let action = Action::Publish(topic, PublishDoor::Client);
        self.lane.allows(session.caller(), action)
    }

    /// Counts the topics that these publishes of the session created.
    fn count_new_topics(&self, results: &[Result<Acknowledgement, PublishError>]) {
        let (caller, now) = (self.caller_key(), std::time::Instant::now());
        for acknowledgement in results.iter().flatten() {
            self.lane.client_limits.caller_rates.on_acknowledged(acknowledgement, caller, now);
        }
    }

    /// What is received of the client now.
    pub(crate) fn receive_state(&self) -> ReceiveState {
        self.session.borrow().receive_state(&*self.lane)
    }

    /// Closes a session whose frame exceeds the bound.
    pub(crate) fn close_too_large(self: &Rc<Self>, text: &str) {
        let (close, reason) = self.session.borrow().too_large(&*self.lane, text);
        self.close(close, reason);
    }

    /// Begins a message of which a part was received.
    pub(crate) fn begin_partial_message(&self) -> Holding {
        self.lane.client_limits.receive_budget.begin(self.caller_key())
    }

    /// Charges the session for work of its lane. Returns how long it must not be read, if it must not.
    pub(crate) fn charge_work(&self, micros: u32) -> Option<Duration> {
        let mut work = self.work.get();
        let pause = work.charge(micros, std::time::Instant::now(), self.lane.started_at);
        self.work.set(work);
        let is_paused = !pause.is_zero();
        if is_paused {
            self.lane.metrics.reads_paused.increment(1);
        }
        is_paused.then_some(pause)
    }

    /// Handles a received frame, valid or not. Returns its cost in microseconds of the lane.
    pub(crate) fn on_request(self: &Rc<Self>, request: Result<ClientRequest, InvalidFrame>) -> u32 {
        self.metrics().frames_in.increment(1);
        let subscriptions = || self.lane.fanout.topics(self.key).len();
        let micros = match &request {
            Ok(request) => work::request_micros(&request.command, subscriptions),
            Err(_) => work::INVALID_FRAME_MICROS,
        };
        if let Ok(ClientRequest { id, command }) = &request
            && let Err(exceeded) = self.check_rate(command)
        {
            self.reply(&ServerEvent::rate_error(*id, &exceeded, exceeded.retry_after()));
            return micros;
        }
        self.handle_input(SessionInput::Request(request));
        micros
    }

    /// Makes the caller of the request that opened the session its caller.
    pub(crate) fn set_caller(self: &Rc<Self>, caller: Caller) {
        self.handle_input(SessionInput::Caller(caller));
    }

    /// Closes a session whose credential is not valid.
    pub(crate) fn refuse(self: &Rc<Self>, error: &AccessError) {
        self.record_refusal(error);
        self.reply(&ServerEvent::error(None, rejection::access_code(error), error));
        self.close(rejection::authentication_close(error), error.to_string());
    }

    /// Closes the session from the server side.
    pub(crate) fn close(self: &Rc<Self>, close: &'static CloseCode, reason: impl Into<String>) {
        self.handle_input(SessionInput::Close(close, reason.into()));
    }

    /// Notifies the hub that a blocked transport has room again.
    pub(crate) fn on_writable(&self) {
        self.lane.fanout.on_writable(self.key);
    }

    fn handle_input(self: &Rc<Self>, input: SessionInput) {
        let effects = self.session.borrow_mut().on_input(input, &*self.lane);
        for effect in effects {
            self.perform(effect);
        }
    }

    /// Handles results that arrived together; their replies are sent in one write.
    fn on_publish_results(self: &Rc<Self>, results: Vec<Result<Acknowledgement, PublishError>>) {
        self.count_new_topics(&results);
        let mut replies = Vec::new();
        for result in results {
            let effects =
                self.session.borrow_mut().on_input(SessionInput::Published(result), &*self.lane);
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
            SessionEffect::Authenticate(token) => self.authenticate(token),
            SessionEffect::CallerChanged(caller) => self.on_caller_changed(&caller),
            SessionEffect::Refused(error) => self.record_refusal(&error),
            SessionEffect::Close(close, reason) => {
                metrics::count_closed(close);
                tracing::debug!(code = close.reason, reason, "closing session");
                self.transport.close(close, &reason);
            }
        }
    }

    /// Verifies a token. Mostly the keys are known, and the result is there at once.
    fn authenticate(self: &Rc<Self>, token: AccessToken) {
        let (access, address) = (self.lane.access.clone(), self.address);
        let mut verification = Box::pin(async move { access.authenticate(&token, address).await });
        if let Some(result) = (&mut verification).now_or_never() {
            return self.handle_input(SessionInput::Authenticated(result));
        }
        let driver = self.clone();
        self.lane.spawn(async move {
            let result = verification.await;
            driver.handle_input(SessionInput::Authenticated(result));
            driver.transport.resume_receiving();
        });
    }

    /// Checks the session when the token of its caller expires.
    fn watch_token(&self, caller: &Caller) {
        let Some(until) = self.lane.access.valid_until(caller) else { return };
        let slot = self.slot.take();
        if let Some(slot) = &slot {
            self.lane.access_watch.set_token(slot.index(), until);
        }
        self.slot.set(slot);
    }

    /// Watches the new token, and ends the subscriptions that it does not grant.
    fn on_caller_changed(&self, caller: &Caller) {
        self.watch_token(caller);
        self.end_refused_subscriptions(Some(caller));
    }

    /// Ends the subscriptions that the caller may not have any more. Returns how many the session had.
    fn end_refused_subscriptions(&self, caller: Option<&Caller>) -> usize {
        let topics = self.lane.fanout.topics(self.key);
        let count = topics.len();
        for topic in topics {
            let Err(error) = self.lane.authorize(caller, Action::Subscribe(&topic)) else {
                continue;
            };
            self.record_refusal(&error);
            if let Some(token) = self.lane.fanout.unsubscribe(self.key, &topic) {
                self.transport.close_subscription(token);
            }
            self.reply(&ServerEvent::error(None, rejection::access_code(&error), &error));
            self.reply(&session::unsubscribe_reply(None, topic, true));
        }
        count
    }

    fn record_refusal(&self, error: &AccessError) {
        let address = self.transport.remote_address().map(|address| address.ip());
        let session = self.session.borrow();
        let without_token;
        let caller = match session.caller() {
            Some(caller) => caller,
            None => {
                without_token = self.lane.access.without_token();
                &without_token
            }
        };
        audit::record_refusal(caller, address, error);
    }

    fn reply(&self, event: &ServerEvent) {
        count_error(event);
        self.transport.reply_event(event);
    }

    fn encode(&self, event: &ServerEvent) -> Bytes {
        count_error(event);
        encode(self.transport.wire(), event)
    }

    fn publish(self: &Rc<Self>, publish: Publish) {
        let mut sender_slot = self.publish_sender.borrow_mut();
        let sender = sender_slot.get_or_insert_with(|| self.start_publishing());
        // Sending fails only when the lane has ended, and then no client waits for the reply.
        let _ = sender.unbounded_send(publish);
    }

    fn start_publishing(self: &Rc<Self>) -> UnboundedSender<Publish> {
        let (sender, receiver) = mpsc::unbounded();
        // Outcomes come in the order of the publishes, so the oldest time belongs to the next outcome.
        let routed_at = Rc::new(RefCell::new(VecDeque::<Instant>::new()));
        let routing_times = routed_at.clone();
        let publishes =
            receiver.inspect(move |_| routing_times.borrow_mut().push_back(Instant::now()));
        let results = self.lane.publisher.publish_ordered(publishes.boxed_local());
        let mut batches = results.ready_chunks(self.lane.limits.publishes_max);
        let driver = self.clone();
        self.lane.spawn(async move {
            while let Some(batch) = batches.next().await {
                let publish_seconds = &driver.metrics().publish_seconds;
                for routed_at in batch.iter().filter_map(|_| routed_at.borrow_mut().pop_front()) {
                    publish_seconds.record(routed_at.elapsed());
                }
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

    /// Subscribes at the hub before it opens a stream: a stream that was opened for a subscription that is
    /// then rejected would reach the client as one that begins and ends without a reason.
    async fn try_subscribe(
        &self,
        token: u32,
        topic: &Topic,
        from: StartFrom,
        options: SubscribeOptions,
    ) -> Result<SubscriptionGrant, SubscribeRejection> {
        rejection::check_topic(topic)?;
        let fanout = &self.lane.fanout;
        let delivery = self.lane.grant_delivery(topic, options.delivery)?;
        rejection::check_datagrams(&options, delivery, self.transport.supports_datagrams())?;
        let options = SubscribeOptions { delivery: Some(delivery), ..options };
        let subscribed = fanout.subscribe(self.key, token, topic.clone(), from, options).await?;
        if let Err(StreamUnavailable) =
            self.transport.open_subscription(token, topic, delivery, options.use_datagrams).await
        {
            fanout.unsubscribe(self.key, topic);
            return Err(SubscribeRejection::StreamUnavailable);
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

/// A complete frame of a session.
pub(crate) fn encode(wire: WireFormat, event: &ServerEvent) -> Bytes {
    let payload = encoder::encoding(wire).encode_event(event);
    encoder::wrap(wire, &payload)
}

fn count_error(event: &ServerEvent) {
    if let ServerEvent::Error { code, .. } = event {
        metrics::count_error(*code);
    }
}

impl<T: SessionTransport> RegisteredSession for SessionDriver<T> {
    fn needs_half_intervals(&self) -> bool {
        self.transport.needs_half_intervals()
    }

    fn on_half_interval(self: Rc<Self>) {
        self.transport.on_half_interval();
    }

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
                self.close(&close::IDLE, "no data received from this client")
            }
            KeepaliveAction::CloseSlow => {
                self.close(&close::SLOW, "this client does not read the data sent to it")
            }
        }
    }

    fn shed(self: Rc<Self>, retry_after_ms: u32) {
        let reason = "the server is overloaded; connect to another one, or to this one later";
        self.send_goaway(0, retry_after_ms, reason);
        self.close(&close::OVERLOADED, reason);
    }

    fn drain(self: Rc<Self>, reconnect_within_ms: u32) {
        self.send_goaway(reconnect_within_ms, 0, "the server is shutting down");
        self.close(&close::GOING_AWAY, "the server is shutting down");
    }

    fn describe(&self) -> SessionDescription {
        let session = self.session.borrow();
        SessionDescription {
            transport: self.transport.kind(),
            address: self.transport.remote_address(),
            subject: session.caller().and_then(Caller::subject).map(str::to_owned),
        }
    }

    fn check_subscriptions(self: Rc<Self>) -> usize {
        let caller = self.session.borrow().caller().cloned();
        self.end_refused_subscriptions(caller.as_ref())
    }

    fn check_access(self: Rc<Self>, check: AccessCheck) {
        match check {
            AccessCheck::Token => {}
            AccessCheck::Age => {
                let reason = "the session reached the maximum age of sessions";
                self.send_goaway(0, 0, reason);
                return self.close(&close::SESSION_AGE, reason);
            }
        }
        let Some(caller) = self.session.borrow().caller().cloned() else { return };
        let Err(error) = self.lane.access.check_valid(&caller) else {
            // Not expired any more after all: the clock was set back.
            return self.watch_token(&caller);
        };
        let close = match error {
            AccessError::Expired => &close::TOKEN_EXPIRED,
            _ => &close::REVOKED,
        };
        self.record_refusal(&error);
        self.reply(&ServerEvent::error(None, rejection::access_code(&error), &error));
        self.close(close, error.to_string());
    }
}

#[cfg(test)]
#[path = "driver/driver_test.rs"]
mod driver_test;
