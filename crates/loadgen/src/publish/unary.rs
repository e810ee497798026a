//! Publishing with one call per message: one task for each publish that may be in flight.

use std::sync::Arc;

use tokio::sync::Mutex;
use tokio::task::JoinSet;

use super::PublishBenchLoad;
use crate::pace::LoadPacer;

/// Starts one task per publish in flight. They share the connection and the pacer.
pub(super) fn spawn(
    workers: &mut JoinSet<()>,
    load: PublishBenchLoad,
    pacer: LoadPacer,
    in_flight_max: usize,
) {
    let pacer = Arc::new(Mutex::new(pacer));
    for offset in 0..in_flight_max {
        let mut load = load.clone();
        // Each task goes through all topics, starting at a different one.
        load.topic_index += offset;
        workers.spawn(run(load, pacer.clone()));
    }
}

async fn run(mut load: PublishBenchLoad, pacer: Arc<Mutex<LoadPacer>>) {
    loop {
        let next_due = async { pacer.lock().await.next_due().await };
        let Some(due_at) = load.stop.run_until_cancelled(next_due).await else { return };
        load.tally.on_sent();
        let message = load.next_message();
        let outcome = load.publisher.publish(message).await;
        load.record_outcome(due_at, outcome);
    }
}
