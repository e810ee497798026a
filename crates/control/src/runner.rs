//! The task of the control group's leader: observes the cluster, performs one due task, and repeats.

use std::collections::BTreeSet;
use std::time::Duration;

use pushonce_consensus::GroupStatus;
use pushonce_core::NodeId;
use pushonce_telemetry::LogLimiter;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::leader_task::{self, JoiningTracker, LeaderTask, PlacementCache};
use crate::reconcile;
use crate::replica::SharedClusterView;
use crate::{ControlCommand, ControlHandle};

/// Delay between a change of the computed placement and its proposal. Nodes that join within it move the
/// shards once, not once each; ten times the delay would noticeably postpone the load of a new node.
const PLACEMENT_DELAY: Duration = Duration::from_secs(1);
/// Pause after a failed task, and maximum wait for the effect of a successful one.
const TASK_RETRY_DELAY: Duration = Duration::from_millis(500);
/// Interval at which the joining members are checked while some have no link.
const JOINING_CHECK_INTERVAL: Duration = Duration::from_secs(15);
/// Minimum interval between two observations; the status changes with every entry.
const POLL_INTERVAL_MIN: Duration = Duration::from_millis(50);

/// Performs the tasks of the control group's leader while this node leads it: adds learners and voters,
/// activates members that have caught up, and commits the placement that the ring proposes.
pub struct ControlRunner {
    control: ControlHandle,
}

impl ControlRunner {
    pub(crate) fn new(control: ControlHandle) -> ControlRunner {
        ControlRunner { control }
    }

    /// Runs until `shutdown`, or until the group or a watch has ended. `reachable` are the nodes with a
    /// link to this node.
    pub async fn run(
        self,
        reachable: watch::Receiver<BTreeSet<NodeId>>,
        shutdown: CancellationToken,
    ) {
        let leader_loop = LeaderLoop {
            status: self.control.status(),
            view: self.control.view(),
            control: self.control,
            reachable,
            placement_cache: PlacementCache::default(),
            joining: JoiningTracker::default(),
            placement_delay: PlacementDelay::default(),
            failure_limiter: LogLimiter::new(),
        };
        shutdown.run_until_cancelled(leader_loop.run()).await;
    }
}

struct LeaderLoop {
    control: ControlHandle,
    status: watch::Receiver<GroupStatus>,
    view: watch::Receiver<SharedClusterView>,
    reachable: watch::Receiver<BTreeSet<NodeId>>,
    placement_cache: PlacementCache,
    joining: JoiningTracker,
    placement_delay: PlacementDelay,
    failure_limiter: LogLimiter,
}

/// A watch was closed, so the leader loop ends.
struct ControlWatchClosed;

impl LeaderLoop {
    async fn run(mut self) {
        while let Ok(()) = self.run_once().await {}
    }

    async fn run_once(&mut self) -> Result<(), ControlWatchClosed> {
        let Some(task) = self.next_task() else {
            self.placement_delay = PlacementDelay::default();
            return self.wait_for_change().await;
        };
        if matches!(task, LeaderTask::SetPlacement { .. }) {
            let due_at = self.placement_delay.due_at(Instant::now());
            if Instant::now() < due_at {
                return timeout_at(due_at, self.wait_for_change()).await.unwrap_or(Ok(()));
            }
            self.placement_delay = PlacementDelay::default();
        }
        self.perform_task(task).await;
        Ok(())
    }

    fn next_task(&mut self) -> Option<LeaderTask> {
        let status = self.status.borrow_and_update();
        let reachable = self.reachable.borrow_and_update();
        let view = self.view.borrow_and_update();
        let view = view.as_ref()?;
        // Only a leader counts the time: another one begins anew.
        let expired = match status.is_leader {
            true => self.joining.find_expired(view, &reachable, Instant::now().into_std()),
            false => {
                self.joining = JoiningTracker::default();
                None
            }
        };
        let cache = &mut self.placement_cache;
        leader_task::next_task(self.control.me, view, &status, &reachable, expired, cache)
    }

    async fn perform_task(&mut self, task: LeaderTask) {
        let description = match &task {
            LeaderTask::Activate(node) => format!("activate {node}, which has caught up"),
            LeaderTask::ExpireJoining(node) => {
                format!("drop {node}, which joined and is not reachable")
            }
            LeaderTask::ChangeGroup(step) => format!("change the control group: {step}"),
            LeaderTask::SetPlacement { version, .. } => {
                format!("set version {version} of the placement")
            }
        };
        if let Err(error) = self.execute(task).await {
            if let Some(suppressed) = self.failure_limiter.allow(Instant::now().into_std()) {
                warn!(%error, task = description, suppressed, "control task failed, retrying");
            }
            sleep(TASK_RETRY_DELAY).await;
            return;
        }
        info!(task = description, "control task done");
        let _ = timeout(TASK_RETRY_DELAY, self.wait_for_change()).await;
    }

    async fn execute(&self, task: LeaderTask) -> Result<(), String> {
        let command = match task {
            LeaderTask::Activate(node) => ControlCommand::Activate(node),
            LeaderTask::ExpireJoining(node) => ControlCommand::ExpireJoining(node),
            LeaderTask::SetPlacement { version, replicas } => {
                ControlCommand::SetPlacement { version, replicas }
            }
            LeaderTask::ChangeGroup(change) => {
                let result = reconcile::apply_step(&self.control.group, &change).await;
                return result.map_err(|error| error.to_string());
            }
        };
        self.control.propose_locally(command).await.map_err(|error| error.to_string())
    }

    async fn wait_for_change(&mut self) -> Result<(), ControlWatchClosed> {
        sleep(POLL_INTERVAL_MIN).await;
        let changed = tokio::select! {
            changed = self.status.changed() => changed,
            changed = self.view.changed() => changed,
            changed = self.reachable.changed() => changed,
            () = sleep(JOINING_CHECK_INTERVAL), if self.joining.is_waiting() => Ok(()),
        };
        changed.map_err(|_| ControlWatchClosed)
    }
}

/// The time at which a changed placement may be proposed.
#[derive(Default)]
struct PlacementDelay(Option<Instant>);

impl PlacementDelay {
    /// Called while the placement differs; the first call starts the delay.
    fn due_at(&mut self, now: Instant) -> Instant {
        *self.0.get_or_insert(now + PLACEMENT_DELAY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placement_delay_starts_once_for_concurrent_joins() {
        let start = Instant::now();
        let mut delay = PlacementDelay::default();
        assert_eq!(delay.due_at(start), start + PLACEMENT_DELAY);
        assert_eq!(delay.due_at(start + PLACEMENT_DELAY / 2), start + PLACEMENT_DELAY);
    }
}
