//! What a survivor has: the same facts of every survivor lead each of them to the same plan.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::Context as _;
use pushonce_consensus::{Found, GroupId, Offline};
use pushonce_core::{ClusterView, MemberState, NodeId};
use serde::{Deserialize, Serialize};

use crate::node::identity::Identity;

/// What is in the data directory of a node that does not run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Survey {
    /// The cluster.
    pub(crate) cluster: String,
    /// The node.
    pub(crate) node: NodeId,
    /// The members, as the node knows them.
    pub(crate) members: BTreeMap<NodeId, Member>,
    /// Where the replicas of each shard should be, by shard.
    pub(crate) table: Vec<Vec<NodeId>>,
    /// Its replica of the control group.
    pub(crate) control: Replica,
    /// Its replicas of shards, by id.
    pub(crate) shards: BTreeMap<u16, Replica>,
}

/// A member of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Member {
    /// The operator's name for it.
    pub(crate) name: String,
    /// Whether it may have replicas.
    pub(crate) core: bool,
    /// Whether it is neither joining nor draining.
    pub(crate) active: bool,
}

/// The replica of a group on a survivor.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Replica {
    /// Who votes, as its last entry about that says.
    pub(crate) voters: BTreeSet<NodeId>,
    /// The term of its last entry.
    pub(crate) last_term: u64,
    /// The index of its last entry.
    pub(crate) last: u64,
    /// It had lost something that it had acknowledged, and has not got all of it back.
    pub(crate) incomplete: bool,
    /// What it stores; 0 for the control group.
    pub(crate) topics: usize,
    /// See `topics`.
    pub(crate) messages: usize,
}

impl Survey {
    /// Reads every group of a node. Changes nothing.
    ///
    /// # Errors
    /// When a replica cannot be read.
    pub(super) fn of(
        offline: &mut Offline,
        identity: &Identity,
        view: &ClusterView,
        control: &Found,
    ) -> anyhow::Result<Survey> {
        let mut shards = BTreeMap::new();
        for shard in offline.groups()?.into_iter().filter_map(GroupId::as_shard) {
            let (state, found) = pushonce_shard::replay(offline, shard)?;
            let (topics, messages) = state.size();
            shards.insert(shard.0, Replica { topics, messages, ..Replica::of(&found) });
        }
        let members = view.members.values().map(|member| {
            let active = member.state == MemberState::Active;
            (member.id, Member { name: member.name.clone(), core: member.roles.core, active })
        });
        Ok(Survey {
            cluster: identity.cluster.to_string(),
            node: identity.node,
            members: members.collect(),
            table: view.placement.replicas.clone(),
            control: Replica::of(control),
            shards,
        })
    }

    /// Reads what `pushonce --json cluster recover` printed on a survivor.
    ///
    /// # Errors
    /// When the file cannot be read, or is something else.
    pub(super) fn read(path: &Path) -> anyhow::Result<Survey> {
        #[derive(Deserialize)]
        struct Printed {
            survey: Survey,
        }
        let text =
            std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        let printed: Printed = serde_json::from_slice(&text).with_context(|| {
            format!("{} is not what `pushonce --json cluster recover` prints", path.display())
        })?;
        Ok(printed.survey)
    }

    /// The id of a member: `n3`, or its name.
    ///
    /// # Errors
    /// When nobody is called that, or two are.
    pub(super) fn meant(&self, name: &str) -> anyhow::Result<NodeId> {
        let by_id = name.strip_prefix('n').and_then(|id| id.parse().ok()).map(NodeId);
        let by_id = by_id.filter(|id| self.members.contains_key(id));
        let by_name =
            self.members.iter().find(|(_, member)| member.name == name).map(|(&id, _)| id);
        match (by_id, by_name) {
            (Some(id), Some(other)) if id != other => anyhow::bail!(
                "{name} is the id of one member and the name of {other}: say {other} or {id}"
            ),
            (Some(id), _) | (None, Some(id)) => Ok(id),
            (None, None) => {
                let known: Vec<_> = self
                    .members
                    .iter()
                    .map(|(id, member)| format!("{id} ({})", member.name))
                    .collect();
                anyhow::bail!("no member is called {name:?}; there are {}", known.join(", "))
            }
        }
    }
}

impl Replica {
    fn of(found: &Found) -> Replica {
        let Found { voters, last, last_term, term: _, recovering } = found;
        Replica {
            voters: voters.clone(),
            last_term: last_term.0,
            last: *last,
            incomplete: *recovering,
            topics: 0,
            messages: 0,
        }
    }
}
