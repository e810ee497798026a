//! Types of lower crates that are part of the public interface: a caller needs only this crate.

/// # Example
///
/// ```
/// use pushonce_client::AccessToken;
///
/// let token = AccessToken::new("header.claims.signature");
/// assert!(!format!("{token:?}").contains("claims"));
/// ```
#[doc(inline)]
pub use pushonce_core::AccessToken;
/// # Example
///
/// An application that stores the position of the last message it processed continues after it when it
/// starts again, with any node.
///
/// ```
/// use pushonce_client::{StartFrom, Subscriber, SubscriberEvent, Topic};
/// # use pushonce_client::{ContentType, Publish, Publisher};
///
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let node = pushonce_test_node::TestNode::start().await;
/// # let publisher = Publisher::new([node.grpc().parse()?])?;
/// # let publish = |text| Publish::new(Topic::new("chat/7").unwrap(), ContentType::Text, text);
/// # let first = publisher.publish(publish("one")).await?;
/// # let second = publisher.publish(publish("two")).await?;
/// let server = "ws://127.0.0.1:7080";
/// # let server = node.websocket();
/// let stored = "12:4051"; // message.position.to_string()
/// # let stored = first.position.to_string();
/// let mut subscriber = Subscriber::builder([server.parse()?])
///     .topic(Topic::new("chat/7")?, StartFrom::Position(stored.parse()?))
///     .connect()?;
/// while let Some(event) = subscriber.next().await {
///     match event {
///         SubscriberEvent::Message { message, .. } => {
///             println!("store {}", message.position);
/// #           assert_eq!(message.position, second.position);
/// #           break;
///         }
///         // The history ended meanwhile, or the topic began a new epoch.
///         SubscriberEvent::Gap { gap, .. } => println!("missed {gap}"),
///         _ => {}
///     }
/// }
/// # Ok(())
/// # }
/// ```
#[doc(inline)]
pub use pushonce_core::Position;
/// # Example
///
/// A message with an idempotency key, which an application draws once and sends with every retry, also
/// after a restart: the message is stored once.
///
/// ```
/// use pushonce_client::{ContentType, MessageKey, Publish, Publisher, Topic};
///
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let server = "http://127.0.0.1:7090";
/// # let node = pushonce_test_node::TestNode::start().await;
/// # let server = node.grpc();
/// let publisher = Publisher::new([server.parse()?])?;
/// let order = Publish {
///     key: Some(MessageKey::new("order-4711")?),
///     ..Publish::new(Topic::new("orders/eu")?, ContentType::Json, r#"{"total":12}"#)
/// };
/// let first = publisher.publish(order.clone()).await?;
/// let repeated = publisher.publish(order).await?;
/// assert_eq!(first.position, repeated.position);
/// # Ok(())
/// # }
/// ```
#[doc(inline)]
pub use pushonce_core::Publish;
/// # Example
///
/// A scoreboard that loads the newest message and then receives what comes.
///
/// ```
/// use pushonce_client::{StartFrom, Subscriber, Topic};
///
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let server = "ws://127.0.0.1:7080".parse()?;
/// let subscriber = Subscriber::builder([server])
///     .topic(Topic::new("scores/live")?, StartFrom::Last(1))
///     .topic(Topic::new("chat/7")?, StartFrom::Now)
///     .connect()?;
/// # Ok(())
/// # }
/// ```
#[doc(inline)]
pub use pushonce_core::StartFrom;
/// # Example
///
/// A price ticker on a slow network: at most two messages a second, the newest ones, as differences.
///
/// ```
/// use std::num::NonZeroU16;
///
/// use pushonce_client::{
///     Delivery, StartFrom, SubscribeOptions, Subscriber, SubscriberEvent, Topic,
/// };
///
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let server = "ws://127.0.0.1:7080";
/// # let node = pushonce_test_node::TestNode::start().await;
/// # let server = node.websocket();
/// let options = SubscribeOptions {
///     delivery: NonZeroU16::new(2).map(Delivery::Rate),
///     accept_deltas: true,
///     ..SubscribeOptions::default()
/// };
/// let mut subscriber = Subscriber::builder([server.parse()?])
///     .topic_with_options(Topic::new("prices/gold")?, StartFrom::Last(1), options)
///     .connect()?;
/// while let Some(event) = subscriber.next().await {
///     if let SubscriberEvent::Subscribed { topic, delivery, .. } = event {
///         println!("{topic}: {delivery}");
/// #       assert_eq!(delivery.to_string(), "rate:2");
/// #       break;
///     }
/// }
/// # Ok(())
/// # }
/// ```
#[doc(inline)]
pub use pushonce_core::SubscribeOptions;
#[doc(inline)]
pub use pushonce_core::{
    Acknowledgement, ContentType, Delivery, Durability, Epoch, Gap, GapReason, InvalidDelivery,
    InvalidPosition, InvalidPublish, InvalidTopic, Message, MessageKey, Offset, PublishId,
    Timestamp, Topic,
};
#[doc(inline)]
pub use pushonce_proto::client::Encoding;
/// # Example
///
/// ```
/// use pushonce_client::{ErrorCode, StartFrom, Subscriber, SubscriberEvent, Topic};
///
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let server = "ws://127.0.0.1:7080";
/// # let node = pushonce_test_node::TestNode::start().await;
/// # let server = node.websocket();
/// let mut subscriber = Subscriber::builder([server.parse()?])
///     .topic(Topic::new("chat/7")?, StartFrom::Position("99:1".parse()?))
///     .connect()?;
/// while let Some(event) = subscriber.next().await {
///     if let SubscriberEvent::Rejected { code, message, .. } = event {
///         assert_eq!(code, ErrorCode::FuturePosition);
///         println!("{code}: {message}");
///     }
/// }
/// // The only topic was rejected, so there are no further events.
/// # Ok(())
/// # }
/// ```
#[doc(inline)]
pub use pushonce_proto::client::ErrorCode;
/// # Example
///
/// The payload is not JSON: the message is rejected before it is sent.
///
/// ```
/// use pushonce_client::{ContentType, Publish, PublishFailure, Publisher, Topic};
///
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let publisher = Publisher::new(["http://127.0.0.1:7090".parse()?])?;
/// let publish = Publish::new(Topic::new("chat/7")?, ContentType::Json, "{");
/// match publisher.publish(publish).await {
///     Ok(acknowledgement) => println!("stored at {}", acknowledgement.position),
///     Err(PublishFailure::Rejected { message, retry: true, .. }) => println!("later: {message}"),
///     Err(PublishFailure::Rejected { reason, message, .. }) => println!("{reason}: {message}"),
///     Err(PublishFailure::Unknown(reason)) => println!("may have been stored: {reason}"),
/// }
/// # Ok(())
/// # }
/// ```
#[doc(inline)]
pub use pushonce_proto::publisher::PublishFailure;
