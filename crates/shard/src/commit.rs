//! Group commit: what waits while one entry is under way makes the next.
//!
//! The unit of cost is the entry (some 200 µs of CPU over three replicas), not the message (2 to 4).
//! So a shard has one proposal under way, a node about eight, and what waits is taken only after the
//! permit came: whoever arrived while waiting for it rides along. No timer: one lone publish is
//! proposed at once.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use pushonce_consensus::{Group, ProposeError};
use pushonce_core::{Durability, Placed, Publish, PublishError, Refusal, Timestamp};
use tokio::sync::{Notify, Semaphore, SemaphorePermit, oneshot};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::dedupe::InMemory;
use crate::entry::decode_answer;
use crate::machine::{Shared, Way, durability};
use crate::queue::{self, Bounds, Queue};
use crate::{Batch, Item, Rejected};

/// What may wait for one shard. 16,384 is four times what the busiest measured load had in flight
/// over all shards; 8 MiB, so that even 64 full queues take no more than half a gibibyte of a node.
/// Full, the newcomer is refused as overloaded: nothing happened, and it may come again.
const QUEUE: Bounds = Bounds { count: 16_384, bytes: 8 << 20 };

/// What one entry carries. A mebibyte, so that it is one fsync of a few milliseconds and one frame
/// of a link, and the largest payload there is still fits, alone. 4,096 messages are applied in some
/// two milliseconds, for which the state is locked.
const ENTRY: Bounds = Bounds { count: 4_096, bytes: 1 << 20 };

/// What a publish costs in the queue beside its payload and its name: the key, the content type, and
/// the memory of who waits.
const OVERHEAD_BYTES: usize = 256;

const _: () = assert!(ENTRY.count <= QUEUE.count && ENTRY.bytes <= QUEUE.bytes);
const _: () = assert!(Publish::PAYLOAD_BYTES_CAP + OVERHEAD_BYTES * 2 <= QUEUE.bytes);

/// How often the durability of a namespace may change under a message before it is refused as not
/// taken: each change is an operator's command.
const CHANGES_MAX: usize = 4;

type Outcome = Result<Placed, PublishError>;

/// Commits an entry. The port to the group.
pub(crate) trait Propose: Send + Sync {
    /// As [`Group::propose`]: ends by itself, within a deadline.
    fn propose(&self, entry: Bytes) -> impl Future<Output = Result<Bytes, ProposeError>> + Send;
}

/// Where publishes wait.
pub(crate) struct Intake {
    queue: Mutex<Queue<Waiting>>,
    arrived: Notify,
}

/// A publish on its way into an entry, and who waits for it.
struct Waiting {
    publish: Publish,
    reply: oneshot::Sender<Outcome>,
}

/// The loop that empties an [`Intake`]. Dropped, it closes it.
pub(crate) struct Commit<P> {
    pub(crate) shared: Arc<Shared>,
    pub(crate) proposer: P,
    pub(crate) intake: Arc<Intake>,
    pub(crate) permits: Arc<Semaphore>,
}

impl Propose for Group {
    fn propose(&self, entry: Bytes) -> impl Future<Output = Result<Bytes, ProposeError>> + Send {
        Group::propose(self, entry)
    }
}

impl Default for Intake {
    fn default() -> Intake {
        Intake { queue: Mutex::new(Queue::new(QUEUE)), arrived: Notify::new() }
    }
}

impl Intake {
    /// Waits in the queue, and then for the entry.
    pub(crate) async fn publish(&self, publish: Publish) -> Outcome {
        let outcome = self.line_up(&mut self.queue(), publish)?;
        end(outcome).await
    }

    /// The same, unless it `may_pass` the queue: that is asked under the lock under which
    /// [`Commit::keep`] allows it, so what stands in the queue is not overtaken.
    pub(crate) async fn publish_unless(
        &self,
        publish: Publish,
        may_pass: impl FnOnce(&Publish) -> bool,
    ) -> Result<Outcome, Publish> {
        let outcome = {
            let mut queue = self.queue();
            if may_pass(&publish) {
                return Err(publish);
            }
            self.line_up(&mut queue, publish)
        };
        Ok(match outcome {
            Ok(outcome) => end(outcome).await,
            Err(refused) => Err(refused),
        })
    }

    fn line_up(
        &self,
        queue: &mut Queue<Waiting>,
        publish: Publish,
    ) -> Result<oneshot::Receiver<Outcome>, PublishError> {
        let bytes = publish.payload.len() + publish.topic.as_str().len() + OVERHEAD_BYTES;
        let (reply, outcome) = oneshot::channel();
        queue.push(bytes, Waiting { publish, reply }).map_err(refusal)?;
        self.arrived.notify_one();
        Ok(outcome)
    }

    fn queue(&self) -> MutexGuard<'_, Queue<Waiting>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn filled(&self) {
        while self.queue().len() == 0 {
            self.arrived.notified().await;
        }
    }

    fn close(&self) {
        let waiting = self.queue().close();
        for Waiting { reply, .. } in waiting {
            let _nobody_waits = reply.send(Err(refusal(queue::Rejected::Closed)));
        }
    }
}

/// Whoever leaves the queue unproposed is told so; a reply that is gone went with its entry.
async fn end(outcome: oneshot::Receiver<Outcome>) -> Outcome {
    outcome.await.unwrap_or_else(|_| Err(unknown("the node stopped while it was committed")))
}

/// A proposal that takes longer waits for other nodes, not for this one, and its permit serves
/// another shard: else some shards without a quorum would hold up all the others of the node.
pub(crate) const PERMIT_MAX: Duration = Duration::from_millis(250);

/// How long publishes wait for the clocks of a majority after a start: two heartbeats of a link.
const CLOCKS_MAX: Duration = Duration::from_secs(2);
const CLOCKS_RETRY: Duration = Duration::from_millis(10);

impl<P: Propose> Commit<P> {
    /// Proposes entry after entry until `shutdown`. The one under way then is waited for.
    pub(crate) async fn run(self, shutdown: &CancellationToken) {
        while let Some(permit) = self.turn(shutdown).await {
            let waiting = self.intake.queue().take(ENTRY);
            let mut commit = std::pin::pin!(self.commit(waiting));
            if timeout(PERMIT_MAX, &mut commit).await.is_err() {
                drop(permit);
                commit.await;
            }
        }
    }

    /// Waits until something waits, and then for the node's permit. `None` at the end.
    async fn turn(&self, shutdown: &CancellationToken) -> Option<SemaphorePermit<'_>> {
        let turn = async {
            self.intake.filled().await;
            self.permits.acquire().await.ok()
        };
        shutdown.run_until_cancelled(turn).await.flatten()
    }

    /// Every message goes to the log or to the owner's memory, as the shard's settings say at the place
    /// of the log where it gets its position: a message that the settings changed under goes the other
    /// way. All that waits of one topic goes the same way, so each message keeps its turn.
    async fn commit(&self, mut waiting: Vec<Waiting>) {
        for _ in 0..CHANGES_MAX {
            let (kept, logged) = self.split_by_durability(waiting);
            waiting = self.log(logged).await;
            waiting.extend(self.keep(kept).await);
            if waiting.is_empty() {
                return;
            }
        }
        for Waiting { reply, .. } in waiting {
            let _nobody_waits = reply.send(Err(Refusal::NotOwner { owner: None }.into()));
        }
    }

    /// The time of the next entry. A node that has just started waits for the clocks of the others, which
    /// come with the first heartbeat of each link.
    async fn stamp(&self) -> Option<Timestamp> {
        let known = async {
            loop {
                match self.shared.stamp() {
                    Some(time) => return time,
                    None => sleep(CLOCKS_RETRY).await,
                }
            }
        };
        timeout(CLOCKS_MAX, known).await.ok()
    }

    /// What is for the owner's memory, by now, and what is for the log.
    fn split_by_durability(&self, waiting: Vec<Waiting>) -> (Vec<Waiting>, Vec<Waiting>) {
        let (mut kept, mut logged) = (Vec::new(), Vec::new());
        // Once for all of them: the settings may change between two messages of a topic.
        let settings = self.shared.settings();
        for one in waiting {
            match durability(self.shared.id(), settings.as_deref(), &one.publish.topic) {
                Ok(Durability::Memory) => kept.push(one),
                Ok(Durability::Replicated) => logged.push(one),
                Err(refused) => {
                    let _nobody_waits = one.reply.send(Err(refused));
                }
            }
        }
        (kept, logged)
    }

    /// Proposes messages in one entry. Gives back those whose namespace went into the owner's memory
    /// before the entry was applied: nothing happened to them.
    async fn log(&self, waiting: Vec<Waiting>) -> Vec<Waiting> {
        if waiting.is_empty() {
            return waiting;
        }
        let Some(time) = self.stamp().await else {
            for Waiting { reply, .. } in waiting {
                let _nobody_waits = reply.send(Err(no_clock()));
            }
            return Vec::new();
        };
        let (mut batch, mut proposed) = (Batch::new(time, Vec::new()), Vec::new());
        for one in waiting {
            let item = Item::new(one.publish.clone());
            match self.shared.look_in_memory(&item, time) {
                InMemory::Settled(outcome) => {
                    let _nobody_waits = one.reply.send(outcome.map_err(PublishError::from));
                    continue;
                }
                InMemory::Continues(last) => batch.continues.push((item.topic.clone(), last)),
                InMemory::Unknown => {}
            }
            batch.items.push(item);
            proposed.push(one);
        }
        if proposed.is_empty() {
            return proposed;
        }
        let end = self.proposer.propose(batch.encode(self.shared.version())).await;
        let ends = ends(end, proposed.len());
        let (mut outcomes, mut moved) = (Vec::with_capacity(proposed.len()), Vec::new());
        for (one, end) in proposed.into_iter().zip(ends) {
            match end {
                End::Moved => moved.push(one),
                End::Settled(outcome) => {
                    outcomes.push(outcome.clone());
                    let _nobody_waits = one.reply.send(outcome);
                }
            }
        }
        count(&outcomes);
        moved
    }

    /// Places messages in memory, behind those that went into the log while nobody knew better. An
    /// entry opens the memory first, unless it is open: when it fails, nothing is placed. Gives back the
    /// messages whose namespace went into the log meanwhile.
    async fn keep(&self, waiting: Vec<Waiting>) -> Vec<Waiting> {
        if waiting.is_empty() {
            return waiting;
        }
        if !waiting.iter().all(|one| self.shared.keeps(&one.publish.topic))
            && let Some(time) = self.stamp().await
        {
            let entry = Batch::renewing(time);
            if let Err(error) = self.proposer.propose(entry.encode(self.shared.version())).await {
                tracing::debug!(shard = %self.shared.id(), %error, "cannot open the memory");
            }
        }
        let mut moved = Vec::new();
        for Waiting { publish, reply } in waiting {
            match self.shared.place_in_memory(publish, Way::Through) {
                Ok(outcome) => {
                    let _nobody_waits = reply.send(outcome);
                }
                Err(publish) => moved.push(Waiting { publish: *publish, reply }),
            }
        }
        self.let_pass();
        moved
    }

    /// What comes from now on may pass the queue, if nothing for the memory stands there any more.
    fn let_pass(&self) {
        let queue = self.intake.queue();
        self.shared.make_passable(|is_kept| queue.iter().any(|one| is_kept(&one.publish.topic)));
    }
}

impl<P> Drop for Commit<P> {
    fn drop(&mut self) {
        self.intake.close();
    }
}

/// What an entry's end means for a publish in it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum End {
    /// It is over.
    Settled(Outcome),
    /// Its namespace lives in the owner's memory now: it goes there.
    Moved,
}

/// What an entry's end means for each of the `count` publishes in it.
fn ends(end: Result<Bytes, ProposeError>, count: usize) -> Vec<End> {
    let all = |outcome: PublishError| vec![End::Settled(Err(outcome)); count];
    let answer = match end {
        Ok(answer) => answer,
        Err(ProposeError::Refused { leader }) => {
            return all(Refusal::NotOwner { owner: leader }.into());
        }
        Err(ProposeError::Unknown(why)) => return all(unknown(&why)),
    };
    let end = |outcome| match outcome {
        Err(Rejected::InMemory) => End::Moved,
        Err(rejected) => End::Settled(Err(rejected.into())),
        Ok(placed) => End::Settled(Ok(placed)),
    };
    match decode_answer(&answer) {
        Ok(outcomes) if outcomes.len() == count => outcomes.into_iter().map(end).collect(),
        _ => all(unknown("the state machine gave another answer than was asked for")),
    }
}

fn no_clock() -> PublishError {
    let why =
        "the owner has not heard of the clocks of a majority of the shard's voters yet; retry";
    Refusal::Unavailable(why.to_owned()).into()
}

fn unknown(why: &str) -> PublishError {
    PublishError::unknown(why)
}

fn refusal(rejected: queue::Rejected) -> PublishError {
    let (bound, why) = match rejected {
        queue::Rejected::Count => {
            ("count", format!("{} publishes wait for this shard", QUEUE.count))
        }
        queue::Rejected::Bytes => ("bytes", format!("{} bytes wait for this shard", QUEUE.bytes)),
        queue::Rejected::Closed => {
            return Refusal::Unavailable("the node is stopping".to_owned()).into();
        }
    };
    metrics::counter!("pushonce_shard_queue_refusals_total", "bound" => bound).increment(1);
    Refusal::Overloaded(why).into()
}

fn count(outcomes: &[Outcome]) {
    metrics::counter!("pushonce_shard_entries_total").increment(1);
    metrics::histogram!("pushonce_shard_batch_messages").record(outcomes.len() as f64);
    let counted = |outcome: &'static str, is: fn(&Outcome) -> bool| {
        let count = outcomes.iter().filter(|outcome| is(outcome)).count() as u64;
        if count > 0 {
            metrics::counter!("pushonce_shard_publishes_total", "outcome" => outcome)
                .increment(count);
        }
    };
    counted("acknowledged", |outcome| outcome.is_ok());
    counted("refused", |outcome| matches!(outcome, Err(PublishError::Refused(_))));
    counted("unknown", |outcome| matches!(outcome, Err(PublishError::Unknown { .. })));
}

#[cfg(test)]
mod commit_test;
