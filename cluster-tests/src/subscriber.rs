//! Somebody who watches.

use std::time::Duration;

use pushonce_client::{ErrorCode, ServerAddress, Subscriber, SubscriberEvent, Transport};
use pushonce_core::{Gap, Position, StartFrom, Topic};

use crate::cluster::ProcessCluster;
use crate::wait::secs;

/// A subscriber of one topic, with what it must see.
pub struct TestSubscriber {
    subscriber: Subscriber,
    /// For the reader of a story that failed.
    name: String,
}

/// A message as a viewer sees it: where it stands, and its text.
pub type ReceivedMessage = (Position, String);

impl ProcessCluster {
    /// A viewer at the `i`th node. It knows the others' addresses too, and turns to them.
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

    /// A viewer at each running node by each transport, live.
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

    /// The address of the `i`th node's door for a transport.
    pub fn server_address(&self, i: usize, transport: Transport) -> ServerAddress {
        self.node(i).ports.server(transport)
    }
}

impl TestSubscriber {
    /// A viewer that turns to these servers, in this order.
    pub fn new(
        servers: Vec<ServerAddress>,
        transport: Transport,
        topic: &str,
        from: StartFrom,
    ) -> TestSubscriber {
        let topic = Topic::new(topic).expect("a valid topic");
        let name = format!("the viewer of {topic} at {}", servers[0]);
        let builder = Subscriber::builder(servers).transport(transport).topic(topic, from);
        TestSubscriber {
            subscriber: builder.connect().expect("the servers fit the transport"),
            name,
        }
    }

    /// The next event, whatever it is.
    pub async fn next_event(&mut self, limit: Duration) -> SubscriberEvent {
        let next = tokio::time::timeout(limit, self.subscriber.next()).await;
        let on_timeout = || panic!("nothing came within {limit:?} to {}", self.name);
        next.unwrap_or_else(|_| on_timeout()).expect("it goes on")
    }

    /// Waits until the subscription is live; says where the topic stood.
    pub async fn wait_subscribed(&mut self, limit: Duration) -> Position {
        loop {
            match self.next_event(limit).await {
                SubscriberEvent::Subscribed { position, .. } => return position,
                SubscriberEvent::Message { message, .. } => {
                    panic!("{message:?} before the subscription")
                }
                _ => {}
            }
        }
    }

    /// The next message, which must not have a gap before it. Reconnects are passed over.
    pub async fn next_message(&mut self, limit: Duration) -> ReceivedMessage {
        loop {
            match self.next_event(limit).await {
                SubscriberEvent::Message { message, .. } => {
                    let text = String::from_utf8_lossy(&message.payload).into_owned();
                    return (message.position, text);
                }
                SubscriberEvent::Gap { gap, .. } => panic!("a gap: {gap}"),
                SubscriberEvent::Rejected { code, message } => panic!("refused: {code} {message}"),
                _ => {}
            }
        }
    }

    /// The next `n` messages, which must be neighbours.
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

    /// All messages up to `last`, which must be neighbours.
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
            "a hole in {received:?}"
        );
        received
    }

    /// Why the subscription is refused.
    pub async fn wait_rejected(&mut self, limit: Duration) -> (ErrorCode, String) {
        loop {
            match self.next_event(limit).await {
                SubscriberEvent::Rejected { code, message } => return (code, message),
                SubscriberEvent::Connected { .. } => {}
                other => panic!("not refused: {other:?}"),
            }
        }
    }

    /// Waits until the session has broken.
    pub async fn wait_disconnected(&mut self, limit: Duration) {
        while !matches!(self.next_event(limit).await, SubscriberEvent::Disconnected { .. }) {}
    }

    /// Waits until it is told that its topic is stale; says up to where it has everything.
    pub async fn wait_stale(&mut self, limit: Duration) -> Position {
        loop {
            if let SubscriberEvent::Stale { since, .. } = self.next_event(limit).await {
                return since;
            }
        }
    }

    /// Waits until it is told that its topic is live again; says up to where it has everything.
    pub async fn wait_live(&mut self, limit: Duration) -> Position {
        loop {
            if let SubscriberEvent::Live { position, .. } = self.next_event(limit).await {
                return position;
            }
        }
    }

    /// The next gap; messages before it are passed over.
    pub async fn next_gap(&mut self, limit: Duration) -> Gap {
        loop {
            if let SubscriberEvent::Gap { gap, .. } = self.next_event(limit).await {
                return gap;
            }
        }
    }
}
