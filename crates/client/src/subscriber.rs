//! A subscription that outlives its sessions.

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

/// What a subscriber meets, in order.
#[derive(Clone, Debug, PartialEq)]
pub enum SubscriberEvent {
    /// A session is open.
    Connected {
        /// With whom.
        server: ServerAddress,
    },
    /// A topic is live in this session.
    Subscribed {
        /// Which.
        topic: Topic,
        /// Where it stood at that moment.
        position: Position,
        /// Whether everything since the last session follows.
        recovered: bool,
        /// What the server gives: under `latest` and `rate` messages are passed over, and that is no
        /// loss.
        delivery: Delivery,
    },
    /// The next message of a topic.
    Message {
        /// Which topic.
        topic: Topic,
        /// The message.
        message: Arc<Message>,
    },
    /// Messages that cannot be had any more.
    Gap {
        /// Of which topic.
        topic: Topic,
        /// Which, and why.
        gap: Gap,
    },
    /// The server has lost touch with the topic's owner: whether there is more it cannot say. A
    /// subscriber that has other servers turns to them after a moment.
    Stale {
        /// Which topic.
        topic: Topic,
        /// Everything up to here was shown.
        since: Position,
    },
    /// The server hears of the topic again; what it missed follows.
    Live {
        /// Which topic.
        topic: Topic,
        /// Everything up to here was shown.
        position: Position,
    },
    /// How many watch a topic, to a subscriber that asked: see [`SubscribeOptions::report_audience`].
    Audience {
        /// Which topic.
        topic: Topic,
        /// Sessions of the whole cluster, some seconds old at most.
        count: u64,
    },
    /// The server does not give what was asked for; the session goes on without it.
    Rejected {
        /// A word to branch on.
        code: ErrorCode,
        /// Which topic, and what to change.
        message: String,
    },
    /// The session ended.
    Disconnected {
        /// With whom.
        server: ServerAddress,
        /// Why.
        reason: String,
        /// When the next is tried; `NoFault` when there is no sense in it, and this is the last event.
        retry_in: Option<Duration>,
    },
}

/// What to subscribe to, and where.
#[derive(Clone, Debug)]
pub struct SubscriberBuilder {
    servers: Vec<ServerAddress>,
    connect_options: ConnectOptions,
    resume_state: ResumeState,
}

/// Topics as they come, over one session after another. Dropped, it disconnects.
pub struct Subscriber {
    events: event_queue::EventReceiver,
    _task: AbortOnDropHandle<()>,
}

/// Why a subscriber cannot be made. Says what to change.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BuildError {
    /// The list of servers is empty.
    #[error("a subscriber needs the address of at least one server")]
    NoServers,
    /// There is nothing to subscribe to.
    #[error("a subscriber needs at least one topic")]
    NoTopics,
    /// An address of another transport.
    #[error("{server} is not an address for this transport: {}", transport.address_form())]
    WrongScheme {
        /// The address.
        server: ServerAddress,
        /// What it was given for.
        transport: Transport,
    },
}

impl Subscriber {
    /// Begins with the addresses of one or more nodes: those of the transport that is to be used.
    pub fn builder(servers: impl IntoIterator<Item = ServerAddress>) -> SubscriberBuilder {
        SubscriberBuilder {
            servers: servers.into_iter().collect(),
            connect_options: ConnectOptions::default(),
            resume_state: ResumeState::default(),
        }
    }

    /// The next event; `NoFault` after a [`SubscriberEvent::Disconnected`] that is not tried again. May be
    /// dropped and called again: no event is lost.
    pub async fn next(&mut self) -> Option<SubscriberEvent> {
        self.events.recv().await
    }
}

impl SubscriberBuilder {
    /// What carries the sessions; WebSocket unless said.
    pub fn transport(mut self, transport: Transport) -> SubscriberBuilder {
        self.connect_options.transport = transport;
        self
    }

    /// Whose certificate to take, on QUIC.
    pub fn trust(mut self, trust: CertificateTrust) -> SubscriberBuilder {
        self.connect_options.trust = trust;
        self
    }

    /// How frames are written on WebSocket; protobuf, the smaller, unless said. The others have one
    /// encoding only.
    pub fn encoding(mut self, encoding: Encoding) -> SubscriberBuilder {
        self.connect_options.encoding = encoding;
        self
    }

    /// One more topic. At least one is needed: a server does not keep a QUIC connection on which
    /// nothing is said.
    pub fn topic(self, topic: Topic, from: StartFrom) -> SubscriberBuilder {
        self.topic_with_options(topic, from, SubscribeOptions::default())
    }

    /// One more topic, with more wishes. What comes as a delta is made whole here. What the server does
    /// not offer it refuses, with the topic: [`SubscriberEvent::Rejected`]. Over gRPC that is the audience, deltas and datagrams.
    pub fn topic_with_options(
        mut self,
        topic: Topic,
        from: StartFrom,
        options: SubscribeOptions,
    ) -> SubscriberBuilder {
        self.resume_state.add_topic(topic, from, options);
        self
    }

    /// Connects, in a task of its own, to the first server that answers, in the order given: an
    /// application with many clients gives each of them another order. Needs a tokio runtime.
    ///
    /// # Errors
    /// [`BuildError`] when no session could ever begin.
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
