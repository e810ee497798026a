//! Group commit: publishes that arrive while one entry is in flight form the next entry.
//!
//! The cost is per entry (some 200 µs of CPU over three replicas), not per message (2 to 4 µs). So a shard
//! has one proposal in flight, a node about eight, and the batch is taken from the queue only after the
//! permit was acquired: publishes that arrive during the wait for the permit join it. There is no timer: a
//! single publish is proposed at once.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use pushonce_consensus::{ProposeError, RaftGroup};
use pushonce_core::{
    Acknowledgement, CoverageMark, Durability, OverloadReason, Publish, PublishError,
    PublishRejection, Timestamp, UnavailableReason,
};
use tokio::sync::{Notify, Semaphore, SemaphorePermit, oneshot};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::dedupe::MemoryLookup;
use crate::entry::decode_outcomes;
use crate::metrics::{self, ShardMetrics};
use crate::queue::{self, BoundedQueue, SizeLimits};
use crate::replica::{MemoryPath, ShardShared, topic_durability};
use crate::{EntryBatch, EntryItem, ItemRejection};

/// Limits of the proposal queue of one shard. 16,384 is four times the number of publishes in flight over
/// all shards at the busiest measured load; 8 MiB, so that 64 full queues take at most half a GiB of a
/// node. A full queue rejects new publishes as overloaded; nothing happened to them, so they can be
/// retried.
const QUEUE_LIMITS: SizeLimits = SizeLimits { count_max: 16_384, bytes_max: 8 << 20 };

/// Limits of one entry. 1 MiB is one fsync of a few milliseconds and one frame of a link, and still fits
/// the largest payload allowed. Applying 4,096 messages takes some 2 ms, during which the state is locked.
const ENTRY_LIMITS: SizeLimits = SizeLimits { count_max: 4_096, bytes_max: 1 << 20 };

/// Bytes a queued publish is charged beside its payload and its topic name: the key, the content type and
/// the reply channel.
const PUBLISH_OVERHEAD_BYTES: usize = 256;

const _: () = assert!(
    ENTRY_LIMITS.count_max <= QUEUE_LIMITS.count_max
        && ENTRY_LIMITS.bytes_max <= QUEUE_LIMITS.bytes_max
);
const _: () =
    assert!(Publish::PAYLOAD_BYTES_CAP + PUBLISH_OVERHEAD_BYTES * 2 <= QUEUE_LIMITS.bytes_max);

/// Maximum number of durability changes of its namespace a message survives before it is rejected as not
/// placed. Each change is an operator's command.
const DURABILITY_CHANGES_MAX: usize = 4;

type PublishResult = Result<Acknowledgement, PublishError>;

/// Commits entries to the Raft group; tests replace it.
pub(crate) trait Proposer: Send + Sync {
    /// As [`RaftGroup::propose`]: completes within the proposal deadline.
    fn propose(&self, entry: Bytes) -> impl Future<Output = Result<Bytes, ProposeError>> + Send;
}

/// The queue of publishes that wait for an entry.
pub(crate) struct ProposalQueue {
    queue: Mutex<BoundedQueue<WaitingPublish>>,
    not_empty: Notify,
}

/// A queued publish and the channel of its outcome.
struct WaitingPublish {
    publish: Publish,
    reply: oneshot::Sender<PublishResult>,
}

/// The task that commits the publishes of a [`ProposalQueue`]. Dropping it closes the queue.
pub(crate) struct CommitLoop<P> {
    pub(crate) shared: Arc<ShardShared>,
    pub(crate) proposer: P,
    pub(crate) proposal_queue: Arc<ProposalQueue>,
    pub(crate) permits: Arc<Semaphore>,
    pub(crate) metrics: ShardMetrics,
}

impl Proposer for RaftGroup {
    fn propose(&self, entry: Bytes) -> impl Future<Output = Result<Bytes, ProposeError>> + Send {
        RaftGroup::propose(self, entry)
    }
}

impl Default for ProposalQueue {
    fn default() -> ProposalQueue {
        ProposalQueue {
            queue: Mutex::new(BoundedQueue::new(QUEUE_LIMITS)),
            not_empty: Notify::new(),
        }
    }
}

impl ProposalQueue {
    /// Queues a publish and waits for the outcome of its entry.
    pub(crate) async fn publish(&self, publish: Publish) -> PublishResult {
        let receiver = self.enqueue(&mut self.queue(), publish)?;
        await_outcome(receiver).await
    }

    /// As [`ProposalQueue::publish`], but returns the publish if `can_bypass` allows it to bypass the
    /// queue. `can_bypass` is called under the queue lock, which [`CommitLoop::enable_bypass`] also holds,
    /// so no queued message is overtaken.
    pub(crate) async fn publish_unless_bypass(
        &self,
        publish: Publish,
        can_bypass: impl FnOnce(&Publish) -> bool,
    ) -> Result<PublishResult, Publish> {
        let receiver = {
            let mut queue = self.queue();
            if can_bypass(&publish) {
                return Err(publish);
            }
            self.enqueue(&mut queue, publish)
        };
        Ok(match receiver {
            Ok(receiver) => await_outcome(receiver).await,
            Err(rejection) => Err(rejection),
        })
    }

    fn enqueue(
        &self,
        queue: &mut BoundedQueue<WaitingPublish>,
        publish: Publish,
    ) -> Result<oneshot::Receiver<PublishResult>, PublishError> {
        let bytes = publish.payload.len() + publish.topic.as_str().len() + PUBLISH_OVERHEAD_BYTES;
        let (reply, receiver) = oneshot::channel();
        queue.push(bytes, WaitingPublish { publish, reply }).map_err(queue_rejection)?;
        self.not_empty.notify_one();
        Ok(receiver)
    }

    fn queue(&self) -> MutexGuard<'_, BoundedQueue<WaitingPublish>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn wait_until_nonempty(&self) {
        while self.queue().len() == 0 {
            self.not_empty.notified().await;
        }
    }

    fn close(&self) {
        let waiting = self.queue().close();
        for WaitingPublish { reply, .. } in waiting {
            let _receiver_gone = reply.send(Err(queue_rejection(queue::QueuePushError::Closed)));
        }
    }
}

/// Waits for the outcome. A publish that leaves the queue unproposed always gets a reply, so a dropped
/// reply channel means that its entry was in flight.
async fn await_outcome(receiver: oneshot::Receiver<PublishResult>) -> PublishResult {
    receiver
        .await
        .unwrap_or_else(|_| Err(unknown_outcome("the node stopped while the entry was in flight")))
}

/// A proposal that takes longer waits for other nodes, not for this one, so its permit is released for
/// another shard. Otherwise a few shards without a quorum would block all shards of the node.
pub(crate) const PERMIT_HOLD_MAX: Duration = Duration::from_millis(250);

/// How long publishes wait for a majority of the clocks after a start: two heartbeats of a link.
const CLOCK_WAIT_MAX: Duration = Duration::from_secs(2);
const CLOCK_POLL_INTERVAL: Duration = Duration::from_millis(10);

impl<P: Proposer> CommitLoop<P> {
    /// Proposes entry after entry until `shutdown`, then waits for the entry in flight.
    pub(crate) async fn run(self, shutdown: &CancellationToken) {
        while let Some(permit) = self.next_permit(shutdown).await {
            let waiting = self.proposal_queue.queue().pop_batch(ENTRY_LIMITS);
            let mut commit = std::pin::pin!(self.commit_batch(waiting));
            if timeout(PERMIT_HOLD_MAX, &mut commit).await.is_err() {
                drop(permit);
                commit.await;
            }
        }
    }

    /// Waits for a queued publish, then for a permit of the node. Returns `None` at shutdown.
    async fn next_permit(&self, shutdown: &CancellationToken) -> Option<SemaphorePermit<'_>> {
        let permit = async {
            self.proposal_queue.wait_until_nonempty().await;
            self.permits.acquire().await.ok()
        };
        shutdown.run_until_cancelled(permit).await.flatten()
    }

    /// Commits each message to the log or to the owner's memory, according to the shard's settings at the
    /// place of the log where it gets its position. A message whose namespace changes durability meanwhile
    /// is committed the other way. All waiting messages of one topic take the same way, so they keep their
    /// order.
    async fn commit_batch(&self, mut waiting: Vec<WaitingPublish>) {
        for _ in 0..DURABILITY_CHANGES_MAX {
            let (for_memory, for_log) = self.split_by_durability(waiting);
            waiting = self.commit_to_log(for_log).await;
            waiting.extend(self.commit_to_memory(for_memory).await);
            if waiting.is_empty() {
                return;
            }
        }
        for WaitingPublish { reply, .. } in waiting {
            let _receiver_gone = reply.send(Err(PublishRejection::NotOwner { owner: None }.into()));
        }
    }

    /// The time of the next entry, or `None` if a majority of the clocks stays unknown. A node that has
    /// just started waits for the clocks of its peers, which arrive with the first heartbeat of each link.
    async fn wait_for_proposal_time(&self) -> Option<Timestamp> {
        let known_time = async {
            loop {
                match self.shared.proposal_time() {
                    Some(time) => return time,
                    None => sleep(CLOCK_POLL_INTERVAL).await,
                }
            }
        };
        timeout(CLOCK_WAIT_MAX, known_time).await.ok()
    }

    /// Splits publishes into those for the owner's memory and those for the log, by the current settings.
    fn split_by_durability(
        &self,
        waiting: Vec<WaitingPublish>,
    ) -> (Vec<WaitingPublish>, Vec<WaitingPublish>) {
        let (mut for_memory, mut for_log) = (Vec::new(), Vec::new());
        // Read once for all: the settings may change between two messages of a topic.
        let settings = self.shared.settings();
        for pending in waiting {
            match topic_durability(self.shared.id(), settings.as_deref(), &pending.publish.topic) {
                Ok(Durability::Memory) => for_memory.push(pending),
                Ok(Durability::Replicated) => for_log.push(pending),
                Err(rejection) => {
                    let _receiver_gone = pending.reply.send(Err(rejection));
                }
            }
        }
        (for_memory, for_log)
    }

    /// Proposes messages in one entry. Returns those whose namespace moved to the owner's memory before the
    /// entry was applied; they were not placed.
    async fn commit_to_log(&self, waiting: Vec<WaitingPublish>) -> Vec<WaitingPublish> {
        if waiting.is_empty() {
            return waiting;
        }
        let Some(time) = self.wait_for_proposal_time().await else {
            for WaitingPublish { reply, .. } in waiting {
                let _receiver_gone = reply.send(Err(clock_unavailable()));
            }
            return Vec::new();
        };
        let (mut batch, mut proposed) = (EntryBatch::new(time, Vec::new()), Vec::new());
        for pending in waiting {
            let item = EntryItem::new(pending.publish.clone());
            match self.shared.lookup_in_memory(&item, time) {
                MemoryLookup::Settled(outcome) => {
                    let _receiver_gone = pending.reply.send(outcome.map_err(PublishError::from));
                    continue;
                }
                MemoryLookup::Continues(last) => {
                    batch.continued_sequences.push((item.topic.clone(), last))
                }
                MemoryLookup::Unknown => {}
            }
            batch.items.push(item);
            proposed.push(pending);
        }
        if proposed.is_empty() {
            return proposed;
        }
        let reply = self.proposer.propose(batch.encode(self.shared.version())).await;
        let results = commit_outcomes(reply, proposed.len());
        let (mut outcomes, mut moved) = (Vec::with_capacity(proposed.len()), Vec::new());
        for (pending, result) in proposed.into_iter().zip(results) {
            match result {
                CommitOutcome::MovedToMemory => moved.push(pending),
                CommitOutcome::Settled(outcome) => {
                    outcomes.push(outcome.clone());
                    let _receiver_gone = pending.reply.send(outcome);
                }
            }
        }
        self.metrics.record_entry(&outcomes);
        moved
    }

    /// Places messages in memory, after the messages of their topics that went to the log before the change
    /// was known. If the memory is not open, an entry opens it first; if that entry fails, nothing is
    /// placed. Returns the messages whose namespace moved to the log meanwhile.
    async fn commit_to_memory(&self, waiting: Vec<WaitingPublish>) -> Vec<WaitingPublish> {
        if waiting.is_empty() {
            return waiting;
        }
        if !waiting.iter().all(|pending| self.shared.owns_in_memory(&pending.publish.topic))
            && let Some(time) = self.wait_for_proposal_time().await
        {
            let entry = EntryBatch::starting_memory_epoch(time);
            if let Err(error) = self.proposer.propose(entry.encode(self.shared.version())).await {
                tracing::debug!(%error, "cannot start a memory epoch");
            }
        }
        let mut moved = Vec::new();
        for WaitingPublish { publish, reply } in waiting {
            CoverageMark::MemoryBehindLog.reach();
            match self.shared.place_in_memory(publish, MemoryPath::Queued) {
                Ok(outcome) => {
                    let _receiver_gone = reply.send(outcome);
                }
                Err(publish) => moved.push(WaitingPublish { publish: *publish, reply }),
            }
        }
        self.enable_bypass();
        moved
    }

    /// Lets later publishes bypass the queue, if it holds no message for the memory any more.
    fn enable_bypass(&self) {
        let queue = self.proposal_queue.queue();
        self.shared.enable_bypass_unless(|is_for_memory| {
            queue.iter().any(|pending| is_for_memory(&pending.publish.topic))
        });
    }
}

impl<P> Drop for CommitLoop<P> {
    fn drop(&mut self) {
        self.proposal_queue.close();
    }
}

/// The outcome of an entry for one publish in it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum CommitOutcome {
    /// The publish has its final outcome.
    Settled(PublishResult),
    /// The namespace moved to the owner's memory; the publish is placed there next.
    MovedToMemory,
}

/// The outcome of an entry for each of the `count` publishes in it.
fn commit_outcomes(reply: Result<Bytes, ProposeError>, count: usize) -> Vec<CommitOutcome> {
    let all_failed = |error: PublishError| vec![CommitOutcome::Settled(Err(error)); count];
    let payload = match reply {
        Ok(payload) => payload,
        Err(error) => return all_failed(proposal_failed(error)),
    };
    let to_outcome = |outcome| match outcome {
        Err(ItemRejection::NamespaceInMemory) => CommitOutcome::MovedToMemory,
        Err(rejected) => CommitOutcome::Settled(Err(rejected.into())),
        Ok(placed) => CommitOutcome::Settled(Ok(placed)),
    };
    match decode_outcomes(&payload) {
        Ok(outcomes) if outcomes.len() == count => outcomes.into_iter().map(to_outcome).collect(),
        _ => all_failed(unknown_outcome("the state machine returned a malformed reply")),
    }
}

/// The outcome of a publish or removal whose proposal failed.
pub(crate) fn proposal_failed(error: ProposeError) -> PublishError {
    match error {
        ProposeError::Rejected { leader } => PublishRejection::NotOwner { owner: leader }.into(),
        ProposeError::Unknown(reason) => unknown_outcome(&reason),
    }
}

fn clock_unavailable() -> PublishError {
    UnavailableReason::ClocksUnknown.into()
}

fn unknown_outcome(reason: &str) -> PublishError {
    CoverageMark::ProposalUnknown.reach();
    PublishError::unknown(reason)
}

fn queue_rejection(error: queue::QueuePushError) -> PublishError {
    let (bound, reason) = match error {
        queue::QueuePushError::CountExceeded => {
            ("count", OverloadReason::QueueCount { max: QUEUE_LIMITS.count_max })
        }
        queue::QueuePushError::BytesExceeded => {
            ("bytes", OverloadReason::QueueBytes { max: QUEUE_LIMITS.bytes_max })
        }
        queue::QueuePushError::Closed => return UnavailableReason::Stopping.into(),
    };
    metrics::count_queue_rejection(bound);
    reason.into()
}

#[cfg(test)]
mod commit_test;
