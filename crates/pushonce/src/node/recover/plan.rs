//! Which survivor begins which group anew. Every survivor decides it for itself, and all of them by the
//! same surveys, so that no group is begun anew twice and none is left out.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use pushonce_core::{FailPoint, NodeId};
use serde::Serialize;

use super::survey::{Survey, SurveyMember, SurveyReplica};

type Surveys = BTreeMap<NodeId, Survey>;

/// What would be done on one survivor, or was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct RecoveryPlan {
    /// The cluster.
    pub(crate) cluster: String,
    /// This node.
    pub(crate) node: NodeId,
    /// A hash of the surveys and of `lost_nodes`: equal on all survivors, or they have different plans.
    pub(crate) digest: String,
    /// The members that are lost for good.
    pub(crate) lost: BTreeSet<NodeId>,
    /// Where the control group is begun anew without the lost members. None when it has its majority: then
    /// it goes on by itself, and the lost stay members until they are removed.
    pub(crate) control: Option<NodeId>,
    /// What becomes of each shard, by id.
    pub(crate) shards: BTreeMap<u16, ShardRecovery>,
    /// Replicas of survivors that cannot be read.
    pub(crate) unreadable: Vec<UnreadableReplica>,
}

/// What becomes of a shard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "fate", rename_all = "snake_case")]
pub(crate) enum ShardRecovery {
    /// Most of its replicas survive: it goes on by itself.
    HasMajority,
    /// Begun anew with what is here. Whatever the lost nodes acknowledged after the last entry is lost.
    Recovered {
        /// The last entry here.
        last_index: u64,
        topics: usize,
        messages: usize,
        /// This replica itself had lost something that it had acknowledged.
        is_incomplete: bool,
    },
    /// Begun anew and empty: no survivor has anything of it.
    Empty,
    /// Another survivor begins it anew: this command is to be run there, too.
    RecoveredElsewhere {
        /// The survivor.
        node: NodeId,
    },
}

/// A replica of a shard that is lost although its node survived.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct UnreadableReplica {
    pub(crate) shard: u16,
    pub(crate) node: NodeId,
    /// What is wrong with it.
    pub(crate) reason: String,
}

/// Why there is no plan.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PlanError {
    #[error("no member is called {name:?}; there are {known_nodes}")]
    UnknownNode { name: String, known_nodes: String },
    #[error(
        "{name} is the id of one member and the name of {other_node}: say {other_node} or {id}"
    )]
    AmbiguousName { name: String, id: NodeId, other_node: NodeId },
    /// Other survivors may have more, or another plan.
    #[error(
        "{} not in --lost: on each run `pushonce --json cluster recover` with the same --lost, and give \
         what it prints on every survivor, this one too, with --surveys",
        names_with_verb(.0)
    )]
    MissingSurveys(BTreeSet<NodeId>),
    #[error("{0} is a survivor: --lost takes only the nodes that are lost for good")]
    LostNodeSurvives(NodeId),
    /// Its replicas may be older than its removal, and the cluster would refuse it.
    #[error(
        "{node} is no member any more, as the survey of {node} has it: leave {node} out. To use that \
         machine again, wipe its data directory and let it join"
    )]
    NotAMember { node: NodeId, surveyed_by: NodeId },
    #[error(
        "the control group has a majority without the lost nodes: start the others, and take each \
         lost one out with `pushonce cluster remove`"
    )]
    NothingToRecover,
    #[error("no survivor is an active member with the core role: none can hold shards")]
    NoEligibleSurvivor,
}

/// Decides for `me`. The surveys are of all survivors, this node among them.
///
/// # Errors
/// [`PlanError`].
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
        // The holder may have heard less than the newest, and its members are those that stay.
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

/// What becomes of each shard. One of which there is nothing begins at `holder`.
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

/// The replicas of one group that survive.
type GroupReplicas<'a> = BTreeMap<NodeId, &'a SurveyReplica>;

/// The replica that has most of what was acknowledged. Of equal ones the one that lost nothing, then the
/// one of the lowest id.
fn most_complete<'a>(replicas: &GroupReplicas<'a>) -> Option<(NodeId, &'a SurveyReplica)> {
    let key = |(node, replica): &(NodeId, &SurveyReplica)| {
        (replica.last_term, replica.last_index, !replica.is_incomplete, Reverse(*node))
    };
    replicas.iter().map(|(&node, &replica)| (node, replica)).max_by_key(key)
}

/// Whether the surviving replicas can elect a leader: a majority of each configuration that the newest of
/// them names. A voter that nobody surveyed is no survivor, whether it is in `--lost` or was removed before.
/// An incomplete replica does not vote.
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

/// FNV-1a, folded to 32 bits: short enough to be compared by eye. It tells different plans apart; it is
/// no protection against a person who forges a survey.
fn digest(surveys: &Surveys, lost: &BTreeSet<NodeId>) -> String {
    // Maps with ids as keys can always be written as JSON.
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
