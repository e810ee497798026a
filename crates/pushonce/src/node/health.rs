//! Evaluates whether the node can do its work: the facts of each check, how long each fault has lasted,
//! and the reasons shown to operators. Pure; the time is an argument.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::{Duration, Instant};

use pushonce_consensus::GroupStatus;
use pushonce_core::{FailPoint, MemberState, NodeId, ShardId, VersionConflict};

/// The facts that one check gathered.
#[derive(Clone, Debug)]
pub(super) struct HealthFacts {
    /// This node.
    pub(super) me: NodeId,
    /// The state of this node in the committed view.
    pub(super) member_state: Option<MemberState>,
    /// The control group as this node sees it.
    pub(super) control_group: GroupSummary,
    /// Whether the view of the cluster is current: before that this node accepts no publishes.
    pub(super) is_current: bool,
    /// The shards of which this node had a replica when it started.
    pub(super) restored: BTreeSet<ShardId>,
    /// Whether some of the `restored` replicas have not been started yet.
    pub(super) is_opening: bool,
    /// The replicas that run here.
    pub(super) replicas: BTreeMap<ShardId, GroupSummary>,
    /// The owner of each shard, if it is known.
    pub(super) owners: BTreeMap<ShardId, Option<NodeId>>,
    /// The voters of each shard as its owner last reported them; until then, those of the placement table.
    pub(super) voters: BTreeMap<ShardId, Vec<NodeId>>,
    /// The nodes that this node has a link to, and this node.
    pub(super) reachable: BTreeSet<NodeId>,
    /// The shards of which this node has not been able to confirm for some seconds that it has every message.
    pub(super) stale: BTreeSet<ShardId>,
    /// Why the disk accepts no publishes, if it does not.
    pub(super) disk_problem: Option<String>,
    /// Why this node no longer takes part in any group, if its log was rolled back.
    pub(super) rolled_back: Option<String>,
    /// Why groups have halted here: they found something that this build cannot read. The key `None` is the
    /// control group.
    pub(super) halted: BTreeMap<Option<ShardId>, String>,
    /// The nodes that this node exchanges no frames with because of their versions.
    pub(super) version_conflicts: BTreeMap<NodeId, VersionConflict>,
    /// For each watched loop a counter that rises as long as the loop progresses.
    pub(super) loop_counts: BTreeMap<WatchedLoop, u64>,
}

/// The state of a group as this node sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct GroupSummary {
    /// The leader of the group.
    pub(super) leader: Option<NodeId>,
    /// Whether this node is the leader and has a lease.
    pub(super) leads: bool,
    /// Index of the last log entry here.
    pub(super) last_log: u64,
    /// Index of the last applied entry.
    pub(super) applied: u64,
    /// Number of entries that the leader has and this replica has not applied; `None` before the leader was
    /// received.
    pub(super) lag: Option<u64>,
}

/// A loop of the node whose progress is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum WatchedLoop {
    /// The thread of a lane, which serves a part of the clients.
    Lane(usize),
    /// The relay, which delivers to and from other nodes.
    Relay,
}

/// A reason why the node is not ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum UnreadyReason {
    NotMember,
    Joining,
    ControlGroup(GroupFault),
    Shard(ShardId, GroupFault),
    NoOwner(ShardId),
    OwnerUnreachable(ShardId, NodeId),
    /// An owner is known and reachable, but this node gets no confirmation that it has every message.
    Stale(ShardId),
    /// Most replicas of this shard are unreachable, and those of most other shards are not.
    ReplicasUnreachable(ShardId),
    ApplyStalled(ShardId),
    CatchingUp(ShardId),
    LoopStalled(WatchedLoop),
}

/// What is wrong with a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum GroupFault {
    NoLeader,
    LeaderUnreachable(NodeId),
    NoMajority,
}

/// A reason why the node is not ready, as text for operators, and the services that it blocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HealthIssue {
    /// The text for operators.
    pub(super) text: String,
    /// The services that the node cannot offer.
    pub(super) blocks: BlockedServices,
}

/// Services that a node cannot offer. A reason that blocks nothing is a warning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct BlockedServices {
    /// Accepting publishes.
    pub(super) publish: bool,
    /// Serving subscribers.
    pub(super) viewers: bool,
}

/// Evaluates the facts again and again, and remembers since when each fault has lasted.
#[derive(Debug, Default)]
pub(super) struct HealthMonitor {
    /// Whether an evaluation found nothing that blocks a service: from then on short faults are tolerated.
    was_ready: bool,
    first_seen: BTreeMap<UnreadyReason, Instant>,
    /// Per loop the last count, and since when it has been that.
    loop_progress: BTreeMap<WatchedLoop, (u64, Instant)>,
    apply_progress: BTreeMap<ShardId, (u64, Instant)>,
    /// The shards whose replica here has caught up with its leader since the start.
    caught_up: BTreeSet<ShardId>,
    /// Time of the first evaluation.
    first_evaluated_at: Option<Instant>,
}

/// A group without a leader elects one, and a shard without an owner gets one, within two seconds: a
/// fault that is over by then is no reason to disconnect clients.
const ELECTION_GRACE: Duration = Duration::from_secs(2);

/// A link is closed after three seconds of silence; with this grace period and a check every quarter of a
/// second the fault is reported within five seconds.
const UNREACHABLE_GRACE: Duration = Duration::from_secs(1);

/// Time without progress after which a loop or a replica counts as stalled. A busy machine may need one
/// second.
const STALL_TIMEOUT: Duration = Duration::from_secs(3);

/// Maximum lag of a replica that counts as caught up: the entries that a busy shard has in flight.
const CAUGHT_UP_LAG_ENTRIES: u64 = 64;

/// Maximum time after its start for which a node is unready because its replicas have not caught up. A
/// rolling restart that continued earlier would stop the next replica while this one is incomplete. The
/// rule applies to the start only: a replica that lags later, or forever, must not keep clients from this
/// node, and under overload all nodes lag, and none of them must send its clients to the others. Metrics
/// and `pushonce cluster status` show the lag in any case.
const CATCHING_UP_MAX: Duration = Duration::from_secs(600);

impl HealthMonitor {
    /// Returns the reasons why the node cannot do its work; empty when it can.
    ///
    /// Until the node has been ready once, no fault is tolerated: ready means serving, and a node that has
    /// just started serves no client before it knows the leaders. Until then a control group without a leader
    /// also blocks everything, since the view may be an old one.
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
        // A node that sees itself as the leader may lack a majority: the group has answered nothing yet.
        issues.extend((!facts.is_current).then(|| HealthIssue {
            text: "the view of the cluster may be outdated: the control group has not answered since this node \
                   started"
                .to_owned(),
            blocks: BlockedServices::PUBLISH,
        }));
        // The disk has a reserve, so its problems are reported without a grace period.
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

    /// The replicas that were here at the start and have not caught up with their leaders since.
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

    /// The loops and replicas that have made no progress for [`STALL_TIMEOUT`].
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
        // A shard without a majority has entries that cannot be committed.
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

/// The faults that the facts show now, however long they have lasted.
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
            Some(_) if facts.stale.contains(&shard) => {
                reasons.insert(UnreadyReason::Stale(shard));
            }
            Some(_) => {}
        }
    }
    reasons
}

impl HealthFacts {
    /// The groups and peers that this build cannot read, reported without a grace period. A peer that cannot
    /// read what this node writes does not make this node unready.
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

    /// The shards that have lost the majority of their replicas, as far as this node can see. Empty when they
    /// are most of all shards, or when the control group is unreachable too: then this node is isolated.
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
            // A leader without a majority still names itself.
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
    /// How long the fault may last before it is reported.
    fn grace_period(self) -> Duration {
        match self {
            UnreadyReason::NotMember | UnreadyReason::Joining => Duration::ZERO,
            UnreadyReason::ControlGroup(GroupFault::NoLeader | GroupFault::NoMajority)
            | UnreadyReason::Shard(_, GroupFault::NoLeader | GroupFault::NoMajority)
            | UnreadyReason::NoOwner(_) => ELECTION_GRACE,
            UnreadyReason::ControlGroup(GroupFault::LeaderUnreachable(_))
            | UnreadyReason::Shard(_, GroupFault::LeaderUnreachable(_))
            | UnreadyReason::ReplicasUnreachable(_)
            | UnreadyReason::OwnerUnreachable(..)
            | UnreadyReason::Stale(_) => UNREACHABLE_GRACE,
            // These have lasted long enough already.
            UnreadyReason::ApplyStalled(_)
            | UnreadyReason::CatchingUp(_)
            | UnreadyReason::LoopStalled(_) => Duration::ZERO,
        }
    }

    /// The text of the reason, without the shard: shards with the same fault share one line.
    fn text(self) -> String {
        match self {
            UnreadyReason::NotMember => "this node is not a member of the cluster yet".to_owned(),
            UnreadyReason::Joining => "this node is still joining".to_owned(),
            UnreadyReason::ControlGroup(fault) => {
                format!("the control group {fault}: no node can join, leave or move")
            }
            UnreadyReason::Shard(_, fault) => format!("cannot commit: the shard {fault}"),
            UnreadyReason::NoOwner(_) => "no owner is known".to_owned(),
            UnreadyReason::OwnerUnreachable(_, owner) => {
                format!("cannot deliver: the owner {owner} is unreachable")
            }
            UnreadyReason::Stale(_) => {
                "cannot deliver: the owner does not confirm that this node has every message"
                    .to_owned()
            }
            UnreadyReason::ReplicasUnreachable(_) => {
                "no reachable nodes have a majority of its replicas: its topics are unavailable \
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
                "the thread lane-{lane}, which serves clients, has made no progress for {} s",
                STALL_TIMEOUT.as_secs()
            ),
            UnreadyReason::LoopStalled(WatchedLoop::Relay) => {
                format!(
                    "the relay between nodes has made no progress for {} s",
                    STALL_TIMEOUT.as_secs()
                )
            }
        }
    }

    /// The services that the reason blocks.
    fn blocks(self, was_ready: bool) -> BlockedServices {
        match self {
            UnreadyReason::NotMember
            | UnreadyReason::Joining
            | UnreadyReason::NoOwner(_)
            | UnreadyReason::OwnerUnreachable(..)
            | UnreadyReason::Stale(_)
            | UnreadyReason::ApplyStalled(_)
            | UnreadyReason::CatchingUp(_)
            | UnreadyReason::LoopStalled(_)
            // Without a lease the topics of the shard cannot be read here either.
            | UnreadyReason::Shard(_, GroupFault::NoMajority) => BlockedServices::ALL,
            // A follower without a leader still forwards publishes to an owner and serves the owner's messages;
            // owners report a missing leader themselves. But the replica here may be the one that is missing.
            UnreadyReason::Shard(_, GroupFault::NoLeader | GroupFault::LeaderUnreachable(_)) => BlockedServices::PUBLISH,
            // Publishing and reading do not need the control group.
            UnreadyReason::ControlGroup(_) if was_ready => BlockedServices::default(),
            // All other shards are served, and no other node could serve these.
            UnreadyReason::ReplicasUnreachable(_) => BlockedServices::default(),
            UnreadyReason::ControlGroup(_) => BlockedServices::ALL,
        }
    }

    fn shard(self) -> Option<ShardId> {
        match self {
            UnreadyReason::Shard(shard, _)
            | UnreadyReason::NoOwner(shard)
            | UnreadyReason::OwnerUnreachable(shard, _)
            | UnreadyReason::Stale(shard)
            | UnreadyReason::ReplicasUnreachable(shard)
            | UnreadyReason::ApplyStalled(shard)
            | UnreadyReason::CatchingUp(shard) => Some(shard),
            _ => None,
        }
    }
}

/// Groups equal reasons: 64 shards with the same fault share one line.
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
    /// An issue that blocks every service.
    pub(super) fn blocking_all(text: impl Into<String>) -> HealthIssue {
        HealthIssue { text: text.into(), blocks: BlockedServices::ALL }
    }
}

impl BlockedServices {
    /// Every service.
    pub(super) const ALL: BlockedServices = BlockedServices { publish: true, viewers: true };
    /// Publishing only.
    pub(super) const PUBLISH: BlockedServices = BlockedServices { publish: true, viewers: false };
    /// Subscribing only: new subscribers are rejected, and publishes are accepted.
    pub(super) const VIEWERS: BlockedServices = BlockedServices { publish: false, viewers: true };

    /// Whether any service is blocked.
    pub(super) fn any(self) -> bool {
        self.publish || self.viewers
    }
}

impl fmt::Display for GroupFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            GroupFault::NoLeader => f.write_str("has no leader that this node can reach"),
            GroupFault::LeaderUnreachable(leader) => {
                write!(f, "is led by {leader}, which is unreachable")
            }
            GroupFault::NoMajority => {
                f.write_str("is led by this node, but a majority of it does not answer")
            }
        }
    }
}

#[cfg(test)]
mod health_test;
