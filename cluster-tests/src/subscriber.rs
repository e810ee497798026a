//! Subscribers of tests, over any transport.

use std::time::Duration;

use pushonce_client::{ErrorCode, ServerAddress, Subscriber, SubscriberEvent, Transport};
use pushonce_core::{Gap, Position, StartFrom, Topic};

use crate::cluster::ProcessCluster;
use crate::wait::secs;

/// A subscriber of one topic, with assertions on what it receives.
pub struct TestSubscriber {
    subscriber: Subscriber,
    /// For failure messages.
    name: String,
}

/// A received message: its position and its text.
pub type ReceivedMessage = (Position, String);

impl ProcessCluster {
    /// A subscriber at the `i`th node that falls back to the other nodes.
    pub fn subscriber(
        &self,
        i: usize,
        transport: Transport,
        topic: &str,
        from: StartFrom,
    ) -> TestSubscriber {
        let mut servers: Vec<ServerAddress> =
            (0..self.len()).map(|i| self.server_address(i, transport)).collect();
        servers.rotate_left(i);
        TestSubscriber::new(servers, transport, topic, from)
    }

    /// One live subscriber per running node and transport.
    pub async fn subscribers(&self, topic: &str, from: StartFrom) -> Vec<TestSubscriber> {
        let mut viewers = Vec::new();
        for i in self.running_nodes() {
            for transport in [Transport::Ws, Transport::Quic, Transport::Grpc] {
                let mut viewer = self.subscriber(i, transport, topic, from);
                viewer.wait_subscribed(secs(10)).await;
                viewers.push(viewer);
            }
        }
        viewers
    }

    /// The address of the `i`th node for a transport.
    pub fn server_address(&self, i: usize, transport: Transport) -> ServerAddress {
        self.node(i).ports.server(transport)
    }
}

impl TestSubscriber {
    /// A subscriber that tries these servers, in this order.
    pub fn new(
        servers: Vec<ServerAddress>,
        transport: Transport,
        topic: &str,
        from: StartFrom,
    ) -> TestSubscriber {
        let topic = Topic::new(topic).expect("a valid topic");
        let name = format!("the subscriber of {topic} at {}", servers[0]);
        let builder = Subscriber::builder(servers).transport(transport).topic(topic, from);
        TestSubscriber {
            subscriber: builder.connect().expect("the servers fit the transport"),
            name,
        }
    }

    /// The next event of any kind.
    pub async fn next_event(&mut self, limit: Duration) -> SubscriberEvent {
        let next = tokio::time::timeout(limit, self.subscriber.next()).await;
        let on_timeout = || panic!("no event within {limit:?} at {}", self.name);
        next.unwrap_or_else(|_| on_timeout()).expect("the subscriber is not closed")
    }

    /// Waits until the subscription is live; returns the position of the topic at that time.
    pub async fn wait_subscribed(&mut self, limit: Duration) -> Position {
        loop {
            match self.next_event(limit).await {
                SubscriberEvent::Subscribed { position, .. } => return position,
                SubscriberEvent::Message { message, .. } => {
                    panic!("{message:?} before `Subscribed`")
                }
                _ => {}
            }
        }
    }

    /// The next message. Panics at a gap or a rejection; skips reconnects.
    pub async fn next_message(&mut self, limit: Duration) -> ReceivedMessage {
        loop {
            match self.next_event(limit).await {
                SubscriberEvent::Message { message, .. } => {
                    let text = String::from_utf8_lossy(&message.payload).into_owned();
                    return (message.position, text);
                }
                SubscriberEvent::Gap { gap, .. } => panic!("a gap: {gap}"),
                SubscriberEvent::Rejected { code, message, .. } => {
                    panic!("rejected: {code} {message}")
                }
                _ => {}
            }
        }
    }

    /// The next `n` messages, which must be consecutive.
    pub async fn next_messages(&mut self, n: usize, limit: Duration) -> Vec<ReceivedMessage> {
        let mut received: Vec<ReceivedMessage> = Vec::with_capacity(n);
        while received.len() < n {
            let next = self.next_message(limit).await;
            if let Some((last, _)) = received.last() {
                assert!(next.0.follows(*last), "{} after {last}", next.0);
            }
            received.push(next);
        }
        received
    }

    /// All messages up to `last`, which must be consecutive.
    pub async fn messages_up_to(
        &mut self,
        last: Position,
        limit: Duration,
    ) -> Vec<ReceivedMessage> {
        let mut received: Vec<ReceivedMessage> = Vec::new();
        while received.last().is_none_or(|(position, _)| *position < last) {
            received.extend(self.next_messages(1, limit).await);
        }
        assert!(
            received.is_sorted_by(|(one, _), (two, _)| two.follows(*one)),
            "missing messages in {received:?}"
        );
        received
    }

    /// Waits until the subscription is rejected; returns the code and the message.
    pub async fn wait_rejected(&mut self, limit: Duration) -> (ErrorCode, String) {
        loop {
            match self.next_event(limit).await {
                SubscriberEvent::Rejected { code, message, .. } => return (code, message),
                SubscriberEvent::Connected { .. } => {}
                other => panic!("not rejected: {other:?}"),
            }
        }
    }

    /// Waits until the session is lost.
    pub async fn wait_disconnected(&mut self, limit: Duration) {
        while !matches!(self.next_event(limit).await, SubscriberEvent::Disconnected { .. }) {}
    }

    /// Waits for the stale notice; returns the position up to which the subscriber is complete.
    pub async fn wait_stale(&mut self, limit: Duration) -> Position {
        loop {
            if let SubscriberEvent::Stale { since, .. } = self.next_event(limit).await {
                return since;
            }
        }
    }

    /// Waits for the notice that the topic is live again; returns the position up to which the subscriber is
    /// complete.
    pub async fn wait_live(&mut self, limit: Duration) -> Position {
        loop {
            if let SubscriberEvent::Live { position, .. } = self.next_event(limit).await {
                return position;
            }
        }
    }

    /// The next gap. Skips messages before it.
    pub async fn next_gap(&mut self, limit: Duration) -> Gap {
        loop {
            if let SubscriberEvent::Gap { gap, .. } = self.next_event(limit).await {
                return gap;
            }
        }
    }
}
