//! Monitors one replica: publishes its status and compacts its log.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use openraft::async_runtime::watch::WatchReceiver;
use openraft::{AsyncRuntime, RaftMetrics};
use pushonce_core::{NodeId, Term};
use pushonce_telemetry::LogLimiter;

use crate::clock::BootTime;
use crate::group::RaftGroupInner;
use crate::runtime::RaftRuntime;
use crate::types::TypeConfig;
use crate::{GroupStatus, RaftGroup};

/// Minimum interval between two status updates: a busy group changes with every entry.
const STATUS_INTERVAL_MIN: Duration = Duration::from_millis(20);

/// Maximum interval between two status updates. openraft reports every tick as a change, so log positions are
/// polled, less and less often while nothing changes; only a change of leader or term is reported at once.
const STATUS_INTERVAL_MAX: Duration = Duration::from_millis(160);

/// Runs a replica until it is stopped.
pub(crate) async fn run(group: RaftGroup) {
    tokio::select! {
        () = monitor(&group) => group.0.stopping.cancelled().await,
        () = group.0.stopping.cancelled() => {}
    }
    if let Err(error) = group.raft().shutdown().await {
        tracing::warn!(group = %group.id(), %error, "replica stopped with an error");
    }
    mark_stopped(&group);
    group.0.groups.remove(&group);
}

/// Monitors a replica and returns when it has failed.
async fn monitor(group: &RaftGroup) {
    let mut server_metrics = group.raft().server_metrics();
    let (mut interval, mut has_ended) = (STATUS_INTERVAL_MIN, false);
    let mut purged_behind = None;
    let snapshot_limiter = LogLimiter::new();
    let elections_enabled = enable_elections(group);
    tokio::pin!(elections_enabled);
    let mut elections_disabled = true;
    loop {
        let mut status = group.read_status();
        if has_ended {
            // A task that fails sets the reason; one that panics does not.
            status.failure.get_or_insert_with(|| "a task of the replica has panicked".to_owned());
        }
        let ended = has_ended || status.failure.is_some();
        let changed = group.0.status.send_if_modified(|known| {
            let changed = *known != status;
            *known = status;
            changed
        });
        if ended {
            return;
        }
        interval =
            if changed { STATUS_INTERVAL_MIN } else { STATUS_INTERVAL_MAX.min(interval * 2) };
        purge_log(group, &mut purged_behind).await;
        group.try_finish_recovery().await;
        if group.0.snapshot_store.take_damaged() {
            if let Some(suppressed) = snapshot_limiter.allow(Instant::now()) {
                tracing::error!(group = %group.id(), suppressed, "snapshot damaged on disk, taking another");
            }
            // An error is handled as below.
            let _ = group.raft().trigger().snapshot().await;
        }

        let lease_end = group.lease().map(|lease| lease.expires_at);
        let change = async {
            RaftRuntime::sleep(STATUS_INTERVAL_MIN).await;
            tokio::select! {
                result = server_metrics.changed() => result.is_err(),
                () = RaftRuntime::sleep(interval - STATUS_INTERVAL_MIN) => false,
                () = sleep_until(lease_end) => false,
            }
        };
        tokio::select! {
            // One more iteration reads the reason.
            is_over = change => has_ended = is_over,
            () = &mut elections_enabled, if elections_disabled => elections_disabled = false,
            () = group.0.status_dirty.notified() => {}
            () = group.0.log.wait_compaction_due() => {
                // An error means that the replica has ended; the status shows it.
                let _ = group.raft().trigger().snapshot().await;
            }
        }
    }
}

/// Enables elections once the hold after the restart is over and a recovery is complete.
async fn enable_elections(group: &RaftGroup) {
    while let Some(at) = group.restart_hold_until() {
        at.reached().await;
    }
    if let Some(recovery) = &group.0.recovery {
        recovery.wait_finished().await;
    }
    group.raft().runtime_config().elect(true);
}

async fn sleep_until(time: Option<BootTime>) {
    match time {
        Some(at) => at.reached().await,
        None => std::future::pending().await,
    }
}

/// Purges the entries that a new snapshot covers, except for a bounded tail.
async fn purge_log(group: &RaftGroup, purged_behind: &mut Option<u64>) {
    let snapshot = group.raft().metrics().borrow_watched().snapshot.map(|log_id| log_id.index);
    let Some(snapshot) = snapshot.filter(|_| snapshot != *purged_behind) else { return };
    *purged_behind = Some(snapshot);
    if let Some(upto) = group.0.log.purge_target(snapshot, group.0.settings.log_bytes_kept) {
        // An error is handled as above.
        let _ = group.raft().trigger().purge_log(upto).await;
    }
}

fn mark_stopped(group: &RaftGroup) {
    group.0.status.send_modify(|status| {
        status.is_leader = false;
        status.leader = None;
        status.failure = Some("stopped".to_owned());
    });
}

impl RaftGroup {
    /// Ends the recovery of a replica that is complete again.
    pub(crate) async fn try_finish_recovery(&self) {
        let Some(recovery) = self.recovering() else { return };
        match recovery.try_finish(self.0.log.last_log_id()).await {
            Ok(true) => {
                tracing::info!(group = %self.id(), "replica recovered, votes again")
            }
            Ok(false) => {}
            Err(error) => {
                static LIMITER: LogLimiter = LogLimiter::new();
                if let Some(suppressed) = LIMITER.allow(Instant::now()) {
                    tracing::error!(group = %self.id(), %error, suppressed,
                        "cannot record that a replica has recovered, retrying");
                }
            }
        }
    }

    /// Reads the status from openraft's current metrics.
    pub(crate) fn read_status(&self) -> GroupStatus {
        let metrics_watch = self.raft().metrics();
        // One snapshot of the metrics: the lease and the term must be of the same moment.
        let metrics = metrics_watch.borrow_watched();
        let has_lease = self.lease_from_metrics(&metrics).is_some();
        let stored = &metrics.membership_config;
        let membership = stored.membership();
        let index = |log_id: Option<crate::types::LogId>| log_id.map_or(0, |id| id.index);
        let is_raft_leader = metrics.state.is_leader();
        let last_log_index = metrics.last_log_index.unwrap_or_default();
        GroupStatus {
            // A replica that left keeps a vote for itself, which does not make it the leader.
            leader: metrics
                .current_leader
                .map(NodeId)
                .filter(|leader| *leader != self.0.me || is_raft_leader),
            term: Term(metrics.current_term),
            is_leader: has_lease,
            initialized: stored.log_id().is_some(),
            voters: membership.voter_ids().map(NodeId).collect(),
            learners: membership.learner_ids().map(NodeId).collect(),
            is_joint: membership.get_joint_config().len() > 1,
            membership_index: index(*stored.log_id()),
            last_log_index,
            leader_last_log_index: match is_raft_leader {
                true => last_log_index,
                false => self.0.leader_last_log_index.load(Ordering::Relaxed),
            },
            snapshot_transfers: match is_raft_leader {
                true => self.0.transfers.progress(tokio::time::Instant::now()),
                false => BTreeMap::new(),
            },
            applied_index: index(metrics.last_applied),
            matched: metrics
                .replication
                .iter()
                .flatten()
                .filter_map(|(node, matched)| matched.map(|id| (NodeId(*node), id.index)))
                .collect(),
            unresponsive: if has_lease {
                self.unresponsive_voters(&metrics)
            } else {
                BTreeSet::new()
            },
            recovering: self.recovering().is_some(),
            failure: metrics.running_state.as_ref().err().map(ToString::to_string),
            halt_reason: self.0.halt_reason.reason().map(str::to_owned),
        }
    }

    fn unresponsive_voters(&self, metrics: &RaftMetrics<TypeConfig>) -> BTreeSet<NodeId> {
        let RaftGroupInner { me, follower_acks, lease_times, .. } = &*self.0;
        let Some(since) = BootTime::now().checked_sub(lease_times.lease()) else {
            return BTreeSet::new();
        };
        let voters = metrics.membership_config.voter_ids().map(NodeId);
        follower_acks.unresponsive(Term(metrics.current_term), *me, since, voters)
    }
}
