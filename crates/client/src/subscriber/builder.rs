//! The settings of a subscriber.

use std::time::Duration;

use pushonce_core::{Backoff, StartFrom, SubscribeOptions, Topic};
use pushonce_proto::client::Encoding;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::Subscriber;
use crate::build_error::{BuildError, check_servers};
use crate::event_queue;
use crate::reconnect::{self, SubscriberTask};
use crate::resume_state::ResumeState;
use crate::server_address::ServerAddress;
use crate::session::{CertificateTrust, ConnectOptions, Transport};
use crate::token::TokenProvider;

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
    queue_events_max: usize,
}

/// The largest value of [`SubscriberBuilder::queue_events_max`].
const QUEUE_EVENTS_CAP: usize = 65_536;

impl SubscriberBuilder {
    pub(super) fn new(servers: impl IntoIterator<Item = ServerAddress>) -> SubscriberBuilder {
        SubscriberBuilder {
            servers: servers.into_iter().collect(),
            connect_options: ConnectOptions::default(),
            resume_state: ResumeState::default(),
            queue_events_max: event_queue::EVENTS_MAX_DEFAULT,
        }
    }

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

    /// Sets where the access token comes from. It is asked for each session, and before its token expires.
    pub fn token(mut self, provider: TokenProvider) -> SubscriberBuilder {
        self.connect_options.token = Some(provider);
        self
    }

    /// Sets the encoding of frames over WebSocket; the default is protobuf, the smaller one. The other
    /// transports have one encoding.
    pub fn encoding(mut self, encoding: Encoding) -> SubscriberBuilder {
        self.connect_options.encoding = encoding;
        self
    }

    /// Adds a topic. Topics can also be added and removed later ([`Subscriber::add_topic`]).
    pub fn topic(self, topic: Topic, from: StartFrom) -> SubscriberBuilder {
        self.topic_with_options(topic, from, SubscribeOptions::default())
    }

    /// Adds a topic with options. Deltas are applied before messages are delivered. A server rejects a
    /// topic with options that it does not support ([`SubscriberEvent::Rejected`](crate::SubscriberEvent::Rejected)); over gRPC these are the
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

    /// Sets the timeout for opening a session, after which the next server is tried, from 100 ms to 1 minute. The
    /// default is 5 s.
    pub fn connect_timeout(mut self, timeout: Duration) -> SubscriberBuilder {
        self.connect_options.connect_timeout = timeout;
        self
    }

    /// Sets the delays between sessions, drawn at random below a bound that grows from `initial` to `max`. The
    /// default is 100 ms to 5 s.
    pub fn backoff(mut self, initial: Duration, max: Duration) -> SubscriberBuilder {
        self.connect_options.backoff = Backoff::new(initial, max);
        self
    }

    /// Sets the maximum number of events that wait for the caller, from 1 to 65,536. The default is 256. Messages of
    /// topics with `latest` or a rate are not counted: one of each waits at most.
    pub fn queue_events_max(mut self, max: usize) -> SubscriberBuilder {
        self.queue_events_max = max;
        self
    }

    /// Spawns a task that connects to the first available server, in the given order: an application with
    /// many clients should give each client a different order. Must be called within a tokio runtime. Without a topic
    /// it connects when the first one is added.
    ///
    /// # Errors
    /// [`BuildError`] when no session could ever be opened.
    pub fn connect(self) -> Result<Subscriber, BuildError> {
        self.check()?;
        let SubscriberBuilder { servers, connect_options, resume_state, queue_events_max } = self;
        let (sender, events) = event_queue::channel(queue_events_max);
        let (command_sender, commands) = mpsc::unbounded_channel();
        let servers = servers.into();
        let task =
            SubscriberTask { servers, connect_options, resume_state, commands, events: sender };
        let task = AbortOnDropHandle::new(tokio::spawn(reconnect::run(task)));
        Ok(Subscriber { events, commands: command_sender, task })
    }

    fn check(&self) -> Result<(), BuildError> {
        let ConnectOptions { transport, trust, connect_timeout, .. } = &self.connect_options;
        check_servers(&self.servers, *transport)?;
        trust.check_certificates().map_err(BuildError::InvalidTrust)?;
        if !(Duration::from_millis(100)..=Duration::from_secs(60)).contains(connect_timeout) {
            return Err(BuildError::InvalidSetting {
                setting: "connect_timeout",
                value: format!("{connect_timeout:?}"),
                range: "use 100 ms to 1 minute",
            });
        }
        if !(1..=QUEUE_EVENTS_CAP).contains(&self.queue_events_max) {
            return Err(BuildError::InvalidSetting {
                setting: "queue_events_max",
                value: self.queue_events_max.to_string(),
                range: "use 1 to 65,536",
            });
        }
        Ok(())
    }
}
