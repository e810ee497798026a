//! What a subscriber receives.

use std::sync::Arc;
use std::time::Duration;

use pushonce_core::{Delivery, Gap, Message, Position, Topic};
use pushonce_proto::client::ErrorCode;

use crate::server_address::ServerAddress;

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
/// # Publisher::new([node.grpc().parse()?])?.publish(publish).await?;
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
///         SubscriberEvent::Rejected { topic, code, message } => {
///             println!("{topic:?} {code}: {message}");
///         }
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
    /// The number of subscribers of a topic, if requested: see [`SubscribeOptions::report_audience`](pushonce_core::SubscribeOptions::report_audience).
    Audience {
        /// The topic.
        topic: Topic,
        /// Number of sessions in the whole cluster, at most some seconds old.
        count: u64,
    },
    /// The server rejected a request; the session continues without it.
    Rejected {
        /// The topic of the subscription, which has ended; `None` for an error that concerns the session, such as
        /// that of an access token.
        topic: Option<Topic>,
        /// The error code.
        code: ErrorCode,
        /// What to change.
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
