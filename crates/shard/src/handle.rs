//! A shard of this node: opened, spoken to, run.

use std::collections::BTreeMap;
use std::sync::Arc;

use pushonce_consensus::{Engine, Group, GroupId, StartError};
use pushonce_core::{
    Claim, Durability, FetchError, NodeId, Page, Placed, Publish, PublishError, Refusal, ShardId,
    Timestamp, Topic, Want,
};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;

use crate::claim::{self, Lead};
use crate::commit::{Commit, Intake};
use crate::machine::{Replica, Shared, Way};
use crate::upkeep::Upkeep;
use crate::{Clock, Committed, Info, NodeTopics, ShardSettings};

/// What a replica of a shard is made of.
pub struct Shard {
    /// Which shard.
    pub id: ShardId,
    /// This node.
    pub me: NodeId,
    /// How many proposals of all shards of this node may be under way at once; about 8.
    pub permits: Arc<Semaphore>,
    /// The newest settings that this node knows of; `None` as long as it does not know any, or could
    /// know newer ones: it does not own the shard then.
    pub settings: watch::Receiver<Option<Arc<ShardSettings>>>,
    /// Who is told of what was committed.
    pub committed: Arc<dyn Committed>,
    /// The clocks of the nodes, of which a majority makes the log's time.
    pub clock: Arc<dyn Clock>,
    /// The topics of this node, of all its shards.
    pub topics: Arc<NodeTopics>,
}

/// A replica of a shard on this node. Clones share it.
#[derive(Clone)]
pub struct Handle {
    shared: Arc<Shared>,
    group: Group,
    intake: Arc<Intake>,
    claim: watch::Receiver<Option<Claim>>,
}

/// What must run for publishes to be committed and ownership to be claimed. Dropped, it refuses
/// whatever still waits and whatever comes.
#[must_use = "nothing is committed unless it runs"]
pub struct Runner {
    shared: Arc<Shared>,
    group: Group,
    commit: Commit<Group>,
    settings: watch::Receiver<Option<Arc<ShardSettings>>>,
    claim: watch::Sender<Option<Claim>>,
}

/// Why a replica cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("shard {shard} cannot be opened: {why}")]
pub struct OpenError {
    /// Which shard.
    pub shard: ShardId,
    /// Why.
    #[source]
    pub why: StartError,
}

impl Shard {
    /// Starts this node's replica and restores what it knew. A new one stays empty until its group
    /// is initialised here, or another node's replica adds it.
    ///
    /// # Errors
    /// [`OpenError`] when it runs already, or its data cannot be read.
    pub async fn open(self, engine: &Engine) -> Result<(Handle, Runner), OpenError> {
        let Shard { id, me, permits, settings, committed, clock, topics } = self;
        let agreed = engine.agreed_version();
        let shared = Arc::new(Shared::new(id, me, agreed, committed, clock, topics));
        let started = engine.start(GroupId::shard(id), Replica::new(shared.clone())).await;
        let group = started.map_err(|why| OpenError { shard: id, why })?;
        shared.attach(group.clone());

        let intake = Arc::new(Intake::default());
        let (claimed, claim) = watch::channel(None);
        let handle =
            Handle { shared: shared.clone(), group: group.clone(), intake: intake.clone(), claim };
        let commit = Commit { shared: shared.clone(), proposer: group.clone(), intake, permits };
        Ok((handle, Runner { shared, group, commit, settings, claim: claimed }))
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
    pub async fn publish(&self, publish: Publish) -> Result<Placed, PublishError> {
        self.shared.owns()?;
        let durability = self.shared.durability(&publish.topic)?;
        self.shared.has_room(&publish.topic)?;
        if durability == Durability::Memory {
            return self.keep(publish).await;
        }
        self.group.room().map_err(|full| Refusal::Overloaded(full.to_string()))?;
        self.intake.publish(publish).await
    }

    /// Places a message in memory: at once, unless something stands in the queue that came before it.
    async fn keep(&self, mut publish: Publish) -> Result<Placed, PublishError> {
        loop {
            publish = match self.shared.place_in_memory(publish, Way::Past) {
                Ok(outcome) => return outcome,
                // The memory is about to be opened.
                Err(_) if !self.shared.is_ready() => {
                    return Err(Refusal::NotOwner { owner: None }.into());
                }
                Err(publish) => *publish,
            };
            self.group.room().map_err(|full| Refusal::Overloaded(full.to_string()))?;
            let may_pass = |publish: &Publish| self.shared.may_pass(&publish.topic);
            publish = match self.intake.publish_unless(publish, may_pass).await {
                Ok(outcome) => return outcome,
                Err(publish) => publish,
            };
        }
    }

    /// Answers a question about the past of a topic, out of memory. A topic that has never had a
    /// message has an empty page.
    ///
    /// # Errors
    /// [`FetchError::Future`] for a position that was never given out, [`FetchError::Unavailable`]
    /// while this node does not own the shard.
    pub fn page(&self, topic: &Topic, want: Want) -> Result<Page, FetchError> {
        self.shared.page(topic, want)
    }

    /// The time of the newest entry, in milliseconds since the Unix epoch: the age of a message is the
    /// difference to it. `None` while this node does not own the shard.
    pub fn log_time(&self) -> Option<Timestamp> {
        self.shared.log_time()
    }

    /// This node's claim to the shard: `Some` while it leads with a lease and has caught up, with
    /// every change of its group.
    pub fn claim(&self) -> watch::Receiver<Option<Claim>> {
        self.claim.clone()
    }

    /// The Raft group underneath, for whoever changes its members.
    pub fn group(&self) -> &Group {
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
    pub fn topic(&self, topic: &Topic) -> Option<Info> {
        let (state, memory) = (self.shared.read(), self.shared.memory());
        let now = self.shared.reading_time(&state, &memory);
        let remembered = memory.topic(topic, now);
        remembered.or_else(|| state.topic(topic, now))
    }

    /// The topics whose names begin with `prefix`, after `after`, in the order of their names: `count_max`
    /// of them at most, and [`Handle::TOPICS_MAX`]. On a replica that does not lead they may be behind, and
    /// those that live in the owner's memory are not there.
    pub fn topics(&self, prefix: &str, after: Option<&Topic>, count_max: usize) -> Vec<Info> {
        let count_max = count_max.min(Self::TOPICS_MAX);
        let (state, memory) = (self.shared.read(), self.shared.memory());
        let now = self.shared.reading_time(&state, &memory);
        let by_name = |info: Info| (info.topic.clone(), info);
        let kept = state.topics(prefix, after, now).take(count_max).map(by_name);
        let mut found: BTreeMap<Topic, Info> = kept.collect();
        found.extend(memory.topics(prefix, after, now).take(count_max).map(by_name));
        found.into_values().take(count_max).collect()
    }
}

impl Runner {
    /// Commits what is published and keeps the claim true, until `shutdown`. The entry that is under
    /// way then is waited for, at most for the deadline of a proposal; what still waits is refused.
    pub async fn run(self, shutdown: CancellationToken) {
        let Runner { shared, group, commit, settings, claim } = self;
        let upkeep = Upkeep {
            shared: shared.clone(),
            group: group.clone(),
            permits: commit.permits.clone(),
            settings: settings.clone(),
        };
        tokio::join!(
            commit.run(&shutdown),
            upkeep.run(&shutdown),
            keep_claim(&shared, &group, settings, claim, &shutdown),
        );
    }
}

/// Follows the group and the settings, and says what they mean for ownership. It begins when all that
/// the predecessors committed is applied and the shard's settings are as new as those that this node
/// knows of; it ends with the lease.
async fn keep_claim(
    shared: &Shared,
    group: &Group,
    mut settings: watch::Receiver<Option<Arc<ShardSettings>>>,
    claimed: watch::Sender<Option<Claim>>,
    shutdown: &CancellationToken,
) {
    let mut status = group.status();
    let (mut lead, mut spoken) = (Lead::default(), None);
    loop {
        let claim = {
            // A copy: `apply` reads the status under the locks that `may_begin` takes.
            let status = status.borrow_and_update().clone();
            let known = settings.borrow_and_update().clone();
            // An owner goes on when settings change: each change is one entry of its own.
            let ready = lead
                .observe(&status)
                .filter(|&term| spoken == Some(term) || shared.may_begin(term, known.as_ref()));
            shared.set_ready(ready);
            spoken = ready.or(spoken);
            let before = claimed.borrow().clone();
            ready.and_then(|term| claim::of(shared.id(), shared.me(), term, &status, before))
        };
        claimed.send_if_modified(|known| {
            let changed = *known != claim;
            *known = claim;
            changed
        });
        tokio::select! {
            () = shutdown.cancelled() => break,
            changed = status.changed() => if changed.is_err() { break },
            Ok(()) = settings.changed() => {}
        }
    }
    shared.set_ready(None);
    claimed.send_replace(None);
}
