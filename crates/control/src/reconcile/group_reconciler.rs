//! The loop around the plan: looks, does one step, looks again.

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

/// After a step that failed, and at most after one that worked until its effect is seen.
const STEP_RETRY_DELAY: Duration = Duration::from_millis(500);
/// A busy group changes its status with every entry. It is looked at this often at most: a fifth of
/// a second is little beside the time a move takes, and 64 groups cost 320 looks a second.
const POLL_INTERVAL_MIN: Duration = Duration::from_millis(200);
/// The same while a replica of this group is catching up, which is over in a moment as a rule.
const CATCH_UP_POLL_INTERVAL: Duration = Duration::from_millis(20);
/// How long a replica may catch up under its permit. One that takes longer, or was never started on
/// its node, must not keep the other groups from moving.
const PERMIT_HOLD_MAX: Duration = Duration::from_secs(10);
/// How long a change may be half done before somebody else is thought to have left it so.
const JOINT_CHANGE_TIMEOUT: Duration = Duration::from_secs(1);

/// Keeps a group at its wanted replicas, the preferred owner first, for as long as this node leads
/// it; otherwise waits. Returns when it is cancelled, or when the group or a watch has ended.
///
/// A move holds one of the node-wide `move_permits`, so that only so many groups copy their state at once.
/// What it does or waits for is said to `said`: `NoFault` while there is nothing to do here.
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

/// What is known of the other nodes.
#[derive(Clone, Debug)]
pub struct PeerWatches {
    /// Those with a link to this node.
    pub reachable: watch::Receiver<BTreeSet<NodeId>>,
    /// Those that are being stopped.
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
    /// Since the last step under it.
    since: Instant,
}

/// What a look at the group came to.
struct Observation {
    step: Option<ReconcileStep>,
    /// Whether a replica is catching up.
    is_catching_up: bool,
    /// When to look again though nothing has changed: somebody is trusted again then. As of the moment
    /// of the look, or a trust that comes back before the wait begins would not be heard of.
    wake_at: Option<Instant>,
}

/// A watch has ended, so there is nothing left to keep.
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
                // While this waits everything may change, so the step is planned again under it.
                let permit = Arc::clone(&self.move_permits).acquire_owned().await;
                let permit = permit.map_err(|_| GroupWatchClosed)?;
                self.permit = Some(MovePermit { _held: permit, since: Instant::now() });
                Ok(())
            }
            None => self.wait(is_catching_up, wake_at).await,
        }
    }

    /// Until something changes; under the permit only while a replica catches up, and not for ever.
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
            // Whatever is in its way, the other groups should not wait behind it.
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
        // Without this the same step would be planned again from a status that does not show it yet.
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

/// Does one step and waits for its outcome.
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

/// The status may still show our own change that has just ended, or somebody is at it: only what
/// stays half done is taken up.
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
