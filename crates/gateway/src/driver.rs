//! Performs the effects of the pure [`Session`], the same way for every transport.

mod access;
mod publishing;
mod transport;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::channel::mpsc::UnboundedSender;
use pushonce_auth::Caller;
use pushonce_core::{CallerKey, ClientAddress, Publish, StartFrom, SubscribeOptions, Topic};
use pushonce_fanout::{SessionKey, WireFormat};
use pushonce_listener::Holding;
use pushonce_proto::client::{ClientRequest, InvalidFrame, ServerEvent};
use pushonce_proto::close::{self, CloseCode};

use crate::access_watch::AccessCheck;
use crate::encoder;
use crate::lane::LaneState;
use crate::liveness::{KeepaliveAction, Liveness};
use crate::metrics::{self, TransportMetrics};
use crate::registry::{RegisteredSession, SessionSlot};
use crate::rejection::{self, SubscribeRejection};
use crate::session::{self, ReceiveState, Session, SessionEffect, SessionInput, SubscriptionGrant};
use crate::slow_sessions::SessionDescription;
use crate::work::{self, WorkMeter};

pub(crate) use transport::{SessionTransport, StreamUnavailable};

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

    fn reply(&self, event: &ServerEvent) {
        count_error(event);
        self.transport.reply_event(event);
    }

    fn encode(&self, event: &ServerEvent) -> Bytes {
        count_error(event);
        encode(self.transport.wire(), event)
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
        self.end_without_access(check);
    }
}

#[cfg(test)]
#[path = "driver/driver_test.rs"]
mod driver_test;
