//! Who publishes to the audience.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pushonce_client::{Acknowledgement, Failure, PublishStream};
use pushonce_core::{ContentType, Placed, Publish, Topic};
use tokio_util::sync::CancellationToken;

use super::audience::Audience;
use super::stamp::Stamp;
use crate::cli::bench::pace::{Pace, Schedule};

/// When the next message goes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Pacing {
    /// When everybody has read the last.
    OneAtATime,
    /// So many a second.
    Rate(f64),
    /// Never.
    Silent,
}

/// What is published, and to whom.
pub(super) struct Load {
    pub(super) topics: Vec<Topic>,
    pub(super) payload_bytes: usize,
    pub(super) audience: Arc<Audience>,
    /// No more is published; what is on its way is waited for.
    pub(super) stop: CancellationToken,
}

/// How the publishes ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Published {
    pub(super) acknowledged: u64,
    /// Refused or unknown. Holes may come of them.
    pub(super) failed: u64,
    /// Why the first that failed did.
    pub(super) failure: Option<String>,
}

/// How long a message is waited for by whom it did not reach, one at a time.
const STRAGGLER_MAX: Duration = Duration::from_secs(2);

type Waiting = VecDeque<Acknowledgement>;

/// Publishes until it is stopped, or until the stream breaks: what would come over a second one has
/// no place beside what was measured over the first.
pub(super) async fn run(load: Load, stream: PublishStream, pacing: Pacing) -> Published {
    match pacing {
        Pacing::Silent => {
            load.stop.cancelled().await;
            Published::default()
        }
        Pacing::OneAtATime => one_at_a_time(load, stream).await,
        Pacing::Rate(rate) => {
            by_the_clock(load, stream, Pace::open(Schedule::new(Instant::now(), rate))).await
        }
    }
}

async fn one_at_a_time(load: Load, mut stream: PublishStream) -> Published {
    let mut published = Published::default();
    for nth in 0.. {
        if load.stop.is_cancelled() {
            break;
        }
        let sent = stream.send(load.message(nth, Instant::now())).await;
        let Some(acknowledgement) = published.sent(sent) else { break };
        published.ended(outcome(acknowledgement).await);
        // Who has not got it by then is counted as missing at the end.
        let _late = tokio::time::timeout(STRAGGLER_MAX, load.audience.complete()).await;
    }
    published
}

async fn by_the_clock(load: Load, mut stream: PublishStream, mut pace: Pace) -> Published {
    let (mut published, mut waiting) = (Published::default(), Waiting::new());
    let mut stopped = pin!(load.stop.cancelled());
    let mut nth = 0;
    loop {
        tokio::select! {
            biased;
            () = &mut stopped => break,
            outcome = first(&mut waiting), if !waiting.is_empty() => {
                waiting.pop_front();
                published.ended(outcome);
            }
            meant = pace.next(), if waiting.len() < PublishStream::IN_FLIGHT_MAX => {
                let sent = stream.send(load.message(nth, meant)).await;
                let Some(acknowledgement) = published.sent(sent) else { break };
                waiting.push_back(acknowledgement);
                nth += 1;
            }
        }
    }
    for acknowledgement in waiting {
        published.ended(outcome(acknowledgement).await);
    }
    published
}

/// The outcome of the oldest. May be dropped and called again.
async fn first(waiting: &mut Waiting) -> Result<Placed, Failure> {
    match waiting.front_mut() {
        Some(acknowledgement) => outcome(acknowledgement).await,
        None => std::future::pending().await,
    }
}

async fn outcome(
    acknowledgement: impl Future<Output = Result<Result<Placed, Failure>, impl Sized>>,
) -> Result<Placed, Failure> {
    acknowledgement.await.unwrap_or_else(|_| Err(Failure::Unknown("the stream ended".to_owned())))
}

impl Load {
    /// Counted on before it is sent: it may be read before it is acknowledged.
    fn message(&self, nth: u64, meant: Instant) -> Publish {
        let topics = self.topics.len() as u64;
        let index = (nth % topics) as usize;
        self.audience.expect(index);
        let stamp = Stamp { sequence: nth / topics, meant };
        Publish {
            topic: self.topics[index].clone(),
            content_type: ContentType::Text,
            key: None,
            payload: self.audience.clock.payload(stamp, self.payload_bytes),
        }
    }
}

impl Published {
    fn sent(&mut self, sent: Result<Acknowledgement, Failure>) -> Option<Acknowledgement> {
        sent.map_err(|why| self.ended(Err(why))).ok()
    }

    fn ended(&mut self, outcome: Result<Placed, Failure>) {
        match outcome {
            Ok(_) => self.acknowledged += 1,
            Err(why) => {
                self.failed += 1;
                self.failure.get_or_insert_with(|| why.to_string());
            }
        }
    }
}
