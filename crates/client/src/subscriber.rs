//! A subscription across sessions.

mod builder;
mod event;

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::Stream;
use pushonce_core::{StartFrom, SubscribeOptions, Topic};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use crate::event_queue::EventReceiver;
use crate::server_address::ServerAddress;
pub use builder::SubscriberBuilder;
pub use event::SubscriberEvent;

/// A running subscriber, which receives events over one session after another. It is a [`Stream`] of
/// [`SubscriberEvent`]. Dropping it disconnects; [`Subscriber::close`] also notifies the server.
///
/// # Resuming after a restart
///
/// A subscriber resumes by itself while it runs. To continue after a restart of the process, store the position of the
/// last event that was *processed* for each topic, and start from it. It is `message.position` of a
/// [`SubscriberEvent::Message`], `gap.to` of a [`SubscriberEvent::Gap`], and `position` of the first
/// [`SubscriberEvent::Subscribed`] if nothing came yet. A position is text: 20 bytes or less.
///
/// ```
/// use pushonce_client::{Position, StartFrom, Subscriber, SubscriberEvent, Topic};
/// # use pushonce_client::{ContentType, Publish, Publisher};
///
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let node = pushonce_test_node::TestNode::start().await;
/// # let publish = Publish::new(Topic::new("orders/eu")?, ContentType::Text, "hello");
/// # Publisher::new([node.grpc().parse()?])?.publish(publish).await?;
/// let server = "ws://127.0.0.1:7080";
/// # let server = node.websocket();
/// let file = "orders.position";
/// # let directory = tempfile::tempdir()?;
/// # let file = directory.path().join(file);
/// let from = match std::fs::read_to_string(&file) {
///     Ok(text) => StartFrom::Position(text.parse::<Position>()?),
///     Err(_) => StartFrom::Start,
/// };
/// let mut orders = Subscriber::builder([server.parse()?])
///     .topic(Topic::new("orders/eu")?, from)
///     .connect()?;
/// while let Some(event) = orders.next().await {
///     match event {
///         SubscriberEvent::Message { message, .. } => {
///             println!("process {:?}", message.payload);
///             std::fs::write(&file, message.position.to_string())?;
/// #           break;
///         }
///         SubscriberEvent::Gap { gap, .. } => {
///             println!("load the orders again, missed {gap}");
///             std::fs::write(&file, gap.to.to_string())?;
///         }
///         _ => {}
///     }
/// }
/// orders.close().await;
/// # assert_eq!(std::fs::read_to_string(&file)?.parse::<Position>()?.offset.0, 1);
/// # Ok(())
/// # }
/// ```
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
/// # Publisher::new([node.grpc().parse()?])?.publish(publish).await?;
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
    events: EventReceiver,
    /// Not bounded: the caller sends them one by one, and they are applied as fast as requests are sent.
    commands: mpsc::UnboundedSender<TopicCommand>,
    task: AbortOnDropHandle<()>,
}

/// A change of the topics of a running subscriber.
#[derive(Debug)]
pub(crate) enum TopicCommand {
    Add { topic: Topic, from: StartFrom, options: SubscribeOptions },
    Remove { topic: Topic },
    Close,
}

/// Longer than a close frame takes to be sent, unless the connection is stuck.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

impl Subscriber {
    /// Creates a builder with the addresses of one or more nodes, for the transport that is used.
    pub fn builder(servers: impl IntoIterator<Item = ServerAddress>) -> SubscriberBuilder {
        SubscriberBuilder::new(servers)
    }

    /// The next event; `None` after a [`SubscriberEvent::Disconnected`] without retry. Cancel safe: no
    /// event is lost when the future is dropped.
    pub async fn next(&mut self) -> Option<SubscriberEvent> {
        self.events.recv().await
    }

    /// Subscribes to another topic in the running session. A topic that is subscribed already starts anew. The outcome
    /// is a [`SubscriberEvent::Subscribed`] or [`SubscriberEvent::Rejected`] of the topic.
    pub fn add_topic(&self, topic: Topic, from: StartFrom, options: SubscribeOptions) {
        self.command(TopicCommand::Add { topic, from, options });
    }

    /// Ends the subscription of a topic. Events of the topic that were received before are still returned. A subscriber
    /// without topics stays connected and waits for the next one.
    pub fn remove_topic(&self, topic: Topic) {
        self.command(TopicCommand::Remove { topic });
    }

    /// Ends the subscriber and tells the server, which then does not take the session for lost. Events that were not
    /// returned are dropped.
    pub async fn close(self) {
        let Subscriber { events, commands, task } = self;
        // A task that waits for room in the queue is notified.
        drop(events);
        let _has_ended = commands.send(TopicCommand::Close);
        let _is_stuck = tokio::time::timeout(CLOSE_TIMEOUT, task).await;
    }

    fn command(&self, command: TopicCommand) {
        // Fails when the subscriber has ended: its last event says why.
        let _has_ended = self.commands.send(command);
    }
}

impl Stream for Subscriber {
    type Item = SubscriberEvent;

    fn poll_next(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<SubscriberEvent>> {
        self.events.poll_recv(context)
    }
}
