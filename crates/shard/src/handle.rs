//! The replica of a shard on this node: opening it, its handle and its runner.

use std::collections::BTreeMap;
use std::sync::Arc;

use pushonce_consensus::{ConsensusEngine, GroupId, RaftGroup, StartError};
use pushonce_core::{
    Acknowledgement, Durability, FetchError, HistoryPage, HistoryRange, NodeId, OverloadReason,
    OwnershipClaim, Publish, PublishError, PublishRejection, ShardId, Timestamp, Topic,
    TopicRemoval, UnavailableReason,
};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use crate::commit::{CommitLoop, ProposalQueue, proposal_failed};
use crate::expiry::Expiry;
use crate::metrics::ShardMetrics;
use crate::ownership::{self, LeadershipTracker};
use crate::replica::{MemoryPath, ShardReplica, ShardShared};
use crate::topic_tree::SegmentCounter;
use crate::{
    ClusterClock, CommitListener, EntryBatch, NodeTopics, ShardSettings, TopicStats, TopicTreeLevel,
};

/// What a replica of a shard needs to start.
pub struct ShardOptions {
    /// The shard.
    pub id: ShardId,
    /// This node.
    pub me: NodeId,
    /// Limits the proposals in flight of all shards of this node; about 8 permits.
    pub permits: Arc<Semaphore>,
    /// The newest settings that this node knows. `None` while it knows none or may have missed newer ones;
    /// the node then does not own the shard.
    pub settings: watch::Receiver<Option<Arc<ShardSettings>>>,
    /// Receives committed messages.
    pub commit_listener: Arc<dyn CommitListener>,
    /// The clocks of the nodes, from whose majority the log time is taken.
    pub clock: Arc<dyn ClusterClock>,
    /// Counts the topics of all shards of this node.
    pub topics: Arc<NodeTopics>,
}

/// A replica of a shard on this node. Clones share it.
#[derive(Clone)]
pub struct Handle {
    shared: Arc<ShardShared>,
    group: RaftGroup,
    proposal_queue: Arc<ProposalQueue>,
    claim: watch::Receiver<Option<OwnershipClaim>>,
}

/// Commits publishes and maintains the ownership claim while it runs. Dropping it rejects waiting and later
/// publishes.
#[must_use = "publishes are committed only while the runner runs"]
pub struct ShardRunner {
    shared: Arc<ShardShared>,
    group: RaftGroup,
    commit: CommitLoop<RaftGroup>,
    settings: watch::Receiver<Option<Arc<ShardSettings>>>,
    claim: watch::Sender<Option<OwnershipClaim>>,
}

/// A replica failed to open.
#[derive(Debug, thiserror::Error)]
#[error("cannot open shard {shard}: {source}")]
pub struct ShardOpenError {
    /// The shard.
    pub shard: ShardId,
    /// The cause.
    #[source]
    pub source: StartError,
}

impl ShardOptions {
    /// Starts this node's replica and restores its state. A new replica stays empty until its group is
    /// initialised here, or another node's replica adds it.
    ///
    /// # Errors
    /// [`ShardOpenError`] when the replica already runs, or its data cannot be read.
    pub async fn open(
        self,
        engine: &ConsensusEngine,
    ) -> Result<(Handle, ShardRunner), ShardOpenError> {
        let ShardOptions { id, me, permits, settings, commit_listener, clock, topics } = self;
        let agreed_version = engine.agreed_version();
        let shared =
            Arc::new(ShardShared::new(id, me, agreed_version, commit_listener, clock, topics));
        let started = engine.start(GroupId::shard(id), ShardReplica::new(shared.clone())).await;
        let group = started.map_err(|source| ShardOpenError { shard: id, source })?;
        shared.attach_group(group.clone());

        let proposal_queue = Arc::new(ProposalQueue::default());
        let (claim_tx, claim_rx) = watch::channel(None);
        let handle = Handle {
            shared: shared.clone(),
            group: group.clone(),
            proposal_queue: proposal_queue.clone(),
            claim: claim_rx,
        };
        let commit = CommitLoop {
            shared: shared.clone(),
            proposer: group.clone(),
            proposal_queue,
            permits,
            metrics: ShardMetrics::new(),
        };
        Ok((handle, ShardRunner { shared, group, commit, settings, claim: claim_tx }))
    }
}

impl Handle {
    /// Maximum number of topics in one listing. No entry is applied while a listing is made; 1,000 topics
    /// take well under a millisecond.
    pub const TOPICS_MAX: usize = 1_000;

    /// The shard.
    pub fn id(&self) -> ShardId {
        self.shared.id()
    }

    /// Publishes a validated message and returns its position after it is committed, or, in a `memory`
    /// namespace, after it is placed in the owner's memory. The wait is bounded by the proposal deadline.
    /// Dropping the future does not withdraw the message.
    ///
    /// # Errors
    /// Rejected when this node does not own the shard, its disk has no room, the topic is above a topic
    /// limit, the queue is full or the node is stopping. Unknown when the message was proposed or delivered
    /// and its outcome is not known.
    pub async fn publish(&self, publish: Publish) -> Result<Acknowledgement, PublishError> {
        self.shared.check_ownership()?;
        let durability = self.shared.durability(&publish.topic)?;
        self.shared.check_topic_limits(&publish.topic)?;
        if durability == Durability::Memory {
            return self.publish_to_memory(publish).await;
        }
        self.group.check_disk_space().map_err(OverloadReason::from)?;
        self.proposal_queue.publish(publish).await
    }

    /// Places a message in memory: at once, unless earlier messages wait in the queue.
    async fn publish_to_memory(
        &self,
        mut publish: Publish,
    ) -> Result<Acknowledgement, PublishError> {
        loop {
            publish = match self.shared.place_in_memory(publish, MemoryPath::Bypass) {
                Ok(outcome) => return outcome,
                // The memory is not open yet.
                Err(_) if !self.shared.is_ready() => {
                    return Err(PublishRejection::NotOwner { owner: None }.into());
                }
                Err(publish) => *publish,
            };
            self.group.check_disk_space().map_err(OverloadReason::from)?;
            let can_bypass = |publish: &Publish| self.shared.can_bypass_queue(&publish.topic);
            publish = match self.proposal_queue.publish_unless_bypass(publish, can_bypass).await {
                Ok(outcome) => return outcome,
                Err(publish) => publish,
            };
        }
    }

    /// Purges or deletes a topic, and returns its stats from just before; `None`, and nothing changes, when it has
    /// neither messages nor a position. Repeating it is safe. A replica without room on its disk accepts it.
    ///
    /// # Errors
    /// Rejected when this node does not own the shard or knows too few clocks. Unknown when the entry was proposed and
    /// its outcome is not known.
    pub async fn remove(
        &self,
        topic: Topic,
        removal: TopicRemoval,
    ) -> Result<Option<TopicStats>, PublishError> {
        self.shared.check_ownership()?;
        let in_memory = self.shared.durability(&topic)? == Durability::Memory;
        let Some(stats) = self.topic_stats(&topic) else { return Ok(None) };
        let time = self.shared.proposal_time().ok_or(UnavailableReason::ClocksUnknown)?;
        let entry = EntryBatch::removing(time, topic, removal, in_memory);
        let proposed = self.group.propose_essential(entry.encode(self.shared.version())).await;
        proposed.map_err(proposal_failed)?;
        Ok(Some(stats))
    }

    /// Reads the history of a topic from memory. A topic that never had a message has an empty page.
    ///
    /// # Errors
    /// [`FetchError::FuturePosition`] for a position that was never assigned, [`FetchError::Unavailable`]
    /// while this node does not own the shard.
    pub fn fetch_history(
        &self,
        topic: &Topic,
        range: HistoryRange,
    ) -> Result<HistoryPage, FetchError> {
        self.shared.fetch_history(topic, range)
    }

    /// The log time, in milliseconds since the Unix epoch; the age of a message is the difference to it.
    /// `None` while this node does not own the shard.
    pub fn log_time(&self) -> Option<Timestamp> {
        self.shared.log_time()
    }

    /// This node's claim to the shard: `Some` while it leads with a lease and has caught up. Updated with
    /// every membership change of the group.
    pub fn claim(&self) -> watch::Receiver<Option<OwnershipClaim>> {
        self.claim.clone()
    }

    /// The Raft group of the shard, for membership changes.
    pub fn group(&self) -> &RaftGroup {
        &self.group
    }

    /// A hash of the state. Replicas that applied the same entries have the same digest.
    pub fn digest(&self) -> u64 {
        // Computed outside the lock; entries applied meanwhile belong to the next digest.
        let state = self.shared.read().clone();
        state.digest()
    }

    /// The stats of a topic on this replica. On a replica that does not lead they may be behind, and topics
    /// in the owner's memory are missing.
    pub fn topic_stats(&self, topic: &Topic) -> Option<TopicStats> {
        let (state, memory) = (self.shared.read(), self.shared.memory());
        let now = self.shared.read_time(&state, &memory);
        let in_memory = memory.topic_stats(topic, now);
        in_memory.or_else(|| state.topic_stats(topic, now))
    }

    /// The topics whose names begin with `prefix`, after `after`, ordered by name: at most `count_max`, and
    /// at most [`Handle::TOPICS_MAX`]. On a replica that does not lead they may be behind, and topics in
    /// the owner's memory are missing.
    pub fn list_topics(
        &self,
        prefix: &str,
        after: Option<&Topic>,
        count_max: usize,
    ) -> Vec<TopicStats> {
        let count_max = count_max.min(Self::TOPICS_MAX);
        let (state, memory) = (self.shared.read(), self.shared.memory());
        let now = self.shared.read_time(&state, &memory);
        let by_name = |info: TopicStats| (info.topic.clone(), info);
        let replicated = state.list_topics(prefix, after, now).take(count_max).map(by_name);
        let mut found: BTreeMap<Topic, TopicStats> = replicated.collect();
        found.extend(memory.list_topics(prefix, after, now).take(count_max).map(by_name));
        found.into_values().take(count_max).collect()
    }

    /// One level of the tree of topics: the first segments below `prefix` after `after`, at most `count_max` and at
    /// most [`Handle::TOPICS_MAX`], with the number of topics of each. Reads the name of every topic with the
    /// prefix, and copies one page.
    pub fn topic_tree(&self, prefix: &str, after: &str, count_max: usize) -> TopicTreeLevel {
        let mut counter = SegmentCounter::new(prefix, after, count_max.min(Self::TOPICS_MAX));
        let (state, memory) = (self.shared.read(), self.shared.memory());
        let replicated = state.topic_names(prefix).filter(|topic| !memory.contains_topic(topic));
        for topic in replicated.chain(memory.topic_names(prefix)) {
            counter.add(topic.as_str());
        }
        counter.finish()
    }
}

impl ShardRunner {
    /// Commits publishes and maintains the claim until `shutdown`. Then it waits for the entry in flight,
    /// at most for the proposal deadline, and rejects the publishes that still wait.
    pub async fn run(self, shutdown: CancellationToken) {
        let ShardRunner { shared, group, commit, settings, claim: claim_tx } = self;
        let expiry = Expiry {
            shared: shared.clone(),
            group: group.clone(),
            permits: commit.permits.clone(),
            settings: settings.clone(),
        };
        let span = tracing::info_span!("shard", shard = %shared.id());
        let tasks = async {
            tokio::join!(
                commit.run(&shutdown),
                expiry.run(&shutdown),
                maintain_claim(&shared, &group, settings, claim_tx, &shutdown),
            )
        };
        tasks.instrument(span).await;
    }
}

/// Follows the group and the settings and updates the claim. A claim begins when everything that the
/// predecessors committed is applied and the shard's settings are as new as those that this node knows; it
/// ends with the lease.
async fn maintain_claim(
    shared: &ShardShared,
    group: &RaftGroup,
    mut settings: watch::Receiver<Option<Arc<ShardSettings>>>,
    claim_tx: watch::Sender<Option<OwnershipClaim>>,
    shutdown: &CancellationToken,
) {
    let mut status = group.status();
    let (mut tracker, mut owned_term) = (LeadershipTracker::default(), None);
    loop {
        let claim = {
            // Cloned: `apply` reads the status under the locks that `can_become_owner` takes.
            let status = status.borrow_and_update().clone();
            let known = settings.borrow_and_update().clone();
            // An owner stays ready when settings change: each change is one entry of its own.
            let ready = tracker.observe(&status).filter(|&term| {
                owned_term == Some(term) || shared.can_become_owner(term, known.as_ref())
            });
            shared.set_ready(ready);
            owned_term = ready.or(owned_term);
            let previous = claim_tx.borrow().clone();
            ready.and_then(|term| {
                ownership::build_claim(shared.id(), shared.me(), term, &status, previous)
            })
        };
        claim_tx.send_if_modified(|current| {
            let changed = *current != claim;
            *current = claim;
            changed
        });
        tokio::select! {
            () = shutdown.cancelled() => break,
            changed = status.changed() => if changed.is_err() { break },
            Ok(()) = settings.changed() => {}
        }
    }
    shared.set_ready(None);
    claim_tx.send_replace(None);
}
