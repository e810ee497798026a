//! Many publishes at once, each placed once and in order, whatever breaks in between.
//!
//! [`Window`] decides; the driver here keeps a call open at one server after the other and carries
//! what goes in and out.

mod call;
mod window;

use std::sync::Arc;

use pushonce_core::{Placed, ProducerId, Publish, Sequence};
use pushonce_proto::publisher::Failure;
use rand::Rng;
use tokio::sync::{mpsc, oneshot};
use tokio_util::task::AbortOnDropHandle;

use crate::publisher::{Shared, invalid};
pub(crate) use call::Call;
use window::Window;

/// An open stream. Messages to a topic are placed in the order in which they are sent, each once: when
/// the connection breaks, or a shard moves, what is unacknowledged is sent again, in order, and the
/// cluster knows what it has. Dropped, it ends: what was sent may still be placed.
pub struct PublishStream {
    messages: mpsc::Sender<Message>,
    _driver: AbortOnDropHandle<()>,
}

/// The outcome of one message of a stream.
pub type Acknowledgement = oneshot::Receiver<Result<Placed, Failure>>;

type Answer = oneshot::Sender<Result<Placed, Failure>>;

/// A message that waits for its turn.
type Message = (Publish, Answer);

/// Messages between the caller and the driver: so many are taken at once.
const WAITING_MAX: usize = 64;

impl PublishStream {
    /// Messages between the oldest that is unacknowledged and the newest, both counted.
    pub const IN_FLIGHT_MAX: usize = Sequence::WINDOW;

    pub(crate) fn open(shared: Arc<Shared>, call: Call) -> PublishStream {
        let (messages, waiting) = mpsc::channel(WAITING_MAX);
        let producer = ProducerId(rand::rng().random());
        let window = Window::new(producer, shared.deadline);
        let driver = tokio::spawn(call::drive(shared, call, window, waiting));
        PublishStream { messages, _driver: AbortOnDropHandle::new(driver) }
    }

    /// Sends a message, in the order of the calls; waits only while too many are unacknowledged.
    /// The outcome comes by what is returned, at the latest a deadline of the publisher later.
    ///
    /// # Errors
    /// [`Failure::Refused`] when the message breaks a rule: it was not sent.
    pub async fn send(&mut self, publish: Publish) -> Result<Acknowledgement, Failure> {
        publish.check(Publish::PAYLOAD_BYTES_CAP).map_err(invalid)?;
        let (answer, acknowledgement) = oneshot::channel();
        // The driver ends only with the runtime; then nobody answers, which is what it means.
        let _ended = self.messages.send((publish, answer)).await;
        Ok(acknowledgement)
    }
}
