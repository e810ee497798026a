//! A shard of this node: opened, spoken to, run.

use std::collections::BTreeMap;
use std::sync::Arc;

use pushonce_consensus::{Engine, Group, GroupId, StartError};
use pushonce_core::{
    Claim, Durability, FetchError, History, Namespaces, NodeId, Page, Placed, Publish,
    PublishError, Refusal, ShardId, Timestamp, Topic, Want,
};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;

use crate::claim::{self, Lead};
use crate::commit::{Commit, Intake};
use crate::machine::{Replica, Shared, Way};
use crate::upkeep::Upkeep;
use crate::{Clock, Committed, Info, NodeTopics};

/// What a replica of a shard is made of.
pub struct Shard {
    /// Which shard.
    pub id: ShardId,
    /// This node.
    pub me: NodeId,
    /// How many proposals of all shards of this node may be under way at once; about 8.
    pub permits: Arc<Semaphore>,
    /// The settings of the namespaces, as they are now.
    pub namespaces: watch::Receiver<Namespaces>,
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
    namespaces: watch::Receiver<Namespaces>,
    claim: watch::Receiver<Option<Claim>>,
}

/// What must run for publishes to be committed and ownership to be claimed. Dropped, it refuses
/// whatever still waits and whatever comes.
#[must_use = "nothing is committed unless it runs"]
pub struct Runner {
    shared: Arc<Shared>,
    group: Group,
    commit: Commit<Group>,
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
        let Shard { id, me, permits, namespaces, committed, clock, topics } = self;
        let agreed = engine.agreed_version();
        let shared = Arc::new(Shared::new(id, me, agreed, committed, clock, topics));
        let started = engine.start(GroupId::shard(id), Replica::new(shared.clone())).await;
        let group = started.map_err(|why| OpenError { shard: id, why })?;
        shared.attach(group.clone());

        let intake = Arc::new(Intake::default());
        let (claimed, claim) = watch::channel(None);
        let handle = Handle {
            shared: shared.clone(),
            group: group.clone(),
            intake: intake.clone(),
            namespaces: namespaces.clone(),
            claim,
        };
        let commit =
            Commit { shared: shared.clone(), proposer: group.clone(), intake, permits, namespaces };
        Ok((handle, Runner { shared, group, commit, claim: claimed }))
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
        let (history, durability) = {
            let namespaces = self.namespaces.borrow();
            let settings = namespaces.of(&publish.topic);
            self.shared.has_room(&publish.topic, settings)?;
            (settings.history, settings.durability)
        };
        if durability == Durability::Memory {
            return self.keep(publish, history).await;
        }
        self.group.room().map_err(|full| Refusal::Overloaded(full.to_string()))?;
        self.intake.publish(publish).await
    }

    /// Places a message in memory: at once, unless something stands in the queue that came before it.
    async fn keep(&self, mut publish: Publish, history: History) -> Result<Placed, PublishError> {
        loop {
            publish = match self.shared.place_in_memory(publish, history, Way::Past) {
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
        let state = self.shared.read();
        let remembered = self.shared.memory().topic(topic);
        remembered.or_else(|| state.topic(topic))
    }

    /// The topics whose names begin with `prefix`, after `after`, in the order of their names: `count_max`
    /// of them at most, and [`Handle::TOPICS_MAX`]. On a replica that does not lead they may be behind, and
    /// those that live in the owner's memory are not there.
    pub fn topics(&self, prefix: &str, after: Option<&Topic>, count_max: usize) -> Vec<Info> {
        let count_max = count_max.min(Self::TOPICS_MAX);
        let state = self.shared.read();
        let memory = self.shared.memory();
        let by_name = |info: Info| (info.topic.clone(), info);
        let kept = state.topics(prefix, after).take(count_max).map(by_name);
        let mut found: BTreeMap<Topic, Info> = kept.collect();
        found.extend(memory.topics(prefix, after).take(count_max).map(by_name));
        found.into_values().take(count_max).collect()
    }
}

impl Runner {
    /// Commits what is published and keeps the claim true, until `shutdown`. The entry that is under
    /// way then is waited for, at most for the deadline of a proposal; what still waits is refused.
    pub async fn run(self, shutdown: CancellationToken) {
        let Runner { shared, group, commit, claim } = self;
        let upkeep = Upkeep {
            shared: shared.clone(),
            group: group.clone(),
            permits: commit.permits.clone(),
            namespaces: commit.namespaces.clone(),
        };
        let namespaces = commit.namespaces.clone();
        tokio::join!(
            commit.run(&shutdown),
            upkeep.run(&shutdown),
            keep_claim(&shared, &group, &namespaces, claim, &shutdown),
        );
    }
}

/// Follows the group and says what it means for ownership.
async fn keep_claim(
    shared: &Shared,
    group: &Group,
    namespaces: &watch::Receiver<Namespaces>,
    claimed: watch::Sender<Option<Claim>>,
    shutdown: &CancellationToken,
) {
    let mut status = group.status();
    let (mut lead, mut spoken) = (Lead::default(), None);
    loop {
        let claim = {
            let status = status.borrow_and_update();
            let ready = lead.observe(&status).filter(|&term| {
                // Who has spoken goes on: what namespaces become, its memory follows.
                spoken == Some(term)
                    || shared.memory().is_open(term)
                    || namespaces.borrow().in_memory().is_empty()
            });
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
        }
    }
    shared.set_ready(None);
    claimed.send_replace(None);
}
