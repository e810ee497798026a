//! Pure state machine of a subscriber: its topics, their progress, and the handling of session events.

mod delta_bases;
#[cfg(test)]
mod deltas_test;
#[cfg(test)]
mod resume_state_test;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use pushonce_core::{Message, StartFrom, SubscribeOptions, Topic};
use pushonce_proto::client;

use crate::cursor::{CursorAdvance, SubscriptionCursor};
use crate::session::SessionEnd;
use crate::subscriber::SubscriberEvent;
use delta_bases::DeltaBases;

/// Every topic with its progress across sessions, and the requests of the present session.
#[derive(Clone, Debug, Default)]
pub(crate) struct ResumeState {
    subscriptions: BTreeMap<Topic, TopicSubscription>,
    delta_bases: DeltaBases,
    /// Requests of this session without a reply, by id.
    pending_requests: HashMap<u64, Topic>,
    /// The last request id of this session.
    last_request_id: u64,
    /// Topics that this session serves.
    subscribed: BTreeSet<Topic>,
    /// Topics that this server could not serve yet.
    to_request: BTreeSet<Topic>,
    /// Topics that were added since the session began and have not been requested.
    new: BTreeSet<Topic>,
    /// Topics that are stale at this server.
    stale: BTreeSet<Topic>,
    /// Topics that this session still serves after they were removed, with the id of the request to end the
    /// subscription. Their events are ignored.
    leaving: BTreeMap<Topic, u64>,
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
    /// Send the requests of [`ResumeState::take_new_requests`].
    RequestAgain,
    /// After a delay, send the requests of [`ResumeState::take_requests`].
    RetryLater {
        /// The reason.
        message: String,
        /// Minimum delay, which the server asked for.
        retry_after: Duration,
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

impl ResumeState {
    /// Adds a topic, or starts it anew with other options. During a session, [`ResumeState::take_new_requests`]
    /// requests it.
    pub(crate) fn add_topic(&mut self, topic: Topic, from: StartFrom, options: SubscribeOptions) {
        let cursor = SubscriptionCursor::new(from);
        self.subscriptions.insert(topic.clone(), TopicSubscription { cursor, options });
        self.new.insert(topic);
    }

    /// Removes a topic while there is no session.
    pub(crate) fn remove_topic(&mut self, topic: &Topic) {
        self.subscriptions.remove(topic);
        self.new.remove(topic);
    }

    /// Removes a topic during a session. Returns the id of the request to end its subscription, if the session has
    /// one.
    pub(crate) fn leave_topic(&mut self, topic: &Topic) -> Option<u64> {
        self.remove_topic(topic);
        self.to_request.remove(topic);
        self.stale.remove(topic);
        let is_requested = self.pending_requests.values().any(|requested| requested == topic);
        if !self.subscribed.remove(topic) && !is_requested {
            return None;
        }
        self.pending_requests.retain(|_, requested| requested != topic);
        self.last_request_id += 1;
        self.leaving.insert(topic.clone(), self.last_request_id);
        Some(self.last_request_id)
    }

    /// Begins a session. Returns the requests to send.
    pub(crate) fn begin_session(&mut self) -> Vec<SubscriptionRequest> {
        self.pending_requests.clear();
        self.delta_bases.clear();
        self.subscribed.clear();
        self.stale.clear();
        self.leaving.clear();
        self.new.clear();
        self.last_request_id = 0;
        self.to_request = self.subscriptions.keys().cloned().collect();
        self.take_requests()
    }

    /// The requests for topics that this session could not serve so far.
    pub(crate) fn take_requests(&mut self) -> Vec<SubscriptionRequest> {
        let to_request = std::mem::take(&mut self.to_request);
        self.requests(to_request)
    }

    /// The requests for topics that were added. A topic that was removed before waits for the end of its old
    /// subscription: until then its messages could be of either.
    pub(crate) fn take_new_requests(&mut self) -> Vec<SubscriptionRequest> {
        let (waiting, new) = std::mem::take(&mut self.new)
            .into_iter()
            .partition(|topic| self.leaving.contains_key(topic));
        self.new = waiting;
        self.requests(new)
    }

    fn requests(&mut self, topics: BTreeSet<Topic>) -> Vec<SubscriptionRequest> {
        let requests = topics.into_iter().filter_map(|topic| {
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

    /// Whether there is no topic.
    pub(crate) fn is_empty(&self) -> bool {
        self.subscriptions.is_empty()
    }

    /// The newest-only delivery of a topic; `None` when every message is delivered.
    pub(crate) fn newest_only(&self, topic: &Topic) -> Option<NewestOnly> {
        let TopicSubscription { cursor, options } = self.subscriptions.get(topic)?;
        cursor.is_newest_only().then_some(NewestOnly { reports_gaps: options.report_conflated })
    }

    pub(crate) fn on_event(&mut self, event: client::ServerEvent) -> SessionAction {
        if topic_of(&event).is_some_and(|topic| self.leaving.contains_key(topic)) {
            return SessionAction::Ignore;
        }
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
                match self.delta_bases.apply(&topic, message_delta) {
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
            client::ServerEvent::Error { id, code, message, retry, retry_after_ms } => {
                if let Some(topic) = id.and_then(|id| self.topic_left_by(id)) {
                    return self.on_left(&topic);
                }
                let topic = id.and_then(|id| self.pending_requests.remove(&id));
                match topic {
                    Some(topic) if retry => {
                        let retry_after = Duration::from_millis(retry_after_ms.into());
                        self.on_unavailable(topic, message, retry_after)
                    }
                    topic => {
                        if let Some(topic) = &topic {
                            self.subscriptions.remove(topic);
                        }
                        SessionAction::Deliver(SubscriberEvent::Rejected { topic, code, message })
                    }
                }
            }
            client::ServerEvent::Unsubscribed { topic, .. } => self.on_unsubscribed(topic),
            client::ServerEvent::Goaway { after_ms, retry_after_ms, reason } => {
                SessionAction::Leave {
                    within: Duration::from_millis(after_ms.into()),
                    reconnect_after: Duration::from_millis(retry_after_ms.into()),
                    reason,
                }
            }
            client::ServerEvent::Published { .. }
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
            self.delta_bases.set(topic.clone(), message.clone());
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

    /// A subscription has ended: on request, or because the server ended it.
    fn on_unsubscribed(&mut self, topic: Topic) -> SessionAction {
        if self.leaving.contains_key(&topic) || self.subscriptions.remove(&topic).is_none() {
            return self.on_left(&topic);
        }
        self.subscribed.remove(&topic);
        self.stale.remove(&topic);
        let message =
            "the server ended the subscription; the event before has the reason".to_owned();
        let (topic, code) = (Some(topic), client::ErrorCode::NotAllowed);
        SessionAction::Deliver(SubscriberEvent::Rejected { topic, code, message })
    }

    /// The subscription of a removed topic has ended.
    fn on_left(&mut self, topic: &Topic) -> SessionAction {
        match self.leaving.remove(topic).is_some() && self.new.contains(topic) {
            true => SessionAction::RequestAgain,
            false => SessionAction::Ignore,
        }
    }

    /// The topic whose subscription the request `id` was to end. It fails when the subscription was rejected before.
    fn topic_left_by(&self, id: u64) -> Option<Topic> {
        let mut leaving = self.leaving.iter();
        leaving.find(|(_, request)| **request == id).map(|(topic, _)| topic.clone())
    }

    /// One topic without an owner must not interrupt the others. A server that serves no topic is left for
    /// another.
    fn on_unavailable(
        &mut self,
        topic: Topic,
        message: String,
        retry_after: Duration,
    ) -> SessionAction {
        let message = format!("{topic}: {message}");
        self.to_request.insert(topic);
        // A server that asked for time serves the topic later, and others would count the same requests.
        let is_useless = self.subscribed.is_empty() && self.pending_requests.is_empty();
        if is_useless && retry_after.is_zero() {
            SessionAction::Close(SessionEnd::retryable(message))
        } else {
            SessionAction::RetryLater { message, retry_after }
        }
    }
}

/// The topic whose subscription sent the event, except the confirmation of its end.
fn topic_of(event: &client::ServerEvent) -> Option<&Topic> {
    match event {
        client::ServerEvent::Subscribed { topic, .. }
        | client::ServerEvent::Message { topic, .. }
        | client::ServerEvent::MessageDelta { topic, .. }
        | client::ServerEvent::Gap { topic, .. }
        | client::ServerEvent::Stale { topic, .. }
        | client::ServerEvent::Live { topic, .. }
        | client::ServerEvent::Audience { topic, .. } => Some(topic),
        _ => None,
    }
}
