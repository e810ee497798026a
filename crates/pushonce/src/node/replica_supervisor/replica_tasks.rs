//! The tasks of one replica: each is supervised, and they end together.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use pushonce_consensus::{GroupId, GroupStatus};
use pushonce_core::{Message, NodeId, OwnershipClaim, ShardId, Topic};
use pushonce_shard::CommitListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// The tasks of one replica.
pub(super) struct ReplicaTasks {
    pub(super) wanted_nodes: watch::Sender<Vec<NodeId>>,
    pub(super) stop: CancellationToken,
    pub(super) tasks: JoinSet<()>,
}

/// Passes the commits of a replica to the links.
pub(super) struct RelayCommitted(pub(super) pushonce_relay::Handle);

impl CommitListener for RelayCommitted {
    fn on_committed(&self, _: ShardId, messages: Vec<(Topic, Arc<Message>)>) {
        self.0.push_committed(messages);
    }

    fn on_placed_in_memory(&self, _: ShardId, topic: Topic, message: Arc<Message>) {
        self.0.stage_committed(vec![(topic, message)]);
    }

    fn on_removed(&self, _: ShardId, topics: Vec<Topic>) {
        self.0.push_removed(topics);
    }

    fn flush_placed(&self) {
        self.0.flush_committed();
    }
}

impl ReplicaTasks {
    /// Stops the tasks at once, and waits for the proposal that may be in flight.
    pub(super) async fn stop_and_wait(&mut self) {
        self.stop.cancel();
        while self.tasks.join_next().await.is_some() {}
    }
}

/// Runs a task of a replica, and reports its panic: without the task the shard no longer commits, moves or
/// claims anything, while the node looks healthy. The node stops, because the state in memory after a
/// panic is unknown; the state on disk is valid.
pub(super) async fn supervise(
    shard: ShardId,
    task_name: &'static str,
    task: BoxFuture<'static, ()>,
    failures: mpsc::Sender<String>,
) {
    if AssertUnwindSafe(task).catch_unwind().await.is_err() {
        tracing::error!(%shard, task = task_name, "task of a replica panicked, stopping the node");
        // The receiver is gone when the supervisor has ended.
        let failure =
            format!("the {task_name} task of {shard} has panicked; the log above has the location");
        let _ = failures.send(failure).await;
    }
}

/// Announces each ownership claim of a local replica to the links, and the end of each claim.
pub(super) async fn announce_claims(
    shard: ShardId,
    mut claim: watch::Receiver<Option<OwnershipClaim>>,
    relay: pushonce_relay::Handle,
    stop: CancellationToken,
) {
    loop {
        let current_claim = claim.borrow_and_update().clone();
        match current_claim {
            Some(claim) => relay.announce_claim(claim),
            None => relay.revoke_claim(shard),
        }
        tokio::select! {
            () = stop.cancelled() => break,
            changed = claim.changed() => if changed.is_err() { break },
        }
    }
    relay.revoke_claim(shard);
}

/// Announces the leader that a local replica follows as a voter, so that this node vouches for its claim.
pub(super) async fn observe_leader(
    shard: ShardId,
    me: NodeId,
    mut status: watch::Receiver<GroupStatus>,
    relay: pushonce_relay::Handle,
    stop: CancellationToken,
) {
    let mut announced = None;
    loop {
        let observed = {
            let status = status.borrow_and_update();
            let leader = status.leader.filter(|_| status.voters.contains(&me));
            leader.map(|leader| (leader, status.term))
        };
        if observed != announced {
            relay.observe_leader(shard, observed);
            announced = observed;
        }
        tokio::select! {
            () = stop.cancelled() => break,
            changed = status.changed() => if changed.is_err() { break },
        }
    }
    relay.observe_leader(shard, None);
}

/// Reports a replica that has ended: a node that continues without it looks healthy, and the next failure
/// costs the shard its quorum. A replica that has halted because this build cannot read an entry makes the
/// node unready, and the other replicas of the node continue.
pub(super) async fn report_failure(
    mut status: watch::Receiver<GroupStatus>,
    group: GroupId,
    failures: mpsc::Sender<String>,
    stop: CancellationToken,
) {
    let wait_for_failure =
        async { status.wait_for(|now| now.failure.is_some()).await.map(|now| now.clone()) };
    tokio::select! {
        () = stop.cancelled() => {}
        failed = wait_for_failure => match failed {
            Ok(GroupStatus { halt_reason: Some(error), .. }) => {
                tracing::error!(%group, error, "replica halted");
            }
            Ok(GroupStatus { failure: Some(reason), .. }) => {
                tracing::error!(%group, reason, "replica failed, stopping the node");
                // The receiver is gone when the supervisor has ended.
                let _ = failures.send(format!("the replica of {group} has ended: {reason}")).await;
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn panic_in_a_replica_task_is_reported_with_its_shard() {
        let (failures, mut failed) = mpsc::channel(1);
        supervise(ShardId(3), "commit", async { panic!("a bug") }.boxed(), failures.clone()).await;
        let failure = failed.recv().await.unwrap();
        assert!(failure.contains("the commit task of s3 has panicked"), "{failure}");
        supervise(ShardId(3), "commit", async {}.boxed(), failures).await;
        assert!(failed.recv().await.is_none(), "a regular end of a task must not be reported");
    }

    #[tokio::test]
    async fn failed_replica_is_reported_and_a_stopped_one_is_not() {
        let (status, status_receiver) = watch::channel(GroupStatus::default());
        let (failures, mut failed) = mpsc::channel(1);
        let stop = CancellationToken::new();
        let group = GroupId::shard(ShardId(3));
        let reporting = tokio::spawn(report_failure(
            status_receiver.clone(),
            group,
            failures.clone(),
            stop.clone(),
        ));
        status.send_modify(|status| status.failure = Some("its machine has panicked".to_owned()));
        let failure = failed.recv().await.unwrap();
        assert_eq!(failure, "the replica of s3 has ended: its machine has panicked");
        reporting.await.unwrap();

        status.send_modify(|status| status.failure = None);
        let reporting =
            tokio::spawn(report_failure(status_receiver, group, failures, stop.clone()));
        stop.cancel();
        reporting.await.unwrap();
        assert!(failed.recv().await.is_none());
    }
}
