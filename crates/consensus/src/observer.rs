//! Watches one replica: says how it stands, and keeps its log short.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver;
use openraft::{AsyncRuntime, RaftMetrics};
use pushonce_core::{NodeId, Term};

use crate::clock::BootTime;
use crate::group::Inner;
use crate::runtime::Runtime;
use crate::types::Types;
use crate::{Group, Status};

/// At most this often: a busy group changes with every entry, and nobody needs each.
const PAUSE_MIN: Duration = Duration::from_millis(20);

/// At least this often. openraft tells of every tick as of a change; so how far logs are is looked at,
/// less and less often while nothing is new, and only who leads whom is told at once.
const PAUSE_MAX: Duration = Duration::from_millis(160);

/// Runs a replica until it is stopped.
pub(crate) async fn run(group: Group) {
    tokio::select! {
        () = observe(&group) => group.0.stopping.cancelled().await,
        () = group.0.stopping.cancelled() => {}
    }
    if let Err(error) = group.raft().shutdown().await {
        tracing::warn!(group = %group.id(), %error, "a replica ended badly");
    }
    last_word(&group);
    group.0.groups.remove(&group);
}

/// Ends when the replica has failed.
async fn observe(group: &Group) {
    let mut roles = group.raft().server_metrics();
    let (mut pause, mut over) = (PAUSE_MIN, false);
    let mut purged_behind = None;
    let speak = speak(group);
    tokio::pin!(speak);
    let mut silent = true;
    loop {
        let mut status = group.look();
        if over {
            // A task that fails says why; one that panics says nothing.
            status.failed.get_or_insert_with(|| "a task of the replica has panicked".to_owned());
        }
        let ended = over || status.failed.is_some();
        let news = group.0.status.send_if_modified(|known| {
            let news = *known != status;
            *known = status;
            news
        });
        if ended {
            return;
        }
        pause = if news { PAUSE_MIN } else { PAUSE_MAX.min(pause * 2) };
        purge(group, &mut purged_behind).await;
        group.recover().await;
        if group.0.shelf.take_damage() {
            tracing::error!(group = %group.id(), "a snapshot is damaged on disk: another is taken");
            // As below.
            let _ = group.raft().trigger().snapshot().await;
        }

        let lapse = group.lease().map(|lease| lease.until);
        let change = async {
            Runtime::sleep(PAUSE_MIN).await;
            tokio::select! {
                told = roles.changed() => told.is_err(),
                () = Runtime::sleep(pause - PAUSE_MIN) => false,
                () = until(lapse) => false,
            }
        };
        tokio::select! {
            // Why it is over is known by one more look.
            is_over = change => over = is_over,
            () = &mut speak, if silent => silent = false,
            () = group.0.nudge.notified() => {}
            () = group.0.log.grown() => {
                // An error means that it has ended; the status will say so.
                let _ = group.raft().trigger().snapshot().await;
            }
        }
    }
}

/// Lets the replica ask for votes once its silence is over, and it has all that it had.
async fn speak(group: &Group) {
    while let Some(at) = group.silent_until() {
        at.reached().await;
    }
    if let Some(recovery) = &group.0.recovery {
        recovery.over().await;
    }
    group.raft().runtime_config().elect(true);
}

async fn until(time: Option<BootTime>) {
    match time {
        Some(at) => at.reached().await,
        None => std::future::pending().await,
    }
}

/// Drops entries that a new snapshot has made superfluous, but for a bounded tail.
async fn purge(group: &Group, purged_behind: &mut Option<u64>) {
    let snapshot = group.raft().metrics().borrow_watched().snapshot.map(|log_id| log_id.index);
    let Some(snapshot) = snapshot.filter(|_| snapshot != *purged_behind) else { return };
    *purged_behind = Some(snapshot);
    if let Some(upto) = group.0.log.purge_target(snapshot, group.0.settings.log_bytes_kept) {
        // As above.
        let _ = group.raft().trigger().purge_log(upto).await;
    }
}

fn last_word(group: &Group) {
    group.0.status.send_modify(|status| {
        status.leads = false;
        status.leader = None;
        status.failed = Some("stopped".to_owned());
    });
}

impl Group {
    /// Ends the recovery of a replica that has all again.
    pub(crate) async fn recover(&self) {
        let Some(recovery) = self.recovering() else { return };
        match recovery.end(self.0.log.last()).await {
            Ok(true) => {
                tracing::info!(group = %self.id(), "a replica has recovered, and votes again")
            }
            Ok(false) => {}
            Err(why) => {
                tracing::error!(group = %self.id(), %why, "a replica cannot say that it has recovered")
            }
        }
    }

    /// The group as openraft shows it now.
    pub(crate) fn look(&self) -> Status {
        let watching = self.raft().metrics();
        // One reading: a lease of one moment beside the term of another would be a false claim.
        let metrics = watching.borrow_watched();
        let leads = self.lease_of(&metrics).is_some();
        let stored = &metrics.membership_config;
        let membership = stored.membership();
        let index = |log_id: Option<crate::types::LogId>| log_id.map_or(0, |id| id.index);
        let is_leader = metrics.state.is_leader();
        let last_log = metrics.last_log_index.unwrap_or_default();
        Status {
            // The vote for itself that a replica kept when it left makes it no leader.
            leader: metrics
                .current_leader
                .map(NodeId)
                .filter(|leader| *leader != self.0.me || is_leader),
            term: Term(metrics.current_term),
            leads,
            initialized: stored.log_id().is_some(),
            voters: membership.voter_ids().map(NodeId).collect(),
            learners: membership.learner_ids().map(NodeId).collect(),
            joint: membership.get_joint_config().len() > 1,
            membership: index(*stored.log_id()),
            last_log,
            leader_log: match is_leader {
                true => last_log,
                false => self.0.leader_log.load(Ordering::Relaxed),
            },
            sending: match is_leader {
                true => self.0.transfers.progress(tokio::time::Instant::now()),
                false => BTreeMap::new(),
            },
            applied: index(metrics.last_applied),
            matched: metrics
                .replication
                .iter()
                .flatten()
                .map(|(node, matched)| (NodeId(*node), index(*matched)))
                .collect(),
            silent: if leads { self.silent(&metrics) } else { BTreeSet::new() },
            recovering: self.recovering().is_some(),
            failed: metrics.running_state.as_ref().err().map(ToString::to_string),
            halted: self.0.halted.why().map(str::to_owned),
        }
    }

    fn silent(&self, metrics: &RaftMetrics<Types>) -> BTreeSet<NodeId> {
        let Inner { me, followers, times, .. } = &*self.0;
        let Some(since) = BootTime::now().checked_sub(times.lease()) else {
            return BTreeSet::new();
        };
        let voters = metrics.membership_config.voter_ids().map(NodeId);
        followers.silent(Term(metrics.current_term), *me, since, voters)
    }
}
