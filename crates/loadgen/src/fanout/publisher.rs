//! The publisher of the fan-out bench.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pushonce_client::{AcknowledgementFuture, PublishFailure, PublishStream};
use pushonce_core::{Acknowledgement, ContentType, Publish, Topic};
use pushonce_instruments::MessageStamp;
use tokio_util::sync::CancellationToken;

use super::audience::DeliveryTracker;
use crate::pace::{ArrivalSchedule, LoadPacer};

/// When the next message is published.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum PublishPacing {
    /// When every subscriber has read the previous one.
    OneAtATime,
    /// At this number per second.
    Rate(f64),
    /// Never.
    Silent,
}

/// The load of the publisher.
pub(super) struct FanoutBenchLoad {
    pub(super) topics: Vec<Topic>,
    pub(super) payload_bytes: usize,
    pub(super) tracker: Arc<DeliveryTracker>,
    /// When cancelled, no more is published, and the publishes in flight are awaited.
    pub(super) stop: CancellationToken,
    pub(super) published: PublishOutcomes,
}

/// The outcomes of the publishes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct PublishOutcomes {
    pub(super) acknowledged: u64,
    /// Rejected or unknown. They may cause missing messages.
    pub(super) failed: u64,
    /// The error of the first failed publish.
    pub(super) first_failure: Option<String>,
}

/// With one message at a time: how long to wait for subscribers that have not received it.
const STRAGGLER_TIMEOUT: Duration = Duration::from_secs(2);

/// Publishes without an acknowledgement, oldest first, each with the index of its topic.
type PendingDeliveries = VecDeque<(usize, AcknowledgementFuture)>;

/// Publishes until it is stopped, or until the stream breaks: results over a second stream would not be
/// comparable with those over the first.
pub(super) async fn run(
    load: FanoutBenchLoad,
    stream: PublishStream,
    pacing: PublishPacing,
) -> PublishOutcomes {
    match pacing {
        PublishPacing::Silent => {
            load.stop.cancelled().await;
            load.published
        }
        PublishPacing::OneAtATime => publish_one_at_a_time(load, stream).await,
        PublishPacing::Rate(rate) => {
            publish_at_fixed_rate(
                load,
                stream,
                LoadPacer::open_loop(ArrivalSchedule::new(Instant::now(), rate)),
            )
            .await
        }
    }
}

async fn publish_one_at_a_time(
    mut load: FanoutBenchLoad,
    mut stream: PublishStream,
) -> PublishOutcomes {
    for number in 0.. {
        if load.stop.is_cancelled() {
            break;
        }
        let Some((index, acknowledgement)) = load.send(&mut stream, number, Instant::now()).await
        else {
            break;
        };
        load.record_outcome(index, acknowledgement.await);
        // Subscribers that have not received it by then count as missing at the end.
        let _timed_out =
            tokio::time::timeout(STRAGGLER_TIMEOUT, load.tracker.wait_until_all_delivered()).await;
    }
    load.published
}

async fn publish_at_fixed_rate(
    mut load: FanoutBenchLoad,
    mut stream: PublishStream,
    mut pacer: LoadPacer,
) -> PublishOutcomes {
    let mut pending = PendingDeliveries::new();
    let stop = load.stop.clone();
    let mut stopped = pin!(stop.cancelled());
    let mut number = 0;
    loop {
        tokio::select! {
            biased;
            () = &mut stopped => break,
            (index, outcome) = oldest_outcome(&mut pending), if !pending.is_empty() => {
                pending.pop_front();
                load.record_outcome(index, outcome);
            }
            due_at = pacer.next_due(), if pending.len() < PublishStream::IN_FLIGHT_MAX => {
                let Some(sent) = load.send(&mut stream, number, due_at).await else { break };
                pending.push_back(sent);
                number += 1;
            }
        }
    }
    for (index, acknowledgement) in pending {
        load.record_outcome(index, acknowledgement.await);
    }
    load.published
}

/// Waits for the outcome of the oldest publish. Cancel-safe.
async fn oldest_outcome(
    pending: &mut PendingDeliveries,
) -> (usize, Result<Acknowledgement, PublishFailure>) {
    match pending.front_mut() {
        Some((index, acknowledgement)) => (*index, acknowledgement.await),
        None => std::future::pending().await,
    }
}

impl FanoutBenchLoad {
    /// Sends a message; `None` when the message is invalid.
    async fn send(
        &mut self,
        stream: &mut PublishStream,
        number: u64,
        due_at: Instant,
    ) -> Option<(usize, AcknowledgementFuture)> {
        let topics = self.topics.len() as u64;
        let index = (number % topics) as usize;
        let stamp = MessageStamp { sequence: number / topics, due_at };
        let publish = Publish {
            topic: self.topics[index].clone(),
            content_type: ContentType::Text,
            key: None,
            publish_id: None,
            payload: self.tracker.clock.payload(stamp, self.payload_bytes),
        };
        // Counted before it is sent, since it may be read before it is acknowledged.
        self.tracker.expect_deliveries(index);
        match stream.send(publish).await {
            Ok(acknowledgement) => Some((index, acknowledgement)),
            Err(failure) => {
                self.record_outcome(index, Err(failure));
                None
            }
        }
    }

    fn record_outcome(&mut self, index: usize, outcome: Result<Acknowledgement, PublishFailure>) {
        let failure = match outcome {
            Ok(_) => {
                self.published.acknowledged += 1;
                return;
            }
            Err(failure) => failure,
        };
        if let PublishFailure::Rejected { .. } = failure {
            self.tracker.cancel_expected(index);
        }
        self.published.failed += 1;
        self.published.first_failure.get_or_insert_with(|| failure.to_string());
    }
}
