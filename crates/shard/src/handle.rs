//! A shard of this node: opened, spoken to, run.

use std::collections::BTreeMap;
use std::sync::Arc;

use pushonce_consensus::{ConsensusEngine, GroupId, RaftGroup, StartError};
use pushonce_core::{
    Acknowledgement, Durability, FetchError, HistoryPage, HistoryRange, NodeId, OwnershipClaim,
    Publish, PublishError, PublishRejection, ShardId, Timestamp, Topic,
};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use crate::commit::{CommitLoop, ProposalQueue};
use crate::expiry::Expiry;
use crate::metrics::ShardMetrics;
use crate::ownership::{self, LeadershipTracker};
use crate::replica::{MemoryPath, ShardReplica, ShardShared};
use crate::{ClusterClock, CommitListener, NodeTopics, ShardSettings, TopicStats};

/// What a replica of a shard is made of.
pub struct ShardOptions {
    /// Which shard.
    pub id: ShardId,
    /// This node.
    pub me: NodeId,
    /// How many proposals of all shards of this node may be under way at once; about 8.
    pub permits: Arc<Semaphore>,
    /// The newest settings that this node knows of; `NoFault` as long as it does not know any, or could
    /// know newer ones: it does not own the shard then.
    pub settings: watch::Receiver<Option<Arc<ShardSettings>>>,
    /// Who is told of what was committed.
    pub commit_listener: Arc<dyn CommitListener>,
    /// The clocks of the nodes, of which a majority makes the log's time.
    pub clock: Arc<dyn ClusterClock>,
    /// The topics of this node, of all its shards.
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

/// What must run for publishes to be committed and ownership to be claimed. Dropped, it refuses
/// whatever still waits and whatever comes.
#[must_use = "nothing is committed unless it runs"]
pub struct ShardRunner {
    shared: Arc<ShardShared>,
    group: RaftGroup,
    commit: CommitLoop<RaftGroup>,
    settings: watch::Receiver<Option<Arc<ShardSettings>>>,
    claim: watch::Sender<Option<OwnershipClaim>>,
}

/// Why a replica cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("shard {shard} cannot be opened: {source}")]
pub struct ShardOpenError {
    /// Which shard.
    pub shard: ShardId,
    /// Why.
    #[source]
    pub source: StartError,
}

impl ShardOptions {
    /// Starts this node's replica and restores what it knew. A new one stays empty until its group
    /// is initialised here, or another node's replica adds it.
    ///
    /// # Errors
    /// [`ShardOpenError`] when it runs already, or its data cannot be read.
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
    /// The most topics one listing has. Nothing is committed while it is made; this many take well
    /// under a millisecond.
    pub const TOPICS_MAX: usize = 1_000;

    /// Which shard.
    pub fn id(&self) -> ShardId {
        self.shared.id()
    }

    /// Takes a checked message and says where it stands: committed, or, when its namespace lives in
    /// the owner's memory, handed on at once. The owner's own deadline of a proposal bounds the wait.
    /// Dropping the future does not take the message back.
    ///
    /// # Errors
    /// Refused when this node does not own the shard, its disk has no room, the topic would be one too many,
    /// the queue is full or the node is stopping; unknown when the message was proposed, or handed on, and nobody can say how
    /// that ended.
    pub async fn publish(&self, publish: Publish) -> Result<Acknowledgement, PublishError> {
        self.shared.check_ownership()?;
        let durability = self.shared.durability(&publish.topic)?;
        self.shared.check_topic_limits(&publish.topic)?;
        if durability == Durability::Memory {
            return self.publish_to_memory(publish).await;
        }
        self.group
            .check_disk_space()
            .map_err(|full| PublishRejection::Overloaded(full.to_string()))?;
        self.proposal_queue.publish(publish).await
    }

    /// Places a message in memory: at once, unless something stands in the queue that came before it.
    async fn publish_to_memory(
        &self,
        mut publish: Publish,
    ) -> Result<Acknowledgement, PublishError> {
        loop {
            publish = match self.shared.place_in_memory(publish, MemoryPath::Bypass) {
                Ok(outcome) => return outcome,
                // The memory is about to be opened.
                Err(_) if !self.shared.is_ready() => {
                    return Err(PublishRejection::NotOwner { owner: None }.into());
                }
                Err(publish) => *publish,
            };
            self.group
                .check_disk_space()
                .map_err(|full| PublishRejection::Overloaded(full.to_string()))?;
            let can_bypass = |publish: &Publish| self.shared.can_bypass_queue(&publish.topic);
            publish = match self.proposal_queue.publish_unless_bypass(publish, can_bypass).await {
                Ok(outcome) => return outcome,
                Err(publish) => publish,
            };
        }
    }

    /// Answers a question about the past of a topic, out of memory. A topic that has never had a
    /// message has an empty page.
    ///
    /// # Errors
    /// [`FetchError::FuturePosition`] for a position that was never given out, [`FetchError::Unavailable`]
    /// while this node does not own the shard.
    pub fn fetch_history(
        &self,
        topic: &Topic,
        range: HistoryRange,
    ) -> Result<HistoryPage, FetchError> {
        self.shared.fetch_history(topic, range)
    }

    /// The time of the newest entry, in milliseconds since the Unix epoch: the age of a message is the
    /// difference to it. `NoFault` while this node does not own the shard.
    pub fn log_time(&self) -> Option<Timestamp> {
        self.shared.log_time()
    }

    /// This node's claim to the shard: `Some` while it leads with a lease and has caught up, with
    /// every change of its group.
    pub fn claim(&self) -> watch::Receiver<Option<OwnershipClaim>> {
        self.claim.clone()
    }

    /// The Raft group underneath, for whoever changes its members.
    pub fn group(&self) -> &RaftGroup {
        &self.group
    }

    /// A number that replicas share that have applied the same entries.
    pub fn digest(&self) -> u64 {
        // Hashed beside the lock: what is applied meanwhile is of the next digest.
        let state = self.shared.read().clone();
        state.digest()
    }

    /// What this replica holds of a topic. On a replica that does not lead it may be behind, and of one
    /// that lives in the owner's memory it has nothing.
    pub fn topic_stats(&self, topic: &Topic) -> Option<TopicStats> {
        let (state, memory) = (self.shared.read(), self.shared.memory());
        let now = self.shared.read_time(&state, &memory);
        let in_memory = memory.topic_stats(topic, now);
        in_memory.or_else(|| state.topic_stats(topic, now))
    }

    /// The topics whose names begin with `prefix`, after `after`, in the order of their names: `count_max`
    /// of them at most, and [`Handle::TOPICS_MAX`]. On a replica that does not lead they may be behind, and
    /// those that live in the owner's memory are not there.
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
}

impl ShardRunner {
    /// Commits what is published and keeps the claim true, until `shutdown`. The entry that is under
    /// way then is waited for, at most for the deadline of a proposal; what still waits is refused.
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

/// Follows the group and the settings, and says what they mean for ownership. It begins when all that
/// the predecessors committed is applied and the shard's settings are as new as those that this node
/// knows of; it ends with the lease.
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
            // A copy: `apply` reads the status under the locks that `can_become_owner` takes.
            let status = status.borrow_and_update().clone();
            let known = settings.borrow_and_update().clone();
            // An owner goes on when settings change: each change is one entry of its own.
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
