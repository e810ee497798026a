//! Bugs for the tests of the tests: the proof must catch them. In no build that anybody uses.

fn is_planted(bug: &str) -> bool {
    std::env::var("PUSHONCE_PLANTED_BUG").as_deref() == Ok(bug)
}

/// `rollback-unnoticed`: a log that was put back to an earlier state takes part.
pub(crate) fn ignores_rollback() -> bool {
    is_planted("rollback-unnoticed")
}

/// `no-hold`: a replica elects another leader while the one that it heard may have its lease.
pub(crate) fn skips_vote_hold() -> bool {
    is_planted("no-hold")
}

/// `transfer_leadership-begins-anew`: an offer of a snapshot drops the pieces that came before.
pub(crate) fn drops_received_pieces() -> bool {
    is_planted("transfer-begins-anew")
}

/// `inconsistent-log-taken`: nobody checks whether the parts of a log fit together.
pub(crate) fn accepts_inconsistent_log() -> bool {
    is_planted("unfit-log-taken")
}

/// `piece_read_error-skipped`: an entry that cannot be read counts as applied.
pub(crate) fn skips_unreadable() -> bool {
    is_planted("unreadable-skipped")
}

/// `wait_recovered-in-old-terms`: a group that is begun anew goes on where its last copy ended.
pub(crate) fn reuses_terms_after_recovery() -> bool {
    is_planted("recovered-in-old-terms")
}

/// `flip_vote-over-no-link`: a candidate asks at once, also where its link is still being dialled.
pub(crate) fn skips_link_wait() -> bool {
    is_planted("vote-over-no-link")
}

/// `full-disk-hides-past`: a replica without room refuses also what was placed under earlier leaders.
pub(crate) fn rejects_earlier_terms() -> bool {
    is_planted("full-disk-hides-past")
}

/// `commit-mark-volatile`: the commit mark of the control group is on disk a while after it is acted on.
/// Part of `old-settings-win` too: a restarted node shows an older view of the cluster.
pub(crate) fn defers_commit_mark() -> bool {
    is_planted("commit-mark-volatile") || is_planted("old-settings-win")
}

/// `handshake-unchecked`: peers exchange frames whatever versions they name.
pub(crate) fn skips_version_check() -> bool {
    is_planted("greeting-unchecked")
}

/// `destroys-taken-back`: nobody looks whether a newer membership names the replica again.
pub(crate) fn destroys_readded_replicas() -> bool {
    is_planted("destroys-taken-back")
}

/// `left-replica-votes`: a replica that was destroyed and comes back votes as if it were a new one.
pub(crate) fn forgets_removal() -> bool {
    is_planted("left-replica-votes")
}

/// `hands-over-unprobed`: a leader counts on what its successor wrote before it restarted.
pub(crate) fn skips_successor_probe() -> bool {
    is_planted("hands-over-unprobed")
}
