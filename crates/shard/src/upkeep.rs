//! What the owner proposes of itself: an entry without messages, when an idle shard has something to
//! drop, and when other namespaces live in its memory than the log says.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use pushonce_consensus::Group;
use pushonce_core::{Namespaces, Term};
use tokio::sync::{Semaphore, watch};
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;

use crate::Batch;
use crate::machine::Shared;

/// How often the owner looks for something to drop. Each look goes over the shard's topics until it
/// finds one, some tens of nanoseconds each; each entry costs some 200 µs. Ages are of seconds and
/// more, so looking more often would gain nothing.
const PAUSE: Duration = Duration::from_secs(5);

/// After a proposal that failed.
const RETRY: Duration = Duration::from_millis(100);

/// Looks at what changed, until `shutdown`, and proposes what is due.
pub(crate) struct Upkeep {
    pub(crate) shared: Arc<Shared>,
    pub(crate) group: Group,
    pub(crate) permits: Arc<Semaphore>,
    pub(crate) namespaces: watch::Receiver<Namespaces>,
}

impl Upkeep {
    pub(crate) async fn run(mut self, shutdown: &CancellationToken) {
        shutdown.run_until_cancelled(self.look()).await;
    }

    async fn look(&mut self) {
        let mut status = self.group.status();
        let mut names = self.namespaces.borrow_and_update().in_memory();
        let mut pause = interval(PAUSE);
        pause.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let sweep = tokio::select! {
                _ = pause.tick() => true,
                Ok(()) = self.namespaces.changed() => {
                    names = self.namespaces.borrow_and_update().in_memory();
                    false
                }
                changed = status.changed() => match changed {
                    Ok(()) => false,
                    Err(_) => return,
                },
            };
            if let Some(term) = self.group.leads()
                && self.is_due(term, &names, sweep)
            {
                self.propose(&names).await;
            }
        }
    }

    fn is_due(&self, term: Term, names: &BTreeSet<String>, sweep: bool) -> bool {
        let Some(now) = self.shared.stamp() else { return false };
        let (state, memory) = (self.shared.read(), self.shared.memory());
        state.in_memory() != names
            || (!names.is_empty() && !memory.is_open(term))
            || (sweep && (state.is_sweep_due(now) || memory.is_sweep_due(now)))
    }

    /// Says which namespaces live in memory with every entry as long as there are any, and once more:
    /// the epochs of their topics come from there.
    async fn propose(&self, names: &BTreeSet<String>) {
        let said = !names.is_empty() || !self.shared.read().in_memory().is_empty();
        let Ok(_permit) = self.permits.acquire().await else { return };
        let Some(now) = self.shared.stamp() else { return };
        let entry =
            if said { Batch::naming(now, names.clone()) } else { Batch::new(now, Vec::new()) };
        let entry = entry.encode(self.shared.version());
        // Nothing is published with it, and a new owner is not ready before its memory is open.
        if let Err(why) = self.group.propose_essential(entry).await {
            tracing::debug!(shard = %self.shared.id(), %why, "no upkeep, looking again");
            sleep(RETRY).await;
        }
    }
}
