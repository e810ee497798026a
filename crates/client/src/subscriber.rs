//! A subscription that outlives its sessions.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use pushonce_core::{From, Gap, Message, Position, Topic};
use pushonce_proto::client::{self, ErrorCode};
use pushonce_proto::close::Reconnect;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use crate::backoff::Backoff;
use crate::cursor::Cursor;
use crate::server::Server;
use crate::session::{Ended, Session, Transport, Trust};

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
    /// The server does not give what was asked for; the session goes on without it.
    Refused {
        /// A word to branch on.
        code: ErrorCode,
        /// What to change.
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
    transport: Transport,
    trust: Trust,
    topics: BTreeMap<Topic, Cursor>,
}

/// Topics as they come, over one session after another. Dropped, it disconnects.
pub struct Subscriber {
    events: mpsc::Receiver<Event>,
    _task: AbortOnDropHandle<()>,
}

/// Events that wait for the caller. A full queue stops the reading of the session.
const EVENTS_MAX: usize = 256;

impl Subscriber {
    /// Begins with the addresses of one or more nodes: those of the transport that is to be used.
    pub fn builder(servers: impl IntoIterator<Item = Server>) -> Builder {
        Builder {
            servers: servers.into_iter().collect(),
            transport: Transport::default(),
            trust: Trust::default(),
            topics: BTreeMap::new(),
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
        self.transport = transport;
        self
    }

    /// Whose certificate to take, on QUIC.
    pub fn trust(mut self, trust: Trust) -> Builder {
        self.trust = trust;
        self
    }

    /// One more topic.
    pub fn topic(mut self, topic: Topic, from: From) -> Builder {
        self.topics.insert(topic, Cursor::new(from));
        self
    }

    /// Connects, in a task of its own, to the first server that answers. Needs a tokio runtime.
    pub fn connect(self) -> Subscriber {
        let (send, events) = mpsc::channel(EVENTS_MAX);
        let task = tokio::spawn(keep(self, send));
        Subscriber { events, _task: AbortOnDropHandle::new(task) }
    }
}

/// Nobody listens any more.
struct Gone;

/// Session after session, until there is no sense in another or nobody listens.
async fn keep(mut plan: Builder, events: mpsc::Sender<Event>) {
    let mut backoff = Backoff::default();
    for server in plan.servers.clone().iter().cycle() {
        let Ok(ended) = session(&mut plan, server, &mut backoff, &events).await else { return };
        let retry_in = match ended.reconnect {
            Reconnect::Yes => Some(backoff.fail(&mut rand::rng())),
            Reconnect::Later => Some(backoff.fail_later(&mut rand::rng())),
            Reconnect::No => None,
        };
        let event = Event::Disconnected { server: server.clone(), why: ended.why, retry_in };
        if events.send(event).await.is_err() {
            return;
        }
        match retry_in {
            Some(pause) => tokio::time::sleep(pause).await,
            None => return,
        }
    }
}

/// One session, from its opening to its end.
async fn session(
    plan: &mut Builder,
    server: &Server,
    backoff: &mut Backoff,
    events: &mpsc::Sender<Event>,
) -> Result<Ended, Gone> {
    let mut session = match Session::open(plan.transport, server, &plan.trust).await {
        Ok(session) => session,
        Err(ended) => return Ok(ended),
    };
    tell(events, Event::Connected { server: server.clone() }).await?;
    for (topic, cursor) in &plan.topics {
        if let Err(ended) = session.subscribe(topic.clone(), cursor.from()).await {
            return Ok(ended);
        }
    }
    loop {
        let event = match session.next().await {
            Ok(client::Event::Goaway { reason, .. }) => return Ok(Ended::again(reason)),
            Ok(client::Event::Error { retry: true, message, .. }) => {
                // The node cannot serve the topic now; another may.
                return Ok(Ended::again(message));
            }
            Ok(event) => event,
            Err(ended) => return Ok(ended),
        };
        if let Some(event) = plan.see(event) {
            if matches!(event, Event::Subscribed { .. }) {
                backoff.succeed();
            }
            tell(events, event).await?;
        }
    }
}

async fn tell(events: &mpsc::Sender<Event>, event: Event) -> Result<(), Gone> {
    events.send(event).await.map_err(|_| Gone)
}

impl Builder {
    /// What an event of a session means for the caller, if anything.
    fn see(&mut self, event: client::Event) -> Option<Event> {
        match event {
            client::Event::Subscribed { topic, position, recovered, .. } => {
                self.topics.get_mut(&topic)?.subscribed(position);
                Some(Event::Subscribed { topic, position, recovered })
            }
            client::Event::Message { topic, message } => {
                let new = self.topics.get_mut(&topic)?.see(message.position);
                new.then_some(Event::Message { topic, message })
            }
            client::Event::Gap { topic, gap } => {
                self.topics.get_mut(&topic)?.skip(&gap);
                Some(Event::Gap { topic, gap })
            }
            client::Event::Error { code, message, .. } => Some(Event::Refused { code, message }),
            _ => None,
        }
    }
}
