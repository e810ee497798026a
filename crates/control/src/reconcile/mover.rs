//! The loop around the plan: looks, does one step, looks again.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use pushonce_consensus::{ChangeError, Group, Status};
use pushonce_core::NodeId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::progress::progress;
use super::trust::Losses;
use super::{Nodes, Progress, Step, Wanted, catching_up, plan};

/// After a step that failed, and at most after one that worked until its effect is seen.
const STEP_PAUSE: Duration = Duration::from_millis(500);
/// A busy group changes its status with every entry. It is looked at this often at most: a fifth of
/// a second is little beside the time a move takes, and 64 groups cost 320 looks a second.
const LOOK_PAUSE: Duration = Duration::from_millis(200);
/// The same while a replica of this group is catching up, which is over in a moment as a rule.
const MOVING_PAUSE: Duration = Duration::from_millis(20);
/// How long a replica may catch up under its permit. One that takes longer, or was never started on
/// its node, must not keep the other groups from moving.
const PERMIT_MAX: Duration = Duration::from_secs(10);
/// How long a change may be half done before somebody else is thought to have left it so.
const SETTLE_AFTER: Duration = Duration::from_secs(1);

/// Keeps a group at its wanted replicas, the preferred owner first, for as long as this node leads
/// it; otherwise waits. Returns when it is cancelled, or when the group or a watch has ended.
///
/// A move holds one of the node-wide `moves`, so that only so many groups copy their state at once.
/// What it does or waits for is said to `said`: `None` while there is nothing to do here.
pub async fn run(
    group: Group,
    me: NodeId,
    wanted: watch::Receiver<Vec<NodeId>>,
    peers: Peers,
    moves: Arc<Semaphore>,
    said: watch::Sender<Option<Progress>>,
    shutdown: CancellationToken,
) {
    let status = group.status();
    let losses = Losses::default();
    let mover = Mover { group, me, status, wanted, peers, losses, moves, permit: None, said };
    shutdown.run_until_cancelled(mover.run()).await;
}

/// What is known of the other nodes.
#[derive(Clone, Debug)]
pub struct Peers {
    /// Those with a link to this node.
    pub reachable: watch::Receiver<BTreeSet<NodeId>>,
    /// Those that are being stopped.
    pub stopping: watch::Receiver<BTreeSet<NodeId>>,
}

struct Mover {
    group: Group,
    me: NodeId,
    status: watch::Receiver<Status>,
    wanted: watch::Receiver<Vec<NodeId>>,
    peers: Peers,
    losses: Losses,
    moves: Arc<Semaphore>,
    permit: Option<Permit>,
    said: watch::Sender<Option<Progress>>,
}

struct Permit {
    _held: OwnedSemaphorePermit,
    /// Since the last step under it.
    since: Instant,
}

/// What a look at the group came to.
struct Look {
    step: Option<Step>,
    /// Whether a replica is catching up.
    moving: bool,
    /// When to look again though nothing has changed: somebody is trusted again then. As of the moment
    /// of the look, or a trust that comes back before the wait begins would not be heard of.
    again: Option<Instant>,
}

/// A watch has ended, so there is nothing left to keep.
struct Ended;

impl Mover {
    async fn run(mut self) {
        while let Ok(()) = self.turn().await {}
    }

    async fn turn(&mut self) -> Result<(), Ended> {
        let Look { step, moving, again } = self.look();
        match step {
            Some(step) if self.permit.is_some() => self.perform(&step).await,
            Some(_) => {
                // While this waits everything may change, so the step is planned again under it.
                let permit = Arc::clone(&self.moves).acquire_owned().await;
                let permit = permit.map_err(|_| Ended)?;
                self.permit = Some(Permit { _held: permit, since: Instant::now() });
                Ok(())
            }
            None => self.wait(moving, again).await,
        }
    }

    /// Until something changes; under the permit only while a replica catches up, and not for ever.
    async fn wait(&mut self, moving: bool, again: Option<Instant>) -> Result<(), Ended> {
        let until = self.permit.as_ref().map(|permit| permit.since + PERMIT_MAX);
        if let Some(until) = until.filter(|&until| moving && Instant::now() < until) {
            sleep(MOVING_PAUSE).await;
            return timeout_at(until, self.changed()).await.unwrap_or(Ok(()));
        }
        self.permit = None;
        sleep(LOOK_PAUSE).await;
        match again {
            Some(until) => timeout_at(until, self.changed()).await.unwrap_or(Ok(())),
            None => self.changed().await,
        }
    }

    fn look(&mut self) -> Look {
        let status = self.status.borrow_and_update();
        let wanted = Wanted::from(self.wanted.borrow_and_update().as_slice());
        let now = Instant::now();
        self.losses.see(status.leader, now);
        let nodes = Nodes {
            reachable: self.peers.reachable.borrow_and_update().clone(),
            doubted: self.losses.doubted(now),
            stopping: self.peers.stopping.borrow_and_update().clone(),
        };
        let news = progress(&status, self.me, &wanted, &nodes);
        self.said.send_if_modified(|said| {
            let changed = *said != news;
            *said = news;
            changed
        });
        let moving = status.leads && catching_up(&status, &wanted, &nodes).is_some();
        let step = plan(&status, self.me, &wanted, &nodes);
        Look { step, moving, again: self.losses.next_trust(now) }
    }

    async fn perform(&mut self, step: &Step) -> Result<(), Ended> {
        let group = self.group.id();
        if let Err(error) = perform(&self.group, step).await {
            // Whatever is in its way, the other groups should not wait behind it.
            self.permit = None;
            warn!(%group, %step, %error, "not moved, trying again");
            sleep(STEP_PAUSE).await;
            return Ok(());
        }
        info!(%group, "moved: {step}");
        if let Some(permit) = &mut self.permit {
            permit.since = Instant::now();
        }
        // Without this the same step would be planned again from a status that does not show it yet.
        let _ = timeout(STEP_PAUSE, self.status.changed()).await;
        Ok(())
    }

    async fn changed(&mut self) -> Result<(), Ended> {
        let changed = tokio::select! {
            changed = self.status.changed() => changed,
            changed = self.wanted.changed() => changed,
            changed = self.peers.reachable.changed() => changed,
            changed = self.peers.stopping.changed() => changed,
        };
        changed.map_err(|_| Ended)
    }
}

/// Does one step and waits for its outcome.
pub(crate) async fn perform(group: &Group, step: &Step) -> Result<(), ChangeError> {
    match step {
        Step::AddLearner(node) => group.add_learner(*node).await,
        Step::RemoveLearner(node) => group.remove_learner(*node).await,
        Step::Transfer(node) => group.transfer(*node).await,
        Step::Promote { voters, .. } | Step::Retire { voters, .. } => {
            group.change_voters(voters.clone()).await
        }
        Step::Settle { voters } => settle(group, voters).await,
    }
}

/// The status may still show our own change that has just ended, or somebody is at it: only what
/// stays half done is taken up.
async fn settle(group: &Group, voters: &BTreeSet<NodeId>) -> Result<(), ChangeError> {
    let mut status = group.status();
    if timeout(SETTLE_AFTER, status.wait_for(|status| !status.joint)).await.is_ok() {
        return Ok(());
    }
    group.change_voters(voters.clone()).await
}
