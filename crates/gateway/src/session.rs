//! What a session is, whatever the transport: requests in, effects out. No socket, no clock.
//!
//! A subscription is asked for, then live; a request that arrives meanwhile waits for that answer,
//! so that a client sees the answers of one topic in the order of its requests. Publishes are sent on
//! as they come, so that all that one read brought travels together; whoever takes them keeps their
//! order and answers in it.

use std::collections::VecDeque;
use std::fmt::Display;
use std::rc::Rc;

use litemap::LiteMap;
use pushonce_core::{Delivery, From, Options, Placed, Publish, PublishError, Topic};
use pushonce_fanout::{SubscribeError, Subscribed};
use pushonce_proto::client::{Command, ErrorCode, Event, InvalidFrame, Request};
use pushonce_proto::close::{self, Close};

use crate::refusal::{self, Refusal};

/// What one session may hold.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) subscriptions_max: usize,
    /// Publishes that have no answer yet.
    pub(crate) publishes_max: usize,
    /// Payload bytes of those, where there are two or more.
    pub(crate) publish_bytes_max: usize,
}

/// What happens to a session.
#[derive(Debug)]
pub(crate) enum Input {
    Request(Result<Request, InvalidFrame>),
    /// The answer to [`Effect::Subscribe`]; a refusal by its code and text.
    Subscribed(Topic, Result<Granted, Refusal>),
    /// The answer to the first [`Effect::Publish`] that has none.
    Published(Result<Placed, PublishError>),
    /// The session is to end.
    Leave(&'static Close, String),
}

/// A subscription that was made, and what it gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Granted {
    pub(crate) subscribed: Subscribed,
    pub(crate) delivery: Delivery,
}

/// What is to be done, in this order.
#[derive(Debug)]
pub(crate) enum Effect {
    Reply(Event),
    /// Ask the hub; its answer is an [`Input::Subscribed`].
    Subscribe {
        token: u32,
        topic: Topic,
        from: From,
        options: Options,
    },
    /// Frames of the topic may flow.
    Start(Topic),
    /// No frame of the topic may follow.
    Stop {
        token: u32,
        topic: Topic,
    },
    /// Send on, behind those before; the answer is an [`Input::Published`].
    Publish(Publish),
    /// All publishes have their answers.
    Published,
    /// End the session with this code and reason.
    Close(&'static Close, String),
}

/// One client.
pub(crate) struct Session {
    limits: Rc<Limits>,
    /// Mostly one, a thousand at most.
    subscriptions: LiteMap<Topic, Subscription>,
    next_token: u32,
    /// While there are any: hardly any session publishes.
    publishes: Option<Box<Publishes>>,
    over: bool,
}

enum Subscription {
    /// Boxed: most of the time a subscription is live, and then it is small.
    Asked(Box<Asked>),
    Live(u32),
}

/// The hub was asked.
struct Asked {
    id: Option<u64>,
    token: u32,
    /// The request that wants it gone again.
    ended: Option<Ended>,
}

/// The id of an unsubscribe, if it has one.
#[derive(Clone, Copy)]
struct Ended(Option<u64>);

/// Those that have no answer yet.
#[derive(Default)]
struct Publishes {
    /// The id of each, if it has one, and its payload bytes.
    sent: VecDeque<(Option<u64>, usize)>,
    bytes: usize,
}

type Effects = Vec<Effect>;

// === impl Session ===

impl Session {
    pub(crate) fn new(limits: Rc<Limits>) -> Session {
        Session {
            limits,
            subscriptions: LiteMap::with_capacity(1),
            next_token: 0,
            publishes: None,
            over: false,
        }
    }

    /// Takes one input. After a [`Effect::Close`] nothing follows.
    pub(crate) fn step(&mut self, input: Input) -> Effects {
        let mut effects = Vec::new();
        if self.over {
            return effects;
        }
        match input {
            Input::Request(Ok(Request { id, command })) => self.command(id, command, &mut effects),
            Input::Request(Err(invalid)) => self.invalid(invalid, &mut effects),
            Input::Subscribed(topic, answer) => self.subscribed(topic, answer, &mut effects),
            Input::Published(answer) => self.published(answer, &mut effects),
            Input::Leave(close, reason) => self.leave(close, reason, &mut effects),
        }
        effects
    }

    fn command(&mut self, id: Option<u64>, command: Command, effects: &mut Effects) {
        match command {
            Command::Subscribe { topic, from, options } => {
                self.subscribe(id, topic, from, options, effects);
            }
            Command::Unsubscribe { topic } => self.unsubscribe(id, topic, effects),
            Command::Publish(publish) => self.publish(id, publish, effects),
            Command::Authenticate { .. } => effects.push(error(
                id,
                ErrorCode::NotSupported,
                "this server asks for no token; leave authenticate away",
            )),
        }
    }

    fn subscribe(
        &mut self,
        id: Option<u64>,
        topic: Topic,
        from: From,
        options: Options,
        effects: &mut Effects,
    ) {
        if self.subscriptions.contains_key(&topic) {
            let (code, text) = refusal::of_hub(&SubscribeError::AlreadySubscribed);
            return effects.push(error(id, code, text));
        }
        let max = self.limits.subscriptions_max;
        if self.subscriptions.len() >= max {
            let (code, text) = refusal::of_hub(&SubscribeError::TooMany { max });
            return effects.push(error(id, code, text));
        }
        let token = self.next_token;
        self.next_token = self.next_token.wrapping_add(1);
        let asked = Subscription::Asked(Box::new(Asked { id, token, ended: None }));
        self.subscriptions.insert(topic.clone(), asked);
        effects.push(Effect::Subscribe { token, topic, from, options });
    }

    fn subscribed(
        &mut self,
        topic: Topic,
        answer: Result<Granted, Refusal>,
        effects: &mut Effects,
    ) {
        let Some(Subscription::Asked(asked)) = self.subscriptions.remove(&topic) else { return };
        let Asked { id, token, ended } = *asked;
        match answer {
            Ok(Granted { subscribed: Subscribed { position, recovered }, delivery }) => {
                let live = topic.clone();
                effects.push(Effect::Reply(Event::Subscribed {
                    id,
                    topic: live,
                    position,
                    recovered,
                    delivery,
                }));
                match ended {
                    None => {
                        self.subscriptions.insert(topic.clone(), Subscription::Live(token));
                        effects.push(Effect::Start(topic));
                    }
                    Some(Ended(id)) => stop(id, token, topic, effects),
                }
            }
            Err((code, text)) => {
                effects.push(error(id, code, text));
                if let Some(Ended(id)) = ended {
                    effects.push(not_subscribed(id));
                }
            }
        }
    }

    fn unsubscribe(&mut self, id: Option<u64>, topic: Topic, effects: &mut Effects) {
        match self.subscriptions.get_mut(&topic) {
            Some(Subscription::Asked(asked)) if asked.ended.is_none() => {
                asked.ended = Some(Ended(id));
            }
            Some(Subscription::Live(token)) => {
                let token = *token;
                self.subscriptions.remove(&topic);
                stop(id, token, topic, effects);
            }
            _ => effects.push(not_subscribed(id)),
        }
    }

    fn publish(&mut self, id: Option<u64>, publish: Publish, effects: &mut Effects) {
        let publishes = self.publishes.get_or_insert_default();
        let (count, bytes) = (publishes.sent.len(), publish.payload.len());
        let too_many = count >= self.limits.publishes_max;
        if too_many || count > 0 && publishes.bytes + bytes > self.limits.publish_bytes_max {
            let text =
                "too many publishes of this session wait for their answer; send fewer at once";
            return effects.push(error(id, ErrorCode::Overloaded, text));
        }
        publishes.bytes += bytes;
        publishes.sent.push_back((id, bytes));
        effects.push(Effect::Publish(publish));
    }

    fn published(&mut self, answer: Result<Placed, PublishError>, effects: &mut Effects) {
        let Some(publishes) = &mut self.publishes else { return };
        let Some((id, bytes)) = publishes.sent.pop_front() else { return };
        publishes.bytes -= bytes;
        effects.push(match answer {
            Ok(Placed { position, durability, .. }) => {
                Effect::Reply(Event::Published { id, position, durability })
            }
            Err(why) => Effect::Reply(Event::unpublished(id, &why)),
        });
        if publishes.sent.is_empty() {
            self.publishes = None;
            effects.push(Effect::Published);
        }
    }

    fn invalid(&mut self, invalid: InvalidFrame, effects: &mut Effects) {
        effects.push(Effect::Reply(invalid.event()));
        if invalid.broken {
            self.leave(&close::BAD_FRAME, invalid.message, effects);
        }
    }

    fn leave(&mut self, close: &'static Close, reason: String, effects: &mut Effects) {
        self.over = true;
        effects.push(Effect::Close(close, reason));
    }
}

fn stop(id: Option<u64>, token: u32, topic: Topic, effects: &mut Effects) {
    effects.push(Effect::Stop { token, topic: topic.clone() });
    effects.push(Effect::Reply(Event::Unsubscribed { id, topic }));
}

fn not_subscribed(id: Option<u64>) -> Effect {
    error(id, ErrorCode::NotSubscribed, "this session has no subscription of the topic")
}

fn error(id: Option<u64>, code: ErrorCode, message: impl Display) -> Effect {
    Effect::Reply(Event::error(id, code, message))
}

#[cfg(test)]
#[path = "session/session_test.rs"]
mod session_test;
