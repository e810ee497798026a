//! Bugs for the tests of the tests: the proof must catch them. In no build that anybody uses.

fn is_planted(bug: &str) -> bool {
    std::env::var("PUSHONCE_PLANTED_BUG").as_deref() == Ok(bug)
}

/// `serve-creates-cluster`: a node without an identity and without `--join` creates a cluster.
pub(super) fn creates_cluster() -> bool {
    is_planted("serve-creates-cluster")
}

/// `any-answer-counts`: the refusal of any node that listens at a peer's address is the cluster's.
pub(super) fn any_answer_counts() -> bool {
    is_planted("any-answer-counts")
}

/// `join-addresses-ignored`: a member asks nobody but the addresses of its view.
pub(super) fn ignores_join() -> bool {
    is_planted("join-addresses-ignored")
}

/// `old-settings-win`: shards begin with whatever the disk had, and keep it for a while: as long as a cut
/// from the control group may last.
pub(super) fn begins_with_old_settings() -> bool {
    is_planted("old-settings-win")
}
