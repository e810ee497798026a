//! Whether the node can do its work: what a look at it finds, how long that has been so, and what an
//! operator is told. Pure; the time comes in.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::{Duration, Instant};

use pushonce_consensus::GroupStatus;
use pushonce_core::{FailPoint, MemberState, NodeId, ShardId, VersionConflict};

/// What one look found.
#[derive(Clone, Debug)]
pub(super) struct HealthFacts {
    /// This node.
    pub(super) me: NodeId,
    /// What the cluster counts it as.
    pub(super) member_state: Option<MemberState>,
    /// The control group, as it looks from here.
    pub(super) control_group: GroupSummary,
    /// Whether the view of the cluster is current: nothing is published here before.
    pub(super) is_current: bool,
    /// The shards of which this node had a replica when it started.
    pub(super) restored: BTreeSet<ShardId>,
    /// Whether some of these were not started yet.
    pub(super) is_opening: bool,
    /// The replicas that run here.
    pub(super) replicas: BTreeMap<ShardId, GroupSummary>,
    /// Who owns each shard, as far as is known.
    pub(super) owners: BTreeMap<ShardId, Option<NodeId>>,
    /// The nodes whose replicas of each shard vote, as its owner said last; those of the table before.
    pub(super) voters: BTreeMap<ShardId, Vec<NodeId>>,
    /// The nodes that were heard of on their links, and this node.
    pub(super) reachable: BTreeSet<NodeId>,
    /// Why nothing is written for publishers here, if that is so.
    pub(super) disk_problem: Option<String>,
    /// Why this node takes part in no group any more, if that is so.
    pub(super) rolled_back: Option<String>,
    /// Why groups have halted here: they met something that this build cannot read. `NoFault` is the
    /// control group.
    pub(super) halted: BTreeMap<Option<ShardId>, String>,
    /// The nodes with which this one exchanges no frames for their versions.
    pub(super) version_conflicts: BTreeMap<NodeId, VersionConflict>,
    /// Counts that rise as long as a part of the node goes round.
    pub(super) loop_counts: BTreeMap<WatchedLoop, u64>,
}

/// How a group stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct GroupSummary {
    /// Who leads it.
    pub(super) leader: Option<NodeId>,
    /// This node does, with a lease.
    pub(super) leads: bool,
    /// The end of the log here.
    pub(super) last_log: u64,
    /// What of it was applied.
    pub(super) applied: u64,
    /// Entries that the leader holds and this replica has not applied; `NoFault` before a leader was
    /// heard.
    pub(super) lag: Option<u64>,
}

/// A part of the node that goes round by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum WatchedLoop {
    /// The thread that serves some of the clients.
    Lane(usize),
    /// What delivers to and from other nodes.
    Relay,
}

/// Something that keeps the node from its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum UnreadyReason {
    NotMember,
    Joining,
    ControlGroup(GroupFault),
    Shard(ShardId, GroupFault),
    NoOwner(ShardId),
    OwnerUnreachable(ShardId, NodeId),
    /// Most of its copies are out of reach, and those of most other shards are not.
    ReplicasUnreachable(ShardId),
    ApplyStalled(ShardId),
    CatchingUp(ShardId),
    LoopStalled(WatchedLoop),
}

/// What a group lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum GroupFault {
    NoLeader,
    LeaderUnreachable(NodeId),
    NoMajority,
}

/// Why the node is not ready, for people, and for what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HealthIssue {
    /// What is in the way.
    pub(super) text: String,
    /// What it keeps the node from.
    pub(super) blocks: BlockedServices,
}

/// What a node cannot do. A reason that blocks nothing is a warning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct BlockedServices {
    /// Taking publishes in.
    pub(super) publish: bool,
    /// Serving subscribers.
    pub(super) viewers: bool,
}

/// Looks again and again, and remembers since when it has found what it finds.
#[derive(Debug, Default)]
pub(super) struct HealthMonitor {
    /// A look found nothing that blocks anything: from then on short disturbances are borne.
    was_ready: bool,
    first_seen: BTreeMap<UnreadyReason, Instant>,
    /// By part, and by shard whose entries wait to be applied: the last count, and since when it is.
    loop_progress: BTreeMap<WatchedLoop, (u64, Instant)>,
    apply_progress: BTreeMap<ShardId, (u64, Instant)>,
    /// The shards whose replica here has been level with its leader since the start.
    caught_up: BTreeSet<ShardId>,
    /// The first look.
    first_evaluated_at: Option<Instant>,
}

/// A group without a leader elects one, and a shard without an owner gets one, within two seconds:
/// what is over by then is no reason to send clients away.
const ELECTION_GRACE: Duration = Duration::from_secs(2);

/// A link is given up after three seconds of silence; with this and a look every quarter of a second
/// it is told within five.
const UNREACHABLE_GRACE: Duration = Duration::from_secs(1);

/// What has not gone round, or on, for so long stands still: a busy machine may take one second.
const STALL_TIMEOUT: Duration = Duration::from_secs(3);

/// How many entries a replica may lack and still be level: what a busy shard has on its way.
const CAUGHT_UP_LAG_ENTRIES: u64 = 64;

/// For so long after its start a node is not ready because its replicas are not level. A rolling
/// restart that went on before would take the next copy away while this one is incomplete. It is a
/// matter of the start alone, and of so long at most: a replica that lags later, or for ever, keeps
/// nobody from being served here, and under an overload all nodes lag, of which none must send its
/// clients to the others. Metrics and `own_cluster status` show it all the same.
const CATCHING_UP_MAX: Duration = Duration::from_secs(600);

impl HealthMonitor {
    /// What keeps the node from its work; nothing when it can do it.
    ///
    /// Until the node was ready once, nothing is borne: ready means serving, and a node that has just
    /// started serves nobody before it knows the leaders. Until then a control group without a leader
    /// blocks everything too, since the view may be an old one.
    pub(super) fn evaluate(&mut self, facts: &HealthFacts, now: Instant) -> Vec<HealthIssue> {
        let shards_without_majority = facts.shards_without_majority();
        let mut present = current_reasons(facts, &shards_without_majority);
        present.extend(self.stalled(facts, &shards_without_majority, now));
        present.extend(self.catching_up(facts, &shards_without_majority, now));
        self.first_seen.retain(|reason, _| present.contains(reason));
        for &reason in &present {
            self.first_seen.entry(reason).or_insert(now);
        }
        let was_ready = self.was_ready;
        let exceeds_grace = |(&reason, &since): (&UnreadyReason, &Instant)| {
            let grace = if was_ready { reason.grace_period() } else { Duration::ZERO };
            (now.saturating_duration_since(since) >= grace).then_some(reason)
        };
        let mut issues =
            to_issues(self.first_seen.iter().filter_map(exceeds_grace).collect(), was_ready);
        // A leader that names itself does not show that it has a majority: no answer of it came yet.
        issues.extend((!facts.is_current).then(|| HealthIssue {
            text: "the view of the cluster may be old: the control group has not answered since this node \
                   started"
                .to_owned(),
            blocks: BlockedServices::PUBLISH,
        }));
        // The disk has a reserve: what it says is no matter of a moment.
        issues.extend(
            facts
                .disk_problem
                .clone()
                .map(|text| HealthIssue { text, blocks: BlockedServices::PUBLISH }),
        );
        issues.extend(facts.rolled_back.clone().map(HealthIssue::blocking_all));
        issues.extend(facts.unreadable_formats().into_iter().map(HealthIssue::blocking_all));
        self.was_ready |= issues.iter().all(|reason| !reason.blocks.any());
        issues
    }

    /// The replicas that were here at the start and have not been level with their leaders since.
    fn catching_up(
        &mut self,
        facts: &HealthFacts,
        shards_without_majority: &BTreeSet<ShardId>,
        now: Instant,
    ) -> Vec<UnreadyReason> {
        let first_evaluated_at = *self.first_evaluated_at.get_or_insert(now);
        let restored = facts.replicas.iter().filter(|(shard, _)| facts.restored.contains(shard));
        let is_caught_up = |lag: u64| lag <= CAUGHT_UP_LAG_ENTRIES;
        let caught_up = restored.filter(|(_, replica)| replica.lag.is_some_and(is_caught_up));
        self.caught_up.extend(caught_up.map(|(&shard, _)| shard));
        if now.saturating_duration_since(first_evaluated_at) >= CATCHING_UP_MAX {
            return Vec::new();
        }
        let is_expected_here = |shard: &&ShardId| {
            !shards_without_majority.contains(shard)
                && (facts.is_opening || facts.replicas.contains_key(shard))
        };
        let behind = facts.restored.iter().filter(is_expected_here);
        let behind = behind.filter(|shard| !self.caught_up.contains(shard));
        behind.map(|&shard| UnreadyReason::CatchingUp(shard)).collect()
    }

    /// What has stood still for too long.
    fn stalled(
        &mut self,
        facts: &HealthFacts,
        shards_without_majority: &BTreeSet<ShardId>,
        now: Instant,
    ) -> Vec<UnreadyReason> {
        let is_stalled = |known: &mut (u64, Instant), count: u64| {
            if known.0 != count {
                *known = (count, now);
            }
            now.saturating_duration_since(known.1) >= STALL_TIMEOUT
        };
        let mut stalled = Vec::new();
        for (&watched, &count) in &facts.loop_counts {
            if is_stalled(self.loop_progress.entry(watched).or_insert((count, now)), count) {
                stalled.push(UnreadyReason::LoopStalled(watched));
            }
        }
        self.apply_progress.retain(|shard, _| facts.replicas.contains_key(shard));
        // A shard without a majority has entries that nobody can commit.
        for (&shard, replica) in
            facts.replicas.iter().filter(|(shard, _)| !shards_without_majority.contains(shard))
        {
            let known = self.apply_progress.entry(shard).or_insert((replica.applied, now));
            if replica.applied >= replica.last_log {
                *known = (replica.applied, now);
            } else if is_stalled(known, replica.applied) {
                stalled.push(UnreadyReason::ApplyStalled(shard));
            }
        }
        stalled
    }
}

/// What a look finds, however long it may have been so.
fn current_reasons(
    facts: &HealthFacts,
    shards_without_majority: &BTreeSet<ShardId>,
) -> BTreeSet<UnreadyReason> {
    let mut reasons = BTreeSet::new();
    match facts.member_state {
        None => _ = reasons.insert(UnreadyReason::NotMember),
        Some(MemberState::Joining) => _ = reasons.insert(UnreadyReason::Joining),
        Some(_) => {}
    }
    reasons.extend(facts.group_fault(&facts.control_group).map(UnreadyReason::ControlGroup));
    reasons.extend(shards_without_majority.iter().copied().map(UnreadyReason::ReplicasUnreachable));
    for (&shard, replica) in
        facts.replicas.iter().filter(|(shard, _)| !shards_without_majority.contains(shard))
    {
        reasons.extend(facts.group_fault(replica).map(|fault| UnreadyReason::Shard(shard, fault)));
    }
    for (&shard, owner) in
        facts.owners.iter().filter(|(shard, _)| !shards_without_majority.contains(shard))
    {
        match owner {
            None => _ = reasons.insert(UnreadyReason::NoOwner(shard)),
            Some(owner) if !facts.reachable.contains(owner) => {
                reasons.insert(UnreadyReason::OwnerUnreachable(shard, *owner));
            }
            Some(_) => {}
        }
    }
    reasons
}

impl HealthFacts {
    /// What this build cannot read; no matter of a moment either. A peer that cannot read what this node
    /// writes is the peer's trouble.
    fn unreadable_formats(&self) -> BTreeSet<String> {
        let this_node_is_older = |conflict: &&VersionConflict| {
            matches!(conflict, VersionConflict::ThisNodeIsOlder { .. })
        };
        let halted = self.halted.iter().map(|(group, reason)| match group {
            None => format!("the control group has halted: {reason}"),
            Some(shard) => format!("{shard} has halted: {reason}"),
        });
        let conflicts =
            self.version_conflicts.values().filter(this_node_is_older).map(ToString::to_string);
        halted.chain(conflicts).collect()
    }

    /// The shards that have lost the majority of their copies, as far as this node can see. When they are
    /// most of all shards, or the control group cannot be heard either, it is this node that has lost the
    /// others: then there are none.
    fn shards_without_majority(&self) -> BTreeSet<ShardId> {
        if FailPoint::LostShardBlocksReadiness.is_active() {
            return BTreeSet::new();
        }
        if self.group_fault(&self.control_group).is_some() {
            return BTreeSet::new();
        }
        let has_no_majority = |nodes: &Vec<NodeId>| {
            let reached = nodes.iter().filter(|node| self.reachable.contains(node)).count();
            !nodes.is_empty() && reached <= nodes.len() / 2
        };
        let without_majority = self.voters.iter().filter(|(_, nodes)| has_no_majority(nodes));
        let without_majority: BTreeSet<_> = without_majority.map(|(&shard, _)| shard).collect();
        if without_majority.len() > self.voters.len() / 2 {
            BTreeSet::new()
        } else {
            without_majority
        }
    }

    fn group_fault(&self, group: &GroupSummary) -> Option<GroupFault> {
        match group.leader {
            None if FailPoint::ReadyWithoutLeader.is_active() => None,
            None => Some(GroupFault::NoLeader),
            // A leader without a majority goes on naming itself.
            Some(leader) if leader == self.me => (!group.leads).then_some(GroupFault::NoMajority),
            Some(leader) => {
                (!self.reachable.contains(&leader)).then_some(GroupFault::LeaderUnreachable(leader))
            }
        }
    }
}

impl From<&GroupStatus> for GroupSummary {
    fn from(status: &GroupStatus) -> GroupSummary {
        let &GroupStatus {
            leader,
            is_leader: leads,
            last_log_index: last_log,
            applied_index: applied,
            leader_last_log_index: leader_log,
            ..
        } = status;
        let has_heard_leader = leader.is_some() && leader_log > 0 && !status.recovering;
        let lag = (leads || has_heard_leader).then(|| status.lag());
        GroupSummary { leader, leads, last_log, applied, lag }
    }
}

impl UnreadyReason {
    /// How long it may be so before it is told.
    fn grace_period(self) -> Duration {
        match self {
            UnreadyReason::NotMember | UnreadyReason::Joining => Duration::ZERO,
            UnreadyReason::ControlGroup(GroupFault::NoLeader | GroupFault::NoMajority)
            | UnreadyReason::Shard(_, GroupFault::NoLeader | GroupFault::NoMajority)
            | UnreadyReason::NoOwner(_) => ELECTION_GRACE,
            UnreadyReason::ControlGroup(GroupFault::LeaderUnreachable(_))
            | UnreadyReason::Shard(_, GroupFault::LeaderUnreachable(_))
            | UnreadyReason::ReplicasUnreachable(_)
            | UnreadyReason::OwnerUnreachable(..) => UNREACHABLE_GRACE,
            // It was long enough already.
            UnreadyReason::ApplyStalled(_)
            | UnreadyReason::CatchingUp(_)
            | UnreadyReason::LoopStalled(_) => Duration::ZERO,
        }
    }

    /// The same thing of another shard has the same words.
    fn text(self) -> String {
        match self {
            UnreadyReason::NotMember => "this node has not been taken into the cluster yet".to_owned(),
            UnreadyReason::Joining => "this node is still joining".to_owned(),
            UnreadyReason::ControlGroup(fault) => {
                format!("the control group {fault}: no node can join, leave or move")
            }
            UnreadyReason::Shard(_, fault) => format!("cannot commit, for the shard {fault}"),
            UnreadyReason::NoOwner(_) => "no owner is known".to_owned(),
            UnreadyReason::OwnerUnreachable(_, owner) => {
                format!("cannot deliver, for nothing is heard of the owner, {owner}")
            }
            UnreadyReason::ReplicasUnreachable(_) => {
                "no node that can be reached has a majority of its copies: its topics are unavailable \
                 until the nodes are back"
                    .to_owned()
            }
            UnreadyReason::ApplyStalled(_) => {
                format!("cannot apply: entries have waited for {} s", STALL_TIMEOUT.as_secs())
            }
            UnreadyReason::CatchingUp(_) => {
                "the replica has not caught up with its leader since this node started".to_owned()
            }
            UnreadyReason::LoopStalled(WatchedLoop::Lane(lane)) => format!(
                "the thread lane-{lane}, which serves clients, has not moved for {} s",
                STALL_TIMEOUT.as_secs()
            ),
            UnreadyReason::LoopStalled(WatchedLoop::Relay) => {
                format!("what delivers between nodes has not moved for {} s", STALL_TIMEOUT.as_secs())
            }
        }
    }

    /// What it keeps the node from.
    fn blocks(self, was_ready: bool) -> BlockedServices {
        match self {
            UnreadyReason::NotMember
            | UnreadyReason::Joining
            | UnreadyReason::NoOwner(_)
            | UnreadyReason::OwnerUnreachable(..)
            | UnreadyReason::ApplyStalled(_)
            | UnreadyReason::CatchingUp(_)
            | UnreadyReason::LoopStalled(_)
            // The shard's topics cannot be read here without a lease either.
            | UnreadyReason::Shard(_, GroupFault::NoMajority) => BlockedServices::ALL,
            // A follower that hears no leader still brings publishes to an owner and serves what comes
            // from it; whether there is one is seen by the owners. But its copy may be missing.
            UnreadyReason::Shard(_, GroupFault::NoLeader | GroupFault::LeaderUnreachable(_)) => BlockedServices::PUBLISH,
            // Shards are published to and read without it.
            UnreadyReason::ControlGroup(_) if was_ready => BlockedServices::default(),
            // The topics of all other shards are served, and no other node could serve these.
            UnreadyReason::ReplicasUnreachable(_) => BlockedServices::default(),
            UnreadyReason::ControlGroup(_) => BlockedServices::ALL,
        }
    }

    fn shard(self) -> Option<ShardId> {
        match self {
            UnreadyReason::Shard(shard, _)
            | UnreadyReason::NoOwner(shard)
            | UnreadyReason::OwnerUnreachable(shard, _)
            | UnreadyReason::ReplicasUnreachable(shard)
            | UnreadyReason::ApplyStalled(shard)
            | UnreadyReason::CatchingUp(shard) => Some(shard),
            _ => None,
        }
    }
}

/// One line for each kind: sixty-four shards that lack the same have one.
fn to_issues(reasons: Vec<UnreadyReason>, was_ready: bool) -> Vec<HealthIssue> {
    let mut issues: Vec<(HealthIssue, Vec<String>)> = Vec::new();
    for reason in reasons {
        let issue = HealthIssue { text: reason.text(), blocks: reason.blocks(was_ready) };
        let shard = reason.shard().map(|shard| shard.to_string());
        match issues.iter_mut().find(|(known, _)| *known == issue) {
            Some((_, shards)) => shards.extend(shard),
            None => issues.push((issue, shard.into_iter().collect())),
        }
    }
    let with_shards = |(reason, shards): (HealthIssue, Vec<String>)| match shards.is_empty() {
        true => reason,
        false => HealthIssue { text: format!("{}: {}", shards.join(", "), reason.text), ..reason },
    };
    issues.into_iter().map(with_shards).collect()
}

impl HealthIssue {
    /// Something that keeps the node from everything.
    pub(super) fn blocking_all(text: impl Into<String>) -> HealthIssue {
        HealthIssue { text: text.into(), blocks: BlockedServices::ALL }
    }
}

impl BlockedServices {
    /// Everything.
    pub(super) const ALL: BlockedServices = BlockedServices { publish: true, viewers: true };
    /// Publishing alone.
    pub(super) const PUBLISH: BlockedServices = BlockedServices { publish: true, viewers: false };
    /// New subscribers are rejected, and publishes are taken in.
    pub(super) const VIEWERS: BlockedServices = BlockedServices { publish: false, viewers: true };

    /// Whether it is anything at all.
    pub(super) fn any(self) -> bool {
        self.publish || self.viewers
    }
}

impl fmt::Display for GroupFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            GroupFault::NoLeader => f.write_str("has no leader that this node can hear"),
            GroupFault::LeaderUnreachable(leader) => {
                write!(f, "is led by {leader}, of which nothing is heard")
            }
            GroupFault::NoMajority => {
                f.write_str("is led by this node, and a majority of it does not answer")
            }
        }
    }
}

#[cfg(test)]
mod health_test;
