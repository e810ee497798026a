//! Who publishes to the audience.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pushonce_client::{Acknowledgement, Failure, PublishStream};
use pushonce_core::{ContentType, Placed, Publish, Topic};
use tokio_util::sync::CancellationToken;

use super::audience::Audience;
use crate::cli::bench::pace::{Pace, Schedule};
use crate::instruments::Stamp;

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
    pub(super) published: Published,
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

/// What waits for its acknowledgement, oldest first, with the index of its topic.
type Waiting = VecDeque<(usize, Acknowledgement)>;

/// Publishes until it is stopped, or until the stream breaks: what would come over a second one has
/// no place beside what was measured over the first.
pub(super) async fn run(load: Load, stream: PublishStream, pacing: Pacing) -> Published {
    match pacing {
        Pacing::Silent => {
            load.stop.cancelled().await;
            load.published
        }
        Pacing::OneAtATime => one_at_a_time(load, stream).await,
        Pacing::Rate(rate) => {
            by_the_clock(load, stream, Pace::open(Schedule::new(Instant::now(), rate))).await
        }
    }
}

async fn one_at_a_time(mut load: Load, mut stream: PublishStream) -> Published {
    for nth in 0.. {
        if load.stop.is_cancelled() {
            break;
        }
        let Some((index, acknowledgement)) = load.send(&mut stream, nth, Instant::now()).await
        else {
            break;
        };
        let ended = outcome(acknowledgement).await;
        load.count(index, ended);
        // Who has not got it by then is counted as missing at the end.
        let _late = tokio::time::timeout(STRAGGLER_MAX, load.audience.complete()).await;
    }
    load.published
}

async fn by_the_clock(mut load: Load, mut stream: PublishStream, mut pace: Pace) -> Published {
    let mut waiting = Waiting::new();
    let stop = load.stop.clone();
    let mut stopped = pin!(stop.cancelled());
    let mut nth = 0;
    loop {
        tokio::select! {
            biased;
            () = &mut stopped => break,
            (index, ended) = first(&mut waiting), if !waiting.is_empty() => {
                waiting.pop_front();
                load.count(index, ended);
            }
            meant = pace.next(), if waiting.len() < PublishStream::IN_FLIGHT_MAX => {
                let Some(sent) = load.send(&mut stream, nth, meant).await else { break };
                waiting.push_back(sent);
                nth += 1;
            }
        }
    }
    for (index, acknowledgement) in waiting {
        let ended = outcome(acknowledgement).await;
        load.count(index, ended);
    }
    load.published
}

/// The outcome of the oldest. May be dropped and called again.
async fn first(waiting: &mut Waiting) -> (usize, Result<Placed, Failure>) {
    match waiting.front_mut() {
        Some((index, acknowledgement)) => (*index, outcome(acknowledgement).await),
        None => std::future::pending().await,
    }
}

async fn outcome(
    acknowledgement: impl Future<Output = Result<Result<Placed, Failure>, impl Sized>>,
) -> Result<Placed, Failure> {
    acknowledgement.await.unwrap_or_else(|_| Err(Failure::Unknown("the stream ended".to_owned())))
}

impl Load {
    /// `None` when the message breaks a rule.
    async fn send(
        &mut self,
        stream: &mut PublishStream,
        nth: u64,
        meant: Instant,
    ) -> Option<(usize, Acknowledgement)> {
        let topics = self.topics.len() as u64;
        let index = (nth % topics) as usize;
        let stamp = Stamp { sequence: nth / topics, meant };
        let publish = Publish {
            topic: self.topics[index].clone(),
            content_type: ContentType::Text,
            key: None,
            stamp: None,
            payload: self.audience.clock.payload(stamp, self.payload_bytes),
        };
        // Before it is sent: it may be read before it is acknowledged.
        self.audience.expect(index);
        match stream.send(publish).await {
            Ok(acknowledgement) => Some((index, acknowledgement)),
            Err(why) => {
                self.count(index, Err(why));
                None
            }
        }
    }

    fn count(&mut self, index: usize, ended: Result<Placed, Failure>) {
        let why = match ended {
            Ok(_) => {
                self.published.acknowledged += 1;
                return;
            }
            Err(why) => why,
        };
        if let Failure::Refused { .. } = why {
            self.audience.expect_no_more(index);
        }
        self.published.failed += 1;
        self.published.failure.get_or_insert_with(|| why.to_string());
    }
}
