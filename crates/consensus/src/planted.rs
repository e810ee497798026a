//! Bugs for the tests of the tests: the proof must catch them. In no build that anybody uses.

fn is_planted(bug: &str) -> bool {
    std::env::var("PUSHONCE_PLANTED_BUG").as_deref() == Ok(bug)
}

/// `rollback-unnoticed`: a log that was put back to an earlier state takes part.
pub(crate) fn ignores_rollback() -> bool {
    is_planted("rollback-unnoticed")
}

/// `no-hold`: a replica elects another leader while the one that it heard may have its lease.
pub(crate) fn holds_to_nobody() -> bool {
    is_planted("no-hold")
}

/// `transfer-begins-anew`: an offer of a snapshot drops the pieces that came before.
pub(crate) fn drops_pieces() -> bool {
    is_planted("transfer-begins-anew")
}

/// `unfit-log-taken`: nobody checks whether the parts of a log fit together.
pub(crate) fn takes_unfit_log() -> bool {
    is_planted("unfit-log-taken")
}

/// `unreadable-skipped`: an entry that cannot be read counts as applied.
pub(crate) fn skips_unreadable() -> bool {
    is_planted("unreadable-skipped")
}

/// `recovered-in-old-terms`: a group that is begun anew goes on where its last copy ended.
pub(crate) fn keeps_terms() -> bool {
    is_planted("recovered-in-old-terms")
}

/// `vote-over-no-link`: a candidate asks at once, also where its link is still being dialled.
pub(crate) fn waits_for_no_link() -> bool {
    is_planted("vote-over-no-link")
}
