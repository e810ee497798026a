//! The handle: ask the cluster to change, and see it change.

use std::sync::Arc;
use std::time::Duration;

use pushonce_consensus::{
    Engine, Group, GroupId, InitializeError, ProposeError, StartError, Status,
};
use pushonce_core::{
    AgreedVersion, ClusterVersion, ClusterView, ConsensusTimes, Namespace, NamespaceChange, NodeId,
};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::machine::{Replica, View};
use crate::state::FOUNDER;
use crate::{Answer, Command, Founding, Joined, Joining, Refusal, Runner};

/// This node's part of the control group. Clones share it.
#[derive(Clone)]
pub struct Control {
    pub(crate) me: NodeId,
    pub(crate) group: Group,
    /// In which version entries are written.
    pub(crate) agreed: AgreedVersion,
    pub(crate) view: watch::Receiver<View>,
}

/// Why the cluster did not do as asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    /// The cluster said no, and will again.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Nothing happened: the control group has no leader that this node can reach.
    #[error("the control group cannot be asked ({0}): retry after a pause")]
    Unavailable(String),
    /// It may have happened. Asking again is safe.
    #[error("the outcome is unknown ({0}): ask again")]
    Unknown(String),
}

/// Why a cluster was not founded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FoundError {
    /// Every cluster begins with n1.
    #[error("{0} cannot found a cluster: the founder is {FOUNDER}")]
    NotTheFirst(NodeId),
    /// The group could not begin.
    #[error(transparent)]
    Initialize(#[from] InitializeError),
    /// The group began, and did not take the founding.
    #[error(transparent)]
    Ask(#[from] AskError),
}

/// How long a command without an answer is tried again: longer than an election takes (2 s), so
/// that a join in the moment of a failover succeeds; short enough for somebody who waits for it.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two tries. An election takes ten of them.
const PAUSE: Duration = Duration::from_millis(150);

impl Control {
    /// Starts the control group's replica on this node, as it was left, or empty on a new one: then
    /// it waits to be founded here, or to be reached by the leader of the cluster it joined.
    ///
    /// Nothing moves before the [`Runner`] runs.
    pub async fn open(engine: &Engine, me: NodeId) -> Result<(Control, Runner), StartError> {
        let (replica, view) = Replica::new();
        let group = engine.start(GroupId::CONTROL, replica).await?;
        let agreed = engine.agreed_version();
        let control = Control { me, group, agreed, view };
        Ok((control.clone(), Runner::new(control)))
    }

    /// Makes the cluster: this node is `n1`, the only voter, active, and holds every shard. Saying it
    /// again changes nothing. When it returns, the first view is there.
    ///
    /// The founder then starts and initialises every shard's group, notes on its disk that it has
    /// founded, and only after that runs its [`Runner`]: nobody else commits a second table, so until
    /// then no shard can have moved, and none is ever initialised twice.
    pub async fn found(&self, founding: Founding) -> Result<(), FoundError> {
        if self.me != FOUNDER {
            return Err(FoundError::NotTheFirst(self.me));
        }
        self.group.initialize().await?;
        self.ask(Command::Found(founding)).await?;
        self.first_view().await?;
        Ok(())
    }

    /// The newest view applied here; `None` until the first one is. Changes only with its version.
    ///
    /// A view without this node means that it was removed.
    pub fn view(&self) -> watch::Receiver<Option<Arc<ClusterView>>> {
        self.view.clone()
    }

    /// The Raft group underneath, for whoever hands its lead over.
    pub fn group(&self) -> &Group {
        &self.group
    }

    /// The group as this node sees it.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.group.status()
    }

    /// Lets a node in. Any node takes this and brings it to the leader. The same incarnation gets
    /// the same id, and what it says of itself now replaces what it said before.
    ///
    /// Tries for five seconds while no leader answers, and longer only by the engine's own deadline of
    /// a proposal.
    pub async fn join(&self, joining: Joining) -> Result<Joined, AskError> {
        joining.profile.check().map_err(Refusal::Profile)?;
        match self.ask(Command::Join(joining)).await? {
            Answer::Joined(joined) => Ok(joined),
            _ => Err(AskError::Unknown("the leader answered something else".to_owned())),
        }
    }

    /// Tells the cluster that this process runs, and what it says of itself now. Waits for the first
    /// view, for as long as that takes. Returns the index of the control group's log at which the
    /// cluster took it: see [`Control::applied`].
    ///
    /// A node whose *peer* address changed may not be reachable for the leader, and so may not know
    /// it: such a node joins again, through another node.
    pub async fn announce(&self, joining: Joining) -> Result<u64, AskError> {
        let view = self.first_view().await?;
        let (cluster, node) = (Some(view.cluster), Some(self.me));
        let joined = self.join(Joining { cluster, node, ..joining }).await?;
        Ok(joined.index)
    }

    /// Waits until this node has applied the control group's log up to `index`. The view has then
    /// everything that was committed before that entry. `None` when the replica of this node fails or halts first.
    pub async fn applied(&self, index: u64) -> Option<Arc<ClusterView>> {
        let mut status = self.status();
        let over =
            |now: &Status| now.applied >= index || now.failed.is_some() || now.halted.is_some();
        let reached = status.wait_for(over).await.ok()?.applied >= index;
        self.view.borrow().clone().filter(|_| reached)
    }

    /// Lets a member give its share away: shards, leaderships, and its vote in this group. It stays a
    /// member, and serves its clients. Refused without `force` when fewer of the others may hold shards than
    /// each shard should have copies. Saying it again changes nothing.
    pub async fn drain(&self, node: NodeId, force: bool) -> Result<(), AskError> {
        self.ask(Command::Drain { node, force }).await.map(drop)
    }

    /// Lets a member that gives its share away take it back. Saying it again changes nothing.
    pub async fn undrain(&self, node: NodeId) -> Result<(), AskError> {
        self.ask(Command::Undrain(node)).await.map(drop)
    }

    /// Declares a node lost for good: its id and directory never come back, its shards move to the
    /// others. Saying it again changes nothing.
    pub async fn remove(&self, node: NodeId) -> Result<(), AskError> {
        self.ask(Command::Remove(node)).await.map(drop)
    }

    /// Raises the version of the cluster by one, if the build of every member supports the next one; a
    /// cluster whose members all know no newer one keeps its version. Says which version the cluster has
    /// then. There is no way back: a node whose build does not support the version is refused from then
    /// on.
    ///
    /// Any node takes this and brings it to the leader, as [`Control::join`].
    pub async fn finalize(&self) -> Result<ClusterVersion, AskError> {
        let to = self.first_view().await?.next_version();
        match self.ask(Command::Finalize { to }).await? {
            Answer::Version(version) => Ok(version),
            _ => Err(AskError::Unknown("the leader answered something else".to_owned())),
        }
    }

    /// Changes the settings of a namespace, or of every name that has none (`None`); without a change,
    /// back to the default. Says what it has now; every shard acts on it as soon as its owner sees the
    /// view. A replicated namespace goes into memory only with `drops_stored`.
    ///
    /// Any node takes this and brings it to the leader, as [`Control::join`].
    pub async fn set_namespace(
        &self,
        name: Option<String>,
        change: Option<NamespaceChange>,
        drops_stored: bool,
    ) -> Result<Namespace, AskError> {
        match self.ask(Command::SetNamespace { name, change, drops_stored }).await? {
            Answer::Namespace(settings) => Ok(settings),
            _ => Err(AskError::Unknown("the leader answered something else".to_owned())),
        }
    }

    /// Changes the times of consensus of all nodes. Returns when that is decided: the change ends when
    /// every member has acknowledged its first step. Saying it again changes nothing; the times in
    /// force take a change that is under way back.
    pub async fn set_times(&self, times: ConsensusTimes) -> Result<(), AskError> {
        self.ask(Command::SetTimes(times)).await.map(drop)
    }

    /// Tells the cluster that this node has the times of a version on disk and in force.
    pub async fn holds_times(&self, version: u64) -> Result<(), AskError> {
        self.ask(Command::HoldsTimes { node: self.me, version }).await.map(drop)
    }

    /// Proposes here or not at all: what a leader decided is void when it leads no more.
    pub(crate) async fn command_here(&self, command: Command) -> Result<(), AskError> {
        match self.group.propose(command.encode(self.agreed.get())).await {
            Ok(answer) => read(&answer).map(drop),
            Err(ProposeError::Unknown(why)) => Err(AskError::Unknown(why)),
            Err(refused) => Err(AskError::Unavailable(refused.to_string())),
        }
    }

    async fn first_view(&self) -> Result<Arc<ClusterView>, AskError> {
        let mut view = self.view.clone();
        let seen = view.wait_for(Option::is_some).await.map(|seen| seen.clone());
        seen.ok().flatten().ok_or_else(|| AskError::Unavailable("this node stops".to_owned()))
    }

    /// Commands may be said twice, so one that has no answer is simply said again. If it may have
    /// happened once, then that is what is said in the end.
    async fn ask(&self, command: Command) -> Result<Answer, AskError> {
        let entry = command.encode(self.agreed.get());
        let until = Instant::now() + PATIENCE;
        let mut unknown = None;
        loop {
            let why = match self.group.propose_at_leader(entry.clone()).await {
                Ok(answer) => return read(&answer),
                Err(ProposeError::Unknown(why)) => unknown.insert(why).clone(),
                Err(refused) => refused.to_string(),
            };
            if Instant::now() >= until {
                return Err(unknown.map_or(AskError::Unavailable(why), AskError::Unknown));
            }
            sleep(PAUSE).await;
        }
    }
}

impl AskError {
    /// Whether the same may succeed later.
    pub fn retryable(&self) -> bool {
        match self {
            AskError::Refused(refusal) => *refusal == Refusal::NotFounded,
            AskError::Unavailable(_) | AskError::Unknown(_) => true,
        }
    }
}

fn read(answer: &[u8]) -> Result<Answer, AskError> {
    match Answer::decode(answer) {
        Ok(Answer::Refused(refusal)) => Err(AskError::Refused(refusal)),
        Ok(answer) => Ok(answer),
        // It was applied, whatever it came to.
        Err(why) => Err(AskError::Unknown(format!("the leader's answer cannot be read: {why}"))),
    }
}
