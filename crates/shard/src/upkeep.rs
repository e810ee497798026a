//! What the owner proposes of itself: an entry without messages, when the control group has committed
//! newer settings, when the owner's memory is to be opened, and when an idle shard has something to
//! drop.

use std::sync::Arc;
use std::time::Duration;

use pushonce_consensus::Group;
use pushonce_core::{Term, Timestamp};
use tokio::sync::{Semaphore, watch};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::commit::PERMIT_MAX;
use crate::machine::Shared;
use crate::memory::Memory;
use crate::{Batch, ShardSettings, State};

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
    pub(crate) settings: watch::Receiver<Option<Arc<ShardSettings>>>,
}

impl Upkeep {
    pub(crate) async fn run(mut self, shutdown: &CancellationToken) {
        shutdown.run_until_cancelled(self.look()).await;
    }

    async fn look(&mut self) {
        let mut status = self.group.status();
        let mut pause = interval(PAUSE);
        pause.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut sweep = false;
        loop {
            // The clocks of the others come with the first heartbeat of each link.
            while self.group.leads().is_some() && self.shared.stamp().is_none() {
                sleep(RETRY).await;
            }
            while let Some(entry) = self.due(sweep) {
                sweep = false;
                self.propose(entry).await;
            }
            sweep = tokio::select! {
                _ = pause.tick() => true,
                Ok(()) = self.settings.changed() => false,
                changed = status.changed() => match changed {
                    Ok(()) => false,
                    Err(_) => return,
                },
            };
        }
    }

    fn due(&mut self, sweep: bool) -> Option<Batch> {
        let term = self.group.leads()?;
        let known = self.settings.borrow_and_update().clone();
        let now = self.shared.stamp()?;
        let (state, memory) = (self.shared.read(), self.shared.memory());
        due(&state, &memory, term, known.as_deref(), now, sweep)
    }

    async fn propose(&self, entry: Batch) {
        let Ok(permit) = self.permits.acquire().await else { return };
        // Nothing is published with it, and a new owner is not ready before it has happened.
        let entry = entry.encode(self.shared.version());
        let mut proposed = std::pin::pin!(self.group.propose_essential(entry));
        let in_time = timeout(PERMIT_MAX, &mut proposed).await;
        drop(permit);
        let ended = match in_time {
            Ok(ended) => ended,
            Err(_) => proposed.await,
        };
        if let Err(error) = ended {
            tracing::debug!(shard = %self.shared.id(), %error, "cannot commit upkeep, retrying");
            sleep(RETRY).await;
        }
    }
}

/// The entry that the owner of `term` has to propose, if any: settings that are newer than the
/// shard's, before anything that relies on them; the epoch of its memory; with `sweep`, what is to
/// be dropped.
pub(crate) fn due(
    state: &State,
    memory: &Memory,
    term: Term,
    known: Option<&ShardSettings>,
    now: Timestamp,
    sweep: bool,
) -> Option<Batch> {
    if let Some(newer) = known.filter(|known| state.accepts(known)) {
        return Some(Batch::with_settings(now, newer.clone()));
    }
    let in_memory = state.settings().is_some_and(|settings| settings.any_in_memory());
    let drops = sweep && (state.is_sweep_due(now) || memory.is_sweep_due(now));
    match in_memory {
        true if drops || !memory.is_open(term) => Some(Batch::renewing(now)),
        false if drops => Some(Batch::new(now, Vec::new())),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use pushonce_consensus::At;
    use pushonce_core::{Durability, Namespace, Namespaces, ShardCount, ShardId};

    use super::*;

    const TERM: Term = Term(3);
    const NOW: Timestamp = Timestamp(1_790_000_000_000);

    fn settings(revision: u64, durability: Durability) -> ShardSettings {
        let chat = Namespace { durability, ..Namespace::default() };
        let named = [("chat".to_owned(), chat)].into();
        let namespaces = Namespaces { revision, named, ..Namespaces::default() };
        ShardSettings { shards: ShardCount::DEFAULT, namespaces }
    }

    /// A shard to which these settings were applied, under [`TERM`].
    fn shard(settings: ShardSettings) -> (State, Memory) {
        let (mut state, mut memory) = (State::new(ShardId(0)), Memory::default());
        let batch = Batch::with_settings(NOW, settings);
        let renews = batch.renews_memory;
        state.apply(1, batch);
        memory.follow(At { index: 1, term: TERM }, NOW, state.settings(), renews);
        (state, memory)
    }

    fn found(
        (state, memory): &(State, Memory),
        term: Term,
        known: Option<&ShardSettings>,
    ) -> Option<Batch> {
        due(state, memory, term, known, NOW, true)
    }

    #[test]
    fn newer_settings_are_proposed_and_older_or_equal_ones_are_not() {
        let known = settings(5, Durability::Replicated);
        let shard = shard(known.clone());
        assert_eq!(found(&shard, TERM, Some(&known)), None);
        assert_eq!(found(&shard, TERM, Some(&settings(4, Durability::Memory))), None);
        assert_eq!(found(&shard, TERM, None), None, "a node that knows none proposes none");
        let newer = settings(6, Durability::Memory);
        let entry = found(&shard, TERM, Some(&newer)).unwrap();
        assert_eq!((entry.settings, entry.renews_memory), (Some(newer), true));
    }

    #[test]
    fn a_new_owner_opens_its_memory_with_the_settings_of_the_log() {
        let shard = shard(settings(5, Durability::Memory));
        assert_eq!(found(&shard, TERM, None), None);
        let entry = found(&shard, Term(4), Some(&settings(4, Durability::Replicated))).unwrap();
        assert_eq!((entry.settings, entry.renews_memory), (None, true));
    }
}
