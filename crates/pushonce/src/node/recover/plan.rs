//! Which survivor begins which group anew. Every survivor decides it for itself, and all of them by the
//! same surveys, so that no group is begun anew twice and none is left out.

use std::collections::{BTreeMap, BTreeSet};

use pushonce_core::NodeId;
use serde::Serialize;

use super::survey::{Replica, Survey};

/// What would be done on one survivor, or was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Plan {
    /// The cluster.
    pub(crate) cluster: String,
    /// This node.
    pub(crate) node: NodeId,
    /// The members that are removed for ever.
    pub(crate) lost: BTreeSet<NodeId>,
    /// Where the control group is begun anew.
    pub(crate) control: NodeId,
    /// The shards of which there is something to say, by id.
    pub(crate) shards: BTreeMap<u16, Fate>,
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

/// Why there is no plan.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoPlan {
    /// Other survivors may have more, or another plan.
    #[error(
        "{} not in --lost: on each run `pushonce --json cluster recover` with the same --lost, and give \
         what it prints on every survivor, this one too, with --surveys",
        are(.0)
    )]
    Unsurveyed(BTreeSet<NodeId>),
    #[error("{0} is a survivor: --lost takes only the nodes that are lost for good")]
    Survives(NodeId),
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
    surveys: &BTreeMap<NodeId, Survey>,
    me: NodeId,
    lost: &BTreeSet<NodeId>,
) -> Result<Plan, NoPlan> {
    if let Some(&survivor) = lost.iter().find(|node| surveys.contains_key(node)) {
        return Err(NoPlan::Survives(survivor));
    }
    let controls = surveys.iter().map(|(&node, survey)| (node, &survey.control));
    let (newest, _) = fullest(controls.clone()).ok_or(NoPlan::NoHolder)?;
    let members = &surveys[&newest].members;
    let core = members.iter().filter(|(_, member)| member.core).map(|(&node, _)| node);
    let unsurveyed: BTreeSet<_> =
        core.filter(|node| !lost.contains(node) && !surveys.contains_key(node)).collect();
    if !unsurveyed.is_empty() {
        return Err(NoPlan::Unsurveyed(unsurveyed));
    }
    if has_majority(&surveys[&newest].control.voters, lost) {
        return Err(NoPlan::HasMajority);
    }
    let holds =
        |node: &NodeId| members.get(node).is_some_and(|member| member.core && member.active);
    let (control, _) = fullest(controls.filter(|(node, _)| holds(node))).ok_or(NoPlan::NoHolder)?;
    Ok(Plan {
        cluster: surveys[&newest].cluster.clone(),
        node: me,
        lost: lost.clone(),
        control,
        shards: shards(surveys, me, lost, control),
    })
}

fn shards(
    surveys: &BTreeMap<NodeId, Survey>,
    me: NodeId,
    lost: &BTreeSet<NodeId>,
    control: NodeId,
) -> BTreeMap<u16, Fate> {
    let table = &surveys[&control].table;
    let fate = |shard: u16, row: &[NodeId]| {
        let replicas =
            surveys.iter().filter_map(|(&node, survey)| Some((node, survey.shards.get(&shard)?)));
        match fullest(replicas) {
            Some((_, replica)) if has_majority(&replica.voters, lost) => Some(Fate::GoesOn),
            Some((node, replica)) if node == me => Some(Fate::Recovered {
                last: replica.last,
                topics: replica.topics,
                messages: replica.messages,
                incomplete: replica.incomplete,
            }),
            Some((node, _)) => Some(Fate::Elsewhere { node }),
            None if has_majority(&row.iter().copied().collect(), lost) => None,
            None if control == me => Some(Fate::Empty),
            None => Some(Fate::Elsewhere { node: control }),
        }
    };
    let rows = (0_u16..).zip(table);
    rows.filter_map(|(shard, row)| Some((shard, fate(shard, row)?))).collect()
}

/// The replica that has most of what was acknowledged. Of equal ones the one that lost nothing, then the
/// one of the lowest id.
fn fullest<'a>(
    replicas: impl Iterator<Item = (NodeId, &'a Replica)>,
) -> Option<(NodeId, &'a Replica)> {
    let key = |(node, replica): &(NodeId, &Replica)| {
        (replica.last_term, replica.last, !replica.incomplete, std::cmp::Reverse(*node))
    };
    replicas.max_by_key(key)
}

fn has_majority(voters: &BTreeSet<NodeId>, lost: &BTreeSet<NodeId>) -> bool {
    voters.difference(lost).count() > voters.len() / 2
}

fn are(nodes: &BTreeSet<NodeId>) -> String {
    let names: Vec<_> = nodes.iter().map(ToString::to_string).collect();
    format!("{} {}", names.join(", "), if names.len() == 1 { "is" } else { "are" })
}

#[cfg(test)]
mod plan_test;
