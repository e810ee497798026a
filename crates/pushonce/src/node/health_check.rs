//! Checks the node periodically, and publishes whether it can do its work.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pushonce_consensus::ConsensusEngine;
use pushonce_control::health::ClusterProblem;
use pushonce_control::hosting;
use pushonce_core::{FailPoint, ShardId};
use pushonce_gateway::{Admission, LaneWatchdog, MemoryUse};
use pushonce_publish::Readiness;
use pushonce_shard::NodeTopics;
use pushonce_telemetry::{Gauge, LogLimiter};
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::current_view::CurrentView;
use super::health::{
    BlockedServices, GroupSummary, HealthFacts, HealthIssue, HealthMonitor, WatchedLoop,
};
use super::memory;
use super::overview::NodeOverview;
use super::replica_supervisor::LocalReplicas;
use super::shard_progress;
use crate::metrics;

/// Time between checks: short enough to report a fault within five seconds, most of which is link timeout.
const CHECK_INTERVAL: Duration = Duration::from_millis(250);

/// Maximum age of a check. An older one means that the check itself hangs.
const HEALTH_AGE_MAX: Duration = Duration::from_secs(3);

/// The result of the last check.
#[derive(Clone, Debug)]
pub(super) struct HealthStatus {
    issues: Vec<HealthIssue>,
    checked_at: Instant,
}

/// The periodic health check and its inputs.
pub(super) struct HealthCheck {
    pub(super) overview: NodeOverview,
    pub(super) current_view: watch::Receiver<CurrentView>,
    pub(super) topics: Arc<NodeTopics>,
    pub(super) hosted: LocalReplicas,
    pub(super) engine: ConsensusEngine,
    pub(super) relay: pushonce_relay::Handle,
    pub(super) lane_watchdog: LaneWatchdog,
    pub(super) admission: Admission,
    pub(super) memory_use: MemoryUse,
    /// Memory limit of the process in bytes; zero is no limit.
    pub(super) memory_max: u64,
    pub(super) health_sender: watch::Sender<HealthStatus>,
    /// The readiness derived from `health_sender`.
    pub(super) ready_sender: watch::Sender<Readiness>,
    /// Cancelled when the node begins to stop.
    pub(super) stopping: CancellationToken,
}

/// The only reason that a stopping node shows.
pub(super) const STOPPING_REASON: &str = "this node is stopping";

/// The services that a node with these issues can offer.
pub(super) fn readiness(issues: &[HealthIssue]) -> Readiness {
    let is_blocked = |is_affected: fn(BlockedServices) -> bool| {
        issues.iter().any(|reason| is_affected(reason.blocks))
    };
    Readiness { can_publish: !is_blocked(|b| b.publish), can_subscribe: !is_blocked(|b| b.viewers) }
}

/// Gauges that count the problems of the cluster as this node sees them.
struct ProblemGauges(Vec<(&'static str, Gauge)>);

impl ProblemGauges {
    fn new() -> ProblemGauges {
        let gauge = |kind| (kind, metrics::CLUSTER_PROBLEMS.register_gauge(&[kind]));
        ProblemGauges(ClusterProblem::KINDS.map(gauge).to_vec())
    }

    fn set(&self, problems: &[ClusterProblem]) {
        for (kind, gauge) in &self.0 {
            let of_kind = problems.iter().filter(|problem| problem.kind() == *kind);
            gauge.set(of_kind.map(ClusterProblem::count).sum::<usize>() as f64);
        }
    }
}

/// Logs changes of readiness; the list of reasons changes with every shard that moves. A node at the edge of
/// its load may become ready and unready several times a second: after a line the next one waits for
/// [`LogLimiter::INTERVAL`], and the newest state is always logged in the end.
#[derive(Default)]
struct ReadinessLog {
    latest: Readiness,
    logged: Readiness,
    /// Changes since the last line.
    changes: u64,
    limiter: LogLimiter,
}

impl ReadinessLog {
    fn update(&mut self, current: Readiness, issues: &[HealthIssue], now: Instant) {
        self.changes += u64::from(std::mem::replace(&mut self.latest, current) != current);
        if current == self.logged || self.limiter.allow(now).is_none() {
            return;
        }
        self.logged = current;
        let suppressed = std::mem::take(&mut self.changes).saturating_sub(1);
        let texts: Vec<_> = issues.iter().map(|reason| reason.text.as_str()).collect();
        let reasons = texts.join("; ");
        match (current.can_publish, current.can_subscribe) {
            (true, true) => tracing::info!(suppressed, "ready"),
            (false, false) => tracing::warn!(%reasons, suppressed, "not ready"),
            (false, true) => tracing::warn!(%reasons, suppressed, "not ready for publishers"),
            (true, false) => tracing::warn!(%reasons, suppressed, "not ready for subscribers"),
        }
    }
}

impl HealthStatus {
    /// The status before the first check.
    pub(super) fn starting() -> HealthStatus {
        HealthStatus {
            issues: vec![HealthIssue::blocking_all("this node is starting")],
            checked_at: Instant::now(),
        }
    }

    /// Why the node cannot do its work; empty when it can.
    pub(super) fn issues(&self, now: Instant) -> Vec<HealthIssue> {
        let age = now.saturating_duration_since(self.checked_at);
        let stale_text =
            format!("the health check of this node has not run for {} s", age.as_secs());
        let stale_issue = (age >= HEALTH_AGE_MAX).then(|| HealthIssue::blocking_all(stale_text));
        self.issues.iter().cloned().chain(stale_issue).collect()
    }
}

impl HealthCheck {
    /// Runs until `shutdown` is cancelled.
    pub(super) async fn run(self, shutdown: CancellationToken) {
        let mut monitor = HealthMonitor::default();
        let problems = ProblemGauges::new();
        let topics_gauge = metrics::TOPICS.register_gauge(&[]);
        let history_gauge = metrics::HISTORY_BYTES.register_gauge(&[]);
        let mut readiness_log = ReadinessLog::default();
        let mut is_stopping = false;
        let mut ticks = interval(CHECK_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                // Published at once: nothing more should be sent to a node that stops.
                () = self.stopping.cancelled(), if !is_stopping => is_stopping = true,
                _ = ticks.tick() => {}
            }
            let used = memory::resident_bytes().unwrap_or(0);
            let permille = self.memory_use.set(used, self.memory_max, self.topics.memory_bytes());
            self.topics.set_memory_use(permille);
            let checked_at = Instant::now();
            self.set_group_gauges();
            let issues = if is_stopping {
                vec![HealthIssue::blocking_all(STOPPING_REASON)]
            } else {
                let mut issues = monitor.evaluate(&self.collect_facts(), checked_at);
                issues.extend(self.overview.address_conflict_issue());
                issues.extend(overload_issue(&self.admission));
                issues
            };
            let current = readiness(&issues);
            self.ready_sender
                .send_if_modified(|known| std::mem::replace(known, current) != current);
            readiness_log.update(current, &issues, checked_at);
            self.health_sender.send_replace(HealthStatus { issues, checked_at });
            problems.set(
                &self.overview.problems(&shard_progress::local_progress(self.hosted.progress())),
            );
            topics_gauge.set(self.topics.topic_count() as f64);
            history_gauge.set(self.topics.history_bytes() as f64);
        }
    }

    /// Sets the gauges of the groups: how far the replicas of this node are behind their leaders, how far
    /// those that it leads are behind this node, how many it leads, and their highest term.
    fn set_group_gauges(&self) {
        let (mut own_lag, mut follower_lag, mut sending_count) = (0, 0, 0);
        let (mut led_groups, mut term_max) = (0, 0);
        for handle in self.hosted.all() {
            let status = handle.group().status();
            let status = status.borrow();
            own_lag = own_lag.max(status.lag());
            led_groups += u32::from(status.is_leader);
            term_max = term_max.max(status.term.0);
            let follower_lags = status.voters.iter().filter_map(|&node| status.follower_lag(node));
            follower_lag = follower_lag.max(follower_lags.max().unwrap_or(0));
            sending_count += status.snapshot_transfers.len();
        }
        metrics::REPLICA_LAG.register_gauge(&["own"]).set(own_lag as f64);
        metrics::REPLICA_LAG.register_gauge(&["followers"]).set(follower_lag as f64);
        metrics::LED_GROUPS.register_gauge(&[]).set(f64::from(led_groups));
        metrics::TERM_MAX.register_gauge(&[]).set(term_max as f64);
        if let Some(count) = open_descriptors() {
            metrics::OPEN_DESCRIPTORS.register_gauge(&[]).set(count as f64);
        }
        metrics::SNAPSHOT_TRANSFERS.register_gauge(&[]).set(sending_count as f64);
    }

    /// The groups that have halted on this node, with the reason.
    fn halted_groups(&self) -> BTreeMap<Option<ShardId>, String> {
        let control =
            self.overview.control_status.borrow().halt_reason.clone().map(|reason| (None, reason));
        let shards = self.hosted.halted().into_iter().map(|(shard, reason)| (Some(shard), reason));
        let halted: BTreeMap<_, _> = control.into_iter().chain(shards).collect();
        metrics::HALTED_REPLICAS.register_gauge(&[]).set(halted.len() as f64);
        halted
    }

    fn collect_facts(&self) -> HealthFacts {
        let NodeOverview {
            me,
            view,
            owners,
            reachable_nodes: reachable,
            control_status: control,
            ..
        } = &self.overview;
        let (view, owners) = (view.borrow().clone(), owners.borrow().clone());
        // The node that creates the cluster initializes replicas before its view has the number of shards.
        let is_known_shard = |shard: ShardId| shard.0 < view.shards.get();
        // A removed replica stays for some seconds, with entries whose commit it never receives.
        let is_excluded = |shard| {
            hosting::is_excluded(*me, &owners, shard)
                && !FailPoint::RemovedReplicaCounted.is_active()
        };
        let is_counted = |shard| is_known_shard(shard) && !is_excluded(shard);
        let replicas =
            self.hosted.all().into_iter().filter(|handle| is_counted(handle.id())).map(|handle| {
                (handle.id(), GroupSummary::from(&*handle.group().status().borrow()))
            });
        let lanes = self.lane_watchdog.tick_counts().into_iter().enumerate();
        let mut loop_counts: BTreeMap<WatchedLoop, u64> =
            lanes.map(|(lane, count)| (WatchedLoop::Lane(lane), count)).collect();
        loop_counts.insert(WatchedLoop::Relay, self.relay.tick_count());
        let restored = self.engine.stored_groups().iter().filter_map(|group| group.as_shard());
        // Each watch is borrowed in a statement of its own: a borrow in the expression below would last until
        // its end, and a second borrow of the same watch blocks forever behind a writer that waits for the
        // first.
        let copies = self.overview.with_cluster_snapshot(|seen| {
            view.shards.ids().map(|shard| (shard, seen.voters(shard).to_vec())).collect()
        });
        let control_summary = GroupSummary::from(&*control.borrow());
        let reachable = reachable.borrow().clone();
        let conflicts = self.relay.version_conflicts().borrow().clone();
        let halted = self.halted_groups();
        HealthFacts {
            me: *me,
            restored: restored.collect(),
            member_state: view.member(*me).map(|member| member.state),
            control_group: control_summary,
            replicas: replicas.collect(),
            owners: view.shards.ids().map(|shard| (shard, owners.owner_of(shard))).collect(),
            voters: copies,
            reachable,
            stale: self.relay.stale_shards().borrow().clone(),
            halted,
            version_conflicts: conflicts,
            is_current: self.current_view.borrow().is_some(),
            is_opening: self.hosted.is_opening(),
            disk_problem: self.engine.check_disk_space().err().map(|full| full.to_string()),
            rolled_back: self.engine.rollback_reason(),
            loop_counts,
        }
    }
}

/// Linux reports the number as the size of the directory since 6.2, and 0 before. Listing the directory
/// instead takes tens of milliseconds with 100,000 connections; `sysinfo` always lists it, and `procfs` before
/// 6.2.
fn open_descriptors() -> Option<u64> {
    std::fs::metadata("/proc/self/fd").ok().map(|folder| folder.len()).filter(|&count| count > 0)
}

/// The issue of a node that rejects new sessions. It makes the node unready for viewers only because of
/// its load: a node at its maximum number of clients still serves these, and would become ready and
/// unready again with each client that leaves.
fn overload_issue(admission: &Admission) -> Option<HealthIssue> {
    let (rejecting, lanes) = (admission.rejecting_lanes(), admission.lane_count());
    (rejecting > 0).then(|| HealthIssue {
        text: format!(
            "{rejecting} of {lanes} client threads reject new sessions: {}",
            admission.reasons().join("; ")
        ),
        blocks: if admission.overloaded_lanes() > 0 {
            BlockedServices::VIEWERS
        } else {
            BlockedServices::default()
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_change_of_readiness_is_logged_per_interval_and_the_newest_in_the_end() {
        let ready = Readiness { can_publish: true, can_subscribe: true };
        let unready = Readiness::default();
        let (mut log, start) = (ReadinessLog::default(), Instant::now());
        let mut logged_after = |current, seconds| {
            log.update(current, &[], start + Duration::from_secs(seconds));
            (log.logged, log.changes)
        };
        assert_eq!(logged_after(ready, 0), (ready, 0));
        assert_eq!(logged_after(unready, 1), (ready, 1));
        assert_eq!(logged_after(ready, 2), (ready, 2));
        assert_eq!(logged_after(unready, 9), (ready, 3));
        assert_eq!(logged_after(unready, 11), (unready, 0));
    }
}
