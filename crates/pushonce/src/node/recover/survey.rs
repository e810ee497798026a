//! Surveys of survivors: the same facts of every survivor lead each of them to the same plan.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::Context as _;
use pushonce_consensus::{GroupId, OfflineGroup, OfflineStore};
use pushonce_core::{ClusterView, MemberState, NodeId};
use serde::{Deserialize, Serialize};

use crate::node::identity::Identity;

/// The contents of the data directory of a stopped node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Survey {
    /// The cluster.
    pub(crate) cluster: String,
    /// The surveyed node.
    pub(crate) node: NodeId,
    /// The members, as the node knows them.
    pub(crate) members: BTreeMap<NodeId, SurveyMember>,
    /// How many shards the cluster has. The number is permanent.
    pub(crate) shard_count: u16,
    /// Number of recoveries that were done on this node.
    pub(crate) recoveries: u64,
    /// The replica of the control group.
    pub(crate) control: SurveyReplica,
    /// The replicas of shards, by shard id.
    pub(crate) shards: BTreeMap<u16, SurveyReplica>,
    /// Replicas of shards that cannot be read, by shard id, with the reason. They count as missing.
    pub(crate) unreadable: BTreeMap<u16, String>,
}

/// A member of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SurveyMember {
    /// The operator's name for it.
    pub(crate) name: String,
    /// Whether the member may hold replicas.
    pub(crate) has_core_role: bool,
    /// Whether it is neither joining nor draining.
    pub(crate) is_active: bool,
}

/// The replica of a group on a survivor.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SurveyReplica {
    /// The voter sets of its last membership entry: one, or two while the voters change.
    pub(crate) voters: Vec<BTreeSet<NodeId>>,
    /// The highest term of its vote and of its last entry.
    pub(crate) term: u64,
    /// The term of its last entry.
    pub(crate) last_term: u64,
    /// The index of its last entry.
    pub(crate) last_index: u64,
    /// Whether it has lost entries that it had acknowledged and has not got all of them back.
    pub(crate) is_incomplete: bool,
    /// The number of stored topics; 0 for the control group.
    pub(crate) topic_count: usize,
    /// The number of stored messages; 0 for the control group.
    pub(crate) message_count: usize,
}

impl Survey {
    /// Reads every group of a node on which `recoveries` recoveries were done. Changes nothing.
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
                // One damaged replica must not prevent the recovery of the others.
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

    /// Reads the output of `pushonce --json cluster recover` on a survivor.
    ///
    /// # Errors
    /// When the file cannot be read, or has other content.
    pub(super) fn read_file(path: &Path) -> anyhow::Result<Survey> {
        #[derive(Deserialize)]
        struct RecoverOutput {
            survey: Survey,
        }
        let text =
            std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        let output: RecoverOutput = serde_json::from_slice(&text).with_context(|| {
            format!("{} is not the output of `pushonce --json cluster recover`", path.display())
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
