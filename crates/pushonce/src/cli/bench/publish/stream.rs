//! Publishing over a stream: one task sends, and takes the acknowledgements in their order.

use std::collections::VecDeque;
use std::pin::pin;
use std::time::Instant;

use pushonce_client::{Acknowledgement, Failure, PublishStream};
use pushonce_core::Placed;

use super::Load;
use crate::cli::bench::pace::Pace;

/// What waits for its acknowledgement, oldest first, with the moment it was meant to go.
type Waiting = VecDeque<(Instant, Acknowledgement)>;

pub(super) async fn run(mut load: Load, mut stream: PublishStream, mut pace: Pace, room: usize) {
    let stop = load.stop.clone();
    let mut stopped = pin!(stop.cancelled());
    let mut waiting = Waiting::with_capacity(room);
    loop {
        tokio::select! {
            biased;
            () = &mut stopped => break,
            outcome = first(&mut waiting), if !waiting.is_empty() => {
                load.ended(&mut waiting, outcome);
            }
            meant = pace.next(), if waiting.len() < room => {
                load.tally.sent();
                match stream.send(load.message()).await {
                    Ok(acknowledgement) => waiting.push_back((meant, acknowledgement)),
                    Err(why) => load.tally.failed(&why),
                }
            }
        }
    }
    load.drain(&mut waiting).await;
}

/// The outcome of the oldest. May be dropped and called again.
async fn first(waiting: &mut Waiting) -> Result<Placed, Failure> {
    match waiting.front_mut() {
        Some((_, acknowledgement)) => acknowledgement
            .await
            .unwrap_or_else(|_| Err(Failure::Unknown("the stream ended".to_owned()))),
        None => std::future::pending().await,
    }
}

impl Load {
    fn ended(&self, waiting: &mut Waiting, outcome: Result<Placed, Failure>) {
        if let Some((meant, _)) = waiting.pop_front() {
            self.count(meant, outcome);
        }
    }

    /// Waits for all that are on their way.
    async fn drain(&self, waiting: &mut Waiting) {
        while !waiting.is_empty() {
            let outcome = first(waiting).await;
            self.ended(waiting, outcome);
        }
    }
}
