//! A subscription across sessions.

use std::sync::Arc;
use std::time::Duration;

use pushonce_core::{Delivery, Gap, Message, Position, StartFrom, SubscribeOptions, Topic};
use pushonce_proto::client::{Encoding, ErrorCode};
use tokio_util::task::AbortOnDropHandle;

use crate::event_queue;
use crate::reconnect;
use crate::resume_state::ResumeState;
use crate::server_address::ServerAddress;
use crate::session::{CertificateTrust, ConnectOptions, Transport};

/// An event of a subscriber, in the order of delivery.
///
/// # Example
///
/// ```
/// use pushonce_client::{StartFrom, Subscriber, SubscriberEvent, Topic};
/// # use pushonce_client::{ContentType, Publish, Publisher};
///
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let node = pushonce_test_node::TestNode::start().await;
/// # let publish = Publish::new(Topic::new("chat/7")?, ContentType::Text, "hello");
/// # Publisher::new([node.grpc().parse()?]).publish(publish).await?;
/// let server = "ws://127.0.0.1:7080";
/// # let server = node.websocket();
/// let mut subscriber = Subscriber::builder([server.parse()?])
///     .topic(Topic::new("chat/7")?, StartFrom::Start)
///     .connect()?;
/// while let Some(event) = subscriber.next().await {
///     match event {
///         SubscriberEvent::Message { topic, message } => {
///             println!("{topic}: {:?}", message.payload);
/// #           break;
///         }
///         SubscriberEvent::Gap { topic, gap } => println!("{topic}: missed {gap}, load the page"),
///         SubscriberEvent::Stale { topic, .. } => println!("{topic}: may be out of date"),
///         SubscriberEvent::Live { topic, .. } => println!("{topic}: up to date"),
///         SubscriberEvent::Rejected { code, message } => println!("{code}: {message}"),
///         SubscriberEvent::Disconnected { reason, retry_in, .. } => {
///             println!("disconnected: {reason}; next attempt in {retry_in:?}");
///         }
///         _ => {}
///     }
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum SubscriberEvent {
    /// A session was opened.
    Connected {
        /// The server of the session.
        server: ServerAddress,
    },
    /// A topic is live in this session.
    Subscribed {
        /// The topic.
        topic: Topic,
        /// The newest position of the topic at that time.
        position: Position,
        /// Whether everything since the last session follows.
        recovered: bool,
        /// The delivery granted by the server. With `latest` or a rate, skipped messages are not a loss.
        delivery: Delivery,
    },
    /// The next message of a topic.
    Message {
        /// The topic.
        topic: Topic,
        /// The message.
        message: Arc<Message>,
    },
    /// Messages that are no longer available.
    Gap {
        /// The topic.
        topic: Topic,
        /// The missing positions, and the reason.
        gap: Gap,
    },
    /// The server lost contact with the topic's owner: newer messages may exist that it does not know. A
    /// subscriber with other servers reconnects to one of them after a short time.
    Stale {
        /// The topic.
        topic: Topic,
        /// Everything up to this position was delivered.
        since: Position,
    },
    /// The server restored contact with the topic's owner; missed messages follow.
    Live {
        /// The topic.
        topic: Topic,
        /// Everything up to this position was delivered.
        position: Position,
    },
    /// The number of subscribers of a topic, if requested: see [`SubscribeOptions::report_audience`].
    Audience {
        /// The topic.
        topic: Topic,
        /// Number of sessions in the whole cluster, at most some seconds old.
        count: u64,
    },
    /// The server rejected a request; the session continues without it.
    Rejected {
        /// The error code.
        code: ErrorCode,
        /// The topic, and what to change.
        message: String,
    },
    /// The session ended.
    Disconnected {
        /// The server of the session.
        server: ServerAddress,
        /// The reason.
        reason: String,
        /// Delay until the next attempt; `None` when there is none, and this is the last event.
        retry_in: Option<Duration>,
    },
}

/// Configuration of a subscriber.
///
/// # Example
///
/// ```
/// use pushonce_client::{Encoding, StartFrom, Subscriber, SubscriberEvent, Topic, Transport};
///
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let servers = ["ws://127.0.0.1:7080", "ws://127.0.0.1:7180"];
/// # let node = pushonce_test_node::TestNode::start().await;
/// # let servers = [node.websocket(), node.websocket()];
/// let mut subscriber = Subscriber::builder([servers[0].parse()?, servers[1].parse()?])
///     .transport(Transport::Ws)
///     .encoding(Encoding::Json)
///     .topic(Topic::new("scores/live")?, StartFrom::Last(1))
///     .topic(Topic::new("chat/7")?, StartFrom::Now)
///     .connect()?;
/// let first = subscriber.next().await;
/// assert!(matches!(first, Some(SubscriberEvent::Connected { .. })));
/// # Ok(())
/// # }
/// ```
#[must_use = "a subscriber exists after `connect`"]
#[derive(Clone, Debug)]
pub struct SubscriberBuilder {
    servers: Vec<ServerAddress>,
    connect_options: ConnectOptions,
    resume_state: ResumeState,
}

/// A running subscriber, which receives events over one session after another. Dropping it disconnects.
///
/// # Example
///
/// ```
/// use pushonce_client::{StartFrom, Subscriber, SubscriberEvent, Topic};
/// # use pushonce_client::{ContentType, Publish, Publisher};
///
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let node = pushonce_test_node::TestNode::start().await;
/// # let publish = Publish::new(Topic::new("chat/7")?, ContentType::Text, "hello");
/// # Publisher::new([node.grpc().parse()?]).publish(publish).await?;
/// let server = "ws://127.0.0.1:7080";
/// # let server = node.websocket();
/// let mut subscriber = Subscriber::builder([server.parse()?])
///     .topic(Topic::new("chat/7")?, StartFrom::Last(10))
///     .connect()?;
/// while let Some(event) = subscriber.next().await {
///     if let SubscriberEvent::Message { message, .. } = event {
///         println!("{:?}", message.payload);
/// #       break;
///     }
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Subscriber {
    events: event_queue::EventReceiver,
    _task: AbortOnDropHandle<()>,
}

/// Why a subscriber cannot be created. Each text says what to change.
///
/// # Example
///
/// ```
/// use pushonce_client::{BuildError, StartFrom, Subscriber, Topic, Transport};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let builder = Subscriber::builder(["ws://127.0.0.1:7080".parse()?])
///     .transport(Transport::Quic)
///     .topic(Topic::new("chat/7")?, StartFrom::Now);
/// match builder.connect() {
///     Err(error @ BuildError::WrongScheme { .. }) => println!("{error}"),
///     _ => unreachable!("QUIC needs quic://HOST:PORT"),
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// The list of servers is empty.
    #[error("a subscriber needs the address of at least one server")]
    NoServers,
    /// There is no topic.
    #[error("a subscriber needs at least one topic")]
    NoTopics,
    /// A server address is for another transport.
    #[error("{server} is not an address for this transport: {}", transport.address_form())]
    WrongScheme {
        /// The address.
        server: ServerAddress,
        /// The transport of the subscriber.
        transport: Transport,
    },
}

impl Subscriber {
    /// Creates a builder with the addresses of one or more nodes, for the transport that is used.
    pub fn builder(servers: impl IntoIterator<Item = ServerAddress>) -> SubscriberBuilder {
        SubscriberBuilder {
            servers: servers.into_iter().collect(),
            connect_options: ConnectOptions::default(),
            resume_state: ResumeState::default(),
        }
    }

    /// The next event; `None` after a [`SubscriberEvent::Disconnected`] without retry. Cancel safe: no
    /// event is lost when the future is dropped.
    pub async fn next(&mut self) -> Option<SubscriberEvent> {
        self.events.recv().await
    }
}

impl SubscriberBuilder {
    /// Sets the transport; the default is WebSocket.
    pub fn transport(mut self, transport: Transport) -> SubscriberBuilder {
        self.connect_options.transport = transport;
        self
    }

    /// Sets which server certificates are accepted.
    pub fn trust(mut self, trust: CertificateTrust) -> SubscriberBuilder {
        self.connect_options.trust = trust;
        self
    }

    /// Sets the encoding of frames over WebSocket; the default is protobuf, the smaller one. The other
    /// transports have one encoding.
    pub fn encoding(mut self, encoding: Encoding) -> SubscriberBuilder {
        self.connect_options.encoding = encoding;
        self
    }

    /// Adds a topic. At least one is required: a server closes a QUIC connection without requests.
    pub fn topic(self, topic: Topic, from: StartFrom) -> SubscriberBuilder {
        self.topic_with_options(topic, from, SubscribeOptions::default())
    }

    /// Adds a topic with options. Deltas are applied before messages are delivered. A server rejects a
    /// topic with options that it does not support ([`SubscriberEvent::Rejected`]); over gRPC these are the
    /// audience, deltas and datagrams.
    pub fn topic_with_options(
        mut self,
        topic: Topic,
        from: StartFrom,
        options: SubscribeOptions,
    ) -> SubscriberBuilder {
        self.resume_state.add_topic(topic, from, options);
        self
    }

    /// Spawns a task that connects to the first available server, in the given order: an application with
    /// many clients should give each client a different order. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// [`BuildError`] when no session could ever be opened.
    pub fn connect(self) -> Result<Subscriber, BuildError> {
        let SubscriberBuilder { servers, connect_options, resume_state } = self;
        if servers.is_empty() {
            return Err(BuildError::NoServers);
        }
        if resume_state.is_empty() {
            return Err(BuildError::NoTopics);
        }
        let transport = connect_options.transport;
        if let Some(server) =
            servers.iter().find(|server| !transport.supports_scheme(server.scheme))
        {
            return Err(BuildError::WrongScheme { server: server.clone(), transport });
        }
        let (sender, events) = event_queue::channel();
        let task =
            tokio::spawn(reconnect::run(servers.into(), connect_options, resume_state, sender));
        Ok(Subscriber { events, _task: AbortOnDropHandle::new(task) })
    }
}
