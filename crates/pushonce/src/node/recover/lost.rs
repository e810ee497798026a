//! Which nodes `--lost` names. Decided by the surveys of all survivors, so that a node whose view lags
//! reads the same names as the others.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use pushonce_core::NodeId;

use super::plan::NoPlan;
use super::survey::{Replica, Survey};

/// The ids of some nodes: `n3`, or the name of a member.
///
/// # Errors
/// [`NoPlan::Unknown`] when no node is called that, [`NoPlan::Ambiguous`] when two are.
pub(super) fn resolve(
    surveys: &BTreeMap<NodeId, Survey>,
    names: &[String],
) -> Result<BTreeSet<NodeId>, NoPlan> {
    let mut newest_first: Vec<&Survey> = surveys.values().collect();
    newest_first.sort_by_key(|survey| {
        let Replica { last_term, last, .. } = survey.control;
        Reverse((last_term, last))
    });
    names.iter().map(|name| one(&newest_first, name)).collect()
}

fn one(newest_first: &[&Survey], name: &str) -> Result<NodeId, NoPlan> {
    let by_id = name.strip_prefix('n').and_then(|id| id.parse().ok()).map(NodeId);
    let by_id = by_id.filter(|&id| newest_first.iter().any(|survey| knows(survey, id)));
    // A name may pass to another member: the newest survey that has it counts.
    let by_name = newest_first.iter().find_map(|survey| named(survey, name));
    match (by_id, by_name) {
        (Some(id), Some(other)) if id != other => {
            Err(NoPlan::Ambiguous { name: name.to_owned(), id, other })
        }
        (Some(id), _) | (None, Some(id)) => Ok(id),
        (None, None) => {
            let known = newest_first.first().map(|survey| members(survey)).unwrap_or_default();
            Err(NoPlan::Unknown { name: name.to_owned(), known })
        }
    }
}

fn named(survey: &Survey, name: &str) -> Option<NodeId> {
    survey.members.iter().find(|(_, member)| member.name == name).map(|(&id, _)| id)
}

/// Whether the survey names the node: as a member, or as a voter. Another survivor may have removed it
/// from the members already, and it votes in shards until these are begun anew.
fn knows(survey: &Survey, node: NodeId) -> bool {
    let replicas = survey.shards.values().chain([&survey.control]);
    let votes = || replicas.flat_map(|replica| &replica.voters).any(|set| set.contains(&node));
    survey.members.contains_key(&node) || votes()
}

fn members(survey: &Survey) -> String {
    let known = survey.members.iter().map(|(id, member)| format!("{id} ({})", member.name));
    known.collect::<Vec<_>>().join(", ")
}
