//! Many publishes on one call, acknowledged in order.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pushonce_core::{Placed, Publish};
use pushonce_proto::pb::publisher::v1 as pb;
use pushonce_proto::pb::publisher::v1::publish_stream_response::Outcome;
use pushonce_proto::pb::publisher::v1::publisher_client::PublisherClient;
use pushonce_proto::publisher::Failure;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::AbortOnDropHandle;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};

use crate::publisher::invalid;

/// An open stream. When it breaks, everything unacknowledged is [`Failure::Unknown`]; open another
/// for what comes next. Dropped, it ends: what was sent may still be placed.
pub struct PublishStream {
    requests: mpsc::Sender<pb::PublishRequest>,
    waiting: Arc<Waiting>,
    in_flight: Arc<Semaphore>,
    _reader: AbortOnDropHandle<()>,
}

/// Who waits for which acknowledgement: they come in the order of the requests.
#[derive(Default)]
struct Waiting(Mutex<State>);

#[derive(Default)]
struct State {
    queue: VecDeque<Waiter>,
    /// Why no acknowledgement will come any more.
    broken: Option<String>,
}

struct Waiter {
    answer: oneshot::Sender<Result<Placed, Failure>>,
    _permit: OwnedSemaphorePermit,
}

/// The outcome of one message of a stream.
pub type Acknowledgement = oneshot::Receiver<Result<Placed, Failure>>;

impl PublishStream {
    /// Messages that may be unacknowledged at once: half of what a server takes before it stops
    /// reading.
    pub const IN_FLIGHT_MAX: usize = 8_192;

    pub(crate) async fn open(mut client: PublisherClient<Channel>) -> Result<Self, Status> {
        let (requests, outgoing) = mpsc::channel(Self::IN_FLIGHT_MAX);
        let answers = client.publish_stream(ReceiverStream::new(outgoing)).await?.into_inner();
        let waiting = Arc::new(Waiting::default());
        let reader = tokio::spawn(read(answers, waiting.clone()));
        Ok(PublishStream {
            requests,
            waiting,
            in_flight: Arc::new(Semaphore::new(Self::IN_FLIGHT_MAX)),
            _reader: AbortOnDropHandle::new(reader),
        })
    }

    /// Sends a message, in the order of the calls; waits only while too many are unacknowledged.
    /// The outcome comes by what is returned.
    ///
    /// # Errors
    /// [`Failure::Refused`] when the message breaks a rule, or the stream is broken: this message was
    /// not sent.
    pub async fn send(&mut self, publish: Publish) -> Result<Acknowledgement, Failure> {
        publish.check(Publish::PAYLOAD_BYTES_CAP).map_err(invalid)?;
        let broken = || self.waiting.refusal();
        let permit = self.in_flight.clone().acquire_owned().await.map_err(|_| broken())?;
        let place = self.requests.reserve().await.map_err(|_| broken())?;
        let (answer, acknowledgement) = oneshot::channel();
        // In line before it is on the wire: its acknowledgement cannot come too early.
        self.waiting.push(Waiter { answer, _permit: permit })?;
        place.send(publish.into());
        Ok(acknowledgement)
    }
}

async fn read(mut answers: Streaming<pb::PublishStreamResponse>, waiting: Arc<Waiting>) {
    let mut sequence = 0;
    let why = loop {
        sequence += 1;
        match answers.message().await {
            Ok(Some(response)) if response.sequence != sequence => {
                break format!("acknowledgement {} came for message {sequence}", response.sequence);
            }
            Ok(Some(response)) => match outcome(response) {
                Some(outcome) => waiting.answer(outcome),
                None => break "an acknowledgement could not be read".to_owned(),
            },
            Ok(None) => break "the server ended the stream".to_owned(),
            Err(status) => break format!("{}: {}", status.code(), status.message()),
        }
    };
    waiting.give_up(why);
}

fn refused(why: &str) -> Failure {
    let message = format!("the stream is broken: {why}; open another");
    Failure::Refused { code: Code::Unavailable, message, retry: true }
}

fn outcome(response: pb::PublishStreamResponse) -> Option<Result<Placed, Failure>> {
    match response.outcome? {
        Outcome::Published(placed) => Some(Ok(placed.try_into().ok()?)),
        Outcome::Failed(failure) => Some(Err(failure.into())),
    }
}

impl Waiting {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics between two changes of the state, so what is behind the lock is whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is answered to a message that comes after the end.
    fn refusal(&self) -> Failure {
        refused(self.lock().broken.as_deref().unwrap_or("it has ended"))
    }

    fn push(&self, waiter: Waiter) -> Result<(), Failure> {
        let mut state = self.lock();
        match &state.broken {
            Some(why) => Err(refused(why)),
            None => {
                state.queue.push_back(waiter);
                Ok(())
            }
        }
    }

    fn answer(&self, outcome: Result<Placed, Failure>) {
        let first = self.lock().queue.pop_front();
        if let Some(waiter) = first {
            // Whoever does not wait for it does not want to know.
            let _ = waiter.answer.send(outcome);
        }
    }

    fn give_up(&self, why: String) {
        let mut state = self.lock();
        for waiter in state.queue.drain(..) {
            let _ = waiter.answer.send(Err(Failure::Unknown(why.clone())));
        }
        state.broken = Some(why);
    }
}
