//! Decides which survivor recreates which group. Every survivor makes the decision itself, and all of them
//! from the same surveys, so that no group is recreated twice and none is left out.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use pushonce_core::{FailPoint, NodeId};
use serde::Serialize;

use super::survey::{Survey, SurveyMember, SurveyReplica};

type Surveys = BTreeMap<NodeId, Survey>;

/// The plan for one survivor: what would be done, or was done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct RecoveryPlan {
    /// The cluster.
    pub(crate) cluster: String,
    /// This node.
    pub(crate) node: NodeId,
    /// A hash of the surveys and of `lost`: survivors with different hashes have different plans.
    pub(crate) digest: String,
    /// The members that are lost for good.
    pub(crate) lost: BTreeSet<NodeId>,
    /// The node that recreates the control group without the lost members. `None` when the group has its
    /// majority: then it continues, and the lost members stay until they are removed.
    pub(crate) control: Option<NodeId>,
    /// The fate of each shard, by id.
    pub(crate) shards: BTreeMap<u16, ShardRecovery>,
    /// Replicas of survivors that cannot be read.
    pub(crate) unreadable: Vec<UnreadableReplica>,
}

/// The fate of a shard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "fate", rename_all = "snake_case")]
pub(crate) enum ShardRecovery {
    /// Most of its replicas survive: the shard continues as it is.
    HasMajority,
    /// Recreated from the replica here. Everything the lost nodes acknowledged after its last entry is lost.
    Recovered {
        /// Index of the last entry here.
        last_index: u64,
        topics: usize,
        messages: usize,
        /// Whether this replica itself had lost entries that it had acknowledged.
        is_incomplete: bool,
    },
    /// Recreated empty: no survivor has a replica.
    Empty,
    /// Another survivor recreates it: run the command there too.
    RecoveredElsewhere {
        /// The survivor that recreates the shard.
        node: NodeId,
    },
}

/// A replica of a shard that is lost although its node survived.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct UnreadableReplica {
    pub(crate) shard: u16,
    pub(crate) node: NodeId,
    /// Why it cannot be read.
    pub(crate) reason: String,
}

/// Why there is no plan.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PlanError {
    #[error("no member is called {name:?}; the members are {known_nodes}")]
    UnknownNode { name: String, known_nodes: String },
    #[error(
        "{name} is the id of one member and the name of {other_node}: use {other_node} or {id}"
    )]
    AmbiguousName { name: String, id: NodeId, other_node: NodeId },
    /// The other survivors may have more entries, or another plan.
    #[error(
        "{} not in --lost: on each run `pushonce --json cluster recover` with the same --lost, and give \
         the outputs of all survivors, including this one, with --surveys",
        names_with_verb(.0)
    )]
    MissingSurveys(BTreeSet<NodeId>),
    #[error("{0} is a survivor: --lost takes only the nodes that are lost for good")]
    LostNodeSurvives(NodeId),
    /// Its replicas may be older than its removal, and the cluster would reject it.
    #[error(
        "{node} is no longer a member according to the survey of {surveyed_by}: leave {node} out. To use that \
         machine again, wipe its data directory and let it join"
    )]
    NotAMember { node: NodeId, surveyed_by: NodeId },
    #[error(
        "the control group has a majority without the lost nodes: start the others, and remove each \
         lost one with `pushonce cluster remove`"
    )]
    NothingToRecover,
    #[error("no survivor is an active member with the core role: none can hold shards")]
    NoEligibleSurvivor,
}

/// Makes the plan for `me`. The surveys are of all survivors, including this node.
///
/// # Errors
/// [`PlanError`] when there is no valid plan.
pub(super) fn make_plan(
    surveys: &Surveys,
    me: NodeId,
    lost: &BTreeSet<NodeId>,
) -> Result<RecoveryPlan, PlanError> {
    if let Some(&survivor) = lost.iter().find(|node| surveys.contains_key(node)) {
        return Err(PlanError::LostNodeSurvives(survivor));
    }
    let control_replicas: GroupReplicas<'_> =
        surveys.iter().map(|(&node, survey)| (node, &survey.control)).collect();
    let (newest, _) = most_complete(&control_replicas).ok_or(PlanError::NoEligibleSurvivor)?;
    check_all_are_members(surveys, newest)?;
    let members = &surveys[&newest].members;
    check_all_are_surveyed(surveys, members, lost)?;
    let can_hold_shards = |node: &NodeId| {
        members.get(node).is_some_and(|member| member.has_core_role && member.is_active)
    };
    let eligible = control_replicas.iter().filter(|(node, _)| can_hold_shards(node));
    let eligible = eligible.map(|(&node, &replica)| (node, replica)).collect();
    let (recovering_node, _) = most_complete(&eligible).ok_or(PlanError::NoEligibleSurvivor)?;
    let control = (!has_majority(&control_replicas)).then_some(recovering_node);
    if control.is_some() {
        // The node may lag behind the newest survey, and its list of members becomes the cluster's.
        check_all_are_members(surveys, recovering_node)?;
    }
    let shards = plan_shards(surveys, me, recovering_node, surveys[&newest].shard_count);
    if control.is_none() && shards.values().all(|fate| *fate == ShardRecovery::HasMajority) {
        return Err(PlanError::NothingToRecover);
    }
    Ok(RecoveryPlan {
        cluster: surveys[&newest].cluster.clone(),
        node: me,
        digest: digest(surveys, lost),
        lost: lost.clone(),
        control,
        shards,
        unreadable: unreadable_replicas(surveys),
    })
}

fn check_all_are_members(surveys: &Surveys, surveyor: NodeId) -> Result<(), PlanError> {
    let members = &surveys[&surveyor].members;
    match surveys.keys().find(|node| !members.contains_key(node)) {
        Some(&node) => Err(PlanError::NotAMember { node, surveyed_by: surveyor }),
        None => Ok(()),
    }
}

fn check_all_are_surveyed(
    surveys: &Surveys,
    members: &BTreeMap<NodeId, SurveyMember>,
    lost: &BTreeSet<NodeId>,
) -> Result<(), PlanError> {
    let core = members.iter().filter(|(_, member)| member.has_core_role).map(|(&node, _)| node);
    let missing = core.filter(|node| !lost.contains(node) && !surveys.contains_key(node));
    let missing: BTreeSet<_> = missing.collect();
    if missing.is_empty() { Ok(()) } else { Err(PlanError::MissingSurveys(missing)) }
}

/// Decides the fate of each shard. A shard without any surviving replica is recreated at `holder`.
fn plan_shards(
    surveys: &Surveys,
    me: NodeId,
    fallback_node: NodeId,
    count: u16,
) -> BTreeMap<u16, ShardRecovery> {
    let plan_shard = |shard: u16| {
        let replicas: GroupReplicas<'_> = surveys
            .iter()
            .filter_map(|(&node, survey)| Some((node, survey.shards.get(&shard)?)))
            .collect();
        let replicas = match replicas.get(&me) {
            Some(&own) if FailPoint::RecoveryIgnoresOthers.is_active() => {
                BTreeMap::from([(me, own)])
            }
            _ => replicas,
        };
        match most_complete(&replicas) {
            Some(_) if has_majority(&replicas) => ShardRecovery::HasMajority,
            Some((node, replica)) if node == me => ShardRecovery::Recovered {
                last_index: replica.last_index,
                topics: replica.topic_count,
                messages: replica.message_count,
                is_incomplete: replica.is_incomplete,
            },
            Some((node, _)) => ShardRecovery::RecoveredElsewhere { node },
            None if fallback_node == me => ShardRecovery::Empty,
            None => ShardRecovery::RecoveredElsewhere { node: fallback_node },
        }
    };
    (0..count).map(|shard| (shard, plan_shard(shard))).collect()
}

/// The surviving replicas of one group.
type GroupReplicas<'a> = BTreeMap<NodeId, &'a SurveyReplica>;

/// The replica that has most of what was acknowledged. Among equal ones a complete replica wins, then the
/// lowest node id.
fn most_complete<'a>(replicas: &GroupReplicas<'a>) -> Option<(NodeId, &'a SurveyReplica)> {
    let key = |(node, replica): &(NodeId, &SurveyReplica)| {
        (replica.last_term, replica.last_index, !replica.is_incomplete, Reverse(*node))
    };
    replicas.iter().map(|(&node, &replica)| (node, replica)).max_by_key(key)
}

/// Whether the surviving replicas can elect a leader: they are a majority of each configuration that the
/// newest of them names. A voter without a survey is no survivor, whether it is in `--lost` or was removed
/// before. An incomplete replica does not vote.
fn has_majority(replicas: &GroupReplicas<'_>) -> bool {
    let Some((_, newest)) = most_complete(replicas) else { return false };
    let can_vote =
        |node: &&NodeId| replicas.get(node).is_some_and(|replica| !replica.is_incomplete);
    let is_majority =
        |voters: &BTreeSet<NodeId>| voters.iter().filter(can_vote).count() > voters.len() / 2;
    !newest.voters.is_empty() && newest.voters.iter().all(is_majority)
}

fn unreadable_replicas(surveys: &Surveys) -> Vec<UnreadableReplica> {
    let of_survey = |(&node, survey): (&NodeId, &Survey)| {
        let replicas = survey.unreadable.clone().into_iter();
        replicas
            .map(move |(shard, reason)| UnreadableReplica { shard, node, reason })
            .collect::<Vec<_>>()
    };
    surveys.iter().flat_map(of_survey).collect()
}

/// FNV-1a, folded to 32 bits: short enough to be compared by eye. It distinguishes different plans; it
/// does not protect against forged surveys.
fn digest(surveys: &Surveys, lost: &BTreeSet<NodeId>) -> String {
    // Maps with ids as keys can always be serialized as JSON.
    let text = serde_json::to_vec(&(surveys, lost)).unwrap_or_default();
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
    let hash = text.iter().fold(0xcbf2_9ce4_8422_2325, step);
    format!("{:08x}", (hash ^ (hash >> 32)) & 0xffff_ffff)
}

fn names_with_verb(nodes: &BTreeSet<NodeId>) -> String {
    let names: Vec<_> = nodes.iter().map(ToString::to_string).collect();
    format!("{} {}", names.join(", "), if names.len() == 1 { "is" } else { "are" })
}

#[cfg(test)]
mod plan_test;
