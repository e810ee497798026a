//! Group commit: what waits while one entry is under way makes the next.
//!
//! The unit of cost is the entry (some 200 µs of CPU over three replicas), not the message (2 to 4).
//! So a shard has one proposal under way, a node about eight, and what waits is taken only after the
//! permit came: whoever arrived while waiting for it rides along. No timer: one lone publish is
//! proposed at once.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use pushonce_consensus::{ProposeError, RaftGroup};
use pushonce_core::{
    Acknowledgement, Durability, Publish, PublishError, PublishRejection, Timestamp,
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

/// What may wait for one shard. 16,384 is four times what the busiest measured load had in flight
/// over all shards; 8 MiB, so that even 64 full queues take no more than half a gibibyte of a node.
/// Full, the newcomer is refused as overloaded: nothing happened, and it may come again.
const QUEUE_LIMITS: SizeLimits = SizeLimits { count_max: 16_384, bytes_max: 8 << 20 };

/// What one entry carries. A mebibyte, so that it is one fsync of a few milliseconds and one frame
/// of a link, and the largest payload there is still fits, alone. 4,096 messages are applied in some
/// two milliseconds, for which the state is locked.
const ENTRY_LIMITS: SizeLimits = SizeLimits { count_max: 4_096, bytes_max: 1 << 20 };

/// What a publish costs in the queue beside its payload and its name: the key, the content type, and
/// the memory of who waits.
const PUBLISH_OVERHEAD_BYTES: usize = 256;

const _: () = assert!(
    ENTRY_LIMITS.count_max <= QUEUE_LIMITS.count_max
        && ENTRY_LIMITS.bytes_max <= QUEUE_LIMITS.bytes_max
);
const _: () =
    assert!(Publish::PAYLOAD_BYTES_CAP + PUBLISH_OVERHEAD_BYTES * 2 <= QUEUE_LIMITS.bytes_max);

/// How often the durability of a namespace may change under a message before it is refused as not
/// taken: each change is an operator's command.
const DURABILITY_CHANGES_MAX: usize = 4;

type PublishResult = Result<Acknowledgement, PublishError>;

/// Commits an entry. The port to the group.
pub(crate) trait Proposer: Send + Sync {
    /// As [`FakeGroup::propose`]: ends by itself, within a deadline.
    fn propose(&self, entry: Bytes) -> impl Future<Output = Result<Bytes, ProposeError>> + Send;
}

/// Where publishes wait.
pub(crate) struct ProposalQueue {
    queue: Mutex<BoundedQueue<WaitingPublish>>,
    not_empty: Notify,
}

/// A publish on its way into an entry, and who waits for it.
struct WaitingPublish {
    publish: Publish,
    reply: oneshot::Sender<PublishResult>,
}

/// The loop that empties an [`ProposalQueue`]. Dropped, it closes it.
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
    /// Waits in the queue, and then for the entry.
    pub(crate) async fn publish(&self, publish: Publish) -> PublishResult {
        let receiver = self.enqueue(&mut self.queue(), publish)?;
        await_outcome(receiver).await
    }

    /// The same, unless it `may_pass` the queue: that is asked under the lock under which
    /// [`CommitLoop::keep`] allows it, so what stands in the queue is not overtaken.
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

/// Whoever leaves the queue unproposed is told so; a reply that is gone went with its entry.
async fn await_outcome(receiver: oneshot::Receiver<PublishResult>) -> PublishResult {
    receiver
        .await
        .unwrap_or_else(|_| Err(unknown_outcome("the node stopped while it was committed")))
}

/// A proposal that takes longer waits for other nodes, not for this one, and its permit serves
/// another shard: else some shards without a quorum would hold up all the others of the node.
pub(crate) const PERMIT_HOLD_MAX: Duration = Duration::from_millis(250);

/// How long publishes wait for the clocks of a majority after a start: two heartbeats of a link.
const CLOCK_WAIT_MAX: Duration = Duration::from_secs(2);
const CLOCK_POLL_INTERVAL: Duration = Duration::from_millis(10);

impl<P: Proposer> CommitLoop<P> {
    /// Proposes entry after entry until `shutdown`. The one under way then is waited for.
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

    /// Waits until something waits, and then for the node's permit. `NoFault` at the end.
    async fn next_permit(&self, shutdown: &CancellationToken) -> Option<SemaphorePermit<'_>> {
        let permit = async {
            self.proposal_queue.wait_until_nonempty().await;
            self.permits.acquire().await.ok()
        };
        shutdown.run_until_cancelled(permit).await.flatten()
    }

    /// Every message goes to the log or to the owner's memory, as the shard's settings say at the place
    /// of the log where it gets its position: a message that the settings changed under goes the other
    /// way. All that waits of one topic goes the same way, so each message keeps its turn.
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

    /// The time of the next entry. A node that has just started waits for the clocks of the others, which
    /// come with the first heartbeat of each link.
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

    /// What is for the owner's memory, by now, and what is for the log.
    fn split_by_durability(
        &self,
        waiting: Vec<WaitingPublish>,
    ) -> (Vec<WaitingPublish>, Vec<WaitingPublish>) {
        let (mut for_memory, mut for_log) = (Vec::new(), Vec::new());
        // Once for all of them: the settings may change between two messages of a topic.
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

    /// Proposes messages in one entry. Gives back those whose namespace went into the owner's memory
    /// before the entry was applied: nothing happened to them.
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

    /// Places messages in memory, behind those that went into the log while nobody knew better. An
    /// entry opens the memory first, unless it is open: when it fails, nothing is placed. Gives back the
    /// messages whose namespace went into the log meanwhile.
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

    /// What comes from now on may pass the queue, if nothing for the memory stands there any more.
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

/// What an entry's end means for a publish in it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum CommitOutcome {
    /// It is over.
    Settled(PublishResult),
    /// Its namespace lives in the owner's memory now: it goes there.
    MovedToMemory,
}

/// What an entry's end means for each of the `count` publishes in it.
fn commit_outcomes(reply: Result<Bytes, ProposeError>, count: usize) -> Vec<CommitOutcome> {
    let all_failed = |error: PublishError| vec![CommitOutcome::Settled(Err(error)); count];
    let payload = match reply {
        Ok(payload) => payload,
        Err(ProposeError::Rejected { leader }) => {
            return all_failed(PublishRejection::NotOwner { owner: leader }.into());
        }
        Err(ProposeError::Unknown(reason)) => return all_failed(unknown_outcome(&reason)),
    };
    let to_outcome = |outcome| match outcome {
        Err(ItemRejection::NamespaceInMemory) => CommitOutcome::MovedToMemory,
        Err(rejected) => CommitOutcome::Settled(Err(rejected.into())),
        Ok(placed) => CommitOutcome::Settled(Ok(placed)),
    };
    match decode_outcomes(&payload) {
        Ok(outcomes) if outcomes.len() == count => outcomes.into_iter().map(to_outcome).collect(),
        _ => {
            all_failed(unknown_outcome("the state machine gave another answer than was asked for"))
        }
    }
}

fn clock_unavailable() -> PublishError {
    let reason =
        "the owner has not heard of the clocks of a majority of the shard's voters yet; retry";
    PublishRejection::Unavailable(reason.to_owned()).into()
}

fn unknown_outcome(reason: &str) -> PublishError {
    PublishError::unknown(reason)
}

fn queue_rejection(error: queue::QueuePushError) -> PublishError {
    let (bound, reason) = match error {
        queue::QueuePushError::CountExceeded => {
            ("count", format!("{} publishes wait for this shard", QUEUE_LIMITS.count_max))
        }
        queue::QueuePushError::BytesExceeded => {
            ("bytes", format!("{} bytes wait for this shard", QUEUE_LIMITS.bytes_max))
        }
        queue::QueuePushError::Closed => {
            return PublishRejection::Unavailable("the node is stopping".to_owned()).into();
        }
    };
    metrics::count_queue_rejection(bound);
    PublishRejection::Overloaded(reason).into()
}

#[cfg(test)]
mod commit_test;
