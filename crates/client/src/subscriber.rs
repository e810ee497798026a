//! A subscription that outlives its sessions.

use std::sync::Arc;
use std::time::Duration;

use pushonce_core::{Delivery, From, Gap, Message, Options, Position, Topic};
use pushonce_proto::client::{Encoding, ErrorCode};
use tokio_util::task::AbortOnDropHandle;

use crate::keeper;
use crate::progress::Progress;
use crate::queue;
use crate::server::Server;
use crate::session::{Dial, Transport, Trust};

/// What a subscriber meets, in order.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A session is open.
    Connected {
        /// With whom.
        server: Server,
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
    /// How many watch a topic, to a subscriber that asked: see [`Options::audience`].
    Audience {
        /// Which topic.
        topic: Topic,
        /// Sessions of the whole cluster, some seconds old at most.
        count: u64,
    },
    /// The server does not give what was asked for; the session goes on without it.
    Refused {
        /// A word to branch on.
        code: ErrorCode,
        /// Which topic, and what to change.
        message: String,
    },
    /// The session ended.
    Disconnected {
        /// With whom.
        server: Server,
        /// Why.
        why: String,
        /// When the next is tried; `None` when there is no sense in it, and this is the last event.
        retry_in: Option<Duration>,
    },
}

/// What to subscribe to, and where.
#[derive(Clone, Debug)]
pub struct Builder {
    servers: Vec<Server>,
    dial: Dial,
    progress: Progress,
}

/// Topics as they come, over one session after another. Dropped, it disconnects.
pub struct Subscriber {
    events: queue::Receiver,
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
        server: Server,
        /// What it was given for.
        transport: Transport,
    },
}

impl Subscriber {
    /// Begins with the addresses of one or more nodes: those of the transport that is to be used.
    pub fn builder(servers: impl IntoIterator<Item = Server>) -> Builder {
        Builder {
            servers: servers.into_iter().collect(),
            dial: Dial::default(),
            progress: Progress::default(),
        }
    }

    /// The next event; `None` after a [`Event::Disconnected`] that is not tried again. May be
    /// dropped and called again: no event is lost.
    pub async fn next(&mut self) -> Option<Event> {
        self.events.recv().await
    }
}

impl Builder {
    /// What carries the sessions; WebSocket unless said.
    pub fn transport(mut self, transport: Transport) -> Builder {
        self.dial.transport = transport;
        self
    }

    /// Whose certificate to take, on QUIC.
    pub fn trust(mut self, trust: Trust) -> Builder {
        self.dial.trust = trust;
        self
    }

    /// How frames are written on WebSocket; protobuf, the smaller, unless said. The others have one
    /// encoding only.
    pub fn encoding(mut self, encoding: Encoding) -> Builder {
        self.dial.encoding = encoding;
        self
    }

    /// One more topic. At least one is needed: a server does not keep a QUIC connection on which
    /// nothing is said.
    pub fn topic(self, topic: Topic, from: From) -> Builder {
        self.topic_with(topic, from, Options::default())
    }

    /// One more topic, with more wishes. What comes as a delta is made whole here. What the server does
    /// not offer it refuses, with the topic: [`Event::Refused`]. Over gRPC that is the audience, deltas and datagrams.
    pub fn topic_with(mut self, topic: Topic, from: From, options: Options) -> Builder {
        self.progress.add(topic, from, options);
        self
    }

    /// Connects, in a task of its own, to the first server that answers, in the order given: an
    /// application with many clients gives each of them another order. Needs a tokio runtime.
    ///
    /// # Errors
    /// [`BuildError`] when no session could ever begin.
    pub fn connect(self) -> Result<Subscriber, BuildError> {
        let Builder { servers, dial, progress } = self;
        if servers.is_empty() {
            return Err(BuildError::NoServers);
        }
        if progress.is_empty() {
            return Err(BuildError::NoTopics);
        }
        let transport = dial.transport;
        if let Some(server) = servers.iter().find(|server| !transport.takes(server.scheme)) {
            return Err(BuildError::WrongScheme { server: server.clone(), transport });
        }
        let (send, events) = queue::queue();
        let task = tokio::spawn(keeper::keep(servers.into(), dial, progress, send));
        Ok(Subscriber { events, _task: AbortOnDropHandle::new(task) })
    }
}
