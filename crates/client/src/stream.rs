//! Streams of publishes: many in flight, each stored once and in order, across failures.
//!
//! [`PublishWindow`] decides what to send; the driver in `call` keeps a call open at one server after the
//! other and transfers requests and replies.

mod call;
mod window;

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use pushonce_core::{Acknowledgement, ProducerId, ProducerSequence, Publish};
use pushonce_proto::publisher::PublishFailure;
use rand::Rng;
use tokio::sync::{mpsc, oneshot};
use tokio_util::task::AbortOnDropHandle;

use crate::publisher::{PublisherShared, invalid_publish};
pub(crate) use call::PublishCall;
use window::PublishWindow;

/// An open stream. Messages to a topic are stored in the order in which they are sent, each once: when the
/// connection breaks, or a shard moves, unacknowledged messages are sent again in order, and the cluster
/// recognises those that it has. Dropping the stream ends it: messages sent before may still be stored.
///
/// # Example
///
/// ```
/// use pushonce_client::{ContentType, Publish, Publisher, Topic};
///
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let server = "http://127.0.0.1:7090";
/// # let node = pushonce_test_node::TestNode::start().await;
/// # let server = node.grpc();
/// let topic = Topic::new("scores/live")?;
/// let mut stream = Publisher::new([server.parse()?])?.stream().await?;
/// let mut acknowledgements = Vec::new();
/// for score in ["1:0", "1:1", "2:1"] {
///     let message = Publish::new(topic.clone(), ContentType::Text, score);
///     acknowledgements.push(stream.send(message).await?);
/// }
/// stream.drain().await;
/// for acknowledgement in acknowledgements {
///     println!("stored at {}", acknowledgement.await?.position);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct PublishStream {
    messages: mpsc::Sender<StreamCommand>,
    driver: AbortOnDropHandle<()>,
}

/// The outcome of one message of a stream, within [`Publisher::DEADLINE`](crate::Publisher::DEADLINE).
///
/// # Errors
/// [`PublishFailure::Rejected`] when the message was not stored; [`PublishFailure::Unknown`] when it may have
/// been, also after the [`PublishStream`] was dropped.
///
/// # Example
///
/// The outcomes are handled while further messages are sent.
///
/// ```
/// use pushonce_client::{ContentType, Publish, PublishFailure, Publisher, Topic};
///
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let server = "http://127.0.0.1:7090";
/// # let node = pushonce_test_node::TestNode::start().await;
/// # let server = node.grpc();
/// let mut stream = Publisher::new([server.parse()?])?.stream().await?;
/// let message = Publish::new(Topic::new("chat/7")?, ContentType::Text, "hello");
/// let acknowledgement = stream.send(message).await?;
/// let outcome = tokio::spawn(async {
///     match acknowledgement.await {
///         Ok(acknowledgement) => println!("stored at {}", acknowledgement.position),
///         Err(PublishFailure::Rejected { message, .. }) => println!("not stored: {message}"),
///         Err(PublishFailure::Unknown(reason)) => println!("may have been stored: {reason}"),
///     }
/// });
/// # outcome.await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct AcknowledgementFuture(oneshot::Receiver<Result<Acknowledgement, PublishFailure>>);

type AcknowledgementSender = oneshot::Sender<Result<Acknowledgement, PublishFailure>>;

/// A request in the queue of the driver.
#[derive(Debug)]
enum StreamCommand {
    Publish(Publish, AcknowledgementSender),
    /// Answer when every earlier message has its outcome.
    Flush(oneshot::Sender<()>),
}

/// Maximum number of requests queued between the caller and the driver, and taken at once.
const QUEUE_MAX: usize = 64;

impl PublishStream {
    /// Maximum distance between the oldest unacknowledged message and the newest, both counted.
    pub const IN_FLIGHT_MAX: usize = ProducerSequence::IN_FLIGHT_MAX;

    pub(crate) fn open(shared: Arc<PublisherShared>, call: PublishCall) -> PublishStream {
        let (messages, pending) = mpsc::channel(QUEUE_MAX);
        let producer = ProducerId(rand::rng().random());
        let window = PublishWindow::new(producer, shared.deadline());
        let driver = tokio::spawn(call::run(shared, call, window, pending));
        PublishStream { messages, driver: AbortOnDropHandle::new(driver) }
    }

    /// Sends a message, in the order of the calls; waits only while too many are unacknowledged. The
    /// returned future resolves to the outcome within the deadline of the publisher.
    ///
    /// # Errors
    /// [`PublishFailure::Rejected`] when the message breaks a rule; it was not sent.
    pub async fn send(
        &mut self,
        publish: Publish,
    ) -> Result<AcknowledgementFuture, PublishFailure> {
        publish.validate(Publish::PAYLOAD_BYTES_CAP).map_err(invalid_publish)?;
        let (sender, future) = oneshot::channel();
        // The driver ends only with the runtime; the future then fails too.
        let _closed = self.messages.send(StreamCommand::Publish(publish, sender)).await;
        Ok(AcknowledgementFuture(future))
    }

    /// Waits until every message that was sent before has its outcome: at most the deadline of the publisher after the
    /// last one. The outcomes are those of the [`AcknowledgementFuture`]s.
    pub async fn flush(&mut self) {
        let (sender, flushed) = oneshot::channel();
        let _closed = self.messages.send(StreamCommand::Flush(sender)).await;
        // Fails only with the driver, which ends with the runtime.
        let _closed = flushed.await;
    }

    /// Waits as [`PublishStream::flush`], and ends the stream at the server.
    pub async fn drain(mut self) {
        self.flush().await;
        let PublishStream { messages, driver } = self;
        drop(messages);
        // Fails only with the runtime.
        let _ended = driver.await;
    }
}

impl Future for AcknowledgementFuture {
    type Output = Result<Acknowledgement, PublishFailure>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let outcome = ready!(Pin::new(&mut self.0).poll(context));
        Poll::Ready(outcome.unwrap_or_else(|_driver_ended| {
            Err(PublishFailure::Unknown("the stream was closed before the reply".to_owned()))
        }))
    }
}
