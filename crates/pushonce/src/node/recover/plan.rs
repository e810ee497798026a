//! Which survivor begins which group anew. Every survivor decides it for itself, and all of them by the
//! same surveys, so that no group is begun anew twice and none is left out.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use pushonce_core::NodeId;
use serde::Serialize;

use super::survey::{Member, Replica, Survey};

type Surveys = BTreeMap<NodeId, Survey>;

/// What would be done on one survivor, or was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Plan {
    /// The cluster.
    pub(crate) cluster: String,
    /// This node.
    pub(crate) node: NodeId,
    /// A hash of the surveys and of `lost`: equal on all survivors, or they have different plans.
    pub(crate) digest: String,
    /// The members that are lost for good.
    pub(crate) lost: BTreeSet<NodeId>,
    /// Where the control group is begun anew without the lost members. None when it has its majority: then
    /// it goes on by itself, and the lost stay members until they are removed.
    pub(crate) control: Option<NodeId>,
    /// What becomes of each shard, by id.
    pub(crate) shards: BTreeMap<u16, Fate>,
    /// Replicas of survivors that cannot be read.
    pub(crate) unreadable: Vec<Unreadable>,
}

/// What becomes of a shard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "fate", rename_all = "snake_case")]
pub(crate) enum Fate {
    /// Most of its replicas survive: it goes on by itself.
    GoesOn,
    /// Begun anew with what is here. Whatever the lost nodes acknowledged after the last entry is lost.
    Recovered {
        /// The last entry here.
        last: u64,
        topics: usize,
        messages: usize,
        /// This replica itself had lost something that it had acknowledged.
        incomplete: bool,
    },
    /// Begun anew and empty: no survivor has anything of it.
    Empty,
    /// Another survivor begins it anew: this command is to be run there, too.
    Elsewhere {
        /// The survivor.
        node: NodeId,
    },
}

/// A replica of a shard that is lost although its node survived.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Unreadable {
    pub(crate) shard: u16,
    pub(crate) node: NodeId,
    /// What is wrong with it.
    pub(crate) why: String,
}

/// Why there is no plan.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoPlan {
    #[error("no member is called {name:?}; there are {known}")]
    Unknown { name: String, known: String },
    #[error("{name} is the id of one member and the name of {other}: say {other} or {id}")]
    Ambiguous { name: String, id: NodeId, other: NodeId },
    /// Other survivors may have more, or another plan.
    #[error(
        "{} not in --lost: on each run `pushonce --json cluster recover` with the same --lost, and give \
         what it prints on every survivor, this one too, with --surveys",
        are(.0)
    )]
    Unsurveyed(BTreeSet<NodeId>),
    #[error("{0} is a survivor: --lost takes only the nodes that are lost for good")]
    Survives(NodeId),
    /// Its replicas may be older than its removal, and the cluster would refuse it.
    #[error(
        "{node} is no member any more, as the survey of {by} has it: leave {node} out. To use that \
         machine again, wipe its data directory and let it join"
    )]
    NoMember { node: NodeId, by: NodeId },
    #[error(
        "the control group has a majority without the lost nodes: start the others, and take each \
         lost one out with `pushonce cluster remove`"
    )]
    HasMajority,
    #[error("no survivor is an active member with the core role: none can hold shards")]
    NoHolder,
}

/// Decides for `me`. The surveys are of all survivors, this node among them.
///
/// # Errors
/// [`NoPlan`].
pub(super) fn decide(
    surveys: &Surveys,
    me: NodeId,
    lost: &BTreeSet<NodeId>,
) -> Result<Plan, NoPlan> {
    if let Some(&survivor) = lost.iter().find(|node| surveys.contains_key(node)) {
        return Err(NoPlan::Survives(survivor));
    }
    let controls: Replicas<'_> = surveys.iter().map(|(&node, own)| (node, &own.control)).collect();
    let (newest, _) = fullest(&controls).ok_or(NoPlan::NoHolder)?;
    all_are_members(surveys, newest)?;
    let members = &surveys[&newest].members;
    all_are_surveyed(surveys, members, lost)?;
    let holds =
        |node: &NodeId| members.get(node).is_some_and(|member| member.core && member.active);
    let holders = controls.iter().filter(|(node, _)| holds(node));
    let holders = holders.map(|(&node, &replica)| (node, replica)).collect();
    let (holder, _) = fullest(&holders).ok_or(NoPlan::NoHolder)?;
    let control = (!has_majority(&controls)).then_some(holder);
    if control.is_some() {
        // The holder may have heard less than the newest, and its members are those that stay.
        all_are_members(surveys, holder)?;
    }
    let shards = shards(surveys, me, holder, surveys[&newest].shard_count);
    if control.is_none() && shards.values().all(|fate| *fate == Fate::GoesOn) {
        return Err(NoPlan::HasMajority);
    }
    Ok(Plan {
        cluster: surveys[&newest].cluster.clone(),
        node: me,
        digest: digest(surveys, lost),
        lost: lost.clone(),
        control,
        shards,
        unreadable: unreadable(surveys),
    })
}

fn all_are_members(surveys: &Surveys, by: NodeId) -> Result<(), NoPlan> {
    let members = &surveys[&by].members;
    match surveys.keys().find(|node| !members.contains_key(node)) {
        Some(&node) => Err(NoPlan::NoMember { node, by }),
        None => Ok(()),
    }
}

fn all_are_surveyed(
    surveys: &Surveys,
    members: &BTreeMap<NodeId, Member>,
    lost: &BTreeSet<NodeId>,
) -> Result<(), NoPlan> {
    let core = members.iter().filter(|(_, member)| member.core).map(|(&node, _)| node);
    let missing = core.filter(|node| !lost.contains(node) && !surveys.contains_key(node));
    let missing: BTreeSet<_> = missing.collect();
    if missing.is_empty() { Ok(()) } else { Err(NoPlan::Unsurveyed(missing)) }
}

/// What becomes of each shard. One of which there is nothing begins at `holder`.
fn shards(surveys: &Surveys, me: NodeId, holder: NodeId, count: u16) -> BTreeMap<u16, Fate> {
    let fate = |shard: u16| {
        let replicas: Replicas<'_> = surveys
            .iter()
            .filter_map(|(&node, survey)| Some((node, survey.shards.get(&shard)?)))
            .collect();
        // `recovers-by-own-survey`: each survivor begins anew all that it has something of.
        #[cfg(feature = "planted-bugs")]
        let replicas: Replicas<'_> = match std::env::var("PUSHONCE_PLANTED_BUG").as_deref() {
            Ok("recovers-by-own-survey") if replicas.contains_key(&me) => {
                BTreeMap::from([(me, replicas[&me])])
            }
            _ => replicas,
        };
        match fullest(&replicas) {
            Some(_) if has_majority(&replicas) => Fate::GoesOn,
            Some((node, replica)) if node == me => Fate::Recovered {
                last: replica.last,
                topics: replica.topics,
                messages: replica.messages,
                incomplete: replica.incomplete,
            },
            Some((node, _)) => Fate::Elsewhere { node },
            None if holder == me => Fate::Empty,
            None => Fate::Elsewhere { node: holder },
        }
    };
    (0..count).map(|shard| (shard, fate(shard))).collect()
}

/// The replicas of one group that survive.
type Replicas<'a> = BTreeMap<NodeId, &'a Replica>;

/// The replica that has most of what was acknowledged. Of equal ones the one that lost nothing, then the
/// one of the lowest id.
fn fullest<'a>(replicas: &Replicas<'a>) -> Option<(NodeId, &'a Replica)> {
    let key = |(node, replica): &(NodeId, &Replica)| {
        (replica.last_term, replica.last, !replica.incomplete, Reverse(*node))
    };
    replicas.iter().map(|(&node, &replica)| (node, replica)).max_by_key(key)
}

/// Whether the surviving replicas can elect a leader: a majority of each configuration that the newest of
/// them names. A voter that nobody surveyed is no survivor, whether it is in `--lost` or was removed before.
/// An incomplete replica does not vote.
fn has_majority(replicas: &Replicas<'_>) -> bool {
    let Some((_, newest)) = fullest(replicas) else { return false };
    let votes = |node: &&NodeId| replicas.get(node).is_some_and(|replica| !replica.incomplete);
    let most = |voters: &BTreeSet<NodeId>| voters.iter().filter(votes).count() > voters.len() / 2;
    !newest.voters.is_empty() && newest.voters.iter().all(most)
}

fn unreadable(surveys: &Surveys) -> Vec<Unreadable> {
    let of = |(&node, survey): (&NodeId, &Survey)| {
        let replicas = survey.unreadable.clone().into_iter();
        replicas.map(move |(shard, why)| Unreadable { shard, node, why }).collect::<Vec<_>>()
    };
    surveys.iter().flat_map(of).collect()
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

fn are(nodes: &BTreeSet<NodeId>) -> String {
    let names: Vec<_> = nodes.iter().map(ToString::to_string).collect();
    format!("{} {}", names.join(", "), if names.len() == 1 { "is" } else { "are" })
}

#[cfg(test)]
mod plan_test;
