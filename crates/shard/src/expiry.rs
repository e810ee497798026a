//! Entries that the owner proposes on its own: newer settings of the control group, the opening of the
//! owner's memory, and sweeps of an idle shard.

use std::sync::Arc;
use std::time::Duration;

use pushonce_consensus::RaftGroup;
use pushonce_core::{Term, Timestamp};
use tokio::sync::{Semaphore, watch};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::commit::PERMIT_HOLD_MAX;
use crate::memory::OwnerMemory;
use crate::replica::ShardShared;
use crate::{EntryBatch, ShardSettings, ShardState};

/// How often the owner checks whether a sweep is due. A check visits the shard's topics until it finds an
/// expired one, some tens of nanoseconds each; an entry costs some 200 µs. Ages are of seconds and more, so
/// checking more often gains nothing.
const SWEEP_INTERVAL: Duration = Duration::from_secs(5);

/// Pause after a failed proposal.
const RETRY_DELAY: Duration = Duration::from_millis(100);

/// The task that proposes due entries until `shutdown`.
pub(crate) struct Expiry {
    pub(crate) shared: Arc<ShardShared>,
    pub(crate) group: RaftGroup,
    pub(crate) permits: Arc<Semaphore>,
    pub(crate) settings: watch::Receiver<Option<Arc<ShardSettings>>>,
}

impl Expiry {
    pub(crate) async fn run(mut self, shutdown: &CancellationToken) {
        shutdown.run_until_cancelled(self.propose_due_entries()).await;
    }

    async fn propose_due_entries(&mut self) {
        let mut status = self.group.status();
        let mut sweep_timer = interval(SWEEP_INTERVAL);
        sweep_timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut sweep = false;
        loop {
            // The clocks of the peers arrive with the first heartbeat of each link.
            while self.group.leader_term().is_some() && self.shared.proposal_time().is_none() {
                sleep(RETRY_DELAY).await;
            }
            while let Some(entry) = self.due_entry(sweep) {
                sweep = false;
                self.propose(entry).await;
            }
            sweep = tokio::select! {
                _ = sweep_timer.tick() => true,
                Ok(()) = self.settings.changed() => false,
                changed = status.changed() => match changed {
                    Ok(()) => false,
                    Err(_) => return,
                },
            };
        }
    }

    fn due_entry(&mut self, sweep: bool) -> Option<EntryBatch> {
        let term = self.group.leader_term()?;
        let known = self.settings.borrow_and_update().clone();
        let now = self.shared.proposal_time()?;
        let (state, memory) = (self.shared.read(), self.shared.memory());
        due_entry(&state, &memory, term, known.as_deref(), now, sweep)
    }

    async fn propose(&self, entry: EntryBatch) {
        let Ok(permit) = self.permits.acquire().await else { return };
        // Essential: the entry publishes nothing, and a new owner is not ready without it.
        let entry = entry.encode(self.shared.version());
        let mut proposed = std::pin::pin!(self.group.propose_essential(entry));
        let in_time = timeout(PERMIT_HOLD_MAX, &mut proposed).await;
        drop(permit);
        let result = match in_time {
            Ok(result) => result,
            Err(_) => proposed.await,
        };
        if let Err(error) = result {
            tracing::debug!(shard = %self.shared.id(), %error, "cannot commit upkeep, retrying");
            sleep(RETRY_DELAY).await;
        }
    }
}

/// The entry that the owner of `term` has to propose, if any: settings newer than the shard's, before
/// anything that relies on them; the start of its memory epoch; with `sweep`, an entry that drops what has
/// expired.
pub(crate) fn due_entry(
    state: &ShardState,
    memory: &OwnerMemory,
    term: Term,
    known: Option<&ShardSettings>,
    now: Timestamp,
    sweep: bool,
) -> Option<EntryBatch> {
    if let Some(newer) = known.filter(|known| state.accepts_settings(known)) {
        return Some(EntryBatch::with_settings(now, newer.clone()));
    }
    let in_memory = state.settings().is_some_and(|settings| settings.has_memory_namespace());
    let has_expired = sweep && (state.is_sweep_due(now) || memory.is_sweep_due(now));
    match in_memory {
        true if has_expired || !memory.is_open(term) => {
            Some(EntryBatch::starting_memory_epoch(now))
        }
        false if has_expired => Some(EntryBatch::new(now, Vec::new())),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use pushonce_consensus::EntryId;
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
    fn shard(settings: ShardSettings) -> (ShardState, OwnerMemory) {
        let (mut state, mut memory) = (ShardState::new(ShardId(0)), OwnerMemory::default());
        let batch = EntryBatch::with_settings(NOW, settings);
        let starts_epoch = batch.starts_memory_epoch;
        state.apply(1, batch);
        memory.apply_entry(EntryId { index: 1, term: TERM }, NOW, state.settings(), starts_epoch);
        (state, memory)
    }

    fn due_at_term(
        (state, memory): &(ShardState, OwnerMemory),
        term: Term,
        known: Option<&ShardSettings>,
    ) -> Option<EntryBatch> {
        due_entry(state, memory, term, known, NOW, true)
    }

    #[test]
    fn newer_settings_are_proposed_and_older_or_equal_ones_are_not() {
        let known = settings(5, Durability::Replicated);
        let shard = shard(known.clone());
        assert_eq!(due_at_term(&shard, TERM, Some(&known)), None);
        assert_eq!(due_at_term(&shard, TERM, Some(&settings(4, Durability::Memory))), None);
        assert_eq!(due_at_term(&shard, TERM, None), None, "a node without settings proposes none");
        let newer = settings(6, Durability::Memory);
        let entry = due_at_term(&shard, TERM, Some(&newer)).unwrap();
        assert_eq!((entry.settings, entry.starts_memory_epoch), (Some(newer), true));
    }

    #[test]
    fn new_owner_starts_a_memory_epoch_with_the_settings_of_the_log() {
        let shard = shard(settings(5, Durability::Memory));
        assert_eq!(due_at_term(&shard, TERM, None), None);
        let entry =
            due_at_term(&shard, Term(4), Some(&settings(4, Durability::Replicated))).unwrap();
        assert_eq!((entry.settings, entry.starts_memory_epoch), (None, true));
    }
}
