//! Bugs for the tests of the tests: the proof must catch them. In no build that anybody uses.

fn is_planted(bug: &str) -> bool {
    std::env::var("PUSHONCE_PLANTED_BUG").as_deref() == Ok(bug)
}

/// `serve-creates-cluster`: a node without an identity and without `--join` creates a cluster.
pub(super) fn serve_creates_cluster() -> bool {
    is_planted("serve-creates-cluster")
}

/// `any-answer-counts`: the refusal of any node that listens at a peer's address is the cluster's.
pub(super) fn any_answer_counts() -> bool {
    is_planted("any-answer-counts")
}

/// `join-addresses-ignored`: a member asks nobody but the addresses of its view.
pub(super) fn join_addresses_ignored() -> bool {
    is_planted("join-addresses-ignored")
}

/// `old-settings-win`: shards begin with whatever the disk had, and keep it for a while: as long as a cut
/// from the control group may last.
pub(super) fn old_settings_win() -> bool {
    is_planted("old-settings-win")
}

/// `ready-without-leader`: a group without a leader keeps no node from being ready.
pub(super) fn ready_without_leader() -> bool {
    is_planted("ready-without-leader")
}

/// `dead-shard-blocks-all`: a shard whose copies died makes every node unready.
pub(super) fn dead_shard_blocks_all() -> bool {
    is_planted("dead-shard-blocks-all")
}

/// `foreign_callers-callers-ignored`: a node goes on where members of another cluster dial its address.
pub(super) fn foreign_callers_ignored() -> bool {
    is_planted("foreign-callers-ignored")
}

/// `count_stored-uncounted`: a namespace goes into memory without a look at what it has stored.
pub(super) fn stored_uncounted() -> bool {
    is_planted("stored-uncounted")
}

/// `times-guessed`: a node whose consensus times are lost takes the default ones.
pub(super) fn times_guessed() -> bool {
    is_planted("times-guessed")
}
