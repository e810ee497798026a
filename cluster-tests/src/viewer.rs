//! Somebody who watches.

use std::time::Duration;

use pushonce_client::{ErrorCode, Event, Server, Subscriber, Transport};
use pushonce_core::{From, Gap, Position, Topic};

use crate::cluster::Cluster;
use crate::wait::secs;

/// A subscriber of one topic, with what it must see.
pub struct Viewer {
    subscriber: Subscriber,
    /// For the reader of a story that failed.
    who: String,
}

/// A message as a viewer sees it: where it stands, and its text.
pub type Seen = (Position, String);

impl Cluster {
    /// A viewer at the `i`th node. It knows the others' addresses too, and turns to them.
    pub fn viewer(&self, i: usize, transport: Transport, topic: &str, from: From) -> Viewer {
        let mut servers: Vec<Server> = (0..self.len()).map(|i| self.server(i, transport)).collect();
        servers.rotate_left(i);
        Viewer::of(servers, transport, topic, from)
    }

    /// A viewer at each running node by each transport, live.
    pub async fn viewers(&self, topic: &str, from: From) -> Vec<Viewer> {
        let mut viewers = Vec::new();
        for i in self.running() {
            for transport in [Transport::Ws, Transport::Quic, Transport::Grpc] {
                let mut viewer = self.viewer(i, transport, topic, from);
                viewer.live(secs(10)).await;
                viewers.push(viewer);
            }
        }
        viewers
    }

    /// The address of the `i`th node's door for a transport.
    pub fn server(&self, i: usize, transport: Transport) -> Server {
        self.node(i).ports.server(transport)
    }
}

impl Viewer {
    /// A viewer that turns to these servers, in this order.
    pub fn of(servers: Vec<Server>, transport: Transport, topic: &str, from: From) -> Viewer {
        let topic = Topic::new(topic).expect("a valid topic");
        let who = format!("the viewer of {topic} at {}", servers[0]);
        let builder = Subscriber::builder(servers).transport(transport).topic(topic, from);
        Viewer { subscriber: builder.connect().expect("the servers fit the transport"), who }
    }

    /// The next event, whatever it is.
    pub async fn next(&mut self, limit: Duration) -> Event {
        let next = tokio::time::timeout(limit, self.subscriber.next()).await;
        let silent = || panic!("nothing came within {limit:?} to {}", self.who);
        next.unwrap_or_else(|_| silent()).expect("it goes on")
    }

    /// Waits until the subscription is live; says where the topic stood.
    pub async fn live(&mut self, limit: Duration) -> Position {
        loop {
            match self.next(limit).await {
                Event::Subscribed { position, .. } => return position,
                Event::Message { message, .. } => panic!("{message:?} before the subscription"),
                _ => {}
            }
        }
    }

    /// The next message, which must not have a gap before it. Reconnects are passed over.
    pub async fn message(&mut self, limit: Duration) -> Seen {
        loop {
            match self.next(limit).await {
                Event::Message { message, .. } => {
                    let text = String::from_utf8_lossy(&message.payload).into_owned();
                    return (message.position, text);
                }
                Event::Gap { gap, .. } => panic!("a gap: {gap}"),
                Event::Refused { code, message } => panic!("refused: {code} {message}"),
                _ => {}
            }
        }
    }

    /// The next `n` messages, which must be neighbours.
    pub async fn messages(&mut self, n: usize, limit: Duration) -> Vec<Seen> {
        let mut seen: Vec<Seen> = Vec::with_capacity(n);
        while seen.len() < n {
            let next = self.message(limit).await;
            if let Some((last, _)) = seen.last() {
                assert!(next.0.follows(*last), "{} after {last}", next.0);
            }
            seen.push(next);
        }
        seen
    }

    /// All messages up to `last`, which must be neighbours.
    pub async fn up_to(&mut self, last: Position, limit: Duration) -> Vec<Seen> {
        let mut seen: Vec<Seen> = Vec::new();
        while seen.last().is_none_or(|(position, _)| *position < last) {
            seen.extend(self.messages(1, limit).await);
        }
        assert!(seen.is_sorted_by(|(one, _), (two, _)| two.follows(*one)), "a hole in {seen:?}");
        seen
    }

    /// Why the subscription is refused.
    pub async fn refused(&mut self, limit: Duration) -> (ErrorCode, String) {
        loop {
            match self.next(limit).await {
                Event::Refused { code, message } => return (code, message),
                Event::Connected { .. } => {}
                other => panic!("not refused: {other:?}"),
            }
        }
    }

    /// Waits until the session has broken.
    pub async fn disconnected(&mut self, limit: Duration) {
        while !matches!(self.next(limit).await, Event::Disconnected { .. }) {}
    }

    /// Waits until it is told that its topic is stale; says up to where it has everything.
    pub async fn stale(&mut self, limit: Duration) -> Position {
        loop {
            if let Event::Stale { since, .. } = self.next(limit).await {
                return since;
            }
        }
    }

    /// Waits until it is told that its topic is live again; says up to where it has everything.
    pub async fn fresh(&mut self, limit: Duration) -> Position {
        loop {
            if let Event::Live { position, .. } = self.next(limit).await {
                return position;
            }
        }
    }

    /// The next gap; messages before it are passed over.
    pub async fn gap(&mut self, limit: Duration) -> Gap {
        loop {
            if let Event::Gap { gap, .. } = self.next(limit).await {
                return gap;
            }
        }
    }
}
