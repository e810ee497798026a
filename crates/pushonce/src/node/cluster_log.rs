//! Logs what changes in the cluster: members, the leader of the control group and this node's role in it, the
//! owners of shards.
//!
//! Members change by committed commands, which are rare: each change is logged at once. An election may
//! move the leader and all owners several times a second, so these are compared at most once in
//! [`LogLimiter::INTERVAL`]: what is logged is the difference to the last line, and the newest state is
//! always logged in the end.

use std::collections::BTreeMap;
use std::sync::Arc;

use pushonce_consensus::GroupStatus;
use pushonce_core::{ClusterView, Member, MemberState, NodeId, ShardId, ShardOwners};
use pushonce_telemetry::LogLimiter;
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

/// What is compared.
pub(super) struct ClusterLog {
    pub(super) me: NodeId,
    pub(super) view: watch::Receiver<Arc<ClusterView>>,
    pub(super) control_status: watch::Receiver<GroupStatus>,
    pub(super) owners: watch::Receiver<Arc<ShardOwners>>,
}

/// The members that were logged last.
type LoggedMembers = BTreeMap<NodeId, (String, MemberState)>;

impl ClusterLog {
    /// Runs until `shutdown`, or until a watch has ended.
    pub(super) async fn run(self, shutdown: CancellationToken) {
        let ClusterLog { me, view, control_status, owners } = self;
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = log_members(view.clone()) => {}
            () = log_control_role(me, control_status.clone()) => {}
            () = log_control_leader(control_status) => {}
            () = log_owners(view, owners) => {}
        }
    }
}

async fn log_members(mut view: watch::Receiver<Arc<ClusterView>>) {
    let mut logged = LoggedMembers::new();
    loop {
        let current = view.borrow_and_update().clone();
        for member in current.members.values() {
            log_member(member, logged.get(&member.id).map(|(_, state)| *state));
        }
        for (node, (name, _)) in &logged {
            if current.member(*node).is_none() {
                tracing::info!(%node, name, "member removed");
            }
        }
        let members = current.members.values();
        logged = members.map(|member| (member.id, (member.name.clone(), member.state))).collect();
        if view.changed().await.is_err() {
            return;
        }
    }
}

fn log_member(member: &Member, logged: Option<MemberState>) {
    let Member { id, name, state, addresses, .. } = member;
    match logged {
        None => tracing::info!(node = %id, name, ?state, peer = addresses.peer, "member joined"),
        Some(logged) if logged != *state => {
            tracing::info!(node = %id, name, ?state, "member changed its state");
        }
        Some(_) => {}
    }
}

async fn log_control_role(me: NodeId, mut status: watch::Receiver<GroupStatus>) {
    let mut logged = "none";
    loop {
        let role = {
            let status = status.borrow_and_update();
            match () {
                () if status.voters.contains(&me) => "voter",
                () if status.learners.contains(&me) => "learner",
                () => "none",
            }
        };
        if role != logged {
            tracing::info!(role, before = logged, "role of this node in the control group changed");
            logged = role;
            sleep(LogLimiter::INTERVAL).await;
        }
        if status.changed().await.is_err() {
            return;
        }
    }
}

async fn log_control_leader(mut status: watch::Receiver<GroupStatus>) {
    let mut logged = None;
    loop {
        let (leader, term, is_leader) = {
            let status = status.borrow_and_update();
            (status.leader, status.term, status.is_leader)
        };
        if let Some(leader) = leader.filter(|&leader| logged != Some((leader, term))) {
            tracing::info!(%leader, term = term.0, is_this_node = is_leader, "control group has a leader");
            logged = Some((leader, term));
            sleep(LogLimiter::INTERVAL).await;
        }
        if status.changed().await.is_err() {
            return;
        }
    }
}

async fn log_owners(
    view: watch::Receiver<Arc<ClusterView>>,
    mut owners: watch::Receiver<Arc<ShardOwners>>,
) {
    let mut logged: BTreeMap<ShardId, NodeId> = BTreeMap::new();
    loop {
        let current = owners.borrow_and_update().clone();
        let mut moved: BTreeMap<NodeId, Vec<String>> = BTreeMap::new();
        for shard in view.borrow().shards.ids() {
            let Some(owner) = current.owner_of(shard) else { continue };
            if logged.insert(shard, owner) != Some(owner) {
                moved.entry(owner).or_default().push(shard.to_string());
            }
        }
        for (owner, shards) in &moved {
            tracing::info!(%owner, count = shards.len(), shards = shards.join(","), "shards have a new owner");
        }
        if !moved.is_empty() {
            sleep(LogLimiter::INTERVAL).await;
        }
        if owners.changed().await.is_err() {
            return;
        }
    }
}
