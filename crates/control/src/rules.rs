//! The constants that determine how a command is applied. They belong to the cluster version: two replicas
//! that applied one command with different constants would have different states.

use pushonce_core::ClusterVersion;

/// One set of constants.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Rules {
    /// Maximum number of members. Every node holds the view and a link to each other node. A thousand is
    /// more than any test used, and it keeps nodes that join in a loop from filling every disk.
    pub(crate) members_max: usize,
    /// Maximum number of members that have joined and are not active yet. Members become active within seconds,
    /// and each that never comes costs every node a link that it dials in vain.
    pub(crate) joining_max: usize,
    /// Maximum number of namespaces with their own settings. Every node holds all namespaces and receives
    /// them with every change of the cluster: some 100 KiB.
    pub(crate) namespaces_max: usize,
    /// Maximum number of ids that certificates may skip and that stay available. An operator numbers nodes from
    /// 1, so more than the number of members is a mistake.
    pub(crate) unused_ids_max: usize,
    /// Maximum number of join tokens that are not expired.
    pub(crate) join_tokens_max: usize,
    /// Maximum validity of a join token: 30 days.
    pub(crate) join_token_validity_max_ms: u64,
}

const FIRST: Rules = Rules {
    members_max: 1_000,
    joining_max: 32,
    namespaces_max: 1_000,
    unused_ids_max: 1_024,
    join_tokens_max: 100,
    join_token_validity_max_ms: 30 * 86_400_000,
};

impl Rules {
    /// The rules of a version. All versions share one set so far.
    pub(crate) fn for_version(_version: ClusterVersion) -> &'static Rules {
        &FIRST
    }
}
