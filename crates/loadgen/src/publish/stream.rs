//! Publishing over a stream: one task sends, and receives the acknowledgements in their order.

use std::collections::VecDeque;
use std::pin::pin;
use std::time::Instant;

use pushonce_client::{AcknowledgementFuture, PublishFailure, PublishStream};
use pushonce_core::Acknowledgement;

use super::PublishBenchLoad;
use crate::pace::LoadPacer;

/// Publishes without an acknowledgement, oldest first, each with the time at which it was due.
type PendingAcknowledgements = VecDeque<(Instant, AcknowledgementFuture)>;

pub(super) async fn run(
    mut load: PublishBenchLoad,
    mut stream: PublishStream,
    mut pacer: LoadPacer,
    in_flight_max: usize,
) {
    let stop = load.stop.clone();
    let mut stopped = pin!(stop.cancelled());
    let mut pending = PendingAcknowledgements::with_capacity(in_flight_max);
    loop {
        tokio::select! {
            biased;
            () = &mut stopped => break,
            outcome = oldest_outcome(&mut pending), if !pending.is_empty() => {
                load.finish_oldest(&mut pending, outcome);
            }
            due_at = pacer.next_due(), if pending.len() < in_flight_max => {
                load.tally.on_sent();
                match stream.send(load.next_message()).await {
                    Ok(acknowledgement) => pending.push_back((due_at, acknowledgement)),
                    Err(failure) => load.tally.on_failed(&failure),
                }
            }
        }
    }
    load.drain(&mut pending).await;
}

/// Waits for the outcome of the oldest publish. Cancel-safe.
async fn oldest_outcome(
    pending: &mut PendingAcknowledgements,
) -> Result<Acknowledgement, PublishFailure> {
    match pending.front_mut() {
        Some((_, acknowledgement)) => acknowledgement.await,
        None => std::future::pending().await,
    }
}

impl PublishBenchLoad {
    fn finish_oldest(
        &self,
        pending: &mut PendingAcknowledgements,
        outcome: Result<Acknowledgement, PublishFailure>,
    ) {
        if let Some((due_at, _)) = pending.pop_front() {
            self.record_outcome(due_at, outcome);
        }
    }

    /// Waits for all publishes in flight.
    async fn drain(&self, pending: &mut PendingAcknowledgements) {
        while !pending.is_empty() {
            let outcome = oldest_outcome(pending).await;
            self.finish_oldest(pending, outcome);
        }
    }
}
