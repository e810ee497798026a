//! Pure state machine of a subscriber: its topics, their progress, and the handling of session events.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use pushonce_core::{Message, Publish, StartFrom, SubscribeOptions, Topic};
use pushonce_proto::client::{self, MessageDelta};

use crate::cursor::{CursorAdvance, SubscriptionCursor};
use crate::delta::{self, InvalidDelta};
use crate::session::SessionEnd;
use crate::subscriber::SubscriberEvent;

/// Every topic with its progress across sessions, and the requests of the present session.
#[derive(Clone, Debug, Default)]
pub(crate) struct ResumeState {
    subscriptions: BTreeMap<Topic, TopicSubscription>,
    /// The last message that this session delivered of each topic with deltas.
    delta_bases: HashMap<Topic, Arc<Message>>,
    /// Requests of this session without a reply, by id.
    pending_requests: HashMap<u64, Topic>,
    /// The last request id of this session.
    last_request_id: u64,
    /// Topics that this session serves.
    subscribed: BTreeSet<Topic>,
    /// Topics that this server could not serve yet.
    to_request: BTreeSet<Topic>,
    /// Topics that are stale at this server.
    stale: BTreeSet<Topic>,
}

/// A subscribed topic.
#[derive(Clone, Debug)]
struct TopicSubscription {
    cursor: SubscriptionCursor,
    options: SubscribeOptions,
}

/// The reaction to an event.
#[derive(Debug)]
pub(crate) enum SessionAction {
    /// Nothing: the event is a duplicate, or of another topic.
    Ignore,
    /// Deliver an event to the caller.
    Deliver(SubscriberEvent),
    /// After a delay, send the requests of [`ResumeState::take_requests`].
    RetryLater {
        /// The reason.
        message: String,
    },
    /// Leave this session at a random time within `within`.
    Leave {
        /// The period.
        within: Duration,
        /// How long the server must not be contacted again.
        reconnect_after: Duration,
        /// The reason given by the server.
        reason: String,
    },
    /// Leave this session immediately.
    Close(SessionEnd),
}

/// A request for a subscription.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SubscriptionRequest {
    pub(crate) id: u64,
    pub(crate) topic: Topic,
    pub(crate) from: StartFrom,
    pub(crate) options: SubscribeOptions,
}

/// Newest-only delivery of a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NewestOnly {
    /// Whether skipped messages are reported.
    pub(crate) reports_gaps: bool,
}

/// Why a delta could not be applied: an error of the server.
#[derive(Debug, thiserror::Error)]
enum DeltaError {
    #[error("received a delta without the previous message")]
    MissingBase,
    #[error(transparent)]
    Invalid(#[from] InvalidDelta),
}

impl ResumeState {
    pub(crate) fn add_topic(&mut self, topic: Topic, from: StartFrom, options: SubscribeOptions) {
        self.subscriptions
            .insert(topic, TopicSubscription { cursor: SubscriptionCursor::new(from), options });
    }

    /// Begins a session. Returns the requests to send.
    pub(crate) fn begin_session(&mut self) -> Vec<SubscriptionRequest> {
        self.pending_requests.clear();
        self.delta_bases.clear();
        self.subscribed.clear();
        self.stale.clear();
        self.last_request_id = 0;
        self.to_request = self.subscriptions.keys().cloned().collect();
        self.take_requests()
    }

    /// The requests for topics that this session could not serve so far.
    pub(crate) fn take_requests(&mut self) -> Vec<SubscriptionRequest> {
        let to_request = std::mem::take(&mut self.to_request);
        let requests = to_request.into_iter().filter_map(|topic| {
            let TopicSubscription { cursor, options } = self.subscriptions.get(&topic)?;
            let (from, options) = (cursor.resume_from(), *options);
            self.last_request_id += 1;
            self.pending_requests.insert(self.last_request_id, topic.clone());
            Some(SubscriptionRequest { id: self.last_request_id, topic, from, options })
        });
        requests.collect()
    }

    /// Whether this session serves every topic.
    pub(crate) fn is_fully_subscribed(&self) -> bool {
        self.pending_requests.is_empty() && self.to_request.is_empty()
    }

    /// Whether a topic is stale at this server.
    pub(crate) fn has_stale_topics(&self) -> bool {
        !self.stale.is_empty()
    }

    /// Whether every topic was rejected.
    pub(crate) fn is_empty(&self) -> bool {
        self.subscriptions.is_empty()
    }

    /// The newest-only delivery of a topic; `None` when every message is delivered.
    pub(crate) fn newest_only(&self, topic: &Topic) -> Option<NewestOnly> {
        let TopicSubscription { cursor, options } = self.subscriptions.get(topic)?;
        cursor.is_newest_only().then_some(NewestOnly { reports_gaps: options.report_conflated })
    }

    pub(crate) fn on_event(&mut self, event: client::ServerEvent) -> SessionAction {
        match event {
            client::ServerEvent::Subscribed { topic, position, recovered, delivery, .. } => {
                self.pending_requests.retain(|_, requested| *requested != topic);
                let Some(subscription) = self.subscriptions.get_mut(&topic) else {
                    return SessionAction::Ignore;
                };
                subscription.cursor.on_subscribed(position, delivery);
                self.subscribed.insert(topic.clone());
                SessionAction::Deliver(SubscriberEvent::Subscribed {
                    topic,
                    position,
                    recovered,
                    delivery,
                })
            }
            client::ServerEvent::Message { topic, message } => self.on_message(topic, message),
            client::ServerEvent::MessageDelta { topic, .. }
                if !self.subscriptions.contains_key(&topic) =>
            {
                SessionAction::Ignore
            }
            client::ServerEvent::MessageDelta { topic, message_delta } => {
                match self.apply_delta(&topic, message_delta) {
                    Ok(message) => self.on_message(topic, Arc::new(message)),
                    // A new session receives it whole.
                    Err(error) => {
                        SessionAction::Close(SessionEnd::retryable(format!("{topic}: {error}")))
                    }
                }
            }
            client::ServerEvent::Gap { topic, gap } => {
                let subscription = self.subscriptions.get_mut(&topic);
                let is_new =
                    subscription.is_some_and(|subscription| subscription.cursor.skip_gap(&gap));
                if is_new {
                    SessionAction::Deliver(SubscriberEvent::Gap { topic, gap })
                } else {
                    SessionAction::Ignore
                }
            }
            client::ServerEvent::Stale { topic, since } => {
                let is_new =
                    self.subscriptions.contains_key(&topic) && self.stale.insert(topic.clone());
                if is_new {
                    SessionAction::Deliver(SubscriberEvent::Stale { topic, since })
                } else {
                    SessionAction::Ignore
                }
            }
            client::ServerEvent::Live { topic, position } => match self.stale.remove(&topic) {
                true => SessionAction::Deliver(SubscriberEvent::Live { topic, position }),
                false => SessionAction::Ignore,
            },
            client::ServerEvent::Audience { topic, count } => {
                match self.subscriptions.contains_key(&topic) {
                    true => SessionAction::Deliver(SubscriberEvent::Audience { topic, count }),
                    false => SessionAction::Ignore,
                }
            }
            client::ServerEvent::Error { id, code, message, retry } => {
                let topic = id.and_then(|id| self.pending_requests.remove(&id));
                match topic {
                    Some(topic) if retry => self.on_unavailable(topic, message),
                    Some(topic) => {
                        self.subscriptions.remove(&topic);
                        let message = format!("{topic}: {message}");
                        SessionAction::Deliver(SubscriberEvent::Rejected { code, message })
                    }
                    None => SessionAction::Deliver(SubscriberEvent::Rejected { code, message }),
                }
            }
            client::ServerEvent::Goaway { after_ms, retry_after_ms, reason } => {
                SessionAction::Leave {
                    within: Duration::from_millis(after_ms.into()),
                    reconnect_after: Duration::from_millis(retry_after_ms.into()),
                    reason,
                }
            }
            client::ServerEvent::Unsubscribed { .. }
            | client::ServerEvent::Published { .. }
            | client::ServerEvent::Authenticated { .. }
            | client::ServerEvent::Heartbeat { .. }
            | client::ServerEvent::Stream { .. } => SessionAction::Ignore,
        }
    }

    fn on_message(&mut self, topic: Topic, message: Arc<Message>) -> SessionAction {
        let Some(subscription) = self.subscriptions.get_mut(&topic) else {
            return SessionAction::Ignore;
        };
        if subscription.options.accept_deltas {
            self.delta_bases.insert(topic.clone(), message.clone());
        }
        match subscription.cursor.advance(message.position) {
            CursorAdvance::Advanced => {
                SessionAction::Deliver(SubscriberEvent::Message { topic, message })
            }
            CursorAdvance::Duplicate => SessionAction::Ignore,
            // A new session receives the missing messages, or a gap.
            CursorAdvance::UnreportedGap { reached } => {
                SessionAction::Close(SessionEnd::retryable(format!(
                    "{topic}: received {} after {reached} without a gap",
                    message.position
                )))
            }
        }
    }

    /// Turns a delta into the message it stands for.
    fn apply_delta(
        &self,
        topic: &Topic,
        message_delta: MessageDelta,
    ) -> Result<Message, DeltaError> {
        let MessageDelta { position, time, key, delta } = message_delta;
        let base = self.delta_bases.get(topic).filter(|base| base.position.next() == position);
        let base = base.ok_or(DeltaError::MissingBase)?;
        let payload = delta::apply(&base.payload, &delta, Publish::PAYLOAD_BYTES_CAP)?;
        let content_type = base.content_type.clone();
        Ok(Message { position, time, content_type, key, payload: payload.into() })
    }

    /// One topic without an owner must not interrupt the others. A server that serves no topic is left for
    /// another.
    fn on_unavailable(&mut self, topic: Topic, message: String) -> SessionAction {
        let message = format!("{topic}: {message}");
        self.to_request.insert(topic);
        if self.subscribed.is_empty() && self.pending_requests.is_empty() {
            SessionAction::Close(SessionEnd::retryable(message))
        } else {
            SessionAction::RetryLater { message }
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use pushonce_core::test_util::{self, topic};
    use pushonce_core::{ContentType, Delivery, Message, Position, Timestamp};
    use pushonce_proto::client::ErrorCode;

    use super::*;

    const OPTIONS: SubscribeOptions = SubscribeOptions {
        delivery: None,
        report_conflated: false,
        report_audience: true,
        accept_deltas: false,
        use_datagrams: false,
    };

    fn resume_state() -> ResumeState {
        let mut state = ResumeState::default();
        state.add_topic(topic("a"), StartFrom::Start, OPTIONS);
        state.add_topic(topic("b"), StartFrom::Last(2), OPTIONS);
        state
    }

    fn message(name: &str, offset: u64) -> client::ServerEvent {
        let message = Arc::new(test_util::message(7, offset));
        client::ServerEvent::Message { topic: topic(name), message }
    }

    fn subscribed(id: u64, name: &str) -> client::ServerEvent {
        let (topic, position) = (topic(name), Position::new(7, 0));
        let (id, delivery) = (Some(id), Delivery::All);
        client::ServerEvent::Subscribed { id, topic, position, recovered: true, delivery }
    }

    #[test]
    fn each_session_requests_what_the_previous_one_did_not_deliver() {
        let mut state = resume_state();
        let request =
            |id, name, from| SubscriptionRequest { id, topic: topic(name), from, options: OPTIONS };
        assert_eq!(
            state.begin_session(),
            [request(1, "a", StartFrom::Start), request(2, "b", StartFrom::Last(2))]
        );
        assert!(matches!(
            state.on_event(message("b", 4)),
            SessionAction::Deliver(SubscriberEvent::Message { .. })
        ));
        assert!(matches!(state.on_event(message("b", 4)), SessionAction::Ignore));
        assert_eq!(
            state.begin_session(),
            [
                request(1, "a", StartFrom::Start),
                request(2, "b", StartFrom::Position(Position::new(7, 4)))
            ]
        );
    }

    #[test]
    fn session_is_fully_subscribed_when_every_topic_has_a_reply() {
        let mut state = resume_state();
        state.begin_session();
        state.on_event(subscribed(1, "a"));
        assert!(!state.is_fully_subscribed());
        state.on_event(client::ServerEvent::error(Some(2), ErrorCode::NotAllowed, "no"));
        assert!(state.is_fully_subscribed());
    }

    #[test]
    fn rejected_topic_is_reported_and_not_requested_again() {
        let mut state = resume_state();
        state.begin_session();
        let action =
            state.on_event(client::ServerEvent::error(Some(2), ErrorCode::FuturePosition, "no"));
        let SessionAction::Deliver(SubscriberEvent::Rejected { code, message }) = action else {
            panic!("{action:?}")
        };
        assert_eq!((code, message.as_str()), (ErrorCode::FuturePosition, "b: no"));
        assert_eq!(state.begin_session().len(), 1);
        state.on_event(client::ServerEvent::error(Some(1), ErrorCode::NotAllowed, "no"));
        assert!(state.is_empty());
    }

    fn unavailable(id: u64) -> client::ServerEvent {
        client::ServerEvent::error(Some(id), ErrorCode::Unavailable, "no owner")
    }

    #[test]
    fn session_is_closed_when_no_topic_is_available() {
        let mut state = resume_state();
        state.begin_session();
        assert!(
            matches!(state.on_event(unavailable(1)), SessionAction::RetryLater { .. }),
            "b may still be served"
        );
        assert!(matches!(state.on_event(unavailable(2)), SessionAction::Close(_)));
        assert_eq!(state.begin_session().len(), 2);
    }

    #[test]
    fn unavailable_topic_is_requested_again_on_the_same_session() {
        let mut state = resume_state();
        state.begin_session();
        state.on_event(subscribed(1, "a"));
        assert!(matches!(state.on_event(unavailable(2)), SessionAction::RetryLater { .. }));
        assert!(!state.is_fully_subscribed());
        let requests = state.take_requests();
        let (topic_b, from) = (topic("b"), StartFrom::Last(2));
        assert_eq!(
            requests,
            [SubscriptionRequest { id: 3, topic: topic_b, from, options: OPTIONS }]
        );
        state.on_event(subscribed(3, "b"));
        assert!(state.is_fully_subscribed());
    }

    #[test]
    fn unreported_gap_closes_the_session_and_delivers_nothing() {
        let mut state = resume_state();
        state.begin_session();
        state.on_event(message("a", 1));
        assert!(matches!(state.on_event(message("a", 3)), SessionAction::Close(_)));
    }

    #[test]
    fn session_is_stale_until_every_topic_is_live_or_a_new_session_begins() {
        let at = Position::new(7, 1);
        let stale = |name| client::ServerEvent::Stale { topic: topic(name), since: at };
        let live = |name| client::ServerEvent::Live { topic: topic(name), position: at };
        let mut state = resume_state();
        state.begin_session();
        assert!(matches!(
            state.on_event(stale("a")),
            SessionAction::Deliver(SubscriberEvent::Stale { .. })
        ));
        assert!(matches!(state.on_event(stale("c")), SessionAction::Ignore), "c is not subscribed");
        state.on_event(stale("b"));
        assert!(matches!(
            state.on_event(live("a")),
            SessionAction::Deliver(SubscriberEvent::Live { .. })
        ));
        assert!(state.has_stale_topics());
        state.on_event(live("b"));
        assert!(!state.has_stale_topics());
        state.on_event(stale("b"));
        state.begin_session();
        assert!(!state.has_stale_topics(), "a new session is not stale");
    }

    fn full_message(name: &str, offset: u64, payload: &[u8]) -> client::ServerEvent {
        let client::ServerEvent::Message { topic, message } = message(name, offset) else {
            panic!()
        };
        let payload = Bytes::copy_from_slice(payload);
        let message = Arc::new(Message { payload, ..Arc::unwrap_or_clone(message) });
        client::ServerEvent::Message { topic, message }
    }

    fn delta_event(name: &str, offset: u64, old: &[u8], new: &[u8]) -> client::ServerEvent {
        let (position, delta) = (Position::new(7, offset), fossil_delta::delta(new, old).into());
        let message_delta = MessageDelta { position, time: Timestamp(0), key: None, delta };
        client::ServerEvent::MessageDelta { topic: topic(name), message_delta }
    }

    fn resume_state_with_deltas() -> ResumeState {
        let (mut state, delta) = (
            ResumeState::default(),
            SubscribeOptions { accept_deltas: true, ..SubscribeOptions::default() },
        );
        state.add_topic(topic("a"), StartFrom::Start, delta);
        state.add_topic(topic("b"), StartFrom::Last(2), delta);
        assert!(state.begin_session().iter().all(|ask| ask.options.accept_deltas));
        state
    }

    fn delivered_payload(action: SessionAction) -> Bytes {
        let SessionAction::Deliver(SubscriberEvent::Message { message, .. }) = action else {
            panic!("{action:?}")
        };
        assert_eq!(message.content_type, ContentType::Text);
        message.payload.clone()
    }

    const ONE: &[u8] = b"Germany against Brazil: 1 to 0";
    const TWO: &[u8] = b"Germany against Brazil: 2 to 0";
    const THREE: &[u8] = b"Germany against Brazil: 2 to 1";

    #[test]
    fn consecutive_deltas_become_full_messages() {
        let mut state = resume_state_with_deltas();
        assert_eq!(delivered_payload(state.on_event(full_message("a", 1, ONE))), ONE);
        assert_eq!(
            delivered_payload(state.on_event(full_message("b", 1, b"another topic"))),
            "another topic"
        );
        assert_eq!(delivered_payload(state.on_event(delta_event("a", 2, ONE, TWO))), TWO);
        assert_eq!(delivered_payload(state.on_event(delta_event("a", 3, TWO, THREE))), THREE);
        assert!(
            matches!(state.on_event(delta_event("c", 1, ONE, TWO)), SessionAction::Ignore),
            "c is not subscribed"
        );
    }

    #[test]
    fn duplicate_message_still_serves_as_a_delta_base() {
        let mut state = resume_state_with_deltas();
        state.on_event(full_message("a", 4, ONE));
        state.begin_session();
        assert!(matches!(state.on_event(full_message("a", 4, ONE)), SessionAction::Ignore));
        assert_eq!(delivered_payload(state.on_event(delta_event("a", 5, ONE, TWO))), TWO);
    }

    #[test]
    fn delta_without_its_base_closes_the_session_and_delivers_nothing() {
        let mut state = resume_state_with_deltas();
        assert!(
            matches!(state.on_event(delta_event("a", 1, ONE, TWO)), SessionAction::Close(_)),
            "no base yet"
        );
        state.on_event(full_message("a", 1, ONE));
        assert!(
            matches!(state.on_event(delta_event("a", 3, ONE, TWO)), SessionAction::Close(_)),
            "a message is missing in between"
        );
        state.begin_session();
        assert!(
            matches!(state.on_event(delta_event("a", 2, ONE, TWO)), SessionAction::Close(_)),
            "the base is of another session"
        );
        let from = state.begin_session()[0].from;
        assert_eq!(
            from,
            StartFrom::Position(Position::new(7, 1)),
            "the message is requested again"
        );
    }

    #[test]
    fn delta_of_another_base_closes_the_session_and_delivers_nothing() {
        let mut state = resume_state_with_deltas();
        state.on_event(full_message("a", 1, ONE));
        let other = [ONE, b"?"].concat();
        let action = state.on_event(delta_event("a", 2, &other, &[&other[..], b"!"].concat()));
        assert!(matches!(action, SessionAction::Close(_)), "{action:?}");
    }

    #[test]
    fn events_of_unsubscribed_topics_are_ignored() {
        let mut state = resume_state();
        state.begin_session();
        assert!(matches!(state.on_event(message("c", 1)), SessionAction::Ignore));
        let audience = |name| client::ServerEvent::Audience { topic: topic(name), count: 7 };
        assert!(matches!(state.on_event(audience("c")), SessionAction::Ignore));
        let action = state.on_event(audience("a"));
        assert!(matches!(
            action,
            SessionAction::Deliver(SubscriberEvent::Audience { count: 7, .. })
        ));
        assert!(matches!(state.on_event(subscribed(9, "c")), SessionAction::Ignore));
        let heartbeat = client::ServerEvent::Heartbeat { positions: vec![] };
        assert!(matches!(state.on_event(heartbeat), SessionAction::Ignore));
    }
}
