//! An idle shard forgets, too: its owner proposes an entry without messages when there is something to
//! drop.

use std::time::Duration;

use pushonce_consensus::Group;
use tokio::sync::Semaphore;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::machine::Shared;
use crate::{Batch, Clock};

/// How often the owner looks. Each look goes over the shard's topics until it finds one that has
/// something to drop, some tens of nanoseconds each; each entry costs some 200 µs. Ages are of seconds
/// and more, so looking more often would gain nothing.
const PAUSE: Duration = Duration::from_secs(5);

/// Looks again and again, until `shutdown`, and proposes what is due.
pub(crate) async fn keep_swept(
    shared: &Shared,
    group: &Group,
    permits: &Semaphore,
    clock: &dyn Clock,
    shutdown: &CancellationToken,
) {
    let mut pause = interval(PAUSE);
    pause.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let sweep = async {
        loop {
            pause.tick().await;
            let now = clock.now();
            if shared.owns().is_err() || !shared.read().is_sweep_due(now) {
                continue;
            }
            let Ok(_permit) = permits.acquire().await else { return };
            let entry = Batch { time: now, items: Vec::new() }.encode();
            if let Err(why) = group.propose(entry).await {
                tracing::debug!(shard = %shared.id(), %why, "not swept, looking again later");
            }
        }
    };
    shutdown.run_until_cancelled(sweep).await;
}
