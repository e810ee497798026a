//! Keeps a call open, at one server after the other, and carries what the window decides.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use pushonce_core::Placed;
use pushonce_proto::pb::publisher::v1 as pb;
use pushonce_proto::pb::publisher::v1::publish_stream_response::Outcome;
use pushonce_proto::pb::publisher::v1::publisher_client::PublisherClient;
use pushonce_proto::publisher::Failure;
use pushonce_proto::status::describe;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use tokio::sync::mpsc;
use tokio::time::{Instant, Sleep, sleep, sleep_until, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::window::{self, Window};
use super::{Answer, Message};
use crate::backoff::Backoff;
use crate::publisher::{Publisher, Shared};

/// Requests that wait for the connection to take them.
const OUTGOING_MAX: usize = 256;

/// A server that answers nothing for so long, while something is under way, is left: another then has
/// the time that is left until the deadline of the messages.
const SILENCE_MAX: Duration = Publisher::PATIENCE;

/// How long a call may take to be opened.
const OPENING_MAX: Duration = Duration::from_secs(3);

/// An open call of `PublishStream`.
pub(crate) struct Call {
    /// Whose it is: to leave it when it breaks.
    server: usize,
    requests: mpsc::Sender<pb::PublishRequest>,
    answers: Streaming<pb::PublishStreamResponse>,
    /// How many answers came.
    answered: u64,
    /// When the last came, or the first request after a pause went out.
    heard: Instant,
}

enum Link {
    Up(Box<Call>),
    Down(BoxFuture<'static, Call>),
}

enum Event {
    Up(Box<Call>),
    Answer(Result<Option<pb::PublishStreamResponse>, Status>),
    Room,
    Messages(usize),
    Alarm,
}

struct Driver {
    shared: Arc<Shared>,
    link: Link,
    window: Window<Answer>,
    alarm: Option<Pin<Box<Sleep>>>,
    rng: StdRng,
    /// Empty between uses.
    outcomes: Vec<window::Outcome<Answer>>,
}

impl Call {
    /// Opens a call at the server in use, or the next.
    pub(crate) async fn open(shared: &Shared) -> Result<Call, Failure> {
        let (server, channel) = shared.channel().await?;
        let (requests, outgoing) = mpsc::channel(OUTGOING_MAX);
        let mut client = PublisherClient::new(channel);
        let call = client.publish_stream(ReceiverStream::new(outgoing));
        let why = match timeout(OPENING_MAX, call).await {
            Ok(Ok(answers)) => {
                let (answers, heard) = (answers.into_inner(), Instant::now());
                return Ok(Call { server, requests, answers, answered: 0, heard });
            }
            Ok(Err(status)) => describe(&status),
            Err(_) => "the call was not opened in time".to_owned(),
        };
        shared.leave(server).await;
        Err(crate::publisher::unreachable(&why))
    }
}

/// Serves a stream until nobody sends to it any more.
pub(super) async fn drive(
    shared: Arc<Shared>,
    call: Call,
    window: Window<Answer>,
    mut messages: mpsc::Receiver<Message>,
) {
    let (rng, outcomes) = (StdRng::from_os_rng(), Vec::new());
    let link = Link::Up(Box::new(call));
    let mut driver = Driver { shared, link, window, alarm: None, rng, outcomes };
    let mut taken = Vec::new();
    loop {
        driver.send();
        driver.set_alarm();
        let has_room = driver.window.has_room();
        let event = tokio::select! {
            event = driver.link.next(driver.window.is_ready()) => event,
            count = messages.recv_many(&mut taken, super::WAITING_MAX), if has_room => {
                Event::Messages(count)
            }
            () = ring(&mut driver.alarm) => Event::Alarm,
        };
        match event {
            Event::Messages(0) => return,
            Event::Messages(_) => {
                let now = Instant::now();
                for (publish, answer) in taken.drain(..) {
                    driver.window.push(publish, answer, now);
                }
            }
            Event::Up(call) => driver.link = Link::Up(call),
            Event::Answer(answer) => driver.hear(answer),
            Event::Room => {}
            Event::Alarm => driver.wake(),
        }
        for (waiter, outcome) in driver.outcomes.drain(..) {
            // Whoever does not wait for it does not want to know.
            let _gone = waiter.send(outcome);
        }
    }
}

async fn ring(alarm: &mut Option<Pin<Box<Sleep>>>) {
    match alarm {
        Some(alarm) => alarm.await,
        None => std::future::pending().await,
    }
}

impl Link {
    /// May be dropped and called again.
    async fn next(&mut self, is_ready: bool) -> Event {
        match self {
            Link::Down(opening) => Event::Up(Box::new(opening.await)),
            Link::Up(call) => {
                let Call { requests, answers, .. } = &mut **call;
                tokio::select! {
                    answer = answers.message() => Event::Answer(answer),
                    // What is closed has an answer that says why.
                    Ok(_) = requests.reserve(), if is_ready => Event::Room,
                }
            }
        }
    }
}

impl Driver {
    /// Hands over all that may go and the connection takes.
    fn send(&mut self) {
        let Link::Up(call) = &mut self.link else { return };
        while let Ok(place) = call.requests.try_reserve() {
            let was_quiet = !self.window.is_under_way();
            let Some(publish) = self.window.next() else { break };
            if was_quiet {
                call.heard = Instant::now();
            }
            place.send(publish.into());
        }
    }

    /// Takes an answer, and those that came with it.
    fn hear(&mut self, first: Result<Option<pb::PublishStreamResponse>, Status>) {
        let now = Instant::now();
        let mut next = Some(first);
        while let Some(answer) = next {
            let Link::Up(call) = &mut self.link else { return };
            let outcome = match answer {
                Ok(Some(response)) => call.read(response, now),
                Ok(None) => Err("the server ended the stream".to_owned()),
                Err(status) => Err(describe(&status)),
            };
            next = call.answers.message().now_or_never();
            let broken = match outcome {
                Ok(outcome) => {
                    let Driver { window, rng, outcomes, .. } = self;
                    let asked = window.answer(outcome, now, rng, outcomes);
                    (!asked).then(|| "an answer came to nothing".to_owned())
                }
                Err(why) => Some(why),
            };
            if let Some(why) = broken {
                self.broke(&why, now);
                return;
            }
        }
    }

    fn wake(&mut self) {
        let now = Instant::now();
        self.alarm = None;
        let Driver { window, rng, outcomes, .. } = self;
        window.wake(now, rng, outcomes);
        if self.silent_at().is_some_and(|at| at <= now) {
            self.broke("the server did not answer in time", now);
        }
    }

    /// Turns to the next server.
    fn broke(&mut self, why: &str, now: Instant) {
        let Link::Up(call) = &self.link else { return };
        let (shared, server) = (self.shared.clone(), call.server);
        self.window.broke(why, now, &mut self.outcomes);
        self.link = Link::Down(Box::pin(reopen(shared, server)));
    }

    /// When the server has been silent for too long.
    fn silent_at(&self) -> Option<Instant> {
        match &self.link {
            Link::Up(call) if self.window.is_under_way() => Some(call.heard + SILENCE_MAX),
            _ => None,
        }
    }

    /// An alarm that rings too early costs a look; so it is only ever moved forward.
    fn set_alarm(&mut self) {
        let at = [self.window.wake_at(), self.silent_at()].into_iter().flatten().min();
        let Some(at) = at else { return };
        match &mut self.alarm {
            Some(alarm) if alarm.deadline() <= at => {}
            Some(alarm) => alarm.as_mut().reset(at),
            None => self.alarm = Some(Box::pin(sleep_until(at))),
        }
    }
}

impl Call {
    fn read(
        &mut self,
        response: pb::PublishStreamResponse,
        now: Instant,
    ) -> Result<Result<Placed, Failure>, String> {
        self.answered += 1;
        self.heard = now;
        if response.sequence != self.answered {
            let (said, asked) = (response.sequence, self.answered);
            return Err(format!("acknowledgement {said} came for message {asked}"));
        }
        match response.outcome {
            Some(Outcome::Published(placed)) => {
                placed.try_into().map(Ok).map_err(|why| format!("an acknowledgement: {why}"))
            }
            Some(Outcome::Failed(failure)) => Ok(Err(failure.into())),
            None => Err("an acknowledgement without an outcome".to_owned()),
        }
    }
}

/// Tries server after server until one takes the call.
async fn reopen(shared: Arc<Shared>, broken: usize) -> Call {
    shared.leave(broken).await;
    let mut backoff = Backoff::default();
    loop {
        let pause = backoff.fail(&mut rand::rng());
        sleep(pause).await;
        if let Ok(call) = Call::open(&shared).await {
            return call;
        }
    }
}
