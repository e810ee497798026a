//! The constants that take part in applying a command. They belong to the cluster version: two replicas
//! that applied one command with different constants would have different states.

use pushonce_core::ClusterVersion;

/// One set of constants.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Rules {
    /// Every node holds the view and a link to each other: a thousand is more than was ever tried, and
    /// keeps nodes that join in a loop from filling every disk.
    pub(crate) members_max: usize,
    /// Every node holds all namespaces, and gets them all with every change of the cluster: some
    /// 100 KiB.
    pub(crate) namespaces_max: usize,
}

const FIRST: Rules = Rules { members_max: 1_000, namespaces_max: 1_000 };

impl Rules {
    /// The rules of a version. There is one set so far.
    pub(crate) fn of(_version: ClusterVersion) -> &'static Rules {
        &FIRST
    }
}
