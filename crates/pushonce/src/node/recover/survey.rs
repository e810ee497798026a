//! What a survivor has: the same facts of every survivor lead each of them to the same plan.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::Context as _;
use pushonce_consensus::{GroupId, OfflineGroup, OfflineStore};
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
    pub(crate) members: BTreeMap<NodeId, SurveyMember>,
    /// How many shards the cluster has. The number is permanent.
    pub(crate) shard_count: u16,
    /// How often groups were begun anew on this node.
    pub(crate) recoveries: u64,
    /// Its replica of the control group.
    pub(crate) control: SurveyReplica,
    /// Its replicas of shards, by id.
    pub(crate) shards: BTreeMap<u16, SurveyReplica>,
    /// Replicas of shards that are here and cannot be read, by id, and why. They count as none.
    pub(crate) unreadable: BTreeMap<u16, String>,
}

/// A member of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SurveyMember {
    /// The operator's name for it.
    pub(crate) name: String,
    /// Whether it may have replicas.
    pub(crate) has_core_role: bool,
    /// Whether it is neither joining nor draining.
    pub(crate) is_active: bool,
}

/// The replica of a group on a survivor.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SurveyReplica {
    /// The configurations that its last entry about that names: one, or two while the voters change.
    pub(crate) voters: Vec<BTreeSet<NodeId>>,
    /// The highest term: of its vote, or of its last entry.
    pub(crate) term: u64,
    /// The term of its last entry.
    pub(crate) last_term: u64,
    /// The index of its last entry.
    pub(crate) last_index: u64,
    /// It had lost something that it had acknowledged, and has not got all of it back.
    pub(crate) is_incomplete: bool,
    /// What it stores; 0 for the control group.
    pub(crate) topic_count: usize,
    /// See `topics`.
    pub(crate) message_count: usize,
}

impl Survey {
    /// Reads every group of a node, on which groups were begun anew `recoveries` times. Changes nothing.
    ///
    /// # Errors
    /// When the store cannot be read at all.
    pub(super) fn from_offline(
        offline: &mut OfflineStore,
        identity: &Identity,
        view: &ClusterView,
        control: &OfflineGroup,
        recoveries: u64,
    ) -> anyhow::Result<Survey> {
        let mut shards = BTreeMap::new();
        let mut unreadable = BTreeMap::new();
        for shard in offline.groups()?.into_iter().filter_map(GroupId::as_shard) {
            match pushonce_shard::replay(offline, shard) {
                Ok((state, found)) => {
                    let (topics, messages) = state.count_topics_and_messages();
                    shards.insert(
                        shard.0,
                        SurveyReplica {
                            topic_count: topics,
                            message_count: messages,
                            ..SurveyReplica::from_found(&found)
                        },
                    );
                }
                // One damaged replica must not keep all the others from being recovered.
                Err(error) => {
                    unreadable.insert(shard.0, error.to_string());
                }
            }
        }
        let members = view.members.values().map(|member| {
            let active = member.state == MemberState::Active;
            (
                member.id,
                SurveyMember {
                    name: member.name.clone(),
                    has_core_role: member.roles.core,
                    is_active: active,
                },
            )
        });
        Ok(Survey {
            cluster: identity.cluster.to_string(),
            node: identity.node,
            members: members.collect(),
            shard_count: view.shards.get(),
            recoveries,
            control: SurveyReplica::from_found(control),
            shards,
            unreadable,
        })
    }

    /// Reads what `pushonce --json own_cluster recover` printed on a survivor.
    ///
    /// # Errors
    /// When the file cannot be read, or is something else.
    pub(super) fn read_file(path: &Path) -> anyhow::Result<Survey> {
        #[derive(Deserialize)]
        struct RecoverOutput {
            survey: Survey,
        }
        let text =
            std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        let output: RecoverOutput = serde_json::from_slice(&text).with_context(|| {
            format!("{} is not what `pushonce --json cluster recover` prints", path.display())
        })?;
        Ok(output.survey)
    }
}

impl SurveyReplica {
    fn from_found(found: &OfflineGroup) -> SurveyReplica {
        let OfflineGroup { voters, last_index: last, last_term, term, recovering } = found;
        SurveyReplica {
            voters: voters.clone(),
            term: term.0,
            last_term: last_term.0,
            last_index: *last,
            is_incomplete: *recovering,
            topic_count: 0,
            message_count: 0,
        }
    }
}
