//! The task that reconciles one group: observes it, performs one step, and repeats.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use pushonce_consensus::{GroupStatus, MembershipError, RaftGroup};
use pushonce_core::NodeId;
use pushonce_telemetry::LogLimiter;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::leadership_backoff::LeadershipBackoff;
use super::progress::current_progress;
use super::{
    DesiredReplicas, NodeAvailability, ReconcileProgress, ReconcileStep, catching_up, plan,
};

/// Pause after a failed step, and maximum wait for the effect of a successful one.
const STEP_RETRY_DELAY: Duration = Duration::from_millis(500);
/// Minimum interval between two observations. A busy group changes its status with every entry. A fifth of
/// a second is little compared with the duration of a move, and 64 groups cost 320 observations a second.
const POLL_INTERVAL_MIN: Duration = Duration::from_millis(200);
/// The interval while a replica of this group is catching up, which usually takes a moment.
const CATCH_UP_POLL_INTERVAL: Duration = Duration::from_millis(20);
/// How long a replica may catch up while the group holds its permit. A replica that takes longer, or was
/// never started on its node, must not block the moves of other groups.
const PERMIT_HOLD_MAX: Duration = Duration::from_secs(10);
/// How long a joint change may last before it counts as abandoned by an earlier leader.
const JOINT_CHANGE_TIMEOUT: Duration = Duration::from_secs(1);

/// Keeps a group at its desired replicas, the preferred owner first, while this node leads it; otherwise
/// waits. Returns on `shutdown`, or when the group or a watch has ended.
///
/// A move holds one of the node-wide `move_permits`, which limit how many groups copy their state at once.
/// `progress` receives the current step or the reason for waiting, and `None` while there is nothing to do
/// here.
pub async fn run(
    group: RaftGroup,
    me: NodeId,
    desired: watch::Receiver<Vec<NodeId>>,
    peers: PeerWatches,
    move_permits: Arc<Semaphore>,
    progress: watch::Sender<Option<ReconcileProgress>>,
    shutdown: CancellationToken,
) {
    let status = group.status();
    let backoff = LeadershipBackoff::default();
    let reconciler = GroupReconciler {
        group,
        me,
        status,
        desired,
        peers,
        backoff,
        move_permits,
        permit: None,
        progress,
        failure_limiter: LogLimiter::new(),
    };
    shutdown.run_until_cancelled(reconciler.run()).await;
}

/// The state of the other nodes.
#[derive(Clone, Debug)]
pub struct PeerWatches {
    /// The nodes with a link to this node.
    pub reachable: watch::Receiver<BTreeSet<NodeId>>,
    /// The nodes that are stopping.
    pub stopping: watch::Receiver<BTreeSet<NodeId>>,
}

struct GroupReconciler {
    group: RaftGroup,
    me: NodeId,
    status: watch::Receiver<GroupStatus>,
    desired: watch::Receiver<Vec<NodeId>>,
    peers: PeerWatches,
    backoff: LeadershipBackoff,
    move_permits: Arc<Semaphore>,
    permit: Option<MovePermit>,
    progress: watch::Sender<Option<ReconcileProgress>>,
    failure_limiter: LogLimiter,
}

struct MovePermit {
    _held: OwnedSemaphorePermit,
    /// The time of the last step under the permit.
    since: Instant,
}

/// The result of observing the group.
struct Observation {
    step: Option<ReconcileStep>,
    /// Whether a replica is catching up.
    is_catching_up: bool,
    /// When to observe again without a change, because a backoff ends then. Computed at the time of the
    /// observation: a backoff that ends before the wait begins would otherwise be missed.
    wake_at: Option<Instant>,
}

/// A watch was closed, so the reconciler ends.
struct GroupWatchClosed;

impl GroupReconciler {
    async fn run(mut self) {
        while let Ok(()) = self.run_once().await {}
    }

    async fn run_once(&mut self) -> Result<(), GroupWatchClosed> {
        let Observation { step, is_catching_up, wake_at } = self.observe();
        match step {
            Some(step) if self.permit.is_some() => self.perform_step(&step).await,
            Some(_) => {
                // The group may change during this wait, so the step is planned again with the permit held.
                let permit = Arc::clone(&self.move_permits).acquire_owned().await;
                let permit = permit.map_err(|_| GroupWatchClosed)?;
                self.permit = Some(MovePermit { _held: permit, since: Instant::now() });
                Ok(())
            }
            None => self.wait(is_catching_up, wake_at).await,
        }
    }

    /// Waits for a change. Keeps the permit only while a replica catches up, up to [`PERMIT_HOLD_MAX`].
    async fn wait(
        &mut self,
        is_catching_up: bool,
        wake_at: Option<Instant>,
    ) -> Result<(), GroupWatchClosed> {
        let deadline = self.permit.as_ref().map(|permit| permit.since + PERMIT_HOLD_MAX);
        if let Some(deadline) = deadline.filter(|&until| is_catching_up && Instant::now() < until) {
            sleep(CATCH_UP_POLL_INTERVAL).await;
            return timeout_at(deadline, self.wait_for_change()).await.unwrap_or(Ok(()));
        }
        self.permit = None;
        sleep(POLL_INTERVAL_MIN).await;
        match wake_at {
            Some(deadline) => timeout_at(deadline, self.wait_for_change()).await.unwrap_or(Ok(())),
            None => self.wait_for_change().await,
        }
    }

    fn observe(&mut self) -> Observation {
        let status = self.status.borrow_and_update();
        let desired = DesiredReplicas::from(self.desired.borrow_and_update().as_slice());
        let now = Instant::now();
        self.backoff.observe_leader(status.leader, now);
        let nodes = NodeAvailability {
            reachable: self.peers.reachable.borrow_and_update().clone(),
            in_backoff: self.backoff.nodes_in_backoff(now),
            stopping: self.peers.stopping.borrow_and_update().clone(),
        };
        let progress = current_progress(&status, self.me, &desired, &nodes);
        self.progress.send_if_modified(|current| {
            let changed = *current != progress;
            *current = progress;
            changed
        });
        let is_catching_up = status.is_leader && catching_up(&status, &desired, &nodes).is_some();
        let step = plan(&status, self.me, &desired, &nodes);
        Observation { step, is_catching_up, wake_at: self.backoff.next_expiry(now) }
    }

    async fn perform_step(&mut self, step: &ReconcileStep) -> Result<(), GroupWatchClosed> {
        let group = self.group.id();
        if let Err(error) = apply_step(&self.group, step).await {
            // The cause may last; other groups must not wait for this permit.
            self.permit = None;
            if let Some(suppressed) = self.failure_limiter.allow(Instant::now().into_std()) {
                warn!(%group, %step, %error, suppressed, "cannot change the replicas of a group, retrying");
            }
            sleep(STEP_RETRY_DELAY).await;
            return Ok(());
        }
        info!(%group, %step, "changed the replicas of a group");
        if let Some(permit) = &mut self.permit {
            permit.since = Instant::now();
        }
        // Otherwise a status that does not show the step yet would cause the same step again.
        let _ = timeout(STEP_RETRY_DELAY, self.status.changed()).await;
        Ok(())
    }

    async fn wait_for_change(&mut self) -> Result<(), GroupWatchClosed> {
        let changed = tokio::select! {
            changed = self.status.changed() => changed,
            changed = self.desired.changed() => changed,
            changed = self.peers.reachable.changed() => changed,
            changed = self.peers.stopping.changed() => changed,
        };
        changed.map_err(|_| GroupWatchClosed)
    }
}

/// Performs one step and waits for its outcome.
pub(crate) async fn apply_step(
    group: &RaftGroup,
    step: &ReconcileStep,
) -> Result<(), MembershipError> {
    match step {
        ReconcileStep::AddLearner(node) => group.add_learner(*node).await,
        ReconcileStep::RemoveLearner(node) => group.remove_learner(*node).await,
        ReconcileStep::TransferLeadership(node) => group.transfer_leadership(*node).await,
        ReconcileStep::Promote { voters, .. } | ReconcileStep::RemoveVoter { voters, .. } => {
            group.change_voters(voters.clone()).await
        }
        ReconcileStep::FinishJointChange { voters } => finish_joint_change(group, voters).await,
    }
}

/// Finishes a joint change that stays incomplete for [`JOINT_CHANGE_TIMEOUT`]. Before that, the status may
/// be outdated, or another task may be making the change.
async fn finish_joint_change(
    group: &RaftGroup,
    voters: &BTreeSet<NodeId>,
) -> Result<(), MembershipError> {
    let mut status = group.status();
    if timeout(JOINT_CHANGE_TIMEOUT, status.wait_for(|status| !status.is_joint)).await.is_ok() {
        return Ok(());
    }
    group.change_voters(voters.clone()).await
}
