//! Resolves the nodes that `--lost` names. Decided from the surveys of all survivors, so that a node whose
//! view lags resolves the same names as the others.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use pushonce_core::NodeId;

use super::plan::PlanError;
use super::survey::{Survey, SurveyReplica};

/// Resolves node ids such as `n3` and names of members.
///
/// # Errors
/// [`PlanError::UnknownNode`] when no node has the name, [`PlanError::AmbiguousName`] when two have it.
pub(super) fn resolve(
    surveys: &BTreeMap<NodeId, Survey>,
    names: &[String],
) -> Result<BTreeSet<NodeId>, PlanError> {
    let mut newest_first: Vec<&Survey> = surveys.values().collect();
    newest_first.sort_by_key(|survey| {
        let SurveyReplica { last_term, last_index: last, .. } = survey.control;
        Reverse((last_term, last))
    });
    names.iter().map(|name| resolve_node(&newest_first, name)).collect()
}

fn resolve_node(newest_first: &[&Survey], name: &str) -> Result<NodeId, PlanError> {
    let by_id = name.strip_prefix('n').and_then(|id| id.parse().ok()).map(NodeId);
    let by_id = by_id.filter(|&id| newest_first.iter().any(|survey| knows(survey, id)));
    // A name may pass to another member: the newest survey that contains it counts.
    let by_name = newest_first.iter().find_map(|survey| find_by_name(survey, name));
    match (by_id, by_name) {
        (Some(id), Some(other)) if id != other => {
            Err(PlanError::AmbiguousName { name: name.to_owned(), id, other_node: other })
        }
        (Some(id), _) | (None, Some(id)) => Ok(id),
        (None, None) => {
            let known = newest_first.first().map(|survey| member_list(survey)).unwrap_or_default();
            Err(PlanError::UnknownNode { name: name.to_owned(), known_nodes: known })
        }
    }
}

fn find_by_name(survey: &Survey, name: &str) -> Option<NodeId> {
    survey.members.iter().find(|(_, member)| member.name == name).map(|(&id, _)| id)
}

/// Whether the survey contains the node, as a member or as a voter. Another survivor may have removed it
/// from the members already, while it still votes in shards that are not recreated yet.
fn knows(survey: &Survey, node: NodeId) -> bool {
    let replicas = survey.shards.values().chain([&survey.control]);
    let votes = || replicas.flat_map(|replica| &replica.voters).any(|set| set.contains(&node));
    survey.members.contains_key(&node) || votes()
}

fn member_list(survey: &Survey) -> String {
    let known = survey.members.iter().map(|(id, member)| format!("{id} ({})", member.name));
    known.collect::<Vec<_>>().join(", ")
}
