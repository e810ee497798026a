//! Announces this node to the cluster, and detects its removal.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pushonce_control::{CommandError, CommandRejection, ControlHandle};
use pushonce_core::{ClusterView, CoverageMark, NodeId};
use pushonce_telemetry::LogLimiter;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::identity::DataDir;
use super::join::{self, MembershipRevoked};
use super::startup::{self, StartupState};

/// Pause between two attempts to announce the node; each attempt waits some seconds for a leader.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// Pause between two attempts while the cluster rejects the settings of this node: an operator has to act.
const REJECTED_RETRY_INTERVAL: Duration = Duration::from_secs(10);

/// Time without any link after which a node asks whether it is still a member. A removed node gets no
/// notification: its links are closed, and its groups no longer contact it.
const ISOLATION_TIMEOUT: Duration = Duration::from_secs(3);

/// Pause between two attempts to write the peers file.
const SAVE_RETRY_INTERVAL: Duration = Duration::from_secs(10);

/// The heartbeat loop and its inputs.
pub(super) struct MembershipHeartbeat {
    pub(super) startup: StartupState,
    pub(super) data_dir: Arc<DataDir>,
    pub(super) control: ControlHandle,
    pub(super) view: watch::Receiver<Arc<ClusterView>>,
    pub(super) reachable: watch::Receiver<BTreeSet<NodeId>>,
    /// The index of the control group's log entry with which the cluster accepted this process.
    pub(super) announced_index: watch::Sender<Option<u64>>,
}

/// Why the node has to announce itself again, or check its membership.
enum HeartbeatEvent {
    /// The view has another profile of this node than that of this process.
    ProfileChanged,
    /// The node has no link to any other node.
    Isolated,
}

impl MembershipHeartbeat {
    /// Creates the cluster, or announces that this process runs, with its name and addresses; then follows
    /// the view until `stop` is cancelled.
    ///
    /// # Errors
    /// [`MembershipRevoked`] when the control group has committed that this node is no longer a member, or
    /// that its data directory is an old copy. No other response of another node ends this one.
    pub(super) async fn run(mut self, stop: CancellationToken) -> anyhow::Result<()> {
        tokio::select! {
            () = stop.cancelled() => Ok(()),
            result = self.run_until_removed() => result,
        }
    }

    async fn run_until_removed(&mut self) -> anyhow::Result<()> {
        if let Some(bootstrap) = self.startup.identity.bootstrap {
            startup::create_cluster(&self.startup, bootstrap, &self.control).await?;
        }
        self.announce().await?;
        loop {
            match self.wait_for_event().await? {
                HeartbeatEvent::ProfileChanged => {
                    let index = self.announce().await?;
                    // Until the view shows the announcement, the same one would be sent again and again.
                    let _applied = self.control.wait_applied(index).await;
                }
                HeartbeatEvent::Isolated => self.check_still_member().await?,
            }
        }
    }

    /// Announces the node until the cluster accepts it, and returns the index of the log entry. A missing
    /// leader does not end the node.
    async fn announce(&self) -> anyhow::Result<u64> {
        let joining = &self.startup.joining;
        let (retry_limiter, rejection_limiter) = (LogLimiter::new(), LogLimiter::new());
        loop {
            let retry_interval = match self.control.announce(joining.clone()).await {
                Ok(index) => {
                    self.set_announced_index(index);
                    return Ok(index);
                }
                Err(CommandError::Rejected(rejection)) if rejection.is_final() => {
                    CoverageMark::MembershipRevoked.reach();
                    return Err(MembershipRevoked(rejection.to_string()).into());
                }
                Err(error) if error.is_retryable() => {
                    if let Some(suppressed) = retry_limiter.allow(Instant::now()) {
                        tracing::warn!(%error, suppressed,
                            "cannot announce this node to the cluster, retrying");
                    }
                    RETRY_INTERVAL
                }
                // The node stays a member with its old settings.
                Err(error) => {
                    if let Some(suppressed) = rejection_limiter.allow(Instant::now()) {
                        tracing::error!(%error, suppressed,
                            "the cluster rejects the settings of this node");
                    }
                    // A leader has answered; the log that this node had received by then is all that is known.
                    self.set_announced_index(self.control.status().borrow().last_log_index);
                    REJECTED_RETRY_INTERVAL
                }
            };
            if self.view.borrow().was_removed(self.startup.identity.node) {
                return Err(self.removed_error().into());
            }
            self.check_still_member().await?;
            sleep(retry_interval).await;
        }
    }

    async fn check_still_member(&self) -> Result<(), MembershipRevoked> {
        let StartupState { config, identity, joining, credentials, .. } = &self.startup;
        let addresses = [config.settings.join.clone(), self.peer_addresses()].concat();
        join::check_still_member(credentials, &addresses, identity.join_requester(), joining).await
    }

    /// The error of a node whose removal is in its own copy of the committed state.
    fn removed_error(&self) -> MembershipRevoked {
        CoverageMark::MembershipRevoked.reach();
        MembershipRevoked(CommandRejection::Removed(self.startup.identity.node).to_string())
    }

    /// Sets the index, the first time only: from then on the view is current.
    fn set_announced_index(&self, index: u64) {
        self.announced_index.send_if_modified(|known| {
            let is_first = known.is_none();
            *known = known.or(Some(index));
            is_first
        });
    }

    async fn wait_for_event(&mut self) -> anyhow::Result<HeartbeatEvent> {
        let me = self.startup.identity.node;
        loop {
            let view = self.view.borrow_and_update().clone();
            let is_isolated =
                view.members.len() > 1 && self.reachable.borrow_and_update().len() < 2;
            if view.was_removed(me) {
                return Err(self.removed_error().into());
            }
            let are_peers_saved = self.data_dir.save_peers(&self.peer_addresses());
            if view.member(me).is_some_and(|known| !self.startup.joining.profile.describes(known)) {
                return Ok(HeartbeatEvent::ProfileChanged);
            }
            let changed = async {
                tokio::select! {
                    changed = self.view.changed() => changed,
                    changed = self.reachable.changed() => changed,
                    () = sleep(SAVE_RETRY_INTERVAL), if !are_peers_saved => Ok(()),
                }
            };
            if is_isolated {
                match timeout(ISOLATION_TIMEOUT, changed).await {
                    Ok(changed) => changed?,
                    Err(_) => return Ok(HeartbeatEvent::Isolated),
                }
            } else {
                changed.await?;
            }
        }
    }

    /// The addresses of the other members in the view.
    fn peer_addresses(&self) -> Vec<String> {
        let (view, me) = (self.view.borrow(), self.startup.identity.node);
        let others = view.members.values().filter(|member| member.id != me);
        others.map(|member| member.addresses.peer.clone()).collect()
    }
}
