//! The state machine of a session, independent of the transport. Pure: inputs in, effects out.
//!
//! The fan-out lane holds the subscriptions of a session and limits their number. A session only knows
//! the subscribe requests without a reply: an unsubscribe that arrives meanwhile waits for that reply, so that
//! a client sees the replies for one topic in the order of its requests. Publishes are forwarded at once, so
//! that all publishes of one read travel together; the publisher keeps their order and returns the results
//! in it.

mod authentication;
mod receive_state;

use std::collections::VecDeque;
use std::fmt::Display;
use std::rc::Rc;

use litemap::LiteMap;
use pushonce_auth::{AccessError, Action, Caller, PublishDoor, RefusalKind};
use pushonce_core::{
    AccessToken, Acknowledgement, Delivery, Publish, PublishError, StartFrom, SubscribeAck,
    SubscribeOptions, Timestamp, Topic,
};
use pushonce_fanout::SubscribeError;
use pushonce_proto::client::{ClientCommand, ClientRequest, ErrorCode, InvalidFrame, ServerEvent};
use pushonce_proto::close::{self, CloseCode};

use crate::rejection::{self, SubscribeRejection};
use authentication::{PendingAuthentication, SessionAccess, TooManyWaiting};
pub(crate) use receive_state::ReceiveState;

/// The limits of one session.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SessionLimits {
    /// Maximum number of unacknowledged publishes.
    pub(crate) publishes_max: usize,
    /// Maximum payload bytes of all unacknowledged publishes. A single publish may exceed it.
    pub(crate) publish_bytes_max: usize,
}

/// An event that a session handles.
#[derive(Debug)]
pub(crate) enum SessionInput {
    Request(Result<ClientRequest, InvalidFrame>),
    /// The result of [`SessionEffect::Subscribe`].
    Subscribed(Topic, Result<SubscriptionGrant, SubscribeRejection>),
    /// The result of the oldest pending [`SessionEffect::Publish`].
    Published(Result<Acknowledgement, PublishError>),
    /// The request that opened the session was made by this caller.
    Caller(Caller),
    /// The result of [`SessionEffect::Authenticate`].
    Authenticated(Result<Caller, AccessError>),
    /// Close the session.
    Close(&'static CloseCode, String),
}

/// Decides what a session may do, by the grants and the settings of now.
pub(crate) trait AccessGate {
    /// Whether no issuer is configured, so that tokens are not verified.
    fn is_open(&self) -> bool;

    /// Decides about a request. `caller` is `None` for a session without a token.
    fn authorize(&self, caller: Option<&Caller>, action: Action<'_>) -> Result<(), AccessError>;

    /// When a caller's token expires, in milliseconds since the Unix epoch.
    fn expires_at(&self, caller: &Caller) -> Timestamp;
}

/// An accepted subscription and its delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SubscriptionGrant {
    pub(crate) subscribed: SubscribeAck,
    pub(crate) delivery: Delivery,
}

/// An action for the driver of the session. The driver performs effects in order.
#[derive(Debug)]
pub(crate) enum SessionEffect {
    Reply(ServerEvent),
    /// Subscribe at the hub. The result is returned as [`SessionInput::Subscribed`].
    Subscribe {
        token: u32,
        topic: Topic,
        from: StartFrom,
        options: SubscribeOptions,
    },
    /// Start the delivery of frames of the topic.
    StartDelivery(Topic),
    /// End the subscription, if there is one, and send [`unsubscribe_reply`]. No frame of the topic may
    /// follow.
    Unsubscribe {
        id: Option<u64>,
        topic: Topic,
    },
    /// Forward the publish after all earlier ones. The result is returned as [`SessionInput::Published`].
    Publish(Publish),
    /// No publish is pending any more.
    PublishesDone,
    /// Verify the token. The result is returned as [`SessionInput::Authenticated`].
    Authenticate(AccessToken),
    /// The session has a new caller: its token must be watched, and its subscriptions checked again.
    CallerChanged(Caller),
    /// A request was refused, for the audit log. The reply is an effect of its own.
    Refused(AccessError),
    /// Close the session with this code and reason.
    Close(&'static CloseCode, String),
}

/// The state of the session of one client.
pub(crate) struct Session {
    limits: Rc<SessionLimits>,
    /// Subscribe requests without a reply. Empty most of the time, and then without memory.
    pending: LiteMap<Topic, PendingSubscription>,
    next_token: u32,
    /// Pending publishes. `None` while there are none: few sessions publish.
    unacknowledged: Option<Box<UnacknowledgedPublishes>>,
    /// `None` for a session without a token.
    access: Option<Box<SessionAccess>>,
    is_closed: bool,
}

/// A subscribe request without a reply.
struct PendingSubscription {
    id: Option<u64>,
    /// The request to end the subscription again.
    unsubscribe: Option<PendingUnsubscribe>,
}

/// The request id of an unsubscribe, if it has one.
#[derive(Clone, Copy)]
struct PendingUnsubscribe(Option<u64>);

/// Publishes without a result, oldest first.
#[derive(Default)]
struct UnacknowledgedPublishes {
    /// The request id, if any, and the payload bytes of each publish.
    queue: VecDeque<(Option<u64>, usize)>,
    bytes: usize,
}

type SessionEffects = Vec<SessionEffect>;

// === impl Session ===

impl Session {
    pub(crate) fn new(limits: Rc<SessionLimits>) -> Session {
        Session {
            limits,
            pending: LiteMap::new(),
            next_token: 0,
            unacknowledged: None,
            access: None,
            is_closed: false,
        }
    }

    /// The caller, if the session has a verified token.
    pub(crate) fn caller(&self) -> Option<&Caller> {
        self.access.as_ref()?.caller.as_ref()
    }

    /// Handles one input. After [`SessionEffect::Close`] it returns no further effects.
    pub(crate) fn on_input(
        &mut self,
        input: SessionInput,
        gate: &dyn AccessGate,
    ) -> SessionEffects {
        let mut effects = Vec::new();
        if self.is_closed {
            return effects;
        }
        match input {
            SessionInput::Request(request) => self.on_request(request, gate, &mut effects),
            SessionInput::Caller(caller) => {
                self.access.get_or_insert_default().caller = Some(caller.clone());
                effects.push(SessionEffect::CallerChanged(caller));
            }
            SessionInput::Authenticated(result) => {
                self.on_authenticated(result, gate, &mut effects)
            }
            SessionInput::Subscribed(topic, result) => {
                self.on_subscribed(topic, result, &mut effects)
            }
            SessionInput::Published(result) => self.on_published(result, &mut effects),
            SessionInput::Close(close, reason) => self.close(close, reason, &mut effects),
        }
        effects
    }

    fn on_request(
        &mut self,
        request: Result<ClientRequest, InvalidFrame>,
        gate: &dyn AccessGate,
        effects: &mut SessionEffects,
    ) {
        if let Some(access) = self.access.as_mut().filter(|access| access.is_pending()) {
            let id = request.as_ref().map_or_else(|invalid| invalid.id, |request| request.id);
            if let Err(TooManyWaiting) = access.hold(request) {
                let text = "too many requests while the token is verified; wait for the reply";
                effects.push(error_reply(id, ErrorCode::Overloaded, text));
            }
            return;
        }
        match request {
            Ok(ClientRequest { id, command }) => self.on_command(id, command, gate, effects),
            Err(invalid) => self.on_invalid_frame(invalid, effects),
        }
    }

    fn on_command(
        &mut self,
        id: Option<u64>,
        command: ClientCommand,
        gate: &dyn AccessGate,
        effects: &mut SessionEffects,
    ) {
        match command {
            ClientCommand::Subscribe { topic, from, options } => {
                let allowed = self.authorize_subscribe(&topic, from, &options, gate);
                match allowed {
                    Ok(()) => self.on_subscribe(id, topic, from, options, effects),
                    Err(error) => push_denied(id, error, effects),
                }
            }
            ClientCommand::Unsubscribe { topic } => self.on_unsubscribe(id, topic, effects),
            ClientCommand::Publish(publish) => {
                let action = Action::Publish(&publish.topic, PublishDoor::Client);
                match gate.authorize(self.caller(), action) {
                    Ok(()) => self.on_publish(id, publish, effects),
                    Err(error) => push_denied(id, error, effects),
                }
            }
            ClientCommand::Authenticate { .. } if gate.is_open() => effects.push(error_reply(
                id,
                ErrorCode::NotSupported,
                "this server does not verify tokens; do not send authenticate",
            )),
            ClientCommand::Authenticate { token } => {
                self.access.get_or_insert_default().begin(id);
                effects.push(SessionEffect::Authenticate(token));
            }
        }
    }

    /// Checks everything that a subscription delivers: also history is read with the grants of now.
    fn authorize_subscribe(
        &self,
        topic: &Topic,
        from: StartFrom,
        options: &SubscribeOptions,
        gate: &dyn AccessGate,
    ) -> Result<(), AccessError> {
        let caller = self.caller();
        gate.authorize(caller, Action::Subscribe(topic))?;
        if !matches!(from, StartFrom::Now | StartFrom::Last(0)) {
            gate.authorize(caller, Action::ReadHistory(topic))?;
        }
        if options.report_audience {
            gate.authorize(caller, Action::ReadAudience(topic))?;
        }
        Ok(())
    }

    /// A token that is not valid ends the session: otherwise a client could try any number of them. Failures of
    /// others at the same address end only a session that has no valid token yet.
    fn on_authenticated(
        &mut self,
        result: Result<Caller, AccessError>,
        gate: &dyn AccessGate,
        effects: &mut SessionEffects,
    ) {
        let Some(access) = &mut self.access else { return };
        let Some(PendingAuthentication { id, mut waiting, .. }) = access.end() else { return };
        match result {
            Ok(caller) if access.accepts(&caller) => {
                let expires = gate.expires_at(&caller);
                access.caller = Some(caller.clone());
                effects.push(SessionEffect::CallerChanged(caller));
                effects.push(SessionEffect::Reply(ServerEvent::Authenticated { id, expires }));
            }
            Ok(_) => {
                let text = "a session keeps its subject; open another session for this token";
                effects.push(error_reply(id, ErrorCode::NotAllowed, text));
            }
            Err(error) => {
                let is_closed = match error.kind() {
                    RefusalKind::TooManyFailures => access.caller.is_none(),
                    _ => !rejection::access_code(&error).is_retryable(),
                };
                let (close, reason) = (rejection::authentication_close(&error), error.to_string());
                push_denied(id, error, effects);
                if is_closed {
                    return self.close(close, reason, effects);
                }
            }
        }
        // The next authentication lets the rest wait again.
        while let Some(request) = waiting.pop_front() {
            self.on_request(request, gate, effects);
            if self.is_closed {
                return;
            }
        }
    }

    fn on_subscribe(
        &mut self,
        id: Option<u64>,
        topic: Topic,
        from: StartFrom,
        options: SubscribeOptions,
        effects: &mut SessionEffects,
    ) {
        if self.pending.contains_key(&topic) {
            let rejection = SubscribeRejection::from(SubscribeError::AlreadySubscribed);
            return effects.push(error_reply(id, rejection.code(), rejection));
        }
        let token = self.next_token;
        self.next_token = self.next_token.wrapping_add(1);
        self.pending.insert(topic.clone(), PendingSubscription { id, unsubscribe: None });
        effects.push(SessionEffect::Subscribe { token, topic, from, options });
    }

    fn on_subscribed(
        &mut self,
        topic: Topic,
        result: Result<SubscriptionGrant, SubscribeRejection>,
        effects: &mut SessionEffects,
    ) {
        let Some(PendingSubscription { id, unsubscribe }) = self.pending.remove(&topic) else {
            return;
        };
        if self.pending.is_empty() {
            self.pending = LiteMap::new();
        }
        match result {
            Ok(SubscriptionGrant {
                subscribed: SubscribeAck { position, recovered },
                delivery,
            }) => {
                let reply_topic = topic.clone();
                effects.push(SessionEffect::Reply(ServerEvent::Subscribed {
                    id,
                    topic: reply_topic,
                    position,
                    recovered,
                    delivery,
                }));
                if unsubscribe.is_none() {
                    effects.push(SessionEffect::StartDelivery(topic.clone()));
                }
            }
            Err(rejection) => effects.push(error_reply(id, rejection.code(), rejection)),
        }
        // Also after an error: the topic may have an earlier subscription.
        if let Some(PendingUnsubscribe(id)) = unsubscribe {
            effects.push(SessionEffect::Unsubscribe { id, topic });
        }
    }

    fn on_unsubscribe(&mut self, id: Option<u64>, topic: Topic, effects: &mut SessionEffects) {
        match self.pending.get_mut(&topic) {
            Some(pending) if pending.unsubscribe.is_none() => {
                pending.unsubscribe = Some(PendingUnsubscribe(id));
            }
            // The unsubscribe before it ends the subscription.
            Some(_) => effects.push(SessionEffect::Reply(unsubscribe_reply(id, topic, false))),
            None => effects.push(SessionEffect::Unsubscribe { id, topic }),
        }
    }

    fn on_publish(&mut self, id: Option<u64>, publish: Publish, effects: &mut SessionEffects) {
        let pending = self.unacknowledged.get_or_insert_default();
        let (count, bytes) = (pending.queue.len(), publish.payload.len());
        let too_many = count >= self.limits.publishes_max;
        if too_many || count > 0 && pending.bytes + bytes > self.limits.publish_bytes_max {
            let text = "too many publishes of this session are pending; send fewer at once";
            return effects.push(error_reply(id, ErrorCode::Overloaded, text));
        }
        pending.bytes += bytes;
        pending.queue.push_back((id, bytes));
        effects.push(SessionEffect::Publish(publish));
    }

    fn on_published(
        &mut self,
        result: Result<Acknowledgement, PublishError>,
        effects: &mut SessionEffects,
    ) {
        let Some(pending) = &mut self.unacknowledged else { return };
        let Some((id, bytes)) = pending.queue.pop_front() else { return };
        pending.bytes -= bytes;
        effects.push(match result {
            Ok(Acknowledgement { position, durability, .. }) => {
                SessionEffect::Reply(ServerEvent::Published { id, position, durability })
            }
            Err(error) => SessionEffect::Reply(ServerEvent::publish_error(id, &error)),
        });
        if pending.queue.is_empty() {
            self.unacknowledged = None;
            effects.push(SessionEffect::PublishesDone);
        }
    }

    fn on_invalid_frame(&mut self, invalid: InvalidFrame, effects: &mut SessionEffects) {
        effects.push(SessionEffect::Reply(invalid.to_event()));
        if invalid.is_fatal {
            self.close(&close::BAD_FRAME, invalid.message, effects);
        }
    }

    fn close(&mut self, close: &'static CloseCode, reason: String, effects: &mut SessionEffects) {
        self.is_closed = true;
        effects.push(SessionEffect::Close(close, reason));
    }
}

/// Refuses a request that the caller may not make.
fn push_denied(id: Option<u64>, error: AccessError, effects: &mut SessionEffects) {
    effects.push(error_reply(id, rejection::access_code(&error), &error));
    effects.push(SessionEffect::Refused(error));
}

/// The reply to an unsubscribe request.
pub(crate) fn unsubscribe_reply(
    id: Option<u64>,
    topic: Topic,
    was_subscribed: bool,
) -> ServerEvent {
    match was_subscribed {
        true => ServerEvent::Unsubscribed { id, topic },
        false => {
            let text = "this session is not subscribed to the topic";
            ServerEvent::error(id, ErrorCode::NotSubscribed, text)
        }
    }
}

fn error_reply(id: Option<u64>, code: ErrorCode, message: impl Display) -> SessionEffect {
    SessionEffect::Reply(ServerEvent::error(id, code, message))
}

#[cfg(test)]
#[path = "session/access_test.rs"]
mod access_test;
#[cfg(test)]
#[path = "session/session_test.rs"]
mod session_test;
