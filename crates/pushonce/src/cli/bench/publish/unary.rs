//! Publishing with one call a message: a task for each that may be on its way.

use std::sync::Arc;

use tokio::sync::Mutex;
use tokio::task::JoinSet;

use super::Load;
use crate::cli::bench::pace::Pace;

/// Starts as many tasks as may wait at once. They share the connection and the pace.
pub(super) fn spawn(workers: &mut JoinSet<()>, load: Load, pace: Pace, room: usize) {
    let pace = Arc::new(Mutex::new(pace));
    for nth in 0..room {
        let mut load = load.clone();
        // Each goes through every topic, from another one on.
        load.turn += nth;
        workers.spawn(run(load, pace.clone()));
    }
}

async fn run(mut load: Load, pace: Arc<Mutex<Pace>>) {
    loop {
        let next = async { pace.lock().await.next().await };
        let Some(meant) = load.stop.run_until_cancelled(next).await else { return };
        load.tally.sent();
        let message = load.message();
        let outcome = load.publisher.publish(message).await;
        load.count(meant, outcome);
    }
}
