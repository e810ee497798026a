//! The loop of the control leader: looks, does the one thing that is due, looks again.

use std::collections::BTreeSet;
use std::time::Duration;

use pushonce_consensus::Status;
use pushonce_core::NodeId;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::duty::{self, Duty, Proposal};
use crate::machine::View;
use crate::reconcile;
use crate::{Command, Control};

/// Between a difference of the table and its proposal. Nodes that join within it move the shards
/// once, not once each; ten times as much would be felt by who waits for a new node to take load.
const PLACE_PAUSE: Duration = Duration::from_secs(1);
/// After a duty that failed, and at most after one that worked until its effect is seen.
const DUTY_PAUSE: Duration = Duration::from_millis(500);
/// The status changes with every entry: not more often than this.
const LOOK_PAUSE: Duration = Duration::from_millis(50);

/// Does what the control group's leader has to do, for as long as this node is it: lets members
/// follow and vote, makes them active when they are level, and commits the table the ring proposes.
pub struct Runner {
    control: Control,
}

impl Runner {
    pub(crate) fn new(control: Control) -> Runner {
        Runner { control }
    }

    /// Runs until it is cancelled, or the group or a watch has ended. `reachable` are the nodes this
    /// one has a link to.
    pub async fn run(
        self,
        reachable: watch::Receiver<BTreeSet<NodeId>>,
        shutdown: CancellationToken,
    ) {
        let watcher = Watcher {
            status: self.control.status(),
            view: self.control.view(),
            control: self.control,
            reachable,
            proposal: Proposal::default(),
            pace: Pace::default(),
        };
        shutdown.run_until_cancelled(watcher.run()).await;
    }
}

struct Watcher {
    control: Control,
    status: watch::Receiver<Status>,
    view: watch::Receiver<View>,
    reachable: watch::Receiver<BTreeSet<NodeId>>,
    proposal: Proposal,
    pace: Pace,
}

/// A watch has ended, so there is nothing left to lead.
struct Ended;

impl Watcher {
    async fn run(mut self) {
        while let Ok(()) = self.turn().await {}
    }

    async fn turn(&mut self) -> Result<(), Ended> {
        let Some(duty) = self.look() else {
            self.pace = Pace::default();
            return self.changed().await;
        };
        if matches!(duty, Duty::Place { .. }) {
            let due = self.pace.due(Instant::now());
            if Instant::now() < due {
                return timeout_at(due, self.changed()).await.unwrap_or(Ok(()));
            }
            self.pace = Pace::default();
        }
        self.perform(duty).await;
        Ok(())
    }

    fn look(&mut self) -> Option<Duty> {
        let status = self.status.borrow_and_update();
        let reachable = self.reachable.borrow_and_update();
        let view = self.view.borrow_and_update();
        duty::next(self.control.me, view.as_ref()?, &status, &reachable, &mut self.proposal)
    }

    async fn perform(&mut self, duty: Duty) {
        let said = match &duty {
            Duty::Activate(node) => format!("{node} is level and becomes active"),
            Duty::Change(step) => format!("in the control group {step}"),
            Duty::Place { version, .. } => format!("the table of shards becomes version {version}"),
        };
        if let Err(why) = self.act(duty).await {
            warn!(%why, "not done, trying again: {said}");
            sleep(DUTY_PAUSE).await;
            return;
        }
        info!("{said}");
        let _ = timeout(DUTY_PAUSE, self.changed()).await;
    }

    async fn act(&self, duty: Duty) -> Result<(), String> {
        let command = match duty {
            Duty::Activate(node) => Command::Activate(node),
            Duty::Place { version, replicas } => Command::Place { version, replicas },
            Duty::Change(step) => {
                let changed = reconcile::perform(&self.control.group, &step).await;
                return changed.map_err(|error| error.to_string());
            }
        };
        self.control.command_here(command).await.map_err(|error| error.to_string())
    }

    async fn changed(&mut self) -> Result<(), Ended> {
        sleep(LOOK_PAUSE).await;
        let changed = tokio::select! {
            changed = self.status.changed() => changed,
            changed = self.view.changed() => changed,
            changed = self.reachable.changed() => changed,
        };
        changed.map_err(|_| Ended)
    }
}

/// When the table that differs may be proposed.
#[derive(Default)]
struct Pace(Option<Instant>);

impl Pace {
    /// Asked while the table differs; the first time begins the pause.
    fn due(&mut self, now: Instant) -> Instant {
        *self.0.get_or_insert(now + PLACE_PAUSE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_waits_once_for_those_who_join_together() {
        let start = Instant::now();
        let mut pace = Pace::default();
        assert_eq!(pace.due(start), start + PLACE_PAUSE);
        assert_eq!(pace.due(start + PLACE_PAUSE / 2), start + PLACE_PAUSE);
    }
}
