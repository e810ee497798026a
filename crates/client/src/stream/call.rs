//! The driver of a stream: keeps a call open at one server after the other and sends what the window
//! decides.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use pushonce_core::Acknowledgement;
use pushonce_proto::pb::publisher::v1 as pb;
use pushonce_proto::pb::publisher::v1::publish_stream_response::Outcome;
use pushonce_proto::pb::publisher::v1::publisher_service_client::PublisherServiceClient;
use pushonce_proto::publisher::PublishFailure;
use pushonce_proto::status::describe;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, Sleep, sleep, sleep_until, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Status, Streaming};

use super::window::{self, PublishWindow};
use super::{AcknowledgementSender, StreamCommand};
use crate::publisher::{Publisher, PublisherShared};
use crate::reconnect::RECONNECT_BACKOFF;

/// Maximum number of requests queued for the connection.
const REQUEST_QUEUE_MAX: usize = 256;

/// A server that does not reply for this long while messages are in flight is left, so that another has the
/// rest of the messages' deadline.
const RESPONSE_TIMEOUT: Duration = Publisher::ATTEMPT_TIMEOUT;

/// Timeout for opening a call.
const OPEN_TIMEOUT: Duration = Duration::from_secs(3);

/// Timeout for the server to end a call that the publisher ended.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// An open call of `PublishStream`.
pub(crate) struct PublishCall {
    /// Index of its server, to switch from it when the call fails.
    server: usize,
    requests: mpsc::Sender<pb::PublishStreamRequest>,
    responses: Streaming<pb::PublishStreamResponse>,
    /// Number of received replies.
    response_count: u64,
    /// Time of the last reply, or of the first request after an idle period.
    last_response_at: Instant,
}

enum CallState {
    Open(Box<PublishCall>),
    Opening(BoxFuture<'static, PublishCall>),
}

enum DriverEvent {
    CallOpened(Box<PublishCall>),
    Response(Result<Option<pb::PublishStreamResponse>, Status>),
    SendReady,
    Messages(usize),
    Timer,
}

struct PublishStreamDriver {
    shared: Arc<PublisherShared>,
    call: CallState,
    window: PublishWindow<AcknowledgementSender>,
    timer: Option<Pin<Box<Sleep>>>,
    rng: StdRng,
    /// Who waits for the outcomes of all messages before an index, in order.
    flushes: VecDeque<(u64, oneshot::Sender<()>)>,
    /// Empty between uses.
    outcomes: Vec<window::StreamOutcome<AcknowledgementSender>>,
}

impl PublishCall {
    /// Opens a call at the server in use, or at the next one.
    pub(crate) async fn open(shared: &PublisherShared) -> Result<PublishCall, PublishFailure> {
        let (server, channel) = shared.channel().await?;
        let (requests, request_queue) = mpsc::channel(REQUEST_QUEUE_MAX);
        let mut client = PublisherServiceClient::new(channel.get());
        let mut request = Request::new(ReceiverStream::new(request_queue));
        shared.add_token(&mut request).await?;
        let call = client.publish_stream(request);
        let reason = match timeout(OPEN_TIMEOUT, call).await {
            Ok(Ok(response)) => {
                let (responses, last_response_at) = (response.into_inner(), Instant::now());
                return Ok(PublishCall {
                    server,
                    requests,
                    responses,
                    response_count: 0,
                    last_response_at,
                });
            }
            // Every server would reject the token.
            Ok(Err(status)) if status.code() == Code::Unauthenticated => {
                return Err(PublishFailure::from(&status));
            }
            Ok(Err(status)) => describe(&status),
            Err(_) => "the call was not opened in time".to_owned(),
        };
        Err(shared.on_unreachable(server, &channel, &reason).await)
    }
}

/// Serves a stream until its sender is dropped.
pub(super) async fn run(
    shared: Arc<PublisherShared>,
    call: PublishCall,
    window: PublishWindow<AcknowledgementSender>,
    mut messages: mpsc::Receiver<StreamCommand>,
) {
    let (rng, outcomes) = (StdRng::from_os_rng(), Vec::new());
    let call = CallState::Open(Box::new(call));
    let flushes = VecDeque::new();
    let mut driver =
        PublishStreamDriver { shared, call, window, timer: None, rng, flushes, outcomes };
    let mut received = Vec::new();
    loop {
        driver.send();
        driver.arm_timer();
        let has_room = driver.window.has_room();
        let event = tokio::select! {
            event = driver.call.next(driver.window.has_ready()) => event,
            count = messages.recv_many(&mut received, super::QUEUE_MAX), if has_room => {
                DriverEvent::Messages(count)
            }
            () = wait_for_timer(&mut driver.timer) => DriverEvent::Timer,
        };
        match event {
            DriverEvent::Messages(0) => return driver.close().await,
            DriverEvent::Messages(_) => {
                let now = Instant::now();
                for command in received.drain(..) {
                    match command {
                        StreamCommand::Publish(publish, sender) => {
                            driver.window.push(publish, sender, now);
                        }
                        StreamCommand::Flush(sender) => {
                            driver.flushes.push_back((driver.window.end_index(), sender));
                        }
                    }
                }
            }
            DriverEvent::CallOpened(call) => driver.call = CallState::Open(call),
            DriverEvent::Response(response) => driver.on_responses(response),
            DriverEvent::SendReady => {}
            DriverEvent::Timer => driver.on_timer(),
        }
        for (sender, outcome) in driver.outcomes.drain(..) {
            // Fails only when the caller dropped the future.
            let _dropped = sender.send(outcome);
        }
        driver.answer_flushes();
    }
}

async fn wait_for_timer(timer: &mut Option<Pin<Box<Sleep>>>) {
    match timer {
        Some(timer) => timer.await,
        None => std::future::pending().await,
    }
}

impl CallState {
    /// Cancel safe.
    async fn next(&mut self, is_ready: bool) -> DriverEvent {
        match self {
            CallState::Opening(opening) => DriverEvent::CallOpened(Box::new(opening.await)),
            CallState::Open(call) => {
                let PublishCall { requests, responses, .. } = &mut **call;
                tokio::select! {
                    response = responses.message() => DriverEvent::Response(response),
                    // A closed call has a response with the reason.
                    Ok(_) = requests.reserve(), if is_ready => DriverEvent::SendReady,
                }
            }
        }
    }
}

impl PublishStreamDriver {
    /// Sends all messages that the window releases and the connection accepts.
    fn send(&mut self) {
        let CallState::Open(call) = &mut self.call else { return };
        while let Ok(permit) = call.requests.try_reserve() {
            let was_idle = !self.window.has_in_flight();
            let Some(publish) = self.window.next_to_send() else { break };
            if was_idle {
                call.last_response_at = Instant::now();
            }
            permit.send(pb::PublishRequest::from(publish).into());
        }
    }

    /// Processes a response, and those that are already available.
    fn on_responses(&mut self, first: Result<Option<pb::PublishStreamResponse>, Status>) {
        let now = Instant::now();
        let mut next = Some(first);
        while let Some(response) = next {
            let CallState::Open(call) = &mut self.call else { return };
            let outcome = match response {
                Ok(Some(response)) => call.decode_response(response, now),
                Ok(None) => Err("the server ended the stream".to_owned()),
                Err(status) => Err(describe(&status)),
            };
            next = call.responses.message().now_or_never();
            let failure = match outcome {
                Ok(outcome) => {
                    let PublishStreamDriver { window, rng, outcomes, .. } = self;
                    let is_expected = window.on_reply(outcome, now, rng, outcomes);
                    (!is_expected)
                        .then(|| "received a reply without a message in flight".to_owned())
                }
                Err(reason) => Some(reason),
            };
            if let Some(reason) = failure {
                self.on_call_failed(&reason, now);
                return;
            }
        }
    }

    fn on_timer(&mut self) {
        let now = Instant::now();
        self.timer = None;
        let PublishStreamDriver { window, rng, outcomes, .. } = self;
        window.on_timer(now, rng, outcomes);
        if self.response_deadline().is_some_and(|at| at <= now) {
            self.on_call_failed("the server did not reply in time", now);
        }
    }

    /// Ends the call from this side, and waits until the server ends it, too.
    async fn close(self) {
        let CallState::Open(call) = self.call else { return };
        let PublishCall { requests, mut responses, .. } = *call;
        drop(requests);
        let ended = async { while let Ok(Some(_)) = responses.message().await {} };
        let _is_stuck = timeout(CLOSE_TIMEOUT, ended).await;
    }

    fn answer_flushes(&mut self) {
        let settled = self.window.settled_before();
        while self.flushes.front().is_some_and(|(index, _)| *index <= settled) {
            if let Some((_, sender)) = self.flushes.pop_front() {
                let _dropped = sender.send(());
            }
        }
    }

    /// Switches to the next server.
    fn on_call_failed(&mut self, reason: &str, now: Instant) {
        let CallState::Open(call) = &self.call else { return };
        let (shared, server) = (self.shared.clone(), call.server);
        self.window.on_connection_lost(reason, now, &mut self.outcomes);
        self.call = CallState::Opening(Box::pin(reopen(shared, server)));
    }

    /// The time at which the server has been silent for too long.
    fn response_deadline(&self) -> Option<Instant> {
        match &self.call {
            CallState::Open(call) if self.window.has_in_flight() => {
                Some(call.last_response_at + RESPONSE_TIMEOUT)
            }
            _ => None,
        }
    }

    /// A timer that fires too early is harmless, so it is only ever moved to an earlier time.
    fn arm_timer(&mut self) {
        let deadline =
            [self.window.next_deadline(), self.response_deadline()].into_iter().flatten().min();
        let Some(deadline) = deadline else { return };
        match &mut self.timer {
            Some(timer) if timer.deadline() <= deadline => {}
            Some(timer) => timer.as_mut().reset(deadline),
            None => self.timer = Some(Box::pin(sleep_until(deadline))),
        }
    }
}

impl PublishCall {
    fn decode_response(
        &mut self,
        response: pb::PublishStreamResponse,
        now: Instant,
    ) -> Result<Result<Acknowledgement, PublishFailure>, String> {
        self.response_count += 1;
        self.last_response_at = now;
        if response.sequence != self.response_count {
            let (received, expected) = (response.sequence, self.response_count);
            return Err(format!("received acknowledgement {received} for message {expected}"));
        }
        match response.outcome {
            Some(Outcome::Published(published)) => published
                .try_into()
                .map(Ok)
                .map_err(|error| format!("invalid acknowledgement: {error}")),
            Some(Outcome::Failed(failure)) => Ok(Err(failure.into())),
            None => Err("invalid acknowledgement: no outcome".to_owned()),
        }
    }
}

/// Tries server after server until a call is open.
async fn reopen(shared: Arc<PublisherShared>, failed_server: usize) -> PublishCall {
    shared.switch_from(failed_server).await;
    let mut backoff = RECONNECT_BACKOFF;
    loop {
        let pause = backoff.next_delay(rand::random());
        sleep(pause).await;
        match PublishCall::open(&shared).await {
            Ok(call) => return call,
            Err(error) => tracing::warn!(%error, "cannot publish, retrying"),
        }
    }
}
